"""Check samples, with their videos decoded over a Ray cluster that sees the same files.

python -m launch.engines.ray.check SAMPLES.jsonl... media_root=VIDEOS out=FOLDER ray=auto
"""

from pydantic import Field

from data_tools.check import CheckArguments, run_check
from data_tools.cli import run_command
from launch.engines.ray.map import RayMap


class RayCheckArguments(CheckArguments):
    ray: str = Field("auto", description="address of the cluster; local starts one on this machine")


def main(arguments: RayCheckArguments) -> None:
    run_check(arguments, RayMap(arguments.ray, arguments.workers))


if __name__ == "__main__":
    run_command(main, RayCheckArguments, __doc__)
