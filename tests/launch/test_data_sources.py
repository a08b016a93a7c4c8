import json
from pathlib import Path

import pytest

from data_tools.sample import read_samples
from data_tools.splits import SplitError
from launch.data import _collect, _refuse_leaks
from launch.recipe import RecipeError
from launch.run import open_run


def write(path: Path, content) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def moments(*videos: str) -> dict:
    return {video: {"duration": 9.0, "timestamps": [[1, 2]], "sentences": ["a door opens"]} for video in videos}


@pytest.fixture
def files(tmp_path):
    track = {"path": "GOT-10k_Train_000001", "object": "ball", "gt": [[0, 0, 0.5, 0.5], [0, 0, 0.4, 0.4]]}
    return {
        "train": write(
            tmp_path / "train.json", moments("AB", "CD") | {"EF": {"timestamps": [[2, 1]], "sentences": ["x"]}}
        ),
        "test": write(tmp_path / "test.json", moments("GH")),
        "got": write(tmp_path / "got.json", [track]),
    }


def overrides(files: dict, train: str) -> list[str]:
    rl = f"{{source: charades_sta, path: {files[train]}, folder: charades}}, {{source: got10k, path: {files['got']}}}"
    test = f"{{source: charades_sta, path: {files['test']}, folder: charades}}"
    return [
        "experiment=camreasoner",
        "data.media_root=/videos",
        "data.files.sft=null",
        f"data.files.rl=[{rl}]",
        f"data.files.test={test}",
    ]


def test_a_recipe_names_published_files(tiny_recipe, files):
    run = open_run(tiny_recipe(*overrides(files, "train")))
    run.data.mkdir(parents=True)
    _collect(run)
    _refuse_leaks(run)
    assert [(s.video, s.split, s.source) for s in read_samples(run.data / "rl.jsonl")] == [
        ("charades/AB.mp4", "rl", "charades_sta"),
        ("charades/CD.mp4", "rl", "charades_sta"),
        ("GOT-10k_Train_000001.mp4", "rl", "got10k"),
    ]
    assert [s.split for s in read_samples(run.data / "test.jsonl")] == ["test"]
    (rejected,) = (json.loads(line) for line in (run.data / "rl.quarantine.jsonl").read_text().splitlines())
    assert (rejected["record"], rejected["field"]) == ("EF-0", "duration")


def test_training_on_test_clips_is_refused(tiny_recipe, files):
    run = open_run(tiny_recipe(*overrides(files, "test")))
    run.data.mkdir(parents=True)
    _collect(run)
    with pytest.raises(SplitError, match=r"1 samples of rl show clips of test, charades/GH.mp4 first"):
        _refuse_leaks(run)


def test_camerabench_leaves_only_its_files_to_the_user(tiny_recipe):
    with pytest.raises(RecipeError) as error:
        tiny_recipe("experiment=camreasoner", "data=camerabench")
    keys = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert keys == [f"data.{key}=..." for key in ("files.rl.path", "files.sft.path", "files.test.path", "media_root")]
