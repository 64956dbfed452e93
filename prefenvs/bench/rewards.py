"""How good a cell's learned reward is, on episodes that it never saw."""

from __future__ import annotations

import numpy as np

from prefenvs.envs import make
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.metrics import Transitions, return_correlation, reward_of, starc_distance
from prefenvs.metrics.accuracy import credit
from prefenvs.metrics.agreement import mean_rewards
from prefenvs.protocols import Policy, RewardModel
from prefenvs.segments import Array
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories, TrajectoryBuffer

MOST = 65_536
"""Transitions at most: reward functions are called with so many at once, and a recorded reward knows them in order."""


def judge_reward(
    model: RewardModel,
    policy: Policy,
    task_id: str,
    length: int,
    episodes: int = 10,
    pairs: int = 1_000,
    steps: int = 5_000,
    seed: int = 1,
) -> dict[str, float]:
    """Compare a learned reward with the true one on new episodes, half by the trained policy and half at random.

    They are at least `episodes`, and as many as fill `steps` steps if none ends early. Returns
    accuracy: share of `pairs` of segments of `length` steps, drawn uniformly, which it orders as the true return does
    (pairs of equal true return are left out; NaN where all are); correlation: Spearman's, of those segments' returns;
    starc: distance in [0, 1] on the transitions of these episodes, discount 0.99, 64 features (`prefenvs.metrics`).
    """
    task = find_task(task_id)
    env = make(task_id)
    guess = random_policy(env.action_space, seed=seed)
    env.close()
    half = max(episodes, -(-steps // task.horizon)) // 2 + 1
    played = [
        evaluate(policy, task.id, episodes=half, seed=seed, record=half),
        evaluate(guess, task.id, episodes=half, seed=seed, record=half, first=half),
    ]
    buffer = TrajectoryBuffer(task.id, source=f"evaluation-{seed}", max_episodes=None)
    for evaluation in played:
        assert evaluation.trajectories is not None
        buffer.extend(evaluation.trajectories)
    return judge_reward_on(buffer.trajectories(), model, length, pairs, seed)


def judge_reward_on(
    trajectories: Trajectories, model: RewardModel, length: int, pairs: int, seed: int
) -> dict[str, float]:
    """Return `judge_reward`'s figures on given episodes."""
    rng = np.random.default_rng(seed)
    length = min(length, int(trajectories.lengths.max()))
    first, second = (trajectories.sample(pairs, length, rng) for _ in range(2))
    predicted, true = [], []
    for batch in (first, second):
        assert batch.true_rewards is not None
        predicted.append(mean_rewards(model, batch.observations, batch.actions).sum(axis=1))
        true.append(batch.true_rewards.sum(axis=1, dtype=np.float64))
    return {
        "accuracy": _accuracy(np.stack(predicted, axis=1), np.stack(true, axis=1)),
        "correlation": return_correlation(model, first).spearman,
        "starc": _starc(model, trajectories, rng),
        "pairs": float(pairs),
        "segment_length": float(length),
    }


def _accuracy(predicted: Array, true: Array) -> float:
    """Mean credit of predicted returns [N, 2] over the pairs that the true returns [N, 2] decide; NaN without any."""
    decided = true[:, 0] != true[:, 1]
    if not decided.any():
        return float("nan")
    preferred = np.take_along_axis(predicted, true.argmax(axis=1)[:, None], axis=1)
    return float(credit(predicted, preferred)[decided].mean())


def _starc(model: RewardModel, trajectories: Trajectories, rng: np.random.Generator) -> float:
    """STARC needs the true reward of transitions that were made only; EPIC would need it where nobody has been."""
    made, rewards = Transitions.of(trajectories), trajectories.true_rewards
    assert rewards is not None
    assert len(made) == len(rewards)  # evaluations keep what was seen after an episode's last step
    rows = rng.permutation(len(made))[:MOST]
    terminated = None if made.terminated is None else made.terminated[rows]
    chosen = Transitions(made.observations[rows], made.actions[rows], made.next_observations[rows], terminated)

    def true(observations: Array, actions: Array, next_observations: Array) -> Array:
        return rewards[rows]

    return starc_distance(reward_of(model), true, chosen, features=64)
