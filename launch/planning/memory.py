"""What a recipe needs: memory per GPU, host memory, disk and hours, each as a range. Formulas: docs/plan.md.

Everything is counted from the recipe and `calibration.yaml`; it needs no model and no GPU. GB = 1e9 bytes.
"""

from collections.abc import Iterable
from math import ceil

from launch.engines.families import FRAMES_PER_PATCH, shares_prefix
from launch.planning.ranges import BF16, FP32, GB, GRADIENT, MOMENTS, WEIGHT, Range, as_range, calibration
from launch.planning.sizes import architecture_of, patches, ranks, trained_parameters, visual_tokens
from launch.planning.time import SEEN
from launch.recipe import Recipe, RecipeError

HEAD_CHUNK = 1024  # launch/verl_plugin/prefix.py has the logits of so many tokens at one time, in float32


def training_memory(recipe: Recipe, stage: str) -> dict[str, Range]:
    """GB per GPU while `sft` or `rl` updates: what -> how much."""
    a, memory, n = architecture_of(recipe), calibration()["memory"], ranks(recipe, stage)
    trained, on_gpu = trained_parameters(recipe, stage), 0 if recipe.cluster.offload else 1
    clips, tokens, predicted = _micro_batch(recipe, stage)
    shared = stage == "rl" and shares_prefix(recipe.rl.shared_prefix, a)
    weights = trained * WEIGHT * bool(recipe.lora) + a.parameters() * _bytes_of_weight(recipe, stage)
    layer = (a.language_parameters() - 2 * a.embedding_parameters()) / a.num_hidden_layers
    gathered = max(a.embedding_parameters() * (1 if a.tie_word_embeddings else 2), 2 * layer) + 2 * layer
    parts = {
        "weights": as_range(on_gpu * weights / n),
        "gradients": as_range(on_gpu * trained * GRADIENT / n),
        "Adam moments": as_range(on_gpu * trained * MOMENTS / n),
        "gathered layers": as_range(gathered * BF16 * (n > 1 or recipe.cluster.offload)),
        "activations": _activations(recipe, stage, tokens, clips),
        "logits": memory["logits_copies"]
        * _with_logits(recipe, stage, clips, predicted)
        * (1.0 * a.vocab_size * (FP32 if shared else _bytes(recipe))),
        "context": memory["context_gb"] * GB,
    }
    if stage == "rl":
        parts["vLLM asleep"] = memory["vllm_asleep_gb"] * GB
    return {what: size * (1 / GB) for what, size in parts.items() if size.high}


def _bytes_of_weight(recipe: Recipe, stage: str) -> int:
    """Of one that is kept through updates: the model's own precision only where SFT trains adapters."""
    return BF16 if recipe.lora and stage == "sft" and recipe.model.dtype == "bfloat16" else WEIGHT


def _bytes(recipe: Recipe) -> int:
    """Bytes of an activation."""
    return BF16 if recipe.cluster.device == "cuda" else FP32


def _rows_per_rank(recipe: Recipe) -> int:
    return max(1, recipe.rl.global_batch_size * recipe.rl.group_size // ranks(recipe, "rl"))


def _micro_batch(recipe: Recipe, stage: str) -> tuple[int, int, int]:
    """Clips, tokens, and tokens whose logits exist at one time, in the largest micro-batch that the limits admit."""
    rl = recipe.rl
    if stage == "sft":
        rows = recipe.sft.per_device_train_batch_size
        return rows, rows * recipe.sft.cutoff_len, rows * recipe.sft.cutoff_len
    rows = min(rl.micro_batch_size_per_gpu, _rows_per_rank(recipe))
    shared = shares_prefix(rl.shared_prefix, recipe.model.architecture)
    if rl.micro_batch_tokens is not None:
        tokens = rl.micro_batch_tokens
        return max(1, tokens // rl.max_prompt_length), tokens, min(tokens, HEAD_CHUNK) if shared else tokens
    if not shared:
        tokens = rows * (rl.max_prompt_length + rl.max_response_length)
        return rows, tokens, tokens
    prompts, responses = ceil(rows / rl.group_size), rows * rl.max_response_length
    return prompts, prompts * rl.max_prompt_length + responses, min(responses, HEAD_CHUNK)


def _with_logits(recipe: Recipe, stage: str, rows: int, most: int) -> Range:
    """Tokens whose logits exist at one time: likely of the largest clips, long questions and the longest responses."""
    text = calibration()["text"]
    spoken = recipe.rl.max_response_length if stage == "rl" else text["chain_tokens"].high
    likely = min(most, rows * (visual_tokens(recipe) + text["question_tokens"].high + spoken))
    return Range(likely, likely, most)


def _activations(recipe: Recipe, stage: str, tokens: int, clips: int) -> Range:
    """Bytes for a micro-batch. With checkpointing: each layer's input, and all of one layer while it is recomputed."""
    a, b = architecture_of(recipe), _bytes(recipe)
    checkpointed = recipe.cluster.device == "cuda"
    factor: Range = calibration()["memory"]["layer_recompute"]

    def stack(rows: float, width: int, inner: int, kv: int, depth: int) -> tuple[float, float]:
        inputs, whole = rows * width * b, rows * (10 * width + 2 * kv + 4 * inner) * b
        return (depth * inputs, whole) if checkpointed else (0.0, depth * whole)

    kv = a.num_key_value_heads * a.head_dim
    kept, whole = stack(tokens, a.hidden_size, a.intermediate_size, kv, a.num_hidden_layers)
    v = a.vision
    seen_kept, seen_whole = stack(clips * patches(recipe), v.hidden_size, v.intermediate_size, v.hidden_size, v.depth)
    if getattr(recipe, stage).freeze_vision_tower:
        seen_kept, seen_whole = 0.0, seen_whole / (1 if checkpointed else v.depth)
    return factor * (whole + seen_whole) + (kept + seen_kept)


def rollout_memory(recipe: Recipe) -> dict[str, Range]:
    """GB per GPU while vLLM generates; the KV cache takes what vLLM's share leaves.

    Raises:
        RecipeError: the cluster's GPU memory is not set.
    """
    a, memory, rollout, cluster = architecture_of(recipe), calibration()["memory"], recipe.rl.rollout, recipe.cluster
    if cluster.gpu_memory_gb is None:
        raise RecipeError("cluster.gpu_memory_gb is not set: vLLM's memory is a share of it")
    share = rollout.gpu_memory_utilization * cluster.gpu_memory_gb
    served = a.parameters() + (trained_parameters(recipe, "rl") if recipe.lora else 0)
    weights = served * BF16 / rollout.tensor_parallel_size / GB
    resident = 0.0 if cluster.offload else a.parameters() * WEIGHT + trained_parameters(recipe, "rl") * MOMENTS
    peak = memory["vllm_activations_gb"]
    left = Range(*(share - weights - value for value in reversed(list(peak))))
    return {
        "vLLM's weights": as_range(weights),
        "vLLM's activations": peak,
        "KV cache": left,
        "actor meanwhile": as_range(resident / ranks(recipe, "rl") / GB),
        "context": memory["context_gb"],
    }


def kv_bytes_per_token(recipe: Recipe) -> float:
    """Keys and values of all layers, on one GPU of a tensor-parallel group."""
    a = architecture_of(recipe)
    heads = max(1, a.num_key_value_heads / recipe.rl.rollout.tensor_parallel_size)
    return 2 * a.attention_layers * heads * a.head_dim * BF16


def concurrent_rollouts(recipe: Recipe) -> Range:
    """Rollouts of the longest kind that the KV cache of one server holds at once."""
    row = (recipe.rl.max_prompt_length + recipe.rl.max_response_length) * kv_bytes_per_token(recipe)
    return Range(*(max(0.0, value) * GB / row for value in rollout_memory(recipe)["KV cache"]))


# ------------------------------------------------------------------ host memory, disk


def frames_gb(recipe: Recipe) -> Range:
    """Pixels of one step in verl's queue, and once more in the ranks that train on them (verl_plugin/pixels.py).

    Bytes, once per prompt; float32, per rollout, with `rl.shared_media=false`.
    """
    of_prompt = 1 if recipe.rl.shared_media else recipe.rl.group_size * FP32
    whole = recipe.rl.rollout_batch_size * of_prompt * _colours(recipe) / GB
    return 2 * Range(0.3 * whole, 0.8 * whole, 1.3 * whole)  # shorter clips; and copies on their way


def kept_clips_gb(recipe: Recipe) -> Range:
    """Clips of a round of prompts in the agent loops of a cluster, decoded and as features (verl_plugin/rollout.py)."""
    of_features = 1 if recipe.rl.shared_media else FP32
    return SEEN * ((1 + of_features) * _colours(recipe) / GB * recipe.rl.rollout_batch_size)


def _colours(recipe: Recipe) -> float:
    """Numbers of a clip of the whole budget, one for each colour of a pixel."""
    return patches(recipe) * 3 * FRAMES_PER_PATCH * architecture_of(recipe).vision.patch_size ** 2


def host_memory(recipe: Recipe) -> dict[str, Range]:
    """GB per node in the RL stage, which needs the most."""
    a, memory, cluster = architecture_of(recipe), calibration()["memory"], recipe.cluster
    per_node = a.parameters() / cluster.nodes / GB
    if cluster.device == "cpu":
        states = a.parameters() * WEIGHT + trained_parameters(recipe, "rl") * (GRADIENT + MOMENTS)
        training = training_memory(recipe, "rl")
        rank = sum(training[what] for what in ("activations", "logits"))
        return {
            "engines": memory["cpu_engines_gb"] + memory["cpu_rank_gb"] * (cluster.gpus_per_node - 1),
            "states": as_range(states / GB),
            "vLLM's weights": as_range(a.parameters() * FP32 / GB * cluster.gpus_per_node),
            "activations and logits": rank * cluster.gpus_per_node,
            "frames": frames_gb(recipe),
            "clips kept": kept_clips_gb(recipe),
        }
    parts = {"engines": memory["host_engines_gb"], "frames": frames_gb(recipe) * (1 / cluster.nodes)}
    parts["clips kept"] = kept_clips_gb(recipe) * (1 / cluster.nodes)
    if cluster.offload:
        trained = trained_parameters(recipe, "rl") / cluster.nodes / GB
        parts["actor"] = as_range(per_node * WEIGHT + trained * (GRADIENT + MOMENTS))
    if recipe.lora:  # vLLM's sleep keeps the weights, which are not sent again (verl 0.9.1, vllm_async_server.py:1303)
        servers = cluster.policy_gpus / recipe.rl.rollout.tensor_parallel_size
        parts["vLLM asleep"] = as_range(servers * a.parameters() * BF16 / GB)
    if recipe.rl.kl_coef > 0 and not recipe.lora:  # with adapters the reference is the actor without them
        parts["reference"] = as_range(per_node * WEIGHT)  # FSDP2 keeps it on the host (fsdp/transformer_impl.py:459)
    return parts


def disk(recipe: Recipe) -> dict[str, Range]:
    """GB of a run folder after all stages."""
    a = architecture_of(recipe)
    total, b = a.parameters() / GB, BF16 if recipe.model.dtype == "bfloat16" else FP32
    epochs = recipe.sft.num_train_epochs if recipe.rl.start_epoch else 0
    sft, rl = trained_parameters(recipe, "sft") / GB, trained_parameters(recipe, "rl") / GB
    saved = rl if recipe.lora else total  # weights in a checkpoint of RL
    parts = {
        # LLaMA-Factory keeps every epoch, with what ZeRO-3 needs to resume: float32 weights and moments.
        "SFT checkpoints": as_range(epochs * (total * b + sft * (WEIGHT + MOMENTS))),
        # The next one is written before the oldest goes.
        "RL checkpoints": as_range((recipe.rl.keep_checkpoints + 1) * (saved * WEIGHT + rl * MOMENTS)),
        "merged model": as_range(total * BF16),
    }
    if recipe.rl.held_out.every:
        parts["best RL checkpoint"] = as_range(total * WEIGHT)
    if recipe.rl.steps:
        rollouts = recipe.rl.steps * recipe.rl.rollout_batch_size * recipe.rl.group_size
        parts["rollout records"] = calibration()["disk"]["rollout_record_kb"] * (rollouts * 1e3 / GB)
    return {what: size for what, size in parts.items() if size.high}


def total(parts: Iterable[Range]) -> Range:
    return sum(parts, Range(0.0, 0.0, 0.0))
