"""Raters of one's own: a function of two segments, one of many queries at once, and an object that answers later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from own_environment import SMALL, Array, Reach, nearer

import prefenvs
from prefenvs import Preference, Query, SegmentBatch
from prefenvs.agents import PEBBLE, PebbleConfig
from prefenvs.oracles import batched
from prefenvs.raters import AnyRater


@batched
def calmer(first: SegmentBatch, second: SegmentBatch) -> Array:
    """Return the probability that the second segment moves less, [N]; batched: both hold N segments."""
    effort = [np.abs(side.actions).sum((1, 2)) for side in (first, second)]  # actions are [N, T, 2]
    chances: Array = 1.0 / (1.0 + np.exp(effort[1] - effort[0]))
    return chances


class Careful:
    """Takes its time, as people do, and skips what is too close to call; training goes on meanwhile."""

    def __init__(self) -> None:
        self.open: list[Query] = []
        self.ready: list[Query] = []

    def ask(self, queries: Sequence[Query]) -> None:
        self.open += queries

    def collect(self) -> list[Preference]:
        answers = [self.judge(query) for query in self.ready]
        self.ready, self.open = self.open, []
        return answers

    def judge(self, query: Query) -> Preference:
        ends = [segment.observations[-1] for segment in query.segments]
        left = [float(np.linalg.norm(end[:2] - end[2:])) for end in ends]
        close = abs(left[0] - left[1]) < 0.05
        return Preference(query, None if close else np.eye(2)[int(np.argmin(left))], annotator="me", oracle="careful")


if __name__ == "__main__":
    config = PebbleConfig(labels=30, per_session=10, interact=100, segment_length=10, unsupervised_steps=100)
    raters: list[AnyRater] = [nearer, calmer, Careful()]
    for rater in raters:
        agent = PEBBLE("MlpPolicy", prefenvs.make(Reach), rater, config, **SMALL)
        agent.learn(600)
        assert agent.feedback is not None
        print(f"{rater}: {agent.feedback.labels} labels of {agent.feedback.asked} queries")
