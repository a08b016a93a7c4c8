import pytest
from pydantic import ValidationError

from data_tools.render import Track, motion_of_track
from data_tools.rendered import RenderedError, RenderedSettings, build_rendered
from data_tools.sample import read_samples
from rewards.motions import PRIMITIVES
from rewards.response import parse

SETTINGS = RenderedSettings(
    sft={"clips": 15, "binary": 10, "choice": 5, "confusable": 0},
    rl={"clips": 4, "binary": 8},
    test={"clips": 3, "choice": 3},
    size=28,
    terse_chains=0.5,
)


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    seen = []
    counts = build_rendered(SETTINGS, folder, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 22) for n in range(1, 23)]
    return folder, counts


def test_counts_are_what_was_asked_for(built):
    folder, counts = built
    assert counts["sft"]["clips"] == 15 and counts["sft"]["binary"] == 10 and counts["sft"]["choice"] == 5
    assert counts["rl"]["no"] == 4 and counts["rl"]["confusable_no"] == 2
    assert [len(list(read_samples(folder / f"{split}.jsonl"))) for split in ("sft", "rl", "test")] == [15, 8, 3]


def test_samples_are_true_to_their_tracks_and_splits_share_no_scene(built):
    folder, _ = built
    scenes = {}
    for split in ("sft", "rl", "test"):
        for sample in read_samples(folder / f"{split}.jsonl"):
            clip = folder / sample.video
            assert clip.stat().st_size
            assert motion_of_track(Track.load(clip.with_suffix(".json"))) == sample.extras["motion"]
            assert (sample.chain is not None) == (split == "sft")
            assert sample.chain is None or parse(sample.chain).ok
            scenes.setdefault(sample.extras["scene"], set()).add(split)
    assert all(len(splits) == 1 for splits in scenes.values())


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(built, tmp_path):
    build_rendered(SETTINGS, tmp_path, workers=2)
    assert contents(tmp_path) == contents(built[0])


def test_it_goes_on_where_it_was_killed(tmp_path, built):
    folder, _ = built
    before = contents(folder)
    kept = folder / "clips" / "sft-00001.mp4"
    written = kept.stat().st_mtime_ns
    (folder / "clips" / "sft-00000.mp4").unlink()
    (folder / "clips" / "sft-00002.json").unlink()
    (folder / "sft.jsonl").unlink()
    build_rendered(SETTINGS, folder)
    assert contents(folder) == before
    assert kept.stat().st_mtime_ns == written


def test_a_folder_holds_one_data_set(built):
    with pytest.raises(RenderedError, match="other settings"):
        build_rendered(SETTINGS.model_copy(update={"seed": 1}), built[0])


def test_the_primitives_take_turns(built):
    shown = {key.removeprefix("clips/"): count for key, count in built[1]["sft"].items() if key.startswith("clips/")}
    assert shown == dict.fromkeys(PRIMITIVES, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 30},
        {"frames": 3},
        {"fps": 0},
        {"sft": {"clips": 0, "binary": 2}},
        {"sft": {"clips": 2, "binary": 3}},
        {"sft": {"clips": 2}},
        {"seeds": 1},
    ],
)
def test_bad_settings_are_refused(change):
    with pytest.raises(ValidationError):
        RenderedSettings(**{**SETTINGS.model_dump(), **change})
    with pytest.raises(RenderedError, match="workers"):
        build_rendered(SETTINGS, None, workers=0)
