"""Patches of transformers."""

import itertools

from launch.engines.patches.hooks import after_import
from launch.engines.patches.one_pass import in_one_pass
from launch.engines.patches.windows import in_batches


def apply() -> None:
    """Run every patch after the import of its module."""
    after_import("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")(mrope_positions)
    after_import("transformers.models.qwen2_5_vl.processing_qwen2_5_vl")(seconds_per_grid_for_verl)
    for family in ("qwen2_5_vl", "qwen3_vl", "qwen3_5"):
        after_import(f"transformers.models.{family}.modeling_{family}")(images_and_videos_in_one_pass)
        after_import(f"transformers.models.{family}.modeling_{family}")(windows_in_batches)


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
        """M-RoPE positions (3, batch, length) and, per row, the offset (batch, 1) at which generation continues."""
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
                while left > 0:  # one run may hold two adjacent clips
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


def images_and_videos_in_one_pass(module) -> None:
    """transformers 5.9.0, modeling_qwen2_5_vl.py:1255 and :1263: two passes where a batch has both; see `one_pass`."""
    (name,) = (name for name in ("Qwen2_5_VLModel", "Qwen3VLModel", "Qwen3_5Model") if hasattr(module, name))
    model = getattr(module, name)
    model.forward = in_one_pass(model.forward)


def windows_in_batches(module) -> None:
    """transformers 5.9.0, modeling_qwen2_5_vl.py:248: an attention call for each window of the tower; see `windows`."""
    (name,) = (name for name in vars(module) if name.endswith("VisionAttention"))
    attention = getattr(module, name)
    attention.forward = in_batches(attention.forward, module)


def seconds_per_grid_for_verl(module) -> None:
    """verl 0.9.1, agent_loop.py:948: asks the processor for `get_rope_index_kwargs`, which no processor defines.

    Without it the trainer takes one second between temporal patches, whatever the clip's frame rate.
    """

    def get_rope_index_kwargs(self, multi_modal_inputs):
        seconds = multi_modal_inputs.get("second_per_grid_ts")
        return {} if seconds is None else {"second_per_grid_ts": seconds}

    module.Qwen2_5_VLProcessor.get_rope_index_kwargs = get_rope_index_kwargs
