"""Scoring beside the same numbers from scikit-learn, one resample at a time."""

import asyncio
from collections.abc import Callable

from tests.bench.row import Row

AT_MOST = 0.1  # of the loop's time
LOOPED = 10  # resamples that the loop really makes; its time is taken times RESAMPLES / LOOPED


def rows(seconds: Callable[[Callable[[], object]], float]) -> list[Row]:
    """`seconds` times a call."""
    import numpy as np
    from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

    from data_tools.sample import Sample
    from evaluation.benchmarks import BENCHMARKS, evaluate
    from evaluation.benchmarks.camerabench_binary import PRIMITIVES
    from evaluation.benchmarks.camerabench_vqa import CORNERS, TASKS_PER_SKILL
    from evaluation.measures.bootstrap import RESAMPLES
    from evaluation.predictions import Prediction

    rng = np.random.default_rng(0)

    def sample(id: str, video: int, yes: bool, **extras) -> Sample:
        fields = {"question": "?", "options": ["No", "Yes"], "answer": "B" if yes else "A", "task": "binary"}
        return Sample(id=id, video=f"{video}.mp4", source="bench", split="test", extras=extras, **fields)

    def predictions(samples: list[Sample]) -> dict[str, Prediction]:
        scores = rng.random(len(samples))
        return {
            s.id: Prediction(id=s.id, response="Yes" if p > 0.5 else "No", p_yes=p) for s, p in zip(samples, scores)
        }

    def scored(name: str, samples: list[Sample], said: dict[str, Prediction]) -> float:
        return seconds(lambda: asyncio.run(evaluate(BENCHMARKS[name], samples, said, settings="0" * 12)))

    # As many items and videos as CameraBench has.
    binary = [
        sample(str(i), rng.integers(969), rng.random() < 0.12, primitive=PRIMITIVES[i % len(PRIMITIVES)])
        for i in range(7679)
    ]
    skills = list(TASKS_PER_SKILL)
    vqa = []
    for pair in range(3543):
        videos = dict(zip(("pos", "neg"), rng.choice(1071, 2, replace=False).tolist()))
        for asks, shows in CORNERS:
            of = {
                "skill": skills[pair % 9],
                "pair": f"{skills[pair % 9]}-{pair % 81}-{pair}",
                "asks": asks,
                "shows": shows,
            }
            vqa.append(sample(f"{pair}-{asks}-{shows}", videos[shows], asks == shows, **of))
    said, answered = predictions(binary), predictions(vqa)

    def loop() -> None:
        gold = np.array([s.answer == "B" for s in binary])
        score = np.array([said[s.id].p_yes for s in binary])
        primitive = np.array([s.extras["primitive"] for s in binary])
        videos, of = np.unique([s.video for s in binary], return_inverse=True)
        for _ in range(LOOPED):
            weights = np.bincount(rng.integers(0, len(videos), len(videos)), minlength=len(videos))[of]
            for name in PRIMITIVES:
                at = (primitive == name) & (weights > 0)
                for metric, scores_of in (
                    (average_precision_score, score),
                    (roc_auc_score, score),
                    (balanced_accuracy_score, score > 0.5),
                ):
                    metric(gold[at], scores_of[at], sample_weight=weights[at])

    what = f"all numbers of 7,679 Yes/No questions, {RESAMPLES:,} resamples"
    looped = seconds(loop) * RESAMPLES / LOOPED
    binary_seconds = scored("camerabench_binary", binary, said)
    vqa_seconds = scored("camerabench_vqa", vqa, answered)
    return [
        Row(f"{what} | scikit-learn in a loop, three metrics", binary_seconds, looped, AT_MOST),
        Row("14,172 VQA answers likewise | the loop above, for scale", vqa_seconds, looped, AT_MOST),
    ]
