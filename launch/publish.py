"""Publish a trained model: the merged weights and a model card written from the run, by the recipe of its stages.

python -m launch.publish experiment=camreasoner ...                      writes the card, uploads nothing
python -m launch.publish experiment=camreasoner ... publish.repo=me/cam  and pushes both to the Hugging Face hub

The token is what `hf auth login` stored, or $HF_TOKEN; it is never read here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from data_tools.files import write_text
from data_tools.run_folder import SPLITS
from launch.command import recipe_command
from launch.console import console
from launch.errors import LaunchError
from launch.recipe import Recipe
from launch.run import Run, run_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult
METRICS = {
    "balanced_accuracy": "balanced accuracy (a constant answer: 0.500)",
    "pair_accuracy": "pair accuracy (a fixed answer: 0)",
    "format_rate": "format rate",
}


def card(run: Run) -> str:
    """The model card: base model, data, budget, settings and metrics with their baselines, all from the run's files.

    Raises:
        LaunchError: the run was not evaluated.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from data_tools.templates import template

    shown = facts(run)
    data = ModelCardData(
        base_model=shown["base_id"],
        library_name="transformers",
        pipeline_tag="video-text-to-text",
        tags=["video", "reasoning", "grpo", "camreasoner"],
        model_name=shown["title"],
        eval_results=list(_results(run.recipe, shown["models"])),
    )
    # Markdown: text from files goes through `plain`.
    body = template(Path(__file__).with_name("model_card.md.j2"), escape=False, plain=plain)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body.render(**shown)}"))


def _results(recipe: Recipe, models: dict[str, dict[str, Any]]) -> Iterator["EvalResult"]:
    """The last model's metrics, as the hub reads them."""
    from huggingface_hub import EvalResult

    name, scores = list(models.items())[-1]
    for metric, title in METRICS.items():
        if scores[metric] is not None:
            yield EvalResult(
                task_type="video-text-to-text",
                dataset_type="custom",
                dataset_name=f"{recipe.experiment}, held-out clips",
                dataset_split="test",
                metric_type=metric,
                metric_name=f"{title}, {name}",
                metric_value=scores[metric],
            )


def facts(run: Run) -> dict[str, Any]:
    """What the card is written from."""
    recipe, folder = run.recipe, run.paths
    models = {}
    asked, trained = next(iter(recipe.eval.sets)), run.record("rl") or {}
    if "manifest" not in trained:
        raise LaunchError(f"{folder.record('rl')} does not say with which code it was trained: no card without that")
    for name in recipe.models:
        path = folder.scores(asked, name)
        if not path.exists():
            raise LaunchError(f"{path} is missing: the card names its metrics; run python -m launch.evaluate first")
        models[name] = json.loads(path.read_text())
    return {
        "title": f"{recipe.experiment}-{recipe.name}",
        "base": recipe.model.path or "a tiny model built for demonstration",
        "base_id": recipe.model.path if recipe.model.path and not Path(recipe.model.path).exists() else None,
        "recipe": recipe.model_dump(mode="json"),
        "manifest": trained["manifest"],
        "counts": {split: _lines(folder.samples(split)) for split in SPLITS},
        "stages": {stage: record for stage in ("sft", "rl") if (record := run.record(stage))},
        "steps": _lines(folder.rl_metrics),
        "models": models,
    }


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def plain(value: Any) -> str:
    """Text from a file as one line in which nothing is Markdown or HTML.

    Example:
        >>> plain("a|b\\n<i>")
        'a\\\\|b \\\\<i\\\\>'
    """
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in text)


def push(run: Run, repo: str, private: bool) -> str:
    """Upload the merged model with its card, and return its address.

    Raises:
        LaunchError: no permission or no network; the message holds no token.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=run.merged,
            allow_patterns=["*.safetensors", "*.json", "*.txt", "*.jinja", "*.md"],
            commit_message=f"{run.recipe.experiment}, {run.recipe.name}",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        raise LaunchError(
            f"the hub refuses {repo}: {str(error).splitlines()[0]}; log in with `hf auth login`"
        ) from error
    return str(address)


@recipe_command
def main(recipe: Recipe) -> None:
    run = run_of(recipe, HydraConfig.get().overrides.task)
    run.require("merge", "evaluate")
    run.require_one_recipe()
    path = run.merged / "README.md"
    write_text(path, card(run))
    console.print(f"  model card: {path}")
    if recipe.publish.repo is None:
        console.print("  nothing was uploaded; publish.repo=owner/name pushes it")
    else:
        console.print(f"  {push(run, recipe.publish.repo, recipe.publish.private)}")


if __name__ == "__main__":
    main()
