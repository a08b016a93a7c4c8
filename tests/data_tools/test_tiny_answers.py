"""The tiny model's warm-up on the form of answers."""

import asyncio
import math

import numpy as np
import pytest

from data_tools.rendered.scene import write_clip
from data_tools.rendered.tiny_answers import Example, obedient, warm_up_answers
from data_tools.rendered.tiny_model import TinySettings, build_model, build_processor, build_tokenizer
from rewards.scorer import Scorer, schema_for

OPTIONS = {"options": ["left", "right"], "answer": "B"}
SAMPLES = {
    "binary": {"options": ["No", "Yes"], "answer": "A"},
    "choice": OPTIONS,
    "grounded_qa": {**OPTIONS, "spans": [[1.0, 2.5], [4.0, 5.0]]},
    "temporal_grounding": {"answer": "", "options": [], "spans": [[1.5, 3.0]]},
    "tracking": {"answer": "", "options": [], "boxes": [[0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.4, 0.4]]},
    "numerical": {"options": [], "answer": "4"},
}


@pytest.mark.parametrize("reward", [{"name": "camreasoner"}, {"name": "videochat_r1"}])
@pytest.mark.parametrize("task", SAMPLES)
def test_an_obedient_response_earns_format_and_accuracy(task, reward):
    if task == "numerical" and reward["name"] == "videochat_r1":
        pytest.skip("no task of VideoChat-R1")
    sample = {"id": "a", "task": task, "spans": [], "boxes": [], "events": [], "question": "?", **SAMPLES[task]}
    scored = asyncio.run(Scorer(reward).score(obedient(sample, schema_for(reward, task)), sample))
    assert scored["format"] == 1 and scored["accuracy"] == 1


def test_the_warm_up_learns_the_responses_and_leaves_the_tower_alone(tmp_path):
    examples = []
    for number, side in enumerate((56, 84)):
        frames = np.random.default_rng(number).integers(0, 255, (4, side, 84, 3), dtype=np.uint8)
        write_clip(tmp_path / f"{number}.mp4", frames, 2.0)
        messages = [{"role": "user", "content": f"<video>Question {number}?"}]
        examples.append(Example(messages, tmp_path / f"{number}.mp4", f"<answer>{'AB'[number]}</answer>"))
    tokenizer = build_tokenizer([example.response for example in examples], 300)
    model = build_model(tokenizer, 0, TinySettings(hidden=32, intermediate=64, layers=1, vision_depth=1))
    tower = {name: weight.clone() for name, weight in model.model.visual.named_parameters()}
    losses: list[float] = []
    last = warm_up_answers(
        model,
        build_processor(tokenizer, 84),
        examples,
        seed=0,
        steps=30,
        batch=2,
        learning_rate=1e-2,
        progress=lambda step, loss: losses.append(loss),
    )
    assert len(losses) == 30 and last == losses[-1] < losses[0] / 2 and math.isfinite(last)
    assert all(
        weight.equal(tower[name]) and weight.requires_grad for name, weight in model.model.visual.named_parameters()
    )
