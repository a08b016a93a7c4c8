"""Merge adapters into the model they were trained on: python -m launch.engines.adapters START [ADAPTERS TARGET]...

ADAPTERS is a folder of PEFT (LLaMA-Factory's checkpoint) or verl's folder of FSDP shards. verl's own merger would leave
the adapters beside weights that are those of START.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor


def merge(start: str, adapters: Path, target: Path) -> None:
    """Write START with W + (alpha / rank) B A in place of each adapted W, in the precision of W.

    Raises:
        ValueError: START lacks a layer that has an adapter.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoModelForImageTextToText, AutoProcessor

    config, weights = of_verl(adapters) if (adapters / "fsdp_config.json").exists() else of_peft(adapters)
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(start, dtype="auto"), config)
    if wrong := sorted(weights.keys() ^ get_peft_model_state_dict(model).keys()):
        raise ValueError(f"{adapters} holds no adapters of {start}: {wrong[0]} and {len(wrong) - 1} more do not fit")
    set_peft_model_state_dict(model, weights)
    model.merge_and_unload(safe_merge=True).save_pretrained(target)
    AutoProcessor.from_pretrained(start).save_pretrained(target)


def of_peft(folder: Path) -> "tuple[LoraConfig, dict[str, Tensor]]":
    from peft import LoraConfig
    from peft.utils import load_peft_weights

    return LoraConfig.from_pretrained(str(folder)), load_peft_weights(str(folder), device="cpu")


def of_verl(folder: Path) -> "tuple[LoraConfig, dict[str, Tensor]]":
    """The adapters of all ranks' shards (verl 0.9.1, fsdp_checkpoint_manager.py:320), joined."""
    import torch
    from peft import LoraConfig
    from torch.distributed.tensor import DTensor

    ranks = json.loads((folder / "fsdp_config.json").read_text())["world_size"]
    paths = [folder / f"model_world_size_{ranks}_rank_{rank}.pt" for rank in range(ranks)]
    shards = [torch.load(path, map_location="cpu", weights_only=False) for path in paths]
    weights = {}
    for name in [name for name in shards[0] if "lora_" in name]:
        part = shards[0][name]
        if isinstance(part, DTensor):  # a last dimension of shards; before it, ranks that hold the same again
            parts = [shard[name].detach().to_local() for shard in shards[: part.device_mesh.mesh.shape[-1]]]
            where = part.placements[-1]
            part = torch.cat(parts, dim=where.dim) if where.is_shard() else parts[0]
        weights[name.replace(".default.weight", ".weight")] = part
    trained = json.loads((folder / "lora_train_meta.json").read_text())
    layers = sorted({name.removeprefix("base_model.model.").split(".lora_")[0] for name in weights})
    return LoraConfig(r=trained["r"], lora_alpha=trained["lora_alpha"], target_modules=layers), weights


if __name__ == "__main__":
    for adapters, target in zip(sys.argv[2::2], sys.argv[3::2]):
        merge(sys.argv[1], Path(adapters), Path(target))
