"""How sure a choice is: "better" and "much better" as probabilities, and what repeated questions say of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, get_args

import numpy as np

from prefenvs.preferences import Preference
from prefenvs.segments import Array
from prefenvs.store import Event, Store
from prefenvs.store.events import standing

Strength = Literal["better", "much"]
PROBABILITIES: Mapping[Strength, float] = {"better": 0.85, "much": 0.97}
"""The chance that whoever gave such an answer would choose the same clip again, as long as nothing is known."""
WEIGHT = 20.0
"""Repetitions that this assumption counts for."""


def soften(chosen: int, count: int, strength: Strength | None) -> tuple[float, ...]:
    """Return the probability that each of `count` clips is the best where `chosen` was; without a strength it is 1."""
    certain = 1.0 if strength is None else PROBABILITIES[strength]
    rest = (1.0 - certain) / (count - 1)
    return tuple(certain if index == chosen else rest for index in range(count))


def calibrate(store: Store, run: str | None = None, annotators: Collection[str] | None = None) -> dict[Strength, float]:
    """Return what choices of each strength have turned out to be worth, from the questions that were asked again.

    The estimate is (w p + s) / (w + n): of n repetitions of answers of that strength, s chose the same clip, a tie
    counting half; p is the assumption in PROBABILITIES, w is WEIGHT. run: of this run only; annotators: by these only.
    """
    log = standing(store.events_after(run=run))
    answers = {event.id: event for event in log if event.kind == "comparison"}
    count = dict.fromkeys(get_args(Strength), 0)
    same = dict.fromkeys(get_args(Strength), 0.0)
    for event in log:
        first = answers.get(str(event.extra.get("repeats", "")))
        if event.kind != "repeat" or event.probabilities is None or first is None:
            continue
        strength = first.extra.get("strength")
        if strength in count and (annotators is None or event.annotator in annotators):
            count[strength] += 1
            same[strength] += 0.5 if event.tie else float(_best(event) == _best(first))
    return {name: (WEIGHT * PROBABILITIES[name] + same[name]) / (WEIGHT + count[name]) for name in get_args(Strength)}


def recalibrate(answer: Preference, calibrated: Mapping[Strength, float]) -> Preference:
    """Return an answer with its strength's calibrated probability in place of the assumed one.

    Answers are known by the assumed probability, which nothing else gives; all others are returned as they are.
    """
    given = answer.probabilities
    if given is None:
        return answer
    for name, assumed in PROBABILITIES.items():
        if abs(float(given.max()) - assumed) < 1e-9:
            # Never below a tie: an answer that turned out to be worth nothing says nothing.
            certain = max(calibrated[name], 1.0 / len(given))
            mixed: Array = np.full(len(given), (1.0 - certain) / (len(given) - 1))
            mixed[int(given.argmax())] = certain
            return Preference(
                answer.query, mixed, answer.annotator, answer.oracle, answer.time, answer.seconds, answer.shown
            )
    return answer


def _best(event: Event) -> int:
    return int(np.argmax(event.probabilities or ()))
