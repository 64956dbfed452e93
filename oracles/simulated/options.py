"""Options of simulated raters: keys of a rater and flags of the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from prefenvs.limits import PositiveFraction
from prefenvs.oracles.simulated.teachers import Teacher, find_teacher


@dataclass(frozen=True)
class TeacherOptions:
    """The irrationalities of a simulated rater: a teacher by name, and what is changed of it."""

    teacher: Annotated[str, arg(name="teacher")] = "oracle"
    """oracle, mistake, noisy, skip, myopic, equal, unsure, or one of the crowds, such as crowd-mujoco."""
    beta: Annotated[float | None, arg(name="teacher-beta")] = None
    """Inverse temperature of its choices; at or below 0 the better segment is always preferred."""
    gamma: Annotated[float | None, arg(name="teacher-gamma")] = None
    """Discount of a segment's early steps."""
    mistake: Annotated[float | None, arg(name="teacher-mistake")] = None
    """Chance of preferring another segment than the one found best."""
    skip: Annotated[float | None, arg(name="teacher-skip")] = None
    """Skip threshold, in units of the threshold scale."""
    equal: Annotated[float | None, arg(name="teacher-equal")] = None
    """Tie threshold, in units of the threshold scale."""
    unsure: Annotated[float | None, arg(name="teacher-unsure")] = None
    """Guess threshold, in units of the threshold scale."""
    threshold_scale: Annotated[Literal["policy", "quantile"] | float | None, arg(name="teacher-scale")] = None
    """What thresholds are multiples of: the recent policy's return, quantiles, or a number."""
    units: Annotated[Literal["raw", "standardised"] | None, arg(name="teacher-units")] = None
    """Unit of the scores that beta multiplies."""
    exact_ties: Annotated[Literal["half", "first", "guess"] | None, arg(name="teacher-ties")] = None
    """Answer where scores are equal."""
    double_scale: Annotated[bool | None, arg(name="teacher-double-scale")] = None
    """Multiply thresholds twice from the second session on, as B-Pref's code does."""
    soft: Annotated[bool, arg(name="teacher-soft")] = False
    """Answer with probabilities instead of a draw."""

    def find(self) -> Teacher:
        """Return the teacher; raises PrefenvsError for an unknown name and for values out of range."""
        own = (field.name for field in dataclasses.fields(Teacher))
        changed = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        return dataclasses.replace(find_teacher(self.teacher), **changed)


@dataclass(frozen=True)
class RegretOptions(TeacherOptions):
    """A simulated rater by regret."""

    expert: Annotated[Path | None, arg(name="expert")] = None
    """Run folder of an expert (`train pebble --true-reward`) or a .zip of SB3; Delivery-v0 can do without."""
    form: Annotated[Literal["advantage", "deterministic", "visited"], arg(name="regret-form")] = "advantage"
    """Sum of advantages; telescoped; or telescoped without the last action, as CPL's labels."""
    discount: Annotated[PositiveFraction, arg(name="regret-discount")] = 1.0
    """The rater's discount within a segment: 1 as in CPL's labels; no learner's own discount."""
