"""STARC: reward distances that bound how much worse a policy trained on the one reward may do by the other."""

from __future__ import annotations

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.metrics.transitions import Canonical, Reward, Transitions, evaluate_reward, half_distance
from prefenvs.segments import Array


def starc_distance_tabular(
    reward: Array,
    other: Array,
    dynamics: Array,
    discount: float = 0.99,
    policy: Array | None = None,
    weights: Array | None = None,
) -> float:
    """Return the STARC distance of two rewards of a finite MDP, exactly, in [0, 1] (Skalse et al. 2024).

    Half the L2 distance of the canonical rewards (`value_adjusted_levelling`) after scaling each to norm 1. 0 if and
    only if both rewards order all policies alike; 1 for a reward and its negative; 1/2 to a trivial reward.

    reward, other, dynamics: [S, A, S']; policy: [S, A], uniform by default; weights: [S, A] > 0 of
    the norm, uniform by default. An end of the task is a state that leads to itself with reward 0.
    """
    root = np.sqrt(np.ones(dynamics.shape[:2]) if weights is None else np.asarray(weights, np.float64))

    def canonical(reward: Array) -> Canonical:
        levelled, values = value_adjusted_levelling(reward, dynamics, discount, policy)
        expected = np.einsum("ijk,ijk->ij", dynamics, reward)
        scale = np.linalg.norm(root * expected) + np.linalg.norm(root * values[:, None])
        return Canonical((root * levelled).ravel(), float(scale))

    return half_distance(canonical(reward), canonical(other))


def value_adjusted_levelling(
    reward: Array, dynamics: Array, discount: float, policy: Array | None = None
) -> tuple[Array, Array]:
    """Return E[R(s, a, S') - V(s) + discount V(S')], [S, A], and V, [S], the exact value of `policy` under the reward.

    Rewards that differ by potential shaping or by which successor earns what share this canonical form. Raises
    PrefenvsError for arrays of other shapes, and dynamics that are no probabilities.
    """
    states, actions = dynamics.shape[:2]
    if dynamics.shape != (states, actions, states) or reward.shape != dynamics.shape:
        raise PrefenvsError(f"reward {reward.shape} and dynamics {dynamics.shape} must both have the shape [S, A, S]")
    if np.any(dynamics < 0) or not np.allclose(dynamics.sum(axis=2), 1.0):
        raise PrefenvsError("dynamics must be probabilities that sum to 1 over the last axis")
    policy = np.full((states, actions), 1.0 / actions) if policy is None else policy
    expected = np.einsum("ijk,ijk->ij", dynamics, reward)
    chain = np.einsum("ij,ijk->ik", policy, dynamics)
    values = np.linalg.solve(np.eye(states) - discount * chain, (policy * expected).sum(axis=1))
    return expected - values[:, None] + discount * dynamics @ values, values


def starc_distance(
    reward: Reward,
    other: Reward,
    transitions: Transitions,
    discount: float = 0.99,
    features: int = 256,
    seed: int = 0,
) -> float:
    """Return the STARC distance of two rewards estimated from transitions of one policy, in [0, 1].

    The canonical reward of a transition is R(s, a, s') - V(s) + discount V(s'), with V the value, under that reward, of
    the policy that made `transitions`, fitted by least-squares temporal differences (Bradtke and Barto 1996) on the
    observation, its squares and `features` random Fourier features. Norm and distance are L2 over `transitions`.

    Shaping by a potential within those features cancels up to rounding, another one up to how well they fit it, so a
    strong potential that they fit badly leaves a distance where there is none; `epic_distance` has no such error. Where
    the dynamics are deterministic this is the value-adjusted levelling of Skalse et al. (2024); elsewhere it is their
    form without the mean over successors, which does not ignore which successor earns what.
    """
    alive = 1.0 if transitions.terminated is None else 1.0 - transitions.terminated.astype(np.float64)[:, None]
    here, there = _features(transitions, features, seed)
    there = there * alive
    matrix = here.T @ (here - discount * there)
    # Enough to settle directions in which the features do not vary, too little to bias the others.
    matrix[np.diag_indices_from(matrix)] += 1e-9 * np.trace(here.T @ here) / len(matrix)

    def canonical(reward: Reward) -> Canonical:
        raw = evaluate_reward(reward, transitions.observations, transitions.actions, transitions.next_observations)
        weights = np.linalg.solve(matrix, here.T @ raw)
        values, following = here @ weights, there @ weights
        return Canonical(raw - values + discount * following, float(np.linalg.norm(raw) + np.linalg.norm(values)))

    return half_distance(canonical(reward), canonical(other))


def _features(transitions: Transitions, count: int, seed: int) -> tuple[Array, Array]:
    """Return features of states and of next states, [N, 1 + 2 obs + count] each, of whitened observations."""
    rng = np.random.default_rng(seed)
    observations = transitions.observations.astype(np.float64)
    mean, scale = observations.mean(axis=0), observations.std(axis=0)
    scale[scale < 1e-8] = 1.0
    # The kernel's width is the typical distance of two whitened observations, the square root of twice their size.
    frequencies = rng.normal(size=(observations.shape[1], count)) / np.sqrt(2 * observations.shape[1])
    phases = rng.uniform(0, 2 * np.pi, count)

    def expand(states: Array) -> Array:
        white = (states - mean) / scale
        waves = np.sqrt(2 / count) * np.cos(white @ frequencies + phases)
        return np.concatenate([np.ones((len(white), 1)), white, white**2, waves], axis=1)

    return expand(observations), expand(transitions.next_observations.astype(np.float64))
