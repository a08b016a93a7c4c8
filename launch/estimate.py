"""What a recipe needs: memory per GPU, host memory, disk and hours, each as a range. Formulas: docs/plan.md.

Everything is counted from the recipe and `launch/calibration.yaml`; no model, no GPU is looked at. GB = 1e9 bytes.
"""

from collections.abc import Iterable
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from launch.recipe import Architecture, Recipe

GB = 1e9
# Bytes per trained parameter (verl's FSDP engine and ZeRO-3 with mixed precision): weight and gradient in float32, two
# Adam moments in float32.
WEIGHT, GRADIENT, MOMENTS = 4, 4, 8
BF16, FP32 = 2, 4
FRAMES_PER_PATCH, MERGE = 2, 2  # Qwen's video patches span two frames; 2 x 2 patches become one visual token


class Range(NamedTuple):
    """A number with its error bar."""

    low: float
    likely: float
    high: float

    def __add__(self, other: "Range | float") -> "Range":
        return Range(*(a + b for a, b in zip(self, _range(other))))

    def __radd__(self, other: float) -> "Range":  # for sum()
        return self + other

    def __mul__(self, other: "Range | float") -> "Range":
        return Range(*(a * b for a, b in zip(self, _range(other))))

    def __rmul__(self, other: float) -> "Range":
        return self * other

    def under(self, numerator: float) -> "Range":
        """`numerator` divided by this: the ends change places."""
        return Range(numerator / self.high, numerator / self.likely, numerator / self.low)

    def capped(self, top: float) -> "Range":
        return Range(*(min(value, top) for value in self))

    def show(self, unit: str) -> str:
        low, likely, high = (f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in self)
        return f"{likely} {unit}" if low == likely == high else f"{likely} {unit} ({low}–{high})"


def _range(value: "Range | float") -> Range:
    return value if isinstance(value, Range) else Range(value, value, value)


@lru_cache(maxsize=1)
def calibration() -> dict[str, Any]:
    """`calibration.yaml`, its triples as ranges."""

    def ranges(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: ranges(value) for key, value in node.items()}
        return Range(*map(float, node)) if isinstance(node, list) else node

    return ranges(yaml.safe_load(Path(__file__).with_name("calibration.yaml").read_text()))


# ------------------------------------------------------------------ the model


def language_parameters(a: Architecture) -> int:
    """Parameters of the language model, embeddings included."""
    h, q, kv = a.hidden_size, a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    extra = q + 2 * kv if a.family == "qwen2_5_vl" else 2 * a.head_dim  # biases of q, k, v; or norms of q and k
    layer = 2 * h * q + 2 * h * kv + extra + 3 * h * a.intermediate_size + 2 * h
    return a.num_hidden_layers * layer + h + embedding_parameters(a) * (1 if a.tie_word_embeddings else 2)


def embedding_parameters(a: Architecture) -> int:
    return a.vocab_size * a.hidden_size


def vision_parameters(a: Architecture) -> int:
    """Parameters of the vision tower and its merger."""
    v = a.vision
    w, i, out, merged = v.hidden_size, v.intermediate_size, a.hidden_size, v.hidden_size * MERGE**2
    patch = 3 * FRAMES_PER_PATCH * v.patch_size**2 * w
    attention = 4 * w * w + 4 * w
    merger = merged * merged + merged + merged * out + out
    if a.family == "qwen2_5_vl":
        return patch + v.depth * (attention + 3 * w * i + 2 * i + w + 2 * w) + merger + w
    blocks = v.depth * (attention + 2 * w * i + i + w + 4 * w)
    return patch + w + v.positions * w + blocks + merger + 2 * w + v.deepstack * (merger + 2 * merged)


def parameters(a: Architecture) -> int:
    return language_parameters(a) + vision_parameters(a)


def trained_parameters(recipe: Recipe, stage: str) -> int:
    """Parameters that `sft` or `rl` trains; a frozen tower has neither gradients nor moments."""
    a, part = recipe.model.architecture, getattr(recipe, stage)
    return language_parameters(a) if part.freeze_vision_tower else parameters(a)


def patches(recipe: Recipe) -> int:
    """Patches of the longest clip that the budget admits (>= those of any: sides are rounded to whole patches)."""
    side = recipe.model.architecture.vision.patch_size if recipe.model.architecture else 14
    pairs = ceil(recipe.media.max_frames / FRAMES_PER_PATCH)
    return pairs * (recipe.media.max_pixels // (side * MERGE) ** 2) * MERGE**2


def visual_tokens(recipe: Recipe) -> int:
    """Visual tokens of the longest clip, and for Qwen3-VL the texts that announce each pair of frames."""
    tokens = patches(recipe) // MERGE**2
    a = recipe.model.architecture
    announced = a is not None and a.family == "qwen3_vl"
    return tokens + (ceil(recipe.media.max_frames / FRAMES_PER_PATCH) * 10 if announced else 0)


# ------------------------------------------------------------------ GPU memory


def ranks(recipe: Recipe, stage: str) -> int:
    """GPUs that share the weights; SFT, merge and evaluation use one node."""
    nodes = recipe.cluster.nodes if stage == "rl" else 1
    return nodes * recipe.cluster.gpus_per_node


def training_memory(recipe: Recipe, stage: str) -> dict[str, Range]:
    """GB per GPU while `sft` or `rl` updates: what -> how much."""
    a, memory, n = recipe.model.architecture, calibration()["memory"], ranks(recipe, stage)
    trained, on_gpu = trained_parameters(recipe, stage), 0 if recipe.cluster.offload else 1
    tokens = _sequence(recipe, stage)
    micro = recipe.rl.micro_batch_size_per_gpu if stage == "rl" else recipe.sft.per_device_train_batch_size
    micro = min(micro, _rows_per_rank(recipe)) if stage == "rl" else micro
    weights = parameters(a) * WEIGHT
    layer = (language_parameters(a) - 2 * embedding_parameters(a)) / a.num_hidden_layers
    gathered = max(embedding_parameters(a) * (1 if a.tie_word_embeddings else 2), 2 * layer) + 2 * layer
    parts = {
        "weights": _range(on_gpu * weights / n),
        "gradients": _range(on_gpu * trained * GRADIENT / n),
        "Adam moments": _range(on_gpu * trained * MOMENTS / n),
        "gathered layers": _range(gathered * BF16 * (n > 1 or recipe.cluster.offload)),
        "activations": micro * _activations(recipe, stage, tokens),
        "logits": micro * memory["logits_copies"] * (tokens.high * a.vocab_size * _bytes(recipe)),
        "context": memory["context_gb"] * GB,
    }
    if stage == "rl":
        parts["vLLM asleep"] = memory["vllm_asleep_gb"] * GB
    return {what: size * (1 / GB) for what, size in parts.items() if size.high}


def _bytes(recipe: Recipe) -> int:
    """Bytes of an activation."""
    return BF16 if recipe.cluster.device == "cuda" else FP32


def _rows_per_rank(recipe: Recipe) -> int:
    return max(1, recipe.rl.global_batch_size * recipe.rl.group_size // ranks(recipe, "rl"))


def _sequence(recipe: Recipe, stage: str) -> Range:
    """Tokens of a row: clip, question and response; the highest is what the limits admit."""
    text, visual = calibration()["text"], visual_tokens(recipe)
    if stage == "rl":
        limit = recipe.rl.max_prompt_length + recipe.rl.max_response_length
        spoken = text["response_tokens"].capped(recipe.rl.max_response_length)
    else:
        limit, spoken = recipe.sft.cutoff_len, text["chain_tokens"]
    seen = (visual + text["question_tokens"] + spoken).capped(limit)
    return Range(seen.low, seen.likely, limit)


def _activations(recipe: Recipe, stage: str, tokens: Range) -> Range:
    """Bytes for one row. With checkpointing: the input of each layer, and all of one layer while it is recomputed."""
    a, b = recipe.model.architecture, _bytes(recipe)
    checkpointed = recipe.cluster.device == "cuda"
    factor = calibration()["memory"]["layer_recompute"]

    def stack(rows: float, width: int, inner: int, kv: int, depth: int) -> tuple[float, float]:
        inputs, whole = rows * width * b, rows * (10 * width + 2 * kv + 4 * inner) * b
        return (depth * inputs, whole) if checkpointed else (0.0, depth * whole)

    kv = a.num_key_value_heads * a.head_dim
    kept, whole = stack(tokens.high, a.hidden_size, a.intermediate_size, kv, a.num_hidden_layers)
    v = a.vision
    seen_kept, seen_whole = stack(patches(recipe), v.hidden_size, v.intermediate_size, v.hidden_size, v.depth)
    if getattr(recipe, stage).freeze_vision_tower:
        seen_kept, seen_whole = 0.0, seen_whole / (1 if checkpointed else v.depth)
    return factor * (whole + seen_whole) + (kept + seen_kept)


def rollout_memory(recipe: Recipe) -> dict[str, Range]:
    """GB per GPU while vLLM generates; the KV cache takes what vLLM's share leaves."""
    a, memory, rollout, cluster = recipe.model.architecture, calibration()["memory"], recipe.rl.rollout, recipe.cluster
    share = rollout.gpu_memory_utilization * cluster.gpu_memory_gb
    weights = parameters(a) * BF16 / rollout.tensor_parallel_size / GB
    resident = 0.0 if cluster.offload else parameters(a) * WEIGHT + trained_parameters(recipe, "rl") * MOMENTS
    peak = memory["vllm_activations_gb"]
    left = Range(*(share - weights - value for value in reversed(peak)))
    return {
        "vLLM's weights": _range(weights),
        "vLLM's activations": peak,
        "KV cache": left,
        "actor meanwhile": _range(resident / ranks(recipe, "rl") / GB),
        "context": memory["context_gb"],
    }


def kv_bytes_per_token(recipe: Recipe) -> float:
    """Keys and values of all layers, on one GPU of a tensor-parallel group."""
    a = recipe.model.architecture
    heads = max(1, a.num_key_value_heads / recipe.rl.rollout.tensor_parallel_size)
    return 2 * a.num_hidden_layers * heads * a.head_dim * BF16


def concurrent_rollouts(recipe: Recipe) -> Range:
    """Rollouts of the longest kind that the KV cache of one server holds at once."""
    row = (recipe.rl.max_prompt_length + recipe.rl.max_response_length) * kv_bytes_per_token(recipe)
    return Range(*(max(0.0, value) * GB / row for value in rollout_memory(recipe)["KV cache"]))


# ------------------------------------------------------------------ host memory, disk


def frames_gb(recipe: Recipe) -> Range:
    """Pixels of one step's rollouts as verl keeps them: float32, one copy per rollout (agent_loop_tq.py:195)."""
    side = recipe.model.architecture.vision.patch_size
    clip = patches(recipe) * 3 * FRAMES_PER_PATCH * side**2 * FP32
    whole = recipe.rl.rollout_batch_size * recipe.rl.group_size * clip / GB
    return Range(0.3 * whole, 0.8 * whole, 1.3 * whole)  # shorter clips; and copies on their way


def host_memory(recipe: Recipe) -> dict[str, Range]:
    """GB per node in the RL stage, the hungriest."""
    a, memory, cluster = recipe.model.architecture, calibration()["memory"], recipe.cluster
    per_node = parameters(a) / cluster.nodes / GB
    if cluster.device == "cpu":
        states = parameters(a) * WEIGHT + trained_parameters(recipe, "rl") * (GRADIENT + MOMENTS)
        training = training_memory(recipe, "rl")
        rank = sum(training[what] for what in ("activations", "logits"))
        return {
            "engines": memory["cpu_engines_gb"] + memory["cpu_rank_gb"] * (cluster.gpus_per_node - 1),
            "states": _range(states / GB),
            "vLLM's weights": _range(parameters(a) * FP32 / GB * cluster.gpus_per_node),
            "activations and logits": rank * cluster.gpus_per_node,
            "frames": frames_gb(recipe),
        }
    parts = {"engines": memory["host_engines_gb"], "frames": frames_gb(recipe) * (1 / cluster.nodes)}
    if cluster.offload:
        trained = trained_parameters(recipe, "rl") / cluster.nodes / GB
        parts["actor"] = _range(per_node * WEIGHT + trained * (GRADIENT + MOMENTS))
    if recipe.rl.kl_coef > 0:
        parts["reference"] = _range(per_node * WEIGHT)  # FSDP2 keeps it on the host (fsdp/transformer_impl.py:459)
    return parts


def disk(recipe: Recipe) -> dict[str, Range]:
    """GB of a run folder when all stages are done."""
    a = recipe.model.architecture
    total, b = parameters(a) / GB, BF16 if recipe.model.dtype == "bfloat16" else FP32
    epochs = recipe.sft.num_train_epochs if recipe.rl.start_epoch else 0
    sft, rl = trained_parameters(recipe, "sft") / GB, trained_parameters(recipe, "rl") / GB
    parts = {
        # LLaMA-Factory keeps every epoch, with what ZeRO-3 needs to go on: float32 weights and moments.
        "SFT checkpoints": _range(epochs * (total * b + sft * (WEIGHT + MOMENTS))),
        # The next one is written before the oldest goes.
        "RL checkpoints": _range((recipe.rl.keep_checkpoints + 1) * (total * WEIGHT + rl * MOMENTS)),
        "merged model": _range(total * BF16),
    }
    if recipe.rl.steps:
        rollouts = recipe.rl.steps * recipe.rl.rollout_batch_size * recipe.rl.group_size
        parts["rollout records"] = calibration()["disk"]["rollout_record_kb"] * (rollouts * 1e3 / GB)
    return {what: size for what, size in parts.items() if size.high}


# ------------------------------------------------------------------ time


def step_seconds(recipe: Recipe) -> Range | None:
    """Wall seconds of an RL step; None where the calibration table has no such machine."""
    table, cluster, rl = calibration(), recipe.cluster, recipe.rl
    rollouts = rl.rollout_batch_size * rl.group_size
    if cluster.device == "cpu":
        cpu = table["cpu"]
        # The tiny model's time goes with the rollouts, not with its few parameters.
        return cpu["step_seconds"] * (max(rollouts, 32) / cpu["rollouts"]) * _size(recipe)
    gpu = table["throughput"].get(cluster.gpu)
    if gpu is None:
        return None
    n, a = ranks(recipe, "rl"), recipe.model.architecture
    tokens = _mean_sequence(recipe, "rl")
    forward = _forward_flops(recipe, tokens)
    passes = 1 + (rl.kl_coef > 0)  # old and reference log-probs
    prefill = (gpu["infer_mfu"] * (gpu["peak_tflops"] * 1e12 * n)).under(1.0) * forward
    # A group shares its prompt's prefill where vLLM's prefix cache still holds it.
    prefill *= Range(1 / rl.group_size, 0.6, 1.0)
    spoken = table["text"]["response_tokens"].capped(rl.max_response_length)
    slow = min(1.0, 8.3e9 / parameters(a))
    decode = (gpu["decode_tokens"] * (n * slow)).under(1.0) * spoken
    infer = (gpu["infer_mfu"] * (gpu["peak_tflops"] * 1e12 * n)).under(1.0) * forward * passes
    train = (gpu["train_mfu"] * (gpu["peak_tflops"] * 1e12 * n)).under(1.0) * forward * 4.0
    per_rollout = prefill + decode + infer + train
    return per_rollout * rollouts + table["throughput"]["step_overhead_seconds"]


def sft_step_seconds(recipe: Recipe) -> Range | None:
    """Wall seconds of an SFT step."""
    from launch.llamafactory import global_batch_size

    table, cluster, batch = calibration(), recipe.cluster, global_batch_size(recipe)
    if cluster.device == "cpu":
        return table["cpu"]["sft_step_seconds"] * (batch / table["cpu"]["sft_batch"]) * _size(recipe)
    gpu = table["throughput"].get(cluster.gpu)
    if gpu is None:
        return None
    forward = _forward_flops(recipe, _mean_sequence(recipe, "sft"))
    rate = gpu["train_mfu"] * (gpu["peak_tflops"] * 1e12 * ranks(recipe, "sft"))
    return rate.under(1.0) * forward * (4.0 * batch)


def _size(recipe: Recipe) -> float:
    return max(1.0, parameters(recipe.model.architecture) / calibration()["cpu"]["parameters"])


def _mean_sequence(recipe: Recipe, stage: str) -> Range:
    """Tokens of a mean row; half the budget is the likely clip, since it is a bound and most clips are short."""
    text, visual = calibration()["text"], visual_tokens(recipe)
    spoken = text["response_tokens"] if stage == "rl" else text["chain_tokens"]
    return visual * Range(0.15, 0.5, 1.0) + text["question_tokens"] + spoken


def _forward_flops(recipe: Recipe, tokens: Range) -> Range:
    """2 per parameter and token, 2 d T^2 per layer of causal attention, 2 per parameter and patch of the tower."""
    a = recipe.model.architecture
    dense = 2.0 * (language_parameters(a) - (0 if a.tie_word_embeddings else embedding_parameters(a)))
    width = a.num_attention_heads * a.head_dim
    seen = Range(0.15, 0.5, 1.0) * (2.0 * vision_parameters(a) * patches(recipe))
    return tokens * dense + tokens * tokens * (2.0 * a.num_hidden_layers * width) + seen


def total(parts: Iterable[Range]) -> Range:
    return sum(parts, Range(0.0, 0.0, 0.0))
