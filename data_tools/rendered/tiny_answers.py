"""Teach the tiny model the form of its answers, in place of the instruction tuning that real models come with.

On a user's or a study's own files there is no camera track to warm the vision tower up on. What a run needs of its base
model is that it follows the prompt's form at times: RL without SFT starts from it, and a response that is never well
formed earns nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from data_tools.rendered.scene import read_clip
from data_tools.sample import IMAGE, VIDEO
from rewards.response import SCHEMAS
from rewards.tasks import gold_answer

PLACE = "<|vision_start|><|video_pad|><|vision_end|>"
IGNORED = -100  # label of a token that is not learnt
FILLERS = {"observation": "The picture changes.", "think": "This decides the answer."}


@dataclass(frozen=True)
class Example:
    """A prompt, its clip (else its images), and a response in the form that the reward reads."""

    messages: Sequence[dict[str, str]]
    clip: Path | None
    response: str
    images: Sequence[Path] = ()


def obedient(sample: dict[str, Any], schema: str) -> str:
    r"""A response with the sample's own answer and a stock phrase for every thought.

    Example:
        >>> obedient({"task": "choice", "answer": "B", "options": ["a", "b"], "spans": []}, "think_answer")
        '<think>This decides the answer.</think>\n<answer>B</answer>'
    """
    moments = [tuple(span) for span in sample.get("spans") or ()]
    answer = "{:g} to {:g}".format(*moments[0]) if sample["task"] == "temporal_grounding" else gold_answer(sample)
    parts = FILLERS | {"answer": answer, "glue": str(moments)}
    return "\n".join(f"<{tag}>{parts[tag]}</{tag}>" for tag in SCHEMAS[schema])


def warm_up_answers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    examples: Sequence[Example],
    seed: int,
    steps: int = 60,
    batch: int = 8,
    learning_rate: float = 3e-3,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Train the language model on the responses; the tower stays as it is.

    Args:
        progress: called with the step and its loss.

    Returns:
        The last step's loss per token of the responses.
    """
    encoded = [_encoded(processor, example) for example in examples]
    model.model.visual.requires_grad_(False)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    rng, order, last = np.random.default_rng(seed), np.empty(0, int), float("nan")
    for step in range(1, steps + 1):
        while len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(encoded))])
        chosen, order = order[:batch], order[batch:]
        loss = model(**_together(processor, [encoded[number] for number in chosen])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        last = loss.item()
        progress(step, last)
    model.model.visual.requires_grad_(True)
    return last


def _encoded(processor: ProcessorMixin, example: Example) -> dict[str, Any]:
    """Prompt and clip as the processor gives them, and the response's tokens."""
    turns = [{**turn, "content": _with_places(turn["content"])} for turn in example.messages]
    text = processor.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    if example.clip is None:
        found = processor(text=[text], images=[Image.open(path) for path in example.images], return_tensors="pt")
    else:
        clip = torch.from_numpy(read_clip(example.clip)).permute(0, 3, 1, 2)
        found = processor(text=[text], videos=[clip], return_tensors="pt", do_sample_frames=False)
    response = processor.tokenizer(f"{example.response}<|im_end|>", return_tensors="pt").input_ids[0]
    return {**found, "response": response}


def _with_places(text: str) -> str:
    return text.replace(VIDEO, PLACE).replace(IMAGE, PLACE.replace("video", "image"))


def _together(processor: ProcessorMixin, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch: rows padded on the right, of which the responses are learnt."""
    ids, labels = [], []
    for row in rows:
        prompt, response = row["input_ids"][0], row["response"]
        ids.append(torch.cat([prompt, response]))
        labels.append(torch.cat([torch.full_like(prompt, IGNORED), response]))
    pad = processor.tokenizer.pad_token_id
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in ids])
    return {
        "input_ids": padded,
        "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
        "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        "mm_token_type_ids": 2 * (padded == processor.video_token_id) + (padded == processor.image_token_id).long(),
        **{name: torch.cat(parts) for name in _PIXELS if (parts := [row[name] for row in rows if name in row])},
    }


_PIXELS = ("pixel_values_videos", "video_grid_thw", "pixel_values", "image_grid_thw")
