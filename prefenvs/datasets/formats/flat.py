"""Episodes within flat arrays: where they end, by flags or by a count of steps."""

from __future__ import annotations

import numpy as np

from prefenvs.segments import Array


def episode_ends(terminals: Array, timeouts: Array) -> Array:
    """Return one past each episode's last step, [E] int64; the last episode ends with the arrays, flagged or not."""
    ends = np.flatnonzero(terminals | timeouts) + 1
    return ends if len(ends) and ends[-1] == len(terminals) else np.append(ends, len(terminals))


def time_limits(terminals: Array, horizon: int) -> Array:
    """Return flags [S] at every `horizon`-th step since the last terminal one, where a time limit ended the episode.

    The rule by which D4RL treats files without `timeouts`: a counter that starts anew after each end.
    """
    steps = np.arange(len(terminals))
    begins = np.concatenate([[0], np.flatnonzero(terminals) + 1])
    since = steps - begins[np.searchsorted(begins, steps, side="right") - 1]
    limits: Array = since % horizon == horizon - 1
    return limits
