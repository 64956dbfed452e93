"""Delivery: the gridworld in which regret was proposed as a model of human preference."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from prefenvs.envs.delivery.board import FIRST_RANDOM, GLYPHS, MOVES, SIZE, Board, find_board
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array


class Delivery(gymnasium.Env[Array, np.int64]):
    """Drive a van over a 10 x 10 board to a destination (Knox et al. 2022, "Models of human preference").

    Actions: 0 up, 1 down, 2 left, 3 right. Rewards: -1 for a move on road, -2 on brick, +1 more for a coin and -1 more
    for a roadblock on the cell entered; entering a sheep gives -50 and a destination +50, and both end the episode.
    Houses and edges stop a move, which then costs the surface below the van. Coins and roadblocks stay.

    Observations: 124 numbers, one-hot cell (100), then for each move, up to right, the six features road, brick, coin,
    roadblock, sheep, destination of what it leads to (24). The reward is linear in the features of the chosen move, and
    what they are worth is not told. With a new board in every episode, one-hot characters of all cells follow (900).

    Episodes begin on a random free cell, which `reset(options={"start": (row, column)})` overrides. They have no time
    limit of their own. `info["success"]`: whether the van stands at a destination.

    state: float64 [3], number of the board, row and column; a state may be written to continue from there.
    """

    def __init__(self, board: int | None = 0, render_mode: str | None = None) -> None:
        """`board`: 0 to 3 are drawn by hand, 4 is the study's, from 1000 on random; None draws one for each episode."""
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
        if render_mode not in (None, "rgb_array"):
            raise PrefenvsError(f"Delivery draws for render_mode='rgb_array' only, got {render_mode!r}")
        self.render_mode = render_mode
        self.board_number = board
        if board is not None:
            find_board(board)
        size = SIZE * SIZE * (1 + (len(GLYPHS) if board is None else 0)) + 24
        self.observation_space = spaces.Box(0.0, 1.0, (size,), np.float32)
        self.action_space = spaces.Discrete(len(MOVES))
        self.state: Array | None = None

    @property
    def board(self) -> Board:
        """The board of the present episode."""
        return find_board(int(self._require_state()[0]))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; raises PrefenvsError for a start that is no free cell."""
        super().reset(seed=seed)
        number = self.board_number
        if number is None:
            number = int(self.np_random.integers(FIRST_RANDOM, 2**31))
        starts = find_board(number).starts
        row, column = divmod(int(self.np_random.choice(starts)), SIZE)
        if options and "start" in options:
            row, column = options["start"]
            inside = 0 <= row < SIZE and 0 <= column < SIZE
            if not inside or row * SIZE + column not in starts:
                raise PrefenvsError(
                    f"an episode cannot start at {options['start']}: board {number} has no free cell there"
                )
        self.state = np.array([number, row, column], np.float64)
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Move by one cell; raises PrefenvsError for an action other than 0 to 3, and before the first reset."""
        if not self.action_space.contains(action):
            raise PrefenvsError(f"Delivery's actions are 0 up, 1 down, 2 left, 3 right; got {action!r}")
        state, board, cell = self._require_state(), self.board, self._cell()
        after = int(board.next_cells[cell, action])
        self.state = np.array([state[0], *divmod(after, SIZE)], np.float64)
        return self._observation(), float(board.rewards[cell, action]), bool(board.terminal[after]), False, self._info()

    def render(self) -> Array | None:
        """Return a picture [256, 256, 3] uint8 of the board and the van; None without a render mode."""
        return draw(self._require_state()) if self.render_mode == "rgb_array" else None

    def _require_state(self) -> Array:
        if self.state is None:
            raise PrefenvsError("Delivery has no state yet: call reset() first")
        return self.state

    def _cell(self) -> int:
        _, row, column = self._require_state()
        return int(row) * SIZE + int(column)

    def _observation(self) -> Array:
        observation: Array = self.board.observations[self._cell()].copy()
        return observation if self.board_number is not None else np.concatenate([observation, self.board.map])

    def _info(self) -> dict[str, Any]:
        return {"success": bool(self.board.glyphs[self._cell()] == "D")}


def draw(state: Array) -> Array:
    """Return the picture [256, 256, 3] uint8 of a state of `Delivery`, which names its board."""
    from prefenvs.envs.delivery.drawing import draw_board

    number, row, column = (int(value) for value in np.asarray(state).ravel())
    return draw_board(find_board(number), row, column)
