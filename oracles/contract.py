"""The contract of every oracle, proved by running it; tests of new raters call `check_oracle`."""

from __future__ import annotations

import json
import time as clock
from collections.abc import Callable, Sequence

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Oracle, Preference, Query

Settle = Callable[[Oracle], None]


class ContractBroken(AssertionError):
    """An oracle breaks its contract; the message says which part and what was seen."""


def check_oracle(
    make_oracle: Callable[[], Oracle],
    queries: Sequence[Query],
    settle: Settle | None = None,
    patience: float = 10.0,
    repeatable: bool = True,
) -> None:
    """Run an oracle through its contract; raises ContractBroken at the first part that does not hold.

    Raises PrefenvsError for too few queries.

    make_oracle: returns a fresh oracle, nothing asked yet.
    queries: at least 4 different ones that it can answer, each of 2 segments; skipping some is an answer.
    settle: for raters that answer late, called after each `ask`: play the person or model and answer what is open.
    repeatable: two that `make_oracle` returns answer alike, as with a fixed seed, and so does one that is resumed.
    patience: seconds that answers may take after `settle`; `ask` and `collect` themselves may take a tenth of it.
    """
    if len({query.id for query in queries}) < 4 or any(len(query.segments) != 2 for query in queries):
        raise PrefenvsError(f"check_oracle needs at least 4 different queries of 2 segments, got {len(queries)}")
    check_silence(make_oracle())
    check_answers(make_oracle(), queries, settle, patience)
    check_parts(make_oracle(), queries, settle, patience)
    check_repeated_collect(make_oracle(), queries, settle, patience)
    check_three(make_oracle(), queries, settle, patience)
    if repeatable:
        check_resumed(make_oracle(), make_oracle(), make_oracle(), queries, settle, patience)


def check_silence(oracle: Oracle) -> None:
    """An oracle that was asked nothing, or an empty list, says nothing."""
    _require(bool(oracle.name), "its name is empty")
    for when in ("before any question", "after ask([])"):
        _require(oracle.pending == 0, f"pending is {oracle.pending} {when}")
        _require(oracle.collect() == [], f"collect() returns answers {when}")
        oracle.ask([])


def check_answers(oracle: Oracle, queries: Sequence[Query], settle: Settle | None, patience: float) -> None:
    """Each query asked is answered, by a named rater, in time, with the probabilities of its segments."""
    begun = clock.time()
    asked = queries[: len(queries) // 2]
    for answer in _exchange(oracle, asked, settle, patience):
        _require(bool(answer.annotator), "an answer names no annotator")
        _require(answer.oracle == oracle.name, f"an answer names the oracle {answer.oracle!r}, not {oracle.name!r}")
        _require(begun - 1 <= answer.time <= clock.time() + 1, f"an answer was given at {answer.time}, not now")
        _require(answer.seconds is None or answer.seconds >= 0, f"an answer took {answer.seconds} s")
        check_probabilities(answer)


def check_probabilities(answer: Preference) -> None:
    """The probabilities are K finite numbers in [0, 1] that sum to 1; a skip has none."""
    if answer.probabilities is None:
        _require(answer.skipped, "an answer without probabilities is not a skip")
        return
    found, count = np.asarray(answer.probabilities), len(answer.query.segments)
    _require(found.shape == (count,), f"an answer about {count} segments has probabilities of shape {found.shape}")
    sound = bool(np.all(np.isfinite(found)) and np.all((found >= 0) & (found <= 1)) and abs(found.sum() - 1) < 1e-6)
    _require(sound, f"{found.tolist()} are not probabilities")


def check_parts(oracle: Oracle, queries: Sequence[Query], settle: Settle | None, patience: float) -> None:
    """Queries may be asked in several calls and in any order, before or after answers have been collected."""
    middle = len(queries) // 2
    _exchange(oracle, queries[middle:], settle, patience)
    for query in reversed(queries[:middle]):
        oracle.ask([query])
    _drain(oracle, queries[:middle], settle, patience)


def check_repeated_collect(oracle: Oracle, queries: Sequence[Query], settle: Settle | None, patience: float) -> None:
    """An answer comes out of `collect` exactly once."""
    _exchange(oracle, queries, settle, patience)
    again = oracle.collect()
    _require(not again, f"collect() returned {len(again)} answers a second time")


def check_three(oracle: Oracle, queries: Sequence[Query], settle: Settle | None, patience: float) -> None:
    """A query of 3 segments is answered with 3 probabilities, or refused by a PrefenvsError that leaves no trace."""
    segments = {segment.hash: segment for query in queries for segment in query.segments}
    triple = Query(tuple(list(segments.values())[:3]))
    try:
        oracle.ask([triple])
    except PrefenvsError:
        _require(oracle.pending == 0, "a refused query of 3 segments stays pending")
        _require(oracle.collect() == [], "a refused query of 3 segments was answered")
        return
    for answer in _drain(oracle, [triple], settle, patience):
        check_probabilities(answer)


def check_resumed(
    whole: Oracle, stopped: Oracle, resumed: Oracle, queries: Sequence[Query], settle: Settle | None, patience: float
) -> None:
    """The same queries in the same order get the same answers, also across a `state_dict` that went through JSON."""
    middle = len(queries) // 2
    parts = queries[:middle], queries[middle:]
    expected = [_exchange(whole, part, settle, patience) for part in parts]
    first = _exchange(stopped, parts[0], settle, patience)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    for told, found in zip(expected, (first, _exchange(resumed, parts[1], settle, patience)), strict=True):
        known = {(answer.query.id, answer.annotator): answer.probabilities for answer in told}
        for answer in found:
            same = np.array_equal(known.get((answer.query.id, answer.annotator)), answer.probabilities)  # type: ignore[arg-type]
            _require(same, f"query {answer.query.id} is answered differently when it is asked again")


def _exchange(oracle: Oracle, queries: Sequence[Query], settle: Settle | None, patience: float) -> list[Preference]:
    begun = clock.monotonic()
    oracle.ask(queries)
    took = clock.monotonic() - begun
    _require(took < patience / 10, f"ask() blocked for {took:.1f} s")
    return _drain(oracle, queries, settle, patience)


def _drain(oracle: Oracle, asked: Sequence[Query], settle: Settle | None, patience: float) -> list[Preference]:
    """Collect until nothing is pending; check that the answers are those to the asked queries, each rater's once."""
    if settle is not None:
        settle(oracle)
    answers: list[Preference] = []
    deadline = clock.monotonic() + patience
    while True:
        open_before, begun = oracle.pending, clock.monotonic()
        answers += oracle.collect()
        took = clock.monotonic() - begun
        _require(took < patience / 10, f"collect() blocked for {took:.1f} s")
        if open_before == 0:
            break
        _require(clock.monotonic() < deadline, f"{open_before} queries are still pending after {patience} s")
        clock.sleep(0.01)
    known = {query.id for query in asked}
    answered = [answer.query.id for answer in answers]
    _require(set(answered) <= known, "an answer belongs to no query that was asked")
    _require(set(answered) == known, f"{len(known - set(answered))} queries are neither answered nor pending")
    pairs = {(answer.query.id, answer.annotator) for answer in answers}
    _require(len(pairs) == len(answers), "an annotator answered a query twice")
    return answers


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractBroken(message)
