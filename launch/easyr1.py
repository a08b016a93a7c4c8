"""Write what EasyR1, the other RL engine, needs to train this recipe: its configuration and its data.

python -m launch.easyr1 experiment=camreasoner advantage=grpo ...

EasyR1 calls its own package `verl` and needs transformers < 5, so it runs in an environment of its own; the command is
printed. What it cannot do is refused: docs/cluster.md.
"""

from data_tools.sample import read_samples
from launch.checks import require_motions
from launch.command import recipe_command
from launch.console import console
from launch.engines.easyr1.config import check, left_out, write
from launch.recipe import Recipe
from launch.run import run_of


@recipe_command
def main(recipe: Recipe) -> None:
    check(recipe)
    run = run_of(recipe)
    run.require("data", *(["sft"] if recipe.rl.start_epoch else []))
    require_motions(recipe, read_samples(run.paths.samples("rl")))
    config = write(run, run.sft_checkpoint(recipe.rl.start_epoch))
    if keys := left_out(recipe):
        console.print(f"  verl's own settings, left out: {', '.join(keys)}", soft_wrap=True)
    console.print(f"  in EasyR1's environment: python -m verl.trainer.main config={config}", soft_wrap=True)


if __name__ == "__main__":
    main()
