"""Interventions on Pendulum-v1, whose optimal values are nearly exact: RLIF, cloning and HG-DAgger."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from prefenvs.agents.direct.rlif import RLIF, RLIFConfig
from prefenvs.agents.offline.bc import BC, BCConfig
from prefenvs.agents.registry import find_algorithm
from prefenvs.bench.claims.claim import Measured
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.envs import make
from prefenvs.envs.vectors import make_envs
from prefenvs.evaluate import evaluate
from prefenvs.protocols import Policy
from prefenvs.segments import Array
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

TASK, STEPS, EXPERT_STEPS = "Pendulum-v1", 8_000, 3_000
THRESHOLD = 0.3
"""Loss of value by a step that makes the person take over."""
ROUNDS = 5
"""Of HG-DAgger's cloning."""
ANGLES, SPEEDS, TORQUES = 81, 81, 9
GAMMA = 0.98


class Swinger:
    """A person who swings the pendulum up but holds it with a bias, and who judges by the optimal values.

    bias: torque that is added to the optimal one, of 2 at most; the values are those of Gymnasium's dynamics on a grid
    of 81 angles by 81 speeds.
    """

    def __init__(self, bias: float = 1.5) -> None:
        self.bias = bias
        self.torques = np.linspace(-2.0, 2.0, TORQUES)
        self.values = _optimal_values()

    def predict(self, observation: Array, *_: Any, **__: Any) -> tuple[Array, None]:
        """Return torques [N, 1] for observations [N, 3]."""
        angle, speed = np.arctan2(observation[:, 1], observation[:, 0]), observation[:, 2]
        best = self.torques[_action_values(self.values, angle, speed, self.torques).argmax(1)]
        return np.clip(best + self.bias, -2.0, 2.0).astype(np.float32)[:, None], None

    def advantage(self, observations: Array, actions: Array) -> Array:
        """Return A*(s, a) [N], but for the grid."""
        angle, speed = np.arctan2(observations[:, 1], observations[:, 0]), observations[:, 2]
        best = _action_values(self.values, angle, speed, self.torques).max(1)
        worth: Array = _action_values(self.values, angle, speed, np.asarray(actions, np.float64))[:, 0] - best
        return worth


def _action_values(values: Array, angle: Array, speed: Array, torques: Array) -> Array:
    """Return Q* [N, K] for angles and speeds [N] and torques [K] or [N, K]."""
    cost, corners, shares = _move(angle, speed, torques)
    result: Array = GAMMA * (values[corners] * shares).sum(0) - cost
    return result


def _move(angle: Array, speed: Array, torques: Array) -> tuple[Array, Array, Array]:
    """Return the costs [N, K] of steps, by Gymnasium's equations, and where they lead, for linear interpolation.

    That is the four points [4, N, K] of the grid around it, and their shares [4, N, K]; angles go round.
    """
    torques, angle, speed = np.atleast_2d(torques), angle[:, None], speed[:, None]
    cost = angle**2 + 0.1 * speed**2 + 0.001 * torques**2
    after = np.clip(speed + (15.0 * np.sin(angle) + 3.0 * torques) * 0.05, -8.0, 8.0)
    turned = (angle + after * 0.05 + np.pi) % (2.0 * np.pi)
    x, y = turned / (2.0 * np.pi) * ANGLES, (after + 8.0) / 16.0 * (SPEEDS - 1)
    i, j = np.floor(x).astype(int), np.minimum(np.floor(y).astype(int), SPEEDS - 2)
    u, v = x - i, y - j
    low, high = i % ANGLES * SPEEDS + j, (i + 1) % ANGLES * SPEEDS + j
    corners = np.stack([low, low + 1, high, high + 1])
    return cost, corners, np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v])


@cache
def _optimal_values() -> Array:
    """V* [points of the grid], by value iteration."""
    angle = np.arange(ANGLES) / ANGLES * 2.0 * np.pi - np.pi
    grid = np.meshgrid(angle, np.linspace(-8.0, 8.0, SPEEDS), indexing="ij")
    cost, corners, shares = _move(grid[0].ravel(), grid[1].ravel(), np.linspace(-2.0, 2.0, TORQUES))
    rows = np.tile(np.arange(cost.size), 4)
    lead = csr_matrix((shares.ravel(), (rows, corners.ravel())), (cost.size, ANGLES * SPEEDS))
    values = np.zeros(ANGLES * SPEEDS)
    for _ in range(300):
        values = ((GAMMA * lead @ values).reshape(cost.shape) - cost).max(1)
    return values


@cache
def _intervene(seed: int, trigger: str = "value") -> tuple[float, int]:
    """Return the mean true return of RLIF, and for how many steps the expert acted."""
    settings = find_algorithm("rlif").settings(find_task(TASK), "small", steps=STEPS)
    config = replace(
        settings.config, trigger=trigger, threshold=THRESHOLD, expert_steps=EXPERT_STEPS, demonstrations=200, rate=0.05
    )
    keywords = settings.options.keywords()
    agent = RLIF("MlpPolicy", make_envs(TASK, 1, seed), Swinger(), config, seed=seed, device="cpu", **keywords)
    agent.learn(STEPS)
    return measure_return(agent, seed), agent.expert_steps


def measure_return(policy: Policy, seed: int) -> float:
    """Return the mean true return of 20 episodes."""
    return evaluate(policy, TASK, episodes=20, seed=seed + 1).mean_return


def _clone(observations: Array, actions: Array, seed: int) -> BC:
    """Return a policy cloned from steps [N, 3] and [N, 1]."""
    data = Trajectories(
        observations,
        actions,
        np.array([len(actions)]),
        terminated=np.zeros(1, bool),
        final_observations=observations[-1:],
        task=TASK,
    )
    config = BCConfig(loss="mse", hidden=(64, 64), learning_rate=1e-3)
    return BC(OfflineDataset("expert", data), config=config, seed=seed, device="cpu").learn(1_500)


def play(policy: Policy, expert: Swinger, steps: int, wanted: int, seed: int, watched: bool) -> tuple[Array, Array]:
    """Let a policy act until an expert has done `wanted` steps, or for `steps`; return the expert's steps.

    watched: the expert takes over as RLIF's does; else it acts all the time.
    """
    rng, seen, done, left = np.random.default_rng(seed), list[Array](), list[Array](), 0
    with closing(make(TASK)) as env:
        observation, _ = env.reset(seed=seed)
        for _ in range(steps):
            if len(done) == wanted:
                break
            row = np.asarray(observation, np.float32)[None]
            taken = left > 0 or not watched
            action = (expert if taken else policy).predict(row, deterministic=True)[0]
            if taken:
                seen.append(row)
                done.append(action)
                left -= 1
            else:
                bad = -expert.advantage(row, action)[0] > THRESHOLD
                left = RLIFConfig.takeover if bad ^ (rng.random() < RLIFConfig.mistakes) else 0
            observation, _, _, truncated, _ = env.step(action[0])
            if truncated:
                (observation, _), left = env.reset(), 0
    return np.array(seen, np.float32).reshape(-1, 3), np.array(done, np.float32).reshape(-1, 1)


def rlif(seed: int) -> Measured:
    """RLIF, and the cloning of demonstrations of as many steps as its expert acted for."""
    figure, count = _intervene(seed)
    return Measured(figure, measure_return(_clone(*play(Swinger(), Swinger(), count, count, seed, False), seed), seed))


def rlif_dagger(seed: int) -> Measured:
    """RLIF, and HG-DAgger: rounds of cloning all the expert's steps and of its taking over, up to as many steps."""
    figure, count = _intervene(seed)
    expert = Swinger()
    seen, done = play(expert, expert, 200, 200, seed, False)
    policy = _clone(seen, done, seed)
    for number in range(1, ROUNDS):
        wanted = 200 + (count - 200) * number // (ROUNDS - 1) - len(done)
        more = play(policy, expert, 4 * STEPS, wanted, seed + 100 * number, True)
        seen, done = np.concatenate([seen, more[0]]), np.concatenate([done, more[1]])
        policy = _clone(seen, done, seed)
    return Measured(figure, measure_return(policy, seed))


def rlif_random(seed: int) -> Measured:
    """RLIF, and RLIF whose expert takes over by chance."""
    return Measured(_intervene(seed)[0], _intervene(seed, "random")[0])
