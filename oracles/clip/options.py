"""Options of a CLIP model as a reward or as a rater: keys of a rater and flags of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction, Pixels, PositiveInt
from prefenvs.oracles.simulated.options import TeacherOptions

if TYPE_CHECKING:
    from prefenvs.oracles import CLIPReward
    from prefenvs.tasks import Task


@dataclass(frozen=True)
class ClipOptions:
    """A CLIP model and its prompts, as a reward of states or as a rater."""

    model: Annotated[str | None, arg(name="clip-model")] = None
    """Folder or hub name for transformers (openai/clip-vit-large-patch14), or open_clip:ARCHITECTURE@WEIGHTS."""
    goal: Annotated[tuple[str, ...], arg(name="clip-goal")] = ()
    """Descriptions of the goal; the task's own by default, where it has one."""
    baseline: Annotated[tuple[str, ...], arg(name="clip-baseline")] = ()
    """Descriptions of any picture of the task; the task's own by default."""
    alpha: Annotated[Fraction, arg(name="clip-alpha")] = 0.0
    """How far to project onto the line from baseline to goal: 0 is the plain similarity, 1 the line alone."""
    batch_size: Annotated[PositiveInt, arg(name="clip-batch-size")] = 64
    """Frames that the model is given at once."""
    pixels: Annotated[Pixels | None, arg(name="clip-pixels")] = None
    """Side of the rendered frames; the model's own size by default."""
    hide_robot: Annotated[bool, arg(name="clip-hide-robot")] = False
    """Draw the objects only."""
    cameras: Annotated[tuple[str, ...], arg(name="clip-cameras")] = ()
    """Recorded views, of which the mean reward counts; by default the first of each recording."""

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> ClipOptions:
        """Return the options that a run's record holds, whose tuples JSON has made lists."""
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in config.items()
        }
        return cls(**options)

    def make(self, task: Task | str, capacity: int = 0, device: str = "auto") -> CLIPReward:
        """Return the reward; raises PrefenvsError where no model is named.

        capacity: frames kept for states that are looked at again.
        """
        from prefenvs.oracles import CLIPReward

        if self.model is None:
            raise PrefenvsError(
                "say which CLIP model: --clip-model FOLDER, a hub name or open_clip:ARCHITECTURE@WEIGHTS"
            )
        return CLIPReward(
            task,
            self.model,
            self.goal,
            self.baseline,
            self.alpha,
            self.batch_size,
            self.pixels,
            self.hide_robot,
            capacity,
            self.cameras,
            device,
        )


@dataclass(frozen=True)
class ClipRaterOptions(ClipOptions, TeacherOptions):
    """A CLIP model as a rater, with the irrationalities of a teacher on top."""
