"""Pictures scaled into frames of one size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from prefenvs.segments import Array


def fit(picture: Array, size: tuple[int, int]) -> Array:
    """Scale a picture into a frame of `size` (width, height), centred on a ground of its corner's colour."""
    if picture.shape[1::-1] == size:
        return picture
    scale = min(size[0] / picture.shape[1], size[1] / picture.shape[0])
    width, height = (
        max(1, min(side, round(own * scale))) for own, side in zip(picture.shape[1::-1], size, strict=True)
    )
    frame = Image.new("RGB", size, tuple(int(value) for value in picture[0, 0]))
    smaller = Image.fromarray(picture).resize(
        (width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.LANCZOS
    )
    frame.paste(smaller, ((size[0] - width) // 2, (size[1] - height) // 2))
    return np.asarray(frame)
