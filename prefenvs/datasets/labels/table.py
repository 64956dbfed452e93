"""Tables of labels from elsewhere, a row for each answer, read as preferences over the segments of a data set."""

from __future__ import annotations

import datetime
import hashlib
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefenvs.datasets.labels.rows import Row, read_rows, selected
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.internal.file_sizes import size_limit
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array, Segment
from prefenvs.tasks import known_task

MEANINGS = {"first": 1.0, "second": 0.0, "tie": 0.5, "skip": None}
"""What a choice may mean, and the probability that the first segment is better."""
WORDS = {
    **dict.fromkeys(("first", "left", "a"), "first"),
    **dict.fromkeys(("second", "right", "b"), "second"),
    **dict.fromkeys(("tie", "equal", "same", "0.5", "-1"), "tie"),
    **dict.fromkeys(("skip", "skipped", "none", "unsure"), "skip"),
}
COLUMNS = (
    *(f"{name}_{side}" for side in (1, 2) for name in ("episode", "start", "length", "segment", "checksum")),
    *("length", "choice", "probability_1", "probability_2", "annotator", "oracle", "run", "time"),
    *("seconds", "shown", "task", "source"),
    *(f"{name}_{side}" for side in (1, 2) for name in ("observations", "actions")),
)
"""Columns that are read; others are left alone."""
ALIASES = {"created_at": "time", "lead_time": "seconds"}
"""Names that Label Studio gives to columns of ours."""


class Place(NamedTuple):
    """Where a segment lies: the position of its episode in the data, its first step, and how many steps it has."""

    episode: int
    start: int
    length: int


class _Refused(Exception):
    """Why a row is no label."""


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The labels of a file, and what its report tells.

    preferences: in the file's order, skips included; runs: the run of each, the file's name where no column tells it.
    rows: how many were read; refused: place and reason of each that is no label. repeated: labels that repeat an
    earlier one of the same annotator and pair, in either order; contradicted: those of them that were answered
    otherwise. meanings: what the file's numbers were taken for, such as {"1": "first"}.
    """

    path: Path
    preferences: list[Preference]
    runs: list[str]
    rows: int
    refused: tuple[tuple[str, str], ...] = ()
    repeated: int = 0
    contradicted: int = 0
    meanings: Mapping[str, str] | None = None

    def report(self) -> list[str]:
        """Return the report as lines: rows, answers, annotators, repetitions, and refused rows with their reasons."""
        skips = sum(one.skipped for one in self.preferences)
        first, second = (sum(one.best == side for one in self.preferences) for side in (0, 1))
        ties = len(self.preferences) - skips - first - second
        people = Counter(one.annotator for one in self.preferences)
        lines = [
            f"{self.path}: {self.rows} rows, {len(self.preferences)} labels, {len(self.refused)} rows refused",
            f"answers: {first} first, {second} second, {ties} ties, {skips} skips",
            "annotators: "
            + (", ".join(f"{name or '(no name)'} {count}" for name, count in people.most_common()) or "-"),
        ]
        if self.meanings:
            lines.append("choices: " + ", ".join(f"{word} is {what}" for word, what in sorted(self.meanings.items())))
        if self.repeated:
            lines.append(
                f"duplicates: {self.repeated} rows repeat a pair for its annotator, {self.contradicted} of them with "
                "another answer; a named annotator's last one stands"
            )
        return lines + [f"refused: {place}: {reason}" for place, reason in self.refused]

    def check(self) -> None:
        """Raise a PrefenvsError if a row was refused, or if there is no label."""
        if self.refused:
            place, reason = self.refused[0]
            others = f", as {len(self.refused) - 1} others are" if len(self.refused) > 1 else ""
            raise PrefenvsError(
                f"{self.path}, {place} is refused{others}: {reason}; `prefenvs labels import --out` keeps the others"
            )
        if not self.preferences:
            raise PrefenvsError(f"{self.path} holds no label")


def read_label_table(
    path: str | Path,
    dataset: OfflineDataset | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    choices: Mapping[str, str] | None = None,
    segments: str | Path | None = None,
    length: int | None = None,
    annotator: str = "",
    task: str = "",
    max_gib: float | None = None,
) -> LabelTable:
    """Read a CSV, JSON lines or Parquet file, an export of Label Studio, or labelled segments in .npz.

    dataset: what the segments are cut from; None where the file holds the segments themselves.
    columns: the file's names of our columns, such as {"choice": "winner"}. choices: what its words mean: first, second,
    tie or skip. segments: a table of id, episode and start (and length), for files that name segments by an id.
    length: steps of a segment where no column tells it, by default the task's own. annotator: who answered, where no
    column tells it; nobody by default, and then every answer stands. task: of segments that the file itself holds.
    max_gib: memory that its rows may take, 4 GiB by default.
    Rows that are no label are told in the result. Raises PrefenvsError for a file that cannot be read, that lacks the
    columns, or whose choices may mean one thing or another.
    """
    path = Path(path)
    with size_limit(max_gib):
        read = read_rows(path)
        known = None if segments is None else _read_places(Path(segments))
    rows = [_renamed(row, columns or {}) for row in read]
    _check_columns(path, read, rows, columns or {}, dataset)
    meanings = _meanings(path, rows, choices or {})
    if length is None and dataset is not None:
        about = known_task(dataset.task)
        length = None if about is None else about.segment_length
    names = {name for row in rows for name in row.cells}
    defaults = {"annotator": annotator, "oracle": "" if "oracle" in names else "human", "task": task}
    run, time = "" if "run" in names else path.stem, path.stat().st_mtime
    parser = _Parser(dataset, known, length, meanings, defaults, time)
    kept: list[tuple[int, Query | tuple[Place, Place]]] = []
    refused: dict[int, str] = {}
    for number, row in enumerate(rows):
        try:
            kept.append((number, parser.pair(row)))
        except _Refused as error:
            refused[number] = str(error)
    preferences, runs = [], []
    for (number, _), query in zip(kept, _cut(dataset, [pair for _, pair in kept]), strict=True):
        try:
            _check_content(rows[number], query)
            preferences.append(parser.preference(rows[number], query))
            runs.append(str(rows[number].cells.get("run", run)))
        except _Refused as error:
            refused[number] = str(error)
    repeated, contradicted = _count_repeated(preferences)
    told = {word: what for word, what in meanings.items() if word.lstrip("-").replace(".", "").isdigit()}
    in_order = tuple((rows[number].place, refused[number]) for number in sorted(refused))
    return LabelTable(path, preferences, runs, len(rows), in_order, repeated, contradicted, told)


def checksum(segment: Segment) -> str:
    """Return 16 hex digits of a segment's observations and actions as float32, by which labels know their data."""
    digest = hashlib.sha256()
    for array in (segment.observations, segment.actions):
        digest.update(np.ascontiguousarray(array, np.float32).tobytes())
    return digest.hexdigest()[:16]


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    cells = {ALIASES.get(name, name): value for name, value in row.cells.items()}
    return Row(row.place, cells | {ours: row.cells[theirs] for ours, theirs in columns.items() if theirs in row.cells})


def _check_columns(
    path: Path, read: Sequence[Row], rows: Sequence[Row], columns: Mapping[str, str], dataset: OfflineDataset | None
) -> None:
    """Raise a PrefenvsError where a file lacks what a label is made of."""
    if not rows:
        raise PrefenvsError(f"{path} holds no row")
    there = {name for row in read for name in row.cells}
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            near = near_matches(ours, COLUMNS)
            raise PrefenvsError(f"there is no column {ours!r} of labels: name one of {', '.join(COLUMNS)}.{near}")
        if theirs not in there:
            raise PrefenvsError(f"{path} has no column {theirs!r}: it has {', '.join(sorted(there))}")
    names = {name for row in rows for name in row.cells}
    renaming = f"{path} has the columns {', '.join(sorted(there))}: name its own by --columns OURS=THEIRS"
    if "probability" in names and not names & {"probability_1", "probability_2"}:
        raise PrefenvsError(
            f"{path} has the column 'probability', of either segment: say by --columns probability_1=probability that "
            "it is the first's, or by probability_2=probability the second's"
        )
    if not names & {"choice", "probability_1", "probability_2"}:
        raise PrefenvsError(f"a label has a choice, a probability_1 or a probability_2; {renaming}")
    if dataset is None:
        if "observations_1" not in names:
            raise PrefenvsError(f"{path} holds no segments of its own: name the data that it is about by --dataset")
    elif not (names & {"segment_1"} or {"episode_1", "start_1", "episode_2", "start_2"} <= names):
        raise PrefenvsError(f"a label names two segments by episode_1, start_1, episode_2, start_2; {renaming}")


def _meanings(path: Path, rows: Sequence[Row], given: Mapping[str, str]) -> dict[str, str]:
    """What each word of the choices means; raises PrefenvsError for numbers that may mean one thing or another."""
    for word, meaning in given.items():
        if meaning not in MEANINGS:
            raise PrefenvsError(f"the choice {word!r} is to mean {meaning!r}: choose one of {', '.join(MEANINGS)}")
    said = {word.lower(): meaning for word, meaning in given.items()}
    found = {_word(row.cells["choice"]) for row in rows if "choice" in row.cells}
    numbers = (found & {"0", "1", "2"}) - said.keys()
    if numbers in ({"1"}, {"0", "1", "2"}):
        if {"probability_1", "probability_2"} & {name for row in rows for name in row.cells}:
            return {word: meaning for word, meaning in {**WORDS, **said}.items() if word in found}
        raise PrefenvsError(
            f"the choices {', '.join(sorted(numbers))} in {path} may count from 0 or from 1: say what they mean by "
            "--choices 1=first 2=second"
        )
    counted = {} if not numbers else {"0": "first", "1": "second"} if "0" in numbers else {"1": "first", "2": "second"}
    known = {**WORDS, **counted, **said}
    return {word: meaning for word, meaning in known.items() if word in found}


def _word(value: Any) -> str:
    value = selected(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower().removesuffix(".0")


def _read_places(path: Path) -> dict[str, Place]:
    """Read which segment each id names; the length is 0 where the table does not tell it."""
    places: dict[str, Place] = {}
    for row in read_rows(path):
        try:
            name = str(row.cells["id"])
            episode, start = (_whole(row, column) for column in ("episode", "start"))
            place = Place(episode, start, _whole(row, "length") if "length" in row.cells else 0)
        except KeyError as error:
            raise PrefenvsError(f"{path}, {row.place}: no {error.args[0]}; segments have id, episode, start") from None
        except _Refused as error:
            raise PrefenvsError(f"{path}, {row.place}: {error}") from None
        if places.setdefault(name, place) != place:
            raise PrefenvsError(f"{path}, {row.place}: the id {name!r} names another segment above")
    return places


class _Parser:
    """What the cells of a row say; every method raises _Refused for cells that say nothing sensible."""

    def __init__(
        self,
        dataset: OfflineDataset | None,
        places: Mapping[str, Place] | None,
        length: int | None,
        meanings: Mapping[str, str],
        defaults: Mapping[str, str],
        time: float,
    ) -> None:
        self.dataset, self.places, self.length, self.meanings = dataset, places, length, meanings
        self.defaults, self.time = defaults, time

    def answer(self, row: Row) -> Array | None:
        """Return the probabilities [2] that either segment is better, None for a skip."""
        meaning = None
        names = [name for name in ("probability_1", "probability_2") if name in row.cells]
        if "choice" in row.cells:
            word = _word(row.cells["choice"])
            meaning = self.meanings.get(word)
            if meaning is None and not names:
                raise _Refused(
                    f"the choice {word!r} is unknown: say what it means by --choices {shlex.quote(f'{word}=first')}"
                )
        if not names:
            if meaning is None:
                raise _Refused("there is neither a choice nor a probability")
            said = MEANINGS[meaning]
            return None if said is None else np.array([said, 1.0 - said])
        values = [_number(row, name) for name in names]
        pair = values if len(names) == 2 else [values[0], 1.0 - values[0]]
        if names == ["probability_2"]:
            pair.reverse()
        if min(pair) < 0 or abs(sum(pair) - 1.0) > 1e-6:
            raise _Refused(f"{' and '.join(names)} {', '.join(f'{value:g}' for value in values)} are no shares of 1")
        expected = "tie" if abs(pair[0] - pair[1]) < 1e-9 else "first" if pair[0] > pair[1] else "second"
        if meaning not in (None, expected):
            raise _Refused(f"the choice {word!r} and the {names[0]} {values[0]:g} contradict each other")
        return np.array(pair)

    def pair(self, row: Row) -> Query | tuple[Place, Place]:
        """Return where both segments lie, or the segments themselves where the file holds them."""
        if self.dataset is None:
            return Query((self._held(row, 1), self._held(row, 2)))
        return self._place(row, 1, self.dataset), self._place(row, 2, self.dataset)

    def _place(self, row: Row, side: int, dataset: OfflineDataset) -> Place:
        length = self._length(row, side)
        if f"segment_{side}" in row.cells:
            name = str(row.cells[f"segment_{side}"])
            if self.places is None:
                raise _Refused(f"segment_{side} names {name!r}: give the table of ids by --segments FILE")
            if name not in self.places:
                raise _Refused(f"the table of segments has no id {name!r}")
            place = self.places[name]
            place = place if place.length else place._replace(length=length or 0)
        else:
            place = Place(_whole(row, f"episode_{side}"), _whole(row, f"start_{side}"), length or 0)
        if not place.length:
            raise _Refused("nothing tells how many steps a segment has: name them by --segment-length")
        data, numbers = dataset.trajectories, dataset.trajectories.episode_numbers
        position = int(np.searchsorted(numbers, place.episode))
        if position == len(numbers) or numbers[position] != place.episode:
            raise _Refused(
                f"there is no episode {place.episode}: {dataset.name!r} has {len(numbers)}, numbered {numbers[0]} to "
                f"{numbers[-1]}"
            )
        steps = int(data.lengths[position])
        if place.start < 0 or place.length < 1 or place.start + place.length > steps:
            raise _Refused(
                f"segment {side} takes {place.length} steps from step {place.start}, but episode {place.episode} has "
                f"{steps}"
            )
        return place._replace(episode=position)

    def _length(self, row: Row, side: int) -> int | None:
        name = next((name for name in (f"length_{side}", "length") if name in row.cells), None)
        return self.length if name is None else _whole(row, name)

    def _held(self, row: Row, side: int) -> Segment:
        arrays: list[Array] = []
        for name in (f"observations_{side}", f"actions_{side}"):
            try:
                array = np.asarray(row.cells[name], np.float32)
            except KeyError:
                raise _Refused(f"there is no {name}") from None
            except (TypeError, ValueError):
                raise _Refused(f"{name} is no array of numbers") from None
            if array.ndim < 2 or not np.isfinite(array).all():
                raise _Refused(
                    f"{name} has shape {list(array.shape)}: steps by entries, all of them finite, are expected"
                )
            arrays.append(array)
        if len(arrays[0]) != len(arrays[1]):
            raise _Refused(f"segment {side} has {len(arrays[0])} observations and {len(arrays[1])} actions")
        episode, start = (
            _whole(row, f"{name}_{side}") if f"{name}_{side}" in row.cells else -1 for name in ("episode", "start")
        )
        source = str(row.cells.get("source", ""))
        observations, actions = arrays
        return Segment(observations, actions, task=self._text(row, "task"), source=source, episode=episode, start=start)

    def preference(self, row: Row, query: Query) -> Preference:
        """Return the label about a query."""
        time = _moment(row) if "time" in row.cells else self.time
        seconds = _number(row, "seconds") if "seconds" in row.cells else None
        if seconds is not None and seconds < 0:
            raise _Refused(f"it took {seconds:g} seconds")
        shown = None
        if "shown" in row.cells:
            orders = {"1 2": (0, 1), "2 1": (1, 0)}
            shown = orders.get(" ".join(str(row.cells["shown"]).replace(",", " ").split()))
            if shown is None:
                raise _Refused(f"shown is {row.cells['shown']!r}: write 1 2 or 2 1, from left to right")
        person, oracle = self._text(row, "annotator"), self._text(row, "oracle")
        return Preference(query, self.answer(row), person, oracle, time, seconds, shown)

    def _text(self, row: Row, name: str) -> str:
        return str(row.cells.get(name, self.defaults[name]))


def _whole(row: Row, name: str) -> int:
    number = _number(row, name)
    if number != int(number):
        raise _Refused(f"{name} is {row.cells[name]!r}, no whole number")
    return int(number)


def _number(row: Row, name: str) -> float:
    value = row.cells.get(name)
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _Refused(f"there is no {name}" if value is None else f"{name} is {value!r}, no number")
    return number


def _moment(row: Row) -> float:
    """When the label was given, in seconds since the epoch: a number, or a date and time (UTC where no zone stands)."""
    value = row.cells["time"]
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                value = datetime.datetime.fromisoformat(value.strip())
            except ValueError:
                raise _Refused(f"time is {value!r}: write seconds since 1970 or 2025-01-31T12:00:00Z") from None
    if isinstance(value, datetime.datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise _Refused(f"time is {row.cells['time']!r}: write seconds since 1970, not milliseconds")
    return float(value)


def _cut(dataset: OfflineDataset | None, pairs: Sequence[Query | tuple[Place, Place]]) -> list[Query]:
    """Return the queries about these pairs of segments, cut from the data in as few copies as lengths allow."""
    places = {place: None for pair in pairs if not isinstance(pair, Query) for place in pair}
    cut: dict[Place, Segment] = {}
    for length in {place.length for place in places}:
        alike = [place for place in places if place.length == length]
        assert dataset is not None
        episodes, starts = (np.array([place[i] for place in alike]) for i in (0, 1))
        cut |= dict(zip(alike, dataset.trajectories.cut(episodes, starts, length), strict=True))
    return [pair if isinstance(pair, Query) else Query((cut[pair[0]], cut[pair[1]])) for pair in pairs]


def _check_content(row: Row, query: Query) -> None:
    for side, segment in enumerate(query.segments, 1):
        expected = row.cells.get(f"checksum_{side}")
        if expected is not None and str(expected) != checksum(segment):
            raise _Refused(f"segment {side} is another one than was labelled, by its checksum: is this its data set?")


def _count_repeated(preferences: Sequence[Preference]) -> tuple[int, int]:
    """Count labels that repeat an earlier one of their annotator and pair, and those with another answer."""
    seen: dict[tuple[str, str, str, str], float | None] = {}
    repeated = contradicted = 0
    for one in preferences:
        first, second = (segment.hash for segment in one.query.segments)
        share = None if one.probabilities is None else float(one.probabilities[0])
        if first > second:
            first, second, share = second, first, None if share is None else 1.0 - share
        key = one.annotator, one.oracle, first, second
        if key in seen:
            repeated += 1
            contradicted += seen[key] != share
        else:
            seen[key] = share
    return repeated, contradicted
