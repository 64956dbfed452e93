from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from prefenvs import PrefenvsError, Preference, Query, Segment
from prefenvs.oracles.judging.ranking import Matches, information, rank
from prefenvs.oracles.judging.tournament import Tournament, judge_by_rater, report
from prefenvs.store import Store

NAMES = ("ada", "bo", "cy", "di")


def episode(value, number, length=5):
    rewards = np.full(length, float(value))
    observations = np.full((length, 2), [value, number], float)
    return Segment(observations, np.zeros((length, 1)), rewards, task="Pendulum-v1", source="judge", episode=number)


def played(values, episodes=30):
    return [[episode(value, number) for number in range(episodes)] for value in values]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "answers.sqlite") as store:
        yield store


def tournament(store, tmp_path, values=(3, 1, 4, 2), pairing="balanced", episodes=30, seed=0):
    return Tournament(
        NAMES[: len(values)],
        played(values, episodes),
        store,
        "judge",
        tmp_path / "matches.jsonl",
        pairing,
        seed,
    )


def planted(strengths, count, rng, ties=0.0):
    """Answers of people who agree with Bradley-Terry."""
    first = rng.integers(len(strengths), size=count)
    second = (first + rng.integers(1, len(strengths), size=count)) % len(strengths)
    chance = 1 / (1 + np.exp(strengths[second] - strengths[first]))
    scores = (rng.random(count) < chance).astype(float)
    scores[rng.random(count) < ties] = 0.5
    return Matches(first, second, scores, np.arange(count))


def test_a_planted_order_is_recovered_from_noisy_answers():
    truth = np.array([0.3, -1.2, 1.4, -0.5])
    ranking = rank(NAMES, planted(truth, 600, np.random.default_rng(0)))
    assert ranking.order.tolist() == [2, 0, 3, 1]
    np.testing.assert_allclose(ranking.strengths, truth - truth.mean(), atol=0.4)
    assert ranking.strengths.mean() == pytest.approx(0)
    assert ranking.best[2] > 0.95
    assert ranking.better[2, 1] == 1
    assert ranking.answers.sum() == 1200
    assert ranking.wins.sum() == pytest.approx(600)


@pytest.mark.parametrize("count", [6, 40])
def test_intervals_cover_as_often_as_they_say(count):
    """95 of 100 intervals should hold the truth; between 88 and 100 do, with few answers and with many."""
    rng = np.random.default_rng(1)
    inside = []
    for trial in range(60):
        truth = rng.normal(0, 1, 3)
        truth -= truth.mean()
        ranking = rank(NAMES[:3], planted(truth, count, rng), draws=200, seed=trial)
        inside.append((ranking.intervals[:, 0] <= truth) & (truth <= ranking.intervals[:, 1]))
    assert np.mean(inside) >= 0.88


def test_intervals_shrink_with_answers():
    truth, rng = np.array([0.5, -0.5]), np.random.default_rng(2)
    widths = []
    for count in (10, 100, 1000):
        ranking = rank(NAMES[:2], planted(truth, count, rng))
        widths.append(float(np.diff(ranking.intervals[0])[0]))
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_few_answers_that_all_agree_do_not_make_certainty():
    three = Matches(np.zeros(3, int), np.ones(3, int), np.ones(3), np.arange(3))
    ranking = rank(NAMES[:2], three, draws=4000)
    low, high = ranking.win_rate_intervals[0]
    # Jeffreys interval of 3 out of 3.
    assert low == pytest.approx(0.4394, abs=0.05)
    assert high > 0.999
    assert np.all(np.isfinite(ranking.strengths))
    assert np.all(np.isfinite(ranking.draws))


def test_intervals_of_two_agents_cover_whatever_the_chance():
    """Over all outcomes of 20 answers, each with its probability: 95% on the whole, as Jeffreys' interval."""
    count, chances = 20, np.linspace(0.05, 0.95, 91)
    covered = np.zeros(len(chances))
    for wins in range(count + 1):
        scores = (np.arange(count) < wins).astype(float)
        zeros = np.zeros(count, np.int64)
        (low, high), _ = rank(
            ("ada", "bo"), Matches(zeros, zeros + 1, scores, np.arange(count)), 400
        ).win_rate_intervals
        covered += binom.pmf(wins, count, chances) * ((low <= chances) & (chances <= high))
    assert 0.94 < covered.mean() < 0.965
    assert covered.min() > 0.87


def test_without_answers_all_are_equal_and_nothing_is_known():
    nothing = Matches(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0, int))
    ranking = rank(NAMES, nothing)
    np.testing.assert_allclose(ranking.strengths, 0, atol=1e-6)
    assert np.all(ranking.win_rate_intervals[:, 0] < 0.3)
    assert np.all(ranking.win_rate_intervals[:, 1] > 0.7)
    np.testing.assert_allclose(ranking.best, 0.25, atol=0.08)
    with pytest.raises(PrefenvsError, match="at least 2"):
        rank(NAMES[:1], nothing)


def test_ties_are_half_a_win_for_each():
    first, second = np.zeros(40, int), np.ones(40, int)
    ranking = rank(NAMES[:2], Matches(first, second, np.full(40, 0.5), np.arange(40)))
    np.testing.assert_allclose(ranking.strengths, 0, atol=1e-6)
    assert ranking.ties.tolist() == [40, 40]
    assert ranking.wins[0, 1] == ranking.wins[1, 0] == 20


def test_answers_to_one_question_count_less_than_answers_to_many():
    rng = np.random.default_rng(3)
    scores = (rng.random(60) < 0.7).astype(float)
    apart = Matches(np.zeros(60, int), np.ones(60, int), scores, np.arange(60))
    together = Matches(apart.first, apart.second, np.sort(scores), np.arange(60) // 10)
    widths = [np.diff(rank(NAMES[:2], matches).intervals[0])[0] for matches in (apart, together)]
    assert widths[1] > 1.5 * widths[0]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), agents=st.integers(2, 6), count=st.integers(0, 60))
def test_a_ranking_does_not_depend_on_the_order_of_answers_or_of_sides(seed, agents, count):
    rng = np.random.default_rng(seed)
    matches = planted(rng.normal(0, 2, agents), count, rng, ties=0.2)
    shuffled, swap = rng.permutation(count), rng.random(count) < 0.5
    first, second, scores = (array[shuffled] for array in (matches.first, matches.second, matches.scores))
    turned = Matches(
        np.where(swap, second, first), np.where(swap, first, second), np.where(swap, 1 - scores, scores), shuffled
    )
    names = [str(agent) for agent in range(agents)]
    one, two = rank(names, matches, draws=20), rank(names, turned, draws=20)
    np.testing.assert_allclose(one.strengths, two.strengths, atol=1e-3)
    assert np.all((one.win_rates > 0) & (one.win_rates < 1))
    assert one.win_rates.mean() == pytest.approx(0.5, abs=1e-3)


def test_an_answer_tells_most_where_the_outcome_is_unknown():
    rng = np.random.default_rng(4)
    # Two agents of unknown and about equal strength, and one that is known to be far below.
    draws = np.stack([rng.normal(0, 1, 4000), rng.normal(0, 1, 4000), rng.normal(-9, 0.1, 4000)], axis=1)
    gain = information(draws)
    assert gain[0, 1] > 10 * gain[0, 2]
    np.testing.assert_allclose(gain, gain.T, atol=1e-9)
    assert np.all(gain > -1e-9)


def test_balanced_pairing_lets_all_meet_equally_often_in_the_same_episodes(store, tmp_path):
    judging = tournament(store, tmp_path)
    made = judging.arrange(25)
    met = np.zeros((4, 4), int)
    for match in made:
        met[min(match.first, match.second), max(match.first, match.second)] += 1
    counts = met[np.triu_indices(4, 1)]
    assert counts.sum() == 25
    assert counts.max() - counts.min() <= 1
    assert len({match.query for match in made}) == 25
    for query in store.pending_queries("judge"):
        assert len({segment.episode for segment in query.segments}) == 1
    firsts = [match.first < match.second for match in made]
    assert 5 < sum(firsts) < 20


def test_a_simulated_judge_ranks_by_true_return_and_people_may_go_on(store, tmp_path):
    judging = tournament(store, tmp_path)
    judging.arrange(36)
    assert judging.waiting() == 36
    assert judging.answer("oracle") == 36
    assert judging.waiting() == 0
    assert judging.ranking().order.tolist() == [2, 0, 3, 1]
    # Another process takes it up.
    again = tournament(store, tmp_path)
    assert again.matches == judging.matches
    assert again.waiting() == 0
    (match,) = again.arrange(1)
    assert match not in judging.matches
    query = store.pending_queries("judge")[0]
    store.add_preferences([Preference(query, np.array([0.5, 0.5]), "ann", "human")], run="judge")
    store.add_preferences([Preference(query, None, "bo", "human")], run="judge")
    outcomes = again.outcomes()
    assert len(outcomes) == 37
    assert outcomes.scores[-1] == 0.5
    result = report(again, [3.0, 1.0, 4.0, 2.0])
    assert [agent["name"] for agent in result["agents"]] == ["cy", "ada", "di", "bo"]
    assert [agent["true_return"] for agent in result["agents"]] == [4, 3, 2, 1]
    assert result["agents"][0]["better_than"]["bo"] > 0.9
    assert json.loads(json.dumps(result)) == result


def test_informative_pairing_spends_answers_on_neighbours(store, tmp_path):
    """Two agents alike and two far apart: the undecided pair is asked about more than the decided ones."""
    judging = tournament(store, tmp_path, values=(5.0, 5.0001, -50, -500), pairing="informative", episodes=60)
    rng = np.random.default_rng(5)
    for _ in range(30):
        judging.arrange(2)
        for query in store.pending_queries("judge", with_true_rewards=True):
            returns = np.array([segment.true_rewards.sum() for segment in query.segments])
            close = abs(returns[0] - returns[1]) < 1
            best = rng.integers(2) if close else returns.argmax()
            store.add_preferences([Preference(query, np.eye(2)[best], "ann", "human")], run="judge")
    pairs = [tuple(sorted((match.first, match.second))) for match in judging.matches]
    counts = {pair: pairs.count(pair) for pair in set(pairs)}
    assert counts[0, 1] == max(counts.values())
    assert counts[0, 1] > 1.5 * 60 / 6


def test_every_match_is_asked_once_and_equal_clips_never(store, tmp_path):
    judging = tournament(store, tmp_path, values=(1, 1, 2), episodes=4)
    # The two equal agents never meet, and each meets the third four times, in questions that they share.
    assert judging.possible == 8
    assert len(judging.arrange(100)) == 8
    assert judging.arrange(1) == []
    assert judging.possible == 8
    judging.answer("oracle")
    outcomes = judging.outcomes()
    assert len(outcomes) == 8
    assert judging.ranking().order[0] == 2
    assert judging.ranking().wins[2].tolist() == [4, 4, 0]


def test_a_crash_between_file_and_store_loses_no_match(store, tmp_path):
    judging = tournament(store, tmp_path)
    judging.arrange(5)
    with Store(tmp_path / "emptied.sqlite") as emptied:
        again = tournament(emptied, tmp_path)
        assert again.waiting() == 5
        assert emptied.count_pending("judge") == 5
    with (tmp_path / "matches.jsonl").open("a") as file:
        file.write('{"query": "12')
    assert len(tournament(store, tmp_path).matches) == 5
    assert len(tournament(store, tmp_path).arrange(1)) == 1
    assert len(tournament(store, tmp_path).matches) == 6
    with pytest.raises(PrefenvsError, match="other episodes"):
        tournament(store, tmp_path, values=(9, 8, 7, 6))
    (tmp_path / "matches.jsonl").write_text("nonsense\n")
    with pytest.raises(PrefenvsError, match="damaged"):
        tournament(store, tmp_path)


def test_episodes_of_different_lengths_are_judged_by_their_whole_return():
    long, short = episode(1, 0, length=9), episode(2, 0, length=3)
    query = Query((long, short))
    (answer,) = judge_by_rater([query])
    assert answer.query is query
    assert answer.best == 0
    blind = Query((Segment(np.zeros((2, 1)), np.zeros((2, 1))), Segment(np.ones((2, 1)), np.zeros((2, 1)))))
    with pytest.raises(PrefenvsError, match="no true rewards"):
        judge_by_rater([blind])


def test_a_judge_is_any_rater_that_answers_at_once():
    queries = [Query((episode(1, k, length=9), episode(2, k, length=3))) for k in range(4)]
    coin = judge_by_rater(queries, "coin", 3)
    assert [answer.query for answer in coin] == queries
    assert {answer.oracle for answer in coin} == {"coin"}
    for spec in ("human", "vlm:model=m", "hybrid"):
        with pytest.raises(PrefenvsError, match=f"not by {spec}"):
            judge_by_rater(queries, spec)


def test_bad_input_is_named(store, tmp_path):
    path = tmp_path / "matches.jsonl"
    with pytest.raises(PrefenvsError, match="at least 2 agents"):
        Tournament(["one"], played([1]), store, "judge", path)
    with pytest.raises(PrefenvsError, match="played"):
        Tournament(["one", "two"], [played([1])[0], []], store, "judge", path)
    with pytest.raises(PrefenvsError, match="swiss"):
        Tournament(["one", "two"], played([1, 2]), store, "judge", path, "swiss")
