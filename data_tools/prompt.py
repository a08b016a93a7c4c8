"""A sample as a prompt: the same text for SFT, RL and evaluation, asking for the form that the reward reads."""

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from data_tools.sample import IMAGE, PLACEHOLDERS, VIDEO, FieldError, Sample, Task
from rewards.errors import UserError
from rewards.response import SCHEMAS, TAG
from rewards.scorer import schema_for
from rewards.tasks import ANSWER_FORMS

TASKS: tuple[str, ...] = get_args(Task)
DEFAULT = "default"  # the text of all tasks that have none of their own
HOLDER = re.compile(r"\{([a-z_]\w*)\}")
_OPTIONS_LINE = re.compile(r"^\{options\}(?:\n|$)|\n\{options\}$", re.MULTILINE)


class PromptError(UserError):
    """A prompt without a text that is needed; the message names its key."""


class Prompt(BaseModel):
    """The texts around a sample; the user turn is the text of `questions`, then that of `instructions`.

    Placeholders: {question}; {options}, lettered, one a line; {duration} in seconds; {answer_form}, what the task's
    rule reads (rewards.tasks.ANSWER_FORMS); and any key of the sample's `extras`. A line that is {options} alone is
    left out where a sample has none.

    Attributes:
        system: the system turn; empty leaves the model's own default.
        questions: task, or "default" -> text.
        instructions: schema of the response (rewards.response.SCHEMAS) -> task, or "default" -> text. An empty text
            leaves the form to SFT.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = ""
    questions: dict[str, str]
    instructions: dict[str, dict[str, str]]

    @field_validator("questions", "instructions")
    @classmethod
    def _keys_are_known(cls, texts: dict[str, Any], info: Any) -> dict[str, Any]:
        for schema, by_task in {"": texts}.items() if info.field_name == "questions" else texts.items():
            if schema and schema not in SCHEMAS:
                raise ValueError(f"{schema!r} is not a schema; choose from {', '.join(SCHEMAS)}")
            if unknown := [task for task in by_task if task not in (*TASKS, DEFAULT)]:
                raise ValueError(f"{unknown[0]!r} is not a task; choose from {', '.join((*TASKS, DEFAULT))}")
        return texts

    @model_validator(mode="after")
    def _texts_name_no_media(self) -> "Prompt":
        texts = [self.system, *self.questions.values(), *(t for by in self.instructions.values() for t in by.values())]
        for text in texts:
            if found := next((holder for holder in PLACEHOLDERS if holder in text), None):
                raise ValueError(f"{text[:80]!r} holds {found}, which engines replace by a clip: leave it out")
        return self

    @field_validator("questions")
    @classmethod
    def _questions_name_no_tags(cls, questions: dict[str, str]) -> dict[str, str]:
        for task, text in questions.items():
            if tags := named_tags(text):
                raise ValueError(f"{task}: names <{min(tags)}>; tags belong into `instructions`, by schema")
        return questions

    @field_validator("instructions")
    @classmethod
    def _instructions_name_their_tags(cls, instructions: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for schema, texts in instructions.items():
            for task, text in texts.items():
                tags = named_tags(text)
                if wrong := sorted(tags - set(SCHEMAS[schema])):
                    raise ValueError(f"{schema}.{task}: asks for <{wrong[0]}>, which the schema {schema} does not have")
                if tags and (lacking := [tag for tag in SCHEMAS[schema] if tag not in tags]):
                    raise ValueError(
                        f"{schema}.{task}: does not ask for <{lacking[0]}>, which the schema {schema} needs"
                    )
        return instructions

    def question(self, task: str) -> str:
        """The text of `questions` for a task, with its placeholders.

        Raises:
            PromptError: there is none.
        """
        return _by_task(self.questions, task, "prompt.questions")

    def instruction(self, schema: str, task: str) -> str:
        """The text of `instructions` for a schema and a task, with its placeholders.

        Raises:
            PromptError: there is none.
        """
        if schema not in self.instructions:
            raise PromptError(
                f"prompt.instructions has no {schema}, which the reward reads of the task {task}: add it, or choose "
                "another prompt=..."
            )
        return _by_task(self.instructions[schema], task, f"prompt.instructions.{schema}")


def _by_task(texts: Mapping[str, str], task: str, key: str) -> str:
    if task in texts or DEFAULT in texts:
        return texts.get(task, texts.get(DEFAULT, ""))
    raise PromptError(f"{key} has no text for the task {task}, and no default: add one, or choose another prompt=...")


def named_tags(text: str) -> set[str]:
    """Tags of responses that a text names.

    Example:
        >>> sorted(named_tags("Think in <think> </think>, then <answer>A</answer>; <b>quickly</b>."))
        ['answer', 'think']
    """
    return {match[2] for match in TAG.finditer(text)}


PLAIN = Prompt(questions={DEFAULT: "{question}\n{options}"}, instructions={name: {DEFAULT: ""} for name in SCHEMAS})


class Form(BaseModel):
    """How samples are asked and answered: a prompt, and the reward {"name": ..., **settings} that reads the answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: Prompt = PLAIN
    reward: dict[str, Any] = {}

    def schema_of(self, task: str) -> str:
        """Schema of the responses to a task."""
        return schema_for(self.reward, task)

    @property
    def schemas(self) -> dict[str, str]:
        """Task -> schema of the responses to it."""
        return {task: self.schema_of(task) for task in TASKS}

    def messages(self, sample: Sample) -> list[dict[str, str]]:
        """Chat messages of a sample, without the response.

        Raises:
            FieldError, PromptError: see `user_text`.
        """
        return messages(sample, self.prompt, self.schema_of(sample.task))


def user_text(sample: Sample, prompt: Prompt = PLAIN, schema: str = "ota") -> str:
    """Text of the user turn: the clip, the question with its options, then the instruction of the schema and the task.

    Images stand where the question or the options have their placeholders, else in place of the clip.

    Raises:
        FieldError: the sample has nothing for a placeholder, or the prompt does not show its images once each.
        PromptError: the prompt has no text for the schema and the task.

    Example:
        >>> fields = {"id": "1", "video": "a.mp4", "source": "mine", "split": "rl", "task": "binary", "answer": "B"}
        >>> prompt = PLAIN.model_copy(update={"instructions": {"answer": {"default": "Give {answer_form}."}}})
        >>> sample = Sample(**fields, question="Does it pan?", options=["No", "Yes"])
        >>> print(user_text(sample, prompt, "answer"))
        <video>Does it pan?
        A. No
        B. Yes
        Give the letter of the right option.
        >>> del fields["video"]
        >>> sample = Sample(**fields, images=["a.png", "b.png"], question="Same shot size?", options=["No", "Yes"])
        >>> print(user_text(sample))
        <image><image>Same shot size?
        A. No
        B. Yes
    """
    question = filled(prompt.question(sample.task), sample)
    instruction = filled(prompt.instruction(schema, sample.task), sample)
    text = "\n".join(text for text in (question, instruction) if text)
    if not sample.images:
        return VIDEO + text
    held = text.count(IMAGE)
    if held not in (0, len(sample.images)):
        raise FieldError("images", f"are {len(sample.images)}, and the prompt has {held} placeholders {IMAGE} for them")
    return text if held else IMAGE * len(sample.images) + text


def without_media(text: str) -> str:
    """A text of a prompt without the placeholders of clips and images."""
    return text.replace(VIDEO, "").replace(IMAGE, "")


def messages(sample: Sample, prompt: Prompt = PLAIN, schema: str = "ota") -> list[dict[str, str]]:
    """Chat messages of a sample, without the response. No system message leaves the model's own default."""
    turns = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return turns + [{"role": "user", "content": user_text(sample, prompt, schema)}]


def filled(text: str, sample: Sample) -> str:
    """A text of a prompt with the sample's values for its placeholders.

    Raises:
        FieldError: the sample has none for one of them.
    """
    values: dict[str, Any] = {**sample.extras, "question": sample.question}
    values["answer_form"] = ANSWER_FORMS[sample.task]
    if sample.options:
        values["options"] = "\n".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, sample.options))
    else:
        text = _OPTIONS_LINE.sub("", text)
    if sample.duration is not None:
        values["duration"] = f"{sample.duration:g}"

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            where = name if name in ("options", "duration") else f"extras.{name}"
            raise FieldError(where, f"is missing, and the prompt asks for {{{name}}}: another prompt=... does without")
        return str(values[name])

    return HOLDER.sub(value, text)
