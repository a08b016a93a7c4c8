"""Render a recipe into verl's GRPO configuration (version 0.9.1, V1 trainer)."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.engines.families import shares_prefix
from launch.engines.template import fill
from launch.engines.verl.losses import loss_keys
from launch.engines.vllm.settings import prefix_caching
from launch.recipe import Cluster, Recipe, RecipeError
from launch.recipe.rl import Rl
from launch.run import Run

# Below these keys verl takes whatever it is given; everywhere else a key unknown to verl is an error.
_OPEN = (
    "actor_rollout_ref.actor.checkpoint.save_lora_only",
    "actor_rollout_ref.model.override_config.",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.",
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class",
    "actor_rollout_ref.rollout.enable_sleep_mode",
    "algorithm.camreasoner",
    "ray_kwargs.ray_init.",
    "trainer.v1.sampler.sampler_kwargs.filter",
)
# What the recipe's `lora` decides: merging and rollouts rely on it.
_LORA = tuple(f"actor_rollout_ref.model.{key}" for key in ("lora", "target_", "exclude_modules"))
# The parts that verl turns into typed objects. The model's is only compared with its type: verl would download it.
_CONVERTED = (
    "actor_rollout_ref.actor",
    "actor_rollout_ref.rollout",
    "actor_rollout_ref.rollout.checkpoint_engine",
    "distillation",
)

# In the engine's own process: between two of them vLLM's queue waits by spinning. By its path, since vLLM takes "mp" in
# place of "uni" on a CPU (0.24.0, platforms/cpu.py:151): there it could not choose the threads, which `engine_env` did.
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


def render(run: Run, model: str, total_steps: int, ray_temp: Path | None = None) -> DictConfig:
    """verl's whole configuration: its own defaults, then the recipe, then `rl.engine`.

    Args:
        model: folder or hub id of the policy to start from.

    Raises:
        RecipeError: a key that verl does not have, or a value of another kind than verl's default.
    """
    spec = importlib.util.find_spec("verl")  # found without being imported
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    with initialize_config_dir(str(package / "trainer" / "config"), version_base=None):
        config = compose("ppo_trainer")
    further = dict(_flat(run.recipe.rl.engine))
    if own := [key for key in further if key.startswith(_LORA)]:
        raise RecipeError(f"rl.engine.{own[0]}: lora=rank64 trains adapters, lora=null all weights; leave it out")
    if built := [key for key, value in further.items() if "_target_" in f"{key}={value}"]:
        raise RecipeError(f"rl.engine.{built[0]}: which code verl runs is not a setting of a recipe; leave it out")
    settings = dict(_flat(_settings(run, model, total_steps, ray_temp))) | loss_keys(run.recipe) | further
    for key, value in settings.items():
        default = OmegaConf.select(config, key)
        if None not in (default, value) and _kind(default) is not _kind(value):
            raise RecipeError(f"verl refuses {key}={value!r}: its own value is {default!r}")
        try:
            OmegaConf.update(config, key, value, force_add=key.startswith(_OPEN))
        except OmegaConfBaseException as error:
            raise RecipeError(f"verl refuses {key}={value!r}: {str(error).splitlines()[0]}") from error
    _check_old_log_probs(config, run.recipe)
    return config


def _check_old_log_probs(config: DictConfig, recipe: Recipe) -> None:
    """Whether nothing but the update's loss reads them, before its first and only pass.

    Raises:
        RecipeError: what does.
    """
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    correction = config.algorithm.rollout_correction
    readers = {
        "loss.rollout_correction weighs with them before the update": correction.rollout_is or correction.rollout_rs,
        "algorithm.use_kl_in_reward reads them before the update": config.algorithm.use_kl_in_reward,
        f"actor.ppo_epochs={actor.ppo_epochs} makes several updates of a batch": actor.ppo_epochs > 1,
        "rollout.calculate_log_probs=false leaves nothing to compare": not rollout.calculate_log_probs,
    }
    if recipe.rl.old_log_probs_every > 1 and (found := [why for why, there in readers.items() if there]):
        raise RecipeError(f"rl.old_log_probs_every={recipe.rl.old_log_probs_every}: {found[0]}; set it to 1")


def merge_command(actor: Path, target: Path) -> list[str]:
    """`python -m` arguments that join the FSDP shards of `actor` into a Hugging Face folder."""
    folders = ["--local_dir", str(actor), "--target_dir", str(target)]
    return ["verl.model_merger", "merge", "--backend", "fsdp", *folders]


def _flat(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} and {"a.b": 1} both give ("a.b", 1): the command line writes the one, a file the other."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def check(config: DictConfig) -> None:
    """Have verl itself check a rendered configuration; needs no GPU and no model.

    Raises:
        RecipeError: naming the key.
    """
    from hydra.errors import InstantiationException
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config
    from verl.workers.config import HFModelConfig

    part = "configuration"
    try:
        for part in _CONVERTED:
            omega_conf_to_dataclass(OmegaConf.select(config, part))
        part = "actor_rollout_ref.model"
        OmegaConf.merge(OmegaConf.structured(HFModelConfig), OmegaConf.select(config, part))
        part = "configuration"
        # With a rank verl imports vLLM, for the ranks that it has (utils/config.py:212), the limit of the recipe.
        config = cast(DictConfig, OmegaConf.merge(config, {"actor_rollout_ref": {"model": {"lora_rank": 0}}}))
        with warnings.catch_warnings(action="ignore"), redirect_stdout(None):
            validate_config(config, need_reference_policy(config), need_critic(config))
    except (AssertionError, TypeError, ValueError, OmegaConfBaseException, InstantiationException) as error:
        raise RecipeError(f"verl refuses its {part}: {' '.join(str(error).split())}") from error


def _asked(recipe: Recipe) -> str:
    """The split that verl loads for validation; without a val split none is asked, but it needs a file."""
    if recipe.rl.held_out.every:
        return "val"
    return "test" if recipe.data.files is None or recipe.data.paths().get("test") else "rl"


def _kind(value: Any) -> type:
    """An integer may be given for a float, as in YAML; a truth value for neither."""
    if isinstance(value, bool | str):
        return type(value)
    if isinstance(value, int | float):
        return float
    return dict if isinstance(value, dict | DictConfig) else list


def _settings(run: Run, model: str, total_steps: int, ray_temp: Path | None) -> dict[str, Any]:
    """The templates beside this file, filled for a run."""
    recipe, rl, cluster, folder = run.recipe, run.recipe.rl, run.recipe.cluster, run.paths
    cpu = cluster.device == "cpu"
    values = {
        "model": model,
        "train_files": str(folder.verl_data("rl")),
        "val_files": str(folder.verl_data(_asked(recipe))),
        "test_freq": rl.held_out.every or -1,
        "val_batch_size": rl.rollout_batch_size * rl.group_size,  # as many requests at once as in a step
        "held_out": rl.held_out.model_dump() | {"run": str(folder.root)} if rl.held_out.every else None,
        "shuffle": not (rl.twins.turns or (rl.by_difficulty and recipe.difficulty.order != "as_given")),
        "checkpoints": str(folder.rl_checkpoints),
        "rollouts": str(folder.rollouts),
        "overlong": recipe.overlong,
        "relation_weight": rl.twins.relation_weight,
        "temporal": rl.twins.temporal,
        "shared_media": rl.shared_media,
        "shared_prefix": shares_prefix(rl.shared_prefix, recipe.model.architecture),
        "by_tokens": rl.micro_batch_tokens is not None,
        "most_tokens": rl.micro_batch_tokens or rl.max_prompt_length + rl.max_response_length,
        "use_kl_loss": rl.kl_coef > 0,
        "old_log_probs_every": rl.old_log_probs_every,
        "entropy_of_update": rl.old_log_probs_every > 1,
        "gpus_per_node": cluster.policy_gpus,
        "images": max(media.most_images for media in recipe.trained_media),
        "max_model_len": rl.max_prompt_length + rl.max_response_length,
        # A judge limits the requests of its process, so there must be one process; otherwise verl's own number.
        "reward_workers": 1 if cpu or recipe.judge.name == "endpoint" else 8,
        "prefix_caching": prefix_caching(recipe),
        "executor": ONE_PROCESS if rl.rollout.tensor_parallel_size == 1 else "mp",
        "filter": _filter(rl),
        # What a round of prompts is a multiple of; null: the whole batch. Twins are drawn with their questions.
        "gen_batch_size": _least_drawn(rl),
        "total_epochs": max(rl.epochs, 10**6 if rl.steps else 0),
        "total_steps": total_steps,
        "logger": ["console", "file", "tensorboard", *recipe.tracking],
        "ray_init": _ray_init(cluster, ray_temp),
    }
    if recipe.lora:
        named = recipe.lora.targets  # as a list, verl's own type would refuse them
        values["lora_targets"] = "all-linear" if named == "all" else rf".*\.({'|'.join(named)})"
    templates = ["config.yaml", *(["config_cpu.yaml"] if cpu else []), *(["config_lora.yaml"] if recipe.lora else [])]
    return fill([Path(__file__).with_name(name) for name in templates], recipe, values)


def _filter(rl: Rl) -> dict[str, Any] | None:
    """What the sampler takes: T-GRPO's contrasts are taken out also where no group is to be dropped."""
    contrast = rl.twins.temporal is not None
    if not (rl.filter.enabled or contrast):
        return None
    pairs = {"pairs": bool(rl.twins.turns) and not contrast, "contrast": contrast}
    keeps_all = {"mode": "mean", "metric": "accuracy", "low": -1.0, "high": 2.0, "refill": "batch"}  # of shares
    return rl.filter.model_dump() | pairs | ({} if rl.filter.enabled else keeps_all)


def _least_drawn(rl: Rl) -> int | None:
    if rl.filter.refill == "batch" or not rl.filter.enabled:
        return None
    return 2 if rl.twins.turns else 1


def _ray_init(cluster: Cluster, temp: Path | None) -> dict[str, Any]:
    """How verl reaches Ray: the running cluster of the recipe, or a node of its own."""
    if cluster.address is not None:
        return {"address": cluster.address}  # launch.engines.verl.main joins it
    own: dict[str, Any] = {"include_dashboard": False}
    if temp is not None:
        own["_temp_dir"] = str(temp)
    if cluster.device == "cpu":
        # A GPU is a logical slot here: verl's resource check knows nothing else (single_controller/ray/base.py:230).
        own |= {"num_gpus": cluster.gpus_per_node, "num_cpus": 16, "object_store_memory": 10**9}
    return own
