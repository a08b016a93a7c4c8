"""Grade responses by rule: the answer found in each response, or why there is none.

Nothing is dropped: a prediction that is missing, failed, malformed or names no option counts as a wrong answer.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from string import ascii_uppercase
from typing import Any, Literal

from data_tools.sample import BY_OPTION, Sample, SampleError
from evaluation.predictions import Prediction, PredictionError
from rewards.maths import MathsError
from rewards.motions import stated_motion
from rewards.reading import chosen_option
from rewards.response import SCHEMAS, ParsedResponse, parse
from rewards.scorer import schema_for
from rewards.tasks import accuracy

Outcome = Literal["right", "wrong", "no_option", "malformed", "failed", "missing", "unjudged"]
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "no_option", "malformed", "failed", "missing", "unjudged")
FAILURES: tuple[Outcome, ...] = ("failed", "missing", "unjudged")  # no answer to grade
MALFORMED: tuple[Outcome, ...] = ("malformed", "no_option")  # the model's own fault
RIGHT = 0.5  # an answer that is right to a degree (IoU, MRA, ...) counts as right from this accuracy on
PLAIN = "none"  # schema of responses without tags
Schema = str | Callable[[str], str]  # of all responses, or by task
# What a publisher's script finds in a response to a sample, as a response that the schema "none" reads; empty: nothing.
Reader = Callable[[str, Sample], str]
_TAGGED = re.compile(rf"<({'|'.join({tag: 0 for tags in SCHEMAS.values() for tag in tags})})>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True)
class Graded:
    """One sample with the grade of its response.

    Attributes:
        outcome: exactly one of OUTCOMES; all but `right` count as wrong.
        reason: why a response is malformed, failed, missing or unjudged; None otherwise.
        response: its text; empty where there is none.
        parsed: the parsed response.
        chosen: text of the option that the response chose, or None.
        stated: motion that the observation states, or None.
        truncated: whether the response was cut at its token limit.
        value: accuracy of the answer in [0, 1], as the reward computes it; 0 where there is none.
        prediction: the record itself, or None.
        motion: what the observation should state; None where the motion is unknown or no observation is asked for.
        marks: further scores by name: a judge's, see `benchmarks.judged`; of twins, see `paired`.
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
    def well_formed(self) -> bool:
        """Whether the response follows its schema; its answer may be wrong."""
        return self.parsed.ok and self.outcome not in ("failed", "missing")

    @property
    def answer(self) -> str:
        """Text of the answer; empty where there is none."""
        return self.parsed.answer or ""

    def probability(self, option: str) -> float | None:
        """Probability that the model gave to the option with this text; None where it gave no finite one."""
        letter = ascii_uppercase[self.sample.options.index(option)]
        return self.prediction.probability(option, letter) if self.prediction else None


@dataclass(frozen=True)
class Counts:
    """Questions, those without an answer, and those with an unreadable one."""

    n: int
    failures: int
    malformed: int


def counts(graded: Iterable[Graded]) -> Counts:
    outcomes = Counter(j.outcome for j in graded)
    return Counts(outcomes.total(), sum(outcomes[o] for o in FAILURES), sum(outcomes[o] for o in MALFORMED))


def parse_answer(text: str, schema: str) -> ParsedResponse:
    """Parse by one of the parser's schemas, or by "none".

    "none" is for responses of other people's models: the answer is the text of the last `<answer>` (likewise for the
    other tags), or the whole text where there is no such tag. An empty answer is malformed.

    Raises:
        KeyError: unknown schema.

    Example:
        >>> parse_answer("It pans. <answer>B</answer>", "none").answer
        'B'
        >>> parse_answer("B. pan left", "none").answer
        'B. pan left'
    """
    if schema != PLAIN:
        return parse(text, schema)
    parts = {match[1]: match[2].strip() for match in _TAGGED.finditer(text)}
    answer = parts.setdefault("answer", text.strip())
    return ParsedResponse(True, None, parts) if answer else ParsedResponse(False, "empty answer")


def run_schema(reward: Mapping[str, Any]) -> Schema:
    """Schema of a run's responses by task, as the reward of its recipe has it."""
    return partial(schema_for, reward)


def schema_of(schema: Schema, task: str = "*") -> str:
    """The schema of a task's responses; by default that of tasks without one of their own."""
    return schema if isinstance(schema, str) else schema(task)


def _parsed(sample: Sample, response: str, schema: str, read: Reader | None) -> ParsedResponse:
    """The response by its schema; or by "none", with what the reader finds for what "none" would."""
    if read is None:
        return parse_answer(response, schema)
    parts = {"answer": ""} | parse_answer(read(response, sample), PLAIN).parts
    parsed = parse_answer(response, PLAIN)
    return replace(parsed, parts=parsed.parts | parts) if parsed.ok else parsed


def by_votes(sample: Sample, prediction: Prediction, schema: Schema = "ota", read: Reader | None = None) -> Prediction:
    """The prediction of the majority of its sampled responses; the options' probabilities are their shares of votes.

    Responses without an option stay in the denominator. Without samples, or without a vote, it is a failure.
    """
    samples = prediction.samples or []
    votes: Counter[int] = Counter()
    voters: dict[int, str] = {}
    for response in samples:
        parsed = _parsed(sample, response, schema_of(schema, sample.task), read)
        if parsed.ok and (index := chosen_option(parsed.answer or "", sample.options)) is not None:
            index = sample.options.index(sample.options[index])  # equal options are one
            votes[index] += 1
            voters.setdefault(index, response)
    if prediction.error is not None or not votes:
        return prediction.model_copy(update={"error": prediction.error or "no vote for any option"})
    shares = {option: votes[sample.options.index(option)] / len(samples) for option in sample.options}
    most = max(votes, key=lambda index: (votes[index], -index))
    return prediction.model_copy(update={"response": voters[most], "option_probs": shares, "p_yes": None})


def grade(sample: Sample, prediction: Prediction | None, schema: Schema = "ota", read: Reader | None = None) -> Graded:
    """Grade one response by the rules of its task. Never raises on what the model said.

    A caption needs a judge: by rule alone it stays `unjudged` and counts as wrong.

    Args:
        read: finds the answer in place of the schema.

    Raises:
        SampleError: a binary sample whose options are not Yes and No, or a gold answer that no rule can read.

    Example:
        >>> sample = Sample(id="1", video="a.mp4", question="Does the camera pan left?", options=["No", "Yes"],
        ...                 answer="B", task="binary", source="mine", split="test")
        >>> said = "<observation>o</observation><think>t</think><answer>Yes</answer>"
        >>> grade(sample, Prediction(id="1", response=said)).outcome
        'right'
        >>> graded = grade(sample, Prediction(id="1", response="Yes"))
        >>> graded.outcome, graded.reason
        ('malformed', 'missing <observation>')
        >>> grade(sample, Prediction(id="1", response="Yes"), schema="none").outcome
        'right'
    """
    if sample.task == "binary" and {option.casefold() for option in sample.options} != {"yes", "no"}:
        raise SampleError(f"sample {sample.id!r}: options: binary needs Yes and No, got {sample.options}")
    name = PLAIN if read else schema_of(schema, sample.task)
    parsed = _parsed(sample, prediction.response if prediction else "", name, read)
    observes = name == PLAIN or "observation" in SCHEMAS[name]
    chosen = stated = None
    outcome: Outcome
    value, reason = 0.0, None
    if prediction is None:
        outcome, reason = "missing", "no prediction"
    elif prediction.error is not None or prediction.finish_reason == "error":
        outcome, reason = "failed", prediction.error or "failed without a reason"
    elif not parsed.ok:
        outcome, reason = "malformed", parsed.error
    else:
        stated = stated_motion(parsed.observation or "")
        index = chosen_option(parsed.answer or "", sample.options) if sample.options else None
        chosen = None if index is None else sample.options[index]
        outcome, value = _by_task(sample, parsed, chosen)
        reason = "a caption needs a judge" if outcome == "unjudged" else None
    return Graded(
        sample,
        outcome,
        reason,
        response=prediction.response if prediction else "",
        parsed=parsed,
        chosen=chosen,
        stated=stated,
        truncated=prediction is not None and prediction.finish_reason == "length",
        value=value,
        prediction=prediction,
        motion=sample.extras.get("motion") if observes else None,
    )


def _by_task(sample: Sample, parsed: ParsedResponse, chosen: str | None) -> tuple[Outcome, float]:
    """Outcome and accuracy of a well-formed response."""
    if sample.task == "caption":
        return "unjudged", 0.0
    if sample.task in BY_OPTION and chosen is None:
        return "no_option", 0.0
    if sample.task == "grounded_qa":  # its spans are scored apart
        value = float(chosen == sample.answer_text)
    else:
        forms = [sample.answer, *sample.extras.get("also", ())]  # some published golds are lists
        glue = parsed.parts.get("glue")
        try:
            value = max(accuracy(parsed.answer or "", vars(sample) | {"answer": form}, glue) for form in forms)
        except MathsError:
            raise
        except ValueError as error:  # of the gold; never because of what the model said
            raise SampleError(
                f"sample {sample.id!r}: answer: {error}: no answer to it can be scored as {sample.task}; "
                "correct the label, or leave the question out"
            ) from error
    return "right" if value >= RIGHT else "wrong", value


def paired(graded: Iterable[Graded], twins: Iterable[Graded]) -> list[Graded]:
    """The responses, marked where their question was asked of turned clips, too (`data_tools.controls.twins`).

    Marks: `pairs`, their number, and `pairs right`, of how many both answers are right.
    """
    by_id: dict[str, list[bool]] = {}
    for twin in twins:
        by_id.setdefault(twin.sample.id, []).append(twin.right)
    return [
        replace(j, marks={**j.marks, "pairs": len(found), "pairs right": j.right * sum(found)})
        if (found := by_id.get(j.sample.id))
        else j
        for j in graded
    ]


def grade_all(
    samples: Iterable[Sample], predictions: Mapping[str, Prediction], schema: Schema = "ota", read: Reader | None = None
) -> list[Graded]:
    """Grades in the order of `samples`.

    Raises:
        PredictionError: unknown schema.
    """
    if isinstance(schema, str) and schema not in (PLAIN, *SCHEMAS):
        raise PredictionError(f"schema {schema!r}: choose one of {', '.join((PLAIN, *SCHEMAS))}")
    return [grade(sample, predictions.get(sample.id), schema, read) for sample in samples]
