"""Raters of one's own: a function of segments, or any object with `ask` and `collect`, as an oracle."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Protocol, TypeVar, runtime_checkable

import numpy as np

from prefenvs.errors import PrefenvsError, one_line_with_place
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.protocols import Policy
from prefenvs.segments import Array, Segment, SegmentBatch
from prefenvs.trajectories import Trajectories

Function = TypeVar("Function", bound=Callable[..., Any])
ROUNDING = 1e-3
"""How far the sum of a distribution may be from 1; it is divided by the sum."""
PATIENCE = 1.0
"""Seconds after which a function's answers are stored, whatever remains to be asked."""


@runtime_checkable
class AsksAndCollects(Protocol):
    """The least that an object must have to be a rater; `Oracle` tells what the two do."""

    def ask(self, queries: Sequence[Query]) -> None:
        """Accept queries."""

    def collect(self) -> list[Preference]:
        """Return new answers."""


AnyRater = Oracle | AsksAndCollects | Callable[..., Any]


def as_oracle(rater: AnyRater) -> Oracle:
    """Return a rater as an oracle: an oracle itself, a function of segments, or an object with `ask` and `collect`.

    Raises PrefenvsError for anything else.
    """
    if isinstance(rater, Oracle):
        return rater
    if isinstance(rater, type):
        raise PrefenvsError(f"a rater is an object, got the class {rater.__name__}: make one, {rater.__name__}(...)")
    if isinstance(rater, AsksAndCollects):
        return ObjectOracle(rater)
    if callable(rater):
        return FunctionOracle(rater)
    hint = ": make it by its name, prefenvs.oracles.make_rater(...)" if isinstance(rater, str) else ""  # type: ignore[unreachable]
    raise PrefenvsError(
        f"a rater is an oracle, a function of two segments, or an object with ask and collect, got {rater!r}{hint}"
    )


def batched(function: Function) -> Function:
    """Declare that a rater's function takes many queries at once: a SegmentBatch for each position in the query.

    It returns one answer per query, each as `FunctionOracle` takes them. Queries whose segments differ in length come
    in calls of their own.
    """
    function.batched = True  # type: ignore[attr-defined]
    return function


class FunctionOracle(Oracle):
    """Ask a function of the K segments of a query, `function(first, second)`.

    It returns the index of the best segment, 0 for the first; or K probabilities that each is best; or None for a
    skip. Of two segments it may also return whether the second is better, or the probability of it, so that 0.5 is a
    tie. Every segment has observations [T, obs], actions [T, act] and, where recorded, true_rewards [T] and states.

    The function is called by `collect`. If it raises, or returns something else, answers given before are handed out
    first; the next call tries that query again. What Ctrl-C leaves behind is handed out by the next call too.
    """

    def __init__(self, function: Callable[..., Any], name: str = "", annotator: str = "") -> None:
        """name: of the rater in the store, module:NAME by default; annotator: who answers, by default the function."""
        own = getattr(function, "__name__", type(function).__name__)
        self.function = function
        self.name = name or f"{getattr(function, '__module__', '') or 'function'}:{own}"
        self.annotator = annotator or own
        self.batched = bool(getattr(function, "batched", False))
        self.patience = math.inf
        """Seconds after which `collect` returns with what it has, so that slow answers can be stored as they come."""
        self._open: list[Query] = []
        self._answers: list[Preference] = []
        self._stopped = False

    def ask(self, queries: Sequence[Query]) -> None:
        """Accept queries; raises PrefenvsError where the function does not take so many segments."""
        for count in {len(query.segments) for query in queries}:
            try:
                inspect.signature(self.function).bind(*range(count))
            except TypeError as error:
                raise PrefenvsError(f"{self.name} does not take {count} segments: {error}") from None
            except ValueError:  # a function of C tells nothing of its arguments
                pass
        self._open += queries
        self._stopped = False

    def collect(self) -> list[Preference]:
        """Call the function and return its answers; raises PrefenvsError for the first query that it fails on."""
        begin = time.monotonic()
        while self.more and not (self._answers and time.monotonic() - begin > self.patience):
            group = self._next_group()
            try:
                values = self._call(group)
                self._answers += [self._answer(query, value) for query, value in zip(group, values, strict=True)]
            except PrefenvsError:
                if self._answers:
                    break
                raise
            if self.batched:
                done = {id(query) for query in group}
                self._open = [query for query in self._open if id(query) not in done]
            else:
                del self._open[0]
        answers, self._answers = self._answers, []
        return answers

    @property
    def pending(self) -> int:
        """Number of queries whose answers have not been handed out."""
        return len(self._open) + len(self._answers)

    @property
    def more(self) -> bool:
        """Whether `collect` would go on calling the function."""
        return bool(self._open) and not self._stopped

    def close(self) -> None:
        """Call the function no more until queries are asked anew; `collect` still returns what it has answered."""
        self._stopped = True

    def _next_group(self) -> list[Query]:
        """Return the queries of the next call: one, or for a batched function all of the same number and lengths."""
        if not self.batched:
            return self._open[:1]
        shape = [segment.observations.shape for segment in self._open[0].segments]
        return [query for query in self._open if [s.observations.shape for s in query.segments] == shape]

    def _call(self, group: Sequence[Query]) -> Sequence[Any]:
        try:
            if not self.batched:
                return [self.function(*group[0].segments)]
            values: Any = self.function(
                *(_stack(segments) for segments in zip(*(q.segments for q in group), strict=True))
            )
        except Exception as error:
            many = f" or one of the {len(group) - 1} asked with it" if len(group) > 1 else ""
            reason = one_line_with_place(error)
            raise PrefenvsError(f"{self.name} failed on {describe(group[0])}{many}: {reason}") from error
        listed = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) and np.ndim(values) > 0
        if not listed or len(values) != len(group):
            raise PrefenvsError(
                f"{self.name} returned {_show(values)} for {len(group)} queries: return one answer each"
            )
        return list(values)

    def _answer(self, query: Query, value: Any) -> Preference:
        return Preference(query, self._read(query, value), self.annotator, self.name)

    def _read(self, query: Query, value: Any) -> Array | None:
        """Return the probabilities [K] that a returned value means, None for a skip."""
        if value is None:
            return None
        count = len(query.segments)
        try:
            found = np.asarray(value)
        except Exception:  # a tensor that requires its gradient, a ragged list
            self._refuse(query, value)
        if found.dtype.kind == "b" and found.ndim == 0 and count == 2:  # second > first
            found = found.astype(int)
        if found.dtype.kind not in "iuf" or not np.all(np.isfinite(found)):
            self._refuse(query, value)
        if found.shape == (count,) and np.all(found >= 0) and abs(float(found.sum()) - 1.0) <= ROUNDING:
            shares: Array = found.astype(np.float64)
            shares /= shares.sum()
            return shares
        if found.ndim == 0 and found.dtype.kind in "iu" and 0 <= found < count:
            return np.asarray(np.eye(count)[int(found)])
        if found.ndim == 0 and count == 2 and 0.0 <= found <= 1.0:
            return np.array([1.0 - float(found), float(found)])
        self._refuse(query, value)

    def _refuse(self, query: Query, value: Any) -> NoReturn:
        count = len(query.segments)
        chance = ", the probability that the second is better" if count == 2 else ""
        raise PrefenvsError(
            f"{self.name} returned {_show(value)} for {describe(query)}: return the index of the best of {count} "
            f"segments (0 is the first){chance}, {count} probabilities, or None to skip"
        )


class ObjectOracle(Oracle):
    """An object with `ask` and `collect` as an oracle; whatever else of an oracle it has is used, too."""

    def __init__(self, rater: AsksAndCollects) -> None:
        self.rater = rater
        self.name = str(getattr(rater, "name", "") or type(rater).__name__)
        self._asked: dict[str, None] = {}
        self._open: dict[str, None] = {}
        self._told: list[Preference] = []

    def ask(self, queries: Sequence[Query]) -> None:
        """Pass queries on."""
        self.rater.ask(queries)
        for asked in (self._asked, self._open):
            asked |= dict.fromkeys(query.id for query in queries)

    def collect(self) -> list[Preference]:
        """Return new answers, named where they name nobody; raises PrefenvsError for what answers no query asked.

        Answers that came before it are handed out first; the next call raises, and goes on behind it.
        """
        found = self.rater.collect()
        if not isinstance(found, Iterable):
            raise PrefenvsError(
                f"{self.name}.collect() returned {_show(found)}: return a list of prefenvs.Preference objects, empty "
                "without an answer"
            )
        self._told += found
        answers: list[Preference] = []
        while self._told:
            wrong = self._what_is_wrong(self._told[0])
            if wrong and answers:
                break
            answer = self._told.pop(0)
            if wrong:
                raise PrefenvsError(wrong)
            self._open.pop(answer.query.id, None)
            answers.append(replace(answer, annotator=answer.annotator or self.name, oracle=self.name))
        return answers

    @property
    def pending(self) -> int:
        """Number of queries without an answer."""
        return len(self._open)

    @property
    def waiting(self) -> bool:  # type: ignore[override]
        """Whether it blocks because the user asked for that."""
        return bool(getattr(self.rater, "waiting", False))

    def observe(self, trajectories: Trajectories) -> None:
        """Pass recent trajectories on."""
        self._pass_on("observe", trajectories)

    def follow(self, policy: Policy) -> None:
        """Pass on which policy is trained."""
        self._pass_on("follow", policy)

    def report(self, status: Mapping[str, float | None]) -> None:
        """Pass the learner's status on."""
        self._pass_on("report", status)

    def state_dict(self) -> dict[str, Any]:
        """Return the object's own state, and which queries are open."""
        return {"rater": self._pass_on("state_dict"), "asked": list(self._asked), "open": list(self._open)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._asked, self._open = dict.fromkeys(state["asked"]), dict.fromkeys(state["open"])
        if state["rater"] is not None:
            self._pass_on("load_state_dict", state["rater"])

    def close(self) -> None:
        """Close the object if it can be closed."""
        self._pass_on("close")

    def _what_is_wrong(self, answer: object) -> str:
        if not isinstance(answer, Preference):
            return f"{self.name}.collect() returned {_show(answer)}: return prefenvs.Preference objects"
        if answer.query.id not in self._asked:
            return f"{self.name} answered {describe(answer.query)}, which it was not asked"
        return ""

    def _pass_on(self, method: str, *arguments: Any) -> Any:
        return getattr(self.rater, method, lambda *_: None)(*arguments)


def describe(query: Query) -> str:
    """Name a query in an error: its id, its task, and where its segments come from."""
    where = " and ".join(
        f"{part.source and f'{part.source} '}episode {part.episode} steps {part.start} to {part.start + len(part)}"
        for part in query.segments
    )
    task = query.segments[0].task
    return f"query {query.id}{f' of {task}' if task else ''} ({where})"


def _stack(segments: Sequence[Segment]) -> SegmentBatch:
    """Put segments of one length into a batch; arrays that one of them lacks are None."""

    def stack(name: str) -> Array | None:
        arrays = [getattr(segment, name) for segment in segments]
        return None if any(array is None for array in arrays) else np.stack(arrays)

    first = segments[0]
    return SegmentBatch(
        np.stack([segment.observations for segment in segments]),
        np.stack([segment.actions for segment in segments]),
        stack("true_rewards"),
        stack("states"),
        stack("scene"),
        np.array([segment.episode for segment in segments]),
        np.array([segment.start for segment in segments]),
        first.task,
        first.source,
    )


def _show(value: object) -> str:
    """Return a value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."
