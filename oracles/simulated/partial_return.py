"""The rater of most published work: prefers the segment with the larger sum of true rewards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.oracles.simulated.synthetic import SyntheticOracle
from prefenvs.segments import Array, Segment
from prefenvs.tasks import has_reward
from prefenvs.tasks.recorded import is_recorded


class PartialReturnOracle(SyntheticOracle):
    """Judge segments by what they earn, with the irrationalities of a teacher (see `simulated.teachers.Teacher`).

    Christiano et al. 2017 and B-Pref's simulated teachers: P(1 preferred) = logistic(beta (sum r(1) - sum r(2))). It
    looks neither at where a segment began nor at where it ended.
    """

    kind = "partial-return"

    def step_values(self, segments: Sequence[Segment]) -> Array:
        """Return the true rewards [N, T]; raises PrefenvsError where a segment carries none."""
        return true_rewards(segments)


def true_rewards(segments: Sequence[Segment]) -> Array:
    """Return the true rewards [N, T] float64 of segments of one length; raises PrefenvsError where one has none."""
    rewards = [segment.true_rewards for segment in segments if segment.true_rewards is not None]
    if len(rewards) < len(segments):
        bare = next(segment for segment in segments if segment.true_rewards is None)
        raise PrefenvsError(
            f"a segment of task {bare.task!r}, source {bare.source!r}, carries no true rewards, which this rater "
            "judges by: collect it with prefenvs.make, or ask another oracle"
        )
    # A pose's true reward is 0 and means nothing; a recording has true rewards only where its file tells some.
    tasks = dict.fromkeys(segment.task for segment in segments)
    nothing = next((task for task in tasks if not (has_reward(task) or is_recorded(task))), None)
    if nothing is not None:
        raise PrefenvsError(f"task {nothing!r} has no true reward that a simulated rater could judge by: ask another")
    return np.stack(rewards).astype(np.float64)
