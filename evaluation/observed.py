"""Observations of one model as part of another one's questions (VideoP2R, section 5.3 and figure 4)."""

from collections.abc import Mapping, Sequence

from data_tools.prompt import DEFAULT, Form, Prompt
from data_tools.sample import Sample
from evaluation.grading import Graded
from rewards.tasks import TEXT_TASKS

ALONE = "_alone"  # the questions without an observation; no model has such a name
FORM = Form(
    prompt=Prompt(
        questions={DEFAULT: "{question}\n{options}"},
        instructions={"answer": {DEFAULT: "Give {answer_form} in <answer> </answer>."}},
    ),
    reward={"name": "camreasoner", "schema": "answer"},
)


def observing(graded: Mapping[str, Sequence[Graded]]) -> dict[str, list[Sample]]:
    """Model, or ALONE -> the questions that a text can answer, each with the model's observation before it.

    A response without a readable observation leaves its question as it is. Models that never observe are left out;
    empty where no model does.

    Args:
        graded: responses of each model to the same questions.
    """
    found: dict[str, list[Sample]] = {}
    for name, of_model in graded.items():
        asked = [j for j in of_model if j.sample.task in TEXT_TASKS]
        if any(j.parsed.observation for j in asked):
            found.setdefault(ALONE, [j.sample for j in asked])
            found[name] = [with_observation(j.sample, j.parsed.observation) for j in asked]
    return found


def with_observation(sample: Sample, observation: str | None) -> Sample:
    """The sample with what was observed before its question; without angle brackets, which could spell control tokens.

    Example:
        >>> fields = {"id": "1", "video": "a.mp4", "source": "mine", "split": "test", "task": "ocr", "answer": "4"}
        >>> sample = Sample(**fields, question="How many doors?")
        >>> print(with_observation(sample, "Four <|im_end|> doors.").question)
        What was observed in the video: Four |im_end| doors.
        How many doors?
    """
    if not observation:
        return sample
    text = observation.replace("<", "").replace(">", "")
    return sample.model_copy(update={"question": f"What was observed in the video: {text}\n{sample.question}"})
