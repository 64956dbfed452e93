from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

import prefenvs.queries
from prefenvs import PrefenvsError, Preference, Query, Trajectories
from prefenvs.queries import (
    NAMES,
    PolicyLikelihood,
    Selector,
    bald,
    disagreement,
    entropy,
    find_selector,
    k_center,
    number_to_pair,
    preference_probabilities,
)

PROBABILITIES = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 8)), elements=st.floats(0.0, 1.0))
LN2 = np.log(2.0)


@given(PROBABILITIES)
def test_scores_lie_in_their_bounds(p: Any) -> None:
    assert np.all((disagreement(p) >= 0) & (disagreement(p) <= 0.5 + 1e-12))
    assert np.all((entropy(p) >= 0) & (entropy(p) <= LN2 + 1e-12))
    # Jensen: the entropy of the mean is never below the mean of the entropies.
    assert np.all((bald(p) >= -1e-12) & (bald(p) <= LN2 + 1e-12))


@given(PROBABILITIES)
def test_scores_do_not_care_which_side_is_first_or_how_members_are_ordered(p: Any) -> None:
    for score in (disagreement, entropy, bald):
        np.testing.assert_allclose(score(1.0 - p), score(p), atol=1e-9)
        np.testing.assert_allclose(score(p[::-1]), score(p), atol=1e-9)


def test_scores_tell_doubt_from_disagreement() -> None:
    #            all in doubt, sure but opposed, sure and agreed
    p = np.array([[0.5, 0.0, 1.0], [0.5, 1.0, 1.0]])
    np.testing.assert_allclose(disagreement(p), [0.0, 0.5, 0.0])
    np.testing.assert_allclose(entropy(p), [LN2, 0.0, 0.0])
    np.testing.assert_allclose(bald(p), [0.0, LN2, 0.0], atol=1e-12)


def test_disagreement_is_the_population_standard_deviation() -> None:
    np.testing.assert_allclose(disagreement(np.array([[0.1], [0.4], [0.7]])), np.sqrt(0.06))


def test_probabilities_follow_bradley_and_terry_at_any_scale() -> None:
    returns = np.array([[[1.0, 1.0], [2.0, 1.0], [1e4, -1e4], [-1e4, 1e4]]])
    np.testing.assert_allclose(preference_probabilities(returns), [[0.5, 1 / (1 + np.exp(-1)), 1.0, 0.0]])


def naive_k_center(features: Any, centers: Any, count: int) -> list[int]:
    """Farthest-first by its definition: every distance anew for every choice."""
    chosen: list[int] = []
    for _ in range(count):
        known = np.concatenate([centers, features[chosen]])
        distances = np.array([np.linalg.norm(known - row, axis=1).min() for row in features])
        distances[chosen] = -1.0
        chosen.append(int(distances.argmax()))
    return chosen


@pytest.mark.parametrize("chunk", [10, 65_536])
@given(seed=st.integers(0, 2**32 - 1), centers=st.integers(1, 9), size=st.integers(2, 30), shift=st.floats(-100, 100))
def test_k_center_is_greedy_farthest_first(chunk: int, seed: int, centers: int, size: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    features, known = rng.normal(size=(size, 3)) + shift, rng.normal(size=(centers, 3)) + shift
    count = int(rng.integers(1, size + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefenvs.queries, "CHUNK_STEPS", chunk)
        assert k_center(features, known, count).tolist() == naive_k_center(features, known, count)


@given(st.integers(0, 2**32 - 1))
def test_k_center_without_centres_begins_with_the_outermost_row(seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(20, 3))
    first = int(np.linalg.norm(features - features.mean(axis=0), axis=1).argmax())
    chosen = k_center(features, np.zeros((0, 3)), 6)
    assert chosen.tolist() == [first, *naive_k_center(features, features[[first]], 5)]


def test_k_center_chooses_each_row_once_even_among_equals() -> None:
    assert sorted(k_center(np.ones((5, 2)), np.ones((1, 2)), 5).tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(PrefenvsError, match="6 of 5"):
        k_center(np.ones((5, 2)), np.ones((1, 2)), 6)


class Members:
    """Linear members whose weights are given: [members, obs]."""

    def __init__(self, weights: Any) -> None:
        self.weights = np.asarray(weights, np.float64)
        self.rows = 0

    def predict(self, observations: Any, actions: Any) -> Any:
        assert observations.shape[:-1] == actions.shape[:-1]
        self.rows += observations[..., 0].size
        return np.moveaxis(observations @ self.weights.T, -1, 0)

    def fit(self, preferences: Any) -> dict[str, float]:
        return {}

    def save(self, path: Any) -> None:
        """Nothing to keep."""


def random_pool(lengths: list[int], seed: int = 0, size: int = 3) -> Trajectories:
    rng = np.random.default_rng(seed)
    steps = sum(lengths)
    return Trajectories(
        rng.normal(size=(steps, size)).astype(np.float32),
        rng.normal(size=(steps, 2)).astype(np.float32),
        np.cumsum(lengths),
        rng.normal(size=steps),
        rng.normal(size=(steps, 4)),
        rng.normal(size=(len(lengths), 2)),
        task="t",
    )


def key(query: Query) -> frozenset[tuple[int, int]]:
    return frozenset((segment.episode, segment.start) for segment in query.segments)


MEMBERS = Members(np.random.default_rng(0).normal(size=(3, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_every_selector_returns_distinct_pairs_of_whole_segments(name: str) -> None:
    pool = random_pool([30, 3, 12, 40])
    labelled: list[Preference] = []
    rng = np.random.default_rng(0)
    for _ in range(3):
        queries = Selector.named(name).select(pool, 20, 5, MEMBERS, labelled, rng)
        assert len(queries) == 20
        assert len({key(query) for query in queries}) == 20
        for query in queries:
            assert len(query.segments) == 2
            assert len(key(query)) == 2
            for segment in query.segments:
                assert segment.states is not None
                assert segment.scene is not None
                begin = int(pool.begins[segment.episode]) + segment.start
                assert begin + 5 <= pool.ends[segment.episode]
                assert pool.states is not None
                np.testing.assert_array_equal(segment.observations, pool.observations[begin : begin + 5])
                np.testing.assert_array_equal(segment.states, pool.states[begin : begin + 5])
        labelled += [Preference(query, np.array([1.0, 0.0])) for query in queries[:10]]
        labelled += [Preference(query, None) for query in queries[10:]]


@pytest.mark.parametrize("name", NAMES)
def test_no_selector_reads_true_rewards(name: str) -> None:
    pool = random_pool([30, 30])
    chosen = [
        [query.id for query in Selector.named(name).select(pool_, 10, 5, MEMBERS, [], np.random.default_rng(0))]
        for pool_ in (pool, replace(pool, true_rewards=-100.0 * np.arange(60.0)), replace(pool, true_rewards=None))
    ]
    assert chosen[0] == chosen[1] == chosen[2]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_few_segments_give_every_pair_once(seed: int, lengths: list[int]) -> None:
    pool, length = random_pool(lengths, seed), 4
    segments = pool.count_segments(length)
    rng = np.random.default_rng(seed)
    if segments < 2:
        with pytest.raises(PrefenvsError, match="needs 2 segments"):
            Selector("uniform").select(pool, 5, length, None, [], rng)
        return
    pairs = segments * (segments - 1) // 2
    with pytest.warns(UserWarning, match=f"only {pairs} of {pairs + 1}"):
        queries = Selector("uniform").select(pool, pairs + 1, length, None, [], rng)
    assert len({key(query) for query in queries}) == pairs


def test_uniform_pairs_are_uniform_and_sides_are_even() -> None:
    pool, rng = random_pool([6, 4]), np.random.default_rng(0)
    counts: dict[tuple[Any, ...], int] = {}
    for _ in range(4000):
        (query,) = Selector("uniform").select(pool, 1, 3, None, [], rng)
        sides = tuple((segment.episode, segment.start) for segment in query.segments)
        counts[sides] = counts.get(sides, 0) + 1
    assert len(counts) == 6 * 5
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_pairs_are_numbered_without_gaps() -> None:
    expected = [(i, j) for j in range(1, 60) for i in range(j)]
    assert [tuple(pair) for pair in number_to_pair(np.arange(len(expected))).tolist()] == expected


@given(st.integers(2, 3 * 10**9), st.data())
def test_pair_numbers_are_exact_where_floats_are_not(second: int, data: st.DataObject) -> None:
    first = data.draw(st.sampled_from([0, 1, second - 1, second // 2]))
    number = second * (second - 1) // 2 + first
    assert number_to_pair(np.array([number])).tolist() == [[first, second]]


def test_pairs_of_a_huge_pool_are_uniform() -> None:
    # 4 million segments, 8e12 pairs.
    steps = 4_000_000
    pool = Trajectories(np.zeros((steps, 0)), np.arange(steps)[:, None], np.array([steps]))
    queries = Selector("uniform").select(pool, 500, 1, None, [], np.random.default_rng(0))
    starts = np.array([[segment.start for segment in query.segments] for query in queries])
    assert np.all(starts[:, 0] != starts[:, 1])
    assert stats.kstest(starts.max(axis=1) / steps, lambda x: x**2).pvalue > 1e-3
    assert stats.kstest(starts[:, 0] / steps, "uniform").pvalue > 1e-3


def test_segments_with_the_same_content_are_not_compared() -> None:
    # Nine episodes are copies of one another, one differs in its actions alone.
    observations = np.tile(np.arange(5.0)[:, None], (10, 1))
    actions = np.zeros((50, 1))
    actions[45:] = 1.0
    pool = Trajectories(observations, actions, np.arange(5, 51, 5))
    queries = Selector("uniform").select(pool, 9, 5, None, [], np.random.default_rng(0))
    assert len(queries) == 9
    assert all(9 in {segment.episode for segment in query.segments} for query in queries)
    # A like beginning is no hindrance.
    actions[45:49] = 0.0
    queries = Selector("uniform").select(replace(pool, actions=actions), 9, 5, None, [], np.random.default_rng(0))
    assert len(queries) == 9
    alike = replace(pool, actions=np.zeros((50, 1)))
    with pytest.warns(UserWarning, match="only 0 of 3"):
        assert Selector("uniform").select(alike, 3, 5, None, [], np.random.default_rng(0)) == []


@pytest.mark.parametrize(("name", "score"), [("disagreement", disagreement), ("entropy", entropy), ("bald", bald)])
@pytest.mark.parametrize("chunk", [64, 65_536])
def test_score_selectors_keep_the_highest_scores_of_the_pool(
    name: str, score: Any, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a pool of every pair there is one right answer."""
    monkeypatch.setattr(prefenvs.queries, "CHUNK_STEPS", chunk)
    pool, length = random_pool([7, 6]), 3
    segments = pool.cut(*pool.locate(np.arange(9), length), length)
    returns = MEMBERS.predict(segments.observations, segments.actions).sum(axis=-1)
    first, second = np.triu_indices(9, 1)
    scores = score(preference_probabilities(np.stack([returns[:, first], returns[:, second]], axis=-1)))
    best = {
        frozenset((int(segments.episodes[i]), int(segments.starts[i])) for i in (first[k], second[k]))
        for k in np.argsort(-scores)[:5]
    }
    queries = Selector(name, oversample=100).select(pool, 5, length, MEMBERS, [], np.random.default_rng(0))
    assert {key(query) for query in queries} == best


def test_a_score_selector_judges_oversample_candidates_for_each_query() -> None:
    members = Members(np.eye(3))
    Selector("disagreement", oversample=7).select(random_pool([200]), 4, 5, members, [], np.random.default_rng(0))
    assert members.rows == 7 * 4 * 2 * 5


def test_k_center_turns_away_from_what_was_labelled() -> None:
    """Half of the episodes lie far away; once near ones were labelled, the first choice is far in both segments."""
    pool = random_pool([40] * 10)
    observations = pool.observations.copy()
    observations[200:] += 50.0
    pool = replace(pool, observations=observations)
    rng = np.random.default_rng(0)
    near = Selector("uniform").select(replace(random_pool([40] * 5), task="t"), 10, 5, None, [], rng)
    labelled = [Preference(query, np.array([1.0, 0.0])) for query in near]
    first = Selector("k-center").select(pool, 3, 5, None, labelled, rng)[0]
    assert all(segment.observations.mean() > 40.0 for segment in first.segments)
    # Skips and pairs of another length are no centres.
    skipped = [Preference(query, None) for query in near]
    longer = Selector("uniform").select(pool, 3, 6, None, [], rng)
    others = skipped + [Preference(query, np.array([1.0, 0.0])) for query in longer]
    choices = [
        [query.id for query in Selector("k-center").select(pool, 3, 5, None, known, np.random.default_rng(1))]
        for known in ([], others, labelled)
    ]
    assert choices[0] == choices[1] != choices[2]


def test_k_center_with_an_opinion_keeps_the_better_half_first() -> None:
    """Members differ in the first feature alone, so pairs without any lie in the worse half."""
    pool = random_pool([8, 8])
    observations = pool.observations.copy()
    observations[8:, 0] = 0.0
    observations[8:, 1:] *= 100.0
    pool = replace(pool, observations=observations)
    members = Members([[3.0, 0.0, 0.0], [-3.0, 0.0, 0.0]])
    rng = np.random.default_rng(0)
    plain = Selector("k-center", oversample=100).select(pool, 3, 2, members, [], rng)
    both = Selector("k-center-disagreement", oversample=100).select(pool, 3, 2, members, [], rng)
    assert {segment.episode for segment in plain[0].segments} == {1}
    for query in both:
        assert 0 in {segment.episode for segment in query.segments}


def test_near_on_policy_draws_from_the_newest_episodes() -> None:
    pool = random_pool([20] * 30)
    queries = Selector.named("near-on-policy").select(pool, 50, 5, None, [], np.random.default_rng(0))
    assert min(segment.episode for query in queries for segment in query.segments) >= 20
    queries = Selector("disagreement", last_episodes=3).select(pool, 50, 5, MEMBERS, [], np.random.default_rng(0))
    assert {segment.episode for query in queries for segment in query.segments} == {27, 28, 29}


def test_policy_likelihood_asks_about_what_the_policy_would_do_now() -> None:
    """Episode k has actions k; a policy that does 29 finds them the less likely the older they are."""
    pool = random_pool([20] * 30)
    pool.actions[:] = np.repeat(np.arange(30.0), 20)[:, None]

    def log_likelihood(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        assert observations.ndim == actions.ndim == 2
        return -((actions[:, 0] - 29.0) ** 2)

    selector = PolicyLikelihood(log_likelihood)
    queries = selector.select(pool, 40, 5, None, [], np.random.default_rng(0))
    episodes = [segment.episode for query in queries for segment in query.segments]
    assert len(queries) == 40
    assert np.median(episodes) >= 24, "uniform queries have their median at 15"
    assert min(episodes) < 20, "all have a chance"
    last = replace(selector, last_episodes=3).select(pool, 10, 5, None, [], np.random.default_rng(0))
    assert {segment.episode for query in last for segment in query.segments} == {27, 28, 29}
    with pytest.warns(UserWarning, match="only 1 of 5 queries"):
        replace(selector, last_episodes=1).select(pool, 5, 19, None, [], np.random.default_rng(0))
    with pytest.raises(PrefenvsError, match=r"policy-likelihood.*choose another"):
        find_selector("policy-likelihood")


def test_policy_likelihood_says_what_it_cannot_do() -> None:
    def log_likelihood(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.zeros(len(observations))

    for name, value in (("temperature", -1.0), ("temperature", np.nan), ("candidates", 1), ("last_episodes", 2.5)):
        with pytest.raises(PrefenvsError, match=name):
            PolicyLikelihood(log_likelihood, **{name: value})  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    selector = PolicyLikelihood(log_likelihood, temperature=1000.0)
    assert len(selector.select(random_pool([20] * 30), 40, 5, None, [], rng)) == 40
    with pytest.raises(PrefenvsError, match="at least 1 query"):
        selector.select(random_pool([20]), 0, 5, None, [], rng)
    for length in (20, 21):
        with pytest.raises(PrefenvsError, match="shorter segment"):
            selector.select(random_pool([20]), 3, length, None, [], rng)


def test_wrong_settings_are_refused_with_a_way_out() -> None:
    with pytest.raises(PrefenvsError, match=r"disagrement.*Did you mean disagreement"):
        Selector.named("disagrement")
    for name, value in (("oversample", 0), ("oversample", 2.5), ("oversample", "3"), ("last_episodes", 1.5)):
        with pytest.raises(PrefenvsError, match=name):
            Selector("entropy", **{name: value})  # type: ignore[arg-type]
    with pytest.raises(PrefenvsError, match="last_episodes"):
        Selector("near-on-policy")
    pool, rng = random_pool([20]), np.random.default_rng(0)
    with pytest.raises(PrefenvsError, match="reward model"):
        Selector("entropy").select(pool, 2, 5, None, [], rng)
    with pytest.raises(PrefenvsError, match="count=0"):
        Selector("uniform").select(pool, 0, 5, None, [], rng)
    with pytest.raises(PrefenvsError, match="longest has 20 steps"):
        Selector("uniform").select(pool, 2, 21, None, [], rng)


def fails(*_):
    raise KeyError("no\nsuch entry")


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (lambda *_: None, "returned NoneType: it returns at most 3"),
        (lambda *_: [1, 2], "returned 2 of int: it returns at most 3"),
        (lambda *given: Selector("uniform").select(given[0], 4, *given[2:]), "returned 4 of Query: .* at most 3"),
        (fails, r"the selector fails fails: KeyError: 'no.*such entry'"),
    ],
)
def test_a_selector_of_one_s_own_that_returns_no_queries_is_named(selector, message):
    with pytest.raises(PrefenvsError, match=message) as error:
        find_selector(selector).select(random_pool([20] * 5), 3, 5, None, [], np.random.default_rng(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("selector", [lambda pool: pool, 3, None, ["uniform"]], ids=["function", "3", "None", "list"])
def test_a_selector_that_is_no_name_is_refused(selector):
    from prefenvs.agents import PebbleConfig

    with pytest.raises(PrefenvsError, match=r"is named, .* choose one of uniform") as error:
        Selector.named(selector)
    assert "\n" not in str(error.value)
    if callable(selector):
        assert PebbleConfig(selector=selector).selector is selector
        return
    with pytest.raises(
        PrefenvsError, match=r"is no selector: give one of uniform, .* module:NAME, a function"
    ) as error:
        PebbleConfig(selector=selector)
    assert "\n" not in str(error.value)
