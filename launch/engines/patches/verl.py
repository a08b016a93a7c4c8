"""Patches of verl."""

import asyncio
import os
import re
from functools import partialmethod
from pathlib import Path
from typing import Any

from launch.engines.patches.hooks import after_import
from launch.engines.patches.one_pass import in_one_pass

_TIME_TOKENS = 16  # of `<1234.5 seconds>`, at most
SEEDS, OUTPUTS = "seeds", "outputs"  # of the rollouts of a prompt: in its sampling parameters, in its output


def apply() -> None:
    """Run every patch after the import of its module."""
    after_import("verl.utils.tensordict_utils")(equal_length_position_ids)
    after_import("verl.workers.engine.fsdp.transformer_impl")(freeze_vision_tower)
    after_import("verl.utils.tracking")(append_metrics)
    after_import("verl.workers.rollout.utils")(one_placeholder_per_clip)
    after_import("verl.workers.rollout.vllm_rollout.vllm_async_server")(one_request_per_prompt)
    after_import("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer")(weights_of_one_run)
    after_import("verl.models.transformers.qwen2_vl")(rows_without_media)
    for family in ("qwen2_vl", "qwen3_vl", "qwen3_5"):
        after_import(f"verl.models.transformers.{family}")(mixed_rows_in_one_pass)


def equal_length_position_ids(module) -> None:
    """verl 0.9.1, tensordict_utils.py:910: batches whose samples all have one length crash.

    Position ids (4, length) of equal lengths are stored as a jagged tensor that is ragged in the wrong dimension, and
    `maybe_fix_3d_position_ids` then splits it by lengths along it.
    """
    fix = module.maybe_fix_3d_position_ids

    def maybe_fix_3d_position_ids(data):
        positions = data["position_ids"] if "position_ids" in data.keys() else None
        if positions is not None and positions.is_nested and positions.dim() == 3:
            values, offsets = positions.values(), positions.offsets()
            total = int(offsets[-1])
            if values.shape[0] == total != values.shape[-1]:
                rows = list(values.split(offsets.diff().tolist(), dim=0))
                data["position_ids"] = module.nested_tensor_from_tensor_list(rows, ragged_idx=2)
                return
        fix(data)

    module.maybe_fix_3d_position_ids = maybe_fix_3d_position_ids


def freeze_vision_tower(module) -> None:
    """verl 0.9.1, workers/config/actor.py:161: the V1 trainer's engine never reads `actor.freeze_vision_tower`.

    The tower is trained regardless, without a warning. Here `model.override_config.freeze_vision_tower` freezes it.
    """
    build = module.FSDPEngine._build_module

    def _build_module(self):
        # Taken out again: it is a setting of the training, not of the model that is saved.
        frozen = self.model_config.hf_config.__dict__.pop("freeze_vision_tower", False)
        model = build(self)
        if frozen:
            model.model.visual.requires_grad_(False)
        return model

    module.FSDPEngine._build_module = _build_module


def append_metrics(module) -> None:
    """verl 0.9.1, utils/tracking.py:541: truncates its metrics file, so a resumed run loses the earlier steps."""

    def __init__(self, project_name, experiment_name):
        self.project_name, self.experiment_name = project_name, experiment_name
        self.filepath = os.environ["VERL_FILE_LOGGER_PATH"]
        self.fp = open(self.filepath, "ab", buffering=0)

    module.FileLogger.__init__ = __init__


def one_placeholder_per_clip(module) -> None:
    """verl 0.9.1, workers/rollout/utils.py:93: gives vLLM one placeholder per pair of frames of a Qwen3-VL clip.

    Its processor writes `<0.2 seconds><|vision_start|><|video_pad|>...<|vision_end|>` for each pair. vLLM expands a
    single `<|vision_start|><|video_pad|><|vision_end|>` to all of that. Of several, it would expand the first.
    """
    dedup = module.qwen2_5_vl_dedup_image_tokens

    def without_seconds(ids, processor):
        """One placeholder per clip. Seconds rise within a clip, so a lower number starts another clip."""
        pad = processor.video_token_id
        clip = [processor.vision_start_token_id, pad, processor.vision_end_token_id]
        kept, before, index = [], 0.0, 0
        while index < len(ids):
            if ids[index : index + 2] != clip[:2]:
                kept.append(ids[index])
                index += 1
                continue
            for length in range(1, min(len(kept), _TIME_TOKENS) + 1):
                if seconds := re.fullmatch(r"<([\d.]+) seconds>", processor.tokenizer.decode(kept[-length:])):
                    break
            else:
                raise ValueError("no seconds before a pair of frames: put the clip on a line of its own")
            del kept[-length:]
            if kept[-3:] != clip or float(seconds[1]) <= before:
                kept += clip
            before = float(seconds[1])
            index = ids.index(clip[2], index) + 1
        return kept

    def qwen2_5_vl_dedup_image_tokens(prompt_ids, processor):
        if type(processor).__name__ == "Qwen3VLProcessor":
            prompt_ids = without_seconds(list(prompt_ids), processor)
        return dedup(prompt_ids, processor)

    module.qwen2_5_vl_dedup_image_tokens = qwen2_5_vl_dedup_image_tokens


def one_request_per_prompt(module) -> None:
    """verl 0.9.1, vllm_async_server.py:558: a server answers one rollout per request.

    With the patch, sampling parameters with `SEEDS` ask for a rollout of each seed. They are requests of their own to
    vLLM, which gives them the tokens that they get when they are sent apart. Nobody reads what it would give out before
    the end, or as text.
    """
    from vllm.sampling_params import RequestOutputKind

    quiet = {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False}
    generate = module.vLLMHttpServer.generate

    async def generate_all(
        self, prompt_ids: Any, sampling_params: dict[str, Any], request_id: str, **media: Any
    ) -> Any:
        if SEEDS not in sampling_params:
            return await generate(self, prompt_ids, sampling_params, request_id, **media)
        seeds = sampling_params.pop(SEEDS)
        each = [
            generate(self, prompt_ids, {**sampling_params, "seed": seed, **quiet}, f"{request_id}-{index}", **media)
            for index, seed in enumerate(seeds)
        ]
        outputs = await asyncio.gather(*each)
        steps = outputs[0].extra_fields.get("global_steps")
        return module.TokenOutput(token_ids=[], extra_fields={OUTPUTS: outputs, "global_steps": steps})

    module.vLLMHttpServer.generate = generate_all


def weights_of_one_run(module) -> None:
    """verl 0.9.1, vllm_rollout.py:141: runs on one machine send weights to vLLM through the same socket in /tmp.

    Its name has Ray's job id, which is the same in every Ray node that a run starts for itself: of two runs, one
    waits for ever, or a server gets the weights of the other. Whoever puts a socket there is believed, too, and what
    comes is unpickled. With the patch the socket lies in a folder of this user's, and has the raylet's process id.
    """

    def __init__(self, zmq_handle: str, *args: Any, start: Any, **settings: Any) -> None:
        start(self, _private_socket(zmq_handle), *args, **settings)

    for side in (module.BucketedWeightSender, module.BucketedWeightReceiver):
        side.__init__ = partialmethod(__init__, start=side.__init__)


def _private_socket(handle: str) -> str:
    from launch.engines.inherited import short_temporary

    folder = short_temporary(f"camreasoner-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is another user's, or open to others: remove it, or set TMPDIR")
    return f"ipc://{folder}/{os.environ['RAY_RAYLET_PID']}-{Path(handle).name}"


def mixed_rows_in_one_pass(module) -> None:
    """verl 0.9.1, models/transformers/qwen2_vl.py:351 and :375: two passes where a micro-batch has both kinds of rows.

    Beside a rank whose micro-batch has one kind, FSDP never comes to its end; see `one_pass`.
    """
    module._get_input_embeds = in_one_pass(module._get_input_embeds)


def rows_without_media(module) -> None:
    """verl 0.9.1, models/transformers/qwen2_vl.py:393: crashes where no row of a micro-batch has a clip or an image.

    The padding rows of a filtered batch have none. verl then sends a blank image through the vision tower, times 0, so
    that every rank gathers the same FSDP weights; but since transformers 5 the tower returns an object without a mean.
    """
    embed = module._get_input_embeds

    def _get_input_embeds(
        model,
        input_ids,
        attention_mask=None,
        pixel_values=None,
        pixel_values_videos=None,
        image_grid_thw=None,
        video_grid_thw=None,
    ):
        if pixel_values is not None or pixel_values_videos is not None:
            clips = pixel_values_videos, image_grid_thw, video_grid_thw
            return embed(model, input_ids, attention_mask, pixel_values, *clips)
        inputs_embeds, vision = model.get_input_embeddings()(input_ids), model.config.vision_config
        pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        blank, grid = inputs_embeds.new_zeros(16, pixels), input_ids.new_tensor([[1, 4, 4]])
        blank_embeds, _ = module.unpack_visual_output(model.visual(blank, grid_thw=grid))
        return inputs_embeds + 0.0 * blank_embeds.mean(), attention_mask

    module._get_input_embeds = _get_input_embeds
