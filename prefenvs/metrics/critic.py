"""How far an expert's values are from the truth: against exact values, or returns of the expert itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from prefenvs.envs import make
from prefenvs.envs.hidden_reward import HiddenReward
from prefenvs.envs.spaces import action_vectors
from prefenvs.envs.states import Snapshot
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import FIRST_SEED
from prefenvs.internal.seeding import derive_seed
from prefenvs.protocols import Policy
from prefenvs.segments import Array

SLOTS = 16
"""Environments that are stepped side by side, with one call of the policy for all."""
ATTEMPTS = 50
"""How often a segment that an episode's end cut short is tried again."""


class Critic(Protocol):
    """Values of an expert that discounts by gamma."""

    gamma: float

    def value(self, observations: Array) -> Array:
        """Return V(s), [...], for observations [..., obs]."""

    def advantage(self, observations: Array, actions: Array) -> Array:
        """Return A(s, a), [...], for observations [..., obs] and actions [..., act]."""


@dataclass(frozen=True)
class Rollouts:
    """How an expert plays on from a state.

    count: episodes from each state, an even number, as they are halved to see their noise; steps: of each, by default
    until gamma^steps is below 0.01, at most the task's horizon. reseed: called with a number before roll-outs, to fix
    the policy's own random numbers; progress: with the number of roll-outs that have just ended.
    """

    count: int = 8
    steps: int | None = None
    seed: int = 0
    reseed: Callable[[int], object] | None = None
    progress: Callable[[int], object] | None = None


@dataclass(frozen=True, eq=False)
class Walks:
    """N segments of T steps by an expert that takes some actions at random, and how to go back to their ends.

    observations: [N, T + 1, obs], what was seen after the last step included; actions: [N, T, act], one-hot where they
    are discrete; rewards: [N, T] true ones; ended: [N] bool, whether the task ended the episode with the last step.
    first, last: snapshots of the simulator before the first step and after the last.
    """

    observations: Array
    actions: Array
    rewards: Array
    ended: Array
    first: tuple[Snapshot, ...]
    last: tuple[Snapshot, ...]


class CriticFit(NamedTuple):
    """Estimates against a reference: correlations, and error and bias as multiples of the reference's spread.

    error: mean absolute error, bias: mean error, both over the reference's standard deviation. NaN where one side does
    not vary.
    """

    pearson: float
    spearman: float
    error: float
    bias: float


@dataclass(frozen=True)
class CriticError:
    """What `measure_critic` found: the fit of V(s_0), and of the negative regret of segments.

    pairs: share of all pairs of segments that critic and reference order alike. ceiling: the same share between two
    halves of the roll-outs, above which `pairs` cannot be expected to lie by much; None where the reference is exact.
    """

    task: str
    reference: str
    segments: int
    length: int
    gamma: float
    value: CriticFit
    regret: CriticFit
    pairs: float
    ceiling: float | None = None


def measure_critic(
    critic: Critic,
    policy: Policy,
    task: str,
    segments: int = 50,
    length: int = 25,
    rollouts: Rollouts = Rollouts(),
    exact: Callable[[Array], Array] | None = None,
) -> CriticError:
    """Compare an expert's critic with what its policy really earns, on segments of mixed quality.

    The critic's negative regret of a segment is sum_t gamma^t A(s_t, a_t). The reference is the telescoped form,
    sum_t gamma^t r_t + gamma^T V(s_T) - V(s_0), equal to it where moves are certain; its V is the mean discounted true
    return of `rollouts` that the policy plays from the simulator's very state, or `exact(observations [N, obs])` where
    that is known. Privileged: for evaluation. Raises PrefenvsError for too few segments, and an odd number of
    roll-outs.
    """
    if segments < 2 or length < 1:
        raise PrefenvsError(f"pairs need 2 segments of at least 1 step, got {segments} of {length}")
    if exact is None and (rollouts.count < 2 or rollouts.count % 2):
        raise PrefenvsError(f"roll-outs are halved to see their noise: give an even number, got {rollouts.count}")
    seed = rollouts.seed
    if rollouts.reseed is not None:
        rollouts.reseed(derive_seed(seed, "walks"))
    walks = walk(policy, task, segments, length, seed)
    first, last = walks.observations[:, 0], walks.observations[:, -1]
    if exact is not None:
        begin, end = exact(first)[:, None], exact(last)[:, None]
    else:
        begin, end = (
            returns_from(policy, task, snapshots, seen, critic.gamma, replace(rollouts, seed=own))
            for snapshots, seen, own in (
                (walks.first, first, derive_seed(seed, "first")),
                (walks.last, last, derive_seed(seed, "last")),
            )
        )
    end = np.where(walks.ended[:, None], 0.0, end)
    discounts = critic.gamma ** np.arange(length)
    earned = (walks.rewards * discounts).sum(axis=1)
    regrets = earned[:, None] + critic.gamma**length * end - begin
    found = (critic.advantage(walks.observations[:, :-1], walks.actions) * discounts).sum(axis=1)
    half = regrets.shape[1] // 2
    return CriticError(
        task=task,
        reference="exact values" if exact is not None else f"{rollouts.count} roll-outs from each end",
        segments=segments,
        length=length,
        gamma=critic.gamma,
        value=fit(critic.value(first), begin.mean(axis=1)),
        regret=fit(found, regrets.mean(axis=1)),
        pairs=ordered_alike(found, regrets.mean(axis=1)),
        ceiling=None if half < 1 else ordered_alike(regrets[:, :half].mean(axis=1), regrets[:, half:].mean(axis=1)),
    )


def walk(policy: Policy, task: str, count: int, length: int, seed: int = 0) -> Walks:
    """Record `count` segments, each in an episode of its own.

    An episode's share of random actions is drawn evenly from [0, 1], and the steps before the segment from 0 to 200;
    where the episode ends too early, another is begun with half as many. Raises PrefenvsError for episodes that end
    before that.
    """
    rng = np.random.default_rng(seed)
    parts: list[tuple[Any, ...]] = []
    with closing(_make(task)) as env:
        lead = min(200, max(env.task.horizon - length, 0))
        for i in range(count):
            found = None
            for attempt in range(ATTEMPTS):
                before = int(rng.integers(lead // 2 ** min(attempt, 10) + 1))
                start = FIRST_SEED + int(rng.integers(2**30)) if attempt or seed else FIRST_SEED + i
                found = _walk_once(env, policy, before, length, float(rng.random()), start, rng)
                if found is not None:
                    break
            if found is None:
                raise PrefenvsError(f"episodes of {task} end before {length} steps: choose shorter segments")
            parts.append(found)
    observations, actions, rewards, ended, first, last = zip(*parts, strict=True)
    return Walks(np.stack(observations), np.stack(actions), np.array(rewards), np.array(ended), first, last)


def _walk_once(
    env: HiddenReward, policy: Policy, before: int, length: int, noise: float, start: int, rng: np.random.Generator
) -> tuple[Any, ...] | None:
    """Play one episode and return its segment, or None where it ended before the segment was complete."""
    observation, _ = env.reset(seed=start)
    env.action_space.seed(int(rng.integers(2**31)))
    seen, actions, rewards = [], [], []
    first = None
    for step in range(before + length):
        if step == before:
            first = env.snapshot()
        action = policy.predict(np.asarray(observation)[None])[0][0]
        if rng.random() < noise:
            action = env.action_space.sample()
        if step >= before:
            seen.append(np.array(observation, np.float32))
            actions.append(action_vectors(env.action_space, action).astype(np.float32, copy=False))
        observation, _, terminated, truncated, info = env.step(action)
        if step >= before:
            rewards.append(info["true_reward"])
        if (terminated or truncated) and step < before + length - 1:
            return None
    seen.append(np.array(observation, np.float32))
    return np.stack(seen), np.stack(actions), rewards, terminated, first, env.snapshot()


def returns_from(
    policy: Policy,
    task: str,
    snapshots: Sequence[Snapshot],
    observations: Array,
    gamma: float,
    rollouts: Rollouts,
) -> Array:
    """Return discounted true returns [N, rollouts.count] of a policy that draws its actions, from N snapshots.

    observations: [N, obs], what is seen there.
    """
    jobs = np.repeat(np.arange(len(snapshots)), rollouts.count)
    returns = np.zeros(len(jobs))
    with ExitStack() as stack:
        envs = [stack.enter_context(closing(_make(task))) for _ in range(min(SLOTS, len(jobs)))]
        horizon = envs[0].task.horizon
        wanted = horizon if gamma >= 1.0 else int(np.ceil(np.log(0.01) / np.log(gamma)))
        steps = min(rollouts.steps or wanted, horizon)
        for begin in range(0, len(jobs), len(envs)):
            if rollouts.reseed is not None:
                rollouts.reseed(derive_seed(rollouts.seed, begin))
            batch = jobs[begin : begin + len(envs)]
            starts = [snapshots[i] for i in batch]
            returns[begin : begin + len(envs)] = _play(policy, envs, starts, observations[batch], gamma, steps)
            if rollouts.progress is not None:
                rollouts.progress(len(batch))
    return returns.reshape(len(snapshots), rollouts.count)


def _play(
    policy: Policy, envs: list[HiddenReward], starts: list[Snapshot], observations: Array, gamma: float, steps: int
) -> Array:
    """Play one roll-out in each environment, side by side, and return their discounted returns."""
    for env, snapshot in zip(envs, starts, strict=False):
        env.reset(seed=FIRST_SEED)
        env.resume(snapshot)
    returns, running = np.zeros(len(starts)), np.ones(len(starts), bool)
    seen = np.array(observations)
    for step in range(steps):
        # Ended ones stay in the batch, so that the others' random numbers are the same in any case.
        actions = policy.predict(seen)[0]
        for i in np.flatnonzero(running):
            seen[i], _, terminated, truncated, info = envs[i].step(actions[i])
            returns[i] += gamma**step * info["true_reward"]
            running[i] = not (terminated or truncated)
        if not running.any():
            break
    return returns


def fit(estimates: Array, reference: Array) -> CriticFit:
    """Compare estimates [N] with a reference [N]."""
    from scipy.stats import rankdata

    spread = float(reference.std())
    if not spread or not float(np.std(estimates)):
        return CriticFit(float("nan"), float("nan"), float("nan"), float("nan"))
    return CriticFit(
        float(np.corrcoef(estimates, reference)[0, 1]),
        float(np.corrcoef(rankdata(estimates), rankdata(reference))[0, 1]),
        float(np.abs(estimates - reference).mean()) / spread,
        float((estimates - reference).mean()) / spread,
    )


def ordered_alike(first: Array, second: Array) -> float:
    """Return the share of pairs that two scores [N] order alike; pairs that either ties count a half."""
    i, j = np.triu_indices(len(first), 1)
    product = np.sign(first[i] - first[j]) * np.sign(second[i] - second[j])
    return float(np.mean(0.5 * (product + 1.0)))


def _make(task: str) -> HiddenReward:
    return cast(HiddenReward, make(task))
