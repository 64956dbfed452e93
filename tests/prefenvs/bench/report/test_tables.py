"""Figures in tables are those that NumPy and rliable give, and what is missing is said to be."""

import csv
import io
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rliable import library, metrics

from prefenvs.bench.report import tables
from prefenvs.bench.report.figures import learning_curves, performance_profiles
from prefenvs.bench.report.page import remarks
from prefenvs.bench.report.scores import Entry, Scores
from prefenvs.bench.report.statistics import (
    interquartile_mean,
    interquartile_means,
    mean_difference,
    performance_profile,
    probability_of_improvement,
)
from prefenvs.bench.results import Results
from prefenvs.errors import PrefenvsError

from ..synthetic import full, make_results

GOOD, POOR, UPPER = Entry("good", "oracle", 0), Entry("poor", "oracle", 0), Entry("upper", "none", 0)


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-1e3, 1e3)))
def test_the_interquartile_mean_is_rliable_s(matrix: np.ndarray) -> None:
    assert interquartile_mean(matrix) == pytest.approx(metrics.aggregate_iqm(matrix), rel=1e-9, abs=1e-6)


def test_normalised_scores_lie_between_random_actions_and_the_true_reward() -> None:
    scores = Scores(full())
    walk = scores.runs(GOOD, "walk")
    np.testing.assert_allclose(scores.runs(GOOD, "walk", "normalised"), (walk - 100.0) / (1_000.0 - 100.0))
    assert scores.runs(UPPER, "push", "normalised").mean() == pytest.approx(1.0)
    np.testing.assert_allclose(scores.runs(GOOD, "walk", "best"), walk + 5.0)
    assert [entry.method for entry in scores.entries] == ["good", "poor", "upper", "random"]


def test_an_upper_bound_that_is_no_better_than_chance_scales_nothing() -> None:
    scores = Scores(make_results({("random", "push"): [0.0], ("upper", "push"): [0.0], ("good", "push"): [0.5]}))
    assert len(scores.runs(GOOD, "push", "normalised")) == 0
    (row,) = (row for row in tables.score_table(scores).rows if row[0].startswith("Good"))
    assert row[1:] == ("50% (a single seed)", "missing")


def test_where_only_the_explored_upper_bound_was_run_scores_are_normalised_by_it() -> None:
    results = full()
    own = {"good": {"upper": "plain", "bound": "upper"}, "poor": {"upper": "plain"}}
    methods = {name: one | own.get(name, {}) for name, one in results.suite["methods"].items()}
    for scores in (Scores(results), Scores(Results(results.frame, results.suite | {"methods": methods}))):
        for entry in (GOOD, POOR):
            walk = scores.runs(entry, "walk")
            np.testing.assert_allclose(scores.runs(entry, "walk", "normalised"), (walk - 100.0) / (1_000.0 - 100.0))


def test_intervals_are_rliable_s_stratified_bootstrap() -> None:
    scores = Scores(full())
    matrix = scores.matrix(GOOD, ["walk", "push"])
    ours = interquartile_means({"good": matrix}, resamples=500, seed=3)["good"]
    np.random.seed(3)  # noqa: NPY002 - rliable draws from the global generator
    _, theirs = library.get_interval_estimates(
        {"good": matrix}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=500
    )
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs["good"][:, 0]))
    assert ours.low < ours.value < ours.high
    assert ours.value == pytest.approx(metrics.aggregate_iqm(matrix))
    single = interquartile_means({"good": matrix[:1]})["good"]
    assert np.isnan([single.low, single.high]).all()


def test_probability_of_improvement() -> None:
    scores = Scores(full())
    good, poor = (scores.matrix(entry, ["walk", "push"]) for entry in (GOOD, POOR))
    assert probability_of_improvement(good, poor).value == 1.0
    assert probability_of_improvement(good[:3], poor + 0.4).value == pytest.approx(
        metrics.probability_of_improvement(good[:3], poor + 0.4)
    )
    ours = probability_of_improvement(poor, poor, resamples=200)
    assert ours.value == pytest.approx(0.5)
    assert ours.low < 0.5 < ours.high
    with pytest.raises(PrefenvsError, match="2 and 1 tasks"):
        probability_of_improvement(good, poor[:, :1])
    table = tables.improvement_table(scores)
    cells = {row[0]: row[1:] for row in table.rows}
    assert cells["Good (100 labels)"][1].startswith("1.00")
    assert cells["Poor <&> (100 labels)"][0].startswith("0.00")


def test_performance_profiles_fall_and_count_runs() -> None:
    matrix = np.array([[0.2, 0.8], [0.4, 0.6]])
    thresholds = np.linspace(0, 1, 11)
    share, low, high = performance_profile(matrix, thresholds, resamples=100)
    np.testing.assert_allclose(share, [(matrix > t).mean() for t in thresholds])
    assert (low <= share + 1e-12).all()
    assert (share <= high + 1e-12).all()
    assert np.isnan(performance_profile(matrix[:1], thresholds)[1]).all()


def test_missing_cells_and_single_seeds_are_said_to_be() -> None:
    scores = Scores(
        make_results(
            {
                ("random", "walk"): [0.0],
                ("random", "push"): [0.0],
                ("upper", "walk"): [10.0, 10.0],
                ("upper", "push"): [1.0, 1.0],
                ("good", "walk"): [5.0, None],
                ("good", "push"): [0.5, 0.7],
                ("poor", "walk"): [None, None],
                ("poor", "push"): [0.1, 0.3],
            }
        )
    )
    rows = {row[0]: row[1:] for row in tables.score_table(scores, resamples=100).rows}
    good, poor = rows["Good (100 labels)"], rows["Poor <&> (100 labels)"]
    assert good[0] == "5.0 (a single seed)"
    assert good[1] == "60% (2 seeds: 50%, 70%)"
    assert good[2] == "0.50, a single seed"
    assert poor[0] == "missing"
    assert poor[2] == "0.20 (2 seeds: 0.10, 0.30) (1 of 2 tasks)"
    assert scores.matrix(GOOD, ["walk", "push"]).shape == (1, 2)
    listed = tables.missing_table(scores).rows
    assert listed == (
        ("Good (100 labels)", "walk", "not run yet: 1"),
        ("Poor <&> (100 labels)", "walk", "not run yet: 0, 1"),
    )


def test_a_task_on_which_no_run_has_finished_is_left_out_and_named() -> None:
    results = make_results(
        {
            ("random", "walk"): [0.0],
            ("random", "push"): [None],
            ("good", "walk"): [5.0],
            ("good", "push"): [None],
        }
    )
    scores = Scores(results)
    assert tables.score_table(scores, resamples=10).columns == ("method", "walk (return)", "normalised, all tasks")
    assert {row[1] for row in tables.seeds_table(scores).rows} == {"walk"}
    assert any("No run has finished on push" in note for note in remarks(results, scores))
    assert ("Good (100 labels)", "push", "not run yet: 0") in tables.missing_table(scores).rows


def test_tables_are_written_for_every_reader() -> None:
    scores = Scores(full())
    table = tables.score_table(scores, resamples=50)
    markdown, latex = table.markdown(), table.latex()
    assert markdown.count("\n| ") == len(table.rows) + 2
    assert r"Poor \textless{}\&\textgreater{} (100 labels)" in latex
    assert r"\toprule" in latex
    assert r"\label{tab:synthetic-scores-at-the-end-of-training}" in table.latex("synthetic")
    assert r"\label{tab:100-ours-scores-at-the-end-of-training}" in table.latex("100% ours")
    assert r"\begin{tabularx}{\linewidth}" in latex
    assert latex.count(r"\\") >= len(table.rows) + 1
    lines = list(csv.DictReader(io.StringIO(tables.long_csv(scores, resamples=50))))
    assert len(lines) == 8
    line = next(line for line in lines if (line["method"], line["task"]) == ("good", "walk"))
    values = scores.runs(GOOD, "walk")
    assert float(line["iqm"]) == pytest.approx(np.sort(values)[1:3].mean(), rel=1e-4)
    assert float(line["mean"]) == pytest.approx(values.mean(), rel=1e-4)
    assert (line["seeds"], line["expected"], line["labels"]) == ("4", "4", "100")


def test_tasks_with_budgets_of_their_own_share_a_row() -> None:
    results = full()
    more = results.frame[results.frame["method"] == "good"].copy()
    more["cell"] += "-more"
    more["budget"] = 1_000.0
    results.frame.loc[(results.frame["method"] == "good") & (results.frame["task"] == "push"), "budget"] = 400.0
    scores = Scores(Results(pd.concat([results.frame, more], ignore_index=True), results.suite))
    good = [entry for entry in scores.entries if entry.method == "good"]
    assert [scores.label(entry) for entry in good] == ["Good (100 to 400 labels)", "Good (1,000 labels)"]
    assert [len(scores.of(entry)) for entry in good] == [8, 8]


def test_costs_and_rewards() -> None:
    scores = Scores(full())
    (cost,) = (row for row in tables.cost_table(scores).rows if row[:2] == ("Good (100 labels)", "walk"))
    assert cost[2:] == ("200", "100", "2 min 30 s", "1 h 00 min", "1.50", "4")
    (judged,) = (row for row in tables.reward_table(scores).rows if row[:2] == ("Good (100 labels)", "push"))
    assert judged[2:5] == (
        "80% (4 seeds: 80%, 80%, 80%, 80%)",
        "0.50 (4 seeds: 0.50, 0.50, 0.50, 0.50)",
        "0.25 (4 seeds: 0.25, 0.25, 0.25, 0.25)",
    )
    assert all(not row[0].startswith("Upper") for row in tables.reward_table(scores).rows)


def test_a_difference_s_interval_is_that_of_all_its_resamples() -> None:
    """With three runs on each side, all 27 x 27 resamples can be listed."""
    first, second = np.array([3.0, 5.0, 7.5]), np.array([1.0, 2.0, 4.0])
    drawn = [np.mean(list(product(side, repeat=3)), axis=1) for side in (first, second)]
    for others, exact in ((None, drawn[0]), (second, np.subtract.outer(*drawn).ravel())):
        found = mean_difference(first, others, resamples=40_000)
        assert found.value == pytest.approx(exact.mean())
        np.testing.assert_allclose(
            [found.low, found.high], np.percentile(exact, (2.5, 97.5), method="inverted_cdf"), atol=0.1
        )
    assert np.isnan(mean_difference(first[:1], second).low)


def test_returns_stand_beside_those_of_the_method_they_are_compared_with() -> None:
    scores = Scores(full())
    plain, above = (tables.return_table(scores, against, resamples=200) for against in (None, "poor"))
    assert [row[0] for row in plain.rows] == [scores.label(entry) for entry in scores.entries]
    assert "above Poor <&>" in above.title
    walk = above.columns.index("walk")
    good = next(row for row in above.rows if row[0] == scores.label(GOOD))
    expected = scores.runs(GOOD, "walk").mean() - scores.runs(POOR, "walk").mean()
    assert good[walk].startswith(tables.show(expected, "return"))
    assert all(row[0] != scores.label(POOR) for row in above.rows)
    with pytest.raises(PrefenvsError, match="no method 'best' to compare with: there are good, poor, upper, random"):
        tables.return_table(scores, "best")


@pytest.mark.parametrize("count", [2, 3, 5, 6, 9, 10, 12])
def test_no_table_calls_an_interval_what_few_seeds_cannot_give(count: int) -> None:
    rng = np.random.default_rng(count)
    scores = Scores(
        make_results(
            {("random", "walk"): [0.0], ("upper", "walk"): [9e4] * count}
            | {(name, "walk"): list(rng.uniform(2e3, 8e3, count)) for name in ("good", "poor")}
        )
    )
    values = scores.runs(GOOD, "walk")
    shown = [tables.show(value, "return") for value in values]
    compared = tables.return_table(scores, "poor", resamples=50), tables.improvement_table(scores, resamples=50)
    for table in (tables.score_table(scores, 50), tables.return_table(scores, None, 50), *compared):
        row = next(row for row in table.rows if row[0].startswith("Good"))
        cells = [cell for cell in row[1:] if cell]
        assert all(("[" in cell) == (count >= 10) for cell in cells), (table.title, row)
        assert all(str(count) in cell for cell in cells)
    plain = next(row for row in tables.return_table(scores, None, 50).rows if row[0].startswith("Good"))[1]
    if count <= 5:
        assert all(text in plain for text in shown)
    else:
        ends = [tables.show(value, "return") for value in (values.min(), values.max())]
        assert f"({count} seeds: {ends[0]} to {ends[1]})" in plain
    line = next(csv.DictReader(io.StringIO(tables.long_csv(scores, 50))))
    assert (line["low"] == "") == (count < 10)
    assert float(line["min"]) == pytest.approx(values.min(), rel=1e-4)


def beaten() -> Scores:
    """On push a learner does better than the true reward's; on walk it does not."""
    return Scores(
        make_results(
            {
                ("random", "walk"): [0.0],
                ("random", "push"): [0.0],
                ("upper", "walk"): [10.0, 12.0],
                ("upper", "push"): [0.2, 0.4],
                ("good", "walk"): [5.0, 6.0],
                ("good", "push"): [0.9, 1.0],
                ("poor", "walk"): [1.0, 2.0],
                ("poor", "push"): [0.1, 0.1],
            }
        )
    )


def test_an_upper_bound_that_another_row_beats_normalises_nothing() -> None:
    scores = beaten()
    for entry in (GOOD, POOR, UPPER):
        assert len(scores.runs(entry, "push", "normalised")) == 0
        assert len(scores.runs(entry, "walk", "normalised")) == 2
    table = tables.score_table(scores, resamples=50)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["Upper bound"][1] == "30% (2 seeds: 20%, 40%), beaten: no upper bound"
    assert "beaten" not in rows["Upper bound"][0]
    assert rows["Poor <&> (100 labels)"][2].endswith("(1 of 2 tasks)")
    assert "Upper bound does worse on push (mean 0.3) than Good (100 labels) (0.95)" in table.note
    assert not Scores(full()).beaten_bounds


def test_latex_takes_both_columns_where_a_table_is_wide_and_escapes_what_it_must() -> None:
    table = tables.Table("50% of a_b", ("a", "b"), (("x^2 {~}", "$1 & #2"),), "A note.")
    latex = table.latex()
    assert latex.startswith("\\begin{table}\n\\caption{50\\% of a\\_b. A note.}\n\\label{tab:50-of-a-b}")
    assert r"x\textasciicircum{}2 \{\textasciitilde{}\} & \$1 \& \#2 \\" in latex
    wide = tables.Table("Wide", tuple("abcde"), (tuple("vwxyz"),))
    assert wide.latex().startswith("\\begin{table*}")


def test_every_seed_has_a_cell() -> None:
    scores = Scores(make_results({("good", "walk"): [5.0, None, 2_000.0], ("random", "walk"): [1.0]}))
    table = tables.seeds_table(scores)
    assert table.columns == ("method", "task", "0", "1", "2", "mean")
    assert table.rows == (
        ("Good (100 labels)", "walk", "5.0", "missing", "2,000", "1,002"),
        ("random actions", "walk", "1.0", "–", "–", "1.0"),
    )


def test_an_aggregate_joins_tasks_by_their_seeds() -> None:
    finals: dict[tuple[str, str], list[float | None]] = {
        ("random", "walk"): [0.0],
        ("random", "push"): [0.0],
        ("upper", "walk"): [100.0, 100.0, 100.0],
        ("upper", "push"): [1.0, 1.0, 1.0],
        ("good", "walk"): [0.0, 50.0, 100.0],
        ("good", "push"): [None, 0.5, 1.0],
        ("poor", "walk"): [20.0, None, None],
        ("poor", "push"): [None, 0.1, 0.1],
    }
    scores = Scores(make_results(finals))
    rows = {row[0]: row for row in tables.score_table(scores, resamples=100).rows}
    assert rows["Good (100 labels)"][-1] == "0.75 (2 seeds: 0.50, 1.00)"
    assert rows["Poor <&> (100 labels)"][-1] == tables.MISSING  # no seed has both tasks
    assert tables.improvement_table(scores).rows[0][2] == tables.MISSING
    assert performance_profiles(scores, resamples=10) is not None


def test_a_finished_run_that_was_not_measured_is_told() -> None:
    results = full()
    frame = results.frame
    frame.loc[(frame["cell"] == "push--good--1"), "success"] = np.nan
    scores = Scores(results)
    (row,) = (row for row in tables.score_table(scores).rows if row[0].startswith("Good"))
    assert "(3 of 4 seeds)" in row[2]
    assert tables.missing_table(scores).rows == (
        ("push--good--1", "", "finished, but its last evaluation tells no success"),
    )


def test_a_program_that_tells_no_labels_is_drawn_and_told() -> None:
    results = full()
    results.frame.loc[results.frame["method"] == "good", "labels"] = np.nan
    scores = Scores(results)
    assert {row[3] for row in tables.cost_table(scores).rows if row[0].startswith("Good")} == {tables.MISSING}
    # Four seeds and their mean of each, and levels: one over steps, two over labels.
    for by, lines in (("steps", 16), ("labels", 7)):
        figure = learning_curves(scores, by)
        assert figure is not None
        assert len(figure.axes[0].lines) == lines
