"""`prefenvs bench`: run suites of cells, make tables of what came out, guard against getting worse."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed
from prefenvs.runs import Run, to_json

if TYPE_CHECKING:
    from prefenvs.bench import Cell, Suite
    from prefenvs.bench.folder import BenchFolder


@dataclass(frozen=True)
class BenchRun:
    """Run a suite, every cell as a program in a folder of its own; the same command again goes on where it stopped."""

    suite: Annotated[str, Positional]
    """Name (`prefenvs bench list`), module:NAME of your own, or claims (demonstrations of systems)."""
    folder: Path | None = None
    """Where everything goes; runs/bench-<suite> by default."""
    workers: PositiveInt | None = None
    """Cells at a time on this machine; as many as processors by default."""
    ray: str | None = None
    """Run on a Ray cluster instead: its address (host:port), auto, or local to start one here."""
    threads: PositiveInt | None = None
    """CPU threads of a cell; the processors divided by the workers by default."""
    gpus: str | None = None
    """GPUs to deal to the workers, as in CUDA_VISIBLE_DEVICES (0,1); all there are by default, "" for none."""
    gpus_per_cell: NonNegativeFloat = 0.0
    """With --ray: GPUs that a cell reserves, such as 0.5."""
    retries: NonNegativeInt = 1
    """How often a crashed cell is started again; its checkpoint is used if it has one."""
    time_limit: PositiveFloat | None = None
    """Seconds for one cell, instead of the suite's."""
    memory_limit: PositiveFloat | None = None
    """Gigabytes of memory for one cell, instead of the suite's."""
    seeds_at_once: bool = False
    """Train the seeds of a cell in one program where the method can (iql, cpl, bc); not with --ray."""
    min_free_gb: NonNegativeFloat = 2.0
    """Free disk space below which no further cell is started."""
    methods: tuple[str, ...] = ()
    """Only these methods; of claims, only these."""
    tasks: tuple[str, ...] = ()
    """Only these tasks."""
    oracles: tuple[str, ...] = ()
    """Only these raters; none for what asks nobody."""
    labels: tuple[NonNegativeInt, ...] = ()
    """Only these budgets; 0 for what asks nobody."""
    seeds: tuple[Seed, ...] = ()
    """Only these seeds."""
    dry_run: bool = False
    """Print the command lines and start nothing."""

    def run(self) -> None:
        """Run what has not finished yet; raises PrefenvsError at the end if a cell failed."""
        from prefenvs.bench import find_suite

        if self.suite == "claims":
            self._run_claims()
            return
        self.run_suite(find_suite(self.suite))

    def run_suite(self, suite: Suite) -> None:
        """Run this suite in the place of the one named."""
        from prefenvs.bench.folder import BenchFolder, select

        cells = select(
            suite.cells(),
            method=self.methods,
            task=self.tasks,
            oracle=self.oracles,
            labels=self.labels,
            seed=self.seeds,
        )
        cells = [self._limit(cell) for cell in cells]
        folder = BenchFolder((self.folder or Path("runs") / f"bench-{suite.name.replace(':', '-')}").absolute())
        if self.dry_run:
            self._print_lines(cells, folder)
            return
        gpus = [] if self.ray is not None else find_gpus(self.gpus)
        with folder.locked():
            folder.save_suite(suite)
            self._run_cells(suite, cells, folder, gpus)

    def _run_claims(self) -> None:
        from prefenvs.bench.claims.claim import SEEDS, find_claims, run_claims

        if self.dry_run:
            for claim in find_claims(self.methods):
                print(f"{claim.name}: {claim.place} of seeds {', '.join(map(str, self.seeds or SEEDS))}")
            return
        print(run_claims(self.folder or Path("runs/bench-claims"), self.methods, self.seeds))

    def _run_cells(self, suite: Suite, cells: list[Cell], folder: BenchFolder, gpus: list[str]) -> None:
        from prefenvs.bench.results import collect
        from prefenvs.bench.runner.cell import Plan, processors
        from prefenvs.bench.runner.local import run_local
        from prefenvs.bench.runner.progress import Progress
        from prefenvs.bench.runner.ray import run_on_ray

        workers = self.workers or processors()
        finished = [cell for cell in cells if folder.outcome(cell).status == "finished"]
        left = [cell for cell in cells if cell not in finished]
        threads = self.threads or (1 if self.ray else max(processors() // workers, 1))
        plan = Plan(folder.folder, Path.cwd(), threads, self.retries, self.min_free_gb, self.seeds_at_once)
        progress = Progress(folder, left, finished, workers)
        progress.say(f"suite {suite.name}: {len(cells)} cells, {len(finished)} finished already; {folder.folder}")
        try:
            if self.ray is not None:
                outcomes = run_on_ray(left, plan, self.ray, self.gpus_per_cell, progress)
            else:
                outcomes = run_local(left, plan, workers, gpus, progress)
        except BaseException as error:
            # Whatever happened, what has finished is in the table; why it ended matters more than why that failed.
            with contextlib.suppress(PrefenvsError):
                collect(folder.folder).write()
            if isinstance(error, KeyboardInterrupt):
                done = sum(folder.outcome(cell).status == "finished" for cell in cells)
                progress.say(f"stopped: {done} of {len(cells)} cells have finished; the same command goes on")
            raise
        collect(folder.folder).write()
        failed = {name: outcome for name, outcome in outcomes.items() if outcome.status == "failed"}
        if failed:
            reasons = "; ".join(f"{name}: {outcome.error.splitlines()[0]}" for name, outcome in failed.items())
            raise PrefenvsError(
                f"{len(failed)} of {len(cells)} cells failed ({reasons}). Their output: "
                f"{folder.folder}/cells/*/log.txt. The same command tries them again"
            )
        progress.say(f"all {len(cells)} cells have finished: prefenvs bench table {folder.folder}")

    def _limit(self, cell: Cell) -> Cell:
        from dataclasses import replace

        limits = cell.limits
        if self.time_limit is not None:
            limits = replace(limits, seconds=self.time_limit)
        if self.memory_limit is not None:
            limits = replace(limits, memory_gb=self.memory_limit)
        return replace(cell, limits=limits)

    def _print_lines(self, cells: list[Cell], folder: BenchFolder) -> None:
        import shlex

        from prefenvs.bench import find_method

        for cell in cells:
            data = None if cell.data is None else folder.data(cell.data)
            for line in find_method(cell.method).commands(cell, folder.run(cell), data):
                print(shlex.join(line))


@dataclass(frozen=True)
class BenchTable:
    """Make tables, curves and one HTML report of a benchmark; they are printed and written."""

    source: Annotated[Path, Positional]
    """Folder of `prefenvs bench run`, or the results.parquet that it wrote."""
    out: Path | None = None
    """Where to write; <folder>/report by default."""
    mixed: bool = False
    """Accept results of several versions of the code or its packages; the report then says so."""
    resamples: PositiveInt = 2_000
    """Bootstrap resamples for intervals."""
    against: tuple[str, ...] = ()
    """Methods, such as bc, above whose true return the others' is told, with intervals of the difference."""
    videos: bool = False
    """Put the videos that `prefenvs record` wrote into the runs' folders into the page; at most 2 MB each."""

    def run(self) -> None:
        """Write report.html, tables.md, tables.tex, scores.csv and the curves, and print the tables."""
        from prefenvs.bench.report.page import write_report
        from prefenvs.bench.results import collect, read_results

        results = read_results(self.source) if self.source.suffix == ".parquet" else collect(self.source)
        results.check_versions(self.mixed)
        if self.source.is_dir():
            results.write()
        out = self.out or (self.source if self.source.is_dir() else self.source.parent) / "report"
        print(write_report(results, out, self.resamples, self.against, self.videos))
        print(f"report: {out / 'report.html'}")


@dataclass(frozen=True)
class BenchQuote:
    """Fill the marked blocks of Markdown files from committed results, so that no figure of theirs is copied by hand.

    A block begins with `<!-- results: FOLDER VIEW METHOD=TITLE ... -->` and ends with `<!-- end of results -->`.
    """

    files: Annotated[tuple[Path, ...], Positional]
    """Markdown files."""
    results: Path | None = None
    """The folder below which results lie; docs/results by default, or the present folder where there is none."""
    check: bool = False
    """Change nothing; fail where a block is not what the results say."""

    def run(self) -> None:
        """Write what has changed; raises PrefenvsError for a block that cannot be filled, or with --check is old."""
        from prefenvs.bench.report.quote import fill_blocks

        old, below = [], self.results
        if below is None:
            below = Path("docs/results") if Path("docs/results").is_dir() else Path()
        for path in self.files:
            try:
                text = path.read_text(encoding="utf-8")
                filled = fill_blocks(text, below)
            except PrefenvsError as error:
                raise PrefenvsError(f"{path}: {error}") from None
            except UnicodeDecodeError as error:
                raise PrefenvsError(f"{path} is no Markdown in UTF-8 ({error.reason})") from None
            if filled != text:
                old.append(str(path))
                if not self.check:
                    path.write_text(filled, encoding="utf-8")
                    print(f"{path}: filled anew")
        if old and self.check:
            raise PrefenvsError(f"{', '.join(old)}: not what the results say; `prefenvs bench quote` fills them anew")


@dataclass(frozen=True)
class BenchList:
    """List suites and methods."""

    def run(self) -> None:
        """Print one line for each."""
        from prefenvs.bench import list_methods, list_suites
        from prefenvs.bench.claims.claim import list_claims

        print("suites")
        for suite in list_suites():
            reduced = f" Reduced: {suite.reduced}" if suite.reduced else ""
            print(f"  {suite.name:<22} {len(suite.cells())} cells. {suite.sentence}{reduced}")
        print("claims")
        for claim in list_claims():
            print(f"  {claim.name:<22} {claim.system}: {claim.sentence}")
        print("methods")
        for method in list_methods():
            print(f"  {method.name:<22} {method.title}")


@dataclass(frozen=True)
class BenchGuard:
    """Run a small learning benchmark and compare with the bands kept in the package: says which method got worse."""

    folder: Path = Path("runs/bench-guard")
    """Where the cells run; emptied first, as yesterday's results say nothing about today's code."""
    bands: Path | None = None
    """File of the bands; the package's own by default."""
    suite: str = "guard"
    """The suite that is run."""
    workers: PositiveInt | None = None
    """Cells at a time; as many as processors by default."""
    update: bool = False
    """Write new bands from this run instead of comparing."""
    keep: bool = False
    """Use what has finished in the folder, as after an interruption."""

    def run(self) -> None:
        """Run the suite and compare; raises PrefenvsError if a method got worse, or the folder holds something else."""
        from prefenvs.bench.guard import BANDS, compare, make_bands, read_bands, write_bands
        from prefenvs.bench.results import collect

        path = self.bands or BANDS
        # First of all: the run takes a quarter of an hour.
        kept = {} if self.update else read_bands(path)
        if self.folder.exists() and not self.keep:
            self._empty()
        BenchRun(self.suite, folder=self.folder, workers=self.workers).run()
        results = collect(self.folder)
        if self.update:
            bands = make_bands(results)
            write_bands(bands, path)
            print(f"bands written: {path}")
            for name in [name for name, band in bands["bands"].items() if band["blind"]]:
                print(f"blind: the band of {name} reaches random actions; more seeds or evaluations would narrow it")
            return
        verdicts = compare(results, kept)
        for verdict in verdicts:
            print(verdict.sentence)
        worse = [verdict.name for verdict in verdicts if verdict.worse]
        if worse:
            raise PrefenvsError(f"{len(worse)} of {len(verdicts)} got worse: {', '.join(worse)}")
        print(f"none of {len(verdicts)} got worse")

    def _empty(self) -> None:
        """Remove the folder; raises PrefenvsError where another suite or a running one would be lost with it."""
        import shutil

        from prefenvs.bench import find_suite
        from prefenvs.bench.folder import BenchFolder, read_json

        path = self.folder / "suite.json"
        wanted = find_suite(self.suite).name
        if any(self.folder.iterdir()):
            held = read_json(path).get("name") if path.exists() else None
            if held != wanted:
                what = f"the suite {held!r}" if held else "something else than a benchmark"
                raise PrefenvsError(f"{self.folder} holds {what} and would be emptied; choose another --folder")
            with BenchFolder(self.folder).locked():
                shutil.rmtree(self.folder)


@dataclass(frozen=True)
class BenchMeasure:
    """Judge the reward model of a run on new episodes: accuracy and distance to the true reward, in reward.json."""

    run_folder: Annotated[Path, Positional]
    """Folder that `prefenvs train` wrote."""
    episodes: PositiveInt = 10
    """New episodes, half by the trained policy and half at random."""
    seed: Seed = 7_919
    """Seed of the evaluation, which no training used."""

    def run(self) -> None:
        """Write reward.json and print it; a run that keeps no reward model gets an empty one."""
        from prefenvs.agents.runs.train import load_policy, load_reward
        from prefenvs.bench.folder import write_json
        from prefenvs.bench.rewards import judge_reward
        from prefenvs.tasks import find_task

        run = Run.open(self.run_folder)
        run.check_fresh(self.seed)
        figures: dict[str, float] = {}
        model = load_reward(run) if (run.checkpoint / "reward.pt").exists() else None
        if model is not None:
            task = run.task
            length = run.config.get("segment_length") or find_task(task).segment_length
            figures = judge_reward(model, load_policy(run), task, length, self.episodes, seed=self.seed)
        write_json(run.path("reward.json"), figures)
        print(to_json(figures))


def find_gpus(given: str | None) -> list[str]:
    """Return the GPUs that were named, or those that are visible here; none where there is none.

    Raises PrefenvsError for a name that is none of this machine's GPUs.
    """
    if given is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return _present_gpus() if visible is None else [gpu for gpu in visible.split(",") if gpu]
    named, present = [gpu.strip() for gpu in given.split(",") if gpu.strip()], _present_gpus()
    for gpu in named:
        if gpu not in present and not gpu.startswith(("GPU-", "MIG-")):
            found = f"this machine has {', '.join(present)}" if present else "this machine has none"
            raise PrefenvsError(f'--gpus {given}: there is no GPU {gpu!r}, {found}; --gpus "" runs without')
    return named


def _present_gpus() -> list[str]:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU"))]
