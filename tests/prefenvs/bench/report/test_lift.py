"""Label lift by arithmetic done here, and what is said where it cannot be had or labels teach nothing."""

import math

import pandas as pd
import pytest

from prefenvs.bench.report.figures import lift_by_rater
from prefenvs.bench.report.lift import find_lift, idle_labels, lift_of, lift_table
from prefenvs.bench.report.page import remarks
from prefenvs.bench.report.scores import Entry, Scores
from prefenvs.bench.results import Results

from ..synthetic import METHODS, full, make_results

GOOD = Entry("good", "oracle", 0)


def held(**finals: list[float | None]) -> Scores:
    """Results of one task with a control that asks, one that does not, and an upper bound."""
    results = make_results({(name, "walk"): values for name, values in finals.items()}, {"walk": "mean_return"})
    methods = {name: METHODS[name] for name in finals}
    methods["good"] = methods["good"] | {"controls": ("coin", "alone"), "bound": "upper"}
    return Scores(Results(results.frame, results.suite | {"methods": methods}))


def test_lift_is_the_share_of_the_true_reward_above_the_control() -> None:
    scores = held(good=[600.0, 900.0, 300.0], coin=[200.0, 100.0], alone=[250.0], upper=[1_000.0, 900.0, 1_100.0])
    lift = lift_of(scores, GOOD, "walk")
    assert lift is not None
    assert lift.bounds
    assert lift.each == {0: pytest.approx(400 / 800), 1: pytest.approx(800 / 800)}  # seed 2 has no control
    assert lift.mean == pytest.approx((750 - 150) / (950 - 150))  # of the seeds that all three have
    # Evaluations at 0, 100 and 200 steps are 0, the last one plus 5, and the last one.
    curve = lift_of(scores, GOOD, "walk", "curve")
    assert curve is not None

    def area(value: float) -> float:
        return (0.5 * (value + 5) + 0.5 * (2 * value + 5)) / 2

    assert curve.each[0] == pytest.approx((area(600) - area(200)) / (area(1_000) - area(200)))


def test_the_table_prints_every_seed_and_the_row_at_no_labels() -> None:
    scores = held(good=[600.0, 900.0], coin=[200.0, 100.0], alone=[250.0, 50.0], upper=[1_000.0, 900.0])
    (row,) = lift_table(scores).rows
    assert row[1:] == (
        "walk",
        "0.0 (0: 0.0, 1: 0.0)",
        "750.0 (0: 600.0, 1: 900.0)",
        "Good on coin flips (control): 150.0 (0: 200.0, 1: 100.0); "
        "Exploration alone (control): 150.0 (0: 250.0, 1: 50.0)",
        "950.0 (0: 1,000, 1: 900.0)",
        "0.75 (0: 0.50, 1: 1.00)",
        row[-1],
    )
    assert idle_labels(scores) == []


def test_an_upper_bound_below_labels_or_control_normalises_nothing() -> None:
    scores = held(good=[600.0, 900.0], coin=[200.0, 100.0], upper=[500.0, 400.0])
    (row,) = lift_table(scores).rows
    assert row[-2] == "the true reward bounds nothing; difference 600.0 (0: 400.0, 1: 800.0)"
    below = find_lift({0: 1.0}, {0: 3.0}, {0: 2.0})
    assert not below.bounds
    assert math.isnan(below.mean)
    assert below.difference == -2.0


def test_wrong_rewards_that_do_as_well_are_told() -> None:
    scores = held(good=[300.0, 300.0], coin=[290.0, 280.0], alone=[400.0, 300.0], upper=[1_000.0, 900.0])
    (sentence,) = idle_labels(scores)
    assert sentence.startswith("On walk, Exploration alone (control) does as well (350.0) as Good")
    assert sentence in remarks(scores.results, scores)


def test_a_control_is_of_as_many_labels() -> None:
    """Runs with two budgets, of which the control has the larger one only."""
    scores = held(good=[600.0, 900.0], coin=[200.0, 100.0], alone=[250.0], upper=[1_000.0, 900.0])
    frame = scores.results.frame
    frame.loc[frame["method"] == "coin", "budget"] = 500.0
    more = frame[frame["method"] == "good"].assign(budget=500.0)
    more["cell"] += "-500"
    both = Scores(Results(pd.concat([frame, more], ignore_index=True), scores.suite))
    assert lift_of(both, GOOD, "walk") is None
    lift = lift_of(both, Entry("good", "oracle", 1), "walk")
    assert lift is not None
    assert lift.differences == {0: 400.0, 1: 800.0}


def test_curves_over_other_steps_are_not_compared() -> None:
    scores = held(good=[600.0, 900.0], coin=[200.0, 100.0], upper=[1_000.0, 900.0])
    frame = scores.results.frame
    # The control's first evaluation, a 0, is not there, which raises the mean of its curve.
    late = frame[~((frame["method"] == "coin") & (frame["steps"] == 0))].reset_index(drop=True)
    cut = Scores(Results(late, scores.suite))
    assert lift_table(scores).rows[0][6:] == ("0.75 (0: 0.50, 1: 1.00)", "0.75 (0: 0.50, 1: 1.00)")
    assert lift_table(cut).rows[0][6:] == ("0.75 (0: 0.50, 1: 1.00)", "not measured over the same steps")


def test_a_control_of_another_rater_is_named() -> None:
    scores = held(good=[600.0, 900.0], coin=[200.0, 100.0], upper=[1_000.0, 900.0])
    frame = scores.results.frame
    coin = frame[frame["method"] == "coin"]
    others = [coin.assign(oracle=rater, cell=coin["cell"] + rater) for rater in ("people", "script")]
    frame = pd.concat([frame[frame["method"] != "coin"], *others], ignore_index=True)
    (row,) = lift_table(Scores(Results(frame, scores.suite))).rows
    assert row[4] == "Good on coin flips (control) (people): 150.0 (0: 200.0, 1: 100.0)"


def test_lift_is_drawn_by_rater() -> None:
    scores = held(good=[600.0, 900.0], coin=[200.0, 100.0], upper=[1_000.0, 900.0])
    assert lift_by_rater(scores) is None
    frame, raters = scores.results.frame, ("mistake:mistake=0.1", "mistake:mistake=0.5", "crowd-mujoco")
    taught = [frame[frame["method"] == "good"].assign(oracle=name) for name in raters]
    for part, name in zip(taught, raters, strict=True):
        part["cell"] += name
    results = Results(pd.concat([frame[frame["method"] != "good"], *taught], ignore_index=True), scores.suite)
    figure = lift_by_rater(Scores(results))
    assert figure is not None
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["90% right", "50% right", "crowd-mujoco"]
    assert [list(line.get_ydata()) for line in axes.lines[:3]] == [[pytest.approx(0.5), pytest.approx(1.0)]] * 3


def test_results_without_a_control_say_so() -> None:
    results = full()
    assert lift_table(Scores(results)).rows == ()
    assert any(note.startswith("No control") for note in remarks(results, Scores(results)))
