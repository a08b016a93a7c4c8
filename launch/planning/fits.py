"""What does not fit the cluster, and what to change."""

from collections.abc import Mapping

from launch.engines.activity import COMPUTING
from launch.planning import judge, memory, time
from launch.planning.memory import total
from launch.planning.ranges import Range
from launch.recipe import Recipe


def fits(recipe: Recipe) -> tuple[list[str], list[str]]:
    """What certainly does not fit the cluster, and what probably does not; each with what to change."""
    cluster, tensor_parallel = recipe.cluster, recipe.rl.rollout.tensor_parallel_size
    problems: list[str] = []
    doubts: list[str] = []
    if recipe.model.architecture is None:
        return problems, doubts

    def require(what: str, parts: Mapping[str, Range], have: float | None, change: str) -> None:
        need = total(parts.values())
        if have is not None and need.low > have:
            problems.append(f"{what}: at least {need.low:,.0f} GB, {have:,.0f} GB available: {change}")
        elif have is not None and need.likely > have:
            doubts.append(f"{what}: {need.show('GB')}, {have:,.0f} GB available: {change}")

    if cluster.device == "cpu":
        change = "a smaller model (model=tiny), or another cluster="
        require("host memory", memory.host_memory(recipe), cluster.host_memory_gb, change)
    else:
        gpu, smaller = cluster.gpu_memory_gb, "cluster.offload=true, a smaller model, shorter clips (media) and limits"
        more = f"cluster.gpus_per_node or cluster.sft_nodes higher, {smaller}"
        if recipe.rl.start_epoch:
            require("memory per GPU in SFT", memory.training_memory(recipe, "sft"), gpu, more)
        more = f"cluster.nodes higher, {smaller}"
        require("memory per GPU in RL updates", memory.training_memory(recipe, "rl"), gpu, more)
        change = "rl.rollout_batch_size or rl.group_size lower, shorter or smaller clips (media), cluster.nodes higher"
        require("host memory per node in RL", memory.host_memory(recipe), cluster.host_memory_gb, change)
    if cluster.gpu_memory_gb is not None:
        change = "rl.rollout.gpu_memory_utilization lower, cluster.offload=true, cluster.nodes higher"
        require("memory per GPU in rollouts", memory.rollout_memory(recipe), cluster.gpu_memory_gb, change)
        rows, change = (
            memory.concurrent_rollouts(recipe),
            "rl.rollout.tensor_parallel_size or .gpu_memory_utilization",
        )
        if rows.high < 1:
            problems.append(f"vLLM's share of a GPU cannot hold one whole rollout beside the weights: {change} higher")
        elif rows.likely < 1:
            doubts.append(f"vLLM's share of a GPU holds {rows.show('whole rollouts')}: {change} higher")
    heads = recipe.model.architecture.num_attention_heads
    if heads % tensor_parallel or cluster.policy_gpus % tensor_parallel:
        problems.append(
            f"rl.rollout.tensor_parallel_size={tensor_parallel} must divide the model's {heads} attention heads "
            f"and the {cluster.policy_gpus} GPUs of a node that RL takes (cluster.gpus_per_node, judge_gpus)"
        )
    change = "sft.num_train_epochs or rl.keep_checkpoints lower, a larger disk (cluster.disk_gb)"
    doubts += judge.doubts(recipe)
    require("disk for the run folder", memory.disk(recipe), cluster.disk_gb, change)
    late, maybe_late = _too_late(recipe)
    return problems + late, doubts + maybe_late


def _too_late(recipe: Recipe) -> tuple[list[str], list[str]]:
    """Steps that the watchdog would end: likely ones, and possible ones. A resumed run would end at the same step."""
    minutes = COMPUTING * recipe.cluster.time_limit_minutes
    longest = {"RL": time.step_seconds(recipe), "SFT": time.sft_step_seconds(recipe) if recipe.rl.start_epoch else None}
    found: tuple[list[str], list[str]] = [], []
    for what, seconds in longest.items():
        if seconds and seconds.high > 60 * minutes:
            needed = -(-seconds.high // (60 * COMPUTING))
            found[seconds.likely <= 60 * minutes].append(
                f"a step of {what} takes {(seconds * (1 / 60)).show('minutes')}, and a silent engine is ended after "
                f"{minutes:g}: cluster.time_limit_minutes={needed:.0f}, or smaller steps (rl.rollout_batch_size)"
            )
    return found
