"""A tiny model of a real family, built on the spot: no download, every random number seeded.

Its architecture, files and chat template are those of the real model, so that the engines take the same code paths
(tiny_families.py). It is not pretrained. In place of that, a short warm-up of the vision tower, with a linear head that
is thrown away afterwards, teaches it to distinguish camera motions, since a pretrained tower has such features. The
warm-up uses no text: SFT and RL teach the model everything about questions and answers.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from data_tools.rendered.tiny_families import MERGE, SYSTEM, TEMPORAL_PATCH, TINY_FAMILIES, TinySettings
from rewards.motions import PRIMITIVES

if TYPE_CHECKING:
    from data_tools.tracks import Track
UNNAMED = -100  # label of a clip whose motion is not trained on
BOX_WEIGHT = 5.0  # of the mean distance between a box and its prediction, in frame widths
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


def build_tokenizer(texts: Sequence[str], vocabulary: int = 512, family: str = "qwen2_5_vl") -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen's special tokens, learnt from `texts`; it can encode any text."""
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
        chat_template=TINY_FAMILIES[family].chat_template,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int, settings: TinySettings | None = None) -> PreTrainedModel:
    """A model of random weights for `tokenizer`."""
    settings = settings or TinySettings()
    token = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))))
    family = TINY_FAMILIES[settings.family]
    ends = {
        "bos_token_id": token["<|endoftext|>"],
        "eos_token_id": token["<|im_end|>"],
        "pad_token_id": token["<|endoftext|>"],
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.hidden,
        "intermediate_size": settings.intermediate,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.kv_heads,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "initializer_range": settings.init,
        **ends,
    }
    vision = {
        "depth": settings.vision_depth,
        "hidden_size": settings.hidden,
        "intermediate_size": settings.intermediate,
        "num_heads": settings.heads,
        "patch_size": family.patch,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
        "out_hidden_size": settings.hidden,
        "initializer_range": settings.init,
    }
    marks = {
        "image_token_id": token["<|image_pad|>"],
        "video_token_id": token["<|video_pad|>"],
        "vision_start_token_id": token["<|vision_start|>"],
        "vision_end_token_id": token["<|vision_end|>"],
    }
    config = family.config(settings, text, vision, {**marks, "tie_word_embeddings": True})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = family.model(config)
    model.generation_config = GenerationConfig(**ends)
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast, size: int, family: str = "qwen2_5_vl") -> ProcessorMixin:
    """The processor for clips of at most `size` x `size` pixels."""
    return TINY_FAMILIES[family].processor(tokenizer, size)


def save_model(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Write model, tokenizer, processor and chat template as an ordinary Hugging Face folder."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def patches(clips_NTHW3: np.ndarray, family: str = "qwen2_5_vl") -> tuple[torch.Tensor, torch.Tensor]:
    """Clips uint8 as the pixel values [patches, channels * 2 * side * side] and grids [N, 3] of the processor."""
    clips_NTHW3 = np.array(clips_NTHW3)  # a writable copy, also of a memory map
    row = TINY_FAMILIES[family]
    mean, std, side = torch.tensor(row.image_mean), torch.tensor(row.image_std), row.patch
    pixels = (torch.from_numpy(clips_NTHW3).float() / 255 - mean) / std
    clips, frames, height, width, _ = pixels.shape
    time, rows, columns = frames // TEMPORAL_PATCH, height // side, width // side
    pixels = pixels.movedim(-1, 2).reshape(
        clips, time, TEMPORAL_PATCH, 3, rows // MERGE, MERGE, side, columns // MERGE, MERGE, side
    )
    pixels = pixels.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(clips * time * rows * columns, -1)
    return pixels, torch.tensor([[time, rows, columns]] * clips)


def clip_tokens(model: PreTrainedModel, clips_NTHW3: np.ndarray) -> torch.Tensor:
    """Visual tokens [N, tokens, hidden] of clips uint8."""
    pixels, grid = patches(clips_NTHW3, model.config.model_type)
    tokens = model.model.visual(pixels, grid_thw=grid).pooler_output
    return tokens.reshape(len(clips_NTHW3), -1, tokens.shape[-1])


def warm_up_vision(
    model: PreTrainedModel,
    clips_NTHW3: np.ndarray,
    motions: Sequence[str | None],
    seed: int,
    steps: int = 800,
    batch: int = 16,
    learning_rate: float = 3e-3,
    progress: Callable[[int, float], None] = lambda step, loss: None,
    boxes_N4: np.ndarray | None = None,
) -> torch.nn.Linear:
    """Teach the vision tower to distinguish the 15 motions, in place of pretraining.

    A linear head predicts the motion from each visual token by itself, so that every token learns to carry it.

    Args:
        clips_NTHW3: uint8 frames.
        motions: primitive of each clip; None where the motion is not trained on.
        progress: called with the step and its loss.
        boxes_N4: box around the tracked object, from 0 to 1, or NaN where there is none. The same head learns to
            predict it from each token, relative to the token's own position, the only one that the tower knows.

    Returns:
        The head [hidden -> 15, or 19 with boxes], to measure the tower by.
    """
    labels_N = torch.tensor([UNNAMED if motion is None else PRIMITIVES.index(motion) for motion in motions])
    boxes = None if boxes_N4 is None else torch.tensor(boxes_N4, dtype=torch.float32)
    middles = _token_middles(clips_NTHW3.shape, MERGE * TINY_FAMILIES[model.config.model_type].patch)
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
        read = head(clip_tokens(model, clips_NTHW3[chosen]))
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


def _token_middles(shape_NTHW3: Sequence[int], token: int) -> torch.Tensor:
    """Middle (x, y, x, y) of each visual token [tokens, 4] of a clip, `token` pixels wide, from 0 to 1."""
    _, frames, height, width, _ = shape_NTHW3
    y, x = ((torch.arange(side // token) + 0.5) * token / side for side in (height, width))
    one_frame = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flip(-1).reshape(-1, 2)
    return one_frame.repeat(frames // TEMPORAL_PATCH, 2)


def _warm_cosine(step: int, steps: int, warm: int = 30) -> float:
    """Learning rate as a share of its peak: a linear rise, then a cosine down to a twentieth."""
    return min(1, (step + 1) / warm) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)


def motion_accuracy(
    model: PreTrainedModel, head: torch.nn.Linear, clips_NTHW3: np.ndarray, motions: Sequence[str | None]
) -> float:
    """Share of clips whose motion `head` predicts from the mean of the visual tokens."""
    parts = np.array_split(clips_NTHW3, max(1, len(clips_NTHW3) // 64))
    with torch.no_grad():
        read = torch.cat([head(clip_tokens(model, part).mean(1)) for part in parts])
    named = read[:, : len(PRIMITIVES)].argmax(-1)
    return float(np.mean([PRIMITIVES[number] == motion for number, motion in zip(named.tolist(), motions)]))


def split_into_pairs(clips_NTHW3: np.ndarray, tracks: "list[Track]") -> tuple[np.ndarray, list[str | None], np.ndarray]:
    """Each pair of frames, which the vision tower sees by itself, as a clip.

    Returns:
        The pairs [N * T / 2, 2, H, W, 3]; the motion of each, None where a box is to be predicted; these boxes [., 4]
        from 0 to 1, NaN elsewhere.
    """
    from data_tools.rendered.scene import boxes_of_track
    from data_tools.tracks import motion_of_track, span_of_track

    motions: list[str | None] = []
    boxes = []
    for track in tracks:
        motion, (start, stop) = motion_of_track(track), span_of_track(track) or (0, 0)
        seconds = np.arange(0, len(track.focal_T), 2) / track.fps
        if track.target_23 is None:
            motions += [motion if start <= second < stop else "static" for second in seconds]
            boxes += [[np.nan] * 4] * len(seconds)
        else:
            motions += [None] * len(seconds)
            boxes += (boxes_of_track(track)[::2] / 100).tolist()
    return clips_NTHW3.reshape(-1, 2, *clips_NTHW3.shape[2:]), motions, np.array(boxes)
