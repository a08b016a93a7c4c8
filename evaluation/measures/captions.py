"""How similar captions are to their references, by their words alone.

CIDEr-D as defined (Vedantam et al. 2015, section 4; coco-caption's settings), and the five numbers of CameraBench's own
script (linzhiqiu/t2v_metrics, camerabench/caption_evaluation.py). Its METEOR, CIDEr and SPICE are approximations from
word sets and counts, and are named "-like" here. METEOR and SPICE as defined are left out: METEOR needs WordNet, which
no package brings, and SPICE the Stanford parser in Java.
"""

import string
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from functools import cache
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
ORDERS = (1, 2, 3, 4)  # lengths of the n-grams
SIGMA = 6.0  # of the penalty on a difference in length, in words
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, as in CameraBench's script."""
    return text.lower().translate(_NO_PUNCTUATION).split()


def cider_d(captions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """CIDEr-D of each caption against its one reference, in [0, 10]; shape [N].

    With g the tf-idf vector of a text's n-grams, c the caption and r the reference, per n

        10 exp(-(len c - len r)^2 / 2 sigma^2) min(g_c, g_r) . g_r / (|g_c| |g_r|)

    and the mean over n. Document frequencies are those of the references, so that one reference alone scores 0. Words
    are split by `words` instead of the Penn Treebank's tokenizer.
    """
    texts = [(words(caption), words(reference)) for caption, reference in zip(captions, references, strict=True)]
    scores = np.zeros(len(texts))
    for n in ORDERS:
        seen = Counter(gram for _, reference in texts for gram in set(_grams(reference, n)))
        for i, (caption, reference) in enumerate(texts):
            c, r = (_tf_idf(_grams(text, n), seen, len(texts)) for text in (caption, reference))
            common = sum(min(c[gram], r[gram]) * r[gram] for gram in c.keys() & r.keys())
            norms = _norm(c) * _norm(r)
            penalty = exp(-((len(caption) - len(reference)) ** 2) / (2 * SIGMA**2))
            scores[i] += 10 * penalty * common / norms / len(ORDERS) if norms else 0.0
    return scores


def camerabench(caption: str, reference: str) -> dict[str, float]:
    """The five numbers of CameraBench's script, each in [0, 1]; zeros where one of the texts has no word."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    c, r = words(caption), words(reference)
    if not c or not r:
        return dict.fromkeys(("ROUGE-L", "BLEU-2", "METEOR-like", "CIDEr-like", "SPICE-like"), 0.0)
    singles = _precision_recall(set(c), set(r))
    pairs = _precision_recall(set(_grams(c, 2)), set(_grams(r, 2)))
    precision, recall = (0.8 * single + 0.2 * pair for single, pair in zip(singles, pairs))
    counts = Counter(c), Counter(r)
    return {
        "ROUGE-L": _rouge().score(reference, caption)["rougeL"].fmeasure,
        "BLEU-2": sentence_bleu([r], c, (0.5, 0.5), smoothing_function=SmoothingFunction().method1),
        "METEOR-like": _share(10 * precision * recall, recall + 9 * precision),
        "CIDEr-like": sum(counts[0][w] * counts[1][w] for w in counts[0]) / (_norm(counts[0]) * _norm(counts[1])),
        "SPICE-like": _share(2 * singles[0] * singles[1], sum(singles)),
    }


@cache
def _rouge() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def _grams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(text[i:] for i in range(n))))


def _tf_idf(
    grams: Sequence[tuple[str, ...]], seen: Mapping[tuple[str, ...], int], texts: int
) -> dict[tuple[str, ...], float]:
    """Counts weighted by log(texts / texts with the n-gram); one that no reference has counts as if one had it."""
    return {gram: count * log(texts / max(1, seen[gram])) for gram, count in Counter(grams).items()}


def _norm(vector: Mapping[Any, float]) -> float:
    return sqrt(sum(value**2 for value in vector.values()))


def _precision_recall(said: Set[Any], true: Set[Any]) -> tuple[float, float]:
    common = len(said & true)
    return _share(common, len(said)), _share(common, len(true))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
