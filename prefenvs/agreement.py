"""How far the people who label agree, with each other and with themselves, and signs that somebody does not look."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import sqlalchemy as sa

from prefenvs.errors import PrefenvsError, import_extra
from prefenvs.metrics.accuracy import Share
from prefenvs.segments import Array
from prefenvs.store import GOLD, TUTORIAL, Event, Store, rows
from prefenvs.store.database import reading
from prefenvs.store.events import standing
from prefenvs.store.schema import query_segments, segments
from prefenvs.tasks import known_task

RUSHED = 0.1
"""Share of answers faster than their clips from which an annotator is flagged."""
RESAMPLES = 1_000
"""Bootstrap samples of questions for the intervals of agreement."""
SIDE_Z = 3.0
"""Standard errors from one half at which the share of left answers is flagged."""
COLUMNS = (
    "annotator",
    "labels",
    "skipped",
    "ties",
    "left",
    "repeats",
    "alike",
    "seconds",
    "too fast",
    "remarks",
)
"""What `cells` describes of each annotator."""


@dataclass(frozen=True)
class Annotator:
    """What one person's answers look like; shares are None where there is nothing to divide by.

    labels: answers that stand, made up of comparisons and skips; ratings: of single clips. skip_rate: of labels; ties:
    of comparisons. left_share: of comparisons of two that named a winner, how often it was shown on the left. repeats:
    hidden repetitions answered; consistency: share of them answered alike. median_seconds: for a label. too_fast: share
    of labels given in less time than the longest clip of the question plays. flags: what to look into, in words;
    signs: by name, fast, left, right or unsteady. left_interval, consistency_interval: 95%, by Wilson.
    """

    name: str
    labels: int
    ratings: int
    skip_rate: float | None
    ties: float | None
    left_share: float | None
    repeats: int
    consistency: float | None
    median_seconds: float | None
    too_fast: float | None
    flags: tuple[str, ...]
    left_interval: tuple[float, float] | None = None
    consistency_interval: tuple[float, float] | None = None
    signs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """Agreement of all annotators.

    alpha: Krippendorff's, of which segment is best or a tie (nominal; skips are missing values): 1 is full agreement, 0
    chance; None without questions that two people answered, or where all answers are the same. shared: number of those
    questions. percent: share of pairs of people's answers to them that are the same. rating_alpha, rated: the same of
    ratings (ordinal). oracles: how many answers of each rater were counted, by its name, such as "human".
    alpha_interval, percent_interval: 95%, by the bootstrap over questions; None of fewer than two.
    """

    alpha: float | None
    shared: int
    percent: float | None
    rating_alpha: float | None
    rated: int
    annotators: tuple[Annotator, ...]
    oracles: Mapping[str, int] = field(default_factory=dict)
    alpha_interval: tuple[float, float] | None = None
    percent_interval: tuple[float, float] | None = None


def measure_agreement(store: Store, run: str | None = None, oracle: str | None = None) -> Agreement:
    """Read a store's log and measure agreement of all annotators, wherever their labels come from; of one run or all.

    Between people, answers to gold questions and in practice count only where the run `gold` or `tutorial` is named.
    oracle: count the answers under this name alone, such as "human"; PrefenvsError if the log has none of it.
    """
    everything = store.events_after(run=run)
    names = sorted({event.oracle for event in everything if event.oracle and event.annotator})
    if oracle is not None and names and oracle not in names:
        raise PrefenvsError(f"the store has no answers of oracle {oracle!r}: it has those of {', '.join(names)}")
    log = standing(event for event in everything if oracle is None or event.oracle == oracle)
    # The moment that decided an answer is no answer of its own.
    log = [event for event in log if event.annotator and "moment_of" not in event.extra]
    labels = _latest(event for event in log if event.kind in ("comparison", "skip"))
    ratings = _latest(event for event in log if event.kind == "rating")
    repeats = [event for event in log if event.kind == "repeat"]
    clips = _clip_seconds(store, {str(event.query) for event in labels})
    # Of all runs, what everybody is asked because it is easy would make people agree.
    known = () if run is not None else (GOLD, TUTORIAL)
    votes, marks = _votes(event for event in labels if event.run not in known), _votes(ratings)
    alpha, shared = krippendorff_alpha(votes, "nominal")
    rating_alpha, rated = krippendorff_alpha(marks, "ordinal")
    by_id = {event.id: event for event in log}
    counted = dict(sorted(Counter(event.oracle for event in [*labels, *ratings]).items()))
    names = sorted({event.annotator for event in log})
    people = [
        _describe(name, [event for event in [*labels, *ratings, *repeats] if event.annotator == name], by_id, clips)
        for name in names
    ]
    around_alpha, around_percent = bootstrap_agreement(votes)
    percent = _percent(votes)
    return Agreement(alpha, shared, percent, rating_alpha, rated, tuple(people), counted, around_alpha, around_percent)


def krippendorff_alpha(votes: Sequence[tuple[str, str, float | None]], level: str) -> tuple[float | None, int]:
    """Return Krippendorff's alpha of (annotator, unit, value) and how many units two people valued; None is no value.

    level: "nominal" or "ordinal". Krippendorff, Content Analysis (2004), chapter 11, computed by `krippendorff`. Raises
    PrefenvsError where the package krippendorff is missing.
    """
    given = [vote for vote in votes if vote[2] is not None]
    people = {name: row for row, name in enumerate(sorted({vote[0] for vote in given}))}
    units = {unit: column for column, unit in enumerate(sorted({vote[1] for vote in given}))}
    table: Array = np.full((len(people), len(units)), np.nan)
    for name, unit, value in given:
        table[people[name], units[unit]] = value
    table = table[:, (~np.isnan(table)).sum(axis=0) >= 2]
    if not table.size or len(np.unique(table[~np.isnan(table)])) < 2:
        return None, table.shape[1] if table.size else 0
    krippendorff = import_extra("krippendorff", "a measure of agreement")
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement=level)), table.shape[1]


def bootstrap_agreement(
    votes: Sequence[tuple[str, str, float | None]], resamples: int = RESAMPLES
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Return 95% intervals of nominal alpha and of the share of equal pairs of answers, by drawing questions anew.

    votes: as in `krippendorff_alpha`. None where two people answered fewer than two questions.
    """
    values = {value: column for column, value in enumerate(sorted({v for _, _, v in votes if v is not None}))}
    units: dict[str, Array] = {}
    for _, unit, value in votes:
        if value is not None:
            units.setdefault(unit, np.zeros(len(values)))[values[value]] += 1
    counts = np.array([row for row in units.values() if row.sum() >= 2])
    if len(counts) < 2:
        return None, None
    given = counts.sum(axis=1)
    # Coincidences of each question [V, V], whose sum over questions makes alpha (Krippendorff 2004, section 11.3).
    pairs = (counts[:, :, None] * counts[:, None, :] - np.eye(len(values)) * counts[:, :, None]) / (given - 1)[
        :, None, None
    ]
    drawn = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=resamples)
    sums = np.einsum("bu,uvw->bvw", drawn, pairs, optimize=True)
    margins, total = sums.sum(axis=2), sums.sum(axis=(1, 2))
    observed, expected = total - np.trace(sums, axis1=1, axis2=2), total**2 - (margins**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alphas = 1 - (total - 1) * observed / expected
    alphas = alphas[np.isfinite(alphas)]
    met = given * (given - 1) / 2
    alike = (counts * (counts - 1) / 2).sum(axis=1)
    percents = (drawn @ alike) / (drawn @ met)
    return _middle(alphas) if len(alphas) else None, _middle(percents)


def _middle(samples: Array) -> tuple[float, float]:
    low, high = np.quantile(samples, (0.025, 0.975))
    return float(low), float(high)


def summarise(agreement: Agreement) -> list[str]:
    """Return the overall figures as sentences."""
    lines = []
    if len(agreement.oracles) > 1:
        listed = ", ".join(f"{count:,} of {name or 'unnamed raters'}" for name, count in agreement.oracles.items())
        lines.append(f"Counted are the answers of all raters: {listed}.")
    if agreement.shared:
        lines.append(
            f"Krippendorff's alpha {_number(agreement.alpha)}{_between(agreement.alpha_interval, '.2f')} over "
            f"{agreement.shared} questions that several people answered; {_share_text(agreement.percent)}"
            f"{_between(agreement.percent_interval, '.0%')} of their answers are the same."
        )
    if agreement.rated:
        lines.append(f"Alpha of ratings {_number(agreement.rating_alpha)} over {agreement.rated} clips.")
    if not agreement.shared and not agreement.rated:
        lines.append(
            "No question has been answered by several people, so there is no Krippendorff's alpha: "
            "`prefenvs label --overlap 0.1` gives some to two."
        )
    return lines


def cells(person: Annotator) -> list[str]:
    """Return one annotator's row as text, in the order of COLUMNS."""
    return [
        person.name,
        f"{person.labels + person.ratings:,}",
        _share_text(person.skip_rate),
        _share_text(person.ties),
        _share_text(person.left_share) + _range(person.left_interval),
        str(person.repeats),
        _share_text(person.consistency) + _range(person.consistency_interval),
        _number(person.median_seconds),
        _share_text(person.too_fast),
        "; ".join(person.flags),
    ]


def repeat_consistency(repeats: Sequence[Event], by_id: dict[str, Event]) -> float | None:
    """Return the share of repetitions that were answered as their originals; None if nothing can be compared."""
    return _share(_answered_alike(repeats, by_id))


def _answered_alike(repeats: Sequence[Event], by_id: dict[str, Event]) -> list[bool]:
    """Whether each repetition that can be compared was answered as its original."""
    known = [event for event in repeats if str(event.extra.get("repeats")) in by_id]
    pairs = [(_vote(event), _vote(by_id[event.extra["repeats"]])) for event in known]
    return [first == second for first, second in pairs if first is not None and second is not None]


def _latest(items: Iterable[Event]) -> list[Event]:
    """Keep each annotator's last answer to each question of a run, in the order of the log: those that stand."""
    last: dict[object, Event] = {}
    for event in items:
        key = event.run, event.oracle, event.annotator, event.query or event.segment
        last.pop(key, None)
        last[key] = event
    return list(last.values())


def _votes(items: Iterable[Event]) -> list[tuple[str, str, float | None]]:
    """What each annotator says of each question; the last answer counts where several runs asked it."""
    said = {(event.annotator, str(event.query or event.segment)): _vote(event) for event in items}
    return [(annotator, unit, value) for (annotator, unit), value in said.items()]


def _vote(event: Event) -> float | None:
    """What an answer says, as a number: the best segment, -1 for a tie, the rating; None for a skip."""
    if event.segment is not None:
        rating = event.extra.get("rating")
        return None if rating is None else float(rating)
    if event.probabilities is None:
        return None
    return -1.0 if event.tie else float(np.argmax(event.probabilities))


def _percent(votes: Sequence[tuple[str, str, float | None]]) -> float | None:
    by_unit: dict[str, list[float]] = {}
    for _, unit, value in votes:
        if value is not None:
            by_unit.setdefault(unit, []).append(value)
    pairs = sum(math.comb(len(values), 2) for values in by_unit.values())
    same = sum(math.comb(values.count(value), 2) for values in by_unit.values() for value in set(values))
    return same / pairs if pairs else None


def _describe(
    name: str,
    answers: list[Event],
    by_id: dict[str, Event],
    clips: dict[str, float],
) -> Annotator:
    labels = [event for event in answers if event.kind in ("comparison", "skip")]
    ratings = [event for event in answers if event.kind == "rating"]
    repeats = [event for event in answers if event.kind == "repeat"]
    comparisons = [event for event in labels if event.probabilities is not None]
    decided = [event for event in comparisons if event.shown and len(event.shown) == 2 and not event.tie]
    left = [event.probabilities[event.shown[0]] > 0.5 for event in decided if event.probabilities and event.shown]
    times = [event.seconds for event in labels if event.seconds is not None]
    timed = [event for event in labels if event.seconds is not None and str(event.query) in clips]
    fast = [(event.seconds or 0.0) < clips[str(event.query)] for event in timed]
    share_left, share_fast = _share(left), _share(fast)
    found: dict[str, str] = {}
    if share_fast is not None and share_fast > RUSHED:
        found["fast"] = f"{share_fast:.0%} of answers came before the clip had ended"
    if share_left is not None and abs(share_left - 0.5) * 2 * math.sqrt(len(left)) > SIDE_Z:
        side = "left" if share_left > 0.5 else "right"
        found[side] = f"prefers the {side} side"
    compared = _answered_alike(repeats, by_id)
    consistency = _share(compared)
    if consistency is not None and len(repeats) >= 5 and consistency < 0.6:
        found["unsteady"] = "answers repeated questions differently"
    return Annotator(
        name=name,
        labels=len(labels),
        ratings=len(ratings),
        skip_rate=_share([event.kind == "skip" for event in labels]),
        ties=_share([event.tie for event in comparisons]),
        left_share=share_left,
        repeats=len(repeats),
        consistency=consistency,
        median_seconds=statistics.median(times) if times else None,
        too_fast=share_fast,
        flags=tuple(found.values()),
        left_interval=Share(sum(left), len(left)).interval if left else None,
        consistency_interval=None if not compared else Share(sum(compared), len(compared)).interval,
        signs=tuple(found),
    )


def _share(items: Sequence[bool]) -> float | None:
    return sum(items) / len(items) if items else None


def _clip_seconds(store: Store, queries: set[str]) -> dict[str, float]:
    """Return how long the longest clip of each query plays, in seconds of the task's own time."""
    found: dict[str, float] = {}
    # A store may hold tasks of other packages, whose rate is not known here.
    rates: dict[str, int | None] = {}
    columns = query_segments.c.query, segments.c.task, sa.func.max(segments.c.steps).label("steps")
    joined = sa.select(*columns).join(segments, segments.c.hash == query_segments.c.segment)
    with reading(store.engine) as connection:
        for part in rows.chunks(sorted(queries)):
            where = joined.where(query_segments.c.query.in_(part)).group_by(query_segments.c.query, segments.c.task)
            for row in connection.execute(where):
                if row.task not in rates:
                    task = known_task(row.task)
                    rates[row.task] = None if task is None else task.fps
                rate = rates[row.task]
                if rate is not None:
                    found[row.query] = row.steps / rate
    return found


def _between(interval: tuple[float, float] | None, form: str) -> str:
    return "" if interval is None else f" (95% interval {interval[0]:{form}} to {interval[1]:{form}})"


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({100 * interval[0]:.0f}-{interval[1]:.0%})"


def _share_text(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
