"""How good a rater is: its answers beside the true returns, by size of the true difference, and what they cost."""

from __future__ import annotations

import contextlib
import math
import time as clock
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.metrics.accuracy import Share
from prefenvs.oracles.simulated.partial_return import true_rewards
from prefenvs.oracles.vlm.verdicts import UNREAD, Judgement
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.segments import Array
from prefenvs.store.calls import IDENTICAL


@dataclass(frozen=True)
class Bin:
    """Queries whose true difference |R_1 - R_2| lies from `low` to `high`: how many, answered, and answered rightly."""

    low: float
    high: float
    queries: int
    right: Share


@dataclass(frozen=True)
class Calibration:
    """A rater measured on queries whose true returns are known.

    right: of the answers that are neither skip nor tie, on queries whose returns differ, those that prefer the segment
    of the greater return. first: of all choices made, those that fell on what was shown first; without a position bias
    about half. consistent: of the queries shown in both orders, those with the same choice. skips: by reason; ties:
    answers without a best segment. bins: by quantiles of the true difference. cost, tokens: of all; seconds: on the
    clock. cached: queries that replies in the store answered at no cost. estimated: queries of which the server did not
    tell all tokens, so that the most is counted. unread: a reply that is no verdict. failed: what ended it early.
    """

    queries: int
    right: Share
    first: Share
    consistent: Share
    ties: int
    skips: Counter[str] = field(hash=False)
    bins: tuple[Bin, ...]
    cost: float
    tokens: int
    seconds: float
    cached: int = 0
    estimated: int = 0
    unread: str = ""
    failed: BaseException | None = None

    @property
    def paid(self) -> int:
        """Queries that cost and tokens are of."""
        return self.queries - self.cached

    @property
    def useful(self) -> int:
        """Answers that a learner can use: all but the skips."""
        return self.queries - sum(self.skips.values())

    @property
    def cost_per_label(self) -> float:
        """Money for each useful answer, where none is in the store already; NaN if there is none."""
        return self.cost * self.queries / (self.paid * self.useful) if self.paid and self.useful else math.nan


def calibrate(oracle: Oracle, queries: Sequence[Query], bins: int = 4, patience: float | None = None) -> Calibration:
    """Ask a rater about queries of two segments with true rewards, wait for its answers, and measure them.

    bins: quantiles that the true differences are divided into. patience: seconds to wait; None is for as long as it
    takes. A rater that ends half-way, by its budget, an outage, an error or Ctrl-C, is measured on what it has answered
    (`failed`). Raises PrefenvsError if a segment has no true rewards, or if nothing was answered.
    """
    begun = clock.monotonic()
    differences = true_differences(queries)
    oracle.ask(list(queries))
    answers: dict[str, Preference] = {}
    failed: BaseException | None = None
    trouble: Any = None
    while True:
        waiting = oracle.pending
        try:
            answers.update({answer.query.id: answer for answer in oracle.collect()})
            clock.sleep(0.02 if waiting else 0.0)
        except (PrefenvsError, KeyboardInterrupt) as error:
            # What has been answered may have been paid for.
            failed = error
            break
        trouble = getattr(oracle, "trouble", None)
        if not waiting or trouble is not None:
            break
        if patience is not None and clock.monotonic() - begun > patience:
            raise PrefenvsError(f"{oracle.pending} of {len(queries)} queries were not answered within {patience:g} s")
    if failed is None and trouble is not None and trouble.kind == "fatal":
        failed = PrefenvsError(trouble.message)
    interrupted, settle = isinstance(failed, KeyboardInterrupt), getattr(oracle, "settle", None)
    if interrupted:
        getattr(oracle, "close", lambda: None)()
    if settle is not None:
        settle()
    if interrupted or settle is not None:
        with contextlib.suppress(PrefenvsError):  # the one that ended it
            answers.update({answer.query.id: answer for answer in oracle.collect()})
    asked = [(query, difference) for query, difference in zip(queries, differences, strict=True) if query.id in answers]
    if not asked and failed is not None:
        raise failed
    if not asked:
        raise PrefenvsError(f"the rater answered none of the queries{f': {trouble.message}' if trouble else ''}")
    return replace(_measure(oracle, asked, answers, bins, clock.monotonic() - begun), failed=failed)


def percent(share: Share) -> str:
    """Return a share with its 95% interval, or a dash if it is of nothing."""
    low, high = share.interval
    return "-" if share.value != share.value else f"{share.value:.1%} ({low:.1%} to {high:.1%})"


def bin_rows(found: Calibration) -> list[tuple[str, str, str]]:
    """Return the rows of the table by true difference, by size of the true difference."""
    return [(f"{part.low:.3g} to {part.high:.3g}", str(part.queries), percent(part.right)) for part in found.bins]


def describe_skips(found: Calibration) -> str:
    """Return how many queries were skipped and why, with the words of a model that gives no verdict."""
    skipped = sum(found.skips.values())
    why = ", ".join(f"{reason} {count}" for reason, count in found.skips.most_common())
    said = f"; the last reply that is no verdict: {' '.join(found.unread.split())[:160]!r}" if found.unread else ""
    return f"abstention: {skipped / found.queries:.1%}{f' ({why})' if why else ''}; ties: {found.ties}{said}"


def describe_cost(found: Calibration, more: int) -> str:
    """Return what a check took, and what `more` queries like its own will take: tokens, and money where it is known."""
    ahead = more / found.paid
    total = f"{found.tokens:,} tokens"
    labels = found.useful * found.paid / found.queries
    each = f"{found.tokens / labels:,.0f} tokens" if labels else "no useful label"
    coming = f"{round(ahead * found.tokens, -2):,.0f} tokens"
    if found.cost:
        total, coming = f"{found.cost:.4f}, {total}", f"{ahead * found.cost:.2f}, {coming}"
        each = f"{found.cost_per_label:.6f}, {each}" if found.useful else each
    each = f"per useful label: {each}" if found.useful else each
    priced = "" if found.cost else " (--vlm-price-in and --vlm-price-out, for a million tokens, make it money)"
    held = f" ({found.cached} queries were answered before)" if found.cached else ""
    guessed = f"; the most it can be for {found.estimated} queries whose tokens the server did not tell"
    coming += guessed if found.estimated else ""
    return f"cost: {total}{held}; {each}; {more:,} queries like these: {coming}{priced}"


def true_differences(queries: Sequence[Query]) -> Array:
    """Return R_1 - R_2 of each query of two segments, [Q] float64; raises PrefenvsError for any other query."""
    if any(len(query.segments) != 2 for query in queries):
        raise PrefenvsError("raters are measured on queries of 2 segments")
    returns = [[float(true_rewards([segment]).sum()) for segment in query.segments] for query in queries]
    pairs = np.asarray(returns, np.float64).reshape(-1, 2)
    difference: Array = pairs[:, 0] - pairs[:, 1]
    return difference


def _measure(
    oracle: Oracle, asked: Sequence[tuple[Query, float]], answers: dict[str, Preference], bins: int, seconds: float
) -> Calibration:
    judgements: dict[str, Judgement] = getattr(oracle, "judgements", {})
    skips: Counter[str] = Counter()
    first: list[bool] = []
    consistent: list[bool] = []
    right = np.full(len(asked), np.nan)
    ties = 0
    for i, (query, difference) in enumerate(asked):
        answer, judgement = answers[query.id], judgements.get(query.id)
        if judgement is not None:
            first += [o.chance > 0.5 for o in judgement.opinions if o.chance is not None and o.chance != 0.5]
            consistent += [] if judgement.consistent is None else [judgement.consistent]
        elif answer.shown is not None and answer.best is not None:
            first.append(answer.shown[0] == answer.best)
        if answer.skipped:
            skips[judgement.reason if judgement is not None else "skipped"] += 1
        elif answer.best is None:
            ties += 1
        elif difference != 0:
            right[i] = (answer.best == 0) == (difference > 0)
    sizes = np.abs([difference for _, difference in asked])
    # Of a hybrid those of its two, as each was asked.
    parts = [oracle, *(getattr(oracle, name, None) for name in ("cheap", "costly"))]
    models: list[Any] = [part for part in parts if hasattr(part, "judgements")]
    told = [[one.judgements[query.id] for one in models if query.id in one.judgements] for query, _ in asked]
    used = [judgement for each in told for judgement in each]
    return Calibration(
        queries=len(asked),
        right=_share(right),
        first=Share(sum(first), len(first)),
        consistent=Share(sum(consistent), len(consistent)),
        ties=ties,
        skips=skips,
        bins=tuple(_bins(sizes, right, bins)),
        cost=sum(judgement.cost for judgement in used),
        tokens=sum(judgement.tokens_in + judgement.tokens_out for judgement in used),
        seconds=seconds,
        estimated=sum(judgement.estimated for judgement in used),
        unread=next((one.reply for each in reversed(used) for one in each.opinions if one.reason in UNREAD), ""),
        cached=sum(bool(each) and all(one.cached and one.reason != IDENTICAL for one in each) for each in told),
    )


def _share(right: Array) -> Share:
    return Share(int(np.nansum(right)), int(np.isfinite(right).sum()))


def _bins(sizes: Array, right: Array, count: int) -> list[Bin]:
    """Divide queries into `count` groups of equal number by the size of their true difference."""
    groups = np.array_split(np.argsort(sizes, kind="stable"), min(count, len(sizes)))
    return [Bin(float(sizes[g[0]]), float(sizes[g[-1]]), len(g), _share(right[g])) for g in groups]
