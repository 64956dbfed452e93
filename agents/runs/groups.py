"""What holds for every group of seeds that train side by side, whatever they learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

from prefenvs.agents.nets.members import M, Member
from prefenvs.agents.runs.evaluation_process import EvaluationFailed, EvaluationProcess
from prefenvs.agents.runs.interrupt import StopOnInterrupt
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run


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
