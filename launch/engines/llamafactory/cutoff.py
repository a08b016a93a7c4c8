"""LLaMA-Factory's data set without the chains that are longer than `sft.cutoff_len`."""

from pathlib import Path

from data_tools.exports import export, llamafactory_file
from data_tools.sample import read_samples
from launch.run import Run
from launch.samples.lengths import too_long


def fitting_dataset(run: Run) -> tuple[Path, int]:
    """The folder of LLaMA-Factory's data set without the chains that are too long, and how many it has.

    Those are listed in sft/quarantine.jsonl. Where there is none, it is the folder that stage data made.

    Raises:
        LaunchError: a share above data.max_quarantined is too long.
    """
    paths = run.paths
    long, total = too_long(run, "sft", paths.sft_quarantine, resumed=any(paths.sft.glob("checkpoint-*")))
    if not long:
        return paths.llamafactory_data, total
    samples = (sample for sample in read_samples(paths.samples("sft")) if sample.id not in long)
    kept = export(samples, run.data, llamafactory_file(paths.sft_data, run.recipe.form))
    return paths.sft_data, kept
