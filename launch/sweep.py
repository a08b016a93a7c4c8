"""Run one experiment at several values: `-m` (Hydra's multirun) over RL, merge and evaluation.

python -m launch.rl -m experiment=demo reward.format_weight=0.0,0.1,0.3,0.5 seed=0,1,2      the RL stage alone
python -m launch.sweep experiment=demo reward.format_weight=0.0,0.1                         and merge and evaluation

`hydra.launcher.stages=[evaluate]` runs other stages; `hydra/launcher=jobs submit.address=http://head:8265` makes each
point a Ray job, `hydra.launcher.at_once` of them side by side. Points share the stages before the first of these.
"""

import sys

from launch.command import hydra_command
from launch.recipe import RecipeError


def main() -> None:
    if not {"--multirun", "-m", "--help", "--cfg", "-c"} & set(sys.argv):
        sys.argv.insert(1, "--multirun")
    hydra_command(_single, stages=["rl", "merge", "evaluate"])()


def _single(_: object) -> None:
    raise RecipeError("a sweep runs its points by hydra.mode=MULTIRUN")


if __name__ == "__main__":
    main()
