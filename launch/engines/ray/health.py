"""Ray as a recipe uses it: a node of its own starts, or the running cluster has what each node needs."""

import os
import secrets
import tempfile
import time
from pathlib import Path

from launch.engines.environment import engine_env
from launch.engines.inherited import short_temporary
from launch.engines.ray.map import connected
from launch.engines.ray.nodes import facts, probe, shortage, skew
from launch.engines.ray.start import start_nodes
from launch.health.finding import Finding
from launch.health.storage import media_paths
from launch.recipe import Recipe
from launch.run import run_of
from rewards.errors import UserError


def ray(recipe: Recipe) -> Finding:
    """A local node is started and ended; a cluster is joined, and every node is asked what it lacks."""
    address = recipe.cluster.address
    try:
        return _own_node(recipe) if address is None else _cluster(recipe, address)
    except (UserError, RuntimeError) as error:
        remedy = "what the message says; docs/cluster.md" if address else "TMPDIR=/tmp; on a busy machine, once more"
        return Finding("Ray", "wrong", str(error), remedy)


def _own_node(recipe: Recipe) -> Finding:
    os.environ |= engine_env(recipe) | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=short_temporary("x").parent) as folder:
        settings = {"include_dashboard": False, "num_cpus": 1, "object_store_memory": 10**8}
        process = start_nodes(settings | {"_temp_dir": str(Path(folder) / "ray")}).process
        seconds = time.monotonic() - start
        process.terminate()
        process.wait()
    return Finding("Ray", "ok", f"a node of its own starts in {seconds:.0f} s")


def _cluster(recipe: Recipe, address: str) -> Finding:
    import ray

    cluster, key = recipe.cluster, recipe.judge.settings.get("api_key_env")
    paths = [run_of(recipe).folder.parent.parent, *(media_paths(recipe) if recipe.data.files else ())]
    if recipe.model.path and Path(recipe.model.path).is_absolute():
        paths.append(Path(recipe.model.path))
    with connected(address):
        if short := shortage(ray.nodes(), cluster.nodes, cluster.gpus_per_node):
            return Finding("Ray", "wrong", short, "docs/cluster.md")
        found = probe([str(path) for path in paths if path.exists()], [key] if key else [])
    if problems := skew(facts(), found):
        return Finding("Ray", "wrong", "; ".join(problems), "docs/cluster.md, what every node needs")
    return Finding("Ray", "ok", f"{len(found)} node(s) at {address}, all with these packages and files")
