"""A judge of camera movements by rule: no model, no server."""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from rewards.judges.protocol import JudgeError
from rewards.motions import NAMES, stated_motion
from rewards.reading import chosen_option

_NAMES = re.compile(rf"\b({'|'.join(sorted(NAMES.values(), key=len, reverse=True))})\b")
_MOTION_NAMED = {name: motion for motion, name in NAMES.items()}
_PARALLAX = ("near and far alike", "near more than far")


class RuleJudge:
    """Verdicts on rendered clips by the motion lexicon: reads cues and motion names in a text, and nothing else."""

    def __init__(self) -> None:
        self._verdicts = 0

    async def answer_from_text(self, text: str, sample: Mapping[str, Any]) -> str | None:
        """The letter that the stated cue implies.

        Half a cue (a slide without its parallax) leaves two motions; it suffices where both imply the same option.
        """
        self._verdicts += 1
        implied = {_implied(motion, sample) for motion in _stated(text)}
        return implied.pop() if len(implied) == 1 else None

    async def supports(self, text: str, sample: Mapping[str, Any]) -> bool:
        """Whether the stated cue implies the right option."""
        return bool(await self.answer_from_text(text, sample) == sample["answer"])

    async def entailed(self, statements: Sequence[str], text: str) -> list[bool]:
        """Whether a sentence of `text` states the motion of the statement, by its cue or its name.

        Raises:
            JudgeError: a statement that states no single motion.
        """
        self._verdicts += 1
        said = [motions for sentence in re.split(r"[.;\n]", text) if len(motions := _meant(sentence)) == 1]
        verdicts = []
        for statement in statements:
            meant = _meant(statement)
            if len(meant) != 1:
                raise JudgeError(f"the rule judge finds no single motion in {statement!r}; use judge=endpoint")
            verdicts.append(meant in said)
        return verdicts

    async def consistent(self, think: str, answer: str, sample: Mapping[str, Any]) -> bool:
        """Whether what `think` says was seen (after its last "seen") allows the chosen option and it names no other.

        Reasoning that names no motion supports no answer.
        """
        self._verdicts += 1
        chosen = chosen_option(answer, sample["options"])
        seen = think.lower().rpartition("seen ")[2]
        implied = {_implied(motion, sample) for motion in _meant(seen)}
        if chosen is None or ascii_uppercase[chosen] not in implied:
            return False
        concluded = seen.rpartition(":")[2].strip(" .") if ":" in seen else ""
        named = chosen_option(concluded, sample["options"]) if concluded else None
        return named is None or named == chosen

    def metrics(self) -> dict[str, float]:
        return {"verdicts": self._verdicts, "unjudged": 0}


def has_rule(sample: Mapping[str, Any]) -> bool:
    """Whether the rule judge can decide about answers to a sample: the motion is known, and asked for or offered."""
    extras = sample["extras"]
    asked = extras.get("asked") in NAMES if sample["task"] == "binary" else sample["task"] == "choice"
    return "motion" in extras and asked


def _stated(text: str) -> set[str]:
    """Motions whose cue `text` states: one; two if it omits the parallax; none if it contradicts itself."""
    whole = stated_motion(text)
    candidates = [whole] if whole else [stated_motion(f"{text} {parallax}") for parallax in _PARALLAX]
    return {motion for motion in candidates if motion is not None}


def _meant(text: str) -> set[str]:
    """Motions that `text` states by cue, or else by name."""
    return _stated(text) or {_MOTION_NAMED[name] for name in _NAMES.findall(" ".join(text.lower().split()))}


def _implied(motion: str, sample: Mapping[str, Any]) -> str | None:
    """Letter of the option that `motion` makes true; None where the options do not offer it."""
    where, options = sample.get("id", "sample"), sample["options"]
    if sample["task"] == "binary":
        if (asked := sample.get("extras", {}).get("asked")) not in NAMES:
            raise JudgeError(f"{where}: extras.asked: the rule judge covers rendered clips only; use judge=endpoint")
        text = "Yes" if motion == asked else "No"
    elif sample["task"] == "choice":
        text = NAMES[motion]
    else:
        raise JudgeError(f"{where}: task {sample['task']}: the rule judge has no rule for it; use judge=endpoint")
    return ascii_uppercase[options.index(text)] if text in options else None
