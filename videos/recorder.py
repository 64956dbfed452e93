"""The recorder: segments, queries and episodes to video files, from their recordings or simulator states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import repeat
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import evaluate
from prefenvs.frames.clips import write_clip, write_picture
from prefenvs.frames.recording import Recording
from prefenvs.frames.source import SegmentFrames
from prefenvs.internal.closing import Closing
from prefenvs.limits import PIXELS
from prefenvs.preferences import Query
from prefenvs.protocols import Policy
from prefenvs.segments import Array, Segment
from prefenvs.tasks import Task, find_task, is_same_task
from prefenvs.trajectories import Trajectories
from prefenvs.videos import layout

# A clip in real time shows no more frames a second than this; beyond it people see no difference, and each one costs.
MAX_FPS = 40
# Seconds for which an episode's last frame stays before the next episode begins.
PAUSE = 0.5


class Recorder(Closing):
    """Make the clips of one task that raters, language models and authors look at.

    A clip shows what cameras recorded, or what the simulator's states say, rendered now; nothing needs to be rendered
    while an agent trains. By default it plays in real time: a task of more than 40 steps a second is thinned to every
    second, third, ... step (Hopper, 125 steps/s: every fourth, 31.25 frames/s), first and last step always included.
    """

    def __init__(
        self,
        task: Task | str,
        size: int | tuple[int, int] = 256,
        fps: float | None = None,
        quality: bool = False,
        *,
        speed: float = 1.0,
        plot: bool = False,
        enlarge: bool = True,
        progress: bool = True,
    ) -> None:
        """Choose the picture.

        size: pixels of a square frame, of recorded pictures the height, each camera as wide as it is; or of each the
        (width, height). fps: frames per second of the file, steps dropped or repeated to fit; None: as the task's own
        rate allows. speed: 1 is real time, 0.5 half of it. quality: shadows, reflections and smooth edges, ten times
        slower. plot: draw segments without pictures as curves of their observations, which otherwise raise
        PrefenvsError. enlarge: see `SegmentFrames`. progress: show a bar for what takes more than a second.
        """
        self.task = find_task(task) if isinstance(task, str) else task
        given: Any = size if isinstance(size, tuple | list) else (size, size)
        if len(given) != 2:
            raise PrefenvsError(f"size={size!r} is not pixels of a square frame, nor its (width, height)")
        for side in given:
            PIXELS.check("size", side)
            if not isinstance(side, Integral):
                raise PrefenvsError(f"size is whole pixels, got {side!r}")
        self.size: tuple[int, int] = (int(given[0]), int(given[1]))
        if fps is not None and not 0 < fps <= 1000:
            raise PrefenvsError(f"fps={fps} is not a rate that a clip can have: choose one between 1 and 60")
        if not 0.001 <= speed <= 1000:
            raise PrefenvsError(f"speed={speed} cannot be shown: 1 is real time, 0.5 half of it")
        self.quality, self.plot, self.progress = quality, plot, progress
        self._fps, self._speed = fps, speed
        shape = self.size if isinstance(size, tuple | list) else self.size[0]
        self._source = SegmentFrames(shape, quality, task=self.task, enlarge=enlarge)

    def shape(self, segment: Segment) -> tuple[int, int]:
        """Return the (width, height) of a segment's frames; nothing is drawn or decoded."""
        return self._source.shape(segment)

    def steps(self, segment: Segment | int, fps: float | Fraction | None = None) -> tuple[Array, Fraction]:
        """Return which steps of a segment, or of so many steps, a clip shows, [n] int64, and its frames a second.

        Where cameras recorded at no regular rate, a frame is the step that was seen last at its time. fps: in place of
        the recorder's own.
        """
        wanted = self._fps if fps is None else fps
        length = segment if isinstance(segment, int) else len(segment)
        recording = None if isinstance(segment, int) else segment.recording
        if length < 1:
            raise PrefenvsError("there is nothing to show in a segment of 0 steps")
        if recording is not None and not recording.regular:
            return self._steps_by_time(recording, wanted)
        own = Fraction(self.task.fps) if recording is None else Fraction(recording.fps).limit_denominator(1000)
        rate = own * Fraction(self._speed).limit_denominator(1000)
        if wanted is None:
            stride = math.ceil(rate / MAX_FPS)
            exact, steps = rate / stride, np.arange(0, length, stride)
        else:
            exact = Fraction(wanted).limit_denominator(1000)
            count = max(1, math.ceil(length * exact / rate))
            steps = np.arange(count) * rate.numerator * exact.denominator // (rate.denominator * exact.numerator)
        if steps[-1] != length - 1:
            steps = np.append(steps, length - 1)
        return steps, exact

    def _on_one_clock(self, segments: Sequence[Segment]) -> tuple[list[Array], Fraction]:
        """Return which steps of each segment a common clip shows, and its frames a second: those of the fastest."""
        shown = [self.steps(segment) for segment in segments]
        fps = max(rate for _, rate in shown)
        pairs = zip(segments, shown, strict=True)
        return [steps if rate == fps else self.steps(segment, fps)[0] for segment, (steps, rate) in pairs], fps

    def _steps_by_time(self, recording: Recording, wanted: float | Fraction | None) -> tuple[Array, Fraction]:
        fps = Fraction(wanted or min(recording.fps * self._speed, MAX_FPS)).limit_denominator(1000)
        passed = recording.times - recording.times[0]
        count = max(1, math.ceil((passed[-1] + 1.0 / recording.fps) * fps / self._speed))
        steps = np.searchsorted(passed, np.arange(count) * self._speed / float(fps) + 1e-6, side="right") - 1
        return steps if steps[-1] == len(passed) - 1 else np.append(steps, len(passed) - 1), fps

    def frames(self, segment: Segment, steps: Array | Sequence[int] | None = None) -> Array:
        """Return frames [n, H, W, 3] uint8 of a segment: at `steps` [n] if given, else those that its clip shows."""
        shown = self.steps(segment)[0] if steps is None else np.asarray(steps, np.int64)
        if not len(shown) or shown.min() < 0 or shown.max() >= len(segment):
            raise PrefenvsError(f"steps {shown.tolist()} are not in a segment of {len(segment)} steps, numbered from 0")
        return np.stack(list(self._pictures(segment, shown)))

    def clip(
        self, segment: Segment | Array, path: str | Path, caption: str | None = None, *, scene: Array | None = None
    ) -> Path:
        """Write one segment, or states [T, s] with the episode's `scene`, to `path` (.mp4, .webp or .gif)."""
        if not isinstance(segment, Segment):
            states = np.asarray(segment, np.float64)
            segment = Segment(states, np.zeros((len(states), 0)), states=states, scene=scene, task=self.task.id)
        steps, fps = self.steps(segment)
        pictures = self._bar(self._pictures(segment, steps), len(steps), path)
        if caption is not None:
            pictures = (layout.caption(picture, caption) for picture in pictures)
        return write_clip(pictures, path, fps)

    def pair(self, query: Query, path: str | Path, captions: Iterable[str] | None = None) -> Path:
        """Write the segments of a query side by side, in the query's order, on one clock.

        A shorter segment holds its last frame until the longest ends. `captions`, one for each, are left out by default
        so that a rater reads nothing into them.
        """
        shown, fps = self._on_one_clock(query.segments)
        sides = [self._pictures(segment, steps) for segment, steps in zip(query.segments, shown, strict=True)]
        if captions is not None:
            texts = list(captions)
            if len(texts) != len(sides):
                raise PrefenvsError(f"{len(texts)} captions were given for the {len(sides)} segments of a query")
            lines = max(
                layout.count_lines([text], *self.shape(segment))
                for text, segment in zip(texts, query.segments, strict=True)
            )
            sides = [_captioned(side, text, lines) for side, text in zip(sides, texts, strict=True)]
        joined = (layout.side_by_side(frames) for frames in _in_step(sides))
        return write_clip(self._bar(joined, max(map(len, shown)), path), path, fps)

    def sides(self, query: Query, paths: Sequence[str | Path]) -> list[Path]:
        """Write each segment of a query to a file of its own, all of one length and rate, for a player of one's own.

        A shorter segment holds its last frame until the longest ends.
        """
        if len(paths) != len(query.segments):
            raise PrefenvsError(f"{len(paths)} paths were given for the {len(query.segments)} segments of a query")
        shown, fps = self._on_one_clock(query.segments)
        count = max(map(len, shown))
        written = []
        for segment, steps, path in zip(query.segments, shown, paths, strict=True):
            held = np.append(steps, np.full(count - len(steps), steps[-1]))
            written.append(write_clip(self._bar(self._pictures(segment, held), count, path), path, fps))
        return written

    def strip(self, segment: Segment, path: str | Path, count: int = 6) -> Path:
        """Write `count` frames of a segment side by side to a .png, from its first to its last; one is the last."""
        if count < 1:
            raise PrefenvsError(f"a strip of {count} frames shows nothing: choose at least 1")
        last = len(segment) - 1
        steps = np.round(np.linspace(0, last, count)).astype(np.int64) if count > 1 else np.array([last])
        return write_picture(layout.side_by_side(list(self._pictures(segment, steps))), path)

    def episodes(
        self,
        trajectories: Trajectories,
        path: str | Path,
        caption: str | None = None,
        episodes: Iterable[int] | None = None,
    ) -> Path:
        """Write whole episodes one after the other, all of them or those at the given positions.

        caption: text with the fields {episode}, {steps} and {true_return}, such as "return {true_return:.0f}".
        """
        chosen = list(range(len(trajectories)) if episodes is None else episodes)
        if not chosen or min(chosen) < 0 or max(chosen) >= len(trajectories):
            raise PrefenvsError(f"episodes {chosen} cannot be shown: there are {len(trajectories)} of them, from 0 on")
        shown, fps = self._on_one_clock([trajectories.episode(episode) for episode in chosen])
        pause = round(fps * Fraction(PAUSE))

        texts = [] if caption is None else [_describe(trajectories, episode, caption) for episode in chosen]
        # One height for all frames, whatever the longest caption takes.
        shapes = (self.shape(trajectories.episode(episode)) for episode in chosen)
        lines = max((layout.count_lines([text], *shape) for text, shape in zip(texts, shapes, strict=False)), default=0)

        def pictures() -> Iterator[Array]:
            for position, (episode, steps) in enumerate(zip(chosen, shown, strict=True)):
                side = self._pictures(trajectories.episode(episode), steps)
                for picture in _captioned(side, texts[position], lines) if texts else side:
                    yield picture
                if position < len(chosen) - 1:
                    yield from repeat(picture, pause)

        count = sum(map(len, shown)) + pause * (len(chosen) - 1)
        return write_clip(self._bar(pictures(), count, path), path, fps)

    def gallery(self, trajectories: Trajectories, path: str | Path, columns: int | None = None) -> Path:
        """Write all episodes at once, in a grid with as many columns as rows unless `columns` says otherwise.

        They begin together; a shorter one holds its last frame. Rows are filled from the left.
        """
        if not len(trajectories) or (columns is not None and columns < 1):
            raise PrefenvsError(f"a grid of {len(trajectories)} episodes in {columns} columns shows nothing")
        shown, fps = self._on_one_clock([trajectories.episode(at) for at in range(len(trajectories))])
        columns = columns or math.ceil(math.sqrt(len(shown)))
        sides = [self._pictures(trajectories.episode(at), steps) for at, steps in enumerate(shown)]
        grid = (layout.grid(frames, columns) for frames in _in_step(sides))
        return write_clip(self._bar(grid, max(map(len, shown)), path), path, fps)

    def close(self) -> None:
        """Free the renderer; a second call does nothing."""
        self._source.close()

    def _pictures(self, segment: Segment, steps: Array) -> Iterator[Array]:
        """Yield the frames of a segment at the given steps; each step is rendered once, however often it is shown."""
        if segment.task and not is_same_task(segment.task, self.task.id):
            raise PrefenvsError(f"a segment of {segment.task!r} cannot be drawn by a recorder of {self.task.id!r}")
        if segment.visible:
            yield from self._source.stream(segment, steps)
            return
        if not self.plot:
            raise PrefenvsError(
                f"this segment of {self.task.id!r} has no recording and no simulator states, so there is nothing to "
                "render: record with prefenvs.make, or Recorder(..., plot=True) to draw its observations as curves"
            )
        yield from layout.curves(segment.observations, steps, *self.size)

    def _bar(self, pictures: Iterable[Array], count: int, path: str | Path) -> Iterable[Array]:
        hidden = None if self.progress else True
        return tqdm(pictures, desc=Path(path).name, total=count, unit="frame", delay=1.0, leave=False, disable=hidden)


def record_episodes(
    task_id: str,
    trajectories: Trajectories,
    path: str | Path,
    caption: str | None = "episode {episode}, {steps} steps",
    *,
    size: int | tuple[int, int] = 256,
    fps: float | None = None,
    quality: bool = False,
    speed: float = 1.0,
) -> Path:
    """Write the episodes of a policy to one video file; see `Recorder` and `Recorder.episodes` for the arguments."""
    with Recorder(task_id, size, fps, quality, speed=speed) as recorder:
        return recorder.episodes(trajectories, path, caption)


def record_policy(
    policy: Policy,
    path: str | Path,
    task: str | None = None,
    *,
    episodes: int = 1,
    seed: int = 1,
    size: int | tuple[int, int] = 256,
    quality: bool = False,
    gallery: bool = False,
) -> Path:
    """Let a policy play episodes, and write them to one video file, one after the other or all at once in a grid.

    task: its id, by default the one that an agent of this package was trained on. A task that does not tell its states
    is drawn as curves of its observations. Raises PrefenvsError for a policy that does not tell its task.
    """
    name = task or getattr(policy, "task", None)
    if not isinstance(name, str):
        raise PrefenvsError(f"a {type(policy).__name__} does not tell its task: pass task=..., one that `make` takes")
    played = evaluate(
        policy, name, episodes, seed, record=episodes, horizon=getattr(policy, "horizon", None)
    ).trajectories
    assert played is not None
    with Recorder(name, size, quality=quality, plot=played.states is None) as recorder:
        return (recorder.gallery if gallery else recorder.episodes)(played, path)


def _in_step(sides: list[Iterator[Array]]) -> Iterator[list[Array]]:
    """Advance all sides together until the longest ends; the others hold their last frame."""
    held = [next(side) for side in sides]
    while True:
        yield held
        following = [next(side, None) for side in sides]
        if all(frame is None for frame in following):
            return
        held = [old if new is None else new for old, new in zip(held, following, strict=True)]


def _captioned(pictures: Iterator[Array], text: str, lines: int) -> Iterator[Array]:
    return (layout.caption(picture, text, lines) for picture in pictures)


def _describe(trajectories: Trajectories, position: int, caption: str) -> str:
    """Fill in a caption's fields; the true return is looked up only if the caption asks for it."""
    fields: dict[str, float] = {
        "episode": int(trajectories.episode_numbers[position]),
        "steps": int(trajectories.lengths[position]),
    }
    if "true_return" in caption:
        fields["true_return"] = float(trajectories.returns[position])
    try:
        return caption.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        raise PrefenvsError(
            f"caption {caption!r} cannot be filled in ({error}): fields are episode, steps, true_return"
        ) from error
