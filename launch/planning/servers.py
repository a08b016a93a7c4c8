"""The servers that chain synthesis asks, on the GPUs of the recipe's cluster."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from data_tools.synthesis.settings import Client, Settings
from launch.errors import LaunchError
from launch.recipe import Recipe

WEIGHTS_SHARE = 0.6  # of a GPU's memory, at most; the rest is for the KV cache and activations
JUDGED = ("consistency", "sufficiency", "review")  # filters that ask the judge
JUDGE_TOKENS = 16384  # longest question to the judge, with its verdict


def serve_commands(recipe: Recipe, settings: Settings) -> list[str]:
    """The command of each server, with GPUs of its own; a line that starts with # says what cannot run side by side.

    Raises:
        LaunchError: a cluster without GPUs, a model that a node cannot hold, or two servers of one address.
    """
    lines: list[str] = []
    taken: dict[str, int] = {}  # GPUs by host
    addresses: set[tuple[str, int]] = set()
    for who, client, host, port in _servers(settings):
        if (host, port) in addresses:
            raise LaunchError(f"synthesis.{who}.url: {host}:{port} is another server's: give each a port of its own")
        addresses.add((host, port))
        count = parallel_size(recipe, who, settings.weights_gb[who])
        first = taken.get(host, 0)
        if first + count > recipe.cluster.gpus_per_node:
            generated = [name for name in settings.filters if name not in JUDGED]
            lines.append(
                f"# {host} holds one at a time: make the chains with synthesis.filters='[{', '.join(generated)}]', "
                "stop the server above, start the next, and run the same command without synthesis.filters"
            )
            first = 0
        taken[host] = first + count
        devices = ",".join(map(str, range(first, first + count)))
        words = _command(recipe, settings, who, str(client["model"]), count)
        address = ["--host", host, "--port", str(port)] if words[0] == "vllm" else [f"host={host}", f"port={port}"]
        lines.append(f"CUDA_VISIBLE_DEVICES={devices} {shlex.join([*words, *address])}")
    return lines


def parallel_size(recipe: Recipe, who: Client, weights_gb: float) -> int:
    """The smallest power of two of GPUs that hold the weights.

    Raises:
        LaunchError: the cluster has no GPUs, or too few in a node.
    """
    cluster = recipe.cluster
    if cluster.device != "cuda" or cluster.gpu_memory_gb is None:
        raise LaunchError("synthesis.serve_commands counts with the GPUs of a cluster: give cluster=node_8gpu, say")
    count = gpus_for(weights_gb, cluster.gpu_memory_gb)
    if count > cluster.gpus_per_node:
        raise LaunchError(
            f"synthesis.{who}.model: {weights_gb:g} GB of weights need {count} GPUs of {cluster.gpu_memory_gb:g} GB, a "
            f"node has {cluster.gpus_per_node}: choose a smaller model (and synthesis.weights_gb), or another cluster="
        )
    return count


def gpus_for(weights_gb: float, gpu_memory_gb: float) -> int:
    """The smallest power of two of GPUs that hold the weights and leave room to work.

    Example:
        >>> [gpus_for(gigabytes, 80) for gigabytes in (16, 66, 147)]
        [1, 2, 4]
    """
    count = 1
    while weights_gb / count > WEIGHTS_SHARE * gpu_memory_gb:
        count *= 2
    return count


def _servers(settings: Settings) -> Iterator[tuple[Client, Mapping[str, Any], str, int]]:
    """Which client, its settings, host and port of each server."""
    clients: list[tuple[Client, Mapping[str, Any], int]]
    clients = [("endpoint", settings.endpoint, 8000), ("judge", settings.judge, 8001)]
    for who, client, port in clients:
        if client.get("name") != "rules":
            urls = client.get("url") or ""
            for url in [urls] if isinstance(urls, str) else urls:
                parts = urlsplit(url)
                yield who, client, parts.hostname or "127.0.0.1", parts.port or port


def _command(recipe: Recipe, settings: Settings, who: Client, model: str, gpus: int) -> list[str]:
    """A judge that reads text alone is vLLM as it is; to clips that would give 24 frames per second (launch.serve)."""
    if who == "judge" and "review" not in settings.filters:
        return ["vllm", "serve", model, f"--tensor-parallel-size={gpus}", f"--max-model-len={JUDGE_TOKENS}"]
    words = ["python", "-m", "launch.serve", f"model={model}", f"experiment={recipe.experiment}", f"gpus={gpus}"]
    if settings.send == "file":
        words.append(f"media={settings.clips.absolute()}")
    return words
