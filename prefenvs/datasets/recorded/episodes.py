"""What all data sets of recordings share: damaged episodes left out, files inside the folder, and checked videos."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from tqdm import tqdm

from prefenvs.errors import PrefenvsError
from prefenvs.frames.recording import Recording
from prefenvs.frames.video import check_recording
from prefenvs.tasks import find_task
from prefenvs.tasks.recorded import PREFIX, is_recorded

_T = TypeVar("_T")
SHOWN = 3
"""Episodes left out whose faults a warning tells."""


@dataclass
class Faults:
    """Episodes of a data set that cannot be used: the first is an error, unless the user has them left out."""

    name: str
    skip: bool = False
    found: dict[int, str] = field(default_factory=dict)

    def note(self, episode: int, why: str) -> None:
        """Note a fault of an episode; raises PrefenvsError unless damaged episodes are to be left out."""
        if not self.skip:
            raise PrefenvsError(
                f"episode {episode} of {self.name} is damaged: {why}; the others can be used with skip_damaged=True "
                "(--skip-damaged)"
            )
        self.found.setdefault(episode, why)

    def attempt(self, episode: int, make: Callable[[], _T]) -> _T | None:
        """Return what `make` does; None where it raises PrefenvsError and the episode is left out."""
        try:
            return make()
        except PrefenvsError as error:
            self.note(episode, str(error))
            return None

    def check(self, recordings: Mapping[int, Recording]) -> None:
        """Look through the videos of these episodes for what cannot be shown, where damaged ones are left out.

        Without that they are found when an episode is shown, since looking takes a second for a few episodes.
        """
        if not self.skip:
            return
        for episode, recording in tqdm(recordings.items(), desc="checking videos", unit="episode", disable=None):
            self.attempt(episode, lambda recording=recording: check_recording(recording, look=True))  # type: ignore[misc]

    def compare(self, layouts: Mapping[int, Mapping[str, str]]) -> None:
        """Note the episodes whose columns are not those of most, in words by name: they would be mixed up."""
        counted = Counter(tuple(sorted(layout.items())) for layout in layouts.values())
        usual = dict(counted.most_common(1)[0][0]) if counted else {}
        for episode, own in sorted(layouts.items()):
            name = next((name for name in sorted(usual | {**own}) if own.get(name) != usual.get(name)), None)
            if name is not None:
                here, there = (layout.get(name, "missing") for layout in (own, usual))
                self.note(episode, f"{name} is {here}, in most episodes {there}")

    def warn(self, episodes: int) -> None:
        """Tell which of so many episodes are left out; raises PrefenvsError where none is left."""
        if not self.found:
            return
        told = "; ".join(f"episode {episode}: {why}" for episode, why in sorted(self.found.items())[:SHOWN])
        more = f"; and {len(self.found) - SHOWN} more" if len(self.found) > SHOWN else ""
        if len(self.found) >= episodes:
            raise PrefenvsError(f"all {episodes} episodes of {self.name} are damaged: {told}{more}")
        warnings.warn(
            f"{len(self.found)} of {episodes} episodes of {self.name} are left out: {told}{more}", stacklevel=5
        )


def told_by_all(values: Mapping[int, _T | None], what: str, name: str, way_out: str) -> list[_T] | None:
    """Return what each episode tells, or None, with a warning that names those that do not where only some do."""
    lacking = [episode for episode, value in values.items() if value is None]
    if not lacking:
        return [value for value in values.values() if value is not None]
    if len(lacking) < len(values):
        named = ", ".join(map(str, lacking[:SHOWN])) + (", ..." if len(lacking) > SHOWN else "")
        warnings.warn(
            f"{len(lacking)} of {len(values)} episodes of {name} hold no {what} (episode {named}), so all are read "
            f"without: {way_out}",
            stacklevel=5,
        )
    return None


def inside(root: Path, file: str) -> str:
    """Return a path below a data set's folder; raises PrefenvsError for one that leads out of it."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise PrefenvsError(f"{root} names the file {file!r}, which lies outside its folder")
    return str(path)


def choose_task(sentences: Sequence[str], task: str | None, name: str) -> tuple[str, list[int]]:
    """Return the id of the task of some episodes, each with its sentence [E], and the positions of those that have it.

    task: the one to choose, by its sentence or as recorded:<sentence>; a task of the suite stands for all episodes.
    Raises PrefenvsError where the episodes have several tasks and none is chosen, or one that they do not have.
    """
    known = list(dict.fromkeys(sentences))
    wanted = None if task is None else task.removeprefix(PREFIX).strip()
    if wanted in known:
        return PREFIX + str(wanted), [i for i, sentence in enumerate(sentences) if sentence == wanted]
    if task is not None and not is_recorded(task):
        return find_task(task).id, list(range(len(sentences)))
    listed = ", ".join(repr(sentence) for sentence in known[:5]) + (", ..." if len(known) > 5 else "")
    if task is not None:
        raise PrefenvsError(f"no episode of {name} has the task {wanted!r}: its tasks are {listed}")
    if len(known) > 1:
        raise PrefenvsError(
            f"the episodes of {name} have {len(known)} tasks, and only episodes of one can be compared: choose one by "
            f"its sentence (--task): {listed}"
        )
    return PREFIX + known[0], list(range(len(sentences)))
