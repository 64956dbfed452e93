"""Answers of people about segments of a delivery board, from a file of one row a pair."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from prefenvs.envs.delivery.board import Board, find_board
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment

COLUMNS = ("row_1", "column_1", "moves_1", "row_2", "column_2", "moves_2", "answer")
ANSWERS = {"first": (1.0, 0.0), "second": (0.0, 1.0), "same": (0.5, 0.5), "skip": None}
LETTERS = "udlr"
"""Moves up, down, left and right."""


def read_board(given: str) -> Board:
    """Return a board by its number, or from a text file with one row of the board per line.

    Raises PrefenvsError for an unknown number, a missing file, and text that is no board.
    """
    if given.isdigit():
        return find_board(int(given))
    try:
        return Board(tuple(line.strip() for line in Path(given).read_text().splitlines() if line.strip()))
    except FileNotFoundError:
        raise PrefenvsError(f"--board {given}: there is no such file; give one, or the number of a board") from None


def read_answers(path: Path, board: Board) -> list[Preference]:
    """Return the answers of a CSV file with `COLUMNS`: starts counted from 0 at the top left, moves as `uurl`.

    answer: first, second, same or skip; a column annotator may follow. Rewards and states are the board's own; in a
    terminal cell the van stays. Raises PrefenvsError that names the line for anything else.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise PrefenvsError(f"there is no file of answers at {path}") from None
    missing = [name for name in COLUMNS if rows and name not in rows[0]]
    if missing or not rows:
        raise PrefenvsError(f"{path} needs a header and rows with {', '.join(COLUMNS)}; missing: {missing or 'rows'}")
    found = []
    for number, row in enumerate(rows, 2):
        where = f"{path} line {number}"
        if row["answer"] not in ANSWERS:
            raise PrefenvsError(f"{where}: the answer is {', '.join(ANSWERS)}, got {row['answer']!r}")
        pair = tuple(_read_segment(where, board, row, side) for side in ("1", "2"))
        chances = ANSWERS[row["answer"]]
        who = row.get("annotator") or "person"
        found.append(Preference(Query(pair), None if chances is None else np.array(chances), who, "answers"))
    return found


def _read_segment(where: str, board: Board, row: dict[str, str], side: str) -> Segment:
    height, width = board.shape
    place, moves = (row[f"row_{side}"], row[f"column_{side}"]), row[f"moves_{side}"].strip().lower()
    if not all(text.strip().isdigit() for text in place):
        raise PrefenvsError(f"{where}: row and column are whole numbers from 0, got {place[0]!r} and {place[1]!r}")
    top, left = (int(text) for text in place)
    if top >= height or left >= width or board.glyphs[top * width + left] == "#":
        raise PrefenvsError(f"{where}: no van can stand at row {top}, column {left} of a {height} x {width} board")
    if not moves or set(moves) - set(LETTERS):
        raise PrefenvsError(f"{where}: moves are letters of {LETTERS}, got {moves!r}")
    cell, cells, actions = top * width + left, [], [LETTERS.index(letter) for letter in moves]
    for action in actions:
        cells.append(cell)
        cell = int(board.next_cells[cell, action])
    states = np.array([[board.number, *divmod(at, width)] for at in cells], np.float64)
    rewards = board.rewards[cells, actions]
    return Segment(board.observations[cells], np.eye(4, dtype=np.float32)[actions], rewards, states, task="Delivery-v0")
