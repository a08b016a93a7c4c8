"""The table of `launch.observe`: what an observation is worth to another model (VideoP2R, figure 4)."""

from collections.abc import Mapping

import numpy as np

from data_tools.run_folder import RunFolder
from data_tools.sample import Sample, read_samples
from evaluation.benchmarks.samples import samples_baselines
from evaluation.grading import PLAIN, Graded, counts, grade_all
from evaluation.measures.bootstrap import Estimate, Resamples, estimate
from evaluation.observed import ALONE
from evaluation.predictions import read_predictions
from evaluation.runs import need, read_json
from evaluation.table import Metric, Row, Table

VIEWS = ("clip", "blank")
STAGE = "observe"


def observed_table(run: RunFolder, name: str, names: Mapping[str, str], settings: str, seed: int = 0) -> Table | None:
    """Accuracy of the base model by whose observation precedes the question; None where launch.observe was not run.

    Args:
        names: key of each model -> its name.
    """
    folder = run.observed(name)
    if not (folder / "observed.json").exists():
        return None
    asked = read_json(folder / "observed.json", STAGE)["asked"]
    rows: list[Row] = []
    samples: list[Sample] = []
    for key, files in asked.items():
        samples = list(read_samples(need(folder / files["samples"], STAGE)))
        ids = {sample.id for sample in samples}
        views = [grade_all(samples, read_predictions(need(folder / files[view], STAGE), ids), PLAIN) for view in VIEWS]
        label = "question alone" if key == ALONE else f"with the observation of {names.get(key, key)}"
        rows.append(_row(label, views, Resamples([sample.shown for sample in samples], seed)))
    constant = grade_all(samples, samples_baselines(samples)["best constant per task"], PLAIN)
    value = Estimate(float(np.mean([j.value for j in constant])))
    rows.append(Row("best constant per task", (value, value), len(samples), 0, 0, "baseline"))
    micro = "accuracy of the base model, micro: over questions that a text can answer"
    return Table(
        name="observed",
        title="What an observation is worth to the base model",
        metrics=(Metric("with the clip", micro), Metric("with a blank clip", micro)),
        rows=tuple(rows),
        interval=Resamples([sample.shown for sample in samples], seed).caption("clips"),
        settings=settings,
        note="Answers are read leniently. Failures and malformed responses: those with the clip. The paper's questions "
        "without a clip have no video at all, ours a blank one",
    )


def _row(label: str, views: list[list[Graded]], resamples: Resamples) -> Row:
    columns = [np.array([j.value for j in graded], float) for graded in views]
    everything = np.ones((len(columns[0]), 1), bool)
    count = counts(views[0])
    values = tuple(estimate(resamples.means(column, everything)[:, 0]) for column in columns)
    return Row(label, values, count.n, count.failures, count.malformed)
