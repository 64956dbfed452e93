"""videos: simulator states to frames, frames to clips that people and models look at."""

from __future__ import annotations

from videos.clips import ClipWriter, decode, write_clip
from videos.recorder import Recorder, record_episodes

__all__ = ["ClipWriter", "Recorder", "decode", "record_episodes", "write_clip"]
