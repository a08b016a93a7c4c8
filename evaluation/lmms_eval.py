"""Benchmarks that lmms-eval defines, run by lmms-eval on a model that `launch.serve` serves.

This command runs in an environment of lmms-eval's own, since its latex2sympy2 and our hydra-core need different
versions of antlr4:

    python -m venv lmms && lmms/bin/pip install lmms-eval==0.7.3 'filelock<4'
    python -m launch.serve model=runs/demo/main media=~/.cache/huggingface
    lmms/bin/python -m evaluation.lmms_eval tasks=mvbench,videomme run=runs/demo/main

lmms-eval names clips by their paths, so `media` is the folder where it keeps them (HF_HOME). The model is asked as it
was trained: with the run's system prompt and its instruction for the kind of `task`, and whole clips that the server
samples by the run's media budget. lmms-eval searches texts for letters and words and does not know our tags, so it gets
the answer alone; a malformed response becomes "[]", which holds no letter and no word.
"""

import json
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import Field, PositiveInt

from data_tools.cli import Arguments, run_command
from data_tools.files import write_json, write_text
from data_tools.prompt import HOLDER, Form, Prompt
from data_tools.run_folder import RunFolder
from data_tools.sample import Task
from evaluation.grading import parse_answer
from evaluation.runs import recipe_of
from rewards.errors import UserError
from rewards.tasks import ANSWER_FORMS

MALFORMED = "[]"
SECONDS = 600  # for one answer; lmms-eval's own limit is 10


class Keys(Arguments):
    """Keys of this command."""

    tasks: str = Field(description="lmms-eval's names, separated by commas")
    run: Path = Field(description="run folder of the served model")
    endpoint: str = Field("http://127.0.0.1:8000/v1", description="where it is served")
    out: Path = Field(Path("lmms_eval"), description="folder for results.json and responses.jsonl")
    include: Path | None = Field(None, description="folder with further task files")
    task: Task = Field("choice", description="what lmms-eval's tasks ask for: decides instruction and tags")
    limit: PositiveInt | None = Field(None, description="samples per task; all by default")
    concurrent: PositiveInt = Field(8, description="requests in flight")


@dataclass
class Client:
    """Takes the place of the OpenAI client in lmms-eval's model.

    Attributes:
        create: sends a chat request: the OpenAI client's own function.
        schema: of the model's responses.
        system, instruction: of the recipe; the instruction follows the question.
        max_tokens: of a response. lmms-eval's tasks allow 16 and the like, which end within the reasoning.
        records: of each request its messages, the response and the answer; those that failed have neither.
    """

    create: Callable[..., Any]
    schema: str
    system: str
    instruction: str
    max_tokens: int
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def chat(self) -> SimpleNamespace:
        return SimpleNamespace(completions=SimpleNamespace(create=self._answer))

    def request(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """lmms-eval's request with our prompt and limits; without its number of frames, which is the server's to say.

        Example:
            >>> client = Client(print, "ota", "Look.", "Explain.", 64)
            >>> turn = {"role": "user", "content": [{"type": "text", "text": "Does it pan?"}]}
            >>> asked = client.request({"model": "m", "messages": [turn], "max_tokens": 16, "extra_body": {}})
            >>> [turn["content"] for turn in asked["messages"]]
            ['Look.', [{'type': 'text', 'text': 'Does it pan?\\nExplain.'}]]
            >>> asked["max_tokens"]
            64
        """
        turns = deepcopy(payload["messages"])
        if self.instruction:
            question = next(part for part in reversed(turns[-1]["content"]) if part["type"] == "text")
            question["text"] += f"\n{self.instruction}"
        if self.system:
            turns.insert(0, {"role": "system", "content": self.system})
        return {"model": payload["model"], "messages": turns, "temperature": 0, "max_tokens": self.max_tokens}

    def _answer(self, **payload: Any) -> Any:
        asked = self.request(payload)
        record: dict[str, Any] = {"messages": asked["messages"]}
        self.records.append(record)  # lmms-eval calls this from several threads: appending is atomic
        completion = self.create(**asked)
        message = completion.choices[0].message
        parsed = parse_answer(message.content or "", self.schema)
        answer = parsed.answer if parsed.ok else MALFORMED
        record |= {"response": message.content, "answer": answer, "prompt_tokens": completion.usage.prompt_tokens}
        message.content = answer
        return completion


def client_of(run: Path, task: Task, create: Callable[..., Any]) -> Client:
    """A client that asks as the run's recipe does.

    Raises:
        PromptError: the run's prompt has no instruction for the task.
        UserError: its instruction needs what only a sample has.
    """
    recipe = recipe_of(RunFolder(run))
    form = Form(prompt=Prompt.model_validate(recipe["prompt"]), reward=recipe["reward"])
    schema = form.schema_of(task)
    text = form.prompt.instruction(schema, task).replace("{answer_form}", ANSWER_FORMS[task])
    if holder := HOLDER.search(text):
        raise UserError(
            f"{run}: its prompt's instruction asks for {holder[0]}, which lmms-eval's questions do not have"
        )
    return Client(create, schema, form.prompt.system, text, recipe["eval"]["max_tokens"])


def evaluate(keys: Keys) -> None:
    """Run the tasks, print lmms-eval's table and write what was asked and answered.

    Raises:
        UserError: unknown tasks, or requests that failed.
    """
    try:
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.models.chat.openai import OpenAICompatible
        from lmms_eval.tasks import TaskManager
        from lmms_eval.utils import make_table
    except ImportError as error:
        raise UserError(
            f"lmms-eval cannot be imported: {error}; run this in its own environment, see --help"
        ) from error
    model = OpenAICompatible(
        base_url=keys.endpoint,
        api_key="none",
        timeout=SECONDS,
        max_retries=1,  # the OpenAI client repeats failed requests itself
        num_concurrent=keys.concurrent,
        pass_video_url=True,
    )
    client = client_of(keys.run, keys.task, model.client.chat.completions.create)
    model.model_version = model.client.models.list().data[0].id
    model.client = client
    manager = TaskManager(include_path=str(keys.include) if keys.include else None)
    names = keys.tasks.split(",")
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise UserError(f"tasks: lmms-eval has no {', '.join(unknown)}")
    results = simple_evaluate(model=model, tasks=names, task_manager=manager, limit=keys.limit, batch_size=1)
    write_text(keys.out / "responses.jsonl", "".join(json.dumps(record) + "\n" for record in client.records))
    failed = sum("response" not in record for record in client.records)
    if failed:  # lmms-eval has scored the text of the error as an answer
        raise UserError(f"{failed} of {len(client.records)} requests failed, so there is no result; see the log above")
    write_json(keys.out / "results.json", {key: results[key] for key in ("results", "versions", "n-samples")})
    malformed = sum(record["answer"] == MALFORMED for record in client.records)
    sys.stdout.write(
        f"{make_table(results)}\n{malformed} of {len(client.records)} responses malformed; see {keys.out}\n"
    )


if __name__ == "__main__":
    run_command(evaluate, Keys, __doc__ or "")
