"""The parts of a typed recipe that say how RL runs, and how it learns from rollouts (recipe group `loss`)."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from launch.recipe.evaluation import Part, Turn


class Overlong(Part):
    """DAPO, equation 13: over the last `share` of rl.max_response_length the reward falls, at last by `penalty`."""

    share: float = Field(gt=0, le=1)
    penalty: PositiveFloat


class RolloutCorrection(Part):
    """Truncated importance sampling: a token's loss is scaled by min(p_actor / p_rollout, `threshold`).

    `level`: the ratio of each token, or that of its whole response.
    """

    level: Literal["token", "sequence"]
    threshold: PositiveFloat


class AnyLoss(Part):
    """What all losses have; `aggregation` of the tokens' terms over an update.

    token_mean: over all its tokens. response_mean: over the tokens of each response, then over responses. constant: the
    sum over a response's tokens divided by rl.max_response_length, then the mean over responses (Dr. GRPO).
    """

    aggregation: Literal["token_mean", "response_mean", "constant"]
    overlong: Overlong | None = None
    rollout_correction: RolloutCorrection | None = None


class ClippedLoss(AnyLoss):
    """PPO's clipped surrogate with one ratio per token. `dual_clip`: its bound where an advantage is negative."""

    name: Literal["grpo", "dapo"]
    clip_low: float = Field(gt=0, lt=1)
    clip_high: PositiveFloat
    dual_clip: float | None = Field(gt=1)


class SequenceLoss(AnyLoss):
    """GSPO: the same with one ratio per response, the geometric mean of its tokens'."""

    name: Literal["gspo"]
    clip_low: float = Field(gt=0, lt=1)
    clip_high: PositiveFloat


class WeightLoss(AnyLoss):
    """CISPO: the log-probability of every token, weighted by its clipped ratio, which has no gradient."""

    name: Literal["cispo"]
    clip_low: float = Field(gt=0, le=1)
    clip_high: PositiveFloat


class SoftLoss(AnyLoss):
    """SAPO: a sigmoid of the ratio in place of the clip; `tau_pos`, `tau_neg`: its slope by the advantage's sign."""

    name: Literal["sapo"]
    aggregation: Literal["response_mean"]
    tau_pos: PositiveFloat
    tau_neg: PositiveFloat


Loss = Annotated[ClippedLoss | SequenceLoss | WeightLoss | SoftLoss, Field(discriminator="name")]


class HeldOut(Part):
    """Every `every` steps the val split is answered, greedily; 0: never.

    `metric` chooses the best checkpoint. `patience`: evaluations in a row without a new best after which `rule` holds;
    `reward_up` asks besides that the training reward rose since the best one. `then`: what to do where it holds.
    """

    every: int = Field(0, ge=0)
    metric: Literal["balanced_accuracy", "accuracy", "format", "fidelity"] = "balanced_accuracy"
    patience: PositiveInt = 3
    rule: Literal["no_better", "reward_up"] = "no_better"
    then: Literal["warn", "end"] = "warn"


class Twins(Part):
    """Each question with its twin, the same question about the turned clip, in one step (CRPO, arXiv 2605.21988).

    `turns`: a question gets one of those that it can have. `relation_weight`: of what `rewards.relation`, in [0, 1],
    adds to the score. `balanced`: without surplus yes/no pairs whose answer stays, so that Yes is right as often as No;
    most twins are answered by No. [shuffled], alone, is T-GRPO's contrast (arXiv 2503.21776), answered and not trained
    on: right answers earn `temporal_bonus` where their group's accuracy is at least `temporal_ratio` of that on
    shuffled frames.
    """

    turns: list[Turn | Literal["shuffled"]] = []
    relation_weight: NonNegativeFloat = 0.0
    balanced: bool = Field(default=False, exclude_if=lambda balanced: not balanced)
    temporal_bonus: NonNegativeFloat = Field(default=0.0, exclude_if=lambda bonus: not bonus)
    temporal_ratio: NonNegativeFloat = Field(default=0.8, exclude_if=lambda ratio: ratio == 0.8)

    @property
    def temporal(self) -> dict[str, float] | None:
        """What `rewards.temporal` is paid by; None without a contrast."""
        return {"bonus": self.temporal_bonus, "ratio": self.temporal_ratio} if self.temporal_bonus else None

    @model_validator(mode="after")
    def _a_relation_has_two_sides(self) -> "Twins":
        if self.relation_weight and not self.turns:
            raise ValueError("relation_weight compares answers about a clip and its twin: give turns")
        if self.balanced and (not self.turns or "shuffled" in self.turns):
            raise ValueError("balanced chooses among questions and their twins: give turns, of which none is shuffled")
        return self

    @model_validator(mode="after")
    def _shuffled_frames_have_no_answer_of_their_own(self) -> "Twins":
        if "shuffled" in self.turns and (len(self.turns) > 1 or self.relation_weight):
            raise ValueError("turns: shuffled goes with temporal_bonus, and with no other turn and no relation_weight")
        if ("shuffled" in self.turns) != bool(self.temporal_bonus):
            raise ValueError("turns: [shuffled] and temporal_bonus, such as 0.3, need each other")
        return self


class Difficulty(Part):
    """How often a model answers the questions of the RL split right, of `samples` answers sampled as in RL.

    `model`: folder or hub id; null: the one that RL starts from. Kept are questions with `low` <= pass rate <= `high`,
    in this `order`: easy_first is a curriculum, which RL does not shuffle.
    """

    model: str | None = None
    samples: int = Field(8, ge=2)
    low: float = Field(0.2, ge=0, le=1)
    high: float = Field(0.8, ge=0, le=1)
    order: Literal["as_given", "easy_first", "hard_first"] = "as_given"

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> "Difficulty":
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}: no question could be kept")
        return self


class Filter(Part):
    """Keeps groups whose mean of `metric` lies strictly between two bounds, and draws others for those dropped.

    `mode`: the bounds are `low` and `high` ("mean"), or these quantiles of the metric in a round ("percentile").
    `max_rounds`: rounds of prompts in a step; after them it trains on what there is.
    `refill`: prompts of a round after a step's first: a whole batch, or as many as are missing / the keep rate so far.
    Or, immediate, no rounds: another prompt for each group that is dropped, while the others are still running.
    """

    enabled: bool
    mode: Literal["mean", "percentile"] = "mean"
    metric: str
    low: float = 0.01
    high: float = 0.99
    max_rounds: PositiveInt = 20
    refill: Literal["batch", "missing", "immediate"] = Field(
        default="batch", exclude_if=lambda refill: refill == "batch"
    )

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> "Filter":
        if not self.low < self.high or (self.mode == "percentile" and not 0 <= self.low < self.high <= 1):
            raise ValueError(f"filter bounds {self.low} and {self.high}: low below high, percentiles from 0 to 1")
        if self.mode == "percentile" and self.refill == "immediate":
            raise ValueError("filter.refill=immediate: percentiles are those of a whole round; take refill=missing")
        return self


class Rollout(Part):
    """RL's vLLM servers; recipes give the values of `Vllm`, but for their share of the GPU."""

    tensor_parallel_size: PositiveInt
    gpu_memory_utilization: float = Field(gt=0, lt=1)
    max_num_seqs: PositiveInt
    max_num_batched_tokens: PositiveInt
    enforce_eager: bool


class Vllm(Rollout):
    """vLLM's engines in evaluation, `launch.ask` and `launch.serve`, and the defaults of RL's rollouts."""

    max_prompt_length: PositiveInt


class Rl(Part):
    """GRPO in verl; `engine` takes any further verl keys as `a.b.c: value`.

    `checkpoint`: the one that is merged and evaluated: the last, the best by `held_out`, or that of a step.
    `judge_consistency`: the judge is asked of every rollout whether its thoughts lead to its answer, for a meter;
    without it this is known of questions about a motion alone, by rule.
    `by_difficulty`: trains on the questions that `launch.difficulty` kept, in its order.
    `old_log_probs_every`: steps between two passes for the old log-probabilities alone; in the others the update's own
    pass gives them, which changes no gradient where a batch has one update.
    `micro_batch_tokens`: a micro-batch takes what so many tokens hold, in place of `micro_batch_size_per_gpu` rollouts.
    """

    start_epoch: int = Field(ge=0)
    steps: PositiveInt | None
    epochs: PositiveInt
    rollout_batch_size: PositiveInt
    global_batch_size: PositiveInt
    micro_batch_size_per_gpu: PositiveInt
    shared_prefix: bool
    shared_media: bool = Field(default=True, exclude_if=lambda shared: shared)
    group_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    weight_decay: NonNegativeFloat
    kl_coef: NonNegativeFloat
    entropy_coef: float
    temperature: float = Field(gt=0)
    max_prompt_length: PositiveInt
    max_response_length: PositiveInt
    freeze_vision_tower: bool
    save_every: PositiveInt
    keep_checkpoints: PositiveInt
    checkpoint: Literal["last", "best"] | PositiveInt = "last"
    held_out: HeldOut = HeldOut()
    filter: Filter
    judge_consistency: bool = False
    by_difficulty: bool = Field(default=False, exclude_if=lambda chosen: not chosen)
    old_log_probs_every: PositiveInt = Field(default=1, exclude_if=lambda every: every == 1)
    micro_batch_tokens: PositiveInt | None = Field(default=None, exclude_if=lambda tokens: tokens is None)
    twins: Twins = Field(default=Twins(), exclude_if=lambda twins: not twins.turns)
    rollout: Rollout
    engine: dict[str, Any] = {}

    @model_validator(mode="after")
    def _pairs_fit_a_step(self) -> "Rl":
        if self.twins.turns and (self.rollout_batch_size % 2 or self.global_batch_size % 2):
            raise ValueError("twins: a question and its twin are in one update: rollout and global batch size are even")
        return self

    @model_validator(mode="after")
    def _a_micro_batch_holds_a_rollout(self) -> "Rl":
        longest = self.max_prompt_length + self.max_response_length
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < longest:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} does not hold a rollout of max_prompt_length + "
                f"max_response_length, {longest} tokens"
            )
        return self

    @model_validator(mode="after")
    def _old_log_probs_are_those_of_the_update(self) -> "Rl":
        if self.old_log_probs_every > 1 and self.rollout_batch_size != self.global_batch_size:
            updates = self.rollout_batch_size / self.global_batch_size
            raise ValueError(
                f"old_log_probs_every {self.old_log_probs_every}: a batch has {updates:g} updates, and after the first "
                "the policy is not the old one any more; set it to 1, or global_batch_size to rollout_batch_size"
            )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> "Rl":
        if self.rollout_batch_size % self.global_batch_size:
            raise ValueError(
                f"rollout_batch_size {self.rollout_batch_size} must be a multiple of "
                f"global_batch_size {self.global_batch_size}"
            )
        return self
