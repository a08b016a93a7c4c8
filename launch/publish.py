"""A trained model for others: the merged weights and a model card written from the run.

python -m launch.publish experiment=camreasoner ...                      writes the card, sends nothing
python -m launch.publish experiment=camreasoner ... publish.repo=me/cam  and pushes to the Hugging Face hub

The token is what `hf auth login` stored, or $HF_TOKEN; it is never read here.
"""

import json
from pathlib import Path
from typing import Any

from launch.errors import LaunchError
from launch.recipe import Recipe, command
from launch.run import Run, console, open_run

BASELINES = {"balanced_accuracy": "0.500, a constant answer", "accuracy": None, "format_rate": ""}


def card(run: Run) -> str:
    """The model card: base model, data, budget, settings and metrics with their baselines, all from the run's files.

    Raises:
        LaunchError: the run was not evaluated, or its card could not be told.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown; what comes from files goes through `plain`
    )
    template.filters["plain"] = plain
    return template.get_template("model_card.md.j2").render(**facts(run))


def facts(run: Run) -> dict[str, Any]:
    """What the card is written from."""
    recipe = run.recipe
    manifest = json.loads((run.folder / "manifest.json").read_text())
    models = {}
    for name in recipe.eval.models:
        path = run.folder / "eval" / name / "scores.json"
        if not path.exists():
            raise LaunchError(
                f"{path} is missing: a card names its metrics, so evaluate first (python -m launch.evaluate)"
            )
        models[name] = json.loads(path.read_text())
    return {
        "title": f"{recipe.experiment}-{recipe.name}",
        "base": recipe.model.path or "a tiny Qwen2.5-VL built for demonstration",
        "base_id": recipe.model.path if recipe.model.path and not Path(recipe.model.path).exists() else None,
        "recipe": recipe.model_dump(mode="json"),
        "manifest": manifest,
        "counts": {split: _lines(run.data / f"{split}.jsonl") for split in ("sft", "rl", "test")},
        "stages": {stage: record for stage in ("sft", "rl") if (record := run.record(stage))},
        "steps": _lines(run.folder / "rl" / "metrics.jsonl"),
        "models": models,
    }


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def plain(value: Any) -> str:
    """Text of a file as one line that Markdown shows as it is."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in text)


def push(run: Run, repo: str, private: bool) -> str:
    """Upload the merged model with its card, and give its address.

    Raises:
        LaunchError: no such right, no network; the message holds no token.
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


@command
def main(recipe: Recipe) -> None:
    run = open_run(recipe)
    run.require("merge", "evaluate")
    path = run.merged / "README.md"
    path.write_text(card(run), encoding="utf-8")
    console.print(f"  model card: {path}")
    if recipe.publish.repo is None:
        console.print("  nothing was sent; publish.repo=owner/name pushes it")
    else:
        console.print(f"  {push(run, recipe.publish.repo, recipe.publish.private)}")


if __name__ == "__main__":
    main()
