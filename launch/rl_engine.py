"""verl's V1 trainer on a rendered configuration: python -m launch.rl_engine CONFIG.yaml"""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil
from omegaconf import DictConfig, OmegaConf


def main(path: str) -> None:
    config = OmegaConf.load(path)
    if os.environ.get("VERL_PLATFORM") == "cpu":
        start_forking(config)

    import verl.trainer.main_ppo as main_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    main_ppo.run_ppo(config, main_ppo.TaskRunnerV1)


def start_forking(config: DictConfig) -> None:
    """Start a Ray node of our own and have every process of the run forked (`launch.zygote`): ten processes that
    import for 15 s each are most of a short run on two cores."""
    from launch import zygote

    ray = config.ray_kwargs.ray_init
    folder = Path(ray._temp_dir)
    folder.mkdir(mode=0o700, parents=True)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [
        *("ray.scripts.scripts", "start", "--head", "--block", "--port=0", "--node-ip-address=127.0.0.1"),
        *("--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"),
        *(f"--num-cpus={ray.num_cpus}", f"--num-gpus={ray.num_gpus}"),
        f"--object-store-memory={ray.object_store_memory}",
    ]
    node = subprocess.Popen([sys.executable, "-m", *command], stdin=subprocess.DEVNULL)
    python = zygote.start(str(folder), lambda: _wait_for_raylet(node))
    address = (folder / "ray_current_cluster").read_text().strip()
    config.ray_kwargs.ray_init = {"address": address, "runtime_env": {"py_executable": python}}


def _wait_for_raylet(node: subprocess.Popen) -> int:
    """Process id of the raylet that `node` starts.

    Raises:
        RuntimeError: Ray did not start.
    """
    while node.poll() is None:
        for child in psutil.Process(node.pid).children(recursive=True):
            if child.name() == "raylet":
                return child.pid
        time.sleep(0.1)
    raise RuntimeError(f"Ray did not start (exit code {node.returncode})")


if __name__ == "__main__":
    main(sys.argv[1])
