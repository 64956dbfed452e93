"""videos: simulator states to frames, frames to clips that people and models look at."""

from __future__ import annotations

from prefenvs.frames.clips import ClipWriter, decode, write_clip
from prefenvs.videos.cache import ClipCache, Look
from prefenvs.videos.recorder import Recorder, record_episodes, record_policy
from prefenvs.videos.workers import ClipPool, render_many

__all__ = [
    "ClipCache",
    "ClipPool",
    "ClipWriter",
    "Look",
    "Recorder",
    "decode",
    "record_episodes",
    "record_policy",
    "render_many",
    "write_clip",
]
