"""A clip that is shown as still images, one a frame: media.as_images, CamReasoner's authors' regime."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_tools.media.budget import Budget, FrameImages, MediaError, sampling
from data_tools.media.normalise import Clip, ClipImages, normalise
from data_tools.rendered.dataset import read_clip
from data_tools.rendered.scene import write_clip
from data_tools.sample import Sample, read_samples, write_samples
from data_tools.sets import trained_on
from launch import data, evaluate, sets
from launch.compose import compose_complete
from launch.engines.llamafactory import config as llamafactory
from launch.engines.verl import config as verl
from launch.engines.vllm.settings import engine_arguments
from launch.planning.sizes import visual_tokens
from launch.recipe import RecipeError
from launch.run import run_of, stage
from launch.samples.lengths import Lengths

BUDGET = FrameImages(fps=1, max_frames=4, min_frames=2, max_pixels=12544, min_pixels=3136)
BATCH = ["rl.rollout_batch_size=2", "rl.global_batch_size=2", "rl.micro_batch_size_per_gpu=2"]
CHAIN = "<observation>o</observation><think>t</think><answer>A</answer>"
MEDIA = [f"media.{key}={value}" for key, value in (("as_images", "true"), ("fps", 1), ("min_frames", 2))]
MEDIA += ["media.max_pixels=12544", "media.min_pixels=3136"]


def film(path: Path, seconds: int, seed: int = 0) -> Path:
    """Two frames a second, no two alike."""
    noise = np.random.default_rng(seed).integers(0, 255, (2 * seconds, 56, 84, 3), np.uint8)
    write_clip(path, noise, fps=2.0)
    return path


@pytest.mark.parametrize(("seconds", "taken"), [(1, [0, 1]), (3, [0, 2, 4]), (4, [0, 2, 4, 6]), (8, [0, 4, 8, 12])])
def test_the_images_are_the_frames_on_show_and_lossless(seconds, taken, tmp_path):
    video = film(tmp_path / "a.mp4", seconds)
    made = normalise(video, BUDGET, tmp_path / "store")
    assert isinstance(made, ClipImages) and made.tokens(28) == len(taken) * 6
    shown = [np.asarray(Image.open(tmp_path / "store" / image)) for image in made.images]
    np.testing.assert_array_equal(np.stack(shown), read_clip(video)[taken])
    assert normalise(video, BUDGET, tmp_path / "store") == made
    clip = normalise(video, Budget(fps=1, max_frames=4, min_frames=4, max_pixels=7056, min_pixels=784), tmp_path)
    assert isinstance(clip, Clip) and clip.source_sha256 == made.source_sha256


def test_images_are_not_taken_in_pairs_and_have_an_image_s_bounds():
    assert [sampling(seconds, BUDGET)[0] for seconds in (0.5, 2.6, 3.4, 9.0)] == [2, 3, 3, 4]
    large = replace(BUDGET, max_frames=12, max_pixels=1_048_576)  # which no video of 12 frames has
    assert large.step_ms == 1000
    with pytest.raises(MediaError, match="beyond which Qwen's loader changes"):
        replace(BUDGET, min_pixels=784)
    with pytest.raises(MediaError, match="beyond which"):
        replace(BUDGET, token_side=32)  # Qwen3-VL enlarges more


def question(id: str, video: str, split: str, **fields) -> Sample:
    base = {"question": f"Does it pan in {id}?", "options": ["No", "Yes"], "answer": "A", "task": "binary"}
    chain = CHAIN if split == "sft" else None
    return Sample(id=id, video=video, source="mine", split=split, chain=chain, **base | fields)


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """Label files about a clip each, one of a part of its video, and a benchmark about the video of rl."""
    files = []
    for seed, split in enumerate(("sft", "rl", "test")):
        film(tmp_path / f"{split}.mp4", 6, seed)
        asked = [question(f"{split}1", f"{split}.mp4", split), question(f"{split}2", f"{split}.mp4", split, start=3.0)]
        write_samples(tmp_path / f"{split}.jsonl", asked)
        files.append(f"data.files.{split}={tmp_path}/{split}.jsonl")
    write_samples(tmp_path / "other.jsonl", [question("o", "rl.mp4", "test")])
    other = f"+eval.sets.other={{files: '{tmp_path}/other.jsonl', media_root: '{tmp_path}'}}"
    return ["data=files", f"data.media_root={tmp_path}", *files, other, *BATCH, *MEDIA]


def test_every_stage_is_shown_images_in_place_of_the_clip(tiny_recipe, overrides):
    run = run_of(tiny_recipe(*overrides, "eval.models=[base]"))
    assert visual_tokens(run.recipe) == 4 * 16
    data.check(run)
    with stage(run, "data"):
        data.prepare(run)
    run.require("data")  # made with this budget
    for split in ("sft", "rl", "test"):
        whole, part = read_samples(run.paths.samples(split))
        assert (whole.video, len(whole.images), len(part.images)) == (None, 4, 3)
        assert whole.extras == {"source_video": f"{split}.mp4"} and part.extras["source_part"] == [3.0, None]
        assert (whole.duration, part.duration) == (6.0, 3.0)
        assert all((run.media_root / image).is_file() for image in (*whole.images, *part.images))
    chains = json.loads((run.paths.llamafactory_data / "sft.json").read_text())
    assert [(len(row["videos"]), len(row["images"])) for row in chains] == [(0, 4), (0, 3)]
    assert chains[0]["messages"][0]["content"].startswith("<image>" * 4 + "Does it pan")
    rows = pq.read_table(run.paths.verl_data("rl")).to_pylist()
    assert [(len(row["videos"]), len(row["images"])) for row in rows] == [(0, 4), (0, 3)]
    assert Lengths(run, "rl")._visual(whole) == 4 * 6

    sets.check(run)
    sets.prepare(run)
    run.paths.model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (run.paths.model / name).write_text("{}")
    evaluate.check(run)
    own, other = evaluate.sets(run)
    assert len(own.samples[0].images) == len(other.samples[0].images) == 4
    assert trained_on(run.paths, other.root, other.samples) == 1

    sft = llamafactory.render(run)
    assert (sft["image_max_pixels"], sft["image_min_pixels"]) == (12544, 3136)
    rollout = verl.render(run, "/models/base", 1).actor_rollout_ref.rollout
    assert rollout.engine_kwargs.vllm.limit_mm_per_prompt.image == 4
    assert engine_arguments(run.recipe, "/models/base")["limit_mm_per_prompt"]["image"] == 4


def test_a_record_may_be_dropped_from_labels_that_became_images(tiny_recipe, overrides, tmp_path):
    from launch.samples.dropped import _dropped

    run = run_of(tiny_recipe(*overrides))
    data.prepare(run)
    (first, _) = read_samples(tmp_path / "rl.jsonl")
    write_samples(tmp_path / "rl.jsonl", [first])
    assert _dropped(run, "rl") == {"rl2"}


def test_sft_of_one_source_may_be_shown_a_video(tiny_recipe, overrides, tmp_path):
    """As CamReasoner's authors' is: the budget of its source."""
    film(tmp_path / "video.mp4", 6, 7)
    record = {"problem": "Does it pan?", "solution": "<answer>No</answer>", "process": CHAIN.partition("<answer>")[0]}
    (tmp_path / "cot.json").write_text(json.dumps([record | {"path": "video.mp4"}]))
    own = "{fps: 2, max_frames: 4, min_frames: 4, max_pixels: 3136, min_pixels: 784}"
    chosen = f"data.files.sft={{source: video_r1_cot, path: '{tmp_path}/cot.json'}}"
    run = run_of(tiny_recipe(*overrides, chosen, f"+data.media.video_r1_cot={own}"))
    data.prepare(run)
    (chain,) = read_samples(run.paths.samples("sft"))
    assert chain.video and not chain.images
    assert all(sample.images for sample in read_samples(run.paths.samples("rl")))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("rl.twins.turns=[mirrored]", "rl.twins needs clips"),
        ("data.poses.folder=/poses", "data.poses needs clips"),
        ("media.min_pixels=784", "beyond which Qwen's loader changes"),
    ],
)
def test_what_needs_a_video_is_refused(given, said, overrides):
    with pytest.raises(RecipeError, match=said):
        compose_complete(["experiment=demo", "reward=camreasoner", *overrides, given])


def test_rendered_clips_stay_videos(tiny_recipe):
    from launch.errors import LaunchError

    with pytest.raises(LaunchError, match="data.rendered draws clips that are videos"):
        data.check(run_of(tiny_recipe(*MEDIA)))
