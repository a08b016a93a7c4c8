"""How publishers' scripts find the answer in a response: what several of them share.

A reader (`evaluation.grading.Reader`) turns a response into one that the schema "none" reads. Scripts that know no tags
get the text of the last <answer>, as models that think before they answer are scored.
"""

import re
from collections.abc import Collection, Sequence

from evaluation.grading import PLAIN, parse_answer

_FIRST_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_LEADS = ("The best answer is", "The correct answer is", "The answer is", "The answer")


def answered(response: str) -> str:
    """The text of the last <answer>, or the whole response, without the end token of a LLaVA."""
    return (parse_answer(response, PLAIN).answer or "").replace("</s>", "").strip()


def first_answer(response: str) -> str | None:
    """The text of the first <answer>; None where there is none."""
    match = _FIRST_ANSWER.search(response)
    return match[1].strip() if match else None


def first_letter(text: str, letters: str, leads: Sequence[str] = ()) -> str:
    """The first of some capital letters anywhere in a text, after `leads` and their like are taken out; "" if none is.

    The rule of Video-MME's script, which others have copied: of "Because" it takes the B.

    Example:
        >>> first_letter("The best answer is: B. Because", "ABCD"), first_letter("no idea", "ABCD")
        ('B', '')
    """
    for lead in (*_LEADS, *leads):
        text = text.replace(lead, "")
    return next((character for character in text if character in letters), "")


def only(found: Collection[str]) -> str:
    """The one that was found; "" where there are none or several."""
    return next(iter(found)) if len(found) == 1 else ""
