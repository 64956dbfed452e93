"""Label lift: how much of what the true reward teaches is taught by labels, above a rater who knows nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prefenvs.bench.report.scores import Entry, Scores
from prefenvs.bench.report.tables import MISSING, NOT_ASKED, Table, show

COLUMNS = {"final": "at the end", "curve": "over the whole curve"}
"""Figures that lift is made of: the last evaluation, and the mean of the learning curve."""


@dataclass(frozen=True)
class Lift:
    """(labels - control) / (true reward - control), on one task and by one figure.

    each: by the seeds that all three have; a seed whose own true reward is not above its control is NaN. mean: of the
    means over those seeds. bounds: whether the true reward is above labels and control in the mean; where it is not,
    each and mean are NaN. differences: labels less control by the seeds that both have, difference: their mean, in the
    task's own measure.
    """

    each: Mapping[int, float]
    mean: float
    bounds: bool
    difference: float
    differences: Mapping[int, float]


def find_lift(labels: Mapping[int, float], control: Mapping[int, float], bound: Mapping[int, float]) -> Lift:
    """Return the lift of figures by seed; NaN where labels, control or the true reward have none."""
    differences = {seed: labels[seed] - control[seed] for seed in labels if seed in control}
    shared = [seed for seed in differences if seed in bound]
    ours, floor, top = (_mean({seed: values[seed] for seed in shared}) for values in (labels, control, bound))
    bounds = top > floor and top >= ours
    each = {
        seed: differences[seed] / (bound[seed] - control[seed]) if bounds and bound[seed] > control[seed] else math.nan
        for seed in shared
    }
    mean = (ours - floor) / (top - floor) if bounds else math.nan
    return Lift(each, mean, bounds, _mean(differences), differences)


def lift_of(scores: Scores, entry: Entry, task: str, column: str = "final") -> Lift | None:
    """Return an entry's lift on a task; None where its method has no control, or the results have no run of it.

    That of curves is of NaN where they are not all measured over the same steps.
    """
    control, bound = control_of(scores, entry, task), bound_of(scores, entry, task)
    if control is None:
        return None
    if column == "curve" and not _alike(scores, [entry, control, *([] if bound is None else [bound])], task):
        return find_lift({}, {}, {})
    top = {} if bound is None else scores.by_seed(bound, task, column)
    return find_lift(scores.by_seed(entry, task, column), scores.by_seed(control, task, column), top)


def control_of(scores: Scores, entry: Entry, task: str, number: int = 0) -> Entry | None:
    """Return a control of an entry with its budget, and with its rater where the control asks the same ones."""
    names = scores.method(entry).get("controls", ())
    return _find(scores, names[number], entry, task) if number < len(names) else None


def bound_of(scores: Scores, entry: Entry, task: str) -> Entry | None:
    """Return the agent on the true reward, with the same exploration, that belongs to an entry."""
    return _find(scores, scores.method(entry).get("bound", ""), entry, task)


def lift_table(scores: Scores) -> Table:
    """Every labelled method beside its controls and the true reward, with its label lift."""
    labelled = [entry for entry in scores.entries if scores.method(entry).get("controls")]
    rows = [_row(scores, entry, task) for entry in labelled for task in scores.tasks if len(scores.of(entry, task))]
    return Table(
        "Label lift",
        (
            "method",
            "task",
            "at 0 labels",
            "labels",
            "controls",
            "true reward, same exploration",
            *(f"lift {words}" for words in COLUMNS.values()),
        ),
        tuple(rows),
        "(labels - first control) / (true reward - first control): 0 is what a rater without knowledge teaches, 1 what "
        "the true reward does with the same steps and exploration. Of means, with each seed's value in brackets (seed: "
        "value) where a seed has all three. At 0 labels: the last evaluation before the first answer. Where the true "
        "reward bounds nothing, the difference of labels and control stands in the task's own measure.",
    )


def idle_labels(scores: Scores) -> list[str]:
    """Return a sentence for each method and task where a control without knowledge does as well as labels."""
    found = []
    for entry in scores.entries:
        names = scores.method(entry).get("controls", ())
        for task in scores.tasks:
            ours = _mean(scores.by_seed(entry, task))
            for number in range(len(names)):
                control = control_of(scores, entry, task, number)
                theirs = math.nan if control is None else _mean(scores.by_seed(control, task))
                if control is not None and theirs >= ours:
                    measure = scores.suite["measures"][task]
                    found.append(
                        f"On {task}, {scores.label(control)} does as well ({show(theirs, measure)}) as "
                        f"{scores.label(entry)} ({show(ours, measure)}): nothing there shows that labels teach."
                    )
    return found


def _row(scores: Scores, entry: Entry, task: str) -> tuple[str, ...]:
    measure = scores.suite["measures"][task]
    controls = []
    for number in range(len(scores.method(entry)["controls"])):
        control = control_of(scores, entry, task, number)
        if control is not None:
            raters = {other.oracle for other in scores.entries if other.method == control.method}
            # One of several that was not run with this entry's rater.
            strange = f" ({control.oracle})" if control.oracle != entry.oracle and len(raters) > 1 else ""
            title = scores.method(control)["title"] + strange
            controls.append(f"{title}: {_each(scores.by_seed(control, task), measure)}")
    bound = bound_of(scores, entry, task)
    before = scores.by_seed(entry, task, "unlabelled")
    return (
        scores.label(entry),
        task,
        NOT_ASKED if scores.method(entry)["offline"] else _each(before, measure),
        _each(scores.by_seed(entry, task), measure),
        "; ".join(controls) or "no control was run",
        NOT_ASKED if bound is None else _each(scores.by_seed(bound, task), measure),
        *(_lift(scores, entry, task, column) for column in COLUMNS),
    )


def _lift(scores: Scores, entry: Entry, task: str, column: str) -> str:
    lift = lift_of(scores, entry, task, column)
    if lift is None:
        return NOT_ASKED
    if math.isnan(lift.difference):
        final = lift_of(scores, entry, task)
        return MISSING if final is None or math.isnan(final.difference) else "not measured over the same steps"
    if lift.bounds:
        return _listed(lift.mean, lift.each, "share")
    measure = scores.suite["measures"][task]
    bound = bound_of(scores, entry, task)
    known = bound is not None and scores.by_seed(bound, task, column)
    why = "the true reward bounds nothing" if known else "no true reward with this exploration"
    return f"{why}; difference {_listed(lift.difference, lift.differences, measure)}"


def _alike(scores: Scores, entries: list[Entry], task: str) -> bool:
    """Whether all runs of these entries were measured from the same first step to the same last one."""
    spans = {
        (begin, end) for entry in entries for begin, end in scores.of(entry, task)[["begin", "end"]].to_numpy(float)
    }
    return len({span for span in spans if not math.isnan(span[0])}) < 2


def _each(values: Mapping[int, float], measure: str) -> str:
    return _listed(_mean(values), values, measure)


def _listed(mean: float, values: Mapping[int, float], measure: str) -> str:
    """Write a mean and every seed's value; a NaN among those is a seed whose true reward is not above its control."""
    if math.isnan(mean):
        return MISSING
    each = ", ".join(f"{seed}: {'-' if math.isnan(v) else show(v, measure)}" for seed, v in sorted(values.items()))
    return f"{show(mean, measure)} ({each})" if each else show(mean, measure)


def _find(scores: Scores, method: str, entry: Entry, task: str) -> Entry | None:
    """Return the entry of a method that has results on a task: of the same rater and budget, where it asks any."""
    found = [other for other in scores.entries if other.method == method and len(scores.of(other, task))]
    if found and scores.method(found[0])["asks"]:
        # By the labels themselves: a control that was run with one budget of several has one level.
        budgets = set(scores.of(entry, task)["budget"])
        alike = [other for other in found if set(scores.of(other, task)["budget"]) == budgets]
        found = [other for other in alike if other.oracle == entry.oracle] or alike
    return found[0] if found else None


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values) if values else math.nan
