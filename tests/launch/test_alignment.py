"""The alignment matrix: what LLaMA-Factory, verl and vLLM make of the same prompts, by family and by what is shown.

It is written to docs/alignment.md, with what differs named there; a table that is out of date fails.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import sides
import torch
from PIL import Image

from data_tools.exports import video_item
from data_tools.media.budget import Budget
from data_tools.media.normalise import Clip
from data_tools.rendered import tiny_model
from data_tools.rendered.questions import demo_texts
from data_tools.rendered.scene import draw_scene, draw_track, render_frames, write_clip
from data_tools.rendered.tiny_families import MERGE, TINY_FAMILIES, TinySettings
from launch.engines import patches
from launch.engines.patches import cpu
from launch.recipe import ROOT

pytestmark = pytest.mark.e2e

TEMPLATES = {"qwen2_5_vl": "qwen2_vl", "qwen3_vl": "qwen3_vl_nothink", "qwen3_5": "qwen3_5_nothink"}
# What is shown: the order of pictures and clips in a question, with a text between them.
SHOWN = {
    "video": ["video"],
    "image": ["image"],
    "several images": ["image", "image"],
    "image and video": ["image", "video"],
}
TITLES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL", "qwen3_5": "Qwen3.5"}
CLOSE, ROUGH = 1e-4, {"qwen3_5": 0.15}  # without a GPU vLLM computes its delta layers in bfloat16 only
KNOWN: dict[tuple[str, str], str] = {}  # (family, "shown, row") -> why it differs; docs/alignment.md tells it too
TOKENS = 3  # visual tokens along the longer side of a frame
FRAMES, STEP_MS = 6, 500


@pytest.fixture(scope="module", params=TINY_FAMILIES)
def family(request, tmp_path_factory):
    """A folder with the family's tiny model, a clip and two pictures, each of whole visual tokens."""
    name, side = request.param, MERGE * TINY_FAMILIES[request.param].patch
    folder, rng = tmp_path_factory.mktemp(name), np.random.default_rng(7)
    tokenizer = tiny_model.build_tokenizer(demo_texts(), family=name)
    model = tiny_model.build_model(tokenizer, 0, TinySettings(name))
    tiny_model.save_model(model, tiny_model.build_processor(tokenizer, TOKENS * side, name), folder / "model")
    size = TOKENS * side
    track = draw_track("truck_left", rng, frames=FRAMES, size=size, fps=1000 / STEP_MS)
    write_clip(folder / "clip.mp4", render_frames(draw_scene(rng), track), 1000 / STEP_MS)
    for number, (wide, high) in enumerate([(3, 2), (2, 3)]):
        picture = rng.integers(0, 255, (high * side, wide * side, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    patches.apply()
    cpu.name_vllm()
    return name, folder, Budget(1000 / STEP_MS, FRAMES, 4, size**2, side**2, token_side=side)


def turns_of(folder: Path, shown: list[str], limits: Budget) -> list[dict]:
    """The prompt as verl's data set gives it."""
    size = TOKENS * limits.token_side
    clip = video_item(folder, Clip("clip.mp4", FRAMES, STEP_MS, size, size, 1.0, ""))
    parts, images = [], 0
    for kind in shown:
        if kind == "video":
            parts.append({"type": "video", **clip})
        else:
            pixels = {"min_pixels": limits.min_pixels, "max_pixels": limits.max_pixels}
            parts.append({"type": "image", "image": str(folder / f"{images}.png"), **pixels})
            images += 1
        parts.append({"type": "text", "text": "Look.\n"})
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "Does the camera move?"}]}]


def in_llamafactorys_form(turns: list[dict]) -> tuple[list[dict], list[str], list[str]]:
    parts = turns[0]["content"]
    text = "".join(part.get("text", f"<{part['type']}>") for part in parts)
    return [{"role": "user", "content": text}], *(
        [part[kind] for part in parts if part["type"] == kind] for kind in ("image", "video")
    )


def parts_of(seen: sides.Seen) -> dict[str, object]:
    pixels = {kind: values.reshape(len(values), -1) for kind, values in seen.pixels.items()}
    return {"prompt ids": seen.ids, "grids": seen.grids, "positions": seen.positions, "pixels": pixels}


def equal(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict) and all(isinstance(value, torch.Tensor) for value in one.values()):
        return one.keys() == other.keys() and all(
            one[kind].shape == other[kind].shape and torch.allclose(one[kind], other[kind], rtol=0, atol=1e-6)
            for kind in one
        )
    return one == other


def compared(actor: sides.Seen, others: dict[str, sides.Seen]) -> dict[str, str]:
    """Row -> cell: which of the others differ from verl's actor."""
    cells = {}
    for row, expected in parts_of(actor).items():
        differing = [name for name, other in others.items() if not equal(expected, parts_of(other)[row])]
        cells[row] = f"differs: {', '.join(differing)}" if differing else "equal"
    return cells


def probabilities(family: str, rollout: np.ndarray, actor: np.ndarray, sft: np.ndarray) -> dict[str, str]:
    from verl.utils.debug.metrics import pearson_correlation_coefficient

    trained, sampled = np.abs(actor - sft).max(), np.abs(actor - rollout).max()
    told, by = f"within {CLOSE:g}", ROUGH.get(family, CLOSE)
    if by > CLOSE:
        told = f"trainers {told}, vLLM within {by:g}"
    pair = [torch.tensor(values)[None].double().exp() for values in (rollout, actor)]
    pearson = pearson_correlation_coefficient(*pair, torch.ones_like(pair[0], dtype=torch.bool))
    return {
        "log-probabilities": told
        if trained <= CLOSE and sampled <= by
        else f"differs: LLaMA-Factory by {trained:.2g}, vLLM by {sampled:.2g}",
        "correlation of rollout and actor": "above 0.999" if pearson > 0.999 else f"{pearson:.3f}",
    }


def section(title: str, cells: dict[str, dict[str, str]]) -> str:
    rows = list(next(iter(cells.values())))
    lines = [f"## {title}", "", f"| | {' | '.join(cells)} |", "|---" * (len(cells) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(column[row] for column in cells.values())} |" for row in rows]
    return "\n".join([*lines, ""])


def test_the_engines_make_the_same_of_every_prompt(family):
    name, folder, limits = family
    asked = {shown: turns_of(folder, kinds, limits) for shown, kinds in SHOWN.items()}
    answers = sides.answers(folder / "model", list(asked.values()), "bfloat16" if name in ROUGH else "float32")
    cells, differing = {}, {}
    for (shown, turns), (ids, response, logprobs) in zip(asked.items(), answers):
        actor = sides.actor_side(folder / "model", turns)
        sft, sft_logits = sides.sft_side(folder / "model", TEMPLATES[name], *in_llamafactorys_form(turns), limits)
        rollout = sides.rollout_side(folder / "model", turns)
        assert ids == rollout.ids  # of the engine that answered
        cells[shown] = compared(actor, {"vLLM": rollout, "LLaMA-Factory": sft})
        cells[shown] |= probabilities(
            name,
            logprobs,
            sides.actor_logprobs(folder / "model", turns, response),
            sides.logprobs_of(sft_logits(response), response),
        )
        bad = {row: cell for row, cell in cells[shown].items() if cell.startswith("differs") or cell[0].isdigit()}
        differing |= {f"{shown}, {row}": cell for row, cell in bad.items()}
    path = ROOT / "docs" / "alignment.md"
    written, text = section(TITLES[name], cells), path.read_text()
    pattern = rf"## {re.escape(TITLES[name])}\n.*?(?=\n## |\Z)"
    assert re.search(pattern, text, re.DOTALL), f"docs/alignment.md has no section {TITLES[name]}"
    current = re.sub(pattern, lambda _: written, text, flags=re.DOTALL)
    if current != text:
        path.write_text(current)
    assert differing.keys() == {place for family, place in KNOWN if family == name}, differing
    assert current == text, f"docs/alignment.md was out of date and is written anew: look at its difference\n{written}"
