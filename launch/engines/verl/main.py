"""verl's V1 trainer on a rendered configuration: python -m launch.engines.verl.main CONFIG.yaml"""

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from launch.engines.families import FAMILIES


def main(path: str) -> None:
    config = cast(DictConfig, OmegaConf.load(path))
    if config.ray_kwargs.ray_init.get("address") is not None:
        join_cluster(config)
    elif os.environ.get("VERL_PLATFORM") == "cpu":
        start_forking(config)

    import verl.trainer.main_ppo as main_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    main_ppo.run_ppo(config, main_ppo.TaskRunnerV1)


def join_cluster(config: DictConfig) -> None:
    """Connect to the running Ray cluster of the recipe; verl then uses this connection."""
    import pyarrow.parquet as pq

    from launch.engines.ray import nodes

    train = config.data.train_files
    file = pq.ParquetFile(train)
    columns = [name for name in ("videos", "images") if name in file.schema_arrow.names]
    (row,) = file.read_row_group(0, columns).slice(0, 1).to_pylist()
    shown = [item.get("video") or item["image"] for items in row.values() for item in items]
    paths = [train, str(Path(config.trainer.default_local_dir).parent), *shown]
    model = config.actor_rollout_ref.model.path
    if Path(model).is_absolute():
        paths.append(model)
    key = config.algorithm.camreasoner.judge.get("api_key_env")
    wanted = config.trainer.nnodes, config.trainer.n_gpus_per_node
    nodes.join(config.ray_kwargs.ray_init.address, *wanted, paths, [key] if key else [], worker_variables)


def worker_variables() -> dict[str, str]:
    """What verl sets in its workers."""
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    variables: dict[str, str] = get_ppo_ray_runtime_env()["env_vars"]
    return variables | {"TRANSFER_QUEUE_ENABLE": "1"}  # main_ppo.py:66


def start_forking(config: DictConfig) -> None:
    """Start a Ray node, and fork every process of the run from one that has imported the engines (`forkserver.py`).

    The node is up before the imports begin: its daemons give each other little time to start.
    """
    from launch.engines.ray.start import start_nodes
    from launch.engines.verl import forkserver

    settings = cast(dict[str, Any], OmegaConf.to_container(config.ray_kwargs.ray_init))
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    nodes = start_nodes(settings, config.trainer.nnodes)
    python = forkserver.start(
        settings["_temp_dir"], nodes.raylet, modules_of(Path(config.actor_rollout_ref.model.path))
    )
    config.ray_kwargs.ray_init = {"address": nodes.address, "runtime_env": {"py_executable": python}}


def modules_of(model: Path) -> tuple[str, ...]:
    """What the engines import for the family of the model in a folder."""
    path = model / "config.json"
    kind = json.loads(path.read_text())["model_type"] if path.exists() else None
    return FAMILIES[kind].modules if kind in FAMILIES else ()


if __name__ == "__main__":
    main(sys.argv[1])
