"""The rater that judges by regret: how far each choice fell short of the best one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.oracles.simulated.partial_return import true_rewards
from prefenvs.oracles.simulated.synthetic import SyntheticOracle
from prefenvs.oracles.simulated.teachers import Teacher
from prefenvs.protocols import Advantage
from prefenvs.segments import Array, Segment
from prefenvs.trajectories import Trajectories

FORMS = ("advantage", "deterministic", "visited")


class RegretOracle(SyntheticOracle):
    """Prefer the segment with the least regret (Knox et al. 2022, "Models of human preference"; CPL's labels).

    regret(segment) = -sum_t discount^t A*(s_t, a_t), and P(1 preferred) = logistic(beta (regret(2) - regret(1))), with
    the irrationalities of a teacher on top; a teacher's thresholds then are in units of advantage, where "policy" has
    no meaning.

    form "advantage" sums A*(s_t, a_t); right for stochastic tasks too, and the only one that reads no true reward.
    form "deterministic" is r_0 + ... + r_{T-1} + V*(s_T) - V*(s_0), equal to it where moves are certain. A segment does
    not hold s_T, so r_{T-1} + V*(s_T) is taken as Q*(s_{T-1}, a_{T-1}) = V*(s_{T-1}) + A*(s_{T-1}, a_{T-1}).
    form "visited" leaves the last action out: r_0 + ... + r_{T-2} + V*(s_{T-1}) - V*(s_0), as CPL's published labels
    do; it needs no advantages.
    """

    kind = "regret"

    def __init__(
        self,
        values: Advantage | Callable[[Array, Array], Array],
        teacher: str | Teacher = "oracle",
        seed: int | None = None,
        soft: bool = False,
        annotator: str = "",
        form: Literal["advantage", "deterministic", "visited"] = "advantage",
        discount: float = 1.0,
    ) -> None:
        """Make a rater.

        values: an expert's: an object with `advantage(observations, actions)`, and for the other forms also
        `value(observations)`; or a callable for the advantage. Both take [N, T, ...] and return [N, T].
        discount: weight of step t is discount^t; 1 as in the study, and in CPL's labels.

        Raises PrefenvsError for values that the form needs and does not get, and for a teacher whose thresholds are a
        share of the policy's return.
        """
        super().__init__(teacher, seed, soft, annotator)
        if form not in FORMS:
            raise PrefenvsError(
                f"unknown form of regret {form!r}: choose {', '.join(FORMS)}.{near_matches(form, FORMS)}"
            )
        if not 0.0 < discount <= 1.0:
            raise PrefenvsError(f"discount must lie in (0, 1], got {discount}")
        self._advantage: Any = getattr(values, "advantage", values if callable(values) else None)
        self._value: Any = getattr(values, "value", None)
        if form != "visited" and not callable(self._advantage):
            raise PrefenvsError(
                f"{type(values).__name__} has no advantage(observations, actions), which {form!r} needs"
            )
        if form != "advantage" and not callable(self._value):
            raise PrefenvsError(f"{type(values).__name__} has no value(observations), which the form {form!r} needs")
        if self.teacher.scaled_by_policy:
            raise PrefenvsError(
                "advantages are never above 0, so no threshold can be a share of the policy's: give the teacher "
                'threshold_scale="quantile" or a number'
            )
        self.form, self.discount = form, discount

    def observe(self, trajectories: Trajectories) -> None:
        """Ignore the policy: regret is measured against the best one."""

    def step_values(self, segments: Sequence[Segment]) -> Array:
        """Return what each step adds to the negative regret, [N, T], or [N, T - 1] in the form "visited"."""
        observations = np.stack([segment.observations for segment in segments])
        actions = np.stack([segment.actions for segment in segments])
        if self.form == "advantage":
            steps = self._call(self._advantage, observations, actions)
        else:
            steps = self._telescoped(segments, observations, actions)
        values: Array = steps * self.discount ** np.arange(steps.shape[1])
        return values

    def _telescoped(self, segments: Sequence[Segment], observations: Array, actions: Array) -> Array:
        rewards = true_rewards(segments)
        values = self._call(self._value, observations)
        steps: Array = rewards[:, :-1] + self.discount * values[:, 1:] - values[:, :-1]
        if self.form == "visited":
            if not steps.shape[1]:
                raise PrefenvsError(
                    'the form "visited" of regret leaves out the last step: choose segments of 2 or more'
                )
            return steps
        last = self._call(self._advantage, observations[:, -1:], actions[:, -1:])
        return np.concatenate([steps, last], axis=1)

    def _call(self, function: Any, *inputs: Array) -> Array:
        result = np.asarray(function(*inputs), np.float64)
        if result.shape != inputs[0].shape[:2]:
            raise PrefenvsError(f"the expert's values have shape {result.shape}, expected {inputs[0].shape[:2]}")
        return result
