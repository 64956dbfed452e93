"""A page that shows a learned reward: over episodes, under their film strips, and by its best and worst segments."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from prefenvs.errors import PrefenvsError
from prefenvs.frames.source import SegmentFrames
from prefenvs.internal.templates import render
from prefenvs.segments import Array, Segment
from prefenvs.trajectories import Trajectories
from prefenvs.videos import layout

FRAMES = 8
"""Pictures in a film strip."""
WIDTH, HEIGHT = 1040, 130
"""Pixels of a film strip, and of the curve under it."""


class Picture(NamedTuple):
    """A PNG in base64, and what it shows."""

    data: str
    caption: str


def report_reward(
    trajectories: Trajectories,
    rewards: Array,
    path: str | Path,
    title: str,
    facts: Sequence[str] = (),
    length: int = 60,
    count: int = 5,
) -> Path:
    """Write a page about the learned rewards [S] of a data set's steps, and return its path.

    It shows the best, the middle and the worst episode by mean reward, and the `count` best and worst segments of
    `length` steps, of which no two overlap. facts: lines of text for its head. Raises PrefenvsError for rewards of
    another number, and for episodes of which there are no pictures.
    """
    if rewards.shape != trajectories.observations.shape[:1]:
        raise PrefenvsError(f"{len(rewards)} rewards were given for {len(trajectories.observations)} steps")
    means = np.add.reduceat(rewards, trajectories.begins) / trajectories.lengths
    order = np.argsort(-means, kind="stable")
    chosen = list(dict.fromkeys([int(order[0]), int(order[len(order) // 2]), int(order[-1])]))
    windows = _windows(trajectories, rewards, min(length, int(trajectories.lengths.max())))
    with SegmentFrames(HEIGHT) as source:
        episodes = [_episode(source, trajectories, rewards, position, means[position]) for position in chosen]
        best = [_segment(source, trajectories, *window) for window in _apart(windows, count)]
        worst = [_segment(source, trajectories, *window) for window in _apart(windows[::-1], count)]
    about: dict[str, Any] = {"title": title, "facts": facts, "episodes": episodes, "best": best, "worst": worst}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render("prefenvs.videos", "reward_report.html", **about), encoding="utf-8")
    return path


def _windows(trajectories: Trajectories, rewards: Array, length: int) -> list[tuple[int, int, int, float]]:
    """Position, first step, length and mean reward of every window, the best first."""
    found = []
    for position, (begin, end) in enumerate(zip(trajectories.begins.tolist(), trajectories.ends.tolist(), strict=True)):
        if end - begin < length:
            continue
        sums = np.cumsum(np.concatenate([[0.0], rewards[begin:end]]))
        means = (sums[length:] - sums[:-length]) / length
        found += [(position, start, length, float(mean)) for start, mean in enumerate(means)]
    return sorted(found, key=lambda window: -window[3])


def _apart(windows: Sequence[tuple[int, int, int, float]], count: int) -> list[tuple[int, int, int, float]]:
    """The first windows of which no two overlap."""
    chosen: list[tuple[int, int, int, float]] = []
    for window in windows:
        if len(chosen) == count:
            break
        if all(window[0] != other[0] or abs(window[1] - other[1]) >= window[2] for other in chosen):
            chosen.append(window)
    return chosen


def _strip(source: SegmentFrames, segment: Segment) -> Array:
    """Frames from a segment's first step to its last, side by side and as wide as the page."""
    many = max(2, min(FRAMES, WIDTH // max(source.shape(segment)[0], 1)))
    steps = np.round(np.linspace(0, len(segment) - 1, many)).astype(np.int64)
    strip = Image.fromarray(layout.side_by_side(list(source.frames(segment, steps))))
    return np.asarray(strip.resize((WIDTH, max(1, round(strip.height * WIDTH / strip.width)))))


def _episode(source: SegmentFrames, trajectories: Trajectories, rewards: Array, position: int, mean: float) -> Picture:
    segment = trajectories.episode(position)
    own = rewards[int(trajectories.begins[position]) : int(trajectories.ends[position])]
    picture = np.concatenate([_strip(source, segment), _curve(own, float(rewards.min()), float(rewards.max()))])
    return Picture(_png(picture), f"Episode {segment.episode}, {len(segment)} steps, mean reward {mean:.3f}")


def _segment(
    source: SegmentFrames, trajectories: Trajectories, position: int, start: int, length: int, mean: float
) -> Picture:
    segment = trajectories.cut(np.array([position]), np.array([start]), length)[0]
    where = f"Episode {segment.episode}, steps {start} to {start + length - 1}"
    return Picture(_png(_strip(source, segment)), f"{where}, mean reward {mean:.3f}")


def _curve(rewards: Array, low: float, high: float) -> Array:
    """The rewards of an episode as a curve [HEIGHT, WIDTH, 3] over the whole width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((WIDTH / 100, HEIGHT / 100), dpi=100)
    axes: Any = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.plot(np.arange(len(rewards)), rewards, color="#1f77b4", linewidth=1.5)
    margin = 0.08 * (high - low) or 1.0
    axes.set_xlim(0, max(len(rewards) - 1, 1))
    axes.set_ylim(low - margin, high + margin)
    axes.grid(alpha=0.3)
    for value, place in ((high, "top"), (low, "bottom")):
        axes.text(
            4 / WIDTH, 0.97 if place == "top" else 0.03, f"{value:.3g}", transform=axes.transAxes, va=place, size=9
        )
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    drawn: Array = np.asarray(canvas.buffer_rgba())[..., :3]
    return drawn


def _png(picture: Array) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
