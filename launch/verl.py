"""Render a recipe into verl's GRPO configuration (version 0.9.1, V1 trainer)."""

import importlib.util
import inspect
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.recipe import Recipe, RecipeError
from launch.run import Run

# Below these keys verl takes whatever it is given; everywhere else a key that verl does not know is an error.
_OPEN = (
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

_SAMPLE = {"id": "sample", "answer": "A", "options": ["No", "Yes"], "task": "binary", "extras": {"asked": "static"}}


# What verl makes typed objects of; the model's, which would be downloaded for that, is only compared with its type.
_CONVERTED = (
    "actor_rollout_ref.actor",
    "actor_rollout_ref.rollout",
    "actor_rollout_ref.rollout.checkpoint_engine",
    "distillation",
)


def render(run: Run, model: str, total_steps: int, ray_temp: Path | None = None) -> DictConfig:
    """verl's whole configuration: its own defaults, then the recipe, then `rl.engine`.

    Args:
        model: folder or hub id of the policy to start from.

    Raises:
        RecipeError: a key that verl does not have, or a value of another kind than verl's default.
    """
    package = Path(importlib.util.find_spec("verl").origin).parent  # found without being imported
    with initialize_config_dir(str(package / "trainer" / "config"), version_base=None):
        config = compose("ppo_trainer")
    for key, value in (_settings(run, model, total_steps, ray_temp) | dict(_flat(run.recipe.rl.engine))).items():
        default = OmegaConf.select(config, key)
        if None not in (default, value) and _kind(default) is not _kind(value):
            raise RecipeError(f"verl refuses {key}={value!r}: its own value is {default!r}")
        try:
            OmegaConf.update(config, key, value, force_add=key.startswith(_OPEN))
        except OmegaConfBaseException as error:
            raise RecipeError(f"verl refuses {key}={value!r}: {str(error).splitlines()[0]}") from error
    return config


def _flat(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} and {"a.b": 1} both as ("a.b", 1): the one comes from the command line, the other from a file."""
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
        with warnings.catch_warnings(action="ignore"), redirect_stdout(None):
            validate_config(config, need_reference_policy(config), need_critic(config))
    except (AssertionError, TypeError, ValueError, OmegaConfBaseException, InstantiationException) as error:
        raise RecipeError(f"verl refuses its {part}: {' '.join(str(error).split())}") from error


def check_rewards(recipe: Recipe) -> set[str]:
    """The reward and the judge take their settings, and the filter knows its metric; needs no torch.

    Returns:
        names of the reward's components.

    Raises:
        RecipeError: naming the part.
    """
    import asyncio

    from rewards.judge import JudgeError, build
    from rewards.registry import REWARDS

    name, metric = recipe.reward.name, recipe.rl.filter.metric
    if name not in REWARDS:
        raise RecipeError(f"reward.name={name}: choose one of {', '.join(REWARDS)}")
    takes = inspect.signature(REWARDS[name]).parameters
    try:
        extra = {"judge": build(recipe.judge.model_dump()), "lengths": {"perception": 0, "reasoning": 0}}
        extra = {key: value for key, value in extra.items() if key in takes}
        components = REWARDS[name]("", _SAMPLE, **extra, **recipe.reward.settings)
        components = asyncio.run(components) if inspect.isawaitable(components) else components
    except JudgeError as error:
        raise RecipeError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"reward {name}: {error}") from error
    if recipe.rl.filter.enabled and metric not in components:
        raise RecipeError(f"rl.filter.metric={metric}: the reward {name} has {', '.join(components)}")
    return set(components)


def check_advantage(recipe: Recipe) -> None:
    """The advantage estimator takes its settings, and the reward has what it needs.

    Raises:
        RecipeError: naming the part.
    """
    from rewards.advantages import ESTIMATORS

    components, name = check_rewards(recipe), recipe.advantage.name
    if name not in ESTIMATORS:
        raise RecipeError(f"advantage.name={name}: choose one of {', '.join(ESTIMATORS)}")
    try:
        estimator = ESTIMATORS[name](**recipe.advantage.settings)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"advantage {name}: {error}") from error
    if hasattr(estimator, "token_advantages") and not {"perception", "reasoning"} <= components:
        raise RecipeError(f"advantage {name} needs rewards by process: reward=videop2r, not {recipe.reward.name}")
    if hasattr(estimator, "token_advantages") and recipe.reward.settings.get("score", "both") != "both":
        raise RecipeError(f"advantage {name} takes both rewards, never reward.score: give advantage=grpo")


def _kind(value: Any) -> type:
    """Whole numbers may stand for fractions, as in YAML; truth values for neither."""
    if isinstance(value, bool | str):
        return type(value)
    if isinstance(value, int | float):
        return float
    return dict if isinstance(value, dict | DictConfig) else list


def _settings(run: Run, model: str, total_steps: int, ray_temp: Path | None) -> dict[str, Any]:
    recipe, rl, cluster = run.recipe, run.recipe.rl, run.recipe.cluster
    folder = run.folder / "rl"
    actor, ref, rollout = "actor_rollout_ref.actor.", "actor_rollout_ref.ref.", "actor_rollout_ref.rollout."
    settings = {
        # data
        "data.train_files": str(run.data / "verl" / "rl.parquet"),
        "data.val_files": str(run.data / "verl" / "test.parquet"),
        "data.train_batch_size": rl.rollout_batch_size,
        "data.max_prompt_length": rl.max_prompt_length,
        "data.max_response_length": rl.max_response_length,
        "data.seed": recipe.seed,
        "data.dataloader_num_workers": 0 if cluster.device == "cpu" else 8,
        "data.custom_cls.path": "pkg://launch.verl_plugin.rollout",
        "data.custom_cls.name": "ClipDataset",
        "data.trust_remote_code": recipe.model.trust_remote_code,
        # actor
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.model.trust_remote_code": recipe.model.trust_remote_code,
        actor + "strategy": "fsdp2",
        actor + "ppo_mini_batch_size": rl.global_batch_size,
        actor + "ppo_micro_batch_size_per_gpu": rl.micro_batch_size_per_gpu,
        actor + "optim.lr": rl.learning_rate,
        actor + "optim.weight_decay": rl.weight_decay,
        actor + "clip_ratio": rl.clip_ratio,
        actor + "clip_ratio_low": rl.clip_ratio,
        actor + "clip_ratio_high": rl.clip_ratio,
        actor + "use_kl_loss": rl.kl_coef > 0,
        actor + "kl_loss_coef": rl.kl_coef,
        actor + "entropy_coeff": rl.entropy_coef,
        "actor_rollout_ref.model.override_config.freeze_vision_tower": rl.freeze_vision_tower,  # see patches.py
        actor + "fsdp_config.seed": recipe.seed,
        actor + "fsdp_config.offload_policy": cluster.offload,
        actor + "data_loader_seed": recipe.seed,
        ref + "log_prob_micro_batch_size_per_gpu": rl.micro_batch_size_per_gpu,
        # rollout
        rollout + "name": "vllm",
        rollout + "n": rl.group_size,
        rollout + "temperature": rl.temperature,
        rollout + "seed": recipe.seed,
        rollout + "calculate_log_probs": True,
        rollout + "tensor_model_parallel_size": rl.rollout.tensor_parallel_size,
        rollout + "gpu_memory_utilization": rl.rollout.gpu_memory_utilization,
        rollout + "max_num_seqs": rl.rollout.max_num_seqs,
        rollout + "max_num_batched_tokens": rl.rollout.max_num_batched_tokens,
        rollout + "max_model_len": rl.max_prompt_length + rl.max_response_length,
        rollout + "enforce_eager": rl.rollout.enforce_eager,
        rollout + "log_prob_micro_batch_size_per_gpu": rl.micro_batch_size_per_gpu,
        rollout + "engine_kwargs.vllm.limit_mm_per_prompt": {"image": 0, "video": 1},
        rollout + "agent.agent_loop_manager_class": "launch.verl_plugin.rollout.AgentLoopManager",
        rollout + "agent.default_agent_loop": "clip_agent",
        # reward, advantage, filter
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.name": "RewardManager",
        "reward.reward_manager.module.path": "pkg://launch.verl_plugin.reward",
        # The judge's caps hold for a process, so that there must be one alone.
        **({"reward.num_workers": 1} if recipe.judge.name == "endpoint" else {}),
        "algorithm.adv_estimator": "camreasoner",
        "algorithm.camreasoner.reward": recipe.reward.model_dump(),
        "algorithm.camreasoner.judge": recipe.judge.model_dump(),
        "algorithm.camreasoner.judge_consistency": rl.judge_consistency,
        "algorithm.camreasoner.advantage": recipe.advantage.model_dump(),
        "trainer.v1.sampler.custom_sampler.path": "pkg://launch.verl_plugin.filter",
        "trainer.v1.sampler.custom_sampler.name": "Sampler",
        "trainer.v1.sampler.sampler_kwargs.filter": rl.filter.model_dump() if rl.filter.enabled else None,
        # trainer
        "trainer.use_v1": True,
        "trainer.v1.trainer_mode": "camreasoner",
        "trainer.nnodes": cluster.nodes,
        "trainer.n_gpus_per_node": cluster.gpus_per_node,
        "trainer.total_epochs": max(rl.epochs, 10**6 if rl.steps else 0),
        "trainer.total_training_steps": total_steps,
        "trainer.save_freq": rl.save_every,
        "trainer.max_actor_ckpt_to_keep": rl.keep_checkpoints,
        "trainer.test_freq": -1,  # evaluation is a stage of its own, by the same scorer for every model
        "trainer.val_before_train": False,
        "trainer.resume_mode": "auto",
        "trainer.default_local_dir": str(folder / "checkpoints"),
        "trainer.rollout_data_dir": str(folder / "rollouts"),
        "trainer.project_name": "camreasoner",
        "trainer.experiment_name": f"{recipe.experiment}/{recipe.name}",
        "trainer.logger": ["console", "file", "tensorboard", *recipe.tracking],
    }
    if cluster.address is not None:  # a running cluster: rl_engine joins it
        settings["ray_kwargs.ray_init.address"] = cluster.address
    else:
        settings["ray_kwargs.ray_init.include_dashboard"] = False
        if ray_temp is not None:
            settings["ray_kwargs.ray_init._temp_dir"] = str(ray_temp)
    return settings | (_cpu_settings(run) if cluster.device == "cpu" else {})


def _cpu_settings(run: Run) -> dict[str, Any]:
    """What a machine without a GPU needs: gloo, fp32, no sleep mode, one worker of each kind, small buffers."""
    fp32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    actor, ref, rollout = "actor_rollout_ref.actor.", "actor_rollout_ref.ref.", "actor_rollout_ref.rollout."
    cluster = run.recipe.cluster
    return {
        "trainer.device": "cpu",
        "actor_rollout_ref.model.use_remove_padding": False,
        "actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        actor + "use_torch_compile": False,
        actor + "fsdp_config.use_torch_compile": False,
        actor + "fsdp_config.mixed_precision": fp32,
        ref + "fsdp_config.use_torch_compile": False,
        ref + "fsdp_config.mixed_precision": fp32,
        rollout + "dtype": "float32",
        rollout + "free_cache_engine": False,
        rollout + "enable_sleep_mode": False,
        # A chunk that ends inside a prompt rewinds the request's generator, which a CPU's cannot (vLLM 0.24.0,
        # gpu_model_runner.py, "CPU Generator does not use offset"); our rollouts have a seed, and so a generator, each.
        rollout + "enable_chunked_prefill": False,
        rollout + "engine_kwargs.vllm.skip_mm_profiling": True,
        rollout + "agent.num_workers": 1,
        rollout + "checkpoint_engine.update_weights_bucket_megabytes": 64,
        "reward.num_workers": 1,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    } | ({} if cluster.address is not None else _own_ray_node(cluster.gpus_per_node))


def _own_ray_node(gpus: int) -> dict[str, Any]:
    return {
        # A GPU is a logical place here: verl's resource check knows no other (single_controller/ray/base.py:230).
        "ray_kwargs.ray_init.num_gpus": gpus,
        "ray_kwargs.ray_init.num_cpus": 16,
        "ray_kwargs.ray_init.object_store_memory": 10**9,
    }
