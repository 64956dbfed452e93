"""`prefenvs record RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from prefenvs.cli.look.evaluate import evaluate_run
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.errors import PrefenvsError
from prefenvs.limits import Pixels, PositiveInt, Seed
from prefenvs.runs import Run


@dataclass(frozen=True)
class Record:
    """Record a video of a trained policy."""

    run_folder: Annotated[Path, Positional]
    """Folder that `prefenvs train` wrote."""
    episodes: PositiveInt = 1
    """Episodes to show, one after the other."""
    gallery: bool = False
    """Show all episodes at once, in a grid."""
    seed: Seed = 1
    """Seed of the episodes."""
    size: Pixels = 256
    """Height and width in pixels."""
    quality: bool = False
    """Shadows, reflections and multisampling: slower."""
    out: Path | None = None
    """Video file; policy.mp4 or gallery.mp4 in the run folder by default."""

    def run(self) -> None:
        """Roll the policy out and write the video; raises PrefenvsError for less than one episode."""
        if self.episodes < 1:
            raise PrefenvsError(f"--episodes must be at least 1, got {self.episodes}")
        run = Run.open(self.run_folder)
        gl_backend()  # a machine that cannot render says so before the policy is rolled out
        path = self.out or run.path("gallery.mp4" if self.gallery else "policy.mp4")
        record_run(run, path, self.episodes, self.seed, self.size, self.quality, self.gallery)
        print(path)


def record_run(
    run: Run,
    path: Path,
    episodes: PositiveInt = 1,
    seed: Seed = 1,
    size: Pixels = 256,
    quality: bool = False,
    gallery: bool = False,
) -> Path:
    """Write a video of the newest checkpoint's policy, its episodes one after the other or all at once in a grid."""
    result, config = evaluate_run(run, episodes, seed, record=episodes)
    from prefenvs.videos import Recorder

    assert result.trajectories is not None
    plot = result.trajectories.states is None
    if plot:
        print(f"task {config['task']} does not tell its states: the video draws its observations as curves")
    with Recorder(config["task"], size=size, quality=quality, plot=plot) as recorder:
        if gallery:
            return recorder.gallery(result.trajectories, path)
        return recorder.episodes(result.trajectories, path)
