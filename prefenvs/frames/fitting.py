"""Pictures scaled into frames of one size."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from PIL import Image

from prefenvs.errors import PrefenvsError, one_line
from prefenvs.segments import Array

# pygame draws polygons in a buffer that all threads share, whatever they draw on: now and then a frame was another's.
_turn = threading.RLock()


def draw(env: Any, name: str) -> Array:
    """Return what an environment draws of itself, [H, W, 3] uint8 without the channel of opacity that some add.

    Of the threads of a process one draws at a time.

    Raises PrefenvsError, which calls it by this name, for one that fails or returns anything else.
    """
    try:
        with _turn:
            picture: object = env.render()
    except NotImplementedError:
        picture = None
    except Exception as error:  # whatever a user's code raises
        raise PrefenvsError(f"{name}: render() fails ({one_line(error)})") from error
    if not isinstance(picture, np.ndarray):
        gave = f"render() gave {type(picture).__name__}"
    elif picture.ndim == 3 and picture.shape[2] in (3, 4) and picture.dtype == np.uint8 and picture.size:
        return np.ascontiguousarray(picture[..., :3])
    else:
        gave = f"render() gave {list(picture.shape)} {picture.dtype}"
    raise PrefenvsError(
        f"{name} draws no picture of itself, {gave}: let its class take render_mode='rgb_array', and render return "
        "[H, W, 3] uint8"
    )


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
