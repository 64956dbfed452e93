from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs import PrefenvsError, Preference, Query, Segment, SegmentBatch, Trajectories
from prefenvs.metrics import (
    Transitions,
    dard_distance,
    epic_distance,
    preference_accuracy,
    return_correlation,
    reward_of,
    starc_distance,
    starc_distance_tabular,
    value_adjusted_levelling,
)

GAMMA = 0.9
SEEDS = st.integers(0, 2**32 - 1)


def step(observations: Any, actions: Any) -> Any:
    """A deterministic, stable system."""
    return 0.9 * observations + 0.3 * np.tanh(actions) + 0.1 * np.sin(observations[:, ::-1])


def episodes(count: int, horizon: int, seed: int = 0) -> Transitions:
    """Transitions of a random policy in that system, parallel episodes."""
    rng = np.random.default_rng(seed)
    state, parts = rng.normal(size=(count, 2)), []
    for _ in range(horizon):
        actions = rng.normal(size=(count, 2))
        parts.append((state, actions, step(state, actions)))
        state = parts[-1][2]
    return Transitions(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def random_reward(seed: int) -> Callable[[Any, Any, Any], Any]:
    weights = np.random.default_rng(seed).normal(size=(6, 8))
    return lambda s, a, n: np.tanh(np.concatenate([s, a, n], axis=1) @ weights).sum(axis=1)


def shaped(reward: Any, seed: int, scale: float = 1.0, constant: float = 0.0) -> Callable[[Any, Any, Any], Any]:
    """The reward times a scale, plus a constant, plus shaping by a nonlinear potential."""
    weights = np.random.default_rng(seed + 1).normal(size=(2, 5))

    def potential(states: Any) -> Any:
        return 3.0 * np.sin(states @ weights).sum(axis=1)

    return lambda s, a, n: scale * reward(s, a, n) + constant + GAMMA * potential(n) - potential(s)


def negative(reward: Any) -> Callable[[Any, Any, Any], Any]:
    return lambda s, a, n: -reward(s, a, n)


TRANSITIONS = episodes(20, 10)
DISTANCES: dict[str, Callable[..., float]] = {
    "epic": lambda first, other: epic_distance(first, other, TRANSITIONS, GAMMA, samples=16),
    "dard": lambda first, other: dard_distance(first, other, TRANSITIONS, step, GAMMA, samples=4),
    "starc": lambda first, other: starc_distance(first, other, TRANSITIONS, GAMMA, features=32),
}


@pytest.mark.parametrize("name", DISTANCES)
@given(seed=SEEDS, scale=st.floats(0.01, 100.0))
@settings(max_examples=15, deadline=None)
def test_distance_is_a_pseudometric_that_ignores_scale(name: str, seed: int, scale: float) -> None:
    distance = DISTANCES[name]
    first, second, third = random_reward(seed), random_reward(seed + 1), random_reward(seed + 2)
    near = distance(first, second)
    assert 0.0 < near < 1.0
    assert distance(second, first) == pytest.approx(near, abs=1e-12)
    assert near <= distance(first, third) + distance(third, second) + 1e-12
    assert distance(first, lambda s, a, n: scale * first(s, a, n)) < 1e-9
    assert distance(first, lambda s, a, n: scale * second(s, a, n)) == pytest.approx(near, abs=1e-9)
    assert distance(first, negative(first)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["epic", "dard"])
@given(seed=SEEDS, scale=st.floats(0.01, 100.0), constant=st.floats(-10.0, 10.0))
@settings(max_examples=15, deadline=None)
def test_shaping_and_constants_cancel_exactly_in_epic_and_dard(
    name: str, seed: int, scale: float, constant: float
) -> None:
    reward = random_reward(seed)
    assert DISTANCES[name](reward, shaped(reward, seed, scale, constant)) < 1e-9


@given(seed=SEEDS, scale=st.floats(0.1, 100.0))
@settings(max_examples=15, deadline=None)
def test_quadratic_shaping_cancels_in_sampled_starc(seed: int, scale: float) -> None:
    reward, weights = random_reward(seed), np.random.default_rng(seed).normal(size=(2, 2))

    def potential(states: Any) -> Any:
        return states @ weights[0] + states**2 @ weights[1]

    def copy(s: Any, a: Any, n: Any) -> Any:
        return scale * reward(s, a, n) + GAMMA * potential(n) - potential(s)

    assert DISTANCES["starc"](reward, copy) < 1e-4


def test_nonlinear_shaping_nearly_cancels_in_sampled_starc() -> None:
    data, reward = episodes(200, 20), random_reward(0)
    other = random_reward(1)
    assert starc_distance(reward, shaped(reward, 0), data, GAMMA) < 0.05
    plain = starc_distance(reward, other, data, GAMMA)
    assert plain > 0.2
    assert starc_distance(reward, shaped(other, 0), data, GAMMA) == pytest.approx(plain, abs=0.05)


def test_trivial_reward_is_half_way_to_every_other() -> None:
    def trivial(s: Any, a: Any, n: Any) -> Any:
        return np.zeros(len(s))

    for distance in DISTANCES.values():
        assert distance(random_reward(3), trivial) == pytest.approx(0.5)
        assert distance(trivial, trivial) == 0.0
    assert DISTANCES["epic"](shaped(trivial, 0), trivial) == 0.0


def test_a_constant_reward_and_the_shaping_of_a_float32_model_are_trivial() -> None:
    def constant(s: Any, a: Any, n: Any) -> Any:
        return np.full(len(s), 0.3, np.float32)

    def potential(s: Any, a: Any, n: Any) -> Any:
        before, after = (np.asarray(states, np.float32).sum(1) for states in (s, n))
        return np.float32(GAMMA) * after - before

    reward = random_reward(3)
    assert starc_distance(reward, constant, TRANSITIONS, GAMMA) == pytest.approx(0.5)
    assert starc_distance(reward, constant, TRANSITIONS, 0.99) == pytest.approx(0.5)
    assert DISTANCES["epic"](reward, potential) == pytest.approx(0.5)


def test_epic_equals_the_definition_with_every_expectation_enumerated() -> None:
    # One action and one following state make the sampled expectations exact.
    data = Transitions(TRANSITIONS.observations[:8], np.zeros((8, 2)), np.zeros((8, 2)))
    first, second = random_reward(5), random_reward(6)

    def canonical(reward: Any) -> Any:
        states = np.concatenate([data.observations, data.next_observations])

        def mean(x: Any) -> Any:
            return np.mean([reward(x, np.zeros_like(x), np.tile(state, (len(x), 1))) for state in states], axis=0)

        return (
            reward(data.observations, data.actions, data.next_observations)
            + GAMMA * mean(data.next_observations)
            - mean(data.observations)
        )

    correlation = np.corrcoef(canonical(first), canonical(second))[0, 1]
    sampled = epic_distance(first, second, data, GAMMA, samples=20_000)
    assert sampled == pytest.approx(np.sqrt((1 - correlation) / 2), abs=0.01)


def test_dard_asks_for_possible_transitions_but_for_its_last_term() -> None:
    asked: list[Any] = []

    def reward(s: Any, a: Any, n: Any) -> Any:
        asked.append(np.abs(n - step(s, a)).max(axis=1) < 1e-9)
        return random_reward(0)(s, a, n)

    dard_distance(reward, random_reward(1), TRANSITIONS, step, GAMMA, samples=4)
    possible, total = sum(part.sum() for part in asked), sum(len(part) for part in asked)
    # R(s, a, s'), R(s, A, S') and R(s', A, S'') are transitions; R(S', A, S'') is one only by chance.
    assert len(TRANSITIONS) * (1 + 4 + 4) <= possible < len(TRANSITIONS) * (1 + 4 + 4) * 1.05
    assert total == len(TRANSITIONS) * (1 + 4 + 4 + 4)


def random_mdp(seed: int, states: int = 5, actions: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    dynamics = rng.dirichlet(np.full(states, 0.5), size=(states, actions))
    return dynamics, rng.normal(size=(states, actions, states))


@given(seed=SEEDS, scale=st.floats(0.01, 100.0))
@settings(max_examples=50, deadline=None)
def test_exact_starc_is_zero_for_equivalent_rewards_and_one_for_opposites(seed: int, scale: float) -> None:
    dynamics, reward = random_mdp(seed)
    rng = np.random.default_rng(seed + 1)
    potential, shift = rng.normal(size=5), rng.normal(size=reward.shape)
    redistribution = shift - np.einsum("ijk,ijk->ij", dynamics, shift)[:, :, None]
    copy = scale * reward + GAMMA * potential - potential[:, None, None] + redistribution
    policy, weights = rng.dirichlet(np.ones(3), size=5), rng.uniform(0.5, 2.0, size=(5, 3))
    assert starc_distance_tabular(reward, copy, dynamics, GAMMA) < 1e-6
    assert starc_distance_tabular(reward, copy, dynamics, GAMMA, policy, weights) < 1e-6
    assert starc_distance_tabular(reward, -copy, dynamics, GAMMA) == pytest.approx(1.0)
    unlike = starc_distance_tabular(reward, rng.normal(size=reward.shape), dynamics, GAMMA)
    assert 0.01 < unlike < 1.0
    assert starc_distance_tabular(reward, 0.0 * reward, dynamics, GAMMA) == pytest.approx(0.5)


@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_levelled_reward_is_the_advantage_of_the_policy(seed: int) -> None:
    dynamics, reward = random_mdp(seed)
    levelled, values = value_adjusted_levelling(reward, dynamics, GAMMA)
    np.testing.assert_allclose(levelled.mean(axis=1), 0.0, atol=1e-9)
    backed_up = np.einsum("ijk,ijk->ij", dynamics, reward + GAMMA * values).mean(axis=1)
    np.testing.assert_allclose(values, backed_up, atol=1e-9)


def test_sampled_starc_agrees_with_exact_starc_on_a_deterministic_ring() -> None:
    states, actions = 6, 2
    dynamics = np.zeros((states, actions, states))
    for s in range(states):
        dynamics[s, 0, (s + 1) % states] = dynamics[s, 1, (s - 1) % states] = 1.0
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(2, states, actions, states))
    s = np.repeat(np.arange(states), actions)
    a = np.tile(np.arange(actions), states)
    data = Transitions(np.eye(states)[s], np.eye(actions)[a], np.eye(states)[dynamics[s, a].argmax(axis=1)])

    def lookup(table: Any) -> Callable[[Any, Any, Any], Any]:
        return lambda s, a, n: table[s.argmax(axis=1), a.argmax(axis=1), n.argmax(axis=1)]

    exact = starc_distance_tabular(*tables, dynamics, GAMMA)
    assert starc_distance(*map(lookup, tables), data, GAMMA) == pytest.approx(exact, abs=1e-4)


def test_transitions_of_episodes_never_join_two_episodes() -> None:
    observations = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [20.0]])
    trajectories = Trajectories(observations, np.zeros((6, 1)), np.array([3, 5, 6]))
    data = Transitions.of(trajectories)
    np.testing.assert_array_equal(data.observations[:, 0], [0.0, 1.0, 10.0])
    np.testing.assert_array_equal(data.next_observations - data.observations, np.ones((3, 1)))
    assert len(Transitions.of(trajectories, 2, np.random.default_rng(0))) == 2
    whole = Transitions.of(
        replace(
            trajectories,
            final_observations=np.array([[3.0], [12.0], [21.0]]),
            terminated=np.array([True, False, True]),
        )
    )
    np.testing.assert_array_equal(whole.observations, observations)
    np.testing.assert_array_equal(whole.next_observations - whole.observations, np.ones((6, 1)))
    assert whole.terminated is not None
    assert whole.terminated.tolist() == [False, False, True, False, False, True]


def test_nothing_follows_an_end_of_the_task() -> None:
    """Action 0 leads to the other state, action 1 to the end, after which the first state is seen again."""
    data = Transitions(
        np.eye(2)[[0, 0, 1, 1]],
        np.array([[0.0], [1.0], [0.0], [1.0]]),
        np.eye(2)[[1, 0, 0, 0]],
        np.array([False, True, False, True]),
    )
    dynamics = np.zeros((3, 2, 3))
    dynamics[0, 0, 1] = dynamics[1, 0, 0] = 1.0
    dynamics[:2, 1, 2] = dynamics[2, :, 2] = 1.0
    tables = np.random.default_rng(0).normal(size=(2, 2, 2))

    def table(rewards: Any) -> Callable[[Any, Any, Any], Any]:
        return lambda s, a, n: rewards[s.argmax(axis=1), a[:, 0].astype(int)]

    full = np.zeros((2, 3, 2, 3))
    full[:, :2] = tables[..., None]
    exact = starc_distance_tabular(full[0], full[1], dynamics, GAMMA)
    assert starc_distance(table(tables[0]), table(tables[1]), data, GAMMA) == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda s, a, n: np.zeros((len(s), 1)), "shape"),
        (lambda s, a, n: np.full(len(s), np.nan), "NaN"),
    ],
)
def test_faulty_reward_functions_are_refused(reward: Any, message: str) -> None:
    with pytest.raises(PrefenvsError, match=message):
        epic_distance(reward, reward, TRANSITIONS)


class FirstFeature:
    """An ensemble whose members disagree around the first observation feature times a sign."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def predict(self, observations: Any, actions: Any) -> Any:
        reward = self.sign * observations[..., 0]
        return np.stack([reward + 1.0, reward - 1.0])

    def fit(self, preferences: Any) -> dict[str, float]:
        return {}

    def save(self, path: Any) -> None:
        """Nothing to keep."""


def constant_segment(value: float, steps: int = 4) -> Segment:
    return Segment(np.full((steps, 2), value), np.zeros((steps, 1)), task="t")


def answer(values: list[float], probabilities: list[float] | None, steps: int = 4) -> Preference:
    query = Query(tuple(constant_segment(value, steps) for value in values))
    return Preference(query, None if probabilities is None else np.array(probabilities))


def test_reward_of_is_the_mean_of_the_ensemble() -> None:
    observations = np.random.default_rng(0).normal(size=(5, 2))
    reward = reward_of(FirstFeature())(observations, np.zeros((5, 1)), observations)
    np.testing.assert_allclose(reward, observations[:, 0])


def test_preference_accuracy_counts_clear_answers_only() -> None:
    right, wrong = answer([1.0, 2.0], [0.0, 1.0]), answer([1.0, 2.0], [0.9, 0.1])
    soft, three = answer([1.0, 2.0], [0.45, 0.55]), answer([1.0, 3.0, 2.0], [0.0, 1.0, 0.0], steps=7)
    tie, skip = answer([1.0, 2.0], [0.5, 0.5]), answer([1.0, 2.0], None)
    assert preference_accuracy(FirstFeature(), [right, wrong, soft, three, tie, skip]) == pytest.approx(0.75)
    assert preference_accuracy(FirstFeature(-1.0), [right, wrong, soft, three, tie, skip]) == pytest.approx(0.25)
    with pytest.raises(PrefenvsError, match="best"):
        preference_accuracy(FirstFeature(), [tie, skip])


def test_a_model_without_opinion_is_right_half_the_time() -> None:
    assert preference_accuracy(FirstFeature(0.0), [answer([1.0, 2.0], [0.0, 1.0])] * 3) == pytest.approx(0.5)


def test_return_correlation_of_a_monotone_model() -> None:
    rng = np.random.default_rng(0)
    observations = np.repeat(rng.normal(size=(50, 1, 2)), 5, axis=1)
    true = np.exp(3 * observations[:, :, 0])
    segments = SegmentBatch(observations, np.zeros((50, 5, 1)), true)
    pearson, spearman = return_correlation(FirstFeature(), segments)
    assert spearman == pytest.approx(1.0)
    assert 0.0 < pearson < 0.95
    assert return_correlation(FirstFeature(-1.0), segments).spearman == pytest.approx(-1.0)
    assert np.isnan(return_correlation(FirstFeature(0.0), segments).pearson)
    with pytest.raises(PrefenvsError, match="true rewards"):
        return_correlation(FirstFeature(), SegmentBatch(observations, np.zeros((50, 5, 1))))
