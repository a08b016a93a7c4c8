"""The typed recipe: what the Hydra tree in `recipes/` composes to, checked before anything runs.

Unknown keys and wrong types are errors, on the command line (Hydra) and in the files (here). Nothing heavy is imported:
`--help` and `--cfg job` must answer at once.
"""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationError, model_validator

from data_tools.media import Budget
from launch.errors import explain, known_errors

ROOT = Path(__file__).resolve().parent.parent


class RecipeError(ValueError):
    """A recipe that cannot run; the message names the key and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class Vision(_Part):
    """The vision tower; `deepstack`, `positions`: extra mergers and learnt positions of Qwen3-VL."""

    depth: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_heads: PositiveInt
    patch_size: PositiveInt
    deepstack: int = Field(default=0, ge=0)
    positions: int = Field(default=0, ge=0)


class Architecture(_Part):
    """The sizes in a model's config.json that `make plan` counts with, under their own names."""

    family: Literal["qwen2_5_vl", "qwen3_vl"]
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    tie_word_embeddings: bool
    vision: Vision


class Model(_Part):
    """`path`: a Hugging Face id or folder; null builds the tiny model in the run folder."""

    path: str | None
    template: str
    dtype: Literal["float32", "bfloat16"]
    trust_remote_code: bool = False
    warm_up: dict[str, Any] | None = None
    architecture: Architecture | None = None


class Media(_Part):
    """The media budget: what every stage takes from a clip; see `data_tools.media.Budget`."""

    fps: float = Field(gt=0)
    max_frames: PositiveInt
    min_frames: PositiveInt
    max_pixels: PositiveInt
    min_pixels: PositiveInt
    sampler: Literal["uniform", "head"] = "uniform"


class SourceFile(_Part):
    """A published file, by its reader's name (docs/data.md); its videos lie in `folder` under the media root.

    `shuffle`: seed of the order of options; null keeps the published one.
    """

    source: str
    path: str
    folder: str = ""
    shuffle: int | None = Field(default=None, ge=0)


class Data(_Part):
    """`rendered`: settings of the rendered clips; otherwise `files`: split -> JSON Lines of samples, or sources.

    `max_quarantined`: the share of samples that may be left out because their videos are broken.
    """

    rendered: dict[str, Any] | None = None
    files: dict[str, str | SourceFile | list[SourceFile] | None] | None = None
    media_root: str | None = None
    max_quarantined: float = Field(default=0.05, ge=0, lt=1)
    system: str = ""
    instruction: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> "Data":
        if (self.rendered is None) == (self.files is None):
            raise ValueError("give either data.rendered or data.files")
        if self.files is not None and self.media_root is None:
            raise ValueError("data.files needs data.media_root")
        return self

    def paths(self) -> dict[str, list[str]]:
        """The label files of each split, as they were given."""
        listed = {split: file if isinstance(file, list) else [file] for split, file in (self.files or {}).items()}
        return {
            split: [one if isinstance(one, str) else one.path for one in files if one]
            for split, files in listed.items()
        }


class Sft(_Part):
    """Keys carry LLaMA-Factory's names; `engine` takes any further ones as they are."""

    num_train_epochs: PositiveInt
    learning_rate: float = Field(gt=0)
    lr_scheduler_type: str
    warmup_steps: NonNegativeFloat
    per_device_train_batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt
    weight_decay: NonNegativeFloat
    max_grad_norm: NonNegativeFloat
    cutoff_len: PositiveInt
    freeze_vision_tower: bool
    freeze_multi_modal_projector: bool
    deepspeed: str | None = None
    engine: dict[str, Any] = {}


class Filter(_Part):
    """Keeps groups whose mean of `metric` lies strictly between two bounds, and draws others for those dropped.

    `mode`: the bounds are `low` and `high` ("mean"), or these quantiles of the metric in a round ("percentile").
    `max_rounds`: rounds of prompts in a step; after them it trains on what there is.
    """

    enabled: bool
    mode: Literal["mean", "percentile"] = "mean"
    metric: str
    low: float = 0.01
    high: float = 0.99
    max_rounds: PositiveInt = 20

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> "Filter":
        if not self.low < self.high or (self.mode == "percentile" and not 0 <= self.low < self.high <= 1):
            raise ValueError(f"filter bounds {self.low} and {self.high}: low below high, percentiles from 0 to 1")
        return self


class Rollout(_Part):
    """Settings of the vLLM rollout workers."""

    tensor_parallel_size: PositiveInt
    gpu_memory_utilization: float = Field(gt=0, lt=1)
    max_num_seqs: PositiveInt
    max_num_batched_tokens: PositiveInt
    enforce_eager: bool


class Rl(_Part):
    """GRPO in verl; `engine` takes any further verl keys as `a.b.c: value`.

    `judge_consistency`: the judge is asked of every rollout whether its thoughts lead to its answer, for a meter;
    without it this is known of questions about a motion alone, by rule.
    """

    start_epoch: int = Field(ge=0)
    steps: PositiveInt | None
    epochs: PositiveInt
    rollout_batch_size: PositiveInt
    global_batch_size: PositiveInt
    micro_batch_size_per_gpu: PositiveInt
    group_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    weight_decay: NonNegativeFloat
    clip_ratio: float = Field(gt=0)
    kl_coef: NonNegativeFloat
    entropy_coef: float
    temperature: float = Field(gt=0)
    max_prompt_length: PositiveInt
    max_response_length: PositiveInt
    freeze_vision_tower: bool
    save_every: PositiveInt
    keep_checkpoints: PositiveInt
    filter: Filter
    judge_consistency: bool = False
    rollout: Rollout
    engine: dict[str, Any] = {}

    @model_validator(mode="after")
    def _batches_divide(self) -> "Rl":
        if self.rollout_batch_size % self.global_batch_size:
            raise ValueError(
                f"rollout_batch_size {self.rollout_batch_size} must be a multiple of "
                f"global_batch_size {self.global_batch_size}"
            )
        return self


class Named(_Part):
    """A reward, a judge or an advantage estimator by name, with its settings."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Eval(_Part):
    """Greedy evaluation on the test split.

    `samples`: responses sampled besides, with `temperature` and `top_p`, for votes. `option_scores`: probabilities of
    the options behind the greedy response's own reasoning, or directly, without any. `controls`: those of
    data_tools/controls.py.
    """

    models: list[Literal["base", "sft", "rl"]]
    max_tokens: PositiveInt
    limit: PositiveInt | None = None
    samples: int = Field(default=0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    option_scores: Literal["reasoned", "direct"] | None = "reasoned"
    controls: list[Literal["blank", "shuffled_frames", "shuffled_options", "mirrored", "reversed"]] = []


class Cluster(_Part):
    """Where it runs. `time_limit_minutes`: an engine that shows no progress for so long is ended.

    `address`: a running Ray cluster to join ("auto" on one of its nodes), or null for a Ray node of our own.
    `offload`: weights, gradients and optimizer states wait in host memory. The sizes are what `make plan` counts with.
    """

    device: Literal["cpu", "cuda"]
    nodes: PositiveInt
    gpus_per_node: PositiveInt
    address: str | None = None
    offload: bool = False
    gpu: str | None = None
    gpu_memory_gb: float | None = Field(default=None, gt=0)
    host_memory_gb: float | None = Field(default=None, gt=0)
    disk_gb: float | None = Field(default=None, gt=0)
    cpus: PositiveInt | None = None
    time_limit_minutes: float = Field(gt=0)

    @model_validator(mode="after")
    def _several_nodes_need_a_cluster(self) -> "Cluster":
        if (
            self.nodes > 1 and self.address is None and self.device == "cuda"
        ):  # without GPUs we start them all ourselves
            raise ValueError(f"{self.nodes} nodes need a running Ray cluster: cluster.address=auto, or host:port")
        return self


class Plan(_Part):
    """`against`: a run folder or a saved plan to compare with; `save`: a folder for what is rendered."""

    against: str | None = None
    save: str | None = None


class Publish(_Part):
    """`repo`: owner/name on the Hugging Face hub; null writes the model card and sends nothing."""

    repo: str | None = None
    private: bool = True


class Recipe(_Part):
    """A whole composed recipe."""

    experiment: str
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    runs: str
    seed: int = Field(ge=0)
    force: bool
    model: Model
    media: Media
    data: Data
    sft: Sft
    rl: Rl
    reward: Named
    judge: Named = Named(name="rules")
    advantage: Named
    eval: Eval
    cluster: Cluster
    tracking: list[Literal["wandb", "mlflow", "swanlab"]] = []
    plan: Plan = Plan()
    publish: Publish = Publish()

    @property
    def budget(self) -> Budget:
        """The media budget for this model's size of visual tokens."""
        vision = self.model.architecture and self.model.architecture.vision
        return Budget(**self.media.model_dump(), token_side=2 * vision.patch_size if vision else 28)

    @model_validator(mode="after")
    def _loaders_keep_the_budget(self) -> "Recipe":
        _ = self.budget
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Recipe":
        if self.rl.start_epoch > self.sft.num_train_epochs:
            raise ValueError(
                f"rl.start_epoch {self.rl.start_epoch} is beyond sft.num_train_epochs {self.sft.num_train_epochs}"
            )
        ranks = self.cluster.nodes * self.cluster.gpus_per_node
        rollouts, micro = self.rl.global_batch_size * self.rl.group_size, self.rl.micro_batch_size_per_gpu
        if rollouts % (ranks * micro):
            raise ValueError(
                f"rl.global_batch_size x rl.group_size = {rollouts} rollouts must be a multiple of "
                f"{ranks} rank(s) x rl.micro_batch_size_per_gpu = {ranks * micro}"
            )
        return self


def read_recipe(config: DictConfig) -> Recipe:
    """Check a composed configuration.

    Raises:
        RecipeError: naming every wrong key.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"the recipe is wrong:\n  {error.full_key}: {str(error).splitlines()[0]}") from error
    if missing:
        lines = [f"  {key}=..." for key in missing]
        raise RecipeError("the recipe leaves these to you, on the command line:\n" + "\n".join(lines))
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors()]
        raise RecipeError("the recipe is wrong:\n" + "\n".join(lines)) from error


def command(function: Callable[[Recipe], None]) -> Callable[[], None]:
    """Make `function(recipe)` a Hydra command over `recipes/`; known errors end in one message and exit code 1."""

    @wraps(function)
    def run(config: DictConfig) -> None:
        function(read_recipe(config))

    return hydra_command(run)


def hydra_command(function: Callable[[DictConfig], None]) -> Callable[[], None]:
    """The same for a function that takes the composed configuration as it is."""

    @wraps(function)
    def run(config: DictConfig) -> None:
        GlobalHydra.instance().clear()  # the engines' own Hydra trees are composed later on
        try:
            function(config)
        except known_errors() as error:
            explain(error)
            sys.exit(1)

    single = hydra.main(version_base="1.3", config_path=str(ROOT / "recipes"), config_name="config")(run)

    @wraps(function)
    def main() -> None:
        flags = {"-m", "--multirun"} & set(sys.argv[1:])
        if not flags:
            return single()
        from launch import sweep  # Hydra's own would end at the first failure, and run every point in one folder

        stage = sys.modules["__main__"].__spec__.name.rsplit(".", 1)[-1]
        sys.exit(sweep.main([argument for argument in sys.argv[1:] if argument not in flags], [stage]))

    return main
