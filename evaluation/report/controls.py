"""Scores under controls: does the model look, and does its answer follow the clip? (Twins have a metric of their own.)

`launch.evaluate eval.controls=[...]` writes the predictions under a control, and the questions as the control asks them
(`data_tools.controls`).
"""

from collections.abc import Sequence

import numpy as np

from data_tools.controls import CONTROLS
from data_tools.run_folder import RunFolder
from data_tools.sample import read_samples
from evaluation.grading import PLAIN, Graded, counts, grade_all
from evaluation.measures.bootstrap import Estimate, Resamples, estimate
from evaluation.predictions import answers, read_predictions
from evaluation.runs import Model
from evaluation.table import Metric, Row, Table

EXPECTED = {
    "blank": "accuracy must fall to a constant's: there is nothing to see",
    "shuffled_frames": "accuracy must fall where order matters",
    "shuffled_options": "the same option must be chosen",
    "mirrored": "the same letter must be chosen: clip and question are turned together",
    "reversed": "the same letter must be chosen: clip and question are turned together",
}


def control_table(run: RunFolder, name: str, models: Sequence[Model], settings: str, seed: int = 0) -> Table | None:
    """Accuracy with and without each control on the same questions of a set, and how often the answer is the same.

    None where no control was run.
    """
    rows: list[Row] = []
    interval, ran = "", []
    for control in CONTROLS:
        questions = run.controls(name) / f"{control}.jsonl"
        if not questions.is_file():
            continue
        samples = list(read_samples(questions))
        resamples = Resamples([sample.shown for sample in samples], seed)
        label = control.replace("_", " ")
        for model in models:
            path = run.predictions(name, model.key, control)
            if path.is_file():
                plain = model.graded([sample.id for sample in samples])
                predictions = read_predictions(path, {sample.id for sample in samples})
                changed = grade_all(samples, predictions, model.schema)
                rows.append(_row(f"{label} · {model.name}", control, plain, changed, resamples))
                interval = resamples.caption("clips")
        first = answers({sample.id: "A" for sample in samples})
        constant = float(np.mean([j.value for j in grade_all(samples, first, PLAIN)]))
        values = (None, Estimate(constant), None, None if control == "shuffled_options" else Estimate(1.0))
        rows.append(Row(f"{label} · always A", values, len(samples), 0, 0, "baseline"))
        ran.append(f"{label}: {EXPECTED[control]}")
    if not interval:
        return None
    micro = "micro: over the questions that the control can ask"
    return Table(
        name="controls",
        title="Controls",
        metrics=tuple(Metric(name, micro) for name in ("accuracy without", "accuracy with", "change", "same answer")),
        rows=tuple(rows),
        interval=interval,
        settings=settings,
        note="; ".join(ran),
    )


def _row(name: str, control: str, plain: Sequence[Graded], changed: Sequence[Graded], resamples: Resamples) -> Row:
    everything = np.ones((len(plain), 1), bool)
    same = [_same_answer(a, b, by_text=control == "shuffled_options") for a, b in zip(plain, changed)]
    before, after, agree = (
        resamples.means(np.array(column, float), everything)[:, 0]
        for column in ([j.value for j in plain], [j.value for j in changed], same)
    )
    count = counts(changed)
    values = tuple(map(estimate, (before, after, after - before, agree)))
    return Row(name, values, count.n, count.failures, count.malformed)


def _same_answer(a: Graded, b: Graded, by_text: bool) -> bool:
    """Whether both chose the same option: by text where only their order was changed, since mirrored texts differ."""
    if a.chosen is None or b.chosen is None:
        return False
    return a.chosen == b.chosen if by_text else a.sample.options.index(a.chosen) == b.sample.options.index(b.chosen)
