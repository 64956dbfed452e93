"""Demonstrations of simulated raters."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.bench.claims.claim import Measured
from prefenvs.bench.claims.delivery import TASK, Driver, random_segment
from prefenvs.datasets.collecting import CollectionPlan, collect
from prefenvs.datasets.sources import parse_mix
from prefenvs.envs import make
from prefenvs.envs.delivery.board import find_board
from prefenvs.envs.delivery.values import BoardValues
from prefenvs.metrics.preference_models import fit_scores
from prefenvs.oracles import CoinOracle, HeronOracle, HindsightOracle, PartialReturnOracle, RegretOracle, Teacher
from prefenvs.oracles.simulated.partial_return import true_rewards
from prefenvs.preferences import Oracle, Preference, Query, make_pairs
from prefenvs.queries.lists import ListBuilder, ListMethod, rank_segments
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories, TrajectoryBuffer


def record_random(task: str, episodes: int, seed: int) -> Trajectories:
    """Record episodes of actions that are drawn anew every five steps, so that segments differ."""
    rng = np.random.default_rng(seed)
    with closing(make(task)) as env:
        buffer = TrajectoryBuffer(task)
        for episode in range(episodes):
            observation, info = env.reset(seed=seed * 1_000 + episode)
            done, step = False, 0
            scale = rng.random()
            while not done:
                if step % 5 == 0:
                    action = scale * rng.uniform(-1, 1, env.action_space.shape)
                state = info.get("state")
                following, _, terminated, truncated, info = env.step(action)
                done, step = terminated or truncated, step + 1
                buffer.add_step(0, observation, action, info["true_reward"], state, done=done, terminated=terminated)
                observation = following
        return buffer.trajectories()


def answers(oracle: Oracle, queries: list[Query]) -> list[Preference]:
    """Ask and collect."""
    oracle.ask(queries)
    return oracle.collect()


def unsure(seed: int) -> Measured:
    """S-EPOA's teacher and B-Pref's mistake on 1,000 pairs of HalfCheetah: errors among the clearer half."""
    batch = record_random("HalfCheetah-v5", 4, seed).sample(2_000, 50, np.random.default_rng(seed))
    pairs = make_pairs(batch)
    returns = np.array([[float(np.sum(true_rewards([segment]))) for segment in pair.segments] for pair in pairs])
    gaps = np.abs(returns[:, 0] - returns[:, 1])
    clear = gaps > np.median(gaps)

    def errors(teacher: Teacher) -> float:
        found = answers(PartialReturnOracle(teacher, seed), pairs)
        wrong = np.array([answer.best != row.argmax() for answer, row in zip(found, returns, strict=True)])
        return float(wrong[clear].mean())

    return Measured(errors(Teacher(unsure=0.3, threshold_scale="quantile")), errors(Teacher(mistake=0.1)))


REACHER = ("-norm(8:10)", "-effort")
"""Distance of the fingertip to its target, and squared torques: both should be small."""


def _liked(oracle: Oracle, seed: int) -> Array:
    """Return the mean percentiles of distance and effort [2] of what a reward learned from 400 labels likes best."""
    rng = np.random.default_rng(seed)
    episodes = record_random("Reacher-v5", 60, seed)
    labelled, fresh = episodes.sample(800, 10, rng), list(episodes.sample(1_000, 10, rng))
    config = RewardConfig(members=1, layers=2, width=64, epochs=30, normalise=True)
    model = RewardEnsemble(labelled.observations.shape[-1], labelled.actions.shape[-1], config, seed, "cpu")
    model.fit(answers(oracle, make_pairs(labelled)))
    observations, actions = (np.stack([getattr(one, name) for one in fresh]) for name in ("observations", "actions"))
    scores = model.predict(observations, actions).mean(axis=0).sum(axis=-1)
    factors = HeronOracle(REACHER).factor_values(fresh)
    percentiles = factors.argsort(axis=0).argsort(axis=0) / (len(fresh) - 1)
    return np.asarray(percentiles[np.argsort(-scores)[:100]].mean(axis=0))


def heron_both(seed: int) -> Measured:
    """The worse of both factors' percentiles after labels by (distance, effort), and after coin labels."""
    margins = (0.5, 0.1)
    return Measured(_liked(HeronOracle(REACHER, margins), seed).min(), _liked(CoinOracle(seed), seed).min())


def heron_order(seed: int) -> Measured:
    """Distance's percentile after labels by (distance, effort), and by (effort, distance)."""
    # With a margin of .5 the second factor decides more than a quarter of the pairs.
    first, last = (_liked(HeronOracle(ranked, (0.1, 0.1)), seed)[0] for ranked in (REACHER, REACHER[::-1]))
    return Measured(first, last)


def hindsight(seed: int) -> Measured:
    """Agreement with labels by regret of 300 pairs of three random moves from one cell."""
    board, rng = find_board(0), np.random.default_rng(seed)
    values = BoardValues(board, 0.99)
    starts = rng.choice(board.starts, 300)
    pairs = [Query((random_segment(board, s, 3, rng), random_segment(board, s, 3, rng))) for s in starts]
    regret = [np.asarray(answer.probabilities) for answer in answers(RegretOracle(values), pairs)]

    def agreement(oracle: Oracle) -> float:
        found = [np.asarray(answer.probabilities) for answer in answers(oracle, pairs)]
        shares = [float(a @ b) for a, b in zip(found, regret, strict=True) if b.max() == 1.0]
        return float(np.mean(shares))

    shown = HindsightOracle(PartialReturnOracle(), TASK, 30, Driver(values, 0.1, seed), seed)
    return Measured(agreement(shown), agreement(PartialReturnOracle()))


def explained(seed: int, by: Literal["regret", "return"]) -> Measured:
    """Agreement with 1,000 answers, on the study's board, of what people go by, and of the other model."""
    board, rng = find_board(4), np.random.default_rng(seed)
    values = BoardValues(board)
    starts = rng.choice(board.starts, (1_000, 2))
    pairs = [Query((random_segment(board, s, 3, rng), random_segment(board, t, 3, rng))) for s, t in starts]
    teacher = Teacher(beta=0.5)
    found = answers(
        RegretOracle(values, teacher, seed) if by == "regret" else PartialReturnOracle(teacher, seed), pairs
    )
    first = np.array([one.probabilities[0] for one in found if one.probabilities is not None])
    shares = []
    for model in (RegretOracle(values), PartialReturnOracle()):
        scores = [[float(model.step_values([one]).sum()) for one in pair.segments] for pair in pairs]
        shares.append(fit_scores(np.array(scores), first).agreement)
    return Measured(*(shares if by == "regret" else shares[::-1]))


Score = Literal["exponential", "linear"]
QUESTIONS, STEPS, LENGTH = 200, 300, 25


@cache
def _record_drawer(seed: int) -> Trajectories:
    """Record a drawer that is opened well, with noise of three sizes, and hardly: six episodes of each."""
    mix = parse_mix(("scripted:0.2:0.2=6", "scripted:0.5:0.5=6", "scripted:1:0.8=6", "random=6"))
    with TemporaryDirectory() as folder:
        return collect(CollectionPlan("metaworld-drawer-open-v3", mix, seed), Path(folder)).trajectories


@cache
def _learn_lists(method: ListMethod, questions: int, score: Score, seed: int) -> tuple[float, float]:
    """Ask 200 questions in lists of so many, and return what the reward learned from them is worth.

    That is the share of 2,000 new pairs that it orders as their true returns, and its correlation with these.
    """
    rng, episodes = np.random.default_rng(seed), _record_drawer(seed)
    segments, fresh = episodes.sample(3 * QUESTIONS, LENGTH, rng), episodes.sample(4_000, LENGTH, rng)
    labels = rank_segments(segments, PartialReturnOracle(), QUESTIONS, ListBuilder(method, questions, rng))
    # As many gradient steps whatever the number of pairs.
    epochs = STEPS // -(-len(labels) // 128)
    config = RewardConfig(members=1, layers=2, width=64, epochs=epochs, stop="never", normalise=True, score=score)
    model = RewardEnsemble(segments.observations.shape[-1], segments.actions.shape[-1], config, seed, "cpu")
    model.fit(labels)
    found = model.predict(fresh.observations, fresh.actions)[0].sum(1)
    assert fresh.true_rewards is not None
    returns = fresh.true_rewards.sum(1)
    right = (found[::2] > found[1::2]) == (returns[::2] > returns[1::2])
    return float(right.mean()), float(np.corrcoef(found, returns)[0, 1])


def lire(seed: int) -> Measured:
    """Accuracy by lists of 100 questions by binary insertion, and by lists of one."""
    return Measured(*(_learn_lists("lire", questions, "exponential", seed)[0] for questions in (100, 1)))


def seqrank(seed: int) -> Measured:
    """Accuracy by lists by sequential pairwise comparison, and by lists of one question."""
    return Measured(*(_learn_lists(*how, "exponential", seed)[0] for how in (("seqrank", 100), ("lire", 1))))


def lire_linear(seed: int) -> Measured:
    """Accuracy by both scores on the same lists."""
    return Measured(*(_learn_lists("lire", 100, score, seed)[0] for score in ("linear", "exponential")))


def lire_scale(seed: int) -> Measured:
    """Correlation with true returns by both scores on the same lists."""
    return Measured(*(_learn_lists("lire", 100, score, seed)[1] for score in ("linear", "exponential")))
