"""`prefenvs judge RUN RUN ...`: let people compare whole policies, and rank the agents by what they say."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from tqdm import tqdm
from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction, Port, PositiveFloat, PositiveInt, Range, Seed
from prefenvs.runs import Run, to_json
from prefenvs.segments import Segment
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

if TYPE_CHECKING:
    from prefenvs.oracles.judging.tournament import Tournament
    from prefenvs.store import Store

# Seconds between two looks at whether the people at the page need further questions.
LOOK_EVERY = 2.0
PEOPLE = "people"
# No run of the usual small seeds was evaluated on its episodes.
SEED = 7_919


@dataclass(frozen=True)
class Judge:
    """Compare whole policies: clips of their evaluation episodes on the labelling page, and a ranking with intervals.

    The same command continues a judging that was stopped, and asks further questions if --matches has grown; what is
    judged, and by whom, stays as it was begun.
    """

    runs: Annotated[tuple[Path, ...], Positional] = ()
    """Folders that `prefenvs train` wrote, two or more of one task; none continues the judging in --folder."""
    dataset: tuple[str, ...] = ()
    """Instead of runs: a data set whose episodes tell the policy that acted, such as a folder of videos, or a data set
    of each policy."""
    task: str | None = None
    """With data sets: their task, where they have several or tell none."""
    skip_damaged: bool = False
    """With data sets: leave out damaged episodes of recordings."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that each data set may take; by default 4."""
    folder: Path = Path("judging")
    """Where episodes, questions, answers and the ranking are kept."""
    matches: PositiveInt = 100
    """Questions in all, each about one episode of two agents."""
    pairing: Literal["balanced", "informative"] = "balanced"
    """Which agents meet: all equally often, or those whose next answer is expected to tell most."""
    episodes: PositiveInt | None = None
    """Evaluation episodes of each agent, 10 by default; the same ones for all."""
    seed: Seed | None = None
    """Seed of the evaluation, other than the runs', and of who meets whom; 7919 by default."""
    seconds: PositiveFloat | None = None
    """Show only the beginning of an episode, so many seconds of it; whole episodes by default."""
    oracle: str | None = None
    """Who judges: people at the page, the default, or at once a simulated rater, such as noisy by true return, or
    module:NAME."""
    ahead: PositiveInt = 10
    """With informative pairing, questions that wait for an answer at a time."""
    stop: Annotated[float, Range(0.5, 1, above=True, below=True)] | None = None
    """Ask nothing more once the chance that the leader is the best reaches this, such as 0.95."""
    label: bool = False
    """Serve the labelling page until Ctrl-C, then print the ranking; else `prefenvs label` serves it."""
    port: Port = 8765
    """Port of the page; 0 takes a free one."""
    annotators: tuple[str, ...] = ()
    """Names of the people who judge; each gets a link of their own."""
    overlap: Fraction = 0.0
    """Share of the questions that two people answer, to measure their agreement."""
    report: bool = False
    """Only print the ranking by the answers there are."""
    json: bool = False
    """Print the ranking as one JSON object."""

    def run(self) -> None:
        """Roll the policies out, ask what is left to ask, and print the ranking."""
        from prefenvs.oracles.judging.tournament import make_judge
        from prefenvs.store import Store

        if self.oracle not in (None, PEOPLE):
            make_judge(self.oracle)
        held = Run.open(self.folder).config.get("oracle") if (self.folder / "run.json").exists() else None
        judge = str(held or self.oracle or PEOPLE)
        if self.label and judge != PEOPLE:
            raise PrefenvsError(f"--label serves the page to people, but {self.folder} is judged by {judge}")
        run = self._open()
        with Store(run.path("preferences.sqlite")) as store:
            tournament = self._tournament(run, store)
            if not self.report:
                if judge != PEOPLE:
                    self._simulate(tournament, judge)
                else:
                    self._ask(tournament)
                    if self.label:
                        self._serve(tournament, run)
            self._conclude(tournament, run)

    def _open(self) -> Run:
        """Open the folder of the judging, or make it; raises PrefenvsError for runs that cannot be compared."""
        if not (self.folder / "run.json").exists():
            if self.report:
                raise PrefenvsError(
                    f"{self.folder} holds no judging yet: prefenvs judge RUN RUN --folder {self.folder}"
                )
            seed = SEED if self.seed is None else self.seed
            how = {
                "seed": seed,
                "seconds": self.seconds,
                "oracle": self.oracle or PEOPLE,
            }
            if self.dataset:
                if self.runs:
                    raise PrefenvsError("name runs to judge, or a --dataset, not both")
                if self.episodes is not None:
                    raise PrefenvsError(f"--episodes {self.episodes} is for runs: of data sets all episodes are judged")
                read = {"chosen_task": self.task, "skip_damaged": self.skip_damaged}
                task, names, _ = read_policies(self.dataset, self.task, self.skip_damaged, self.max_gib)
                about = {"task": task, "dataset": list(self.dataset), "runs": [], "names": names}
                return Run.create(self.folder, "judge", about | read | how)
            tasks = {find_task(Run.open(folder).task).id for folder in self.runs}
            if len(self.runs) < 2:
                raise PrefenvsError(f"a judging takes at least 2 runs, got {len(self.runs)}: prefenvs judge RUN RUN")
            if len(tasks) > 1:
                raise PrefenvsError(f"agents are compared on one task, these have {', '.join(sorted(tasks))}")
            for folder in self.runs:
                Run.open(folder).check_fresh(seed)
            config: dict[str, Any] = {
                "task": tasks.pop(),
                "runs": [str(folder.resolve()) for folder in self.runs],
                "names": _names(self.runs),
                "episodes": self.episodes or 10,
            }
            return Run.create(self.folder, "judge", config | how)
        run = Run.open(self.folder)
        if run.record["command"] != "judge":
            raise PrefenvsError(
                f"{self.folder} is a run of `prefenvs {run.record['command']}`; choose another --folder"
            )
        if self.dataset and [*self.dataset] != _datasets(run):
            raise PrefenvsError(f"{self.folder} does not judge {', '.join(self.dataset)}; choose another --folder")
        given = [str(folder.resolve()) for folder in self.runs]
        if given and given != run.config["runs"]:
            raise PrefenvsError(
                f"{self.folder} judges {', '.join(run.config['names'])}, not these runs; choose another --folder"
            )
        self._check_same(run.config)
        return run

    def _check_same(self, config: dict[str, Any]) -> None:
        """Raise a PrefenvsError for a setting other than the one that the answers in the folder were given under."""
        for name in ("task", "skip_damaged", "episodes", "seed", "seconds", "oracle"):
            given, held = getattr(self, name), config.get(name)
            # A folder of an older version does not tell who judges.
            if given is None or given is False or given == held:
                continue
            if name == "task" and given == config.get("chosen_task"):
                continue
            if name != "oracle" or held is not None:
                flag = f"--{name.replace('_', '-')}"
                begun = f"without {flag}" if held in (None, False) else f"with {flag} {held}"
                raise PrefenvsError(
                    f"the judging in {self.folder} was begun {begun}, and its answers are about that: go on without "
                    f"{flag}, or choose another --folder"
                )

    def _tournament(self, run: Run, store: Store) -> Tournament:
        from prefenvs.oracles.judging.tournament import Tournament

        config = run.config
        if datasets := _datasets(run):
            skip = config.get("skip_damaged", False)
            episodes = read_policies(datasets, config.get("chosen_task"), skip, self.max_gib)[2]
        else:
            runs = tqdm(range(len(config["runs"])), desc="agents", leave=False, disable=None)
            episodes = [_episodes(run, number) for number in runs]
        if config["seconds"] is not None:
            episodes = [[_cut(episode, config["seconds"]) for episode in played] for played in episodes]
        path = run.path("matches.jsonl")
        return Tournament(config["names"], episodes, store, "judge", path, self.pairing, config["seed"])

    def _ask(self, tournament: Tournament) -> None:
        """Ask what people are to answer now."""
        left = max(0, self.matches - len(tournament.matches))
        if self._decided(tournament):
            return
        if self.pairing == "informative" or self.stop:
            left = min(left, max(0, self.ahead - tournament.waiting()))
        tournament.arrange(left)

    def _simulate(self, tournament: Tournament, judge: str) -> None:
        """Let a simulated teacher answer, question by question where the pairing depends on the answers."""
        tournament.answer(judge, tournament.seed)
        step = self.ahead if self.pairing == "informative" or self.stop else self.matches
        with tqdm(
            total=self.matches, initial=len(tournament.matches), desc="matches", leave=False, disable=None
        ) as bar:
            while (left := self.matches - len(tournament.matches)) > 0 and not self._decided(tournament):
                if not tournament.arrange(min(step, left)):
                    return
                bar.update(tournament.answer(judge, tournament.seed))

    def _decided(self, tournament: Tournament) -> bool:
        """Tell whether it is certain enough who is the best."""
        return self.stop is not None and float(tournament.ranking().best.max()) >= self.stop

    def _serve(self, tournament: Tournament, run: Run) -> None:
        """Serve the page until Ctrl-C, and go on asking while people answer."""
        from prefenvs.cli.label import Label

        page = Label(
            str(run.path("preferences.sqlite")),
            self.port,
            annotators=self.annotators,
            overlap=self.overlap,
            task_run=tournament.run,
        )
        known: dict[str, Any] = {}

        def standing() -> dict[str, Any]:
            """The ranking by the answers so far; anew only where there are others, since it takes a while."""
            now = len(tournament.store.events_after(run=tournament.run)), len(tournament.matches)
            if known.get("at") != now:
                known.update(at=now, result=self._rank(tournament, run) | {"stop": self.stop})
            result: dict[str, Any] = known["result"] | {"clips": tournament.samples()}
            return result

        with self._asking(tournament), contextlib.suppress(KeyboardInterrupt):
            page.serve(standing)

    @contextlib.contextmanager
    def _asking(self, tournament: Tournament) -> Iterator[None]:
        """Ask further questions in the background, as long as the pairing waits for answers."""
        over = threading.Event()

        def ask() -> None:
            while not over.wait(LOOK_EVERY):
                self._ask(tournament)

        thread = threading.Thread(target=ask, name="pairing", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _rank(self, tournament: Tournament, run: Run) -> dict[str, Any]:
        from prefenvs.oracles.judging.tournament import report

        returns = None
        if not _datasets(run):
            returns = [float(np.load(_path(run, number))["returns"].mean()) for number in range(len(tournament.names))]
        return {"task": run.config["task"], **report(tournament, returns)}

    def _conclude(self, tournament: Tournament, run: Run) -> None:
        """Write ranking.json and print the ranking."""
        result = self._rank(tournament, run)
        (run.folder / "ranking.json").write_text(to_json(result, indent=2) + "\n")
        if self.json:
            print(to_json(result))
            return
        _print(result)
        if result["waiting"]:
            page = (
                f"prefenvs label --store {shlex.quote(str(run.path('preferences.sqlite')))} --task-run {tournament.run}"
            )
            print(f"{result['waiting']} matches wait for an answer: {page}")
        if (
            not self.report
            and len(tournament.matches) < self.matches
            and not tournament.possible - len(tournament.matches)
        ):
            print(f"all {tournament.possible} possible matches are asked; more need a new folder with more --episodes")
        print(f"judging folder: {run.folder}")


def _names(folders: Sequence[Path]) -> list[str]:
    """Names that tell the runs apart: of their folders, with as much of the path as it takes.

    Raises PrefenvsError for a run that is named twice.
    """
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise PrefenvsError("the same run was given twice; an agent cannot meet itself")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _datasets(run: Run) -> list[str]:
    """The data sets that are judged; once there could be only one."""
    held = run.config.get("dataset") or []
    return [held] if isinstance(held, str) else held


def _path(run: Run, number: int) -> Path:
    return run.path("episodes") / f"{number}.npz"


def _episodes(run: Run, number: int) -> list[Segment]:
    """The evaluation episodes of an agent as segments; rolled out once and kept, as its run may train on."""
    path = _path(run, number)
    if not path.exists():
        _roll_out(Path(run.config["runs"][number]), path, run.config["episodes"], run.config["seed"])
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "returns"}
    trajectories = Trajectories(**kept, task=run.config["task"])
    return [replace(trajectories.episode(position), source="judge") for position in range(len(trajectories))]


def _roll_out(folder: Path, path: Path, episodes: int, seed: int) -> None:
    from prefenvs.cli.look.evaluate import evaluate_run

    result, _ = evaluate_run(Run.open(folder), episodes, seed, record=episodes)
    trajectories = result.trajectories
    assert trajectories is not None
    names = ("observations", "actions", "ends", "true_rewards", "states", "scenes")
    arrays: dict[str, Any] = {name: getattr(trajectories, name) for name in names}
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, returns=result.returns, **{name: array for name, array in arrays.items() if array is not None})
    temporary.replace(path)


def _cut(episode: Segment, seconds: float) -> Segment:
    """Return the beginning of an episode."""
    rate = find_task(episode.task).fps if episode.recording is None else episode.recording.fps
    return episode.cut(0, max(1, round(seconds * rate)))


def read_policies(
    names: Sequence[str], task: str | None = None, skip_damaged: bool = False, max_gib: float | None = None
) -> tuple[str, list[str], list[list[Segment]]]:
    """Return the task of data sets, the names of their policies, and so many episodes of each as all of them have.

    names: of one data set that tells its policies, or of one for each policy, which is then called as it is. Raises
    PrefenvsError for data that do not tell two policies of one task, or show nothing.
    """
    from prefenvs.datasets.load import load_dataset

    sets = [load_dataset(name, task, max_gib=max_gib, skip_damaged=skip_damaged) for name in names]
    for name, dataset in zip(names, sets, strict=True):
        if not dataset.trajectories.episode(0).visible:
            raise PrefenvsError(f"data set {name} holds no simulator states and no recordings, so nobody can judge it")
    found: dict[str, list[Segment]] = {}
    if len(sets) > 1:
        tasks = sorted({dataset.task for dataset in sets})
        if len(tasks) > 1:
            raise PrefenvsError(f"policies are compared on one task, these data sets have {', '.join(tasks)}")
        short = [Path(name).name for name in names]
        for name, dataset in zip(short if len({*short}) == len(short) else names, sets, strict=True):
            found[name] = [dataset.trajectories.episode(i) for i in range(len(dataset))]
    elif sets[0].policies is not None:
        for i, policy in enumerate(sets[0].policies.tolist()):
            if policy:
                found.setdefault(policy, []).append(sets[0].trajectories.episode(i))
        found = dict(sorted(found.items()))
    if len(found) < 2:
        raise PrefenvsError(
            f"data set {names[0]} tells of {len(found)} policies, and a judging compares at least 2: name a data set "
            "of each, --dataset A B"
        )
    count = min(map(len, found.values()))
    return sets[0].task, [*found], [episodes[:count] for episodes in found.values()]


def _print(result: dict[str, Any]) -> None:
    title = f"{result['task']}: {result['answers']} answers to {result['matches']} matches"
    table = Table(
        "", Column("agent", overflow="fold"), title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for name in ("win rate", "95% interval", "is best", "won", "tied", "of", "return"):
        table.add_column(name, justify="right", no_wrap=True)
    for agent in result["agents"]:
        low, high = agent["win_rate_interval"]
        table.add_row(
            str(agent["place"]),
            agent["name"],
            f"{agent['win_rate']:.0%}",
            f"{low:.0%} to {high:.0%}",
            f"{agent['probability_best']:.0%}",
            f"{agent['wins'] - agent['ties'] / 2:g}",
            str(agent["ties"]),
            str(agent["answers"]),
            "-" if agent["true_return"] is None else f"{agent['true_return']:.1f}",
        )
    Console(emoji=False).print(table)
