"""Ask the model that RL starts from every question of the RL split several times, and keep those that teach something.

python -m launch.difficulty experiment=demo
python -m launch.rl experiment=demo rl.by_difficulty=true

It comes after SFT; `difficulty.*` says how many answers, and which pass rates are kept. Answers that were recorded are
not asked again, so it resumes, and other bounds or orders cost nothing.

difficulty/<key>.jsonl      records as they were completed; the key is a hash of weights, data and settings
difficulty/<key>.json       what the key is made of
difficulty/pass_rates.jsonl each question's pass rate and verdict: kept, too easy, too hard, quarantined
difficulty/rl.jsonl         the questions kept, in the order of training
difficulty/quarantine.jsonl questions whose pass rate is unknown, and why
difficulty/summary.json     counts, histogram, expected keep rate; index.html shows them
"""

import json
from pathlib import Path
from typing import Any

from data_tools.files import whole_file, whole_lines, write_json
from launch.command import recipe_command
from launch.console import console
from launch.engines.vllm.job import Job, Questions, run_job
from launch.errors import LaunchError
from launch.models import digest, key_of, model_digest, model_folder, require_context_length
from launch.recipe import Recipe
from launch.run import Run, run_of
from launch.samples.pass_rates import made_of


def sampling_recipe(recipe: Recipe) -> Recipe:
    """The recipe that samples answers as RL does."""
    sampled = {"samples": recipe.difficulty.samples, "temperature": recipe.rl.temperature, "top_p": 1.0}
    alone = {"option_scores": None, "max_tokens": recipe.rl.max_response_length}
    return recipe.model_copy(update={"eval": recipe.eval.model_copy(update=sampled | alone)})


def asked(run: Run, recipe: Recipe, folder: Path) -> Questions:
    """The questions, and the file of their records; writes what its name is made of."""
    from data_tools.sample import read_samples

    path = run.paths.samples("rl")
    clips = sorted({run.data / name for sample in read_samples(path) for name in sample.media})
    facts: dict[str, Any] = {
        "model": model_digest(folder),
        "questions": digest([path]),
        "clips": digest(clips),
        "sampling": recipe.eval.model_dump(include={"samples", "temperature", "top_p", "max_tokens"}),
        "prompt": recipe.form.prompt.model_dump(),
        "schemas": recipe.form.schemas,
        "seed": recipe.seed,
    }
    out = run.paths.difficulty / f"{key_of(facts)}.jsonl"
    write_json(out.with_suffix(".json"), facts)
    return Questions(samples=path, root=run.data, media=recipe.media, form=recipe.form, ask="sampled", out=out)


def conclude(run: Run, part: Questions, model: str) -> dict[str, Any]:
    """Write pass rates, the questions kept and the page; the summary.

    Raises:
        LaunchError: no pass rate is known.
    """
    from data_tools.quarantine import Quarantine, Rejected
    from data_tools.sample import read_samples, write_samples
    from evaluation import difficulty as rates
    from evaluation.grading import run_schema
    from evaluation.predictions import Prediction

    recipe, paths, chosen = run.recipe, run.paths, run.recipe.difficulty
    samples = {sample.id: sample for sample in read_samples(part.samples)}
    answers = {record["id"]: Prediction.model_validate(record) for record in map(json.loads, whole_lines(part.out))}
    schema = run_schema(recipe.form.reward)
    found = [rates.rated(each, answers.get(id), schema, chosen.low, chosen.high) for id, each in samples.items()]
    with whole_file(paths.difficulty_quarantine) as out:
        quarantine = Quarantine(out)
        for each in (one for one in found if one.fault is not None):
            quarantine.add(Rejected(str(part.samples), each.id, "pass_rate", each.fault or ""))
    if quarantine.count == len(found):
        raise LaunchError(f"no question has a known pass rate: see {paths.difficulty_quarantine}")
    rates.write_rates(paths.pass_rates, found)
    write_samples(paths.difficulty_kept, (samples[id] for id in rates.in_order(found, chosen.order)))
    kept, group = [each for each in found if each.verdict == "kept"], recipe.rl.group_size
    low, high = recipe.rl.filter.low, recipe.rl.filter.high
    expected = {"all": rates.keep_rate(found, group, low, high), "kept": rates.keep_rate(kept, group, low, high)}
    told = rates.summary(found, chosen.samples) | chosen.model_dump() | {"model": model, "seed": recipe.seed}
    told |= {"keep": {name: rate and rate[0] for name, rate in expected.items()}, "group": group}
    told |= {"filter_low": low, "filter_high": high, "temperature": recipe.rl.temperature}
    rates.write_page(paths.difficulty_page, told)
    write_json(paths.difficulty_summary, told | {"made_of": made_of(recipe)})
    return told


def check(run: Run) -> str:
    """The model that answers; raises LaunchError where the data, or the model, is not there."""
    recipe = run.recipe
    run.require("data", "model", *(["sft"] if recipe.rl.start_epoch and recipe.difficulty.model is None else []))
    return recipe.difficulty.model or run.sft_checkpoint(recipe.rl.start_epoch)


def measure(run: Run) -> dict[str, Any]:
    """Ask what is missing, and conclude."""
    model, recipe = check(run), sampling_recipe(run.recipe)
    folder = model_folder(model)
    require_context_length(recipe, folder)
    part = asked(run, recipe, folder)
    job = Job(recipe=recipe, models={str(folder): [part]})
    run_job(job, run.paths.difficulty / "job.json", run.log("difficulty"), "answers in vLLM")
    return conclude(run, part, model)


@recipe_command
def main(recipe: Recipe) -> None:
    run = run_of(recipe)
    told = measure(run)
    counted = " + ".join(f"{count} {verdict}" for verdict, count in told["counts"].items())
    console.print(f"  {told['questions']} questions = {counted}", markup=False)
    keep = {name: "–" if rate is None else f"{100 * rate:.0f} %" for name, rate in told["keep"].items()}
    console.print(f"  the online filter would keep {keep['all']} of the groups, of those kept {keep['kept']}")
    console.print(f"[green]difficulty[/] {run.paths.difficulty_page}; rl.by_difficulty=true trains on those kept")


if __name__ == "__main__":
    main()
