"""Stage `sft`: supervised fine-tuning on reasoning chains, in LLaMA-Factory.

python -m launch.sft experiment=demo sft.learning_rate=5e-4
"""

import yaml

from data_tools.files import write_text
from launch.adapters import merge_adapters
from launch.command import command
from launch.console import console
from launch.engines.llamafactory.config import render
from launch.engines.llamafactory.cutoff import fitting_dataset
from launch.engines.watch import run_engine
from launch.errors import LaunchError
from launch.planning.sizes import total_steps
from launch.recipe import Cluster
from launch.run import Run
from launch.run.checkpoints import resume_sft, sft_checkpoints, sft_steps


def train(run: Run) -> None:
    """Render the configuration, and train from the last whole checkpoint."""
    folder, config = run.paths, render(run)
    config["dataset_dir"], chains = _dataset(run)
    last = resume_sft(folder)
    if last is not None:
        config["resume_from_checkpoint"] = str(last)
        if run.recipe.lora is None:
            # The weights are read as a model: transformers 5.9.0, trainer.py:3379, compares the names of Qwen's weights
            # in the checkpoint with the model's own. They differ, so it would go on from the base model with a warning.
            config["model_name_or_path"] = str(last)
        console.print(f"  resuming from {last}")
    write_text(folder.sft_config, yaml.safe_dump(config, sort_keys=False))
    run_engine(
        run.recipe,
        trainer(run.recipe.cluster, str(folder.sft_config)),
        run.log("sft"),
        "SFT in LLaMA-Factory",
        total_steps(run.recipe, chains),
        lambda: sft_steps(folder),
    )
    if run.recipe.lora:
        targets = {checkpoint: folder.sft_merged(checkpoint.name) for checkpoint in sft_checkpoints(folder)}
        missing = {checkpoint: target for checkpoint, target in targets.items() if not target.exists()}
        merge_adapters(run, run.base_model, missing, run.log("sft_merge"))
    console.print(f"  checkpoints, one per epoch: {folder.sft}")


def trainer(cluster: Cluster, config: str) -> list[str]:
    """What Python runs: torchrun on each node of SFT, also for one GPU, since LLaMA-Factory and DeepSpeed want it."""
    if cluster.sft_nodes > 1:
        place = [str(cluster.address), str(cluster.sft_nodes), str(cluster.gpus_per_node)]
        return ["launch.engines.llamafactory.nodes", config, *place]
    command = ["launch.engines.llamafactory.main", config]
    if cluster.device == "cpu" and cluster.gpus_per_node == 1:
        return command
    return ["torch.distributed.run", "--standalone", f"--nproc-per-node={cluster.gpus_per_node}", "-m", *command]


def _dataset(run: Run) -> tuple[str, int]:
    """The folder of the chains to train on, and their number; says how many are too long."""
    dataset, chains = fitting_dataset(run)
    if dataset == run.paths.sft_data:
        console.print(f"  {chains} chains; the others are longer than sft.cutoff_len: {run.paths.sft_quarantine}")
    return str(dataset), chains


def check(run: Run) -> None:
    """Refuse a configuration that cannot be rendered, and data without chains, before anything is written."""
    from data_tools.sample import read_samples

    render(run)
    if run.paths.samples("sft").exists():
        next(read_samples(run.paths.samples("sft")))
    else:
        raise LaunchError("data.files.sft is null, so that there are no chains: give them, or take rl.start_epoch=0")


@command("sft", check)
def main(run: Run) -> None:
    train(run)


if __name__ == "__main__":
    main()
