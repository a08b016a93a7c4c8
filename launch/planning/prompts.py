"""What each split and evaluation set asks: one complete prompt per task, and what is wrong with it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data_tools.prompt import HOLDER, TASKS, Form, Prompt, PromptError, named_tags
from data_tools.run_folder import OWN, SPLITS
from data_tools.sample import BY_OPTION, FieldError, Sample
from launch.planning.sizes import RENDERED_TASKS, require_room
from launch.recipe import Recipe, RecipeError
from launch.recipe.data import SourceFile
from launch.recipe.evaluation import EvalSet
from rewards.response import SCHEMAS

RECORDS = 2_000  # of a published file that are read for examples; its reader names its tasks


def examples(recipe: Recipe) -> dict[str, list[Sample]]:
    """Split, or evaluation set -> one sample of each task that it asks; stand-ins where the files are not there yet.

    What nobody knows the tasks of is missing: a file of samples, or a benchmark's, that is not there.

    Raises:
        SampleError, SourceError, LabelError: a bad file.
    """
    data = recipe.data
    found: dict[str, Iterable[Sample] | None] = {}
    for split in SPLITS:
        if data.rendered is not None:
            size = data.rendered.get(split) or {}
            found[split] = [stand_in(task, recipe.prompt) for key, task in RENDERED_TASKS.items() if size.get(key)]
        else:
            given = (data.files or {}).get(split)
            found[split] = _of_files(given if isinstance(given, list) else [given], split, recipe.prompt)
        taken = data.tasks.get(split)
        if taken is not None:
            found[split] = [sample for sample in found[split] or [] if sample.task in taken]
    found |= {name: _of_set(chosen, form_of_set(recipe, name).prompt) for name, chosen in recipe.other_sets.items()}
    return {name: _one_of_each(samples) for name, samples in found.items() if samples is not None}


def form_of_set(recipe: Recipe, name: str) -> Form:
    """How an evaluation set is asked and answered: as in training, but for what it says of itself."""
    chosen = recipe.eval.sets[name]
    return Form(prompt=chosen.prompt or recipe.prompt, reward={**recipe.reward.model_dump(), **chosen.reward})


def _of_files(given: Sequence[str | SourceFile | None], split: str, prompt: Prompt) -> Iterable[Sample] | None:
    from data_tools.labels import LabelFile, read_split
    from data_tools.sources import named

    samples: list[Sample] = []
    for file in given:
        if file is None:
            continue
        path = Path(file if isinstance(file, str) else file.path)
        if isinstance(file, SourceFile):
            if path.exists():
                labels = LabelFile(path, file.source, root=Path("/"))  # wherever its videos lie
                samples += _one_of_each(islice(read_split([labels], split), RECORDS))
            samples += [stand_in(task, prompt) for task in named(file.source).tasks]
        elif path.exists():
            samples += _one_of_each(read_split([LabelFile(path)], split))
        else:
            return None
    return samples


def _of_set(chosen: EvalSet, prompt: Prompt) -> Iterable[Sample] | None:
    from evaluation.benchmarks import set_samples

    files = chosen.files or ""
    if chosen.source:
        return _of_files([SourceFile(source=chosen.source, path=files)], "test", prompt)
    path = Path(files)
    if chosen.benchmark and path.exists():
        return set_samples(chosen.benchmark, path, chosen.only or None, chosen.folder)
    return _of_files([files], "test", prompt)


def _one_of_each(samples: Iterable[Sample]) -> list[Sample]:
    """The first of each task, in the order of `TASKS`."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.task, sample)
    return [first[task] for task in TASKS if task in first]


def stand_in(task: str, prompt: Prompt) -> Sample:
    """A sample of a task, whose texts name what will replace them."""
    texts = [
        *prompt.questions.values(),
        *(text for by_task in prompt.instructions.values() for text in by_task.values()),
    ]
    extras = {name: f"<{name}>" for text in texts for name in HOLDER.findall(text)}
    fields: dict[str, Any] = {"id": "<id>", "video": "<clip>", "source": "<source>", "split": "test", "answer": "A"}
    fields |= {"task": task, "question": "<question>", "extras": extras, "duration": 10.0}
    options = ["<first option>", "<second option>"] if task in BY_OPTION else []
    return Sample.model_construct(options=options, **fields)


def prompts(recipe: Recipe, found: Mapping[str, Sequence[Sample]]) -> Iterator[tuple[str, str]]:
    """(where, whole text) of each prompt; those that ask a task alike share one.

    Raises:
        PromptError: a task without a text. RecipeError: a sample without what a placeholder needs.
    """
    places: dict[tuple[str, str, str], list[str]] = {}
    for name, samples in found.items():
        for asked, form in _forms(recipe, name):
            for sample in samples:
                try:
                    turns = form.messages(sample.model_copy(update={"duration": sample.duration or 10.0}))
                except FieldError as error:
                    raise RecipeError(f"{asked}: sample {sample.id!r} ({sample.task}): {error}") from error
                text = "\n".join(f"[{turn['role']}] {turn['content']}" for turn in turns)
                places.setdefault((sample.task, form.schema_of(sample.task), text), []).append(asked)
    for (task, schema, text), names in places.items():
        yield f"{', '.join(names)}: {task} ({schema})", text


def _forms(recipe: Recipe, name: str) -> list[tuple[str, Form]]:
    """How a split or an evaluation set is asked; the test split in evaluation perhaps in another way."""
    if name not in SPLITS:
        return [(name, form_of_set(recipe, name))]
    forms = [(name, recipe.form)]
    if name == "test" and OWN in recipe.eval.sets and (own := form_of_set(recipe, OWN)) != recipe.form:
        forms = [(f"eval.sets.{OWN}", own)]
    return forms


def check_prompts(recipe: Recipe) -> dict[str, list[Sample]]:
    """Refuse a prompt that cannot ask for what the reward reads; the examples of each split and evaluation set.

    Raises:
        PromptError, RecipeError: naming the key. SampleError, SourceError, LabelError: a bad file.
    """
    require_room(recipe)
    found = examples(recipe)
    for _ in prompts(recipe, found):
        pass
    if recipe.model.path is not None:  # the tiny model reads no instruction
        if recipe.rl.start_epoch == 0 and (recipe.data.files or {"rl": ""}).get("rl") is not None:
            _require_tags(recipe.form, "rl", found.get("rl"), "RL starts from the base model (rl.start_epoch=0)")
        for name, chosen in recipe.eval.sets.items():
            taught = recipe.rl.start_epoch > 0 and chosen.prompt is None
            taught |= recipe.eval.option_scores == "first_token"  # which is in no form
            models = chosen.models or list(recipe.models)
            if not taught and {recipe.models.get(model) for model in models} - {"sft", "rl"}:
                where = found.get("test" if name == OWN else name)
                why = f"no SFT has taught it to all of the models {', '.join(models)}"
                _require_tags(form_of_set(recipe, name), name, where, why)
    _check_chains(recipe, [sample.task for sample in found.get("sft", [])])
    return found


def _require_tags(form: Form, where: str, samples: Sequence[Sample] | None, why: str) -> None:
    """Refuse instructions that leave the form to SFT; of all tasks that they cover where the split's are not known."""
    for task in TASKS if samples is None else [sample.task for sample in samples]:
        schema = form.schema_of(task)
        try:
            text = form.prompt.instruction(schema, task)
        except PromptError:
            if samples is not None:
                raise
            continue
        if not named_tags(text):
            tags = ", ".join(f"<{tag}>" for tag in SCHEMAS[schema])
            raise RecipeError(
                f"prompt.instructions.{schema} asks {task} ({where}) for no tags, the reward reads {tags}, and {why}: "
                "choose a prompt=... that asks for them"
            )


def _check_chains(recipe: Recipe, tasks: Sequence[str]) -> None:
    chains = recipe.data.chains
    for task in tasks if chains else []:
        schema = recipe.form.schema_of(task)
        if chains == "gold" and "think" in SCHEMAS[schema]:
            raise RecipeError(
                f"data.chains=gold writes no thoughts, but the reward reads {schema} of the task {task}: give it "
                "another schema, e.g. reward.prompt=direct (videochat_r1) or reward.schema=answer"
            )
        if chains not in ("gold", schema):
            raise RecipeError(
                f"data.chains={chains}, but the reward reads {schema} of the task {task}: give one of both"
            )
