"""A judge that needs no model: verdicts by the words of what it is given, for a local server.

It stands in for the language model behind `judge=endpoint`, so that a rehearsal sends every request that the study
sends. Its verdicts mean nothing beyond that.
"""

import json
import re
from typing import Any

from data_tools.synthesis.local_server import Body
from rewards.motions import NAMES, stated_motion


def verdict(body: Body) -> str:
    """The answer to one request of `rewards.judges.endpoint`.

    Example:
        >>> data = {"statements": {"1": "A door opens.", "2": "A dog barks."}, "judged": "the door opens slowly"}
        >>> verdict({"messages": [{"role": "user", "content": json.dumps(data)}]})
        '{"entailed": [1]}'
    """
    data = json.loads(body["messages"][-1]["content"])
    judged = data["judged"]
    if "statements" in data:
        numbers = [int(number) for number, text in data["statements"].items() if _shares(text, judged)]
        return json.dumps({"entailed": numbers})
    if isinstance(judged, dict):
        return json.dumps({"consistent": bool(judged["think"].strip()) and bool(judged["answer"].strip())})
    if "right_answer" in data:
        return json.dumps({"sufficient": _shares(data["right_answer"], judged)})
    answer = _answer(judged, data["options"])
    return json.dumps({"sufficient": answer is not None, "answer": answer})


def _answer(text: str, options: dict[str, str]) -> str | None:
    """The option that the text names, or the motion that it states; without options a number, else the last word."""
    if options:
        motion = stated_motion(text)
        said = f"{text} {NAMES[motion]}" if motion else text
        return next((letter for letter, option in options.items() if _words(option) <= _words(said)), None)
    numbers = re.findall(r"\d+(?:\.\d+)?", text)
    words = re.findall(r"\w+", text)
    return next(iter(numbers or words[-1:]), None)


def _shares(statement: str, text: str) -> bool:
    """Whether more than half of the statement's words are in the text."""
    words = _words(statement)
    return 2 * len(words & _words(text)) > len(words)


def _words(text: Any) -> set[str]:
    return set(re.findall(r"\w+", str(text).lower()))
