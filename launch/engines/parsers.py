"""The engines' own parsers, each in a process of its own that imports its engine alone: they import side by side.

python -m launch.engines.parsers ENGINE     reads jobs and writes verdicts, one JSON per line; `check` starts it
"""

import atexit
import gc
import importlib
import json
import os
import subprocess
import sys
from functools import lru_cache
from typing import Any

from launch.errors import LaunchError
from launch.recipe import ROOT, Recipe, RecipeError
from rewards.errors import UserError

# What an engine's `check` imports; the process has it before the first job comes.
PARSERS = {
    "llamafactory": ("llamafactory.hparams.parser",),
    "verl": ("verl.trainer.ppo.utils", "verl.utils.config", "verl.workers.config"),
}
# A plan gives the same verdict on every machine, with GPUs or without.
_ENV = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "launch.verl_plugin",
    "DISABLE_VERSION_CHECK": "1",
    "LLAMAFACTORY_VERBOSITY": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
}


@lru_cache(maxsize=1)
def start() -> dict[str, "subprocess.Popen[str]"]:
    """Start both processes, which begin to import, and end with this one."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "launch.engines.parsers"]
    # In a session of their own: Ctrl-C ends the plan, which ends them; if it is killed, they end with their input.
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    options |= {"env": os.environ | _ENV | {"PYTHONPATH": path}, "start_new_session": True}
    processes = {engine: subprocess.Popen([*command, engine], **options) for engine in PARSERS}
    atexit.register(_end, processes)
    return processes


def _end(processes: dict[str, "subprocess.Popen[str]"]) -> None:
    """End them at once: they hold our standard error, and whoever reads it (`2>&1 | less`) waits for their imports."""
    for process in processes.values():
        process.kill()
        process.wait()


def check(recipe: Recipe, configs: dict[str, dict[str, Any]]) -> None:
    """Have both engines check their configurations of a recipe, and with verl's torch its advantage estimator.

    Args:
        configs: engine -> rendered configuration.

    Raises:
        RecipeError: naming the key.
        LaunchError: an engine cannot be imported.
    """
    processes = start()
    for engine, process in processes.items():
        assert process.stdin
        try:
            process.stdin.write(json.dumps([recipe.model_dump(mode="json"), configs[engine]]) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended: its missing verdict says so
    verdicts = {engine: process.stdout.readline() for engine, process in processes.items() if process.stdout}
    for engine, verdict in verdicts.items():
        if not verdict:
            start.cache_clear()
            code = processes[engine].wait()
            raise LaunchError(f"{engine}'s parser ended (exit code {code}); its last words stand above this message")
        if error := json.loads(verdict):
            raise RecipeError(error)


def main(engine: str) -> None:
    """Check the configurations that come on the standard input, until it ends."""
    gc.disable()  # imports make millions of objects that live to the end: an eighth of the time
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engines print is no verdict
    for module in PARSERS[engine]:
        importlib.import_module(module)
    for line in sys.stdin:
        recipe, config = json.loads(line)
        verdict = _verdict(engine, recipe, config)
        try:
            answers.write(json.dumps(verdict) + "\n")
            answers.flush()
        except BrokenPipeError:  # the plan was interrupted
            os._exit(1)  # without flushing again


def _verdict(engine: str, recipe: dict[str, Any], config: dict[str, Any]) -> str | None:
    from omegaconf import OmegaConf

    from launch.checks import check_advantage
    from launch.engines.llamafactory import config as llamafactory
    from launch.engines.verl import config as verl

    try:
        if engine == "llamafactory":
            llamafactory.check(config)
        else:
            check_advantage(Recipe.model_validate(recipe))
            rendered = OmegaConf.create(config)
            OmegaConf.set_struct(rendered, True)
            verl.check(rendered)
    except UserError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main(sys.argv[1])
