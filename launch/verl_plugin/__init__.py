"""What verl loads in each of its processes (`VERL_USE_EXTERNAL_MODULES=launch.verl_plugin`).

verl imports this module while it is itself half imported, so nothing here may import verl at the top: everything is
hung on the import of the module that it concerns (`after_import`).

    patches   run-time mends of verl, vLLM and transformers, one function each
    cpu       the CPU platform; only where VERL_PLATFORM=cpu
    trainer   the trainer that feeds tasks and reward components to the advantage estimators, and their state
    rollout   seeded sampling, and clips decoded once per prompt instead of once per rollout
    reward    the function that verl's reward loop calls
"""

import os

from launch.verl_plugin import patches
from launch.verl_plugin.imports import after_import

patches.apply()
if os.environ.get("VERL_PLATFORM") == "cpu":
    from launch.verl_plugin import cpu

    cpu.apply()


@after_import("verl.trainer.ppo.v1")
def _register_trainer(_module) -> None:
    import launch.verl_plugin.trainer  # noqa: F401
