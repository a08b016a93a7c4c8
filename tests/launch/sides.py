"""What LLaMA-Factory, verl and vLLM make of one prompt with pictures and clips: their own functions, no server."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from launch.engines.llamafactory.config import EVERY_FRAME
from launch.engines.vllm.clips import frames_of


@dataclass(frozen=True)
class Seen:
    """Token ids, grids [[t, h, w]] by kind, positions [3, T], pixels [patches, values] by kind."""

    ids: list[int]
    grids: dict[str, list[list[int]]]
    positions: np.ndarray
    pixels: dict[str, torch.Tensor]


GRIDS = {"image": "image_grid_thw", "video": "video_grid_thw"}
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


def _by_kind(names: dict[str, str], found: Any) -> dict[str, Any]:
    return {kind: found[name] for kind, name in names.items() if found.get(name) is not None}


def media_of(turns: list[dict], patch: int) -> tuple[list[Any], list[Any]]:
    """Pictures and (frames, metadata) of a prompt, by the loader that verl's rollouts use."""
    from qwen_vl_utils import process_vision_info

    images, _ = process_vision_info(turns, image_patch_size=patch, return_video_metadata=True)
    videos = frames_of(turns, patch) if any(part["type"] == "video" for part in turns[-1]["content"]) else []
    return list(images or []), videos


def features_of(processor: Any, turns: list[dict]) -> Any:
    """The processor's features of a prompt, as verl asks for them (0.9.1, agent_loop.py)."""
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    images, videos = media_of(turns, processor.image_processor.patch_size)
    return build_multimodal_processor_inputs(processor, text=[prompt], images=images or None, videos=videos or None)


def actor_positions(processor: Any, features: Any, ids: torch.Tensor) -> torch.Tensor:
    """Positions [3, 1, T], as verl's agent loop computes them (0.9.1, agent_loop.py:917)."""
    kinds = torch.zeros_like(ids)
    kinds[ids == processor.image_token_id], kinds[ids == processor.video_token_id] = 1, 2
    further = getattr(processor, "get_rope_index_kwargs", lambda features: {})
    positions, _ = processor.get_rope_index(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=kinds,
        image_grid_thw=features.get("image_grid_thw"),
        video_grid_thw=features.get("video_grid_thw"),
        **further(features),
    )
    return positions


def actor_side(folder: Path, turns: list[dict]) -> Seen:
    """What verl's agent loop hands to the actor."""
    from verl.utils.tokenizer import hf_processor

    processor = hf_processor(str(folder))
    features = features_of(processor, turns)
    ids = features["input_ids"]
    positions = actor_positions(processor, features, ids)[:, 0].numpy()
    grids = {kind: grid.tolist() for kind, grid in _by_kind(GRIDS, features).items()}
    return Seen(ids[0].tolist(), grids, positions, _by_kind(PIXELS, features))


def rollout_side(folder: Path, turns: list[dict]) -> Seen:
    """What vLLM makes of verl's request, up to the model's input."""
    from transformers import AutoProcessor
    from verl.workers.rollout.utils import qwen2_5_vl_dedup_image_tokens
    from vllm.model_executor.models.registry import ModelRegistry
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.inputs import MultiModalFeatureSpec
    from vllm.multimodal.processing.context import TimingContext
    from vllm.multimodal.processing.inputs import ProcessorInputs

    config = vllm_config(folder)
    processor, hf = MULTIMODAL_REGISTRY.create_processor(config), AutoProcessor.from_pretrained(folder)
    images, videos = media_of(turns, hf.image_processor.patch_size)
    given = {kind: items for kind, items in (("image", images), ("video", videos)) if items}
    asked = qwen2_5_vl_dedup_image_tokens(actor_side(folder, turns).ids, hf)
    request = ProcessorInputs(prompt=asked, mm_data_items=processor.info.parse_mm_data(given))
    seen = processor.apply(request, TimingContext(enabled=False))
    features = [
        MultiModalFeatureSpec(data=item, modality=kind, identifier=f"{kind}{number}", mm_position=place)
        for kind, items in seen["mm_kwargs"].items()
        for number, (item, place) in enumerate(zip(items, seen["mm_placeholders"][kind]))
    ]
    features.sort(key=lambda feature: feature.mm_position.offset)
    model, _ = ModelRegistry.resolve_model_cls(config.hf_config.architectures, config)
    holder = model.__new__(model)  # positions need nothing of it but its configuration
    object.__setattr__(holder, "config", config.hf_config)
    positions, _ = holder.get_mrope_input_positions(seen["prompt_token_ids"], features)
    items = {kind: seen["mm_kwargs"][kind] for kind in given}
    return Seen(
        list(seen["prompt_token_ids"]),
        {kind: [item[GRIDS[kind]].data.tolist() for item in items[kind]] for kind in given},
        positions.numpy(),
        {kind: torch.cat([item[PIXELS[kind]].data for item in items[kind]]) for kind in given},
    )


@cache
def vllm_config(folder: Path) -> Any:
    from vllm.config import ModelConfig

    return ModelConfig(str(folder), dtype="float32", max_model_len=2048, limit_mm_per_prompt={"image": 2, "video": 1})


def sft_side(
    folder: Path, template_name: str, messages: list[dict[str, str]], images: list[str], videos: list[str], limits: Any
) -> tuple[Seen, Callable[[list[int]], torch.Tensor]]:
    """What LLaMA-Factory's collator hands to the model, and the model's logits of that prompt and a response."""
    from llamafactory.data import MultiModalDataCollatorForSeq2Seq, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    processor.video_max_pixels, processor.video_min_pixels = limits.max_pixels, limits.min_pixels
    processor.image_max_pixels, processor.image_min_pixels = limits.max_pixels, limits.min_pixels
    processor.video_fps, processor.video_maxlen = EVERY_FRAME, limits.max_frames
    template = get_template_and_fix_tokenizer(processor.tokenizer, DataArguments(template=template_name))
    turns = [*messages, {"role": "assistant", "content": "x"}]
    turns = template.mm_plugin.process_messages(turns, images, videos, [], processor)
    prompt, _ = template.encode_oneturn(processor.tokenizer, turns)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    collator = MultiModalDataCollatorForSeq2Seq(
        tokenizer=processor.tokenizer, template=template, model=model, processor=processor, label_pad_token_id=-100
    )

    def batch_of(ids: list[int]) -> dict[str, torch.Tensor]:
        feature = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids, "audios": None}
        return collator([feature | {"images": images or None, "videos": videos or None}])

    def logits(response: list[int]) -> torch.Tensor:
        batch = batch_of([*prompt, *response])
        length = len(prompt) + len(response)
        del batch["labels"]
        with torch.no_grad():
            return model(**batch).logits[0, :length]

    batch = batch_of(prompt)
    seen = Seen(
        prompt,
        {kind: grid.tolist() for kind, grid in _by_kind(GRIDS, batch).items()},
        batch["position_ids"][-3:, 0, : len(prompt)].numpy(),
        _by_kind(PIXELS, batch),
    )
    return seen, logits


def logprobs_of(logits: torch.Tensor, response: list[int]) -> np.ndarray:
    """Of the response's tokens, by the logits [T, vocabulary] of a prompt and the response."""
    rows = logits.float().log_softmax(-1)[-len(response) - 1 : -1]
    return rows.gather(1, torch.tensor(response)[:, None])[:, 0].numpy()


@contextmanager
def patched_by_verl(model: Any) -> Iterator[None]:
    """The model as verl's worker runs it (0.9.1, monkey_patch.py); its classes are put back afterwards."""
    from verl.models.transformers.monkey_patch import apply_monkey_patch

    classes = [each for each in vars(sys.modules[type(model).__module__]).values() if isinstance(each, type)]
    before = {each: dict(vars(each)) for each in classes}
    apply_monkey_patch(model, use_remove_padding=False)
    try:
        yield
    finally:
        for each, attributes in before.items():
            for name in set(vars(each)) - set(attributes):
                delattr(each, name)
            for name, value in attributes.items():
                if vars(each)[name] is not value:
                    setattr(each, name, value)


def actor_logprobs(folder: Path, turns: list[dict], response: list[int]) -> np.ndarray:
    """What verl's actor computes of a sampled response, in float32."""
    from transformers import AutoModelForImageTextToText
    from verl.utils.tokenizer import hf_processor

    processor = hf_processor(str(folder))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    features = features_of(processor, turns)
    ids = torch.cat([features["input_ids"], torch.tensor([response])], dim=1)
    text = torch.arange(ids.shape[1]).expand(1, 1, -1)
    given = {name: features[name] for name in (*GRIDS.values(), *PIXELS.values()) if name in features}
    with patched_by_verl(model), torch.no_grad():
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.cat([text, actor_positions(processor, features, ids)]),
            use_cache=False,
            **given,
        ).logits[0]
    return logprobs_of(logits, response)


def answers(folder: Path, asked: list[list[dict]], dtype: str) -> list[tuple[list[int], list[int], np.ndarray]]:
    """Prompt ids, a sampled response and its log-probabilities, of vLLM's engine, for verl's requests."""
    from transformers import AutoProcessor
    from verl.workers.rollout.utils import get_vision_placeholder_token_ids, qwen2_5_vl_dedup_image_tokens
    from vllm import LLM, SamplingParams
    from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

    hf = AutoProcessor.from_pretrained(folder)
    engine = LLM(
        str(folder),
        dtype=dtype,
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=4,
        limit_mm_per_prompt={"image": 2, "video": 1},
        skip_mm_profiling=True,
        enable_prefix_caching=False,
        enable_chunked_prefill=False,
        logprobs_mode="raw_logprobs",
    )
    requests = []
    for turns in asked:
        images, videos = media_of(turns, hf.image_processor.patch_size)
        given = {kind: items for kind, items in (("image", images), ("video", videos)) if items}
        ids = qwen2_5_vl_dedup_image_tokens(actor_side(folder, turns).ids, hf)
        requests.append({"prompt_token_ids": ids, "multi_modal_data": given})
    banned = set(get_vision_placeholder_token_ids(hf))
    allowed = [token for token in range(len(hf.tokenizer)) if token not in banned]
    sampling = SamplingParams(temperature=1.0, max_tokens=16, logprobs=0, seed=1, ignore_eos=True)
    sampling.allowed_token_ids = allowed  # as verl bans them; raw log-probabilities are of all tokens
    found = []
    for result in engine.generate(requests, sampling, use_tqdm=False):
        ids = list(result.outputs[0].token_ids)
        logprobs = [step[token].logprob for step, token in zip(result.outputs[0].logprobs, ids)]
        found.append((list(result.prompt_token_ids), ids, np.array(logprobs)))
    del engine  # its process group would be in the way of another one of this process
    destroy_model_parallel()
    destroy_distributed_environment()
    return found
