"""What holds for every group of seeds that train side by side, whatever they learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor
from torch.utils._pytree import tree_map

from agents.beside import EvaluationFailed, EvaluationProcess
from agents.interrupt import StopOnInterrupt
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run


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


def choose_training(
    members: Sequence[M], kind: type[Any], group: Callable[[Any], Any], known: str
) -> Callable[..., object]:
    """Return `learn` of one member, or of a group of them, which take a list of callbacks, one for each member.

    kind: whose members can be grouped, by `group`; known: how the command line calls those, for the PrefenvsError that
    others get.
    """
    if len(members) == 1:
        alone: Any = members[0]
        return lambda total, callbacks, **options: alone.learn(total, callbacks[0], **options)
    if not all(isinstance(member, kind) for member in members):
        raise PrefenvsError(f"{members[0].name} trains one seed at a time: several go with {known}")
    learn: Callable[..., object] = group(members).learn
    return learn


@contextmanager
def checkpointed(
    members: Sequence[Member],
    runs: Sequence[Run],
    stop: StopOnInterrupt,
    beside: EvaluationProcess | None,
    unit: str,
) -> Iterator[None]:
    """Write each member's checkpoint into its run folder when training ends.

    Meanwhile no other process can continue the runs. After Ctrl-C or SIGTERM, and where an evaluation beside training
    fails, the commands that continue are printed too, and the exception goes on; `unit`: what a step is called.
    """
    with ExitStack() as held:
        held.enter_context(beside or nullcontext())
        for run in runs:
            held.enter_context(run.locked())
        try:
            with stop:
                yield
        except (KeyboardInterrupt, EvaluationFailed):
            if stop.safe:
                _save(members, runs)
            print(f"\nstopped after {members[0].num_timesteps} {unit}; to continue:")
            for member, run in zip(members, runs, strict=True):
                print(f"prefenvs train {member.name} --resume {run.folder}")
            if stop.safe and beside is not None:
                with suppress(EvaluationFailed):
                    beside.drain()
            raise
        _save(members, runs)


def _save(members: Sequence[Member], runs: Sequence[Run]) -> None:
    for member, run in zip(members, runs, strict=True):
        member.save_checkpoint(run.checkpoint)


def own_memory(state: Any) -> Any:
    """Return a state in which no tensor is part of a larger one: a file would hold the weights of all seeds else."""

    def detach(leaf: Any) -> Any:
        shared = isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > leaf.numel() * leaf.element_size()
        return leaf.detach().clone() if shared else leaf

    return tree_map(detach, state)
