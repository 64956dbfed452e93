"""`prefenvs train ALGORITHM`: built from the algorithm's declaration, every field of its configuration a flag."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefenvs.agents.registry import ALGORITHMS, describe_algorithm, find_algorithm, list_algorithms
from prefenvs.cli.train.flags import given_flags
from prefenvs.cli.train.options import check_resume
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run


def train(arguments: Sequence[str]) -> None:
    """Train, or continue to train, and print the returns before and after.

    arguments: the algorithm's name and its flags. Raises PrefenvsError for what does not fit together.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(describe_algorithms())
        if not arguments:
            raise PrefenvsError("say which algorithm: prefenvs train ALGORITHM")
        return
    name, *rest = arguments
    algorithm, given = find_algorithm(name), given_flags(rest)
    resumed = None
    if "resume" in given and not {"-h", "--help"} & {*rest}:
        if given["resume"] == "true":
            raise PrefenvsError("--resume needs the folder of the run that is to go on: --resume FOLDER")
        resumed = Run.resume(Path(given["resume"]), f"train {name}")
        if not algorithm.resumes:
            raise PrefenvsError(f"`prefenvs train {name}` cannot be resumed: start anew in another --folder")
        check_resume(given)
    if algorithm.source == "offline":
        from prefenvs.cli.train.offline import train_offline

        train_offline(algorithm, rest, given, resumed)
    else:
        from prefenvs.cli.train.online import train_online

        train_online(algorithm, rest, given, resumed)


def describe_algorithms() -> str:
    """Return the list of algorithms, a line each; none is imported."""
    found = {name: describe_algorithm(place) for name, place in list_algorithms().items()}
    width = max(map(len, found))
    lines = [f"  {name:{width}}  {sentence}" for name, sentence in found.items()]
    usage = "usage: prefenvs train ALGORITHM [OPTIONS]\n\nTrain an agent. Each algorithm has its own options, with the"
    usage += " defaults of a task and preset:\nprefenvs train pebble --task dmc-walker-walk-v0 --preset small --help"
    return "\n".join([f"{usage}\n\nalgorithms:", *lines, "", "An algorithm of your own is called module:NAME."])


def algorithm_table() -> str:
    """Return the algorithms as a table in Markdown, made from their declarations."""
    learns = {
        "labels": "a rater's preferences",
        "states": "a reward of states",
        "interventions": "an expert's interventions",
        "true": "the true reward",
    }
    lines = ["| algorithm | `prefenvs train` | learns from | configuration |", "|---|---|---|---|"]
    for name in ALGORITHMS:
        algorithm = find_algorithm(name)
        where = "an environment" if algorithm.source == "online" else "a data set"
        if ".tabular." in ALGORITHMS[name]:
            where = "`Delivery-v0`" if algorithm.source == "online" else "data of `Delivery-v0`"
        lines.append(
            f"| {algorithm.title} | `{name}` | {where}, {learns[algorithm.signal]} | `{algorithm.config.__name__}` |"
        )
    return "\n".join(lines)
