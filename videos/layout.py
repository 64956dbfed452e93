"""How frames share a picture: side by side, under a caption, or as curves where there is no picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

GAP = 8
GROUND = (24, 24, 24)
INK = (235, 235, 235)
# Okabe and Ito's colours, told apart by colour-blind people too.
CURVES = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (86, 180, 233), (240, 228, 66))


def side_by_side(frames: Sequence[Array]) -> Array:
    """Join frames [H, W, 3] uint8 of one height from left to right, dark pixels between them.

    Raises PrefenvsError for frames of several heights.
    """
    heights = {frame.shape[0] for frame in frames}
    if len(heights) != 1:
        raise PrefenvsError(f"frames side by side have one height, these have {sorted(heights)}")
    between = np.full((frames[0].shape[0], GAP, 3), GROUND, np.uint8)
    parts = [part for frame in frames for part in (between, frame)]
    return np.concatenate(parts[1:], axis=1)


def grid(frames: Sequence[Array], columns: int) -> Array:
    """Put frames [H, W, 3] uint8 of one size into rows of `columns`, dark pixels between them; places left are dark.

    Raises PrefenvsError for frames of several sizes.
    """
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise PrefenvsError(
            f"frames in a grid have one size, these have {sorted(sizes)}: choose a pair, (width, height)"
        )
    height, width = frames[0].shape[:2]
    rows = -(-len(frames) // columns)
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), GROUND, np.uint8)
    for number, frame in enumerate(frames):
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = frame
    return canvas


def caption(frame: Array, text: str, lines: int = 1) -> Array:
    """Put a strip with `text` under a frame [H, W, 3]; it has room for at least `lines` lines of text."""
    strip = _strip(text, frame.shape[1], caption_size(frame.shape[0]), lines)
    return np.concatenate([frame, strip], axis=0)


def count_lines(texts: Sequence[str], width: int, height: int) -> int:
    """Return how many lines the longest of the captions takes under a frame of that size."""
    return max(len(_wrap(text, width, caption_size(height))) for text in texts)


def caption_size(height: int) -> int:
    """Letter size in pixels that suits frames of a height."""
    return max(11, round(height / 18))


def _wrap(text: str, width: int, size: int) -> list[str]:
    """Break a text at its spaces into lines that fit; a longer word stands alone on its line."""
    font = ImageFont.load_default(size)
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.append("")
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if lines[-1] and font.getlength(longer) > 0.96 * width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines


@lru_cache(maxsize=64)
def _strip(text: str, width: int, size: int, least: int) -> Array:
    """A strip [h, width, 3] with the text centred in it; the same for every frame, hence kept."""
    lines = _wrap(text, width, size)
    line_height = round(size * 1.35)
    strip = Image.new("RGB", (width, line_height * max(least, len(lines)) + size // 2), GROUND)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size)
    for row, line in enumerate(lines):
        draw.text((width / 2, size * 0.25 + (row + 0.5) * line_height), line, fill=INK, font=font, anchor="mm")
    return np.asarray(strip)


def curves(observations: Array, steps: Array, width: int, height: int) -> Iterator[Array]:
    """Draw observations [T, o] as curves over time; yield a frame [H, W, 3] uint8 with a cursor at each step [n].

    Each entry is scaled to its own range, so that the picture shows change and not amount.
    """
    length, entries = observations.shape
    canvas = Image.new("RGB", (2 * width, 2 * height), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    low, span = observations.min(axis=0), np.ptp(observations, axis=0)
    level = (observations - low) / np.where(span > 0, span, 1.0)
    # One band per entry, the first on top; drawn at double size and halved, for smooth lines.
    band = 2 * height / entries
    across = np.linspace(0.02, 0.98, max(length, 2))[:length] * 2 * width
    for entry in range(entries):
        down = band * (entry + 0.9 - 0.8 * level[:, entry])
        points = [(float(x), float(y)) for x, y in zip(across, down, strict=True)]
        draw.line(points, fill=CURVES[entry % len(CURVES)], width=3)
    still = np.asarray(canvas.resize((width, height), Image.Resampling.BOX))
    for column in np.minimum(np.round(across[steps] / 2).astype(int), width - 1):
        frame = still.copy()
        frame[:, column] = 0
        yield frame
