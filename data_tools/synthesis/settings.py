"""The settings of a synthesis run."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from data_tools.media.budget import Budget, Stills
from rewards.judges.sufficiency import SUFFICIENT, ShowAnswer

Client = Literal["endpoint", "judge"]
FilterName = Literal["format", "hindsight", "accuracy", "consistency", "sufficiency", "review"]


class LocalServer(BaseModel):
    """A local server that knows the rendered clips, in place of the models; `fault_rate`: share of failing requests."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault_rate: float = Field(ge=0, lt=1)


class Settings(BaseModel):
    """A synthesis recipe; recipes/synthesis/camreasoner.yaml explains each key.

    Attributes:
        budget: media budget that the clips are sent in, of the whole recipe; None: as they are.
        stills: that of images; None: samples with images get no chain where there is a budget.
        store: where the clips in these budgets are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str
    samples: str
    media_root: str
    out: str
    reveal_answer: bool
    instruction: str | None  # null: the question alone
    filters: list[FilterName]
    min_accuracy: dict[str, float]
    sufficient: float = Field(SUFFICIENT, ge=0, le=1)
    show_answer: ShowAnswer = "open_ended"
    normalise: bool
    send: Literal["data", "file", "frames"]
    frames: PositiveInt
    endpoint: dict[str, Any]
    judge: dict[str, Any]
    per_shard: PositiveInt
    workers: PositiveInt
    ray: str | None
    max_failures: PositiveInt
    review: int = Field(ge=0)
    seed: int
    reference: dict[str, Any] | None = None
    local: LocalServer | None = None
    serve_commands: bool = False
    weights_gb: dict[Client, PositiveFloat]
    budget: Budget | None = None
    stills: Stills | None = None
    store: Path | None = None

    @field_validator("filters")
    @classmethod
    def _format_comes_first(cls, filters: list[FilterName]) -> list[FilterName]:
        if filters[:1] != ["format"]:
            raise ValueError("the first filter must be format: the others need a parsed chain")
        return filters

    @field_validator("judge")
    @classmethod
    def _rules_need_no_server(cls, judge: dict[str, Any]) -> dict[str, Any]:
        return {"name": "rules"} if judge.get("name") == "rules" else judge

    @model_validator(mode="after")
    def _a_review_needs_a_model(self) -> Self:
        if "review" in self.filters and self.judge.get("name") == "rules":
            raise ValueError("filters: review asks a model that sees the clip: synthesis.judge.name=endpoint")
        return self

    @field_validator("min_accuracy")
    @classmethod
    def _has_default(cls, bounds: dict[str, float]) -> dict[str, float]:
        if "default" not in bounds or not all(0 <= bound <= 1 for bound in bounds.values()):
            raise ValueError("needs `default`, and bounds between 0 and 1")
        return bounds

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def clips(self) -> Path:
        """Folder of the clips that are sent."""
        return self.store or Path(self.media_root)

    @property
    def chain_key(self) -> str:
        """Hash of all settings that a chain depends on."""
        prompt = (self.reveal_answer, self.instruction, self.send, self.frames if self.send == "frames" else None)
        media = asdict(self.budget) if self.budget else None
        stills = [asdict(self.stills)] if self.stills else []
        return _hash(prompt, media, *stills, self.endpoint.get("model"), self.endpoint.get("request"))

    @property
    def verdict_key(self) -> str:
        """Hash of all settings that a verdict depends on."""
        judge = {name: self.judge.get(name) for name in ("name", "model", "request")}
        asked = [self.sufficient, self.show_answer] if "sufficiency" in self.filters else []
        return _hash(self.chain_key, self.filters, self.min_accuracy, judge, *asked)


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
