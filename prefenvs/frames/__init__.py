"""Pictures of segments, from recordings of cameras or from simulator states."""

from __future__ import annotations

from prefenvs.frames.recording import Camera, Recording
from prefenvs.frames.source import SegmentFrames, frames

__all__ = ["Camera", "Recording", "SegmentFrames", "frames"]
