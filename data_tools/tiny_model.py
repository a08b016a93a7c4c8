"""A tiny Qwen2.5-VL for the embedded default, built on the spot: no download, every random number seeded.

Its architecture, files and chat template are those of the real model, so that the engines take the very same paths.
What it lacks is pretraining. A short warm-up of the vision tower stands in for it: with a linear head, thrown away
afterwards, it learns to tell camera motions apart, as a pretrained tower brings features to the work. It never meets a
word; all that joins clips to questions and answers is left to SFT and RL.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from rewards.motions import PRIMITIVES

PATCH, TEMPORAL_PATCH, MERGE = 14, 2, 2
UNNAMED = -100  # label of a clip that is not to teach its motion
BOX_WEIGHT = 5.0  # of the mean distance between a box and what is read of it, in frame widths
SYSTEM = "You are a helpful assistant."  # the default of Qwen2.5-VL and of LLaMA-Factory's `qwen2_vl` template
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{ '<|im_start|>system\\n"""
    + SYSTEM
    + """<|im_end|>\\n' }}
{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'video' or 'video' in part -%}
{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif part.type == 'image' or 'image' in part -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}"""
)


@dataclass(frozen=True)
class TinySettings:
    """Sizes of the tiny model; the defaults give 1.3 M parameters.

    Attributes:
        hidden, intermediate, layers, heads, kv_heads: of the language model; the vision tower has the same width.
        vision_depth: blocks of the vision tower, all with full attention.
        init: standard deviation of the weights; a model this small needs more than the usual 0.02.
        tokens_per_second: steps of the temporal position per second of video.
        vocabulary: size of the byte-level BPE vocabulary at most.
    """

    hidden: int = 128
    intermediate: int = 256
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    vision_depth: int = 2
    init: float = 0.06
    tokens_per_second: int = 1
    vocabulary: int = 512


def build_tokenizer(texts: Sequence[str], vocabulary: int = 512) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen's special tokens, learnt from `texts`; it can write any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    roles = [f"system\n{SYSTEM}\n", "user\n", "assistant\n"]
    tokenizer.train_from_iterator([*texts, *roles * 10], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, settings: TinySettings = TinySettings()
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL of random weights for `tokenizer`."""
    token = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))))
    ends = {
        "bos_token_id": token["<|endoftext|>"],
        "eos_token_id": token["<|im_end|>"],
        "pad_token_id": token["<|endoftext|>"],
    }
    half_head = settings.hidden // settings.heads // 2
    rows = 3 * half_head // 8  # the real model's shares: 2/8 time, 3/8 rows, 3/8 columns
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": settings.hidden,
            "intermediate_size": settings.intermediate,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": settings.heads,
            "num_key_value_heads": settings.kv_heads,
            "max_position_embeddings": 2048,
            "rope_theta": 1e4,
            "rope_scaling": {
                "type": "mrope",
                "rope_type": "default",
                "mrope_section": [half_head - 2 * rows, rows, rows],
            },
            "tie_word_embeddings": True,
            "initializer_range": settings.init,
            **ends,
        },
        vision_config={
            "depth": settings.vision_depth,
            "hidden_size": settings.hidden,
            "intermediate_size": settings.intermediate,
            "num_heads": settings.heads,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "window_size": PATCH * 4,
            "fullatt_block_indexes": list(range(settings.vision_depth)),
            "out_hidden_size": settings.hidden,
            "tokens_per_second": settings.tokens_per_second,
            "initializer_range": settings.init,
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**ends)
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast, size: int) -> Qwen2_5_VLProcessor:
    """The processor for clips of at most `size` x `size` pixels."""
    budget = {
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL_PATCH,
        "merge_size": MERGE,
        "min_pixels": (MERGE * PATCH) ** 2,
        "max_pixels": size * size,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**budget),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**budget),
        chat_template=CHAT_TEMPLATE,
    )


def save_model(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, folder: Path) -> None:
    """Write model, tokenizer, processor and chat template as an ordinary Hugging Face folder."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def patches(clips_NTHW3: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips uint8 as the pixel values [patches, channels * 2 * 14 * 14] and grids [N, 3] that the processor gives."""
    clips_NTHW3 = np.array(clips_NTHW3)  # a writable copy, also of a memory map
    mean = torch.tensor(Qwen2VLVideoProcessor.image_mean)
    std = torch.tensor(Qwen2VLVideoProcessor.image_std)
    pixels = (torch.from_numpy(clips_NTHW3).float() / 255 - mean) / std
    clips, frames, height, width, _ = pixels.shape
    time, rows, columns = frames // TEMPORAL_PATCH, height // PATCH, width // PATCH
    pixels = pixels.movedim(-1, 2).reshape(
        clips, time, TEMPORAL_PATCH, 3, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH
    )
    pixels = pixels.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(clips * time * rows * columns, -1)
    return pixels, torch.tensor([[time, rows, columns]] * clips)


def visual_tokens(model: Qwen2_5_VLForConditionalGeneration, clips_NTHW3: np.ndarray) -> torch.Tensor:
    """Visual tokens [N, tokens, hidden] of clips uint8."""
    pixels, grid = patches(clips_NTHW3)
    tokens = model.model.visual(pixels, grid_thw=grid).pooler_output
    return tokens.reshape(len(clips_NTHW3), -1, tokens.shape[-1])


def warm_up_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    clips_NTHW3: np.ndarray,
    motions: Sequence[str],
    seed: int,
    steps: int = 800,
    batch: int = 16,
    learning_rate: float = 3e-3,
    progress: Callable[[int, float], None] = lambda step, loss: None,
    boxes_N4: np.ndarray | None = None,
) -> torch.nn.Linear:
    """Teach the vision tower to tell the 15 motions apart; a stand-in for pretraining, it never meets a question.

    A linear head reads the motion off each visual token by itself, so that every token comes to carry it.

    Args:
        clips_NTHW3: uint8 frames.
        motions: primitive of each clip; None where a clip is not to teach its motion.
        progress: called with the step and its loss.
        boxes_N4: box around the object to be found, from 0 to 1, or NaN where there is none. The same head learns to
            read it off each token, relative to the token's own place: the tower knows no other places.

    Returns:
        The head [hidden -> 15, or 19 with boxes], to measure the tower by.
    """
    labels_N = torch.tensor([UNNAMED if motion is None else PRIMITIVES.index(motion) for motion in motions])
    boxes = None if boxes_N4 is None else torch.tensor(boxes_N4, dtype=torch.float32)
    middles = _token_middles(clips_NTHW3.shape)
    rng = np.random.default_rng(seed)
    head = torch.nn.Linear(model.config.text_config.hidden_size, len(PRIMITIVES) + (0 if boxes is None else 4))
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    parameters = [*model.model.visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    order = np.empty(0, int)
    for step in range(1, steps + 1):
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(labels_N))])
        chosen, order = order[:batch], order[batch:]
        read = head(visual_tokens(model, clips_NTHW3[chosen]))
        logits = read[..., : len(PRIMITIVES)]
        labels = labels_N[chosen, None].expand(logits.shape[:2])
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=UNNAMED)
        if boxes is not None:
            held = ~boxes[chosen].isnan().any(1)
            off = (read[held][..., len(PRIMITIVES) :] + middles - boxes[chosen][held][:, None]).abs()
            loss = loss + BOX_WEIGHT * off.sum() / max(1, off.numel())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress(step, loss.item())
    return head


def _token_middles(shape_NTHW3: Sequence[int]) -> torch.Tensor:
    """Middle (x, y, x, y) of the place of each visual token [tokens, 4] of a clip, from 0 to 1."""
    _, frames, height, width, _ = shape_NTHW3
    y, x = ((torch.arange(side // (PATCH * MERGE)) + 0.5) * PATCH * MERGE / side for side in (height, width))
    one_frame = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flip(-1).reshape(-1, 2)
    return one_frame.repeat(frames // TEMPORAL_PATCH, 2)


def _warm_cosine(step: int, steps: int, warm: int = 30) -> float:
    """Learning rate as a share of its peak: a linear rise, then a cosine down to a twentieth."""
    return min(1, (step + 1) / warm) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)


@torch.no_grad()
def motion_accuracy(
    model: Qwen2_5_VLForConditionalGeneration, head: torch.nn.Linear, clips_NTHW3: np.ndarray, motions: Sequence[str]
) -> float:
    """Share of clips whose motion `head` reads off the mean of the visual tokens."""
    parts = np.array_split(clips_NTHW3, max(1, len(clips_NTHW3) // 64))
    read = torch.cat([head(visual_tokens(model, part).mean(1)) for part in parts])
    named = read[:, : len(PRIMITIVES)].argmax(-1)
    return float(np.mean([PRIMITIVES[number] == motion for number, motion in zip(named.tolist(), motions)]))
