"""Distances between reward functions that ignore potential shaping and positive scale: EPIC and DARD."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prefenvs.metrics.transitions import BATCH, Canonical, Reward, Transitions, evaluate_reward, half_distance
from prefenvs.segments import Array

Step = Callable[[Array, Array], Array]
"""The dynamics: observations [N, obs], actions [N, act] -> one sample of the next observations [N, obs]."""


def epic_distance(
    reward: Reward,
    other: Reward,
    transitions: Transitions,
    discount: float = 0.99,
    samples: int = 256,
    seed: int = 0,
) -> float:
    """Return the equivalent-policy invariant comparison of two rewards, in [0, 1] (Gleave et al. 2021).

    Canonical rewards are C(R)(s, a, s') = R(s, a, s') + E[g R(s', A, S') - R(s, A, S') - g R(S, A, S')], where A and S'
    are drawn independently from the actions and states of `transitions`; the distance is sqrt((1 - rho) / 2), rho their
    Pearson correlation over `transitions`. 0 for rewards that differ by positive scale, a constant and potential
    shaping; 1 for a reward and its negative; 1/2 between a reward and a trivial one.

    samples: pairs (A, S') for the expectations, the same for both rewards and for all states, so that shaping cancels
    exactly. Calls each reward `samples` times for every distinct state. The paper takes 32768 transitions and 8192.
    Pairs (s, A, S') need not be possible, and a learned reward may be arbitrary there; `dard_distance` avoids that.
    """
    rng = np.random.default_rng(seed)
    states = np.concatenate([transitions.observations, transitions.next_observations])
    actions = transitions.actions[rng.integers(len(transitions), size=samples)]
    following = states[rng.integers(len(states), size=samples)]
    unique, where = np.unique(states, axis=0, return_inverse=True)
    here, there = np.split(where.ravel(), 2)

    def canonical(reward: Reward) -> Canonical:
        means = _mean_rewards(reward, unique, actions, following)
        raw = evaluate_reward(reward, transitions.observations, transitions.actions, transitions.next_observations)
        # The term g E[R(S, A, S')] is a constant, which the correlation does not see.
        return _centred(raw + discount * means[there] - means[here], raw, means[here])

    return half_distance(canonical(reward), canonical(other))


def dard_distance(
    reward: Reward,
    other: Reward,
    transitions: Transitions,
    step: Step,
    discount: float = 0.99,
    samples: int = 16,
    seed: int = 0,
) -> float:
    """Return the dynamics-aware reward distance of two rewards, in [0, 1] (Wulfe et al. 2022).

    As `epic_distance`, but states come from the dynamics, so that only possible transitions are judged:
    C(R)(s, a, s') = R(s, a, s') + E[g R(s', A, S'') - R(s, A, S') - g R(S', A, S'')] with S' ~ T(s, A), S'' ~ T(s', A)
    and A from the actions of `transitions`. The pair (S', S'') of the last term need not be a transition.

    step: samples the dynamics, as a simulator set to a state or a learned model does. samples: actions per transition.
    """
    rng = np.random.default_rng(seed)
    count, size = len(transitions), max(BATCH // samples, 1)
    raw = [np.zeros(count), np.zeros(count)]
    expected = [np.zeros(count), np.zeros(count)]
    for begin in range(0, count, size):
        rows = slice(begin, begin + size)
        here, there = transitions.observations[rows], transitions.next_observations[rows]
        actions = transitions.actions[rng.integers(count, size=len(here) * samples)]
        before, after = np.repeat(here, samples, axis=0), np.repeat(there, samples, axis=0)
        next_before, next_after = step(before, actions), step(after, actions)
        for k, function in enumerate((reward, other)):
            raw[k][rows] = evaluate_reward(function, here, transitions.actions[rows], there)
            total = (
                discount * evaluate_reward(function, after, actions, next_after)
                - evaluate_reward(function, before, actions, next_before)
                - discount * evaluate_reward(function, next_before, actions, next_after)
            )
            expected[k][rows] = total.reshape(-1, samples).mean(axis=1)
    first, second = (_centred(raw[k] + expected[k], raw[k], expected[k]) for k in range(2))
    return half_distance(first, second)


def _mean_rewards(reward: Reward, states: Array, actions: Array, following: Array) -> Array:
    """Return the mean of R(x, A, S') over the pairs (A, S') for each state x, [X]."""
    samples, size = len(actions), max(BATCH // len(actions), 1)
    means = np.zeros(len(states))
    for begin in range(0, len(states), size):
        part = states[begin : begin + size]
        repeated = np.repeat(part, samples, axis=0)
        tiled = np.tile(actions, (len(part), 1)), np.tile(following, (len(part), 1))
        means[begin : begin + size] = evaluate_reward(reward, repeated, *tiled).reshape(-1, samples).mean(axis=1)
    return means


def _centred(values: Array, *parts: Array) -> Canonical:
    """Subtract the mean, so that the cosine is Pearson's correlation; `parts` are what the values were made from."""
    return Canonical(values - values.mean(), float(sum(np.linalg.norm(part) for part in parts)))
