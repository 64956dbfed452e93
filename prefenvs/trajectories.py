"""Trajectories as flat arrays, and the sampling of segments from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array, Segment, SegmentBatch, short_repr

if TYPE_CHECKING:
    from prefenvs.frames.recording import Recording


@dataclass(frozen=True, eq=False)
class Trajectories:
    """E episodes laid end to end, S steps in all.

    observations: [S, obs] float32, or pictures [S, C, H, W] uint8; actions: [S, act];
    true_rewards: [S] or None (privileged, see `Segment`);
    states: [S, s] float64 or None; scenes: [E, m] float64 or None; ends: [E] int64, one past each episode's last step.
    terminated: [E] bool, whether the task ended the episode (a time limit does not); None where unknown.
    first_episode: number of the first episode, so that ids stay unique when old episodes were dropped.
    final_observations: [E, obs], what was seen after each episode's last step; None where it was not recorded.
    recordings: [E], what cameras saw at each episode's steps; None where there were none.
    numbers: [E] int64, rising, the episodes' numbers in their data set; None where they count on from first_episode.
    """

    observations: Array
    actions: Array
    ends: Array
    true_rewards: Array | None = None
    states: Array | None = None
    scenes: Array | None = None
    terminated: Array | None = None
    task: str = ""
    source: str = ""
    first_episode: int = 0
    final_observations: Array | None = None
    recordings: tuple[Recording, ...] | None = None
    numbers: Array | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        steps, ends = len(self.observations), self.ends
        if (ends[-1] if len(ends) else 0) != steps or np.any(np.diff(ends, prepend=0) <= 0):
            raise PrefenvsError(
                f"episode ends must rise to {steps}, the number of steps; they end with {ends[-5:].tolist()}"
            )
        expected = {
            "actions": steps,
            "true_rewards": steps,
            "states": steps,
            "scenes": len(ends),
            "terminated": len(ends),
            "final_observations": len(ends),
            "numbers": len(ends),
        }
        for name, rows in expected.items():
            array = getattr(self, name)
            if array is not None and len(array) != rows:
                raise PrefenvsError(f"trajectories.{name} has {len(array)} rows, expected {rows}")
        lengths = self.lengths.tolist()
        if self.recordings is not None and [len(recording) for recording in self.recordings] != lengths:
            raise PrefenvsError(
                f"the recordings of {self.source!r} have other lengths than its episodes: {lengths[:5]}"
            )

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.ends)

    @cached_property
    def begins(self) -> Array:
        """[E] index of each episode's first step."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]]) if len(self.ends) else np.zeros(0, np.int64)

    @cached_property
    def episode_numbers(self) -> Array:
        """[E] int64, the number of each episode."""
        return np.arange(self.first_episode, self.first_episode + len(self)) if self.numbers is None else self.numbers

    @property
    def lengths(self) -> Array:
        """[E] steps in each episode."""
        return self.ends - self.begins

    @cached_property
    def returns(self) -> Array:
        """[E] true return of each episode (privileged); raises PrefenvsError for trajectories without true rewards."""
        if self.true_rewards is None:
            raise PrefenvsError(f"the trajectories of {self.source or self.task!r} carry no true rewards")
        return np.add.reduceat(self.true_rewards, self.begins) if len(self) else np.zeros(0)

    def count_segments(self, length: int, last_episodes: int | None = None) -> int:
        """Number of distinct segments of `length` steps that stay inside one episode."""
        return int(self._valid_starts(length, last_episodes).sum())

    def sample(
        self,
        count: int,
        length: int,
        rng: np.random.Generator,
        last_episodes: int | None = None,
        episodes: Array | None = None,
    ) -> SegmentBatch:
        """Draw `count` segments of `length` steps, with replacement and uniformly over all valid starts.

        A segment never crosses an episode's end. `last_episodes` restricts the draw to the newest ones, `episodes` [N]
        to those at these positions. Raises PrefenvsError where no segment fits.
        """
        valid = self._valid_starts(length, last_episodes)
        if episodes is not None:
            valid[np.setdiff1d(np.arange(len(self)), episodes)] = 0
        total = int(valid.sum())
        if total == 0:
            longest = int(self.lengths.max(initial=0))
            raise PrefenvsError(
                f"no segment of {length} steps fits into the {len(self)} episodes at hand, of which the longest has "
                f"{longest} steps; choose a shorter segment or collect more steps first"
            )
        return self.cut(*_locate(valid, rng.integers(total, size=count)), length)

    def locate(self, numbers: Array, length: int, last_episodes: int | None = None) -> tuple[Array, Array]:
        """Return the episode positions and first steps, [N] each, of segments numbered 0 to `count_segments` - 1.

        Segments are numbered in the order of time. With `cut` this lets a caller choose first and copy arrays later.
        """
        return _locate(self._valid_starts(length, last_episodes), numbers)

    def cut(self, episodes: Array, starts: Array, length: int) -> SegmentBatch:
        """Cut the segments that begin at step `starts[i]` of the episode at position `episodes[i]`.

        Raises PrefenvsError for a segment that is not inside an episode.
        """
        episodes, starts = np.asarray(episodes, np.int64), np.asarray(starts, np.int64)
        if length < 1:
            raise PrefenvsError(f"a segment has at least 1 step, got length {length}")
        outside = episodes[(episodes < 0) | (episodes >= len(self))]
        if len(outside):
            raise PrefenvsError(f"there is no episode at position {outside[0]}: {len(self)} episodes are at hand")
        if np.any(starts < 0) or np.any(starts + length > self.lengths[episodes]):
            raise PrefenvsError(f"a segment of {length} steps would cross the end of its episode")
        first = self.begins[episodes] + starts

        def windows(array: Array) -> Array:
            # One block copy per segment: rows of a window are adjacent in memory.
            shape = (max(len(array) - length + 1, 0), length, *array.shape[1:])
            strides = (array.strides[0], *array.strides)
            copied: Array = np.lib.stride_tricks.as_strided(array, shape, strides, writeable=False)[first]
            return copied

        return SegmentBatch(
            windows(self.observations),
            windows(self.actions),
            None if self.true_rewards is None else windows(self.true_rewards),
            None if self.states is None else windows(self.states),
            None if self.scenes is None else self.scenes[episodes],
            self.episode_numbers[episodes],
            starts,
            self.task,
            self.source,
            None
            if self.recordings is None
            else tuple(
                self.recordings[episode].cut(start, length)
                for episode, start in zip(episodes.tolist(), starts.tolist(), strict=True)
            ),
        )

    def episode(self, position: int) -> Segment:
        """Return one whole episode as a segment; views, not copies."""
        begin, end = int(self.begins[position]), int(self.ends[position])

        def rows(array: Array | None) -> Array | None:
            return None if array is None else array[begin:end]

        return Segment(
            self.observations[begin:end],
            self.actions[begin:end],
            rows(self.true_rewards),
            rows(self.states),
            None if self.scenes is None else self.scenes[position],
            self.task,
            self.source,
            int(self.episode_numbers[position]),
            0,
            None if self.recordings is None else self.recordings[position],
        )

    def _valid_starts(self, length: int, last_episodes: int | None) -> Array:
        if length < 1:
            raise PrefenvsError(f"a segment has at least 1 step, got length {length}")
        if last_episodes is not None and last_episodes < 1:
            raise PrefenvsError(f"last_episodes must be at least 1 or None for all, got {last_episodes}")
        valid: Array = np.maximum(self.lengths - length + 1, 0)
        if last_episodes is not None:
            valid[: max(len(valid) - last_episodes, 0)] = 0
        return valid


def _locate(valid: Array, numbers: Array) -> tuple[Array, Array]:
    """Return the episode and start, [N] each, of numbered segments, given how many begin in each episode, [E]."""
    cumulative = np.cumsum(valid)
    episodes = np.searchsorted(cumulative, numbers, side="right")
    return episodes, numbers - (cumulative[episodes] - valid[episodes])


def _observed(observation: Array) -> Array:
    """A copy: pictures as the bytes that they are, everything else as float32."""
    array = np.asarray(observation)
    return np.array(array, np.uint8 if array.dtype == np.uint8 and array.ndim > 1 else np.float32)


class TrajectoryBuffer:
    """The most recent finished episodes, kept in flat arrays; several environments may write side by side."""

    def __init__(self, task: str = "", source: str = "", max_episodes: int | None = 100) -> None:
        """`max_episodes`: how many episodes to keep, oldest dropped first (B-Pref keeps 100); None keeps all."""
        if max_episodes is not None and max_episodes < 1:
            raise PrefenvsError(f"max_episodes must be at least 1 or None, got {max_episodes}")
        self.task, self.source, self.max_episodes = task, source, max_episodes
        self.episodes_seen = 0
        # Steps of the episodes under way, by environment.
        self.open_steps: dict[int, list[tuple[Any, ...]]] = {}
        self._flat: dict[str, Array] = {}
        self._begin = self._end = 0
        self._ends: list[int] = []
        self._scenes: list[Array | None] = []
        self._terminated: list[bool | None] = []
        self._finals: list[Array | None] = []
        self._recordings: list[Recording | None] = []

    def __len__(self) -> int:
        """Number of finished episodes at hand."""
        return len(self._ends)

    def add_step(
        self,
        env: int,
        observation: Array,
        action: Array,
        true_reward: float,
        state: Array | None,
        *,
        done: bool,
        terminated: bool = False,
        scene: Array | None = None,
        final_observation: Array | None = None,
        recording: Recording | None = None,
    ) -> None:
        """Append one step of environment number `env`: what was seen, done and earned, and the state it was seen in.

        `done` ends the episode; then `terminated` tells that the task ended it, and `final_observation` what was seen
        after this last step, `recording` what was filmed meanwhile. Arrays are copied, so the caller may reuse them.
        An episode with a NaN or infinite value is refused when it ends.
        """
        steps = self.open_steps.setdefault(env, [])
        kept = None if state is None else np.array(state, np.float64)
        steps.append((_observed(observation), np.array(action, np.float32), true_reward, kept))
        if done:
            scene = None if scene is None else np.array(scene, np.float64)
            final = None if final_observation is None else _observed(final_observation)
            self._close(self.open_steps.pop(env), terminated, scene, final, recording)

    def drop_open(self) -> None:
        """Forget the unfinished episodes, as after a reset in the middle of one."""
        self.open_steps.clear()

    def keep_newest(self, count: int) -> None:
        """Drop the oldest finished episodes until `count` are left."""
        while len(self._ends) > count:
            self._begin = self._ends.pop(0)
            for column in (self._scenes, self._terminated, self._finals, self._recordings):
                column.pop(0)

    def trajectories(self) -> Trajectories:
        """The finished episodes as flat arrays: views without a copy, which later steps leave as they are."""
        window: dict[str, Any] = {name: array[self._begin : self._end] for name, array in self._flat.items()}
        has_scenes = bool(self._scenes) and self._scenes[0] is not None
        finals = [final for final in self._finals if final is not None]
        recordings = tuple(recording for recording in self._recordings if recording is not None)
        if not self._flat:
            window = {"observations": np.zeros((0, 0), np.float32), "actions": np.zeros((0, 0), np.float32)}
        return Trajectories(
            ends=np.asarray(self._ends, np.int64) - self._begin,
            scenes=np.stack([scene for scene in self._scenes if scene is not None]) if has_scenes else None,
            # Where the end of one episode is unknown, the whole is treated as unknown.
            terminated=None if None in self._terminated else np.asarray(self._terminated, bool),
            task=self.task,
            source=self.source,
            first_episode=self.episodes_seen - len(self._ends),
            # Episodes of an older checkpoint have none, and then the whole is treated as having none.
            final_observations=np.stack(finals) if finals and len(finals) == len(self._ends) else None,
            recordings=recordings if recordings and len(recordings) == len(self._ends) else None,
            **window,
        )

    def _close(
        self,
        steps: list[tuple[Any, ...]],
        terminated: bool,
        scene: Array | None,
        final: Array | None,
        recording: Recording | None,
    ) -> None:
        observations, actions, rewards, states = zip(*steps, strict=True)
        arrays: dict[str, Array] = {
            "observations": np.asarray(observations),
            "actions": np.asarray(actions, np.float32),
            "true_rewards": np.asarray(rewards, np.float64),
        }
        if states[0] is not None:
            arrays["states"] = np.asarray(states, np.float64)
        for name in ("observations", "actions", "true_rewards"):
            if not np.all(np.isfinite(arrays[name])):
                step = int(np.argwhere(~np.isfinite(arrays[name]))[0][0])
                where = f"at step {step} of episode {self.episodes_seen}"
                raise PrefenvsError(f"{name} of task {self.task!r} hold a NaN or infinite value {where}")
        if final is not None and not np.all(np.isfinite(final)):
            where = f"after episode {self.episodes_seen}"
            raise PrefenvsError(f"the final observation of task {self.task!r} {where} holds a NaN or infinite value")
        self._append(arrays, terminated, scene, final, recording)

    def extend(self, trajectories: Trajectories) -> None:
        """Append finished episodes of the same task, as when a checkpoint is read."""
        if not len(self) and len(trajectories):
            self.episodes_seen = trajectories.first_episode
        for i, (begin, end) in enumerate(zip(trajectories.begins, trajectories.ends, strict=True)):
            names = ("observations", "actions", "true_rewards", "states")
            arrays = {name: array[begin:end] for name in names if (array := getattr(trajectories, name)) is not None}
            terminated = None if trajectories.terminated is None else bool(trajectories.terminated[i])
            scene, final = (
                None if rows is None else rows[i] for rows in (trajectories.scenes, trajectories.final_observations)
            )
            recording = None if trajectories.recordings is None else trajectories.recordings[i]
            self._append(arrays, terminated, scene, final, recording)

    def _append(
        self,
        arrays: dict[str, Array],
        terminated: bool | None,
        scene: Array | None,
        final: Array | None,
        recording: Recording | None = None,
    ) -> None:
        had = self._flat.keys() | ({"scenes"} if self._scenes and self._scenes[0] is not None else set())
        has = arrays.keys() | ({"scenes"} if scene is not None else set())
        if len(self) and had != has:
            raise PrefenvsError(
                f"the episodes of a buffer hold the same arrays; {', '.join(sorted(had ^ has))} came with some only"
            )
        steps = len(arrays["observations"])
        self._reserve(steps, arrays)
        for name, array in arrays.items():
            self._flat[name][self._end : self._end + steps] = array
        self._end += steps
        self._ends.append(self._end)
        self._scenes.append(scene)
        self._terminated.append(terminated)
        self._finals.append(final)
        self._recordings.append(recording)
        self.episodes_seen += 1
        if self.max_episodes is not None:
            self.keep_newest(self.max_episodes)

    def _reserve(self, steps: int, arrays: dict[str, Array]) -> None:
        """Make room for `steps` more rows: move what is kept into new arrays with as much room again.

        Rows are never overwritten, so views handed out before stay right; each row moves at most once per `used` rows.
        """
        capacity = len(self._flat["observations"]) if self._flat else 0
        if self._end + steps <= capacity:
            return
        used = self._end - self._begin
        rows = 2 * (used + steps)
        for name, array in arrays.items():
            old = self._flat.get(name)
            new = np.empty((rows, *array.shape[1:]), array.dtype)
            if old is not None:
                new[:used] = old[self._begin : self._end]
            self._flat[name] = new
        self._ends = [end - self._begin for end in self._ends]
        self._begin, self._end = 0, used
