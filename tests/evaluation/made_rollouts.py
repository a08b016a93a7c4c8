"""Questions about camera motions, and rollouts to them as the trainer writes them."""

import json
from pathlib import Path

from data_tools.sample import Sample
from rewards.motions import NAMES, PRIMITIVES, confusable, observation

ATTACK = "<script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"


def questions(split: str, clips: int) -> list[Sample]:
    """Per clip: a Yes, a confusable No, and a choice question."""
    samples = []
    for number in range(clips):
        motion = PRIMITIVES[1:][number % 14]
        for kind, asked in (("yes", motion), ("no", confusable(motion)), ("choice", None)):
            samples.append(
                Sample(
                    id=f"{split}-{number:03d}-{kind}",
                    video=f"clips/{split}-{number:03d}.mp4",
                    question=f"Does the camera {NAMES[asked]}?"
                    if asked
                    else "Which camera movement does the clip show?",
                    options=["No", "Yes"] if asked else [NAMES[motion], NAMES[confusable(motion)], "static"],
                    answer=("B" if kind == "yes" else "A"),
                    task="binary" if asked else "choice",
                    source="synthetic",
                    split=split,
                    extras={"motion": motion, "confusable": True} | ({"asked": asked} if asked else {}),
                )
            )
    return samples


def rollout(sample: Sample, step: int, prompt: int, number: int, right: bool, **given) -> dict:
    """One response; `given` replaces fields of it."""
    motion = sample.extras["motion"]
    seen = f"<observation>{observation(motion)}</observation><think>Seen {NAMES[motion]}.</think>"
    said = sample.answer_text if right else next(o for o in sample.options if o != sample.answer_text)
    group = f"step{step:06d}.{prompt:05d}"
    return {
        "step": step,
        "rollout": f"{group}_{number}_0",
        "id": sample.id,
        "task": sample.task,
        "group": group,
        "score": float(right),
        "mismatch": 0.0,
        "advantage": (1.0 if right else -1.0) * (number + 1) / 4,
        "prompt": sample.question,
        "response": f"{seen}<answer>{said}</answer>",
        "response_tokens": 20 + number,
        "truncated": False,
        "sample": sample.model_dump(mode="json", exclude={"chain"}),
        "accuracy": float(right),
        "format": 1.0,
    } | given


def write_twins(run: Path, step: int, sample: Sample) -> None:
    """Two rollouts to a Yes/No question and its twin, twice: of the first pair one branch is right alone."""
    facts = {"counterpart": [1, 0]}
    origin = sample.model_copy(update={"extras": sample.extras | facts})
    turned = facts | {"turn": "mirrored", "twin_of": sample.id}
    twin = origin.model_copy(update={"id": f"{sample.id}~mirrored", "extras": sample.extras | turned})
    answers = [(True, True), (False, False), (True, True), (True, False)]  # by prompt
    records = [
        rollout([origin, twin][prompt % 2], step, prompt, number, right)
        for prompt, told in enumerate(answers)
        for number, right in enumerate(told)
    ]
    write_step(run, step, records)


def write_step(run: Path, step: int, records: list[dict]) -> Path:
    path = run / f"rl/rollouts/{step}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_training(run: Path, samples: list[Sample], steps: int = 2, learnt: int = 2) -> None:
    """Four rollouts to each of the first samples, all right from step `learnt` on: the prompts flip there.

    Step 1 has a malformed response that would run a script, a thought that leads elsewhere, and one that was cut.
    """
    for step in range(1, steps + 1):
        records = [
            rollout(sample, step, prompt, number, right=step >= learnt or number == 0)
            for prompt, sample in enumerate(samples[:5])
            for number in range(4)
        ]
        if step == 1:
            records[1] |= {"malformed": "missing_observation", "response": f"{ATTACK} <answer>{ATTACK}</answer>"}
            records[6] |= {"mismatch": 1.0}
            records[11] |= {"truncated": True, "advantage": -9.0}
        write_step(run, step, records)
