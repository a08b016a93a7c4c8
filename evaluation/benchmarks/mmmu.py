"""MMMU's rules for free texts, which Video-MMMU's publisher took over (without the random guess at the end)."""

import re
from collections.abc import Sequence
from string import ascii_uppercase

# What comes before an answer; the shortest text behind one of them is taken for the answer of a line.
_BEFORE = (
    "could be |so |is |thus |therefore |final |answer |result |are |in total |total |identify |recognize |"
    "calculated as |counted as |measured as |observed as |concluded as |found to be |equals |determined to be |"
    "number of |value is |adds up to |have |has "
).split("|")
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+\b|(?:\d+\.\d+|\.\d+|\d+)(?:[eE][+-]?\d+)?)")


def named_option(response: str, options: Sequence[str]) -> str:
    """The letter of the option named last: "B." or "B:", else "(B)", else "B ", else by its text; "" if none is.

    Example:
        >>> [named_option(text, ["pan", "tilt"]) for text in ("It is B.", "(A) or (B)", "I say that it is a pan")]
        ['B', 'B', 'A']
    """
    for mark in ",.!?;:'":
        response = response.strip(mark)
    text, letters = f" {response} ", ascii_uppercase[: len(options)]
    for forms in (("{}.", "{}:"), ("({})",), ("{} ",)):
        if found := [form for form in forms if any(form.format(letter) in text for letter in letters)]:
            named = [letter for letter in letters if any(form.format(letter) in text for form in found)]
            place = " {} " if found[0] == "{} " else found[0]
            return max(named, key=lambda letter: text.rfind(place.format(letter)))
    by_place = {text.lower().rfind(option.lower()): letter for letter, option in zip(letters, options)}
    return by_place[max(by_place)] if len(text.split()) > 5 and max(by_place) >= 0 else ""


def open_right(response: str, golds: Sequence[str]) -> bool:
    """Whether an open answer holds a gold text, or a number equal to a gold number to two decimals.

    Example:
        >>> open_right("So the result is 3.43 seconds.", ["24/7", "3.429"]), open_right("It is 4.", ["3"])
        (True, False)
    """
    lines = response.strip().strip(".").lower().split("\n")
    keys = []
    for number, line in enumerate(lines, 1):
        before = [*_BEFORE, "="] if number == len(lines) else _BEFORE
        behind = [line.split(words)[-1].strip() for words in before if words in line]
        if found := min(filter(None, behind), key=len, default=""):
            keys += [found] if found not in (":", ",", ".", "!", "?", ";", "'") else []
    keys = keys or ["\n".join(lines)]
    said = {form for text in (*keys, *(n for key in keys for n in _NUMBER.findall(key))) for form in _forms(text)}
    wanted = {form for gold in golds for form in _forms(gold)}
    texts = [text for text in wanted if isinstance(text, str)]
    return any(any(text in form for text in texts) if isinstance(form, str) else form in wanted for form in said)


def _forms(text: str) -> list[str | float]:
    """A number to two decimals; else the text in lower case, a single letter with a blank on either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
