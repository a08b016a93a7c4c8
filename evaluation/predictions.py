"""Read predictions from a file, whoever made it."""

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data_tools.files import JsonError, parse_json, read_lines
from data_tools.sample import first_fault
from rewards.errors import UserError

ENGINE_FAILED = "<answer>ERROR</answer>"  # what eval_bench.py writes for a batch that vLLM did not answer


class PredictionError(UserError):
    """A prediction that breaks the contract; the message names file and line."""


class Prediction(BaseModel):
    """A model's response to one sample. Further keys of a record are ignored.

    Attributes:
        id: id of the sample; a whole number stands for its digits.
        response: text of the response, without its prompt; a number stands for its digits; null or NaN: the model gave
            none, which is a failure.
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

    @model_validator(mode="before")
    @classmethod
    def _as_others_write_it(cls, record: Any) -> Any:
        if isinstance(record, dict):
            record = dict(record)
            if "output" in record and "response" not in record:  # eval_bench.py of CamReasoner and OneThinker
                record |= {"id": record.get("id") or record.get("problem_id"), "response": record["output"]}
                if record["output"] == ENGINE_FAILED:
                    record["error"] = "the engine failed"
            if type(record.get("id")) is int:
                record["id"] = str(record["id"])
            said = record.get("response", "")
            if said is None or said != said:  # NaN, as pandas writes it
                record |= {"response": "", "error": record.get("error") or "the response is null"}
            elif type(said) in (int, float):
                record["response"] = str(said)
        return record

    @field_validator("response", "error", "samples")
    @classmethod
    def _can_be_written(cls, said: str | list[str] | None) -> str | list[str] | None:
        """Half a pair of UTF-16, which JSON can name and no file can hold, becomes a question mark."""
        if isinstance(said, list):
            return [one.encode(errors="replace").decode() for one in said]
        return said and said.encode(errors="replace").decode()

    @field_validator("p_yes", "option_probs")
    @classmethod
    def _are_probabilities(cls, value: float | dict[str, float] | None) -> float | dict[str, float] | None:
        for p in value.values() if isinstance(value, dict) else [] if value is None else [value]:
            if isfinite(p) and not 0 <= p <= 1:
                raise ValueError(f"{p} is not a probability")
        return value

    def probability(self, option: str, letter: str) -> float | None:
        """Of an option by its text or letter; None where it is missing or not finite, or the prediction failed."""
        if self.error is not None:
            return None
        reported = {name.strip().casefold(): p for name, p in (self.option_probs or {}).items()}
        p = reported.get(option.casefold(), reported.get(letter.casefold()))
        if p is None and self.p_yes is not None:
            p = {"yes": self.p_yes, "no": 1 - self.p_yes}.get(option.casefold())
        return p if p is not None and isfinite(p) else None


def read_predictions(
    path: Path, ids: Collection[str], left_out: Callable[[str], object] | None = None
) -> dict[str, Prediction]:
    """Read the predictions for the samples `ids`, keyed by sample id. Samples may lack one; see `grade`.

    Args:
        left_out: called with each id that is of no sample; None: such a prediction is an error.

    Raises:
        PredictionError: no such file, nothing for a sample in it, or a bad record, unknown id or duplicate id, with
            its line.
    """
    if not path.is_file():
        raise PredictionError(f"{path}: no such file of predictions")
    predictions: dict[str, Prediction] = {}
    for where, record in _records(path):
        try:
            prediction = Prediction.model_validate(record)
        except ValidationError as error:
            keys = f"; this one has the keys {', '.join(record)}"[:_LONGEST] if isinstance(record, dict) else ""
            raise PredictionError(f"{where}: {first_fault(error)}. {_FORM}{keys}") from error
        if prediction.id not in ids:
            if left_out is None:
                raise PredictionError(
                    f"{where}: id: {prediction.id!r} is not the id of a sample; do predictions and labels "
                    f"belong together? Where the file holds those of other questions too, leave_out=true"
                )
            left_out(prediction.id)
            continue
        if prediction.id in predictions:
            raise PredictionError(f"{where}: id: duplicate id {prediction.id!r}")
        predictions[prediction.id] = prediction
    if not predictions:
        raise PredictionError(f"{path}: no prediction in it{' is of a sample' if left_out else ''}. {_FORM}")
    return predictions


_LONGEST = 200  # characters of a record's keys that a message shows
_FORM = (
    'A file of predictions holds a line {"id": ..., "response": ...} for each question, or a list of such records, '
    'alone or under "results" or another single key'
)


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """The records of a file, each with its place: lines, a list, or an object that holds one."""
    lines = read_lines(path)
    first = next(lines, None)
    if first is None:
        return
    if _is_record(first[1]):
        for number, line in chain([first], lines):
            try:
                yield f"{path}:{number}", parse_json(line)
            except JsonError as error:
                raise PredictionError(f"{path}:{number}: record: {error}") from error
        return
    try:
        content = parse_json(path.read_bytes().removeprefix(BOM_UTF8))
    except JsonError as error:
        raise PredictionError(f"{path}:{first[0]}: record: {error}. {_FORM}") from error
    records = _wrapped(content) if isinstance(content, dict) else content
    if not isinstance(records, list):
        raise PredictionError(f"{path}: neither records nor a list of them. {_FORM}")
    yield from ((f"{path}: record {number}", record) for number, record in enumerate(records, 1))


def _is_record(line: bytes) -> bool:
    """Whether a line is a record by itself; else it begins a list or an object that holds one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and ("id" in record or _wrapped(record) is None)


def _wrapped(content: Mapping[str, Any]) -> list[Any] | None:
    """The list under "results", else the only list of records that an object holds.

    Example:
        >>> _wrapped({"model": "m", "predictions": [{"id": "1", "response": "A"}]})
        [{'id': '1', 'response': 'A'}]
    """
    if isinstance(content.get("results"), list):
        return list(content["results"])
    lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return lists[0] if len(lists) == 1 else None


def answers(said: Mapping[str, str]) -> dict[str, Prediction]:
    """Predictions that consist of these answers, by sample id, for the schema "none"."""
    return {id: Prediction.model_construct(id=id, response=answer) for id, answer in said.items()}
