"""A report on published labels: what they hold, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefenvs.datasets.labels.files import LabelFile, Rows, miscounted, other_rows, place
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

MOSTLY_TIES = 0.9
"""From this share of ties on, labels teach next to nothing (Uni-RLHF's antmaze-umaze-diverse has 0.993)."""
UNLIKELY = 0.01
"""A deviation from chance counts below this two-sided probability."""
FIXED_EPISODES = {"halfcheetah": 1000, "antmaze-medium": 1001, "antmaze-large": 1001}
"""Steps in nearly all episodes of D4RL's files of these families, by which rows can be checked without the data."""


@dataclass(frozen=True)
class LabelReport:
    """Figures of one label file, and what is to be said about them.

    pairs, indexed: labelled pairs, and pairs in the index files; first, second, ties, skips: answers of each kind.
    side: two-sided probability of so uneven a share of first and second answers if neither side were favoured.
    repeated: pairs that occur before, in either order; contradicted: those of them that were answered differently.
    same: pairs of a segment with itself; overlapping: pairs that share steps.
    crossing, crossing_other: share of pairs across an episode's end, in the rows given and in the other way of counting
    them; outside: pairs past the end of the data. None where neither the data nor their episodes' length is known.
    compared, agreement, script_ties: pairs that people and the true return both decide, the share of them decided
    alike, and the return's share of ties; None where no true rewards and no scripted labels are at hand.
    faults: what makes the labels unfit to learn from; remarks: what else is worth knowing.
    """

    name: str
    layout: str
    rows: Rows
    pairs: int
    indexed: int
    length: int
    first: int
    second: int
    ties: int
    skips: int
    side: float
    repeated: int
    contradicted: int
    same: int
    overlapping: int
    outside: int | None = None
    crossing: float | None = None
    crossing_other: float | None = None
    compared: int | None = None
    agreement: float | None = None
    script_ties: float | None = None
    faults: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def report_labels(
    labels: LabelFile,
    dataset: OfflineDataset | None = None,
    script: LabelFile | None = None,
    rows: Rows = "qlearning",
    tie_below: float = 0.0,
) -> LabelReport:
    """Look for what is wrong with a label file.

    dataset: the data that its rows count, for checks of rows and, with true rewards, of agreement.
    script: labels of the same pairs by a script, in any order, for agreement without the data.
    tie_below: true returns that differ by no more are a tie (Uni-RLHF's scripts: 10 on MuJoCo, else 0).
    """
    # SciPy's statistics take most of a second to import, which every command would pay.
    from scipy.stats import binomtest

    if dataset is not None and script is not None:
        raise PrefenvsError("agreement is measured with the true returns of a data set or with scripted labels: give 1")
    strict = labels.strict
    first = int((strict & (labels.probabilities[:, 0] > 0.5)).sum())
    second = int(strict.sum()) - first
    repeated, contradicted = _repetitions(labels)
    gaps = np.abs(labels.starts[:, 0] - labels.starts[:, 1])
    figures: dict[str, object] = {
        "name": labels.name,
        "layout": labels.layout + ("-script" if labels.scripted else ""),
        "rows": rows,
        "pairs": len(labels),
        "indexed": labels.indexed,
        "length": labels.length,
        "first": first,
        "second": second,
        "ties": int(labels.tied.sum()),
        "skips": int(labels.skipped.sum()),
        "side": float(binomtest(first, first + second).pvalue) if first + second else 1.0,
        "repeated": repeated,
        "contradicted": contradicted,
        "same": int((gaps == 0).sum()),
        "overlapping": int(((gaps > 0) & (gaps < labels.length)).sum()),
    }
    figures |= _check_rows(labels, dataset, rows)
    choices = _choices_of_script(labels, script) if script is not None else None
    if dataset is not None and dataset.trajectories.true_rewards is not None:
        choices = _choices_of_returns(labels, dataset, rows, tie_below)
    if choices is not None:
        figures |= _agreement(labels, choices)
    report = LabelReport(**figures)  # type: ignore[arg-type]
    faults, remarks = _find_faults(report, labels), _find_remarks(report)
    return LabelReport(**figures, faults=tuple(faults), remarks=tuple(remarks))  # type: ignore[arg-type]


def _repetitions(labels: LabelFile) -> tuple[int, int]:
    """Count pairs that occur again, in either order, and those of them answered otherwise than the first time."""
    turned = labels.starts[:, 0] > labels.starts[:, 1]
    pairs = np.where(turned[:, None], labels.starts[:, ::-1], labels.starts)
    answers = np.where(turned[:, None], labels.probabilities[:, ::-1], labels.probabilities)[:, 0]
    _, first_at, group = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    before = answers[first_at[group.ravel()]]
    differs = (answers != before) & ~np.isnan(answers) & ~np.isnan(before)
    return len(pairs) - len(first_at), int(differs.sum())


def _check_rows(labels: LabelFile, dataset: OfflineDataset | None, rows: Rows) -> dict[str, object]:
    other = other_rows(rows)
    if dataset is not None:
        found, otherwise = place(labels, dataset, rows), place(labels, dataset, other)
        return {
            "outside": int(found.outside.sum()),
            "crossing": float(found.crossing.mean()),
            "crossing_other": float(otherwise.crossing.mean()),
        }
    steps = next((count for family, count in FIXED_EPISODES.items() if labels.name.startswith(family)), None)
    if steps is None:
        return {}
    shares = {}
    for way, count in (("qlearning", steps - 1), ("raw", steps)):
        shares[way] = float((labels.starts % count + labels.length > count).any(axis=1).mean())
    return {"crossing": shares[rows], "crossing_other": shares[other]}


def _choices_of_returns(labels: LabelFile, dataset: OfflineDataset, rows: Rows, tie_below: float) -> Array:
    """What the true return prefers: 1 the first, 0 the second, 0.5 a tie, NaN where a segment lies in no episode."""
    data, found = dataset.trajectories, place(labels, dataset, rows)
    assert data.true_rewards is not None
    sums = np.concatenate([[0.0], np.cumsum(data.true_rewards, dtype=np.float64)])
    begin = data.begins[found.episodes] + found.starts
    returns = sums[np.minimum(begin + labels.length, len(sums) - 1)] - sums[begin]
    difference = returns[:, 0] - returns[:, 1]
    # Differences of cumulative sums are exact to about 1e-16 of the largest sum.
    rounding = 1e-12 * float(np.abs(sums).max(initial=0.0))
    choices = np.where(np.abs(difference) <= max(tie_below, rounding), 0.5, difference > 0)
    known: Array = ~(found.outside | found.crossing)
    return np.where(known, choices, np.nan)


def _choices_of_script(labels: LabelFile, script: LabelFile) -> Array:
    """What a script said about the same pairs; NaN where it was not asked. The files are joined on the rows."""
    columns = script.starts, script.probabilities[:, 0]
    known = {(int(a), int(b)): float(share) for (a, b), share in zip(*columns, strict=True)}
    known |= {(b, a): 1.0 - share for (a, b), share in known.items() if (b, a) not in known}
    choices = np.array([known.get((int(a), int(b)), np.nan) for a, b in labels.starts])
    if np.isnan(choices).all():
        raise PrefenvsError(f"{script.folder} and {labels.folder} have no pair in common")
    return choices


def _agreement(labels: LabelFile, choices: Array) -> dict[str, object]:
    known = ~np.isnan(choices)
    both = known & labels.strict & (choices != 0.5)
    alike = (labels.probabilities[both, 0] > 0.5) == (choices[both] > 0.5)
    return {
        "compared": int(both.sum()),
        "agreement": float(alike.mean()) if both.any() else None,
        "script_ties": float((choices[known] == 0.5).mean()) if known.any() else None,
    }


def _find_faults(report: LabelReport, labels: LabelFile) -> list[str]:
    from scipy.stats import binomtest

    faults = []
    strict, shares = report.first + report.second, report.ties / max(report.pairs - report.skips, 1)
    if report.skips == report.pairs:
        faults.append("every pair was skipped")
    elif not strict:
        faults.append("every label is a tie")
    elif shares >= MOSTLY_TIES:
        faults.append(f"{shares:.1%} are ties: only {strict} labels prefer anything")
    if strict > 10 and not (report.first and report.second):
        faults.append(f"all {strict} decided labels name the {'first' if report.first else 'second'} segment")
    if report.outside:
        faults.append(f"{report.outside} pairs reach past the end of the data: wrong data set, or a cut-off file")
    if report.crossing is not None and report.crossing == 1.0:
        faults.append("every pair crosses an episode's end: none is left to learn from")
    elif (
        report.crossing is not None
        and report.crossing_other is not None
        and miscounted(report.crossing, report.crossing_other)
    ):
        faults.append(
            f"{report.crossing:.1%} of pairs cross an episode's end if rows count {report.rows} steps; "
            f"{report.crossing_other:.1%} if they count {other_rows(report.rows)} ones"
        )
    for side, column, other in (("first", *labels.starts.T), ("second", *labels.starts.T[::-1])):
        # Drawn from all rows of the data, so many starts do not lie below their own number by chance.
        if len(column) > 10 and column.max() < len(column) and other.max() >= 2 * len(column):
            faults.append(
                f"the {side} segments' rows lie below {len(column)}, the number of pairs, and the others' reach "
                f"{other.max()}: numbers of pairs, not of rows"
            )
    if report.agreement is not None and report.compared:
        alike = round(report.agreement * report.compared)
        above = binomtest(alike, report.compared, alternative="greater").pvalue
        if above > UNLIKELY:
            faults.append(
                f"no better than chance: people and true return agree on {report.agreement:.1%} of "
                f"{report.compared} decided pairs"
            )
    return faults


def _find_remarks(report: LabelReport) -> list[str]:
    remarks = []
    if report.indexed > report.pairs:
        remarks.append(f"{report.indexed} pairs are indexed, the first {report.pairs} of them labelled and used")
    if report.side < UNLIKELY:
        share = report.first / (report.first + report.second)
        remarks.append(f"{share:.0%} of decided labels name the first segment (p = {report.side:.1g}): side bias")
    if 0 < report.skips < report.pairs:
        remarks.append(f"{report.skips} pairs were skipped")
    if report.repeated:
        remarks.append(f"{report.repeated} pairs occur again, {report.contradicted} of them answered otherwise")
    if report.same:
        remarks.append(f"{report.same} pairs compare a segment with itself")
    if report.overlapping:
        remarks.append(f"{report.overlapping} pairs share steps")
    if report.crossing:
        how = " by the usual length of its episodes" if report.outside is None else ""
        count = round(report.crossing * report.pairs)
        remarks.append(
            f"{count} of {report.pairs} pairs ({report.crossing:.1%}) cross an episode's end{how}: training and import "
            "leave them out"
        )
    return remarks
