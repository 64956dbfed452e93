"""Features of recorded episodes by a frozen encoder, each computed once and kept on the disk."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from tqdm import tqdm

from prefenvs.agents.rewards.image.encoders import Encoder
from prefenvs.envs.rendering.renderer import Renderer
from prefenvs.errors import PrefenvsError
from prefenvs.frames.source import SegmentFrames
from prefenvs.segments import Array, Segment
from prefenvs.trajectories import Trajectories

BATCH = 64


class FeatureCache:
    """A folder with the features [T, C * d] of episodes as C cameras saw them.

    An episode lies at FOLDER/ENCODER/HASH.npz and appears there only when it is complete, so what a crash or Ctrl-C
    has stopped goes on where it was, and several processes may share a folder.
    """

    def __init__(
        self, folder: str | Path, encoder: Encoder, cameras: Sequence[str] = (), batch_size: int = BATCH
    ) -> None:
        """cameras: recorded views, whose features stand side by side; by default the first of each recording."""
        self.encoder, self.cameras, self.batch_size = encoder, tuple(cameras), batch_size
        views = "-".join(self.cameras)
        known = getattr(encoder, "name", "") or getattr(encoder, "key", "")
        if not known:
            raise PrefenvsError(
                f"{type(encoder).__name__} has neither name nor key, by which its features could be kept"
            )
        name = f"{known}-{encoder.size}{f'-{views}' if views else ''}"
        self.folder = Path(folder) / re.sub(r"[^\w.-]+", "_", name)
        self.computed = 0
        self._open: tuple[bytes, Array, Array] | None = None

    def fill(self, trajectories: Trajectories, progress: bool | None = None) -> Path:
        """Compute what is missing of all episodes, with a bar and its ETA, and return the folder.

        Raises PrefenvsError where an episode has no recording.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        hidden = None if progress is None else not progress
        missing = []
        for position in range(len(trajectories)):
            episode = trajectories.episode(position)
            if not self._path(episode).is_file():
                missing.append(position)
        with tqdm(total=len(trajectories), initial=len(trajectories) - len(missing), desc="features", unit="episode",
                  disable=hidden) as bar:  # fmt: skip
            for position in missing:
                self._compute(trajectories.episode(position))
                bar.update()
        return self.folder

    def rows(self, segment: Segment, steps: Array) -> Array:
        """Return the features [n, C * d] float32 of a segment at the steps [n]; what is not kept is computed now."""
        assert segment.recording is not None
        recording, steps = segment.recording, np.asarray(steps, np.int64)
        kept = self._read(segment)
        if kept is not None:
            times, features = kept
            rows = recording.first + steps
            if rows.max(initial=0) < len(times) and np.allclose(times[rows], recording.times[steps]):
                found: Array = features[rows]
                return found
        return self._encode(segment, steps)

    def _path(self, segment: Segment) -> Path:
        if segment.recording is None:
            raise PrefenvsError(
                f"episode {segment.episode} of {segment.source!r} has no recording, of which features could be kept"
            )
        return self.folder / f"{segment.recording.places.hex()}.npz"

    def _read(self, segment: Segment) -> tuple[Array, Array] | None:
        """The times and features of the whole episode, None where they are not kept; the last one stays in memory."""
        assert segment.recording is not None
        key = segment.recording.places
        if self._open is not None and self._open[0] == key:
            return self._open[1:]
        path = self._path(segment)
        try:
            with np.load(path, allow_pickle=False) as file:
                self._open = key, file["times"], file["features"]
        except FileNotFoundError:
            return None
        except Exception as error:
            raise PrefenvsError(f"{path} is damaged: remove it, and it is computed anew ({error})") from error
        return self._open[1:]

    def _compute(self, episode: Segment) -> None:
        assert episode.recording is not None
        features = self._encode(episode, np.arange(len(episode)))
        path = self._path(episode)
        temporary = path.with_name(f".{uuid.uuid4().hex}.npz")
        np.savez(temporary, times=episode.recording.times, features=features)
        os.replace(temporary, path)
        self.computed += 1

    def _encode(self, segment: Segment, steps: Array) -> Array:
        assert segment.recording is not None
        side = self.encoder.size
        source = SegmentFrames((side, side), cameras=self.cameras or (segment.recording.cameras[0].name,))
        parts = []
        for start in range(0, len(steps), self.batch_size):
            views = source.views(segment, steps[start : start + self.batch_size])
            parts.append(encode_views(self.encoder, views))
        return np.concatenate(parts)


class FeatureObservation(gymnasium.Wrapper[Array, Any, Array, Any]):
    """A task of the suite, seen through a frozen encoder: its first observations, and features of its camera's picture.

    So a policy that learned from `prefenvs features` acts in the task that its recordings were made in.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], task: str, encoder: Encoder, size: int) -> None:
        """`env`: made by `prefenvs.make`; size: entries that the policy sees, of which the last are features.

        Raises PrefenvsError where the features alone have more.
        """
        super().__init__(env)
        side = max(encoder.size, 16)
        self.encoder, self.renderer = encoder, Renderer(task, side, side)
        blank = np.zeros((1, 1, encoder.size, encoder.size, 3), np.uint8)
        self.own = size - encode_views(encoder, blank).shape[1]
        held = int(np.prod(env.observation_space.shape or (0,)))
        if not 0 <= self.own <= held:
            raise PrefenvsError(
                f"the policy sees {size} entries, the encoder gives {size - self.own} and the task {held}: name the "
                "encoder and the task of its data"
            )
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, **options: Any) -> tuple[Array, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(**options)
        self._scene = info.get("scene")
        return self._see(observation, info), info

    def step(self, action: Any) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the task."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._see(observation, info), reward, terminated, truncated, info

    def close(self) -> None:
        """Close the task and free the renderer."""
        self.renderer.close()
        super().close()

    def _see(self, observation: Array, info: dict[str, Any]) -> Array:
        picture = self.renderer.frames(info["state"][None], self._scene)
        features = encode_views(self.encoder, picture[:, None])[0]
        seen: Array = np.concatenate([np.ravel(observation)[: self.own], features]).astype(np.float32)
        return seen


def encode_views(encoder: Encoder, views: Array) -> Array:
    """Return the features [N, C * d] float32 of views [N, C, H, W, 3] uint8."""
    features = encoder(views.reshape(-1, *views.shape[2:]))
    found: Array = features.detach().cpu().numpy().astype(np.float32).reshape(len(views), -1)
    return found
