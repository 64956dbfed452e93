"""What holds for every run, of one learner or of a group of seeds, whatever they learn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

from prefenvs.agents.runs.evaluation_process import EvaluationFailed, EvaluationProcess
from prefenvs.agents.runs.interrupt import StopOnInterrupt
from prefenvs.runs import Run


class Member(Protocol):
    """A learner that a run folder can keep."""

    @property
    def name(self) -> str:
        """What the command line calls it."""

    @property
    def num_timesteps(self) -> int:
        """Steps made."""

    def save_checkpoint(self, folder: str | Path) -> Path:
        """Write all that a resume needs."""


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
