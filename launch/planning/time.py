"""Estimated seconds of a step of SFT and RL. Formulas: docs/plan.md."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch.compose import flat
from launch.engines.families import FRAMES_PER_PATCH, shares_prefix
from launch.planning.measured import rates
from launch.planning.ranges import Range, as_range
from launch.planning.sizes import architecture_of, global_batch_size, patches, ranks, visual_tokens
from launch.recipe import Recipe
from launch.samples.pass_rates import expected_keep_rate

WINDOW = 56  # patches of a mean window of Qwen2.5-VL's tower: 8 x 8, smaller at the edges
WINDOW_LENGTHS = 4  # of those windows: whole ones, those of two edges, and of the corner
WHOLE_LAYERS = 4  # layers of that tower which attend to the whole picture, one call per pair of frames
CLIP = 42_752  # patches of the clip that the seconds of table["rollout"] are for: 64 frames of 262,144 pixels
SEEN = Range(0.15, 0.5, 1.0)  # part of the budget that a mean clip has: the budget is a bound, and most are shorter


@dataclass(frozen=True)
class Step:
    """What an RL step does, whoever asks for it.

    Attributes:
        prompts, group, rounds: `rounds` times as many prompts are answered, `group` times each, as are trained on.
        ranks, servers: GPUs that train, vLLM servers on them.
        spread: of those servers, the ones that the rollouts of a prompt may be on.
        forward: operations of a forward pass over a mean row.
        trained: of the actor's, where rollouts of a prompt are one sequence: their response and share of the prompt.
        tokens, patches, spoken: of a mean row, its clips and its response.
        passes: forward passes without gradients of a step, of actor and reference.
        update: forward passes that an update costs.
        calls: attention calls of the tower in such a pass, per rollout; 0 where flash-attn takes all windows at once.
        loops: whether log-probs are taken token by token, as they are of plain rows without flash-attn.
        parameters: of the model.
    """

    prompts: int
    group: int
    rounds: Range
    ranks: int
    servers: int
    spread: int
    forward: Range
    trained: Range
    tokens: Range
    patches: Range
    spoken: Range
    passes: float
    update: float
    calls: Range
    loops: bool
    parameters: int

    @property
    def apart(self) -> float:
        """Part of a group that is on servers of its own."""
        return min(self.group, self.spread) / self.group

    @property
    def prefilled(self) -> Range:
        """Part of the rollouts whose prompt is read: a server need not where its prefix cache still has it."""
        return Range(self.apart, max(0.6, self.apart), 1.0)

    def seconds(self, table: Mapping[str, Any], gpu: str) -> dict[str, Range]:
        """What -> wall seconds."""
        speed, rollout, small = table["throughput"][gpu], table["rollout"], table["small_kernels"]
        rows, answered = self.prompts * self.group, self.rounds * (self.prompts * self.group)
        infer = 1.0 / (speed["infer_mfu"] * (speed["peak_tflops"] * 1e12 * self.ranks))
        train = 1.0 / (speed["train_mfu"] * (speed["peak_tflops"] * 1e12 * self.ranks))
        decode = speed["decode_tokens"] * (self.ranks * min(1.0, 8.3e9 / self.parameters))
        clip = rollout["process_seconds"] * self.apart + rollout["share_seconds"]
        parts = {
            "clips": clip * self.patches * (1 / CLIP / self.servers) * answered,
            "prefill": infer * self.forward * self.prefilled * answered,
            "decode": 1.0 / decode * self.spoken * answered,
            "log-probs": infer * self.trained * float(self.passes * rows),
            "update": train * self.trained * (self.update * rows),
            "small kernels": small["window_seconds"] * self.calls * (rows / self.ranks)
            + small["token_seconds"] * self.tokens * (self.loops * rows / self.ranks),
            "overhead": table["throughput"]["step_overhead_seconds"],
        }
        return {what: seconds for what, seconds in parts.items() if seconds.high}


def step_parts(recipe: Recipe) -> dict[str, Range] | None:
    """What -> wall seconds of an RL step; None where the calibration table has no such machine."""
    table, cluster, rl = rates(recipe), recipe.cluster, recipe.rl
    rollouts = rl.rollout_batch_size * rl.group_size
    if cluster.device == "cpu":
        cpu = table["cpu"]
        # The tiny model's time goes with the rollouts, not with its few parameters.
        return {"all": cpu["step_seconds"] * (max(rollouts, 32) / cpu["rollouts"] * _size(recipe, table))}
    if cluster.gpu not in table["throughput"]:
        return None
    a, loops, seen = architecture_of(recipe), not has_flash_attention(recipe), SEEN * float(patches(recipe))
    tokens, prompt = _mean_sequence(recipe, "rl", table), SEEN * float(visual_tokens(recipe))
    prompt += table["text"]["question_tokens"]
    whole = forward_flops(recipe, tokens, seen)
    servers = ranks(recipe, "rl") // rl.rollout.tensor_parallel_size
    return Step(
        prompts=rl.rollout_batch_size,
        group=rl.group_size,
        rounds=rounds(recipe),
        ranks=ranks(recipe, "rl"),
        servers=servers,
        spread=1 if rl.shared_media else servers,
        forward=whole,
        trained=trained_flops(recipe, whole, forward_flops(recipe, prompt, seen)),
        tokens=tokens,
        patches=seen,
        spoken=table["text"]["response_tokens"].capped(rl.max_response_length),
        passes=1 / rl.old_log_probs_every + (rl.kl_coef > 0),
        update=update_passes(recipe),
        calls=SEEN * (window_calls(recipe) / together(recipe) if loops else 0.0),
        loops=loops and not shares_prefix(rl.shared_prefix, a),
        parameters=a.parameters(),
    ).seconds(table, str(cluster.gpu))


def step_seconds(recipe: Recipe) -> Range | None:
    """Wall seconds of an RL step; None where the calibration table has no such machine."""
    parts = step_parts(recipe)
    return None if parts is None else sum(parts.values(), as_range(0.0))


def rounds(recipe: Recipe) -> Range:
    """Times that a step draws its prompts: groups that are left over open the next step, so it is 1 / keep rate.

    With T-GRPO's contrast each is answered twice, and trained on once.
    """
    answered = 2.0 if recipe.rl.twins.temporal else 1.0
    if not recipe.rl.filter.enabled:
        return as_range(answered)
    kept: Range = rates(recipe)["rollout"]["keep_rate"]
    if (known := expected_keep_rate(recipe)) is not None:
        least = 1 / recipe.rl.filter.max_rounds
        kept = Range(*(min(max(known[0] + 2 * far * known[1], least), 1.0) for far in (-1, 0, 1)))
    return (answered / kept).capped(recipe.rl.filter.max_rounds)


def has_flash_attention(recipe: Recipe) -> bool:
    """Whether RL's actor takes it; the locked packages have none, so recipes ask for sdpa."""
    key = "actor_rollout_ref.model.override_config.attn_implementation"
    return dict(flat(recipe.rl.engine)).get(key) != "sdpa"


def together(recipe: Recipe) -> int:
    """Rollouts of a prompt that the actor takes as one sequence."""
    rl = recipe.rl
    rows = rl.group_size if rl.micro_batch_tokens else min(rl.micro_batch_size_per_gpu, rl.group_size)
    return rows if shares_prefix(rl.shared_prefix, architecture_of(recipe)) else 1


def trained_flops(recipe: Recipe, row: Range, prompt: Range) -> Range:
    """Operations per rollout of a pass of the actor: of a whole row, or of its response and its share of the prompt."""
    saved = 1 - 1 / together(recipe)
    return Range(*(whole - saved * once for whole, once in zip(row, prompt)))


def window_calls(recipe: Recipe) -> float:
    """Attention calls in a pass of the tower over the longest clip, without flash-attn (transformers 5.9.0)."""
    a = architecture_of(recipe)
    pairs = max(-(-media.max_frames // FRAMES_PER_PATCH) for media in recipe.trained_media)
    whole = a.vision.depth if a.family != "qwen2_5_vl" else min(WHOLE_LAYERS, a.vision.depth)
    if recipe.model.batched_windows:
        return float((a.vision.depth - whole) * WINDOW_LENGTHS + whole)
    return (a.vision.depth - whole) * patches(recipe) / WINDOW + whole * pairs


def start_seconds(recipe: Recipe) -> Range:
    """From the start of a stage that trains or generates to its first step: loading, compiling, CUDA graphs."""
    table = rates(recipe)
    if recipe.cluster.device == "cpu":
        seconds: Range = table["cpu"]["start_seconds"]
    else:
        seconds = table["throughput"]["stage_start_seconds"]
    return seconds


def hours(recipe: Recipe, seconds: Range) -> Range:
    """Of a stage whose steps take so many seconds, and of what goes before the first one."""
    return (seconds + start_seconds(recipe)) * (1 / 3600)


def sft_step_seconds(recipe: Recipe) -> Range | None:
    """Wall seconds of an SFT step."""
    table, cluster, batch = rates(recipe), recipe.cluster, global_batch_size(recipe)
    if cluster.device == "cpu":
        cpu = table["cpu"]
        seconds: Range = cpu["sft_step_seconds"] * (batch / cpu["sft_batch"]) * _size(recipe, table)
        return seconds
    gpu = table["throughput"].get(cluster.gpu)
    if gpu is None:
        return None
    forward = forward_flops(recipe, _mean_sequence(recipe, "sft", table), SEEN * float(patches(recipe)))
    rate: Range = gpu["train_mfu"] * (gpu["peak_tflops"] * 1e12 * ranks(recipe, "sft"))
    return 1.0 / rate * forward * (update_passes(recipe) * batch)


def update_passes(recipe: Recipe) -> float:
    """Forward passes that an update costs: forward, the same recomputed, gradients of inputs, and those of weights."""
    return 3.0 if recipe.lora else 4.0


def _size(recipe: Recipe, table: Mapping[str, Any]) -> float:
    measured: float = table["cpu"]["parameters"]
    return max(1.0, architecture_of(recipe).parameters() / measured)


def _mean_sequence(recipe: Recipe, stage: str, table: Mapping[str, Any]) -> Range:
    """Tokens of a mean row."""
    text, visual = table["text"], visual_tokens(recipe)
    spoken: Range = text["response_tokens"] if stage == "rl" else text["chain_tokens"]
    question: Range = text["question_tokens"]
    return SEEN * float(visual) + question + spoken


def forward_flops(recipe: Recipe, tokens: Range, seen: Range) -> Range:
    """2 per parameter and token, 2 d T^2 per layer of causal attention, 2 per parameter and patch of the tower."""
    a = architecture_of(recipe)
    dense = 2.0 * (a.language_parameters() - (0 if a.tie_word_embeddings else a.embedding_parameters()))
    width = a.num_attention_heads * a.head_dim
    return tokens * dense + tokens * tokens * (2.0 * a.attention_layers * width) + seen * (2.0 * a.vision_parameters())
