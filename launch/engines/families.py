"""Model families: what the plan and the engines must know of each.

A new family is a row of `FAMILIES`, a recipe in recipes/model, where its loader shrinks clips a limit in
data_tools/media/budget.py, and where an engine computes it wrongly a patch in launch/engines/patches.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # of a language layer
FRAMES_PER_PATCH, MERGE = 2, 2  # a patch spans two frames; 2 x 2 patches become one visual token


class _Sizes(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class Vision(_Sizes):
    """The vision tower; `deepstack`, `positions`: extra mergers and learnt positions of Qwen3-VL."""

    depth: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_heads: PositiveInt
    patch_size: PositiveInt
    deepstack: int = Field(default=0, ge=0)
    positions: int = Field(default=0, ge=0)


class DeltaLayers(_Sizes):
    """Gated delta layers, which most layers of Qwen3.5 have in place of attention: every `interval`-th attends."""

    key_heads: PositiveInt
    value_heads: PositiveInt
    key_head_dim: PositiveInt
    value_head_dim: PositiveInt
    kernel: PositiveInt
    interval: PositiveInt


class Architecture(_Sizes):
    """The sizes in a model's config.json that `make plan` counts with, under their own names."""

    family: str
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    tie_word_embeddings: bool
    delta: DeltaLayers | None = None
    vision: Vision

    @field_validator("family")
    @classmethod
    def _family_is_known(cls, family: str) -> str:
        if family not in FAMILIES:
            raise ValueError(f"unknown family {family!r}: choose one of {', '.join(FAMILIES)}")
        return family

    @model_validator(mode="after")
    def _delta_layers_are_told(self) -> "Architecture":
        if FAMILIES[self.family].recurrent != (self.delta is not None):
            told = "set" if self.delta is None else "null"
            raise ValueError(f"delta must be {told} for the family {self.family}: its gated delta layers")
        return self

    def language_parameters(self) -> int:
        """Parameters of the language model, embeddings included."""
        h, attention = self.hidden_size, FAMILIES[self.family].attention(self)
        layers = attention + self.num_hidden_layers * (3 * h * self.intermediate_size + 2 * h)
        embeddings = self.embedding_parameters() * (1 if self.tie_word_embeddings else 2)
        return layers + h + embeddings

    @property
    def attention_layers(self) -> int:
        """Layers that keep keys and values of every token."""
        return self.num_hidden_layers // (self.delta.interval if self.delta else 1)

    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    def adapter_parameters(self, rank: int, targets: Collection[Linear]) -> int:
        """Parameters of LoRA adapters of these layers: rank x (width of the input + that of the output) each."""
        h, q, kv = self.hidden_size, self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = {"q_proj": h + q, "k_proj": h + kv, "v_proj": h + kv, "o_proj": q + h}
        widths = attention | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), h + self.intermediate_size)
        return self.num_hidden_layers * rank * sum(widths[name] for name in targets)

    def vision_parameters(self) -> int:
        """Parameters of the vision tower and its merger."""
        return FAMILIES[self.family].vision_parameters(self)

    def parameters(self) -> int:
        return self.language_parameters() + self.vision_parameters()


@dataclass(frozen=True)
class Family:
    """One row.

    Attributes:
        modules: what the demo's fork server imports once for all processes of verl and vLLM.
        attention: parameters of the attention, or what takes its place, of all layers.
        vision_parameters: parameters of the vision tower and its merger.
        announcement: text tokens that announce each pair of frames to the language model.
        recurrent: some layers carry a state, whose beginnings vLLM can keep only where it prefills in chunks.
    """

    modules: tuple[str, ...]
    attention: Callable[[Architecture], int]
    vision_parameters: Callable[[Architecture], int]
    announcement: int = 0
    recurrent: bool = False


def shares_prefix(wanted: bool, architecture: Architecture | None) -> bool:
    """Whether RL trains on a group as one sequence: a recurrent state would run from one response into the next."""
    return wanted and not (architecture and FAMILIES[architecture.family].recurrent)


def _modules(name: str, processing: str | None = None) -> tuple[str, ...]:
    transformers, processing = "transformers.models", processing or name
    model, processor = f"{name}.modeling_{name}", f"{processing}.processing_{processing}"
    engine = f"vllm.model_executor.models.{name}"
    return engine, f"{transformers}.{model}", f"{transformers}.{processor}", "qwen_vl_utils"


def _attention(a: Architecture) -> int:
    """Four matrices of a layer."""
    return 2 * a.hidden_size * (a.num_attention_heads + a.num_key_value_heads) * a.head_dim


def _with_biases(a: Architecture) -> int:
    """Of queries, keys and values."""
    return a.num_hidden_layers * (_attention(a) + (a.num_attention_heads + 2 * a.num_key_value_heads) * a.head_dim)


def _with_norms(a: Architecture) -> int:
    """Of queries and keys."""
    return a.num_hidden_layers * (_attention(a) + 2 * a.head_dim)


def _with_delta_layers(a: Architecture) -> int:
    """Gated attention in every n-th layer; in the others projections, a convolution, decays and a gated norm."""
    d = a.delta
    assert d is not None  # checked above
    keys, values = d.key_heads * d.key_head_dim, d.value_heads * d.value_head_dim
    attention = _attention(a) + a.hidden_size * a.num_attention_heads * a.head_dim + 2 * a.head_dim
    projections = a.hidden_size * (2 * keys + 3 * values + 2 * d.value_heads)
    delta = projections + d.kernel * (2 * keys + values) + 2 * d.value_heads + d.value_head_dim
    return a.attention_layers * attention + (a.num_hidden_layers - a.attention_layers) * delta


def _tower(a: Architecture) -> tuple[int, int, int]:
    """Parameters that both towers have: patch embedding, attention of a block, merger without its norm."""
    width, merged = a.vision.hidden_size, a.vision.hidden_size * MERGE**2
    patch = 3 * FRAMES_PER_PATCH * a.vision.patch_size**2 * width
    return patch, 4 * width * width + 4 * width, merged * merged + merged + merged * a.hidden_size + a.hidden_size


def _gated_tower(a: Architecture) -> int:
    v, (patch, attention, merger) = a.vision, _tower(a)
    w, i = v.hidden_size, v.intermediate_size
    return patch + v.depth * (attention + 3 * w * i + 2 * i + w + 2 * w) + merger + w


def _tower_with_deepstack(a: Architecture) -> int:
    v, (patch, attention, merger) = a.vision, _tower(a)
    w, i, merged = v.hidden_size, v.intermediate_size, v.hidden_size * MERGE**2
    blocks = v.depth * (attention + 2 * w * i + i + w + 4 * w)
    return patch + w + v.positions * w + blocks + merger + 2 * w + v.deepstack * (merger + 2 * merged)


FAMILIES = {
    "qwen2_5_vl": Family(_modules("qwen2_5_vl"), _with_biases, _gated_tower),
    "qwen3_vl": Family(_modules("qwen3_vl"), _with_norms, _tower_with_deepstack, announcement=10),
    "qwen3_5": Family(
        _modules("qwen3_5", processing="qwen3_vl"),
        _with_delta_layers,
        _tower_with_deepstack,
        announcement=10,
        recurrent=True,
    ),
}
