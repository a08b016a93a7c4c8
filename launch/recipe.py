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

from launch.errors import explain, known_errors

ROOT = Path(__file__).resolve().parent.parent


class RecipeError(ValueError):
    """A recipe that cannot run; the message names the key and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class Model(_Part):
    """`path`: a Hugging Face id or folder; null builds the tiny model in the run folder."""

    path: str | None
    template: str
    dtype: Literal["float32", "bfloat16"]
    trust_remote_code: bool = False
    warm_up: dict[str, Any] | None = None


class Media(_Part):
    """The media budget: what every stage takes from a clip."""

    fps: float = Field(gt=0)
    max_frames: PositiveInt
    min_frames: PositiveInt
    max_pixels: PositiveInt
    min_pixels: PositiveInt


class Data(_Part):
    """`rendered`: settings of the rendered clips; otherwise `files`: split -> JSON Lines of samples."""

    rendered: dict[str, Any] | None = None
    files: dict[str, str | None] | None = None
    media_root: str | None = None
    system: str = ""
    instruction: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> "Data":
        if (self.rendered is None) == (self.files is None):
            raise ValueError("give either data.rendered or data.files")
        if self.files is not None and self.media_root is None:
            raise ValueError("data.files needs data.media_root")
        return self


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
    """Drops groups whose rollouts all score alike on `metric`, and draws others in their place."""

    enabled: bool
    metric: str


class Rollout(_Part):
    """Settings of the vLLM rollout workers."""

    tensor_parallel_size: PositiveInt
    gpu_memory_utilization: float = Field(gt=0, lt=1)
    max_num_seqs: PositiveInt
    max_num_batched_tokens: PositiveInt
    enforce_eager: bool


class Rl(_Part):
    """GRPO in verl; `engine` takes any further verl keys as `a.b.c: value`."""

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
    """A reward or an advantage estimator by name, with its settings."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Eval(_Part):
    """Greedy evaluation on the test split."""

    models: list[Literal["base", "sft", "rl"]]
    max_tokens: PositiveInt
    limit: PositiveInt | None = None


class Cluster(_Part):
    """Where it runs. `time_limit_minutes`: an engine that shows no progress for so long is ended."""

    device: Literal["cpu", "cuda"]
    nodes: PositiveInt
    gpus_per_node: PositiveInt
    cpus: PositiveInt | None = None
    time_limit_minutes: float = Field(gt=0)


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
    advantage: Named
    eval: Eval
    cluster: Cluster

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

    return hydra.main(version_base="1.3", config_path=str(ROOT / "recipes"), config_name="config")(run)
