import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_tools.labels import read_split, read_wanted
from data_tools.prepare import PrepareError
from data_tools.rendered.scene import write_clip
from data_tools.sample import SampleError, read_samples
from data_tools.splits import SplitError
from evaluation.benchmarks import BENCHMARKS
from launch.data import prepare
from launch.engines.llamafactory import config as llamafactory
from launch.errors import LaunchError
from launch.planning.sizes import visual_tokens
from launch.recipe import RecipeError
from launch.run import run_of
from launch.samples.labels import label_files, wanted


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
    labels = label_files(tiny_recipe(*overrides(files, "train")))
    assert list(labels) == ["rl", "test"]
    bad = []
    assert [(s.video, s.split, s.source) for s in read_split(labels["rl"], "rl", bad.append)] == [
        ("charades/AB.mp4", "rl", "charades_sta"),
        ("charades/CD.mp4", "rl", "charades_sta"),
        ("GOT-10k_Train_000001.mp4", "rl", "got10k"),
    ]
    assert [s.split for s in read_split(labels["test"], "test")] == ["test"]
    assert [(rejected.record, rejected.field) for rejected in bad] == [("EF-0", "spans")]
    with pytest.raises(SampleError, match=r"got.json: id: duplicate id 'GOT-10k_Train_000001' among the files of rl"):
        list(read_split([labels["rl"][1], labels["rl"][1]], "rl"))


def test_files_that_are_missing_are_named(tiny_recipe, files):
    with pytest.raises(LaunchError, match=r"data.files.rl: /gone.jsonl is missing"):
        label_files(tiny_recipe(*overrides(files, "train"), "data.files.rl=/gone.jsonl"))
    with pytest.raises(LaunchError, match=r"data.files.training: a split is one of sft, rl, val, test"):
        label_files(tiny_recipe(*overrides(files, "train"), "+data.files.training=/gone.jsonl"))


def test_training_on_test_clips_is_refused(tiny_recipe, files):
    run = run_of(tiny_recipe(*overrides(files, "test")))
    with pytest.raises(SplitError, match=r"1 samples of rl show clips of test, charades/GH.mp4 first"):
        prepare(run)  # before any video is looked at


def test_records_that_are_not_samples_go_to_the_split_s_quarantine(tiny_recipe, files):
    run = run_of(tiny_recipe(*overrides(files, "train")))
    with pytest.raises(PrepareError, match="none of the videos of .*rl.jsonl can be used"):
        prepare(run)
    (rejected,) = (json.loads(line) for line in (run.data / "rl.quarantine.jsonl").read_text().splitlines())
    assert (rejected["record"], rejected["field"]) == ("EF-0", "spans")


def test_absolute_paths_are_taken_below_the_media_root_of_the_recipe(tiny_recipe, tmp_path):
    path = write(tmp_path / "mine.json", [{"instruction": "Does it pan?", "output": "Yes", "videos": ["/m/x/a.mp4"]}])
    files = f"data.files={{sft: null, rl: {{source: alpaca, path: {path}}}, test: null}}"
    read = read_split(label_files(tiny_recipe("data=files", "data.media_root=/m/x", files))["rl"], "rl")
    assert [sample.video for sample in read] == ["a.mp4"]
    other = label_files(tiny_recipe("data=files", "data.media_root=/n", files))
    with pytest.raises(SampleError, match="holds no samples; record 1 is left out, video: '/m/x/a.mp4' is an absolute"):
        list(read_split(other["rl"], "rl"))


@pytest.mark.parametrize("study", ["camreasoner", "videop2r", "videochat_r1"])
def test_a_study_on_published_files_leaves_only_their_folders_to_the_user(tiny_recipe, study):
    published = [f"experiment={study}", f"data={study}_published", f"eval={study}_published"]
    with pytest.raises(RecipeError) as error:
        tiny_recipe(*published)
    keys = [line.strip() for line in str(error.value).splitlines()[1:]]
    judge = ["judge.model=..."] if study == "videop2r" else []
    assert keys == ["data.labels=...", "data.media_root=...", "eval.root=...", *judge]
    given = ["data.labels=/l", "data.media_root=/m", "eval.root=/b", *(["judge.model=j"] if judge else [])]
    recipe = tiny_recipe(*published, *given)
    for name, chosen in recipe.eval.sets.items():
        assert chosen.benchmark in BENCHMARKS and chosen.files.startswith(("/l/", "/b/")), name
    assert all(path.startswith("/l/") for paths in recipe.data.paths().values() for path in paths)


def test_videop2r_takes_the_problems_about_images_too(tiny_recipe, tmp_path):
    """More than half of Video-R1's; scaled as its own loader does."""
    problem = {"problem": "What is its peak?", "problem_type": "numerical", "solution": "<answer>4</answer>"}
    shown = [{"path": "./Chart/a.png", "data_type": "image"}, {"path": "./CLEVRER/b.mp4", "data_type": "video"}]
    path = write(tmp_path / "problems.json", [problem | one for one in shown])
    given = [f"data.files={{sft: null, rl: {{source: video_r1, path: {path}}}, test: null}}", "judge.model=m"]
    recipe = tiny_recipe("experiment=videop2r", "data.media_root=/m", *given)
    rejected: list = []
    kept = [sample for _, sample in read_wanted(label_files(recipe)["rl"], "rl", wanted(recipe), rejected.append)]
    assert [sample.media for sample in kept] == [["Chart/a.png"], ["CLEVRER/b.mp4"]] and not rejected
    assert (recipe.media.images.max_pixels, recipe.media.images.min_pixels) == (256 * 28 * 28, 4 * 28 * 28)


def sft_file(tmp_path: Path, chains: list[str | None], task: str = "binary") -> str:
    fields = {"video": "a.mp4", "source": "mine", "split": "sft", "question": "Does it pan?", "task": task}
    answers = {"binary": {"options": ["No", "Yes"], "answer": "B"}, "ocr": {"answer": "STOP"}}[task]
    lines = [json.dumps({"id": str(n), "chain": chain, **fields, **answers}) for n, chain in enumerate(chains)]
    path = tmp_path / f"{task}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


RIGHT = "<observation>o</observation><think>t</think><answer>Yes</answer>"


def own(sft: str) -> list[str]:
    return ["experiment=camreasoner", "data.media_root=/videos", f"data.files={{sft: '{sft}', rl: null, test: null}}"]


def test_chains_of_another_form_or_answer_are_counted_and_end_the_stage(tiny_recipe, tmp_path, capsys):
    path = sft_file(tmp_path, [RIGHT, RIGHT.replace("Yes", "No"), RIGHT.replace("think", "thought"), None])
    run = run_of(tiny_recipe(*own(path)))
    with pytest.raises(
        PrepareError, match=r"3 of 4 chains of sft have another form or answer.*data.max_quarantined=0.05"
    ):
        prepare(run)
    rejected = [json.loads(line) for line in (run.data / "sft.quarantine.jsonl").read_text().splitlines()]
    assert [(each["file"], each["record"], each["field"]) for each in rejected] == [(path, n, "chain") for n in "123"]
    assert "its answer is wrong" in rejected[0]["reason"] and "missing <think>" in rejected[1]["reason"]
    assert rejected[2]["reason"] == "SFT needs one"
    assert "4 chains = 1 + 3 that teach another form or answer" in capsys.readouterr().out.replace("\n", " ")


def test_a_run_takes_the_tasks_and_the_form_of_chains_that_it_asks_for(tiny_recipe, tmp_path):
    mixed = Path(sft_file(tmp_path, [RIGHT, RIGHT]))
    mixed.write_text(mixed.read_text() + Path(sft_file(tmp_path, ["x"], "ocr")).read_text().replace('"0"', '"2"'))

    def samples(*overrides: str):
        recipe = tiny_recipe(*own(str(mixed)), *overrides)
        return [sample for _, sample in read_wanted(label_files(recipe)["sft"], "sft", wanted(recipe))]

    assert [sample.id for sample in samples("data.tasks.sft=[binary]")] == ["0", "1"]
    thoughts = samples("data.tasks.sft=[binary]", "data.chains=think_answer", "reward.schema=think_answer")
    assert thoughts[0].chain == "<think>o t</think><answer>Yes</answer>"
    gold = samples("data.chains=gold", "reward.schema=answer")
    assert [sample.chain for sample in gold] == ["<answer>B</answer>"] * 2 + ["<answer>STOP</answer>"]
    with pytest.raises(
        SampleError, match=r"binary.jsonl: none of its samples has a task of data.tasks.sft=\['tracking'\]"
    ):
        samples("data.tasks.sft=[tracking]")


def test_a_sample_that_cannot_fill_the_prompt_is_named(tiny_recipe, files, tmp_path):
    path = sft_file(tmp_path, [RIGHT])
    recipe = tiny_recipe(*own(path), "prompt.questions.default='{question} {event}'")
    with pytest.raises(SampleError, match=r"binary.jsonl: record '0': extras.event: is missing, and the prompt asks"):
        prepare(run_of(recipe))
    published = tiny_recipe(*overrides(files, "train"), "prompt=videochat_r1_published", "reward=videochat_r1")
    _, first = next(read_wanted(label_files(published)["rl"], "rl", wanted(published)))
    assert 'the event "a door opens" in' in published.form.messages(first)[0]["content"]


def test_rendered_chains_in_another_form_than_the_reward_reads_are_refused(tiny_recipe):
    few = ["data.rendered.sft={clips: 2, binary: 2, choice: 1}"]
    few += [f"data.rendered.{split}={{clips: 2, binary: 2}}" for split in ("rl", "test")]
    with pytest.raises(PrepareError, match="rendered sft-.*: chain: does not have the form think_answer.*data.chains"):
        prepare(run_of(tiny_recipe(*few, "reward=videochat_r1")))
    run = run_of(
        tiny_recipe(*few, "reward=videochat_r1", "data.chains=think_answer", "data.tasks.sft=[choice]", "name=b")
    )
    prepare(run)
    (sample,) = read_samples(run.paths.samples("sft"))
    assert sample.task == "choice" and sample.chain.startswith("<think>") and "<observation>" not in sample.chain
    (row,) = json.loads((run.paths.llamafactory_data / "sft.json").read_text())
    assert row["messages"][-1]["content"] == sample.chain


def test_two_files_of_one_stem_give_ids_of_their_own(tiny_recipe, tmp_path, files):
    problem = {"problem": "How many?", "problem_type": "numerical", "solution": "<answer>3</answer>", "path": "a.mp4"}
    paths = [tmp_path / name / "train.json" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        write(path, [problem, problem])
    each = ", ".join(f"{{source: video_r1, path: {path}}}" for path in paths)
    folder = f"{{source: video_r1, path: {tmp_path / 'both'}}}"
    (tmp_path / "both").mkdir()
    for path in paths:
        path.parent.rename(tmp_path / "both" / path.parent.name)
        path.parent.symlink_to(tmp_path / "both" / path.parent.name)
    for given in (each, folder):
        labels = label_files(tiny_recipe(*overrides(files, "train"), f"data.files.rl=[{given}]"))["rl"]
        assert [sample.id for sample in read_split(labels, "rl")] == [
            "a-train-1",
            "a-train-2",
            "b-train-1",
            "b-train-2",
        ]


def test_the_first_valid_moment_of_each_video_is_taken_where_a_source_is_to_give_one(tiny_recipe, tmp_path, files):
    several = {"AB": {"duration": 9.0, "timestamps": [[4, 2], [1, 2], [3, 5]], "sentences": ["a", "b", "c"]}}
    files["train"] = write(tmp_path / "several.json", several | moments("CD"))
    one = tiny_recipe(*overrides(files, "train"), "data.one_per_video=[charades_sta]")
    bad = []
    taken = list(read_split(label_files(one)["rl"], "rl", bad.append))
    assert [sample.id for sample in taken] == ["AB-1", "CD-0", "GOT-10k_Train_000001"]
    assert [rejected.record for rejected in bad] == ["AB-0"]
    every = label_files(tiny_recipe(*overrides(files, "train")))["rl"]
    assert [sample.id for sample in read_split(every, "rl")][:2] == ["AB-1", "AB-2"]


def test_a_setting_of_a_source_that_no_file_has_is_refused(tiny_recipe, files):
    given = overrides(files, "train")
    with pytest.raises(RecipeError, match=r"one_per_video: activitynet: no file of data.files has this source"):
        tiny_recipe(*given, "data.one_per_video=[activitynet]")
    with pytest.raises(RecipeError, match=r"media.nextgqa: no file of data.files has this source"):
        tiny_recipe(*given, "+data.media.nextgqa=videochat_r1_tracking")
    with pytest.raises(RecipeError, match=r"data.media.got10k=eight: no such file of recipes/media"):
        tiny_recipe(*given, "+data.media.got10k=eight")
    with pytest.raises(RecipeError, match=r"media.charades_sta: of the test split, too: give its questions a set"):
        tiny_recipe(*given, "+data.media.charades_sta=videochat_r1_tracking")


def test_a_source_in_its_own_media_budget(tiny_recipe, tmp_path, files):
    """Eight large pictures of a sequence for tracking beside many small ones of a moment, in one run."""
    (tmp_path / "videos" / "charades").mkdir(parents=True)
    for name in ("charades/AB", "charades/CD", "charades/GH", "GOT-10k_Train_000001"):
        noise = np.random.default_rng([*name.encode()]).integers(0, 255, (48, 120, 160, 3), np.uint8)
        write_clip(tmp_path / "videos" / f"{name}.mp4", noise, fps=8.0)
    eight = "{fps: 2.0, max_frames: 8, min_frames: 8, max_pixels: 12544, min_pixels: 784}"
    run = run_of(tiny_recipe(*overrides(files, "train"), f"data.media_root={tmp_path / 'videos'}", "media=tiny"))
    other = run_of(
        tiny_recipe(
            *overrides(files, "train"),
            f"data.media_root={tmp_path / 'videos'}",
            "media=tiny",
            f"+data.media.got10k={eight}",
            "name=own",
        )
    )
    frames = {}
    for each in (run, other):
        prepare(each)
        rows = pq.read_table(each.paths.verl_data("rl")).to_pylist()
        frames[each.recipe.name] = [
            (clip["nframes"], clip["resized_width"], clip["resized_height"]) for row in rows for clip in row["videos"]
        ]
    assert frames["main"] == [(4, 84, 56)] * 3
    assert frames["own"] == [(4, 84, 56)] * 2 + [(8, 112, 84)]
    sft = llamafactory.render(other)
    assert (sft["video_maxlen"], sft["video_max_pixels"], sft["video_min_pixels"]) == (8, 12544, 784)
    assert visual_tokens(other.recipe) == 4 * 16 > visual_tokens(run.recipe)
    assert other.settings("data") != run.settings("data")
