"""Rewards and advantages against plainer ways to do the same work, in one run: one `Row` each."""

import json
import re
from collections.abc import Callable
from functools import partial
from random import Random
from string import ascii_uppercase
from typing import Any

from tests.bench.row import Row

RESPONSES = 10_000
ROWS, TOKENS, GROUP = 1024, 4096, 8


def rows(seconds: Callable[[Callable[[], object]], float]) -> list[Row]:
    """`seconds` times a call."""
    return [*scoring(seconds), *parsing(seconds), *advantages(seconds)]


# ---------------------------------------------------------------- rewards


def _responses() -> list[tuple[str, dict[str, Any]]]:
    """Responses of about 300 tokens to as many prompts per task, eight to each prompt, right ones and wrong ones."""
    rng = Random(0)
    words = "the picture slides left near more than far so camera trucks and room turns behind box window".split()

    def text(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    def sample(task: str, number: int) -> tuple[dict[str, Any], list[str]]:
        fields = {"id": f"{task}-{number}", "task": task, "options": [], "spans": [], "boxes": []}
        if task in ("binary", "choice"):
            fields |= {"options": ["No", "Yes", "left", "right"][: 2 if task == "binary" else 4], "answer": "B"}
            return fields, ["B", "A", "(B)", "A. No"]
        if task in ("numerical", "regression"):
            return fields | {"answer": str(number)}, [str(number), str(number + 1), "many", f"{number}.0"]
        if task in ("ocr", "open_ended"):
            gold = text(12)
            return fields | {"answer": gold}, [gold, text(12), gold[:-10], text(30)]
        if task == "math":
            wrong = rf"\frac{{{number}}}{{7}}"
            return fields | {"answer": rf"\frac{{{number}}}{{8}}"}, [f"{number}/8", f"{number / 8}", wrong, "x"]
        if task == "temporal_grounding":
            return fields | {"spans": [[3.0, 9.5]]}, ["3.0 to 9.5", "1 to 4.5", "9 to 3", "12.0 to 13.0"]
        corners = [rng.choices(range(40), k=4) for _ in range(8)]
        boxes = [[x0, y0, x1 + 50, y1 + 50] for x0, y0, x1, y1 in corners]
        others = [boxes, [[value + 3 for value in box] for box in boxes], boxes[:4], [[0, 0, 90, 90]] * 8]
        return fields | {"boxes": boxes}, [json.dumps(value) for value in others]

    tasks = "binary choice numerical regression ocr open_ended math temporal_grounding tracking".split()
    out = []
    for number in range(RESPONSES // GROUP):
        fields, answers = sample(tasks[number % len(tasks)], number)
        for _ in range(GROUP):
            answer = rng.choice(answers)
            seen, thought = text(120), text(150)
            out.append(
                (f"<observation>{seen}</observation>\n<think>{thought}</think>\n<answer>{answer}</answer>", fields)
            )
    return out


_PLAIN = re.compile(
    r"\s*<observation>(.*?)</observation>\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL
)


def _plain_score(response: str, sample: dict[str, Any], rouge: Any) -> float:
    """The libraries one by one, as one would call them from their read-me files."""
    from jiwer import wer
    from math_verify import parse, verify

    match = _PLAIN.fullmatch(response)
    if match is None:
        return 0.0
    answer, task = match[3].strip(), sample["task"]
    if task in ("binary", "choice"):
        texts = [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, sample["options"])]
        return 0.1 + 0.9 * (answer.strip("()") == sample["answer"] or answer in texts)
    if task in ("numerical", "regression", "temporal_grounding"):
        found = [float(text) for text in re.findall(r"[0-9.]+", answer)]
        if task == "temporal_grounding":
            (start, end), gold = found, sample["spans"][0]
            common = max(0.0, min(end, gold[1]) - max(start, gold[0]))
            return 0.1 + 0.9 * common / (max(end, gold[1]) - min(start, gold[0]))
        if not found:
            return 0.1
        error = abs(found[0] - float(sample["answer"])) / max(float(sample["answer"]), 1e-9)
        marks = [error < 1 - (50 + 5 * step) / 100 for step in range(10)]
        return 0.1 + 0.9 * (error == 0 if task == "numerical" else sum(marks) / 10)
    if task == "ocr":
        return 0.1 + 0.9 * max(0.0, 1 - wer(sample["answer"], answer))
    if task == "open_ended":
        scores = rouge.score(sample["answer"], answer)
        return 0.1 + 0.9 * sum(score.fmeasure for score in scores.values()) / 3
    if task == "math":
        return 0.1 + 0.9 * verify(parse(f"${sample['answer']}$"), parse(f"${answer}$"))
    boxes = json.loads(answer)
    if len(boxes) != len(sample["boxes"]):
        return 0.1
    ious = []
    for box, gold in zip(boxes, sample["boxes"]):
        width, height = min(box[2], gold[2]) - max(box[0], gold[0]), min(box[3], gold[3]) - max(box[1], gold[1])
        common = max(0, width) * max(0, height)
        areas = (box[2] - box[0]) * (box[3] - box[1]) + (gold[2] - gold[0]) * (gold[3] - gold[1])
        ious.append(common / (areas - common))
    return 0.1 + 0.9 * sum(ious) / len(ious)


def scoring(seconds: Callable[[Callable[[], object]], float]) -> list[Row]:
    from rouge_score.rouge_scorer import RougeScorer

    from rewards.camreasoner import reward
    from rewards.maths import equal
    from rewards.response import parse

    responses = _responses()
    plain = RougeScorer(["rouge1", "rouge2", "rougeL"])

    def camreasoner(chosen: list[tuple[str, dict[str, Any]]]) -> None:
        equal.cache_clear()  # what is timed begins with the first rollout of a step
        for response, sample in chosen:
            reward(parse(response), sample)

    def baseline(chosen: list[tuple[str, dict[str, Any]]]) -> None:
        for response, sample in chosen:
            _plain_score(response, sample, plain)

    without_math = [(response, sample) for response, sample in responses if sample["task"] != "math"]
    return [
        Row(
            f"{what}: reward | libraries one by one",
            seconds(partial(camreasoner, chosen)),
            seconds(partial(baseline, chosen)),
            1,
        )
        for what, chosen in (
            (f"scoring {len(responses):,} responses of 300 tokens, nine tasks", responses),
            (f"scoring the {len(without_math):,} of them that are not math", without_math),
        )
    ]


def parsing(seconds: Callable[[Callable[[], object]], float]) -> list[Row]:
    from rewards.response import parse

    texts = [response for response, _ in _responses()]
    parsed = seconds(lambda: [parse(text) for text in texts])
    matched = seconds(lambda: [_PLAIN.fullmatch(text) for text in texts])
    return [Row(f"parsing {len(texts):,} responses: parser | compiled regular expression", parsed, matched, 3)]


# ---------------------------------------------------------------- advantages


def advantages(seconds: Callable[[Callable[[], object]], float]) -> list[Row]:
    import numpy as np
    import torch
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    from rewards.advantages import Batch
    from rewards.advantages.ema_grpo import EmaGrpo
    from rewards.advantages.pa_grpo import PaGrpo

    generator = torch.Generator().manual_seed(0)
    scores_B, others_B = torch.rand(2, ROWS, generator=generator)
    groups, tasks = [str(row // GROUP) for row in range(ROWS)], ["binary", "choice"] * (ROWS // 2)
    lengths_B = torch.randint(TOKENS // 2, TOKENS, (ROWS, 1), generator=generator)
    mask_BT = torch.arange(TOKENS) < lengths_B
    perception_tokens_B = lengths_B.squeeze(1) // 3
    perception_BT = torch.arange(TOKENS) < lengths_B // 3
    reasoning_BT = mask_BT & ~perception_BT
    mask_BT = mask_BT.float()  # to multiply by other types converts them element by element, on every side
    rewards_BT = torch.zeros(ROWS, TOKENS)
    rewards_BT[:, -1] = scores_B

    def ema() -> torch.Tensor:
        return EmaGrpo().advantages(Batch(rewards_BT.sum(1), groups, tasks)).tokens(mask_BT)

    def pa() -> torch.Tensor:
        batch = Batch(scores_B + others_B, groups, tasks, None, scores_B, others_B, perception_tokens_B)
        return PaGrpo().advantages(batch).tokens(mask_BT)

    def verl() -> torch.Tensor:
        return compute_grpo_outcome_advantage(rewards_BT, mask_BT, np.array(groups))[0]

    def ema_by_row() -> torch.Tensor:
        """EMA-GRPO as one writes it row by row."""
        scores, sigma = rewards_BT.sum(1), {}
        for task in set(tasks):
            sigma[task] = torch.tensor([scores[row] for row in range(ROWS) if tasks[row] == task]).std(correction=0)
        out = torch.zeros(ROWS, TOKENS)
        for row in range(ROWS):
            group = torch.tensor([scores[other] for other in range(ROWS) if groups[other] == groups[row]])
            scale = sigma[tasks[row]]
            if ((group - group.mean()) / scale).abs().max() > 5:  # the guard rail
                scale = group.std(correction=0).clamp_min(1e-3)
            out[row] = (scores[row] - group.mean()) / scale * mask_BT[row]
        return out

    def pa_by_row() -> torch.Tensor:
        """PA-GRPO likewise."""
        out = torch.zeros(ROWS, TOKENS)
        for row in range(ROWS):
            for values_B, part_BT in ((scores_B, perception_BT), (others_B, reasoning_BT)):
                group = torch.tensor([values_B[other] for other in range(ROWS) if groups[other] == groups[row]])
                out[row] += (values_B[row] - group.mean()) / (group.std() + 1e-6) * part_BT[row]
        return out

    torch.testing.assert_close(ema(), ema_by_row(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pa(), pa_by_row(), atol=1e-4, rtol=1e-4)
    size = f"{ROWS:,} x {TOKENS:,} tokens"
    times = {work: seconds(work) for work in (ema, pa, verl, ema_by_row, pa_by_row)}
    return [
        Row(f"EMA-GRPO, {size} | verl's grpo", times[ema], times[verl], 1.5),
        Row(f"PA-GRPO, {size} | verl's grpo", times[pa], times[verl], 1.5),
        Row(f"EMA-GRPO, {size} | a loop over rows", times[ema], times[ema_by_row], 1 / 20),
        Row(f"PA-GRPO, {size} | a loop over rows", times[pa], times[pa_by_row], 1 / 20),
    ]
