"""The command line: each command is a frozen dataclass whose docstrings are its help and whose `run` does the work."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Protocol

import tyro
from tyro.conf import OmitSubcommandPrefixes, subcommand

from prefenvs.cli.bench import BenchGuard, BenchList, BenchMeasure, BenchRun, BenchTable
from prefenvs.cli.bench_baselines import Comparisons, Random
from prefenvs.cli.collect import Collect
from prefenvs.cli.critic import Critic, TrainDQN
from prefenvs.cli.demo import Demo
from prefenvs.cli.doctor import Doctor
from prefenvs.cli.evaluate import Evaluate
from prefenvs.cli.judge import Judge
from prefenvs.cli.label import Label
from prefenvs.cli.labels import LabelsImport, LabelsReport
from prefenvs.cli.rate import Rate
from prefenvs.cli.record import Record
from prefenvs.cli.store import StoreExport, StoreImport, StoreStats
from prefenvs.cli.tasks import Tasks
from prefenvs.cli.train import TrainPebble, TrainPrefPPO
from prefenvs.cli.train_clip import TrainClip
from prefenvs.cli.train_offline import TrainBC, TrainCPL, TrainIQL
from prefenvs.cli.train_reward_free import TrainDPPO, TrainIPL, TrainOPPO
from prefenvs.errors import PrefenvsError

Train = (
    Annotated[TrainPebble, subcommand("pebble")]
    | Annotated[TrainPrefPPO, subcommand("prefppo")]
    | Annotated[TrainDQN, subcommand("dqn")]
    | Annotated[TrainClip, subcommand("clip")]
    | Annotated[TrainIQL, subcommand("iql")]
    | Annotated[TrainCPL, subcommand("cpl")]
    | Annotated[TrainBC, subcommand("bc")]
    | Annotated[TrainOPPO, subcommand("oppo")]
    | Annotated[TrainIPL, subcommand("ipl")]
    | Annotated[TrainDPPO, subcommand("dppo")]
)
StoreCommand = (
    Annotated[StoreStats, subcommand("stats")]
    | Annotated[StoreExport, subcommand("export")]
    | Annotated[StoreImport, subcommand("import")]
)
LabelsCommand = Annotated[LabelsReport, subcommand("report")] | Annotated[LabelsImport, subcommand("import")]
BenchCommand = (
    Annotated[BenchRun, subcommand("run")]
    | Annotated[BenchTable, subcommand("table")]
    | Annotated[BenchList, subcommand("list")]
    | Annotated[BenchGuard, subcommand("guard")]
    | Annotated[BenchMeasure, subcommand("measure")]
    | Annotated[Random, subcommand("random")]
    | Annotated[Comparisons, subcommand("comparisons")]
)
Command = (
    Annotated[Tasks, subcommand("tasks")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Demo, subcommand("demo")]
    | Annotated[Train, subcommand("train", description="Train an agent from preferences.")]
    | Annotated[Collect, subcommand("collect")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Record, subcommand("record")]
    | Annotated[Label, subcommand("label")]
    | Annotated[Critic, subcommand("critic")]
    | Annotated[LabelsCommand, subcommand("labels", description="Check and import published label files.")]
    | Annotated[Rate, subcommand("rate")]
    | Annotated[Judge, subcommand("judge")]
    | Annotated[BenchCommand, subcommand("bench", description="Run benchmarks and make tables of them.")]
    | Annotated[StoreCommand, subcommand("store", description="Look into, export and import preference stores.")]
)


class Runnable(Protocol):
    """What every command can do."""

    def run(self) -> None:
        """Carry the command out."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; bad input prints one line and exits with status 2, Ctrl-C and SIGTERM with 130."""
    command: Runnable = tyro.cli(Command, args=arguments, prog="prefenvs", config=(OmitSubcommandPrefixes,))
    try:
        with _terminated_as_interrupted():
            command.run()
    except PrefenvsError as error:
        print(f"prefenvs: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("prefenvs: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, by which service managers and job schedulers end a program, do what Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
