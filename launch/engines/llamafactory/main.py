"""LLaMA-Factory's trainer with the patches of this project: python -m launch.engines.llamafactory.main CONFIG.yaml"""

import sys
from pathlib import Path

import yaml

from launch.engines import patches
from launch.engines.cleanup import die_with_parent
from launch.engines.environment import train_in_threads


def main(path: str) -> None:
    die_with_parent()  # a torchrun that is killed leaves its ranks alone
    patches.apply()
    train_in_threads()
    from llamafactory.train.tuner import run_exp

    run_exp(yaml.safe_load(Path(path).read_text()))


if __name__ == "__main__":
    main(sys.argv[1])
