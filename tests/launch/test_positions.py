"""Frames, grids and M-RoPE positions of one clip: training side = rollout side = reference formula."""

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_tools.exports import video_item
from data_tools.media.normalise import Clip
from data_tools.prompt import messages
from data_tools.rendered import tiny_model
from data_tools.rendered.questions import demo_texts
from data_tools.rendered.scene import draw_scene, draw_track, render_frames, write_clip
from data_tools.sample import Sample
from launch.compose import compose_recipe
from launch.engines import patches
from launch.engines.llamafactory.config import EVERY_FRAME
from launch.engines.patches import cpu
from launch.engines.vllm.answers import answers
from launch.engines.vllm.clips import frames_of, with_media
from launch.engines.vllm.job import Questions
from launch.engines.vllm.option_scores import candidates
from launch.engines.vllm.settings import build_engine

pytestmark = pytest.mark.e2e

# Milliseconds between frames, frames, and the tiny model's tokens per second: whole and fractional steps between
# temporal verl, a clip whose time axis is its longest, and one with a rate of its own, where float32 is not enough
# (5 patches x 2 x 0.7 s x 1 token/s = 7).
CASES = {"whole": (500, 4, 1), "fractional": (125, 8, 2), "long": (500, 16, 2), "thinned": (700, 12, 1)}
SIZE = 84


def reference_positions(before: int, grid: tuple[int, int, int], after: int, step: float) -> np.ndarray:
    """(3, length) by the formula of the Qwen2.5-VL report: time advances by `step`, text goes on after the maximum."""
    time, rows, columns = grid
    vision = np.indices((time, rows, columns)).astype(float)
    vision[0] = np.floor(vision[0] * step)
    vision = vision.reshape(3, -1).astype(int) + before
    head = np.tile(np.arange(before), (3, 1))
    tail = np.tile(np.arange(after), (3, 1)) + vision.max() + 1
    return np.concatenate([head, vision, tail], axis=1)


@functools.cache
def model_folder(base: Path, tokens_per_second: int) -> Path:
    folder = base / f"model{tokens_per_second}"
    tokenizer = tiny_model.build_tokenizer(demo_texts())
    settings = tiny_model.TinySettings(tokens_per_second=tokens_per_second)
    model = tiny_model.build_model(tokenizer, 0, settings)
    tiny_model.save_model(model, tiny_model.build_processor(tokenizer, SIZE), folder)
    return folder


def clip(folder: Path, step_ms: int, frames: int) -> Sample:
    fps = 1000 / step_ms
    rng = np.random.default_rng(7)
    track = draw_track("truck_left", rng, frames=frames, size=SIZE, fps=fps)
    write_clip(folder / "clip.mp4", render_frames(draw_scene(rng), track), fps)
    return Sample(
        id="a",
        video="clip.mp4",
        question="Does the camera move to the left?",
        options=["No", "Yes"],
        answer="B",
        task="binary",
        source="rendered",
        split="test",
    )


@pytest.fixture(scope="module", params=list(CASES))
def seen(request, tmp_path_factory):
    """What each side makes of one clip and one sampled response."""
    step_ms, frames, tokens_per_second = CASES[request.param]
    base = tmp_path_factory.mktemp(request.param)
    sample = clip(base, step_ms, frames)
    media = video_item(base, Clip(sample.video, frames, step_ms, SIZE, SIZE, 1.0, ""))
    folder = model_folder(base, tokens_per_second)
    patches.apply()
    cpu.name_vllm()
    rollout = rollout_side(folder, base, sample, media)
    return {
        "rollout": rollout,
        "trainer": trainer_side(folder, base, sample, media, rollout["response"]),
        "sft": sft_side(folder, base, sample, media),
        "step": 2 * step_ms * tokens_per_second / 1000,
        "frames": frames,
    }


def rollout_side(folder: Path, base: Path, sample: Sample, media: dict) -> dict:
    from transformers import AutoProcessor
    from vllm import LLM, SamplingParams
    from vllm.model_executor.models import qwen2_5_vl

    spied: dict = {}
    processor_class = qwen2_5_vl.Qwen2_5_VLMultiModalProcessor
    model_class = qwen2_5_vl.Qwen2_5_VLForConditionalGeneration
    call, place = processor_class._call_hf_processor, model_class.get_mrope_input_positions

    def spy_call(self, prompt, mm_data, mm_kwargs, tok_kwargs):
        out = call(self, prompt, mm_data, mm_kwargs, tok_kwargs)
        if "pixel_values_videos" in out:
            spied["pixels"], spied["grid"] = out["pixel_values_videos"], out["video_grid_thw"]
        return out

    def spy_place(self, *args, **kwargs):
        spied["positions"], spied["delta"] = place(self, *args, **kwargs)
        return spied["positions"], spied["delta"]

    processor_class._call_hf_processor, model_class.get_mrope_input_positions = spy_call, spy_place
    try:
        engine = LLM(
            str(folder),
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
            max_num_seqs=4,
            limit_mm_per_prompt={"image": 0, "video": 1},
            skip_mm_profiling=True,
            logprobs_mode="processed_logprobs",
        )
        turns = with_media(messages(sample), [{"type": "video", "video": sample.video, **media}])
        processor = AutoProcessor.from_pretrained(folder)
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        result = engine.generate(
            {"prompt": prompt, "multi_modal_data": {"video": frames_of(turns)}},
            SamplingParams(temperature=1.0, max_tokens=24, logprobs=0, seed=1, ignore_eos=True),
            use_tqdm=False,
        )[0]
    finally:
        processor_class._call_hf_processor, model_class.get_mrope_input_positions = call, place
    ids = list(result.outputs[0].token_ids)
    logprobs = [step[token].logprob for step, token in zip(result.outputs[0].logprobs, ids)]
    return {**spied, "prompt": list(result.prompt_token_ids), "response": ids, "logprobs": np.array(logprobs)}


def trainer_side(folder: Path, base: Path, sample: Sample, media: dict, response: list[int]) -> dict:
    """What verl's agent loop hands to the actor (verl 0.9.1, agent_loop.py: features, positions), and its log-probs."""
    import types

    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    turns = with_media(messages(sample), [{"type": "video", "video": sample.video, **media}])
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    features = build_multimodal_processor_inputs(processor, text=[prompt], videos=frames_of(turns))
    ids = torch.cat([features["input_ids"], torch.tensor([response])], dim=1)
    video = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")

    processor.config = model.config
    processor.get_rope_index = types.MethodType(Qwen2_5_VLModel.get_rope_index, processor)
    positions, _ = processor.get_rope_index(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == video).long() * 2,
        video_grid_thw=features["video_grid_thw"],
        **processor.get_rope_index_kwargs(features),
    )
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=positions,
            pixel_values_videos=features["pixel_values_videos"],
            video_grid_thw=features["video_grid_thw"],
        ).logits[0]
    logprobs = logits.log_softmax(-1)[-len(response) - 1 : -1].gather(1, torch.tensor(response)[:, None])[:, 0]
    return {
        "prompt": features["input_ids"][0].tolist(),
        "pixels": features["pixel_values_videos"],
        "grid": features["video_grid_thw"],
        "positions": positions[:, 0],
        "logprobs": logprobs.numpy(),
    }


def sft_side(folder: Path, base: Path, sample: Sample, media: dict) -> dict:
    """What LLaMA-Factory's collator hands to the model."""
    from llamafactory.data import MultiModalDataCollatorForSeq2Seq, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    for name, value in (
        ("video_max_pixels", SIZE**2),
        ("video_min_pixels", 784),
        ("video_fps", EVERY_FRAME),
        ("video_maxlen", media["nframes"]),
    ):
        setattr(processor, name, value)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    template = get_template_and_fix_tokenizer(tokenizer, DataArguments(template="qwen2_vl"))
    videos = [str(base / sample.video)]
    turns = [*messages(sample), {"role": "assistant", "content": "x"}]
    turns = template.mm_plugin.process_messages(turns, [], videos, [], processor)
    prompt, _ = template.encode_oneturn(tokenizer, turns)
    collator = MultiModalDataCollatorForSeq2Seq(
        tokenizer=tokenizer, template=template, model=model, processor=processor, label_pad_token_id=-100
    )
    feature = {"input_ids": prompt, "attention_mask": [1] * len(prompt), "labels": prompt, "videos": videos}
    batch = collator([feature | {"images": None, "audios": None}])
    length = len(prompt)
    return {
        "prompt": prompt,
        "pixels": batch["pixel_values_videos"],
        "grid": batch["video_grid_thw"],
        "positions": batch["position_ids"][-3:, 0, :length],
    }


def test_all_sides_see_the_same_prompt(seen):
    assert seen["trainer"]["prompt"] == seen["rollout"]["prompt"] == seen["sft"]["prompt"]


def test_all_sides_see_the_same_frames(seen):
    grid = seen["trainer"]["grid"].tolist()
    assert grid == [[seen["frames"] // 2, SIZE // 14, SIZE // 14]]
    for side in ("rollout", "sft"):
        assert torch.as_tensor(seen[side]["grid"]).reshape(-1, 3).tolist() == grid
        pixels = torch.as_tensor(seen[side]["pixels"]).reshape(seen["trainer"]["pixels"].shape)
        torch.testing.assert_close(pixels, seen["trainer"]["pixels"], atol=1e-5, rtol=0)


def test_all_sides_place_tokens_by_the_reference_formula(seen):
    trainer = seen["trainer"]
    time, height, width = trainer["grid"][0].tolist()
    grid = (time, height // 2, width // 2)
    length, visual = trainer["positions"].shape[1], int(np.prod(grid))
    first = int(np.argmax(np.diff(trainer["positions"][1].numpy(), prepend=-1) != 1)) if visual else 0
    video = trainer["prompt"].index(_most_common(trainer["prompt"]))
    assert first >= video  # the clip is where positions stop counting
    expected = reference_positions(video, grid, length - video - visual, seen["step"])
    np.testing.assert_array_equal(trainer["positions"].numpy(), expected)
    prompt = len(trainer["prompt"])
    np.testing.assert_array_equal(np.asarray(seen["rollout"]["positions"])[:, :prompt], expected[:, :prompt])
    np.testing.assert_array_equal(seen["sft"]["positions"].numpy(), expected[:, :prompt])
    assert seen["rollout"]["delta"] == expected[0, -1] + 1 - length


def test_log_probabilities_of_a_response_agree(seen):
    np.testing.assert_allclose(seen["trainer"]["logprobs"], seen["rollout"]["logprobs"], atol=1e-4)


def _most_common(ids: list[int]) -> int:
    """The place-holder of the clip: the token that a prompt with a clip repeats most."""
    return max(set(ids), key=ids.count)


# ---------------------------------------------------------------- P(option)

DIRECT = ["experiment=demo", "eval.option_scores=direct", "eval.max_tokens=4"]
VQASCORE = ["experiment=demo", "prompt=vqascore", "eval.option_scores=first_token", "eval.max_tokens=1"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A clip, the tiny model's folder, and vLLM with that model in it."""
    patches.apply()
    cpu.name_vllm()
    base = tmp_path_factory.mktemp("options")
    sample, folder = clip(base, 500, 4), model_folder(base, 2)
    return base, sample, folder, build_engine(compose_recipe(DIRECT)[0], str(folder))


def answered(asked, sample: Sample, overrides: list[str]) -> tuple[dict, Callable[[tuple[int, ...]], list[float]], Any]:
    """vLLM's record of a question; log-probabilities of tokens behind its prompt, by transformers; the tokenizer."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    base, _, folder, engine = asked
    recipe = compose_recipe(overrides)[0]
    part = Questions(samples=base, root=base, media=recipe.media, form=recipe.form, out=base / "answers.jsonl")
    ((_, record),) = answers(engine, recipe, [(part, sample)], 1)

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    item = {"type": "video", "video": str(base / sample.video), **recipe.media.model_dump()}
    turns = with_media(recipe.form.messages(sample), [item])
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    prompt = build_multimodal_processor_inputs(processor, text=[text], videos=frames_of(turns))

    def log_probs(ids: tuple[int, ...]) -> list[float]:
        inputs = dict(prompt)
        inputs["input_ids"] = torch.cat([prompt["input_ids"], torch.tensor([ids])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(prompt["mm_token_type_ids"], (0, len(ids)))
        with torch.no_grad():
            rows = model(**inputs).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
        return [row[token].item() for row, token in zip(rows, ids)]

    return record, log_probs, processor.tokenizer


@pytest.mark.parametrize("options", [["No", "Yes"], ["pan left", "pan right", "static", "tilt up"]])
def test_probabilities_of_options_are_those_of_teacher_forcing(options, asked):
    """P(option) right behind `<answer>` from vLLM and from transformers, one path at a time."""
    sample = asked[1].model_copy(update={"options": options, "task": ("choice", "binary")[len(options) == 2]})
    record, log_probs, tokenizer = answered(asked, sample, DIRECT)
    paths = candidates(options, "<answer>", tokenizer.encode)
    shared = len(os.path.commonprefix([path for _, path in paths]))
    mass = {}  # of each path's shortest beginning that no other option has, once
    for option, path in paths:
        others = [other for owner, other in paths if owner != option]
        length = next(n for n in range(len(path) + 1) if all(other[:n] != path[:n] for other in others))
        mass[option, path[:length]] = math.exp(sum(log_probs(path)[shared:length]))
    told = [sum(p for (owner, _), p in mass.items() if owner == place) for place in range(len(options))]
    assert list(record["option_probs"].values()) == pytest.approx([p / sum(told) for p in told], abs=1e-4)


def test_vqascore_is_the_probability_that_the_first_token_is_yes(asked):
    """CameraBench's: the softmax over all tokens right behind the prompt, shared out between Yes and No by nobody."""
    record, log_probs, tokenizer = answered(asked, asked[1], VQASCORE)
    told = {word: math.exp(log_probs((tokenizer.encode(word)[0],))[0]) for word in ("No", "Yes")}
    assert record["option_probs"] == pytest.approx(told, rel=1e-3)
    assert record["p_yes"] == record["option_probs"]["Yes"] and sum(told.values()) < 0.5
