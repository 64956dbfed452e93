"""`prefenvs record RUN`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional

from prefenvs.cli.look.evaluate import evaluate_run
from prefenvs.envs import draws_live
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.errors import PrefenvsError
from prefenvs.limits import Pixels, PositiveFloat, PositiveInt, Seed
from prefenvs.runs import Run
from prefenvs.trajectories import Trajectories


@dataclass(frozen=True)
class Record:
    """Record a video of a trained policy, or of several next to each other."""

    run_folders: Annotated[tuple[Path, ...], Positional]
    """Folders that `prefenvs train` wrote; several, of one task, are shown next to each other from the same start."""
    captions: tuple[str, ...] = ()
    """Of several runs: what is written under each; the folders' names by default."""
    task: str | None = None
    """Task to act in, by default the runs' own; for runs on data that tell none."""
    episodes: PositiveInt = 1
    """Episodes to show, one after the other; of several runs, each shows one."""
    gallery: bool = False
    """Show all episodes at once, in a grid."""
    seed: Seed = 1
    """Seed of the episodes."""
    size: Pixels = 256
    """Height and width in pixels."""
    quality: bool = False
    """Shadows, reflections and multisampling: slower."""
    out: Path | None = None
    """Video file (.mp4, .webp or .gif); policy.mp4, gallery.mp4 or side_by_side.mp4 in the first run's folder by
    default."""
    speed: PositiveFloat = 1.0
    """How many times faster than in the simulation; more shows fewer of the steps."""
    steps: PositiveInt | None = None
    """Of several runs: show only so many steps from the beginning."""

    def run(self) -> None:
        """Roll the policy out and write the video; raises PrefenvsError for options that do not go together."""
        if not self.run_folders:
            raise PrefenvsError("record needs a run: give the folder that `prefenvs train` wrote")
        runs = [Run.open(folder) for folder in self.run_folders]
        several = len(runs) > 1
        if several and (self.episodes > 1 or self.gallery):
            raise PrefenvsError("of several runs one episode each is shown: leave out --episodes and --gallery")
        if self.steps is not None and not several:
            raise PrefenvsError("--steps shortens what several runs show next to each other: leave it out")
        if self.captions and not several:
            raise PrefenvsError("--captions name several runs shown next to each other: leave them out")
        if self.captions and len(self.captions) != len(runs):
            raise PrefenvsError(f"{len(self.captions)} captions were given for {len(runs)} runs: give one for each")
        from prefenvs.frames.clips import SUFFIXES

        gl_backend()  # a machine that cannot render says so before the policy is rolled out
        name = "side_by_side.mp4" if several else "gallery.mp4" if self.gallery else "policy.mp4"
        path = self.out or runs[0].path(name)
        if path.suffix.lower() not in SUFFIXES:
            raise PrefenvsError(f"--out {path} is no video: end its name with {', '.join(SUFFIXES)}")
        film = Film(self.task, self.seed, self.size, self.quality, self.speed)
        if several:
            captions = self.captions or tuple(folder.name for folder in self.run_folders)
            record_side_by_side(runs, captions, path, film, self.steps)
        else:
            record_run(runs[0], path, film, self.episodes, self.gallery)
        print(path)


@dataclass(frozen=True)
class Film:
    """What is acted and how it is drawn; see the flags of `Record` of the same names."""

    task: str | None = None
    seed: int = 1
    size: int = 256
    quality: bool = False
    speed: float = 1.0


def record_run(run: Run, path: Path, film: Film = Film(), episodes: int = 1, gallery: bool = False) -> Path:
    """Write a video of the newest checkpoint's policy, its episodes one after the other or all at once in a grid."""
    from prefenvs.videos import Recorder

    with tempfile.TemporaryDirectory() as folder:
        trajectories = _play(run, episodes, film, Path(folder))
        task, plot = film.task or run.task, not trajectories.episode(0).visible
        if plot:
            print(f"task {task} tells no states and draws nothing: its observations are shown as curves")
        with Recorder(task, size=film.size, quality=film.quality, plot=plot, speed=film.speed) as recorder:
            return (recorder.gallery if gallery else recorder.episodes)(trajectories, path)


def _play(run: Run, episodes: int, film: Film, folder: Path) -> Trajectories:
    """Return episodes of a run's policy, filmed into `folder` where no states could be drawn later."""
    live = folder if draws_live(film.task or run.task) else None
    trajectories = evaluate_run(run, episodes, film.seed, record=episodes, task=film.task, film=live)[0].trajectories
    assert trajectories is not None
    return trajectories


def record_side_by_side(
    runs: Sequence[Run], captions: Sequence[str], path: Path, film: Film = Film(), steps: int | None = None
) -> Path:
    """Write a video of several policies of one task next to each other, an episode each from the same start.

    Raises PrefenvsError for runs of different tasks.
    """
    tasks = sorted({film.task or run.config["task"] for run in runs})
    if len(tasks) > 1:
        raise PrefenvsError(f"policies next to each other are of one task, these are of {', '.join(tasks)}")
    from prefenvs.preferences import Query
    from prefenvs.videos import Recorder

    with tempfile.TemporaryDirectory() as folder:
        played = [_play(run, 1, film, Path(folder)) for run in runs]
        lengths = [int(each.lengths[0]) for each in played]
        first = np.zeros(1, np.int64)
        cut = [each.cut(first, first, min(n, steps or n))[0] for each, n in zip(played, lengths, strict=True)]
        plot = not cut[0].visible
        with Recorder(tasks[0], size=film.size, quality=film.quality, plot=plot, speed=film.speed) as recorder:
            return recorder.pair(Query(tuple(cut)), path, captions)
