"""The parts of a typed recipe that say what is evaluated, and the media budget that clips are taken in."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from data_tools.prompt import Prompt
from data_tools.run_folder import OWN


class Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), defer_build=True, allow_inf_nan=False
    )


class Images(Part):
    """What every stage takes of images; see `data_tools.media.budget.Stills`."""

    max_pixels: PositiveInt
    min_pixels: PositiveInt
    most: PositiveInt = 1


class Media(Part):
    """The media budget: what every stage takes from a clip; see `data_tools.media.budget.Budget`.

    `as_images`: a clip is shown as still images, one a frame, instead of as a video. `images`: what it takes of
    images; null: samples with images are left out, with that reason.
    """

    fps: float = Field(gt=0)
    max_frames: PositiveInt
    min_frames: PositiveInt
    max_pixels: PositiveInt
    min_pixels: PositiveInt
    sampler: Literal["uniform", "head"] = "uniform"
    as_images: bool = Field(default=False, exclude_if=lambda as_images: not as_images)
    images: Images | None = Field(default=None, exclude_if=lambda images: images is None)

    @property
    def of_clips(self) -> dict[str, Any]:
        """The settings of clips, without those of images."""
        return self.model_dump(exclude={"images", "as_images"})

    @property
    def given_images(self) -> int:
        """Images of a sample that shows images, at most."""
        return self.images.most if self.images else 0

    @property
    def most_images(self) -> int:
        """Images that engines are shown of a sample, at most: those of a clip, too, where it is shown as images."""
        return max(self.given_images, self.max_frames if self.as_images else 0)

    @property
    def image_pixels(self) -> tuple[int, int] | None:
        """Fewest and most pixels of an image that engines are shown; None where they are shown none."""
        bounds = [(self.images.min_pixels, self.images.max_pixels)] if self.images else []
        bounds += [(self.min_pixels, self.max_pixels)] if self.as_images else []
        return (min(least for least, _ in bounds), max(most for _, most in bounds)) if bounds else None


Control = Literal["blank", "shuffled_frames", "shuffled_options", "mirrored", "reversed"]
Turn = Literal["mirrored", "reversed"]
SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class EvalSet(Part):
    """Questions that models are evaluated on: the run's own test split (set `test`, without `files`), or others.

    Attributes:
        benchmark: scores it (docs/evaluation.md) and, unless there is a `source`, reads `files`; null: that of the
            samples' source.
        files: the benchmark's official label file or folder, a published file (`source`), or samples as JSON Lines.
        source: reader of a published file (docs/data.md).
        only: parts of the benchmark; all by default.
        folder: where the videos lie under `media_root`.
        media_root: null: data.media_root.
        media, prompt: where they are not the run's; in a recipe also names of files of recipes/media, recipes/prompt.
        reward: settings laid over the run's reward; they decide the form of the responses, e.g. {prompt: direct}.
        models: names of `eval.models`; null: all.
        limit: only the first so many questions.
    """

    benchmark: str | None = None
    files: str | None = None
    source: str | None = None
    only: list[str] = []
    folder: str = ""
    media_root: str | None = None
    media: Media | None = None
    prompt: Prompt | None = None
    reward: dict[str, Any] = {}
    models: list[SetName] | None = None
    limit: PositiveInt | None = None


class Eval(Part):
    """Greedy evaluation on named sets; one that is null is left out.

    `root`: the folder of the benchmarks that paths of `sets` begin with.
    `models`: names, or name -> base, sft, rl, or a folder or hub id; null: all that the recipe trains.
    `samples`: responses sampled besides, with `temperature` and `top_p`, for votes. `option_scores`: probabilities of
    the options behind the greedy response's own reasoning, or directly, without any; or of Yes and No as first token.
    `controls`: those of data_tools/controls.py. `twins`: turned clips about which the same questions are asked again,
    where their answer changes, for pair accuracy.
    """

    root: str | None = None
    sets: dict[SetName, EvalSet] = {OWN: EvalSet()}
    models: dict[SetName, str] | None = None
    max_tokens: PositiveInt
    samples: int = Field(default=0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    option_scores: Literal["reasoned", "direct", "first_token"] | None = "reasoned"
    controls: list[Control] = []
    twins: list[Turn] = []

    @field_validator("sets", mode="before")
    @classmethod
    def _a_set_that_is_null_is_left_out(cls, sets: Any) -> Any:
        if not isinstance(sets, dict):
            return sets
        return {name: chosen for name, chosen in sets.items() if chosen is not None}

    @field_validator("models", mode="before")
    @classmethod
    def _names_alone_name_stages(cls, models: Any) -> Any:
        return {name: name for name in models} if isinstance(models, list) else models

    @model_validator(mode="after")
    def _sets_fit(self) -> "Eval":
        if not self.sets:
            raise ValueError("sets: empty: nothing to evaluate on")
        for name, chosen in self.sets.items():
            if name == OWN and (chosen.files or chosen.source or chosen.media or chosen.media_root):
                raise ValueError(f"sets.{OWN} is the run's own test split (data.*): give other files another name")
            if name != OWN and chosen.files is None:
                raise ValueError(f"sets.{name}.files: missing: the questions of the set")
            if unknown := [model for model in chosen.models or [] if self.models and model not in self.models]:
                raise ValueError(f"sets.{name}.models: {unknown[0]} is not in eval.models")
        return self
