"""verl's V1 trainer on a rendered configuration: python -m launch.rl_engine CONFIG.yaml"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf


def main(path: str) -> None:
    config = OmegaConf.load(path)
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
    """Connect to the running Ray cluster of the recipe; verl then takes this connection."""
    import pyarrow.parquet as pq

    from launch import nodes

    train = config.data.train_files
    clips = pq.ParquetFile(train).read_row_group(0, ["videos"]).slice(0, 1).to_pylist()[0]["videos"]
    paths = [train, str(Path(config.trainer.default_local_dir).parent), *(clip["video"] for clip in clips)]
    model = config.actor_rollout_ref.model.path
    if Path(model).is_absolute():
        paths.append(model)
    key = config.algorithm.camreasoner.judge.get("api_key_env")
    wanted = config.trainer.nnodes, config.trainer.n_gpus_per_node
    nodes.join(config.ray_kwargs.ray_init.address, *wanted, paths, [key] if key else [])


def start_forking(config: DictConfig) -> None:
    """Start a Ray node of our own and have every process of the run forked (`launch.zygote`): ten processes that
    import for 15 s each are most of a short run on two cores."""
    from launch import zygote

    settings = OmegaConf.to_container(config.ray_kwargs.ray_init)
    folder = Path(settings["_temp_dir"])
    folder.mkdir(mode=0o700, parents=True)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [sys.executable, "-m", "launch.ray_node", json.dumps(settings), str(config.trainer.nnodes)]
    node = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = {}

    def raylet() -> int:
        line = node.stdout.readline()
        if not line:
            raise RuntimeError(f"Ray did not start (exit code {node.wait()})")
        found.update(json.loads(line))
        return found["raylet"]

    python = zygote.start(str(folder), raylet)
    config.ray_kwargs.ray_init = {"address": found["address"], "runtime_env": {"py_executable": python}}


if __name__ == "__main__":
    main(sys.argv[1])
