"""Predictions, and what becomes of each: the answer found in a response, or why there is none.

Nothing is dropped: a prediction that is missing, failed, malformed or names no option counts as a wrong answer.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from data_tools.sample import BY_OPTION, Sample, SampleError, first_fault
from rewards.motions import stated_motion
from rewards.response import SCHEMAS, ParsedResponse, parse
from rewards.tasks import accuracy, chosen_option

Outcome = Literal["right", "wrong", "no_option", "malformed", "failed", "missing", "unjudged"]
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "no_option", "malformed", "failed", "missing", "unjudged")
FAILURES = ("failed", "missing", "unjudged")  # no answer to judge; `no_option` and `malformed` are the model's own
RIGHT = 0.5  # least accuracy of an answer that is right to a degree (IoU, MRA, ...) and counts as right
PLAIN = "none"  # schema of responses without tags
Schema = str | Mapping[str, str]  # of all responses, or by task ("*": all others)
_TAGGED = re.compile(r"<(observation|think|answer|glue)>(.*?)</\1>", re.DOTALL)


class PredictionError(ValueError):
    """A prediction that breaks the contract; the message names file and line."""


class Prediction(BaseModel):
    """What a model said to one sample. Further keys of a record are left alone.

    Attributes:
        id: id of the sample.
        response: text of the response, without its prompt.
        finish_reason: `length` means that the response was cut at its token limit.
        error: why there is no response; None where there is one.
        p_yes: probability of Yes, for Yes/No questions. NaN counts as a failure where a score is needed.
        option_probs: option letter or text -> its probability at the answer token.
        samples: further responses, drawn at a temperature; see `by_votes`.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    id: str = Field(min_length=1)
    response: str
    finish_reason: Literal["stop", "length", "error"] | None = None
    error: str | None = None
    p_yes: float | None = None
    option_probs: dict[str, float] | None = None
    samples: list[str] | None = None

    @field_validator("p_yes", "option_probs")
    @classmethod
    def _are_probabilities(cls, value: float | dict[str, float] | None) -> float | dict[str, float] | None:
        for p in value.values() if isinstance(value, dict) else [] if value is None else [value]:
            if isfinite(p) and not 0 <= p <= 1:
                raise ValueError(f"{p} is no probability")
        return value

    def probability(self, option: str, letter: str) -> float | None:
        """Of an option by its text or letter; None where it is not told or not finite, or the prediction failed."""
        if self.error is not None:
            return None
        told = {name.strip().casefold(): p for name, p in (self.option_probs or {}).items()}
        p = told.get(option.casefold(), told.get(letter.casefold()))
        if p is None and self.p_yes is not None:
            p = {"yes": self.p_yes, "no": 1 - self.p_yes}.get(option.casefold())
        return p if p is not None and isfinite(p) else None


@dataclass(frozen=True)
class Judgement:
    """One sample with what became of it.

    Attributes:
        outcome: exactly one of OUTCOMES; all but `right` count as wrong.
        reason: why a response is malformed, failed, missing or unjudged; None elsewhere.
        response: its text; empty where there is none.
        parsed: the response as the parser saw it.
        chosen: text of the option that the response chose, or None.
        stated: motion that the observation states, or None.
        truncated: whether the response was cut at its token limit.
        value: accuracy of the answer in [0, 1], as the reward computes it; 0 where there is none.
        prediction: the record itself, or None.
        motion: what its observation ought to state; None where no motion is known, or no observation is asked for.
        marks: what a judge said of it besides, by name; see the judged benchmarks.
    """

    sample: Sample
    outcome: Outcome
    reason: str | None
    response: str
    parsed: ParsedResponse
    chosen: str | None
    stated: str | None
    truncated: bool
    value: float = 0.0
    prediction: Prediction | None = None
    motion: str | None = None
    marks: Mapping[str, float] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        return self.outcome == "right"

    @property
    def said_yes(self) -> bool:
        return self.chosen is not None and self.chosen.casefold() == "yes"

    @property
    def answer(self) -> str:
        """Text of the answer; empty where there is none."""
        return self.parsed.answer or ""

    def probability(self, option: str) -> float | None:
        """Of the option with this text, as the model gave it; None where it gave none that is finite."""
        letter = ascii_uppercase[self.sample.options.index(option)]
        return self.prediction.probability(option, letter) if self.prediction else None


def read_predictions(path: Path, ids: Collection[str]) -> dict[str, Prediction]:
    """Read the predictions for the samples `ids`, keyed by sample id. Samples may lack one; see `judge`.

    Raises:
        PredictionError: no such file, nothing in it, or a bad record, unknown id or repeated id, with its line.
    """
    if not path.is_file():
        raise PredictionError(f"{path}: no such file of predictions")
    predictions: dict[str, Prediction] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                prediction = Prediction.model_validate_json(line)
            except ValidationError as error:
                raise PredictionError(f"{path}:{number}: {first_fault(error)}") from error
            if prediction.id not in ids:
                raise PredictionError(
                    f"{path}:{number}: id: {prediction.id!r} is no sample; are these its predictions?"
                )
            if prediction.id in predictions:
                raise PredictionError(f"{path}:{number}: id: {prediction.id!r} stands twice")
            predictions[prediction.id] = prediction
    if not predictions:
        raise PredictionError(f"{path}: holds no prediction")
    return predictions


def parse_answer(text: str, schema: str) -> ParsedResponse:
    """Parse by one of the parser's schemas, or by "none".

    "none" is for responses of other people's models: the answer is what stands in the last `<answer>` (likewise
    the other tags), or the whole text where there is none. An empty answer is malformed.

    Raises:
        KeyError: unknown schema.
    """
    if schema != PLAIN:
        return parse(text, schema)
    parts = {match[1]: match[2].strip() for match in _TAGGED.finditer(text)}
    answer = parts.setdefault("answer", text.strip())
    return ParsedResponse(True, None, parts) if answer else ParsedResponse(False, "empty answer")


def run_schema(reward: Mapping[str, Any]) -> Schema:
    """Schema of the responses of a run, by the reward of its recipe: its `schema`, or VideoChat-R1's by task."""
    if reward.get("name") != "videochat_r1":
        return reward.get("schema", "ota")
    from rewards.videochat_r1 import SCHEMAS as BY_PROMPT

    plain, grounded = BY_PROMPT[reward.get("prompt", "thinking")]
    return {"*": plain, "grounded_qa": grounded}


def schema_of(schema: Schema, task: str = "*") -> str:
    """That of a task's responses; of those without one of their own by default."""
    return schema if isinstance(schema, str) else schema.get(task, schema["*"])


def by_votes(sample: Sample, prediction: Prediction, schema: Schema = "ota") -> Prediction:
    """The prediction of the majority of its sampled responses; the options' probabilities are their shares of votes.

    Votes without an option stay in the denominator. Without samples, or without a vote, it is a failure.
    """
    votes = Counter()
    for response in prediction.samples or []:
        parsed = parse_answer(response, schema_of(schema, sample.task))
        if parsed.ok and (index := chosen_option(parsed.answer, sample.options)) is not None:
            votes[index] += 1
    if prediction.error is not None or not votes:
        return prediction.model_copy(update={"error": prediction.error or "no vote for any option"})
    of = {option: votes[i] / len(prediction.samples) for i, option in enumerate(sample.options)}
    most = max(votes, key=lambda index: (votes[index], -index))
    chosen = next(
        response
        for response in prediction.samples
        if (p := parse_answer(response, schema_of(schema, sample.task))).ok
        and chosen_option(p.answer, sample.options) == most
    )
    return prediction.model_copy(update={"response": chosen, "option_probs": of, "p_yes": None})


def judge(sample: Sample, prediction: Prediction | None, schema: Schema = "ota") -> Judgement:
    """Judge one response by the rules of its task. Never raises on what the model said.

    A caption needs a judge: it stays `unjudged`, and counts as wrong, where only rules are asked.

    Raises:
        SampleError: a binary sample whose options are not Yes and No.
    """
    if sample.task == "binary" and {option.casefold() for option in sample.options} != {"yes", "no"}:
        raise SampleError(f"sample {sample.id!r}: options: binary needs Yes and No, got {sample.options}")
    response = prediction.response if prediction else ""
    name = schema_of(schema, sample.task)
    parsed = parse_answer(response, name)
    observes = name == PLAIN or "observation" in SCHEMAS[name]
    motion = sample.extras.get("motion") if observes else None
    chosen = stated = reason = None
    value = 0.0
    if prediction is None:
        outcome, reason = "missing", "no prediction"
    elif prediction.error is not None or prediction.finish_reason == "error":
        outcome, reason = "failed", prediction.error or "failed without a reason"
    elif not parsed.ok:
        outcome, reason = "malformed", parsed.error
    else:
        stated = stated_motion(parsed.observation or "")
        if sample.options:
            index = chosen_option(parsed.answer, sample.options)
            chosen = None if index is None else sample.options[index]
        if sample.task == "caption":
            outcome, reason = "unjudged", "a caption needs a judge"
        elif sample.task in BY_OPTION and chosen is None:
            outcome = "no_option"
        elif sample.task == "grounded_qa":  # its spans are scored apart
            value = float(chosen == sample.answer_text)
            outcome = "right" if value else "wrong"
        else:
            value = accuracy(parsed.answer, vars(sample), parsed.parts.get("glue"))
            outcome = "right" if value >= RIGHT else "wrong"
    truncated = prediction is not None and prediction.finish_reason == "length"
    return Judgement(sample, outcome, reason, response, parsed, chosen, stated, truncated, value, prediction, motion)


def judge_all(
    samples: Iterable[Sample], predictions: Mapping[str, Prediction], schema: Schema = "ota"
) -> list[Judgement]:
    """Judgements in the order of `samples`."""
    for name in [schema] if isinstance(schema, str) else schema.values():
        if name not in (PLAIN, *SCHEMAS):
            raise PredictionError(f"schema {name!r}: choose one of {', '.join((PLAIN, *SCHEMAS))}")
    return [judge(sample, predictions.get(sample.id), schema) for sample in samples]


def answers(said: Mapping[str, str]) -> dict[str, Prediction]:
    """Predictions that say just these answers, by sample id, for the schema "none"."""
    return {id: Prediction.model_construct(id=id, response=answer) for id, answer in said.items()}


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions as JSON Lines."""
    lines = [json.dumps(p.model_dump(exclude_none=True), ensure_ascii=False) + "\n" for p in predictions]
    path.write_text("".join(lines), encoding="utf-8")
