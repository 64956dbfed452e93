"""Boards of the delivery gridworld: where things stand, and what each move does and is worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

FEATURES = ("road", "brick", "coin", "roadblock", "sheep", "destination")
REWARDS = (-1.0, -2.0, 1.0, -1.0, -50.0, 50.0)
"""Knox et al.'s rewards of the features."""
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Actions 0 to 3: up, down, left, right, as changes of row and column."""
GLYPHS = ".:cCrRSD#"
"""Road, brick; coin on road, on brick; roadblock on road, on brick; sheep, destination, house."""
SIZE = 10
FIRST_RANDOM = 1000
"""Boards with this number and above are generated from their number."""

_ON_BRICK, _COIN, _BLOCK, _TERMINAL, _HOUSE = ":CR", "cC", "rR", "SD", "#"


@dataclass(frozen=True)
class Board:
    """A board of H x W cells, written as one string per row with the characters of `GLYPHS`.

    Cells are numbered row by row, C = H * W. Sheep and destinations end the episode. A move into a house or over the
    edge leaves the agent where it is, and costs that cell's surface but never its coin or roadblock. Coins and
    roadblocks stay. A move into a terminal cell is worth that cell's feature alone.
    """

    rows: tuple[str, ...]
    number: int = -1

    def __post_init__(self) -> None:
        if not self.rows or len({len(row) for row in self.rows}) != 1 or not self.rows[0]:
            raise PrefenvsError(
                f"board {self.number}: rows must be of one length, got {[len(row) for row in self.rows]}"
            )
        unknown = sorted(set("".join(self.rows)) - set(GLYPHS))
        if unknown:
            raise PrefenvsError(f"board {self.number}: unknown characters {''.join(unknown)!r}, known are {GLYPHS!r}")
        if not self.reachable.all():
            raise PrefenvsError(f"board {self.number}: some cells cannot reach a destination, so have no best delivery")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows), len(self.rows[0])

    @cached_property
    def glyphs(self) -> Array:
        """[C] one character for each cell."""
        return np.array(list("".join(self.rows)))

    def _is(self, glyphs: str) -> Array:
        return np.isin(self.glyphs, list(glyphs))

    @cached_property
    def terminal(self) -> Array:
        """[C] bool, cells that end the episode."""
        return self._is(_TERMINAL)

    @cached_property
    def starts(self) -> Array:
        """Numbers of the cells where an episode may begin: all but houses and terminal cells."""
        return np.flatnonzero(~self._is(_TERMINAL + _HOUSE))

    @cached_property
    def next_cells(self) -> Array:
        """[C, 4] cell after each move; terminal cells and houses lead to themselves."""
        height, width = self.shape
        row, column = np.divmod(np.arange(height * width)[:, None], width)
        moved_row, moved_column = row + np.array(MOVES)[:, 0], column + np.array(MOVES)[:, 1]
        inside = (moved_row >= 0) & (moved_row < height) & (moved_column >= 0) & (moved_column < width)
        target = np.where(inside, moved_row * width + moved_column, 0)
        stuck = ~inside | self._is(_HOUSE)[target] | self._is(_TERMINAL + _HOUSE)[:, None]
        after: Array = np.where(stuck, np.arange(height * width)[:, None], target)
        return after

    @cached_property
    def features(self) -> Array:
        """[C, 4, 6] float64, `FEATURES` of each move: 0 or 1, and all 0 in terminal cells, where nothing moves."""
        glyphs = self.glyphs
        entered = np.stack(
            [
                self._is("." + _COIN[0] + _BLOCK[0]),
                self._is(_ON_BRICK),
                self._is(_COIN),
                self._is(_BLOCK),
                glyphs == "S",
                glyphs == "D",
            ],
            axis=-1,
        ).astype(np.float64)
        moves = entered[self.next_cells]
        bumped = self.next_cells == np.arange(len(glyphs))[:, None]
        moves[bumped, 2:4] = 0.0
        moves[self.terminal] = 0.0
        return moves

    @cached_property
    def rewards(self) -> Array:
        """[C, 4] true reward of each move."""
        worth: Array = self.features @ np.array(REWARDS)
        return worth

    @cached_property
    def observations(self) -> Array:
        """[C, C + 24] float32: one-hot cell, then `features` of the four moves from there, up to right."""
        cells = len(self.glyphs)
        return np.hstack([np.eye(cells), self.features.reshape(cells, -1)]).astype(np.float32)

    @cached_property
    def map(self) -> Array:
        """[C * 9] float32, the character of each cell as one-hot over `GLYPHS`: what an agent needs on a new board."""
        letters: Array = self.glyphs[:, None] == np.array(list(GLYPHS))
        return letters.astype(np.float32).ravel()

    @cached_property
    def reachable(self) -> Array:
        """Bool for each of `starts`, whether a destination can be reached from there."""
        reached = self.glyphs == "D"
        for _ in range(len(reached)):
            grown = reached | reached[self.next_cells].any(axis=1)
            if np.array_equal(grown, reached):
                break
            reached = grown
        return reached[self.starts] if len(self.starts) else np.zeros(1, bool)


BOARDS = (
    # The short way leads along brick and past the sheep.
    Board(
        (
            "..........",
            ".##..c.##.",
            ".#:::::.#.",
            "..:.S.:...",
            "..:.D.:.r.",
            "..:...:...",
            ".#:::::.#.",
            ".##.c..##.",
            "....r.....",
            "..........",
        ),
        0,
    ),
    # Two destinations; coins pave the way to the far one.
    Board(
        (
            "D...#.....",
            "....#.cc..",
            ".SS...##c.",
            ".S..:::#c.",
            "..r.:S:#c.",
            ".##.:::#c.",
            ".#.....#c.",
            "...rr...c.",
            "::::::::#.",
            "::::::::#D",
        ),
        1,
    ),
    # A fence of sheep with a gap of brick and roadblocks.
    Board(
        (
            "..........",
            ".c....c...",
            "..##..##..",
            "..##..##..",
            "SSSSRSSSSS",
            "....:.....",
            ".##.:..##.",
            ".#..:...#.",
            "c...:....D",
            "..........",
        ),
        2,
    ),
    # A brick square, rings of houses, sheep at the corners.
    Board(
        (
            "S...r....S",
            ".####.##..",
            ".#:::::#.c",
            ".#:C:C:#..",
            "..::D::.r.",
            ".#:C:C:#..",
            ".#:::::#.c",
            ".###.###..",
            "....r.....",
            "S...cc...S",
        ),
        3,
    ),
    # The board of the study with people (Knox et al. 2022).
    Board(
        (
            "..r.......",
            "....c....:",
            "..S....:::",
            "c.r.#SS::.",
            "::........",
            ":.c.......",
            ":#.Sr#....",
            ".c.....C::",
            "..r....::D",
            "......r..c",
        ),
        4,
    ),
)


@lru_cache(maxsize=256)
def find_board(number: int) -> Board:
    """Return a board by its number: 0 to 3 are drawn by hand, 4 is Knox et al.'s, from 1000 on random.

    Raises PrefenvsError for other numbers.
    """
    if 0 <= number < len(BOARDS):
        return BOARDS[number]
    if number < FIRST_RANDOM:
        raise PrefenvsError(
            f"there is no board {number}: choose 0 to {len(BOARDS) - 1}, or {FIRST_RANDOM} and above for a random one"
        )
    return random_board(np.random.default_rng(number), number=number)


def random_board(rng: np.random.Generator, height: int = SIZE, width: int = SIZE, number: int = -1) -> Board:
    """Draw a board on which every cell can reach a destination.

    Shares of cells: houses 12 %, brick 30 % of the rest, coins and roadblocks 6 % each, sheep 5 %; one destination, or
    two with a chance of a third.
    """
    cells = height * width
    while True:
        brick = rng.random(cells) < 0.3
        glyphs = np.where(brick, ":", ".")
        kind = rng.random(cells)
        glyphs = np.where(kind < 0.06, np.where(brick, "C", "c"), glyphs)
        glyphs = np.where((kind >= 0.06) & (kind < 0.12), np.where(brick, "R", "r"), glyphs)
        glyphs = np.where((kind >= 0.12) & (kind < 0.24), "#", glyphs)
        special = rng.permutation(cells)
        sheep, destinations = max(1, round(0.05 * cells)), 1 + int(rng.random() < 1 / 3)
        glyphs[special[:sheep]] = "S"
        glyphs[special[sheep : sheep + destinations]] = "D"
        try:
            return Board(tuple("".join(row) for row in glyphs.reshape(height, width)), number)
        except PrefenvsError:
            continue
