"""What verl loads in each of its processes (`VERL_USE_EXTERNAL_MODULES=launch.verl_plugin`).

verl imports this package while verl itself is only half imported. So nothing here may import verl at the top: all of it
runs after the import of the module that it concerns (`after_import`).

    trainer   hands tasks and reward components to the advantage estimators, and saves their state
    filter    drops zero-advantage groups, and draws others in their place
    rollout   seeded sampling; a clip is decoded once per prompt instead of once per rollout
    router    which vLLM server answers: all rollouts of a prompt go to one
    reward    the function that verl's reward loop calls
    metrics   what the trainer logs besides verl's own
    prefix    trains on the responses to a prompt as one sequence
    pixels    a prompt's pixels lie in verl's queue once, as bytes
    micro_batches   by a budget of tokens, with the rows of a group together
    queue     rows of verl's TransferQueue
"""

import os

from launch.engines import patches
from launch.engines.patches.hooks import after_import

patches.apply()
if os.environ.get("VERL_PLATFORM") == "cpu":
    from launch.engines.patches import cpu

    cpu.apply()


@after_import("verl.trainer.ppo.v1")
def _register_trainer(_module) -> None:
    import launch.verl_plugin.trainer  # noqa: F401


@after_import("verl.utils.transferqueue_utils")
def _register_queue(module) -> None:
    from launch.verl_plugin import pixels

    pixels.register(module)


@after_import("verl.utils.model")
def _register_model(module) -> None:
    from launch.verl_plugin import pixels

    pixels.register_floats(module)


@after_import("verl.workers.engine.fsdp.transformer_impl")
def _register_engine(module) -> None:
    from launch.verl_plugin import micro_batches, prefix

    prefix.register(module)
    micro_batches.register(module)
