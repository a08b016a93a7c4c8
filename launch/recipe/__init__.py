"""The typed recipe: what the Hydra tree in `recipes/` composes to, checked before anything runs.

Unknown keys and wrong types are errors, on the command line (Hydra) and in the files (here). Nothing heavy is imported:
`--help` and `--cfg job` must answer at once.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from data_tools.media.budget import Budget, FrameImages, Stills
from data_tools.prompt import Form, Prompt
from data_tools.run_folder import OWN
from data_tools.synthesis.settings import Settings as Synthesis
from launch.engines.families import Architecture, Linear
from launch.recipe.data import Data
from launch.recipe.evaluation import Eval, EvalSet, Media, Part
from launch.recipe.rl import Difficulty, Loss, Rl, Vllm
from rewards.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"


class RecipeError(UserError):
    """A recipe that cannot run; the message names the key and what to do."""


class WarmUp(Part):
    """Optimizer steps, samples per step, and AdamW's learning rate of the tiny model's stand-in for pretraining."""

    steps: PositiveInt
    batch: PositiveInt
    learning_rate: float = Field(gt=0)


class Model(Part):
    """`path`: a Hugging Face id or folder; null builds the tiny model in the run folder (`warm_up`).

    `template`: LLaMA-Factory's name of the chat template; `chat_template`: Jinja text for verl, vLLM and lengths, where
    the model's own differs from that; null: the model's own. `batched_windows`: a vision tower's windows of one length
    are one attention call, where there is no flash-attn.
    """

    path: str | None
    template: str
    chat_template: str | None = None
    dtype: Literal["float32", "bfloat16"]
    trust_remote_code: bool = False
    batched_windows: bool = True
    warm_up: WarmUp | None = None
    architecture: Architecture | None = None

    @model_validator(mode="after")
    def _tiny_ones_are_warmed_up(self) -> "Model":
        if self.path is None and self.warm_up is None:
            raise ValueError("path is null: the tiny model needs model.warm_up (recipes/model/tiny.yaml)")
        return self


class Sft(Part):
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


class Lora(Part):
    """SFT and RL train adapters, times alpha / rank, of `targets`: of the language model, since vLLM has no others."""

    rank: int = Field(ge=1, le=512)  # vLLM's highest
    alpha: PositiveInt
    targets: Literal["all"] | list[Linear]


class Named(Part):
    """A reward, a judge or an advantage estimator by name, with its settings."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


# Where the nodes of a recipe come from.
_CLUSTER = "cluster=ray_cluster, or cluster.address=auto on one of its nodes, host:port from elsewhere"


class Cluster(Part):
    """Where it runs. `time_limit_minutes`: an engine that neither computes nor shows progress for so long is ended.

    `address`: a running Ray cluster to join ("auto" on one of its nodes), or null for a Ray node of our own.
    `judge_gpus`: of `gpus_per_node`, those that RL and evaluation leave to the server of a judge.
    `sft_nodes`: of `nodes`, those that SFT takes; RL and evaluation take all.
    `offload`: weights, gradients and optimizer states wait in host memory. The sizes are what `make plan` counts with.
    """

    device: Literal["cpu", "cuda"]
    nodes: PositiveInt
    gpus_per_node: PositiveInt
    judge_gpus: int = Field(default=0, ge=0)
    sft_nodes: PositiveInt = 1
    address: str | None = None
    offload: bool = False
    gpu: str | None = None
    gpu_memory_gb: float | None = Field(default=None, gt=0)
    host_memory_gb: float | None = Field(default=None, gt=0)
    disk_gb: float | None = Field(default=None, gt=0)
    cpus: PositiveInt | None = None
    time_limit_minutes: float = Field(gt=0)

    @property
    def policy_gpus(self) -> int:
        """GPUs of a node that RL and evaluation use."""
        return self.gpus_per_node - self.judge_gpus

    @model_validator(mode="after")
    def _a_judge_leaves_some(self) -> "Cluster":
        if self.judge_gpus >= self.gpus_per_node:
            raise ValueError(f"judge_gpus {self.judge_gpus} of gpus_per_node {self.gpus_per_node} leave none for RL")
        if self.judge_gpus and self.address is not None:
            raise ValueError("judge_gpus: beside a Ray cluster, the judge needs a machine of its own (judge.url)")
        return self

    @model_validator(mode="after")
    def _several_nodes_need_a_cluster(self) -> "Cluster":
        if (
            self.nodes > 1 and self.address is None and self.device == "cuda"
        ):  # without GPUs we start them all ourselves
            raise ValueError(f"{self.nodes} nodes need a running Ray cluster: {_CLUSTER}")
        if self.sft_nodes > self.nodes:
            raise ValueError(
                f"sft_nodes={self.sft_nodes}, but nodes={self.nodes}: raise cluster.nodes, or lower cluster.sft_nodes"
            )
        if self.sft_nodes > 1 and self.address is None:
            raise ValueError(f"sft_nodes: SFT on several nodes needs a running Ray cluster: {_CLUSTER}")
        return self


class Plan(Part):
    """`against`: a run folder or a saved plan to compare with; `save`: a folder for what is rendered."""

    against: str | None = None
    save: str | None = None


class Publish(Part):
    """`repo`: owner/name on the Hugging Face hub; null writes the model card and sends nothing."""

    repo: str | None = None
    private: bool = True


class Submit(Part):
    """`address`: of the cluster's dashboard; `python`: the interpreter on the nodes; `follow`: show the job's log."""

    address: str = "http://127.0.0.1:8265"
    python: str = "python"
    follow: bool = True


class Recipe(Part):
    """A whole composed recipe. `force`, `plan`, `publish`, `submit` and `synthesis` are a command's, not the run's."""

    experiment: str
    name: str
    runs: str
    seed: int = Field(ge=0, lt=2**32)  # what NumPy and the engines take
    force: bool = False
    model: Model
    media: Media
    prompt: Prompt
    data: Data
    sft: Sft
    rl: Rl
    lora: Lora | None = None
    vllm: Vllm
    reward: Named
    judge: Named = Named(name="rules")
    advantage: Named
    loss: Loss
    eval: Eval
    cluster: Cluster
    tracking: list[Literal["wandb", "trackio", "mlflow", "swanlab"]] = []
    difficulty: Difficulty = Difficulty()
    plan: Plan = Plan()
    publish: Publish = Publish()
    submit: Submit = Submit()
    synthesis: Synthesis | None = None

    def stored(self) -> dict[str, Any]:
        """What a run folder keeps: everything but the keys of commands."""
        return self.model_dump(mode="json", exclude={"force", "plan", "publish", "submit", "synthesis"})

    @property
    def folder(self) -> Path:
        """Of the run."""
        runs = Path(self.runs)
        return (runs if runs.is_absolute() else ROOT / runs) / self.experiment / self.name

    @property
    def overlong(self) -> dict[str, float] | None:
        """What `rewards.overlong` takes besides the tokens of a response; None where length costs nothing."""
        chosen, limit = self.loss.overlong, self.rl.max_response_length
        if chosen is None:
            return None
        return {"limit": limit, "buffer": max(round(chosen.share * limit), 1), "penalty": chosen.penalty}

    @property
    def form(self) -> Form:
        """How samples are asked and answered in training."""
        return Form(prompt=self.prompt, reward=self.reward.model_dump())

    @property
    def budget(self) -> Budget:
        """The media budget for this model's size of visual tokens."""
        return self.budget_of(self.media)

    @property
    def trained_media(self) -> list[Media]:
        """The run's media budget, and those of its sources."""
        return list(dict.fromkeys([self.media, *(media for media in self.data.media.values() if media)]))

    def budget_of(self, media: Media) -> Budget:
        vision = self.model.architecture and self.model.architecture.vision
        kind = FrameImages if media.as_images else Budget
        return kind(**media.of_clips, token_side=2 * vision.patch_size if vision else 28)

    def stills_of(self, media: Media) -> Stills | None:
        """What a media budget takes of images; None: nothing."""
        return Stills(**media.images.model_dump(), token_side=self.budget.token_side) if media.images else None

    @property
    def other_sets(self) -> dict[str, EvalSet]:
        """Evaluation sets but the run's own test split."""
        return {name: chosen for name, chosen in self.eval.sets.items() if name != OWN}

    @property
    def models(self) -> dict[str, str]:
        """Evaluated models: name -> base, sft, rl, or a folder or hub id."""
        trained = ["base", *(["sft"] if self.rl.start_epoch else []), "rl"]
        return self.eval.models or {name: name for name in trained}

    @field_validator("experiment")
    @classmethod
    def _stays_among_the_runs(cls, experiment: str) -> str:
        path = PurePosixPath(experiment)
        if not path.name or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{experiment[:40]!r} names a folder among the runs: no `/` at its beginning and no `..`")
        return experiment

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
            raise ValueError(
                f"{name[:40]!r} names a folder: take letters A to Z, digits and . _ -, beginning with a letter or a "
                "digit, at most 200 of them"
            )
        return name

    @model_validator(mode="after")
    def _loaders_keep_the_budget(self) -> "Recipe":
        for media in (*self.trained_media, *(chosen.media for chosen in self.eval.sets.values() if chosen.media)):
            _ = self.budget_of(media), self.stills_of(media)
        if own := next((source for source, media in self.data.media.items() if media and media.images), None):
            raise ValueError(f"data.media.{own}.images: all images of a run are in one budget: media.images")
        clips = {"data.poses": self.data.poses.folder, "rl.twins": self.rl.twins.turns}
        if needs := next((key for key, given in clips.items() if given), None):
            if any(media.as_images for media in self.trained_media):
                raise ValueError(f"media.as_images: {needs} needs clips that are videos")
        return self

    @model_validator(mode="after")
    def _what_is_held_out_is_there(self) -> "Recipe":
        held_out, data = self.rl.held_out, self.data
        if held_out.every and not (data.rendered or {}).get("val") and not data.listed().get("val"):
            raise ValueError("rl.held_out.every: no val split to ask: give data.files.val or data.rendered.val")
        if self.rl.checkpoint == "best" and not held_out.every:
            raise ValueError("rl.checkpoint=best: nothing says which is best: give rl.held_out.every and a val split")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Recipe":
        if self.rl.start_epoch > self.sft.num_train_epochs:
            raise ValueError(
                f"rl.start_epoch {self.rl.start_epoch} is beyond sft.num_train_epochs {self.sft.num_train_epochs}"
            )
        frozen = self.sft.freeze_vision_tower and self.sft.freeze_multi_modal_projector and self.rl.freeze_vision_tower
        if self.lora and not frozen:
            raise ValueError("lora trains no vision tower: leave its keys sft.freeze_* and rl.freeze_* true")
        if self.lora and self.model.architecture and self.model.architecture.delta:
            raise ValueError("lora: that vLLM applies adapters of gated delta layers was not tried; take lora=null")
        ranks = self.cluster.nodes * self.cluster.policy_gpus
        rollouts, micro = self.rl.global_batch_size * self.rl.group_size, self.rl.micro_batch_size_per_gpu
        if self.rl.micro_batch_tokens is None and rollouts % (ranks * micro):
            raise ValueError(
                f"rl.global_batch_size x rl.group_size = {rollouts} rollouts must be a multiple of "
                f"{ranks} rank(s) x rl.micro_batch_size_per_gpu = {ranks * micro}"
            )
        return self
