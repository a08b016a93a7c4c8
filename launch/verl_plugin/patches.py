"""Every run-time mend of an engine, one function each: what is wrong, where, in which version.

tests/launch/test_patches.py holds a test per mend that fails once the engine no longer needs it. What only a machine
without a GPU needs stands in `cpu.py`.
"""

import itertools
import os
import re

from launch.verl_plugin.imports import after_import

_TIME_TOKENS = 16  # of `<1234.5 seconds>`, at most


def apply() -> None:
    """Hang every mend on the import of its module."""
    after_import("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")(mrope_positions)
    after_import("transformers.models.qwen2_5_vl.processing_qwen2_5_vl")(seconds_per_grid_for_verl)
    after_import("vllm.model_executor.models.qwen2_5_vl")(seconds_per_grid_for_vllm)
    after_import("verl.utils.tensordict_utils")(equal_length_position_ids)
    after_import("verl.workers.engine.fsdp.transformer_impl")(freeze_vision_tower)
    after_import("verl.utils.tracking")(append_metrics)
    after_import("verl.workers.rollout.utils")(one_place_holder_per_clip)
    after_import("verl.models.transformers.qwen2_vl")(rows_without_media)


def mrope_positions(module) -> None:
    """transformers 5.9.0, modeling_qwen2_5_vl.py:1070 and :1077.

    `int(second_per_grid_ts)` cuts fractions (0.5 s between patches becomes 0: all frames at one time), and the text
    after a clip continues at max(height, width) instead of max(time, height, width), so that it overlaps a long clip.
    The reference formula (Qwen2.5-VL technical report, section 2.1.2; what vLLM computes) has neither fault.
    """
    import torch

    def get_rope_index(
        self,
        input_ids,
        mm_token_type_ids,
        image_grid_thw=None,
        video_grid_thw=None,
        second_per_grid_ts=None,
        attention_mask=None,
        **_,
    ):
        """M-RoPE positions (3, batch, length) and, per row, the offset (batch, 1) at which generation goes on."""
        vision = self.config.vision_config
        grids = {1: iter(() if image_grid_thw is None else image_grid_thw)}
        grids[2] = iter(() if video_grid_thw is None else video_grid_thw)
        seconds = itertools.repeat(1.0) if second_per_grid_ts is None else iter(second_per_grid_ts)
        positions = torch.zeros(3, *input_ids.shape, dtype=input_ids.dtype, device=input_ids.device)
        deltas = []
        for row in range(len(input_ids)):
            keep = torch.ones_like(input_ids[row]) if attention_mask is None else attention_mask[row]
            keep = keep.bool()
            parts, start = [], 0
            for kind, run in itertools.groupby(mm_token_type_ids[row][keep].tolist()):
                left = len(list(run))
                while left > 0:  # two clips may stand next to each other in one run
                    if kind == 0:
                        part = torch.arange(left).expand(3, -1) + start
                    else:
                        t, h, w = (int(size) for size in next(grids[kind]))
                        h, w = h // vision.spatial_merge_size, w // vision.spatial_merge_size
                        # To the millisecond, as in `seconds_per_grid_for_vllm`: they come in float32.
                        step = round(float(next(seconds)), 3) * vision.tokens_per_second if kind == 2 else 1.0
                        time = (torch.arange(t, dtype=torch.float64) * step).long()
                        part = torch.stack(torch.meshgrid(time, torch.arange(h), torch.arange(w), indexing="ij"))
                        part = part.reshape(3, -1) + start
                    parts.append(part)
                    start, left = int(part.max()) + 1, left - part.shape[1]
            row_positions = torch.cat(parts, dim=1).to(positions)
            positions[:, row, keep] = row_positions
            deltas.append(int(row_positions.max()) + 1 - int(keep.sum()))
        return positions, torch.tensor(deltas, device=input_ids.device).unsqueeze(1)

    module.Qwen2_5_VLModel.get_rope_index = get_rope_index


def seconds_per_grid_for_verl(module) -> None:
    """verl 0.9.1, agent_loop.py:948: asks the processor for `get_rope_index_kwargs`, which no processor defines.

    Without it the trainer takes one second between temporal patches, whatever the clip's frame rate.
    """

    def get_rope_index_kwargs(self, multi_modal_inputs):
        seconds = multi_modal_inputs.get("second_per_grid_ts")
        return {} if seconds is None else {"second_per_grid_ts": seconds}

    module.Qwen2_5_VLProcessor.get_rope_index_kwargs = get_rope_index_kwargs


def seconds_per_grid_for_vllm(module) -> None:
    """vLLM 0.24.0, multimodal/parse.py:652: drops the metadata of Qwen2.5-VL videos, so 24 fps is assumed.

    Here the frame rate that comes with a clip decides the seconds between its temporal patches, to the millisecond: a
    float32, which it is elsewhere, would put some patches a position off.
    """
    info_class, processor_class = module.Qwen2_5_VLProcessingInfo, module.Qwen2_5_VLMultiModalProcessor
    get_data_parser, call = info_class.get_data_parser, processor_class._call_hf_processor

    def get_data_parser_with_metadata(self):
        parser = get_data_parser(self)
        parse = parser._get_video_with_metadata

        def _get_video_with_metadata(video):
            frames, metadata = parse(video)
            return frames, metadata or {}  # the dummy clips of memory profiling have none

        parser.video_needs_metadata, parser._get_video_with_metadata = True, _get_video_with_metadata
        return parser

    def _call_hf_processor(self, prompt, mm_data, mm_kwargs, tok_kwargs):
        import torch

        clips = [clip if isinstance(clip, tuple) else (clip, {}) for clip in mm_data.get("videos", ())]
        if clips:
            mm_data = {**mm_data, "videos": [frames for frames, _ in clips]}
        out = call(self, prompt, mm_data, mm_kwargs, tok_kwargs)
        for place, (frames, metadata) in enumerate(clips):
            if metadata:
                fps = len(frames) / metadata["total_num_frames"] * metadata["fps"]
                out["second_per_grid_ts"] = torch.as_tensor(out["second_per_grid_ts"], dtype=torch.float64)
                temporal_patch_size = self.info.get_hf_config().vision_config.temporal_patch_size
                out["second_per_grid_ts"][place] = round(temporal_patch_size / fps, 3)
        return out

    info_class.get_data_parser = get_data_parser_with_metadata
    processor_class._call_hf_processor = _call_hf_processor


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

    The tower is trained all the same, without a word. Here `model.override_config.freeze_vision_tower` freezes it.
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
    """verl 0.9.1, utils/tracking.py:541: opens its metrics file anew, so that a resumed run loses what went before."""

    def __init__(self, project_name, experiment_name):
        self.project_name, self.experiment_name = project_name, experiment_name
        self.filepath = os.environ["VERL_FILE_LOGGER_PATH"]
        self.fp = open(self.filepath, "ab", buffering=0)

    module.FileLogger.__init__ = __init__


def one_place_holder_per_clip(module) -> None:
    """verl 0.9.1, workers/rollout/utils.py:93: leaves vLLM one place-holder per pair of frames of a Qwen3-VL clip.

    Its processor writes `<0.2 seconds><|vision_start|><|video_pad|>...<|vision_end|>` for each pair. vLLM makes all of
    that of one `<|vision_start|><|video_pad|><|vision_end|>`, and would do so for the first pair and keep the others.
    """
    dedup = module.qwen2_5_vl_dedup_image_tokens

    def without_seconds(ids, processor):
        """One place-holder per clip. The seconds within a clip rise, so that lower ones begin another."""
        pad = processor.video_token_id
        clip = [processor.vision_start_token_id, pad, processor.vision_end_token_id]
        kept, before, place = [], 0.0, 0
        while place < len(ids):
            if ids[place : place + 2] != clip[:2]:
                kept.append(ids[place])
                place += 1
                continue
            for length in range(1, min(len(kept), _TIME_TOKENS) + 1):
                if told := re.fullmatch(r"<([\d.]+) seconds>", processor.tokenizer.decode(kept[-length:])):
                    break
            else:
                raise ValueError("no seconds stand before a pair of frames: give the clip a line of its own")
            del kept[-length:]
            if kept[-3:] != clip or float(told[1]) <= before:
                kept += clip
            before = float(told[1])
            place = ids.index(clip[2], place) + 1
        return kept

    def qwen2_5_vl_dedup_image_tokens(prompt_ids, processor):
        if type(processor).__name__ == "Qwen3VLProcessor":
            prompt_ids = without_seconds(list(prompt_ids), processor)
        return dedup(prompt_ids, processor)

    module.qwen2_5_vl_dedup_image_tokens = qwen2_5_vl_dedup_image_tokens


def rows_without_media(module) -> None:
    """verl 0.9.1, models/transformers/qwen2_vl.py:393: crashes where no row of a micro-batch has a clip or an image.

    The rows that fill a filtered batch have none. A blank image then passes the vision tower, times 0, so that every
    rank gathers the same FSDP weights; but the tower's output is an object since transformers 5, and has no mean.
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
