"""A teacher that needs no model, behind a local server.

`RenderedTeacher` stands in for the papers' large models on rendered clips. It recognises each clip by its bytes, and so
knows the camera's track. It writes valid chains and, at a set rate, each kind of flawed one that the filters must find.
"""

import asyncio
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from data_tools.rendered.questions import BINARY_QUESTIONS, chain_for
from data_tools.sample import Sample
from data_tools.synthesis.local_server import Body, chance, texts_of
from data_tools.tracks import Track, motion_of_track
from rewards.judges.rules import RuleJudge
from rewards.motions import NAMES, confusable, observation

FLAWS = ("malformed", "wrong answer", "other reasoning", "half an observation", "hindsight")


class RenderedTeacher:
    """Answers of a generator and of a judge about the rendered clips under `media_root`, the same whenever asked.

    `flaws`: share of flawed chains, evenly over `FLAWS`.
    """

    def __init__(self, media_root: Path, flaws: float = 0.4) -> None:
        self.flaws = flaws
        self._motions = {
            hashlib.sha256(clip.read_bytes()).hexdigest(): motion_of_track(Track.load(clip.with_suffix(".json")))
            for clip in sorted(media_root.rglob("*.mp4"))
        }

    def __call__(self, body: Body) -> str:
        if "response_format" in body:
            return asyncio.run(_verdict(json.loads(body["messages"][-1]["content"])))
        return self._chain(body)

    def _chain(self, body: Body) -> str:
        motion = self._motions[hashlib.sha256(_video_of(body)).hexdigest()]
        text = texts_of(body)[-1]
        question, *lines = text.splitlines()
        options = [match[1] for line in lines if (match := re.fullmatch(r"[A-Z]\. (.*)", line))]
        fields = _fields(question, options)
        asked = fields["extras"].get("asked")
        right = ("Yes" if motion == asked else "No") if asked else NAMES[motion]
        answer = chr(ord("A") + options.index(right))
        fields["extras"]["motion"] = motion
        sample = Sample(id="local", video="clip.mp4", source="rendered", split="sft", answer=answer, **fields)
        luck = chance(text, motion, str(body.get("seed")))
        flaw = FLAWS[int(luck / self.flaws * len(FLAWS))] if luck < self.flaws else None
        return _flawed(sample, flaw)


def _flawed(sample: Sample, flaw: str | None) -> str:
    chain, motion = chain_for(sample), sample.extras["motion"]
    if flaw == "malformed":
        return chain.replace("</think>", "")
    if flaw == "wrong answer":
        other = next(option for option in sample.options if option != sample.answer_text)
        return chain.replace(f"<answer>{sample.answer_text}", f"<answer>{other}")
    if flaw == "other reasoning":
        asked = sample.extras.get("asked")
        wrong = asked if asked and asked != motion else confusable(motion) or "pan_left"
        return re.sub(r"<think>.*</think>", f"<think>Seen {NAMES[wrong]}.</think>", chain)
    if flaw == "half an observation":
        return chain.replace(observation(motion), observation(motion, terse=True))
    if flaw == "hindsight":
        return chain.replace("<think>", "<think>The given answer must hold. ")
    return chain


async def _verdict(data: dict[str, Any]) -> str:
    """Verdict by rule on the kinds of request of `rewards.judges.endpoint`."""
    rules, judged = RuleJudge(), data["judged"]
    if "statements" in data:
        said = await rules.entailed(list(data["statements"].values()), judged)
        return json.dumps({"entailed": [number for number, yes in enumerate(said, 1) if yes]})
    sample = _fields(data["question"], list(data["options"].values()))
    if isinstance(judged, dict):
        return json.dumps({"consistent": await rules.consistent(judged["think"], judged["answer"], sample)})
    if "right_answer" in data:
        answer_given = sample | {"answer": data["right_answer"][0]}
        return json.dumps({"sufficient": await rules.supports(judged, answer_given)})
    answer = await rules.answer_from_text(judged, sample)
    return json.dumps({"sufficient": answer is not None, "answer": answer})


def _fields(question: str, options: list[str]) -> dict[str, Any]:
    """The fields of a rendered sample that its question determines."""
    asked = next((motion for motion, wording in BINARY_QUESTIONS.items() if wording == question), None)
    return {
        "question": question,
        "options": options,
        "task": "binary" if asked else "choice",
        "extras": {"asked": asked} if asked else {},
    }


def _video_of(body: Body) -> bytes:
    """Bytes of the request's video, from a data or a file address."""
    import base64

    parts = [
        part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    url = next(part["video_url"]["url"] for part in parts if part["type"] == "video_url")
    if url.startswith("data:"):
        return base64.b64decode(url.partition(",")[2])
    return Path(unquote(urlsplit(url).path)).read_bytes()
