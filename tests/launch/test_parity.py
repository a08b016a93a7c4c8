"""Every preset's clips through the loaders of LLaMA-Factory, verl and vLLM: the same frames, grids, positions, prompts.

No engine is started here; tests/launch/test_positions.py does, and compares probabilities.
"""

import json
import re
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer

from data_tools.exports import eval_file, export, image_item, llamafactory_file, verl_file, video_item
from data_tools.media.budget import Budget, frame_size, sampling
from data_tools.media.child import ClipError
from data_tools.media.normalise import Clip, ClipImages, normalise
from data_tools.prompt import Form, messages
from data_tools.rendered import tiny_model
from data_tools.rendered.questions import demo_texts
from data_tools.sample import Sample, read_samples, write_samples
from launch.compose import compose_complete, read_prompt, read_recipe
from launch.engines import patches
from launch.engines.llamafactory.config import EVERY_FRAME
from launch.engines.llamafactory.cutoff import fitting_dataset
from launch.engines.patches import cpu
from launch.engines.verl.fitting import fitting_prompts
from launch.engines.vllm.clips import frames_of, with_media
from launch.errors import LaunchError
from launch.recipe import ROOT
from launch.run import run_of
from launch.samples.lengths import Lengths

pytestmark = pytest.mark.e2e

SIDES = {"qwen2_5_vl": 28, "qwen3_vl": 32}  # pixels along the side of a visual token
ALL_PRESETS = sorted((ROOT / "recipes" / "media").glob("*.yaml"))
AS_IMAGES = [path.stem for path in ALL_PRESETS if "\nas_images: true" in path.read_text()]
PRESETS = [path.stem for path in ALL_PRESETS if path.stem not in AS_IMAGES]
# name: frames, frames per second, width, height, times of the frames in ms
SOURCES = {
    "short": (25, 25, 96, 72, None),
    "normal": (50, 10, 96, 72, None),
    "long": (280, 4, 64, 48, None),
    "portrait": (12, 4, 62, 110, None),
    "odd": (20, 5, 101, 67, None),
    "ntsc": (95, Fraction(30000, 1001), 96, 72, None),
    "variable": (14, 10, 96, 72, [0, 90, 100, 700, 800, 1900, 2000, 2050, 2100, 3500, 3600, 4400, 5000, 5300]),
    "large": (8, 4, 1000, 702, None),
}


# Qwen3-VL shares the code that decides on frames: sizes are what differs.
CASES = [("qwen2_5_vl", preset, source) for preset in PRESETS for source in SOURCES]
CASES += [("qwen3_vl", preset, source) for preset in PRESETS for source in ("odd", "portrait", "large")]
# Of the models' own video_preprocessor_config.json, in pixels of all frames of a clip.
QWEN3_VL_SIZE = {"shortest_edge": 4096, "longest_edge": 25_165_824}


@cache
def budget(preset: str, family: str = "qwen2_5_vl") -> Budget:
    with initialize_config_dir(str(ROOT / "recipes"), version_base="1.3"):
        limits = read_recipe(compose("config", [f"media={preset}"])).budget
    return replace(limits, token_side=SIDES[family])


def test_a_recipe_of_qwen3_vl_has_its_budget():
    expected = budget("camreasoner", "qwen3_vl")
    with initialize_config_dir(str(ROOT / "recipes"), version_base="1.3"):
        files = [f"data.{key}=x" for key in ("media_root", "files.sft", "files.rl", "files.test")]
        config = compose("config", ["experiment=camreasoner", "model=qwen3_vl_4b", *files])
        assert read_recipe(config).budget == expected


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {name: video(folder / f"{name}.mp4", *facts) for name, facts in SOURCES.items()}


def video(path: Path, frames: int, fps, width: int, height: int, times: list[int] | None) -> Path:
    """A picture that slides, in colours that stay colours at full chroma resolution."""
    picture = np.random.default_rng(1).integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    picture = picture.repeat(4, 0).repeat(4, 1)[:height, :width]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=fps, options={"threads": "1", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * number, axis=1), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def expected_frames(path: Path, clip: Clip | ClipImages) -> np.ndarray:
    """The frame on show at each step, uint8 [T, H, W, 3], by plain decoding of the whole video."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    times = np.array([frame.time - frames[0].time for frame in frames])
    count = clip.frames if isinstance(clip, Clip) else len(clip.images)
    shown = [int(np.flatnonzero(times <= clip.step_ms * k / 1000 + 1e-6)[-1]) for k in range(count)]
    size = clip.width, clip.height
    pictures = {n: frames[n].reformat(*size, "rgb24", interpolation="BICUBIC").to_ndarray() for n in set(shown)}
    return np.stack([pictures[number] for number in shown])


@pytest.mark.parametrize(("family", "preset", "source"), CASES)
def test_stock_loaders_take_every_frame_as_it_is(family, preset, source, sources, tmp_path):
    from llamafactory.data.mm_plugin import get_mm_plugin
    from vllm.multimodal.video import VideoBackend

    limits = budget(preset, family)
    clip = normalise(sources[source], limits, tmp_path)
    assert clip.width % SIDES[family] == clip.height % SIDES[family] == 0
    path = str(tmp_path / clip.video)
    expected = expected_frames(sources[source], clip)
    assert expected.shape[:3] == (clip.frames, clip.height, clip.width)

    plugin = get_mm_plugin(
        {"qwen2_5_vl": "qwen2_vl"}.get(family, family), image_token="<|image_pad|>", video_token="<|video_pad|>"
    )
    sft = plugin._regularize_videos(
        [path],
        image_max_pixels=limits.max_pixels,
        image_min_pixels=limits.min_pixels,
        video_fps=EVERY_FRAME,
        video_maxlen=limits.max_frames,
    )
    np.testing.assert_array_equal(np.stack([np.asarray(frame) for frame in sft["videos"][0]]), expected)

    kinds = [video_item(tmp_path, clip)]  # what verl's rows hold; and the bare budget, as any other caller gives it
    names = "fps", "max_frames", "min_frames", "max_pixels", "min_pixels"
    kinds.append({"video": path, **{name: getattr(limits, name) for name in names}})
    for kind in kinds:
        content = [{"type": "video", **kind}]
        ((frames, facts),) = frames_of([{"role": "user", "content": content}], SIDES[family] // 2)
        np.testing.assert_array_equal(frames.permute(0, 2, 3, 1).numpy(), expected)
        sampled = len(facts["frames_indices"]) / facts["total_num_frames"] * facts["fps"]
        assert 1 / sampled == pytest.approx(clip.step_ms / 1000, rel=1e-9)
    assert 1 / sft["fps_per_video"][0] == pytest.approx(clip.step_ms / 1000, rel=1e-9)

    for backend in ("opencv", "pyav"):  # what `vllm serve` reads a clip with
        frames, facts = VideoBackend.load_bytes(Path(path).read_bytes(), backend=backend)
        np.testing.assert_array_equal(frames, expected)
        assert facts["fps"] == pytest.approx(clip.fps)


@pytest.mark.parametrize("preset", AS_IMAGES)
@pytest.mark.parametrize("source", [source for source in SOURCES if source != "short"])
def test_stock_loaders_take_the_images_of_a_clip_as_they_are(preset, source, sources, tmp_path):
    from llamafactory.data.mm_plugin import get_mm_plugin

    limits = budget(preset)
    clip = normalise(sources[source], limits, tmp_path)
    assert isinstance(clip, ClipImages) and limits.min_frames <= len(clip.images) <= limits.max_frames
    expected, paths = expected_frames(sources[source], clip), [str(tmp_path / image) for image in clip.images]
    plugin = get_mm_plugin("qwen2_vl", image_token="<|image_pad|>", video_token="<|video_pad|>")
    bounds = {"image_max_pixels": limits.max_pixels, "image_min_pixels": limits.min_pixels}
    (sft,) = plugin._regularize_images(paths, **bounds).values()
    rows = [image_item(tmp_path, still) for still in clip.stills]
    content = [{"type": "image", **row} for row in rows]
    evaluated = [{"type": "image", "image": path} for path in paths]  # as vLLM's process gives them
    for images in (sft, *(frames_of([{"role": "user", "content": items}]) for items in (content, evaluated))):
        np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), expected)


@settings(deadline=None)
@given(
    width=st.integers(64, 4096),
    height=st.integers(64, 4096),
    preset=st.sampled_from(PRESETS),
    family=st.sampled_from(list(SIDES)),
)
def test_sizes_are_those_of_qwens_loaders(width, height, preset, family):
    from qwen_vl_utils.vision_process import smart_resize
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as resize_clip

    limits = budget(preset, family)
    kwargs = {"factor": limits.token_side, "min_pixels": limits.min_pixels, "max_pixels": limits.max_pixels}
    try:
        size = frame_size(width, height, limits)
    except ClipError:  # no whole number of tokens keeps both limits
        assert max(width, height) > 6 * min(width, height)
        return
    if 0 not in smart_resize(height, width, **kwargs):  # its own fault, where a very long frame is very small
        assert smart_resize(height, width, **kwargs) == size[::-1]
    assert smart_resize(*size[::-1], **kwargs) == size[::-1]  # loaders leave it as it is
    if family == "qwen3_vl":  # and so does the processor, which all three engines ask
        edges = {"min_pixels": QWEN3_VL_SIZE["shortest_edge"], "max_pixels": QWEN3_VL_SIZE["longest_edge"]}
        for frames in (limits.min_frames, limits.max_frames):
            assert resize_clip(frames, *size[::-1], **edges) == size[::-1]


@settings(deadline=None)
@given(st.floats(0.1, 1000), st.sampled_from(PRESETS))
def test_frame_numbers_are_those_of_qwens_loader(duration, preset):
    from qwen_vl_utils.vision_process import smart_nframes

    limits = budget(preset)
    frames, step = sampling(duration, limits)
    ask = {"fps": limits.fps, "min_frames": limits.min_frames, "max_frames": limits.max_frames}
    assert smart_nframes(ask, frames, frames * 1000 / (frames * step)) == frames


# ---------------------------------------------------------------- prompts, grids, positions

TASKS = {
    "binary": {"options": ["No", "Yes"], "answer": "B"},
    "choice": {"options": ["Pan left", "Zoom in", "Tilt up"], "answer": "C"},
    "numerical": {"answer": "3"},
    "temporal_grounding": {"spans": [[0.5, 2.0]]},
    "grounded_qa": {"options": ["left", "right"], "answer": "A", "spans": [[0.5, 2.0]]},
    "tracking": {"boxes": [[0, 0, 5, 5], [1, 0, 6, 5]]},
}


def samples(clips: dict[str, Clip]) -> list[Sample]:
    """A question of each task about each clip."""
    return [
        Sample(
            id=f"{task}-{number}",
            video=clip.video,
            question="When does the camera move <left>?\nAnd where to: 左?",
            task=task,
            source="test",
            split="test",
            chain="<observation>o</observation><think>t</think><answer>a</answer>",
            **facts,
        )
        for number, clip in enumerate(clips.values())
        for task, facts in TASKS.items()
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The tiny model with two tokens per second, as Qwen2.5-VL has them; its processor changes no size."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_model.build_tokenizer(demo_texts())
    network = tiny_model.build_model(tokenizer, 0, tiny_model.TinySettings(tokens_per_second=2))
    processor = tiny_model.build_processor(tokenizer, 84)
    processor.video_processor.size = {"shortest_edge": 784, "longest_edge": 602112}
    tiny_model.save_model(network, processor, folder)
    patches.apply()
    cpu.name_vllm()
    return folder


@pytest.fixture(scope="module")
def qwen3_vl(model, tmp_path_factory) -> Path:
    """The tiny Qwen3-VL: it has no default system message."""
    folder = tmp_path_factory.mktemp("qwen3_vl")
    tokenizer = tiny_model.build_tokenizer(demo_texts(), family="qwen3_vl")
    network = tiny_model.build_model(tokenizer, 0, tiny_model.TinySettings("qwen3_vl"))
    tiny_model.save_model(network, tiny_model.build_processor(tokenizer, 96, "qwen3_vl"), folder)
    return folder


@pytest.mark.parametrize("prompt", ["plain", "camreasoner"])
def test_prompts_are_equal_token_by_token(prompt, model, sources, tmp_path):
    """Of every task: LLaMA-Factory's template over its export, verl's data set over its own, and the evaluation's."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    form = Form(prompt=read_prompt(prompt).model_copy(update={"system": "" if prompt == "plain" else "Watch."}))
    clips = {name: normalise(sources[name], budget("tiny"), tmp_path) for name in ("normal", "odd")}
    by_video = {clip.video: clip for clip in clips.values()}
    written = samples(clips)
    write_samples(tmp_path / "test.jsonl", written)
    read = list(read_samples(tmp_path / "test.jsonl"))
    table = tmp_path / "x.parquet"
    export(
        read,
        tmp_path,
        llamafactory_file(tmp_path / "lf", form),
        verl_file(table, tmp_path, by_video, form),
        eval_file(tmp_path / "x.jsonl", tmp_path, by_video, form),
    )

    processor = AutoProcessor.from_pretrained(model)
    tokenizer = processor.tokenizer
    sft = sft_prompts(model, tmp_path, budget("tiny"))
    config = OmegaConf.create({"video_key": "videos", "prompt_key": "prompt", "cache_dir": str(tmp_path / "cache")})
    rows = RLHFDataset(str(table), tokenizer, OmegaConf.merge({"filter_overlong_prompts": False}, config), processor)
    for number, sample in enumerate(read):
        turns = rows[number]["raw_prompt"]
        clip = {**video_item(tmp_path, by_video[sample.video])}
        evaluated = with_media(form.messages(sample), [{"type": "video", **clip}])
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        assert text == processor.apply_chat_template(evaluated, add_generation_prompt=True, tokenize=False)
        assert turns[-1] == evaluated[-1]
        seen = processor(text=[text], videos=[frames_of(turns)[0][0]], do_sample_frames=False)
        assert list(seen["input_ids"][0]) == sft[number]
    assert pq.read_metadata(table).num_rows == len(read) == len(sft)


def sft_prompts(model: Path, folder: Path, limits: Budget) -> list[list[int]]:
    """Token ids that LLaMA-Factory trains no loss on: the prompts of `folder`/lf, through its own data pipeline."""
    prompts = []
    for row in sft_rows(model, folder, limits):
        end = next(place for place, label in enumerate(row["labels"]) if label != -100)
        prompts.append(row["input_ids"][:end])
    return prompts


def sft_rows(model: Path, folder: Path, limits: Budget) -> list[dict]:
    """What LLaMA-Factory makes of `folder`/lf."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    arguments = {
        "model_name_or_path": str(model),
        "template": "qwen2_vl",
        "stage": "sft",
        "do_train": True,
        "dataset": "sft",
        "dataset_dir": str(folder / "lf"),
        "media_dir": str(folder),
        "output_dir": str(folder / "out"),
        "cutoff_len": 4096,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "use_cpu": True,
        "report_to": "none",
        "video_fps": EVERY_FRAME,
        "video_maxlen": limits.max_frames,
        "video_max_pixels": limits.max_pixels,
        "video_min_pixels": limits.min_pixels,
    }
    model_args, data_args, training_args, _, _ = get_train_args(arguments)
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    return list(get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)["train_dataset"])


def test_chains_beyond_the_cutoff_are_left_out_by_llamafactorys_own_count(model, sources, tmp_path):
    changes = [f"model.path={model}", f"runs={tmp_path}", "prompt=camreasoner", "data.max_quarantined=0.9"]
    run = run_of(compose_complete(changes))
    clips = {name: normalise(sources[name], budget("tiny"), run.data) for name in ("normal", "odd")}
    written = [sample.model_copy(update={"split": "sft"}) for sample in samples(clips)]
    write_samples(run.paths.samples("sft"), written)
    export(written, run.data, llamafactory_file(run.data / "lf", run.recipe.form))
    lengths = Lengths(run, "sft")
    counted = [lengths.of(sample) for sample in written]
    assert counted == [len(row["input_ids"]) for row in sft_rows(model, run.data, budget("tiny"))]
    for sample, tokens in zip(written, counted):
        assert lengths.at_most(sample) >= tokens <= lengths.at_most_in_words(sample)

    assert fitting_dataset(run) == (run.paths.llamafactory_data, len(written))  # cutoff_len=512
    limit = sorted(counted)[len(counted) // 2]
    run = run_of(compose_complete([*changes, f"sft.cutoff_len={limit}"]))
    folder, kept = fitting_dataset(run)
    long = [sample.id for sample, tokens in zip(written, counted) if tokens > limit]
    rejected = [json.loads(line) for line in run.paths.sft_quarantine.read_text().splitlines()]
    assert [each["record"] for each in rejected] == long and kept == len(written) - len(long) > 0
    assert f"more than sft.cutoff_len={limit}" in rejected[0]["reason"]
    assert len(json.loads((folder / "sft.json").read_text())) == kept
    with pytest.raises(LaunchError, match="chains are longer than sft.cutoff_len=20"):
        fitting_dataset(run_of(compose_complete([*changes, "sft.cutoff_len=20"])))


def test_prompts_beyond_the_limit_are_left_out_by_the_processors_own_count(model, sources, tmp_path):
    changes = [f"model.path={model}", f"runs={tmp_path}", "prompt=camreasoner", "data.max_quarantined=0.9"]
    run = run_of(compose_complete([*changes, "rl.max_prompt_length=4096"]))
    clips = {name: normalise(sources[name], budget("tiny"), run.data) for name in ("normal", "odd")}
    by_video = {clip.video: clip for clip in clips.values()}
    written = [sample.model_copy(update={"split": "rl"}) for sample in samples(clips)]
    write_samples(run.paths.samples("rl"), written)
    export(written, run.data, verl_file(run.paths.verl_data("rl"), run.data, by_video, run.recipe.form))
    processor, counted = AutoProcessor.from_pretrained(model), []
    for sample in written:
        turns = with_media(
            run.recipe.form.messages(sample), [{"type": "video", **video_item(run.data, by_video[sample.video])}]
        )
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        seen = processor(text=[text], videos=[frames_of(turns)[0][0]], do_sample_frames=False)
        counted.append(len(seen["input_ids"][0]))
    assert [Lengths(run, "rl").of(sample) for sample in written] == counted
    assert fitting_prompts(run) == (run.paths.verl_data("rl"), len(written))

    limit = sorted(counted)[len(counted) // 2]
    long = [sample.id for sample, tokens in zip(written, counted) if tokens > limit]
    run = run_of(compose_complete([*changes, f"rl.max_prompt_length={limit}"]))
    path, kept = fitting_prompts(run)
    ids = [row["extra_info"]["id"] for row in pq.read_table(path).to_pylist()]
    assert ids == [sample.id for sample in written if sample.id not in long] and len(ids) == kept
    rejected = [json.loads(line) for line in run.paths.rl_quarantine.read_text().splitlines()]
    assert [(each["record"], each["field"]) for each in rejected] == [(name, "question") for name in long]

    tracker = run.paths.rl_checkpoints / "latest_checkpointed_iteration.txt"
    tracker.parent.mkdir()
    tracker.write_text("2")  # what resumes trains on what it began with
    assert fitting_prompts(run_of(compose_complete([*changes, "rl.max_prompt_length=4096"]))) == (path, kept)


@pytest.mark.parametrize("preset", PRESETS)
def test_grids_and_positions_are_equal(preset, model, sources, tmp_path):
    """Of a short clip, an ordinary and a thinned-out one: what each side's model is given."""
    for source in ("short", "normal", "long"):
        clip = normalise(sources[source], budget(preset), tmp_path)
        ids, grid, positions, _ = seen_by_all(model, "qwen2_vl", clip, tmp_path, budget(preset))
        seconds = 2 * clip.step_ms / 1000
        assert grid == [clip.frames // 2, clip.height // 14, clip.width // 14]
        start = ids.index(max(set(ids), key=ids.count))
        times = positions[0, start :: grid[1] * grid[2] // 4][: grid[0]] - start
        # Whole steps are counted exactly; 1e-9 is for the steps that float arithmetic puts just below.
        np.testing.assert_array_equal(times, np.floor(np.arange(grid[0]) * seconds * 2 + 1e-9))


@pytest.mark.parametrize(
    ("preset", "source"), [*((preset, "short") for preset in PRESETS), ("videop2r", "long"), ("camreasoner", "large")]
)
def test_qwen3_vl_is_given_the_same(preset, source, qwen3_vl, sources, tmp_path):
    """Its prompts tell the time of each pair of frames in words; nothing is resized on the way."""
    limits = budget(preset, "qwen3_vl")
    clip = normalise(sources[source], limits, tmp_path)
    ids, grid, _, pixels = seen_by_all(qwen3_vl, "qwen3_vl_nothink", clip, tmp_path, limits)
    assert grid == [clip.frames // 2, clip.height // 16, clip.width // 16]
    patches_THW = pixels.reshape(*grid[:1], grid[1] // 2, grid[2] // 2, 2, 2, 3, 2, 16, 16)
    frames = patches_THW.permute(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(clip.frames, clip.height, clip.width, 3)
    expected = expected_frames(sources[source], clip)
    np.testing.assert_array_equal(((frames + 1) * 127.5).round().numpy().astype(np.uint8), expected)
    text = AutoTokenizer.from_pretrained(qwen3_vl).decode(ids)
    times = [(2 * pair / clip.fps + (2 * pair + 1) / clip.fps) / 2 for pair in range(grid[0])]
    assert re.findall(r"<([\d.]+) seconds>", text) == [f"{time:.1f}" for time in times]


def test_verl_asks_vllm_for_the_prompt_of_qwen3_vl(qwen3_vl, sources, tmp_path):
    from verl.workers.rollout.utils import qwen2_5_vl_dedup_image_tokens

    clip = normalise(sources["short"], budget("tiny", "qwen3_vl"), tmp_path)
    turns = with_media(messages(samples({"a": clip})[0]), [{"type": "video", **video_item(tmp_path, clip)}])
    ids = trainer_side(qwen3_vl, turns)[0]
    asked = qwen2_5_vl_dedup_image_tokens(ids, AutoProcessor.from_pretrained(qwen3_vl))
    assert rollout_side(qwen3_vl, turns, asked)[0] == ids


Seen = tuple[list[int], list[int], np.ndarray, torch.Tensor]  # token ids, grid, positions [3, T], pixels [verl, D]


def seen_by_all(folder: Path, template: str, clip: Clip, root: Path, limits: Budget) -> Seen:
    """What verl's actor, vLLM and LLaMA-Factory make of a clip, which must be the same."""
    (sample,) = samples({"a": clip})[:1]
    turns = with_media(messages(sample), [{"type": "video", **video_item(root, clip)}])
    first = trainer_side(folder, turns)
    for other in (rollout_side(folder, turns), sft_side(folder, template, str(root / clip.video), sample, limits)):
        assert other[:2] == first[:2]
        np.testing.assert_array_equal(other[2], first[2])
        torch.testing.assert_close(other[3].reshape(first[3].shape), first[3], rtol=0, atol=1e-6)
    return first


def trainer_side(folder: Path, turns: list) -> Seen:
    """What verl's agent loop hands to the actor (verl 0.9.1, agent_loop.py: features, positions)."""
    from verl.utils.tokenizer import build_multimodal_processor_inputs, hf_processor

    processor = hf_processor(str(folder))
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    videos = frames_of(turns, processor.image_processor.patch_size)
    features = build_multimodal_processor_inputs(processor, text=[prompt], videos=videos)
    ids = features["input_ids"]
    further = getattr(processor, "get_rope_index_kwargs", lambda features: {})
    positions, _ = processor.get_rope_index(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == processor.video_token_id).long() * 2,
        video_grid_thw=features["video_grid_thw"],
        **further(features),
    )
    grid = features["video_grid_thw"][0].tolist()
    return ids[0].tolist(), grid, positions[:, 0].numpy(), features["pixel_values_videos"]


def rollout_side(folder: Path, turns: list, ids: list[int] | None = None) -> Seen:
    """What vLLM makes of the same request, up to the model's input."""
    from vllm.model_executor.models import qwen2_5_vl, qwen3_vl
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.inputs import MultiModalFeatureSpec
    from vllm.multimodal.processing.inputs import ProcessorInputs

    config = vllm_config(folder)
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    hf = AutoProcessor.from_pretrained(folder)
    prompt = hf.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    items = processor.info.parse_mm_data({"video": frames_of(turns, hf.image_processor.patch_size)})
    ids = ids or processor.info.get_tokenizer().encode(prompt, add_special_tokens=False)
    seen = processor.apply(ProcessorInputs(prompt=ids, mm_data_items=items), timing())
    feature = MultiModalFeatureSpec(
        data=seen["mm_kwargs"]["video"][0],
        modality="video",
        identifier="a",
        mm_position=seen["mm_placeholders"]["video"][0],
    )
    (name,) = config.hf_config.architectures
    model = getattr(qwen3_vl if name.startswith("Qwen3") else qwen2_5_vl, name)
    holder = model.__new__(model)  # positions need nothing of it but its configuration
    object.__setattr__(holder, "config", config.hf_config)
    positions, _ = holder.get_mrope_input_positions(seen["prompt_token_ids"], [feature])
    grid, pixels = (feature.data[key].data for key in ("video_grid_thw", "pixel_values_videos"))
    return list(seen["prompt_token_ids"]), grid.tolist(), positions.numpy(), pixels


@cache
def vllm_config(folder: Path):
    from vllm.config import ModelConfig

    return ModelConfig(str(folder), dtype="float32", max_model_len=2048, limit_mm_per_prompt={"image": 0, "video": 1})


def timing():
    from vllm.multimodal.processing.context import TimingContext

    return TimingContext(enabled=False)


def sft_side(folder: Path, template_name: str, path: str, sample: Sample, limits: Budget) -> Seen:
    """What LLaMA-Factory's collator hands to the model."""
    from llamafactory.data import MultiModalDataCollatorForSeq2Seq, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoModelForImageTextToText

    processor = AutoProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    processor.video_max_pixels, processor.video_min_pixels = limits.max_pixels, limits.min_pixels
    processor.video_fps, processor.video_maxlen = EVERY_FRAME, limits.max_frames
    template = get_template_and_fix_tokenizer(tokenizer, DataArguments(template=template_name))
    turns = [*messages(sample), {"role": "assistant", "content": "x"}]
    turns = template.mm_plugin.process_messages(turns, [], [path], [], processor)
    prompt, _ = template.encode_oneturn(tokenizer, turns)
    collator = MultiModalDataCollatorForSeq2Seq(
        tokenizer=tokenizer,
        template=template,
        model=AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32),
        processor=processor,
        label_pad_token_id=-100,
    )
    feature = {"input_ids": prompt, "attention_mask": [1] * len(prompt), "labels": prompt, "videos": [path]}
    batch = collator([feature | {"images": None, "audios": None}])
    positions = batch["position_ids"][-3:, 0, : len(prompt)].numpy()
    return prompt, batch["video_grid_thw"][0].tolist(), positions, batch["pixel_values_videos"]
