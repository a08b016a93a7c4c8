"""What the judge of a study costs: verdicts, GPUs, hours, and where it runs beside RL."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from launch.planning.ranges import BF16, GB, Range, calibration
from launch.planning.servers import JUDGE_TOKENS, gpus_for
from launch.planning.sizes import rl_steps
from launch.recipe import Recipe
from rewards.judges.http import is_loopback
from rewards.scorer import Scorer

MEASURED = 8.3e9  # parameters that `decode_tokens` of the calibration is for


def verdicts(recipe: Recipe) -> int:
    """Verdicts that an RL step asks a server for, at most: a malformed response asks for none."""
    if recipe.judge.name != "endpoint":
        return 0
    asks = Scorer(recipe.reward.model_dump()).asks_judge + recipe.rl.judge_consistency
    return asks * recipe.rl.rollout_batch_size * recipe.rl.group_size


def judge_rows(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The plan's rows: how many verdicts, what they take, and which server gives them."""
    step, settings = verdicts(recipe), recipe.judge.settings
    if not step:
        return
    steps = rl_steps(recipe)
    in_all = f", {step * steps:,} in RL" if steps else ""
    yield "judge", f"{settings['model']}: at most {step} verdicts a step{in_all}"
    gpus = _gpus(recipe)
    if gpus and steps and (seconds := _seconds(recipe, gpus)):
        hours = seconds * (step * steps / 3600)
        yield "judge's time", f"{hours.show('h')} of {gpus} GPUs, most of it while RL generates"
    yield "judge's server", ", ".join(_urls(recipe))
    if recipe.cluster.judge_gpus:
        yield "", serve_command(recipe)


def doubts(recipe: Recipe) -> Iterator[str]:
    """Why the judge's server may have no GPU to run on."""
    gpus, cluster = _gpus(recipe), recipe.cluster
    if not verdicts(recipe) or not gpus or not all(is_loopback(url) for url in _urls(recipe)):
        return
    if cluster.judge_gpus < gpus:
        yield (
            f"judge.url is this machine, where RL leaves the judge {cluster.judge_gpus} GPUs, and its weights of "
            f"{_weights(recipe):g} GB take {gpus}: cluster=node_8gpu_judge, or judge.url of another machine"
        )


def serve_command(recipe: Recipe) -> str:
    """The server of the judge on the GPUs that RL and evaluation leave it."""
    cluster, url = recipe.cluster, urlsplit(_urls(recipe)[0])
    devices = ",".join(map(str, range(cluster.policy_gpus, cluster.gpus_per_node)))
    return (
        f"CUDA_VISIBLE_DEVICES={devices} vllm serve {recipe.judge.settings['model']} "
        f"--tensor-parallel-size={cluster.judge_gpus} --max-model-len={JUDGE_TOKENS} --port {url.port or 8001}"
    )


def _urls(recipe: Recipe) -> list[str]:
    urls = recipe.judge.settings["url"]
    return [urls] if isinstance(urls, str) else list(urls)


def _weights(recipe: Recipe) -> float | None:
    weights: float | None = recipe.judge.settings.get("weights_gb")
    return weights


def _gpus(recipe: Recipe) -> int | None:
    """GPUs that hold the judge; None for a hosted one, or where the sizes are not known."""
    weights, memory = _weights(recipe), recipe.cluster.gpu_memory_gb
    return None if weights is None or memory is None else max(recipe.cluster.judge_gpus, gpus_for(weights, memory))


def _seconds(recipe: Recipe, gpus: int) -> Range | None:
    """Of a verdict on all of its GPUs, busy with many: 2 operations per parameter and token read; then the writing."""
    table, weights = calibration(), _weights(recipe)
    gpu = table["throughput"].get(recipe.cluster.gpu)
    if gpu is None or weights is None:
        return None
    parameters = weights * GB / BF16
    flops = table["text"]["judge_tokens"] * (2 * parameters)
    read = 1.0 / (gpu["infer_mfu"] * (gpu["peak_tflops"] * 1e12 * gpus)) * flops
    rate = gpu["decode_tokens"] * (gpus * min(1.0, MEASURED / parameters))
    found: Range = read + 1.0 / rate * table["text"]["verdict_tokens"]
    return found
