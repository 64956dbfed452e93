"""PEBBLE by Thompson sampling: one reward member an episode, and questions only where draws disagree.

After Wu and Sun 2024, "Making RL with preference-based feedback efficient via randomization": act well for a reward
drawn from the posterior, and ask only about pairs on which two draws differ by more than epsilon. Here the members of
the reward ensemble are the posterior (Osband et al. 2016); the paper's guarantees, for linear rewards, do not carry
over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.agents.nets.saved import damage_told
from prefenvs.agents.online.checkpoint import WAY_OUT
from prefenvs.agents.online.feedback import Feedback
from prefenvs.agents.online.pebble import PEBBLE, PebbleConfig, PebbleOptions
from prefenvs.agents.registry import Algorithm, Row
from prefenvs.agents.variants.preset import derive_preset
from prefenvs.errors import PrefenvsError
from prefenvs.internal.seeding import derive_seed
from prefenvs.limits import Fraction, PositiveInt
from prefenvs.preferences import Preference, Query
from prefenvs.protocols import QuerySelector, RewardModel, predict_rewards, predict_segments
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories

FILE = "draw.json"


@dataclass(frozen=True)
class ThompsonConfig(PebbleConfig):
    """PEBBLE's settings, and when draws are made and compared."""

    selector: Any = "uniform"
    """Proposes the pairs, as PEBBLE's; those on which the draws agree are not asked."""
    epsilon: Fraction = 0.05
    """A pair is asked if its two draws differ by more than this in the chance that its first segment is better."""
    draw_every: PositiveInt = 1
    """Episodes, over all environments, after which another member is drawn, and the replay relabelled by it."""


class DrawsDiffer:
    """Ask what another selector proposes, where two members drawn for each pair predict different answers."""

    def __init__(self, inner: QuerySelector, epsilon: float) -> None:
        self.inner, self.epsilon = inner, epsilon

    def select(
        self,
        pool: Trajectories,
        count: int,
        length: int,
        reward_model: RewardModel | None,
        labelled: Sequence[Preference],
        rng: np.random.Generator,
    ) -> list[Query]:
        """Return at most `count` queries."""
        assert reward_model is not None
        proposed = list(self.inner.select(pool, count, length, reward_model, labelled, rng))
        if not proposed:
            return []
        returns = [
            predict_segments(
                reward_model,
                np.stack([query.segments[side].observations for query in proposed]),
                np.stack([query.segments[side].actions for query in proposed]),
            ).sum(axis=2)
            for side in (0, 1)
        ]
        differs = draws_differ(returns[0] - returns[1], self.epsilon, rng)
        return [query for query, asked in zip(proposed, differs, strict=True) if asked]


def draws_differ(margins: Array, epsilon: float, rng: np.random.Generator) -> Array:
    """Return whether two of M members, drawn for each pair without replacement, differ by more than epsilon, [N] bool.

    margins: [M, N], R(first) - R(second) by each member; what is compared is the logistic function of it.
    """
    members, pairs = margins.shape
    chances = 1.0 / (1.0 + np.exp(-np.clip(margins, -60.0, 60.0)))
    drawn = rng.random((members, pairs)).argsort(axis=0)[:2]
    one, other = np.take_along_axis(chances, drawn, axis=0)
    differs: Array = np.abs(one - other) > epsilon
    return differs


class ThompsonPEBBLE(PEBBLE):
    """PEBBLE on one member of its reward ensemble at a time, another one after each `draw_every` episodes."""

    name = "thompson"
    config_type = ThompsonConfig
    config: ThompsonConfig

    def _setup_model(self) -> None:
        self.draws = 0
        super()._setup_model()

    @property
    def drawn(self) -> int:
        """The member that rewards the agent now."""
        return derive_seed(self.seed or 0, "thompson", self.draws) % self.config.reward.members

    def check_run(self, total_steps: int) -> None:
        """As PEBBLE's; raises PrefenvsError too where the members would be aggregated."""
        super().check_run(total_steps)
        if self.config.aggregate != "mean":
            raise PrefenvsError(f"thompson follows one member, so aggregate={self.config.aggregate!r} has no effect")

    def make_feedback(self, total_steps: int) -> Feedback:
        """Return the rater's side of a run, which asks only where draws differ."""
        feedback = super().make_feedback(total_steps)
        feedback.selector = DrawsDiffer(feedback.selector, self.config.epsilon)
        return feedback

    def learned_reward(self, observations: Array, actions: Array, ends: Array | None = None) -> tuple[Array, Array]:
        """Return the reward of the member drawn and the standard deviation of all members, [B] each."""
        members = predict_rewards(self.reward_model, observations, actions, ends)
        return members[self.drawn % len(members)], members.std(axis=0)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """As PEBBLE, after another draw where one is due."""
        draws = self.recorder.buffer.episodes_seen // self.config.draw_every
        if draws != self.draws:
            former, self.draws = self.drawn, draws
            if self.reward_learned and self.drawn != former:
                self.replay_buffer.relabel(self.learned_reward)
        super().train(gradient_steps, batch_size)

    def save_memory(self, folder: Path) -> None:
        """Write the replay buffer, and how many draws were made."""
        super().save_memory(folder)
        (folder / FILE).write_text(json.dumps({"draws": self.draws}))

    def load_memory(self, folder: Path) -> None:
        """Read them."""
        super().load_memory(folder)
        with damage_told(folder / FILE, WAY_OUT):
            self.draws = int(json.loads((folder / FILE).read_text())["draws"])

    def _compare_members(self) -> list[str]:
        return [*super()._compare_members(), "thompson"]


ALGORITHM = Algorithm(
    name="thompson",
    title="PEBBLE by Thompson sampling",
    source="online",
    learner=ThompsonPEBBLE,
    config=ThompsonConfig,
    options=PebbleOptions,
    # One member acts at a time, so that there is nothing to aggregate.
    preset=derive_preset(ThompsonConfig, selector="uniform", aggregate="mean"),
    presets=("published", "small", "reliable"),
    rows=(Row("thompson", "PEBBLE by Thompson sampling", rewards=True),),
    upper="pebble-true-reward",
)
