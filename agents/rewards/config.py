"""Settings of the reward ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefenvs.agents.nets.mlp import OUTPUTS, Output, Precision, check_precision
from prefenvs.agents.rewards.losses import Correction
from prefenvs.agents.rewards.surf import SurfConfig
from prefenvs.choices import check_choices
from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction, PositiveFloat, PositiveInt

Stop = Literal["train", "validation", "never"]


@dataclass(frozen=True)
class RewardConfig:
    """Settings of the reward ensemble; the defaults are those of B-Pref's PEBBLE (Lee et al. 2021)."""

    members: PositiveInt = 3
    """Networks in the ensemble."""
    layers: PositiveInt = 3
    """Hidden layers of each."""
    width: PositiveInt = 256
    """Units of each hidden layer."""
    normalise: bool = False
    """Give observations mean 0 and standard deviation 1 over the labelled steps, anew at each fit.

    Where observations vary less than actions, as positions in metres do, a reward model otherwise explains labels by
    actions first.
    """
    output: Output = "tanh"
    """Function on the last layer; tanh keeps each step's reward in [-1, 1]."""
    learning_rate: PositiveFloat = 3e-4
    """Adam's, for all members."""
    batch_size: PositiveInt = 128
    """Labelled queries in one gradient step."""
    epochs: PositiveInt = 50
    """Passes over the labels in one fit, at most (50 on the DeepMind Control tasks, 10 on Meta-World)."""
    stop: Stop | None = None
    """When to end a fit early; None means "train", and with SURF "never", as published.

    train: after the first pass whose accuracy exceeds `stop_accuracy`; validation: once the held-out loss has not
    fallen for `patience` passes, going back to the best weights.
    """
    stop_accuracy: Fraction = 0.97
    """Mean accuracy of the members during a pass, over decided labels."""
    patience: PositiveInt = 5
    """Passes without a better held-out loss before stopping on it."""
    validation_share: Fraction = 0.0
    """Share of the labels held out, by episode where possible."""
    bootstrap: bool = False
    """Give each member its own resample of the labels, drawn with replacement at each fit."""
    flip_rate: Fraction = 0.0
    """Share of labels assumed to be flipped at random, below 0.5."""
    correction: Correction = "unbiased"
    """How the loss allows for flipped labels (see `prefenvs.agents.rewards.losses`)."""
    precision: Precision = "float32"
    """bfloat16 runs the hidden layers in that type: faster where the processor has it, to two or three digits."""
    surf: SurfConfig | None = None
    """Semi-supervised learning with cropping; None is plain PEBBLE."""

    def __post_init__(self) -> None:
        for name in ("members", "layers", "width", "batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise PrefenvsError(f"reward {name} must be at least 1, got {getattr(self, name)}")
        check_precision(self.precision)
        if self.output not in tuple(OUTPUTS):
            raise PrefenvsError(f"reward output={self.output!r} is unknown: choose one of {', '.join(OUTPUTS)}")
        if not 0.0 <= self.flip_rate < 0.5:
            raise PrefenvsError(f"flip_rate={self.flip_rate} must lie in [0, 0.5): at 0.5 a label says nothing")
        if not 0.0 <= self.validation_share < 1.0:
            raise PrefenvsError(f"validation_share={self.validation_share} must lie in [0, 1)")
        if self.stop == "validation" and not self.validation_share:
            raise PrefenvsError('stop="validation" needs held-out labels: set validation_share, for instance to 0.1')
        if not self.learning_rate > 0.0:
            raise PrefenvsError(f"reward learning_rate={self.learning_rate} must be above 0")
        check_choices(self)
