"""prefenvs: environments that hide their reward, and everything between a segment and a benchmark table."""

from __future__ import annotations

from prefenvs.envs import make
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.segments import Segment, SegmentBatch
from prefenvs.tasks import Task, find_task, list_tasks
from prefenvs.trajectories import Trajectories, TrajectoryBuffer

__version__ = "0.1.0"
__all__ = [
    "Oracle",
    "PrefenvsError",
    "Preference",
    "Query",
    "Segment",
    "SegmentBatch",
    "Task",
    "Trajectories",
    "TrajectoryBuffer",
    "__version__",
    "find_task",
    "list_tasks",
    "make",
]
