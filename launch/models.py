"""Which model a command means, and whether it can be used."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from data_tools.cli import Arguments
from data_tools.files import sha256
from data_tools.run_folder import RunFolder
from launch.compose import group_files
from launch.errors import LaunchError
from launch.recipe import Recipe
from launch.run import Run
from launch.run.records import require_output
from rewards.errors import problems


class ModelArguments(Arguments):
    """Keys of the commands that use one model."""

    model: str = Field("runs/demo/main", description="run folder (its last model), model folder or hub id")
    experiment: str = Field("camreasoner", description="gives prompt and media budget of a model without a run")
    trust_remote_code: bool = Field(False, description="run Python code that lies beside the weights")


def chosen_model(model: str, experiment: str, trusted: bool = False) -> tuple[Recipe, str]:
    """Recipe and folder (or hub id) of the model that `model` names.

    A model inside a run folder keeps that run's recipe; for any other, `experiment` gives prompt and media budget.

    Args:
        trusted: Python code beside the weights may run, whatever the recipe says: it may be anybody's.

    Raises:
        LaunchError: a run without a model, a folder that is neither, or a model that needs trust.
    """
    recipe, weights = _chosen(model, experiment)
    if recipe.model.trust_remote_code and not trusted:
        raise LaunchError(
            f"the recipe of {model} runs Python code that lies beside the weights (model.trust_remote_code): "
            "trust_remote_code=true does so, where you trust who made it"
        )
    model_part = recipe.model.model_copy(update={"trust_remote_code": trusted})
    return recipe.model_copy(update={"model": model_part}), weights


def _chosen(model: str, experiment: str) -> tuple[Recipe, str]:
    folder = Path(model).absolute()
    if RunFolder(folder).recipe.exists():
        run = Run(_recipe_of(folder), folder)
        for stage in ("merge", "sft", "model"):
            if record := run.record(stage):
                _require_current(run, stage, record)
                break
        if run.record("merge"):
            return run.recipe, str(run.merged)
        if run.record("sft"):
            return run.recipe, run.sft_model
        if run.record("model"):
            return run.recipe, run.base_model
        raise LaunchError(f"{folder} has no model yet: run its stages first (model, sft, rl, merge), or give another")
    if not folder.exists():
        if model.count("/") != 1:
            raise LaunchError(f"{model}: no such folder; give a run folder, a model folder or a hub id")
        return _recipe_for(model, experiment), model
    if not (folder / "config.json").exists():
        raise LaunchError(f"{folder} is neither a run folder (recipe.yaml) nor a model (config.json)")
    run_folder = next((parent for parent in folder.parents if RunFolder(parent).recipe.exists()), None)
    return _recipe_of(run_folder) if run_folder else _recipe_for(str(folder), experiment), str(folder)


def _require_current(run: Run, stage: str, record: dict[str, Any]) -> None:
    """Refuse a model whose stage is not of this run any more, or whose files were cut.

    Raises:
        LaunchError: an earlier stage was begun again since.
    """
    now = {earlier: (run.record(earlier) or {}).get("finished") for earlier in record["upstream"]}
    if again := [earlier for earlier, finished in record["upstream"].items() if now[earlier] != finished]:
        raise LaunchError(
            f"the model of stage {stage!r} in {run.folder} is older than {', '.join(again)}, which was begun again "
            f"since: finish that, and run {stage} with force=true; or name a model folder, e.g. {run.output(stage)}"
        )
    require_output(stage, run.output(stage), record)


def _recipe_of(run_folder: Path) -> Recipe:
    path = RunFolder(run_folder).recipe
    try:
        recipe = Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise LaunchError(f"{path} was cut or edited, and is not YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        raise LaunchError("\n  ".join([f"{path} is not a recipe of this version:", *problems(error)])) from error
    return _on_one_device(recipe)


def _recipe_for(model: str, experiment: str) -> Recipe:
    from launch.compose import compose_recipe

    recipe, _ = compose_recipe([f"experiment={experiment}"])
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": model})})
    return _on_one_device(recipe)


def _on_one_device(recipe: Recipe) -> Recipe:
    device = "cuda" if recipe.cluster.device == "cuda" and any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"
    one = {"nodes": 1, "sft_nodes": 1, "judge_gpus": 0, "address": None}
    update = {"device": device, "gpus_per_node": recipe.vllm.tensor_parallel_size, **one}
    return recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update=update)})


WEIGHTS = "*.safetensors"
_MODEL_FILES = (WEIGHTS, "*config.json", "tokenizer*", "vocab.json", "merges.txt", "*token*.json", "chat_template*")


def model_folder(path: str) -> Path:
    """Folder of a model given by folder or hub id, downloaded if necessary.

    Raises:
        LaunchError: no such model, or its weights are not in safetensors.
    """
    folder = Path(path)
    if not folder.exists():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(path, allow_patterns=[*_MODEL_FILES, "*.json"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            reason = str(error).splitlines()[0]
            raise LaunchError(
                f"{path} is neither a model folder nor a hub id that can be downloaded: {reason}"
            ) from error
    if not (folder / "config.json").exists() or not any(folder.glob(WEIGHTS)):
        raise LaunchError(f"{folder} is not a model: config.json and weights in safetensors are needed")
    return folder


def require_trained(model: Path, start: str, why: str = "See its log") -> None:
    """Raise LaunchError where every weight of a model, in its precision, equals that of the one it was trained from."""
    from safetensors import safe_open

    files: dict[str, Path] = {}
    for path in sorted(model_folder(start).glob(WEIGHTS)):
        with safe_open(path, framework="pt") as weights:
            files |= dict.fromkeys(weights.keys(), path)
    compared = 0
    for path in sorted(model.glob(WEIGHTS)):
        with safe_open(path, framework="pt") as weights:
            for name in sorted(files.keys() & set(weights.keys())):
                with safe_open(files[name], framework="pt") as before:
                    trained = weights.get_tensor(name)
                    if not trained.equal(before.get_tensor(name).to(trained.dtype)):
                        return
                compared += 1
    raise LaunchError(
        f"all {compared} weights that the trained model shares with {start}, which it started from, are the same: "
        f"nothing was learnt. {why}"
    )


def require_family(recipe: Recipe, folder: Path, key: str = "model.path") -> None:
    """Refuse a model folder of another family than the recipe's `model`; `key` names the folder in the recipe.

    Raises:
        LaunchError: naming file, family and the `model=` to choose.
    """
    path = folder / "config.json"
    if recipe.model.architecture is None or not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise LaunchError(f"{path} was cut or edited, and is not a model's configuration: copy it again") from error
    expected = recipe.model.architecture.family
    if found is None or found == expected:
        return
    models = {name: yaml.safe_load(file.read_text()) or {} for name, file in group_files("model").items()}
    fitting = [name for name, model in models.items() if model.get("path") and family_of(model) == found]
    choose = f"choose model={' or model='.join(fitting)}" if fitting else "there is no recipe of it in recipes/model"
    raise LaunchError(f"{key}: {path} has model_type {found}, the recipe's model is {expected}: {choose}")


def family_of(model: dict[str, Any]) -> str | None:
    """Family that a file of recipes/model names; a user's own may leave it to another file."""
    return (model.get("architecture") or {}).get("family")


def require_context_length(recipe: Recipe, folder: Path) -> None:
    """Raise LaunchError where the longest prompt and response do not fit the positions of the model in `folder`."""
    from launch.engines.vllm.settings import OPTION_TOKENS, context_length

    config = json.loads((folder / "config.json").read_text())
    positions = (config.get("text_config") or config).get("max_position_embeddings")
    if positions is not None and context_length(recipe) > positions:
        raise LaunchError(
            f"{folder} has {positions} positions, too few for vllm.max_prompt_length={recipe.vllm.max_prompt_length}, "
            f"eval.max_tokens={recipe.eval.max_tokens} and {OPTION_TOKENS} more for the options: lower eval.max_tokens"
        )


def digest(files: Sequence[Path]) -> str:
    """SHA-256 over the files' names and contents."""
    with ThreadPoolExecutor(8) as pool:  # hashing releases the interpreter's lock
        lines = [f"{path.name} {content}\n" for path, content in zip(files, pool.map(sha256, files))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_digest(folder: Path) -> str:
    """SHA-256 of the weights, the configuration, the tokenizer and the chat template."""
    return digest(sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)}))


def key_of(facts: dict[str, Any]) -> str:
    """Name of the records that are made of these facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
