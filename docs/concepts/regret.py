"""Draw two segments of Delivery that partial return and regret order differently: `python docs/concepts/regret.py`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from prefenvs.envs.delivery.board import SIZE, find_board
from prefenvs.envs.delivery.drawing import draw_board
from prefenvs.envs.delivery.values import BoardValues

BOARD = find_board(4)
SEGMENTS = {"A, to the flag over brick": ((5, 7), "drrd"), "B, away from it by road": ((7, 6), "llll")}


class Walk(NamedTuple):
    """Cells of a segment (row, column), from its start on, the sum of its rewards, and its regret."""

    cells: list[tuple[int, int]]
    partial_return: float
    regret: float


def walk(start: tuple[int, int], moves: str) -> Walk:
    """Return what happens on the board; moves are letters of "udlr"."""
    values, cell, earned, lost = BoardValues(BOARD), start[0] * SIZE + start[1], 0.0, 0.0
    cells = [start]
    for action in map("udlr".index, moves):
        earned += float(BOARD.rewards[cell, action])
        lost -= float(values.a[cell, action])
        cell = int(BOARD.next_cells[cell, action])
        cells.append(divmod(cell, SIZE))
    return Walk(cells, earned, lost)


def draw(path: Path) -> None:
    """Draw both segments beside each other."""
    figure, axes = plt.subplots(1, 2, figsize=(7, 4))
    for panel, (name, (start, moves)) in zip(axes, SEGMENTS.items(), strict=True):
        done = walk(start, moves)
        frame = draw_board(BOARD, *start)
        side, margin = (frame.shape[0] - 8) // SIZE, (frame.shape[0] - (frame.shape[0] - 8) // SIZE * SIZE) // 2
        ends = [(margin + (column + 0.5) * side, margin + (row + 0.5) * side) for row, column in done.cells]
        panel.imshow(frame)
        panel.plot(*zip(*ends, strict=True), color="#1854be", linewidth=3)
        panel.annotate("", ends[-1], ends[-2], arrowprops={"arrowstyle": "->", "color": "#1854be", "lw": 3})
        panel.set_title(f"{name}\npartial return {done.partial_return:+.0f}, regret {done.regret:.0f}", fontsize=10)
        panel.axis("off")
    figure.savefig(path, dpi=100, bbox_inches="tight", pil_kwargs={"optimize": True})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
