"""`prefenvs collect TASK`."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from gymnasium import spaces
from tqdm import tqdm
from tyro.conf import Positional, arg

from prefenvs.datasets.collecting import CollectionPlan, Episode, collect, count_episodes
from prefenvs.datasets.formats.minari import find_place, write_minari
from prefenvs.datasets.formats.npz import write_npz
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.sources import Disturbance, Source, load_source, parse_mix
from prefenvs.envs import make
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import as_trained
from prefenvs.limits import PositiveInt, Seed
from prefenvs.protocols import Policy
from prefenvs.runs import Run
from prefenvs.segments import Array
from prefenvs.tasks import Task, find_task, is_same_task


@dataclass(frozen=True)
class Collect:
    """Collect a data set of mixed quality, with simulator states, so that its segments can be rendered.

    Examples:
      prefenvs collect metaworld-drawer-open-v3 --mix scripted:0.3=50 scripted:1.0=30 random=20
      prefenvs collect HalfCheetah-v5 --episodes 100 --mix runs/good=1 runs/early:0.2=2 random=1
    """

    task: Annotated[str, Positional, arg(metavar="TASK")] = ""
    """Task id (`prefenvs tasks` lists them), module:NAME, or an id that --import MODULE registers."""
    mix: Annotated[tuple[str, ...], arg(metavar="PART ...")] = ()
    """Who acts, and how often: POLICY[:NOISE[:RANDOM]]=AMOUNT, several of them, such as scripted:0.3=50 random=20.

    POLICY: scripted (Meta-World's own), random, a run folder, or a .zip file of Stable-Baselines3.

    NOISE: standard deviation of Gaussian noise on the actions, in halves of their range.

    RANDOM: probability of a random action at each step.

    Without a mixture: scripted:0.3 where there is a script, else random.
    """
    episodes: PositiveInt | None = None
    """Episodes in all; then amounts are shares of it. By default amounts are episodes (100 without a mixture)."""
    seed: Seed = 0
    """Seed of everything: resets, noise, order."""
    after_success: PositiveInt | None = None
    """End an episode this many steps after its first success, instead of at its time limit."""
    out: Path | None = None
    """Folder to write, or a Minari name with minari/ in front; data/<task>-<seed> by default."""
    format: Literal["minari", "npz"] = "minari"
    """Minari's layout, or a folder of .npz files."""
    workers: PositiveInt = 1
    """Processes that play side by side; the data do not depend on it."""
    resume: Path | None = None
    """Go on with a collection that was stopped: what was --out. All other options come from it."""
    progress: bool = True
    """Show a progress bar with an ETA."""

    def run(self) -> None:
        """Collect, write the data set, and print what each source earned."""
        if self.resume is not None:
            self._check_resume()
            out = self.resume
            run = Run.open(_partial(out))
            options = dataclasses.replace(
                self, **run.config | {"mix": tuple(run.config["mix"]), "workers": self.workers, "out": out}
            )
        else:
            task = find_task(self.task)
            out = self.out or Path("data") / f"{task.file_name}-{self.seed}"
            options = dataclasses.replace(self, out=out)
            options._check(task)
            run = Run.create(_partial(out), "collect", _config(options))
        options._collect(run, out)

    def plan(self) -> CollectionPlan:
        """What the options ask for."""
        task = find_task(self.task)
        mix = self.mix or (("scripted:0.3=1",) if task.family == "metaworld" else ("random=1",))
        episodes = 100 if self.episodes is None and not self.mix else self.episodes
        return CollectionPlan(task.id, parse_mix(mix, episodes), self.seed, self.after_success)

    def _check_resume(self) -> None:
        """Refuse options that the collection has settled already."""
        for field in dataclasses.fields(self):
            if field.name not in ("resume", "workers", "progress") and getattr(self, field.name) != field.default:
                flag = "TASK" if field.name == "task" else f"--{field.name.replace('_', '-')}"
                raise PrefenvsError(f"{flag} comes from the collection that --resume continues: leave it out")

    def _check(self, task: Task) -> None:
        """Refuse, before a folder is made, what would fail later."""
        assert self.out is not None
        if self.format == "minari":
            find_place(self.out.as_posix())
        elif self.out.parts[:1] == ("minari",):
            raise PrefenvsError(f"{self.out} is a Minari name, which --format npz cannot write: name a folder")
        partial = _partial(self.out)
        if _target(self.out).exists():
            raise PrefenvsError(f"{self.out} exists: choose another --out, or remove it first")
        if (partial / "run.json").exists():
            raise PrefenvsError(f"{partial} holds a collection that was stopped: go on with --resume {self.out}")
        with closing(make(task.id)) as env:
            for source in self.plan().sources:
                as_trained(load_any(source, task, env.action_space, self.seed), env)
                Disturbance(source, env.action_space, np.random.default_rng())

    def _collect(self, run: Run, out: Path) -> None:
        plan = self.plan()
        total = sum(source.episodes for source in plan.sources)
        begin, steps = time.time(), 0
        with tqdm(total=total, initial=count_episodes(run.folder), unit=" episodes", disable=not self.progress) as bar:

            def show(episode: Episode) -> None:
                nonlocal steps
                steps += len(episode.trajectories.observations)
                bar.update()
                bar.set_postfix({"steps/s": f"{steps / (time.time() - begin):.0f}"}, refresh=False)

            try:
                dataset = collect(plan, run.folder, load=load_any, workers=self.workers, progress=show)
            except KeyboardInterrupt:
                bar.close()
                print(f"\nstopped; {count_episodes(run.folder)} of {total} episodes are kept. To go on:")
                print(f"prefenvs collect --resume {shlex.quote(str(out))}")
                raise
        folder = _write(dataset, out, self.format, plan)
        run.summarise(summarise(dataset))
        for name in ("run.json", "summary.json"):
            shutil.copy(run.path(name), folder / name)
        shutil.rmtree(run.folder)
        report(dataset, folder)


def load_any(source: Source, task: Task, action_space: spaces.Space[Any], seed: int) -> Policy:
    """Load the policy of a source, run folders included; raises PrefenvsError where it is of another task."""
    path = Path(source.policy)
    if not path.is_dir():
        return load_source(source, task, action_space, seed)
    from prefenvs.agents.runs.train import load_policy

    run = Run.open(path)
    if not is_same_task(run.config.get("task", task.id), task.id):
        raise PrefenvsError(f"the run {path} is of task {run.config['task']!r}, not of {task.id!r}")
    return load_policy(run)


def summarise(dataset: OfflineDataset) -> dict[str, dict[str, float | int | None]]:
    """Return episodes, steps, true returns and success of each source, and of "all" in the last entry."""
    assert dataset.policies is not None
    data = dataset.trajectories
    masks = {str(label): dataset.policies == label for label in np.unique(dataset.policies)}

    def figures(mask: Array) -> dict[str, float | int | None]:
        return {
            "episodes": int(mask.sum()),
            "steps": int(data.lengths[mask].sum()),
            "mean_return": float(data.returns[mask].mean()),
            "max_return": float(data.returns[mask].max()),
            "success": None if dataset.successes is None else float(dataset.successes[mask].mean()),
        }

    return {label: figures(mask) for label, mask in masks.items()} | {"all": figures(np.ones(len(data), bool))}


def report(dataset: OfflineDataset, folder: Path) -> None:
    """Print the figures as a table, best mean return first."""
    rows = summarise(dataset)
    whole = rows.pop("all")
    ranked = sorted(rows.items(), key=lambda row: -float(row[1]["mean_return"] or 0))
    width = max(len(label) for label in (*rows, "source"))
    print(f"{'source':{width}}  episodes    steps  mean return  max return  success")
    for label, row in [*ranked, ("all", whole)]:
        success = "-" if row["success"] is None else f"{row['success']:.0%}"
        print(
            f"{label:{width}}  {row['episodes']:8d} {row['steps']:8d}  {row['mean_return']:11.1f}"
            f"  {row['max_return']:10.1f}  {success:>7}"
        )
    print(folder)


def _config(options: Collect) -> dict[str, Any]:
    """What the data and their place depend on."""
    names = ("task", "mix", "episodes", "seed", "after_success", "format")
    return {name: getattr(options, name) for name in names}


def _target(out: Path) -> Path:
    """The folder that --out names."""
    return find_place(out.as_posix())[0] if out.parts[:1] == ("minari",) else out


def _partial(out: Path) -> Path:
    """Where a collection lies while it grows."""
    target = _target(out)
    return target.with_name(target.name + ".partial")


def _write(dataset: OfflineDataset, out: Path, form: str, plan: CollectionPlan) -> Path:
    if form == "npz":
        # Segments name the data that they come from, not the folder in which these grew.
        named = replace(dataset.trajectories, source=_target(out).name)
        return write_npz(replace(dataset, trajectories=named), _target(out))
    task = find_task(plan.task)
    parts = ", ".join(f"{source.episodes} episodes of {source.label}" for source in plan.sources)
    with closing(make(task.id)) as env:
        discrete = isinstance(env.action_space, spaces.Discrete)
    return write_minari(dataset, out.as_posix(), discrete=discrete, description=f"{task.id}: {parts}, seed {plan.seed}")
