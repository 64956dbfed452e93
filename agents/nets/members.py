"""Members of a group that trains together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from prefenvs.errors import PrefenvsError


class Member(Protocol):
    """A learner that a run folder can keep."""

    @property
    def name(self) -> str:
        """What the command line calls it."""

    @property
    def seed(self) -> int | None:
        """Its seed."""

    @property
    def num_timesteps(self) -> int:
        """Steps made."""

    def save_checkpoint(self, folder: str | Path) -> Path:
        """Write all that a resume needs."""


M = TypeVar("M", bound=Member)


def check_members(members: Sequence[M], settings: Callable[[M], object]) -> None:
    """Raise a PrefenvsError unless there are members, each of them once, with the same settings."""
    if not members:
        raise PrefenvsError("a group of seeds needs at least one member")
    first = members[0]
    for other in members[1:]:
        if settings(other) != settings(first):
            raise PrefenvsError(
                f"those that train together have the same class, settings, sizes and device, but {first.name} of seed "
                f"{first.seed} and {other.name} of seed {other.seed} differ"
            )
    if len({id(member) for member in members}) < len(members):
        raise PrefenvsError("the same member stands twice in a group of seeds")
