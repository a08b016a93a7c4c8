"""CameraBench (arXiv 2504.15376), captions.

Official definitions: linzhiqiu/t2v_metrics, camerabench/caption_evaluation.py.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.benchmark import MICRO, Baselines, Benchmark, Part
from evaluation.benchmarks.judged import ASKED, ask_each
from evaluation.benchmarks.labels import from_source, no_parts
from evaluation.benchmarks.measures import grouped, values_of
from evaluation.grading import Graded
from evaluation.measures import captions
from evaluation.measures.bootstrap import Resamples
from evaluation.predictions import answers
from evaluation.table import Metric
from rewards.judges.protocol import UNJUDGED, Judge


def read_captions(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """`caption_data.json`."""
    no_parts(only)
    return from_source("camerabench_captions", path)


def measure_captions(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Similarity of every caption to its reference by words, and whether the judge finds it entailed."""
    texts = ["" if j.outcome in ("failed", "missing") else j.answer for j in graded]
    references = [j.sample.answer for j in graded]
    by_words = [captions.camerabench(*pair) for pair in zip(texts, references)]
    columns = {name: np.array([of[name] for of in by_words]) for name in by_words[0]}
    columns["CIDEr-D"] = captions.cider_d(texts, references)
    if any(ASKED in j.marks for j in graded):
        columns["matched (judge)"] = values_of(graded, "matched")
    return grouped(columns, graded, resamples)


async def ask_captions(graded: Sequence[Graded], judge: Judge) -> list[Graded]:
    """Whether the reference says what the caption says."""

    async def one(j: Graded) -> dict[str, float] | None:
        verdict = await judge.entailed([j.answer], j.sample.answer)
        return None if verdict is UNJUDGED else {"matched": float(verdict[0])}

    return await ask_each(graded, one)


def caption_baselines(samples: Sequence[Sample]) -> Baselines:
    return {"constant caption": answers({sample.id: "The camera is static." for sample in samples})}


CAPTIONS = Benchmark(
    name="camerabench_captions",
    title="CameraBench, captions",
    sources=("camerabench_captions",),
    read=read_captions,
    metrics=(
        Metric("ROUGE-L", "official: rouge-score with stems; mean over captions"),
        Metric("BLEU-2", "official: nltk, smoothed by method 1; mean over captions"),
        Metric("METEOR-like", "official approximation: sets of words and word pairs, no synonyms; mean over captions"),
        Metric("CIDEr-like", "official approximation: cosine of word counts; mean over captions"),
        Metric("SPICE-like", "official approximation: F1 of word sets; mean over captions"),
        Metric("CIDEr-D", "as defined, 0 to 10, document frequencies of these references; mean over captions", 1),
        Metric("matched (judge)", MICRO),
    ),
    measure=measure_captions,
    baselines=caption_baselines,
    ask=ask_captions,
    note="The official script calls its approximations METEOR, CIDEr and SPICE, and drops failures, which count 0 "
    "here. METEOR and SPICE as defined need WordNet's files and a Java parser and are not computed. matched: by the "
    "named judge instead of GPT-4o",
)
