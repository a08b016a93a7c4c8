"""Attention over the windows of a clip in batches, for the patches of transformers.

Without flash-attn each window, or frame, of a vision tower is one attention call: 21,632 in a pass of Qwen2.5-VL over a
clip of 64 frames. Windows of one length are one batch, and give the same numbers.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

ONE_BY_ONE = "CAMREASONER_WINDOWS_ONE_BY_ONE"  # set where model.batched_windows is false


def in_batches(forward: Callable[..., Any], module: Any) -> Callable[..., Any]:
    """The `forward` of a tower's attention with one call for all windows of a length."""

    @wraps(forward)
    def batched(
        self: Any,
        hidden_states: Any,
        cu_seqlens: Any,
        rotary_pos_emb: Any = None,
        position_embeddings: Any = None,
        **kwargs: Any,
    ) -> Any:
        if module.is_flash_attention_requested(self.config) or os.environ.get(ONE_BY_ONE):
            return forward(self, hidden_states, cu_seqlens, rotary_pos_emb, position_embeddings, **kwargs)
        import torch

        attend = module.ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, module.eager_attention_forward
        )
        q, k, v = self.qkv(hidden_states).view(len(hidden_states), 3, self.num_heads, -1).unbind(1)
        q, k = module.apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        starts, lengths = cu_seqlens[:-1], cu_seqlens.diff()
        attended, places = [], []
        for length in lengths.unique().tolist():
            place = (starts[lengths == length, None] + torch.arange(length, device=starts.device)).flatten()
            windows = [part[place].view(-1, length, *part.shape[1:]).transpose(1, 2) for part in (q, k, v)]
            dropout = self.attention_dropout if self.training else 0.0
            out, _ = attend(
                self, *windows, attention_mask=None, scaling=self.scaling, dropout=dropout, is_causal=False, **kwargs
            )
            attended.append(out.reshape(len(place), -1))
            places.append(place)
        return self.proj(torch.cat(attended)[torch.cat(places).argsort()])

    return batched
