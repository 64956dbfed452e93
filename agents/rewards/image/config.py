"""Settings of reward models on pictures."""

from __future__ import annotations

from dataclasses import dataclass

from prefenvs.agents.nets.mlp import OUTPUTS, Output
from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class ImageRewardConfig:
    """Settings of the image reward; network and batch are RL-VLM-F's (Wang et al. 2024), where frames have 300 pixels.

    An encoder's features take the place of the convolutions: then `size` and `channels` do nothing, `width` and
    `layers` do.
    """

    members: PositiveInt = 3
    """Networks in the ensemble."""
    size: PositiveInt = 64
    """Width and height of the frames in pixels."""
    stride: PositiveInt = 5
    """Every so many steps of a segment one frame is looked at, counted back from its last step."""
    hide_robot: bool = False
    """Draw the objects only."""
    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64, 128)
    """Channels of the convolutions, with kernels 5, 3, 3, 3 and strides 3, 2, 2, 2."""
    width: PositiveInt = 256
    """With an encoder: units of each hidden layer on its features."""
    layers: PositiveInt = 2
    """With an encoder: hidden layers."""
    output: Output = "tanh"
    """Function on the last layer; tanh keeps each frame's reward in [-1, 1]."""
    learning_rate: PositiveFloat = 3e-4
    """Adam's, for all members."""
    batch_size: PositiveInt = 64
    """Labelled queries in one gradient step."""
    epochs: PositiveInt = 50
    """Passes over the labels in one fit, at most."""
    stop_accuracy: Fraction = 0.97
    """A fit ends after the first pass with a higher accuracy, mean of the members over decided labels; 1 for never."""
    validation_share: Fraction = 0.0
    """Share of the labels held out, by episode where possible."""
    cached_frames: PositiveInt = 20_000
    """Frames kept for states that are looked at again."""

    def __post_init__(self) -> None:
        for name in ("members", "stride", "width", "layers", "batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise PrefenvsError(f"image reward {name} must be at least 1, got {getattr(self, name)}")
        if self.output not in OUTPUTS:
            raise PrefenvsError(f"reward output={self.output!r} is unknown: choose one of {', '.join(OUTPUTS)}")
        if not self.learning_rate > 0.0:
            raise PrefenvsError(f"reward learning_rate={self.learning_rate} must be above 0")
        if not 0.0 <= self.validation_share < 1.0:
            raise PrefenvsError(f"validation_share={self.validation_share} must lie in [0, 1)")
