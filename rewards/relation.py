"""Do the answers about a clip and about its turned twin stand to each other as the right ones do?

The idea is that of CRPO's counterfactual relation reward (arXiv 2605.21988, abstract: answers must change for dynamic
questions and remain for static ones). Its formula was not at hand; this one is ours. Of an answer it is the share of
the twin group's answers that are its counterpart: the option that is right of the turned clip where this one is right
of the clip as it is. So Yes and No must change where the right answer does and agree where it does not, and of a choice
"pan left" asks for "pan right". It does not say which of two consistent pairs is right: accuracy does.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple


class Answer(NamedTuple):
    """One response of a batch.

    Attributes:
        group: name of its prompt, STEP.NUMBER; a question and its twin are the prompts 2 n and 2 n + 1.
        counterpart: of each option, the index of the one that then is right of the twin; None: there is no twin.
        chosen: index of the option that it chose, or None.
    """

    group: str
    counterpart: Sequence[int] | None
    chosen: int | None


def pair_of(group: str) -> tuple[str, int]:
    """What a question and its twin have in common.

    Example:
        >>> pair_of("step000002.00007") == pair_of("step000002.00006") != pair_of("step000002.00008")
        True
    """
    step, _, number = group.rpartition(".")
    return step, int(number) // 2


def relations(answers: Sequence[Answer]) -> list[float | None]:
    """Of each answer the share of the twin group's answers that are its counterpart; None without a twin.

    An answer that names no option has no counterpart, and is none.

    Example:
        >>> other, same = [1, 0], [0, 1]
        >>> relations([Answer(f"s.{branch}", other, chosen) for branch, chosen in ((0, 1), (0, 0), (1, 0), (1, 0))])
        [1.0, 0.0, 0.5, 0.5]
        >>> relations([Answer("s.2", same, 1), Answer("s.3", same, 1), Answer("s.4", None, 1)])
        [1.0, 1.0, None]
    """
    said: dict[str, list[int | None]] = defaultdict(list)
    pairs: dict[tuple[str, int], set[str]] = defaultdict(set)
    for answer in answers:
        if answer.counterpart is not None:
            said[answer.group].append(answer.chosen)
            pairs[pair_of(answer.group)].add(answer.group)
    found: list[float | None] = []
    for answer in answers:
        twin = pairs[pair_of(answer.group)] - {answer.group} if answer.counterpart is not None else set()
        others = [chosen for group in twin for chosen in said[group]]
        if answer.counterpart is None or not others:
            found.append(None)
        else:
            wanted = None if answer.chosen is None else answer.counterpart[answer.chosen]
            found.append(0.0 if wanted is None else sum(chosen == wanted for chosen in others) / len(others))
    return found
