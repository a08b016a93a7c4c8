"""LLaMA-Factory's trainer with the mends that it shares with verl: python -m launch.sft_engine CONFIG.yaml"""

import sys
from pathlib import Path

import yaml

from launch.process import train_in_threads
from launch.verl_plugin import patches


def main(path: str) -> None:
    patches.apply()
    train_in_threads()
    from llamafactory.train.tuner import run_exp

    run_exp(yaml.safe_load(Path(path).read_text()))


if __name__ == "__main__":
    main(sys.argv[1])
