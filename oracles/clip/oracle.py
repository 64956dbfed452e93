"""The rater that compares segments by their CLIP reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.frames.rewards import StateReward, score_segment
from prefenvs.oracles.clip.reward import CLIPReward
from prefenvs.oracles.simulated.synthetic import SyntheticOracle
from prefenvs.oracles.simulated.teachers import Teacher
from prefenvs.segments import Array, Segment
from prefenvs.tasks import is_same_task
from prefenvs.trajectories import Trajectories


class CLIPOracle(SyntheticOracle):
    """Prefer the segment whose states have the larger sum of CLIP rewards (or of any other reward of states).

    A segment's states are those that its observations were made from; recorded pictures take their place. All states
    of a call are scored together, each once. It answers at once, in the time that rendering and the model take, and
    reads no true reward; the irrationalities of a teacher can be put on top, as on every simulated rater.
    """

    kind = "clip"

    def __init__(
        self,
        reward: StateReward,
        teacher: str | Teacher = "oracle",
        seed: int | None = None,
        soft: bool = False,
        annotator: str = "clip",
    ) -> None:
        """`reward`: an `oracles.CLIPReward` of the task; the rest as in `SyntheticOracle`.

        Raises PrefenvsError for a teacher whose thresholds are a share of the policy's return.
        """
        super().__init__(teacher, seed, soft, annotator)
        if self.teacher.scaled_by_policy:
            raise PrefenvsError(
                "a CLIP reward has no scale that a share of the policy's return could mean: give the teacher "
                'threshold_scale="quantile" or a number'
            )
        self.reward = reward

    def observe(self, trajectories: Trajectories) -> None:
        """Ignore the policy: it would tell the true return."""

    def step_values(self, segments: Sequence[Segment]) -> Array:
        """Return the rewards [N, T] of what the segments show.

        Raises PrefenvsError where one shows nothing, or another task than the reward's.
        """
        if isinstance(self.reward, CLIPReward):
            # States of another task may be as many numbers, and would be drawn as this one's.
            own = self.reward.task.id
            other = next((s.task for s in segments if s.task and not is_same_task(s.task, own)), None)
            if other is not None:
                raise PrefenvsError(f"a CLIP reward of {own!r} cannot judge a segment of {other!r}: make one of that")
        bare = next((segment for segment in segments if not segment.visible), None)
        if bare is not None:
            raise PrefenvsError(
                f"a segment of task {bare.task!r}, source {bare.source!r}, carries no simulator states to render, and "
                "no recording: collect it with prefenvs.make, or ask another oracle"
            )
        if any(segment.recording is not None for segment in segments):
            return np.stack([np.asarray(score_segment(self.reward, segment), np.float64) for segment in segments])
        states = np.concatenate([segment.states for segment in segments if segment.states is not None])
        scenes = [np.repeat(s.scene[None], len(s), 0) for s in segments if s.scene is not None]
        rewards = self.reward.score(states, np.concatenate(scenes) if len(scenes) == len(segments) else None)
        return np.asarray(rewards, np.float64).reshape(len(segments), -1)
