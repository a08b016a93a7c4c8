"""Give the base model what other models observed, with the clip and with a blank one (VideoP2R, figure 4).

python -m launch.observe experiment=videop2r ...

The questions whose answer a text can support are asked alone, and with the observation of each evaluated model before
them; the report shows the answers. It comes after `launch.evaluate`, whose sets and models it takes.

eval/<set>/observed/<model>.jsonl          the questions with the model's observations; _alone: without
eval/<set>/observed/<model>.<key>.jsonl    the base model's records; the key is a hash of all that decides them
eval/<set>/observed/observed.json          which files belong to the last run of this command
"""

from typing import Any

from data_tools.files import write_json
from launch.command import recipe_command
from launch.console import console
from launch.errors import LaunchError
from launch.models import digest, key_of, model_digest, model_folder, require_context_length
from launch.recipe import Recipe
from launch.recipe.evaluation import Media
from launch.run import Run, run_of

VIEWS = {"clip": None, "blank": "blank"}  # how the clip is shown -> control


def observe(run: Run) -> None:
    """Ask what is missing, the base model loaded once.

    Raises:
        RunError: nothing was evaluated. LaunchError: no base model among the evaluated ones, no observation, or the
            engine failed.
    """
    from evaluation.runs import sets_of
    from launch.engines.vllm.job import Job, run_job

    recipe = longer(run.recipe)
    jobs: dict[str, list[Any]] = {}
    for name in sets_of(run.paths):
        folder, parts = asked(run, recipe, name)
        jobs.setdefault(folder, []).extend(parts)
    if not any(jobs.values()):
        raise LaunchError(f"no evaluated model of {run.folder} states observations on questions that a text can answer")
    run_job(Job(recipe=recipe, models=jobs), run.paths.eval / "observe.json", run.log("observe"), "answers in vLLM")
    console.print("[green]observe[/] done; launch.report shows it")


def longer(recipe: Recipe) -> Recipe:
    """The recipe for greedy answers alone, with room for an observation in the prompt."""
    greedy = recipe.eval.model_copy(update={"samples": 0, "option_scores": None})
    prompt = recipe.vllm.max_prompt_length + recipe.eval.max_tokens
    vllm = recipe.vllm.model_copy(update={"max_prompt_length": prompt})
    return recipe.model_copy(update={"eval": greedy, "vllm": vllm})


def asked(run: Run, recipe: Recipe, name: str) -> tuple[str, list[Any]]:
    """The base model's folder and its questions on a set; writes the questions, and what is asked."""
    from data_tools.sample import write_samples
    from evaluation.observed import FORM, observing
    from evaluation.runs import models_of, read_json
    from launch.engines.vllm.job import Questions

    facts = read_json(run.paths.set_facts(name), "evaluate")
    base = [each["weights"] for each in facts["models"].values() if each["is"] == "base"]
    if not base:
        raise LaunchError(f"set {name}: the base model gives the answers, and was not evaluated: add it to eval.models")
    folder = model_folder(base[0])
    require_context_length(recipe, folder)
    questions = observing({model.key: model.graded() for model in models_of(run.paths, name=name)})
    root, media, out = run.folder / facts["root"], Media(**facts["media"]), run.paths.observed(name)
    listed: dict[str, dict[str, str]] = {}
    parts = []
    for key, samples in questions.items():
        path = out / f"{key}.jsonl"
        write_samples(path, samples)
        made_of = {"model": model_digest(folder), "questions": digest([path]), "media": facts["media"]}
        listed[key] = {"samples": path.name}
        for view, control in VIEWS.items():
            records = out / f"{key}.{key_of(made_of | {'view': view, 'tokens': recipe.eval.max_tokens})}.jsonl"
            listed[key][view] = records.name
            parts.append(Questions(samples=path, root=root, media=media, form=FORM, control=control, out=records))
    write_json(out / "observed.json", {"asked": listed})
    console.print(f"  {name}: {sum(map(len, questions.values()))} questions, each with its clip and with a blank one")
    return str(folder), parts


@recipe_command
def main(recipe: Recipe) -> None:
    observe(run_of(recipe))


if __name__ == "__main__":
    main()
