"""Images as users have them, made on the spot."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_image(
    path: Path, width: int = 150, height: int = 90, seed: int = 0, mode: str = "RGB", **options: Any
) -> Path:
    """Coarse noise, in a format by the file's ending."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 10, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).save(path, **options)
    return path
