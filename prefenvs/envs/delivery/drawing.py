"""Pictures of delivery boards, for people: streets, houses, coins, sheep, the flag and the van."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from prefenvs.envs.delivery.board import Board
from prefenvs.segments import Array

PIXELS = 256
_FINE = 4
"""Everything is painted this many times larger and scaled down, which smooths the edges."""

Pen = ImageDraw.ImageDraw
Colour = tuple[int, int, int]

_GROUND: Colour = (214, 218, 222)
_ROAD: Colour = (250, 250, 248)
_BRICK: Colour = (222, 160, 130)
_MORTAR: Colour = (196, 132, 104)
_GRASS: Colour = (176, 212, 152)


def draw_board(board: Board, row: int, column: int) -> Array:
    """Return a picture [256, 256, 3] uint8 of a board with the van at a cell."""
    frame = _ground(board).copy()
    van, mask = _van(_cell_pixels(board))
    top, left = _corner(board, row, column)
    frame.paste(van, (left, top), mask)
    return np.asarray(frame)


def _cell_pixels(board: Board) -> int:
    return (PIXELS - 8) // max(board.shape)


def _corner(board: Board, row: int, column: int) -> tuple[int, int]:
    side = _cell_pixels(board)
    height, width = board.shape
    return (PIXELS - side * height) // 2 + row * side, (PIXELS - side * width) // 2 + column * side


@lru_cache(maxsize=64)
def _ground(board: Board) -> Image.Image:
    """The board without the van."""
    side = _cell_pixels(board)
    frame = Image.new("RGB", (PIXELS, PIXELS), _GROUND)
    for row, glyphs in enumerate(board.rows):
        for column, glyph in enumerate(glyphs):
            top, left = _corner(board, row, column)
            frame.paste(_tile(glyph, side), (left, top))
    return frame


@lru_cache(maxsize=256)
def _tile(glyph: str, side: int) -> Image.Image:
    """One cell with what stands on it."""
    unit = side * _FINE
    ground = _BRICK if glyph in ":CR" else _GRASS if glyph in "SD#" else _ROAD
    image = Image.new("RGB", (unit, unit), ground)
    pen = ImageDraw.Draw(image)
    if glyph in ":CR":
        _bricks(pen, unit)
    if glyph in _THINGS:
        _THINGS[glyph](pen, unit)
    # A thin line between cells.
    pen.rectangle((0, 0, unit - 1, unit - 1), outline=_GROUND, width=_FINE // 2)
    return image.resize((side, side), Image.Resampling.BOX)


def _bricks(pen: Pen, unit: int) -> None:
    for course in range(4):
        y = course * unit // 4
        pen.line((0, y, unit, y), fill=_MORTAR, width=_FINE)
        for half in range(3):
            x = half * unit // 2 + (course % 2) * unit // 4
            pen.line((x, y, x, y + unit // 4), fill=_MORTAR, width=_FINE)


def _coin(pen: Pen, unit: int) -> None:
    a, b = 0.22 * unit, 0.78 * unit
    pen.ellipse((a, a, b, b), fill=(250, 200, 40), outline=(176, 128, 0), width=_FINE)
    pen.rectangle((0.46 * unit, 0.36 * unit, 0.54 * unit, 0.64 * unit), fill=(176, 128, 0))


def _roadblock(pen: Pen, unit: int) -> None:
    for x in (0.22, 0.70):
        pen.rectangle((x * unit, 0.3 * unit, (x + 0.08) * unit, 0.85 * unit), fill=(90, 90, 90))
    pen.rectangle((0.1 * unit, 0.32 * unit, 0.9 * unit, 0.62 * unit), fill=(235, 110, 30))
    for x in (0.2, 0.5, 0.8):
        low, high = (x - 0.08) * unit, x * unit
        pen.polygon(
            (
                (low, 0.62 * unit),
                (low + 0.1 * unit, 0.62 * unit),
                (high + 0.1 * unit, 0.32 * unit),
                (high, 0.32 * unit),
            ),
            fill=(255, 255, 255),
        )
    pen.rectangle((0.1 * unit, 0.32 * unit, 0.9 * unit, 0.62 * unit), outline=(90, 90, 90), width=_FINE // 2)


def _sheep(pen: Pen, unit: int) -> None:
    for x in (0.36, 0.56):
        pen.rectangle((x * unit, 0.6 * unit, (x + 0.07) * unit, 0.86 * unit), fill=(50, 50, 50))
    for x, y in ((0.32, 0.5), (0.46, 0.42), (0.6, 0.5), (0.46, 0.58)):
        r = 0.17
        pen.ellipse(((x - r) * unit, (y - r) * unit, (x + r) * unit, (y + r) * unit), fill=(255, 255, 255))
    pen.ellipse((0.64 * unit, 0.26 * unit, 0.9 * unit, 0.56 * unit), fill=(50, 50, 50))


def _flag(pen: Pen, unit: int) -> None:
    pen.rectangle((0.28 * unit, 0.12 * unit, 0.36 * unit, 0.9 * unit), fill=(70, 70, 70))
    pen.polygon(
        ((0.36 * unit, 0.12 * unit), (0.88 * unit, 0.32 * unit), (0.36 * unit, 0.54 * unit)), fill=(214, 30, 44)
    )


def _house(pen: Pen, unit: int) -> None:
    pen.rectangle((0.18 * unit, 0.46 * unit, 0.82 * unit, 0.88 * unit), fill=(232, 220, 190))
    pen.polygon(((0.08 * unit, 0.48 * unit), (0.5 * unit, 0.1 * unit), (0.92 * unit, 0.48 * unit)), fill=(92, 76, 88))
    pen.rectangle((0.42 * unit, 0.62 * unit, 0.58 * unit, 0.88 * unit), fill=(92, 76, 88))


_THINGS: dict[str, Callable[[Pen, int], None]] = {
    "c": _coin,
    "C": _coin,
    "r": _roadblock,
    "R": _roadblock,
    "S": _sheep,
    "D": _flag,
    "#": _house,
}


@lru_cache(maxsize=16)
def _van(side: int) -> tuple[Image.Image, Image.Image]:
    """The van and its mask; the rim of the cell stays free, so that what lies below can be told."""
    unit = side * _FINE
    image, mask = Image.new("RGB", (unit, unit), (24, 84, 190)), Image.new("L", (unit, unit), 0)
    pen, stencil = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    body = (0.1 * unit, 0.3 * unit, 0.9 * unit, 0.72 * unit)
    stencil.rounded_rectangle(body, radius=0.1 * unit, fill=255)
    pen.rectangle((0.66 * unit, 0.37 * unit, 0.84 * unit, 0.52 * unit), fill=(200, 230, 255))
    for x in (0.2, 0.62):
        wheel = (x * unit, 0.62 * unit, (x + 0.2) * unit, 0.82 * unit)
        stencil.ellipse(wheel, fill=255)
        pen.ellipse(wheel, fill=(20, 20, 20))
    small = (side, side)
    return image.resize(small, Image.Resampling.BOX), mask.resize(small, Image.Resampling.BOX)
