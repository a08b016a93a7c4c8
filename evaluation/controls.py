"""Scores under controls: does the model look, and does its answer follow the clip?

Predictions under a control are those of `launch.evaluate eval.controls=[...]`; the questions lie beside them as the
control asks them (`data_tools.controls`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.controls import CONTROLS
from data_tools.sample import read_samples
from evaluation.answers import answers, judge_all, read_predictions
from evaluation.bootstrap import Estimate, Resamples, estimate
from evaluation.runs import Model
from evaluation.table import Metric, Row, Table

SHOULD = {
    "blank": "accuracy must fall to a constant's: there is nothing to see",
    "shuffled_frames": "accuracy must fall where order matters",
    "shuffled_options": "the same option must be chosen",
    "mirrored": "the same letter must be chosen: clip and question are turned together",
    "reversed": "the same letter must be chosen: clip and question are turned together",
}


def control_table(run: Path, models: Sequence[Model], settings: str, seed: int = 0) -> Table | None:
    """Accuracy with and without each control on the same questions, and how often the answer is the same.

    None where no control was run.
    """
    rows: list[Row] = []
    resamples = None
    for control in CONTROLS:
        asked = run / "eval" / "controls" / f"{control}.jsonl"
        if not asked.is_file():
            continue
        samples = list(read_samples(asked))
        for model in models:
            path = run / "eval" / _key(model) / f"{control}.jsonl"
            if not path.is_file():
                continue
            ids = [sample.id for sample in samples]
            changed = judge_all(samples, read_predictions(path, set(ids)), model.schema)
            plain = model.judgements(ids)
            resamples = Resamples([sample.video for sample in samples], seed)
            # By text where only their order was changed, else by place: mirrored texts differ on purpose.
            same = [
                a.chosen is not None
                and b.chosen is not None
                and (
                    a.chosen == b.chosen
                    if control == "shuffled_options"
                    else a.sample.options.index(a.chosen) == b.sample.options.index(b.chosen)
                )
                for a, b in zip(plain, changed)
            ]
            everything = np.ones((len(ids), 1), bool)
            before, after, agree = (
                resamples.means(np.array(column, float), everything)[:, 0]
                for column in ([j.value for j in plain], [j.value for j in changed], same)
            )
            failures = sum(j.outcome in ("missing", "failed", "unjudged") for j in changed)
            malformed = sum(j.outcome in ("malformed", "no_option") for j in changed)
            values = tuple(map(estimate, (before, after, after - before, agree)))
            rows.append(Row(f"{control.replace('_', ' ')} · {model.name}", values, len(ids), failures, malformed))
        first = answers({sample.id: "A" for sample in samples})
        constant = float(np.mean([j.value for j in judge_all(samples, first, "none")]))
        name = f"{control.replace('_', ' ')} · always A"
        values = (None, Estimate(constant), None, None if control == "shuffled_options" else Estimate(1.0))
        rows.append(Row(name, values, len(samples), 0, 0, "baseline"))
    if resamples is None:
        return None
    ran = [control for control in SHOULD if (run / "eval" / "controls" / f"{control}.jsonl").is_file()]
    micro = "micro: over the questions that the control can ask"
    return Table(
        name="controls",
        title="Controls",
        metrics=tuple(Metric(name, micro) for name in ("accuracy without", "accuracy with", "change", "same answer")),
        rows=tuple(rows),
        interval=resamples.caption("clips"),
        settings=settings,
        note="; ".join(f"{control.replace('_', ' ')}: {SHOULD[control]}" for control in ran),
    )


def _key(model: Model) -> str:
    from evaluation.runs import NAMES

    return next((key for key, name in NAMES.items() if name == model.name), model.name)
