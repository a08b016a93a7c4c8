"""One pass of the vision tower for all that a batch shows, for the patches of transformers and verl.

Both send the images of a batch through the tower, and then its videos. Under FSDP and ZeRO-3 the ranks gather the
weights of each of its blocks together: a rank whose batch has both kinds waits for ever for one whose batch has one
of them (hiyouga/EasyR1, issue 432). Here images and videos go through together, once on every rank.
"""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any


def in_one_pass(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a model with `visual` that takes the pixels of images and of videos, and calls it for each."""
    if hasattr(function, "one_pass"):  # patched before, and a second time it would look for the images twice
        return function
    parameters = signature(function)

    @wraps(function)
    def with_one_pass(model: Any, *args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(model, *args, **kwargs).arguments
        images, videos = given.get("pixel_values"), given.get("pixel_values_videos")
        if images is None or videos is None:
            return function(model, *args, **kwargs)
        grids = given["image_grid_thw"], given["video_grid_thw"]
        model.__dict__["visual"] = _Parts(model.visual, (images, videos), grids)  # before the submodule of that name
        try:
            return function(model, *args, **kwargs)
        finally:
            del model.__dict__["visual"]

    with_one_pass.one_pass = True  # type: ignore[attr-defined]
    return with_one_pass


class _Parts:
    """Stands for the tower: its first call gives what the tower makes of the images, the second that of the videos."""

    def __init__(self, visual: Any, pixels: tuple[Any, Any], grids: tuple[Any, Any]) -> None:
        self._visual, self._pixels, self._grids = visual, pixels, grids
        self._output: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._visual, name)

    def __call__(self, pixels: Any, grid_thw: Any, **kwargs: Any) -> Any:
        import torch

        images = self._output is None
        if images:
            joined = torch.cat([part.to(pixels) for part in self._pixels])
            self._output = self._visual(joined, grid_thw=torch.cat(self._grids), **kwargs)
        merged = int(self._grids[0].prod(-1).sum()) // self._visual.spatial_merge_size**2
        part = slice(None, merged) if images else slice(merged, None)
        chosen = {"pooler_output": self._output.pooler_output[part]}
        if deepstack := getattr(self._output, "deepstack_features", None):
            chosen["deepstack_features"] = [features[part] for features in deepstack]
        return type(self._output)(**chosen)
