"""The command line: each command is a frozen dataclass whose docstrings are its help and whose `run` does the work."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, NoReturn, Protocol

import tyro
from tyro.conf import OmitSubcommandPrefixes, Positional, subcommand

import prefenvs
from prefenvs.cli import raters
from prefenvs.cli.ask import Ask
from prefenvs.cli.bench.baselines import Comparisons, Random
from prefenvs.cli.bench.suites import BenchGuard, BenchList, BenchMeasure, BenchQuote, BenchRun, BenchTable
from prefenvs.cli.collect import Collect
from prefenvs.cli.data.accuracy import LabelsAccuracy
from prefenvs.cli.data.actions import Actions
from prefenvs.cli.data.features import Features
from prefenvs.cli.data.labels import LabelsReport
from prefenvs.cli.data.models import LabelsModels
from prefenvs.cli.data.store import StoreAgreement, StoreExport, StoreImport, StoreStats
from prefenvs.cli.data.tables import LabelsExport, LabelsImport
from prefenvs.cli.data.transfer import LabelsTransfer
from prefenvs.cli.label import Label, LabelRender
from prefenvs.cli.look.demo import Demo
from prefenvs.cli.look.diagnose import Diagnose
from prefenvs.cli.look.doctor import Doctor
from prefenvs.cli.look.evaluate import Evaluate
from prefenvs.cli.look.export import Export
from prefenvs.cli.look.judge import Judge
from prefenvs.cli.look.record import Record
from prefenvs.cli.look.tasks import Tasks
from prefenvs.cli.rate import Rate
from prefenvs.cli.reward import Reward
from prefenvs.cli.train.command import train
from prefenvs.cli.train.critic import Critic
from prefenvs.errors import EXTRAS, PrefenvsError, install_command
from prefenvs.limits import check_limits


@dataclass(frozen=True)
class Train:
    """Train an agent from preferences; `prefenvs train --help` lists the algorithms."""

    words: Annotated[tuple[str, ...], Positional] = ()
    """The algorithm and its options."""

    def run(self) -> None:
        """Train."""
        train(self.words)


StoreCommand = (
    Annotated[StoreStats, subcommand("stats")]
    | Annotated[StoreExport, subcommand("export")]
    | Annotated[StoreImport, subcommand("import")]
    | Annotated[StoreAgreement, subcommand("agreement")]
)
LabelsCommand = (
    Annotated[LabelsReport, subcommand("report")]
    | Annotated[LabelsImport, subcommand("import")]
    | Annotated[LabelsExport, subcommand("export")]
    | Annotated[LabelsAccuracy, subcommand("accuracy")]
    | Annotated[LabelsModels, subcommand("models")]
    | Annotated[LabelsTransfer, subcommand("transfer")]
)
BenchCommand = (
    Annotated[BenchRun, subcommand("run")]
    | Annotated[BenchTable, subcommand("table")]
    | Annotated[BenchQuote, subcommand("quote")]
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
    | Annotated[Train, subcommand("train")]
    | Annotated[Collect, subcommand("collect")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Record, subcommand("record")]
    | Annotated[Diagnose, subcommand("diagnose")]
    | Annotated[Ask, subcommand("ask")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Label, subcommand("label")]
    | Annotated[Critic, subcommand("critic")]
    | Annotated[LabelsCommand, subcommand("labels", description="Check, import and export labels.")]
    | Annotated[Rate, subcommand("rate")]
    | Annotated[Reward, subcommand("reward")]
    | Annotated[Features, subcommand("features")]
    | Annotated[Actions, subcommand("actions")]
    | Annotated[Judge, subcommand("judge")]
    | Annotated[BenchCommand, subcommand("bench", description="Run benchmarks and make tables of them.")]
    | Annotated[StoreCommand, subcommand("store", description="Look into, export and import preference stores.")]
)


WRONG_PATH = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


IMPORT = (
    "--import MODULE, in any command, imports a module that registers environments with Gymnasium. "
    "--version prints the version."
)


class Runnable(Protocol):
    """What every command can do."""

    def run(self) -> None:
        """Carry the command out."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; bad input is one line and status 2, trouble of the machine status 1, Ctrl-C and SIGTERM 130."""
    words = sys.argv[1:] if arguments is None else arguments
    warnings.formatwarning = _format_warning
    if words == ["--version"]:
        print(f"prefenvs {prefenvs.__version__}")
        return
    try:
        command = _read(_import_modules(words))
    except PrefenvsError as error:
        _fail(str(error), 2)
    except BrokenPipeError:
        _end_quietly()
    try:
        check_limits(command)
        with _terminated_as_interrupted():
            command.run()
    except PrefenvsError as error:
        _fail(str(error), 2)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in EXTRAS:
            raise
        _fail(f"this needs the package {package}, which is not installed: {install_command(EXTRAS[package])}", 2)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except BrokenPipeError:
        _end_quietly()
    except OSError as error:
        _fail(_describe(error), 2 if error.errno in WRONG_PATH else 1)
    except MemoryError:
        _fail("out of memory: choose fewer steps, environments, episodes or pixels", 1)


def _read(words: list[str]) -> Runnable:
    """Return the command that the words name; raises PrefenvsError for a rater that does not exist."""
    if words[:1] == ["train"]:
        # Its options depend on the algorithm that is named, and on task and preset.
        return Train(tuple(words[1:]))
    if words[:2] == ["label", "render"]:
        # `label` serves a page; this is done beside it, on other machines.
        return tyro.cli(LabelRender, args=words[2:], prog="prefenvs label render")
    raters.look_at(words)
    command: Runnable = tyro.cli(
        Command, args=words, prog="prefenvs", description=IMPORT, config=(OmitSubcommandPrefixes,)
    )
    return command


def _import_modules(words: list[str]) -> list[str]:
    """Import what `--import MODULE` names, in any command, and return the other words.

    An id that such a module registers with Gymnasium becomes `module:ID` there, so that run folders, stores and later
    processes find it without the flag. Raises PrefenvsError where a module is missing or cannot be imported.
    """
    rest, names = [], dict[str, str]()
    following = iter(words)
    for word in following:
        flag, equals, module = word.partition("=")
        if flag != "--import":
            rest.append(word)
            continue
        module = module if equals else next(following, "")
        if not module or module.startswith("-"):
            raise PrefenvsError("--import needs the name of a module, such as --import my_robots")
        from prefenvs.tasks.own import import_module_of_tasks

        names |= import_module_of_tasks(module)
    pairs = [word.partition("=") for word in rest]
    return [
        flag + equals + names.get(value, value) if equals else names.get(flag, flag) for flag, equals, value in pairs
    ]


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{category.__name__}: {' '.join(str(message).split())}\n"


def _fail(message: str, status: int) -> NoReturn:
    print(f"prefenvs: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status) from None


def _end_quietly() -> NoReturn:
    """End where the reader, such as `head`, has seen enough; nothing is written at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0) from None


def _describe(error: OSError) -> str:
    """What the machine refused, on which file, and the way out."""
    ways = {
        errno.ENOSPC: "free some space, or choose another place with --folder or --out",
        errno.EDQUOT: "free some space, or choose another place with --folder or --out",
        errno.EROFS: "choose another place with --folder or --out",
        errno.EACCES: "choose another place, or ask for the right to it",
        errno.EPERM: "choose another place, or ask for the right to it",
        errno.EEXIST: "choose another path, where there is no file",
        errno.ENOTDIR: "a part of that path is a file: choose another one",
        errno.EISDIR: "name a file, not a folder",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer workers",
    }
    where = f"{error.filename}: " if error.filename is not None else ""
    way_out = ways.get(error.errno or 0)
    return f"{where}{error.strerror or error}" + (f"; {way_out}" if way_out else "")


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
