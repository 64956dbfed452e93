"""Learned rewards as progress, by which LeRobot weighs the actions that it clones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories

KAPPA = 0.01
"""LeRobot's default of `kappa`: an action has full weight where the progress over its chunk is larger."""


def reward_progress(rewards: Array, trajectories: Trajectories, chunk: int = 50, discard: float = 0.5) -> Array:
    """Return the progress [S] float64 of each step: the scaled sum of the rewards before it in its episode.

    LeRobot's reward-aligned behaviour cloning gives an action the weight 0 where progress falls over the next `chunk`
    steps, 1 where it rises by more than `KAPPA`, and a share between. The rewards are shifted so that progress falls in
    the worst `discard` of all chunks, and scaled so that it rises by more than `KAPPA` in the better half of the rest.
    Raises PrefenvsError where the rewards do not tell chunks apart.
    """
    if chunk < 1 or not 0.0 <= discard < 1.0:
        raise PrefenvsError(f"chunk={chunk} is at least 1, and discard={discard} lies in [0, 1)")
    means, spans = _chunks(rewards, trajectories, chunk)
    if not len(means):
        raise PrefenvsError("no episode has a second step, so there are no chunks of actions to compare")
    shift = float(np.quantile(means, discard))
    gains = (means - shift) * spans
    rising = gains[gains > 0]
    if not len(rising):
        raise PrefenvsError("the learned reward is the same everywhere, so no chunk of actions is better than another")
    scale = KAPPA / float(np.median(rising))
    progress = np.empty(len(rewards))
    for begin, end in zip(trajectories.begins.tolist(), trajectories.ends.tolist(), strict=True):
        gained = np.cumsum((rewards[begin:end].astype(np.float64) - shift) * scale)
        progress[begin:end] = np.concatenate([[0.0], gained[:-1]])
    return progress


def write_progress(path: str | Path, progress: Array, trajectories: Trajectories) -> Path:
    """Write progress [S] as LeRobot reads it, one row a step, for all episodes of a data set.

    Raises PrefenvsError where episodes were left out: LeRobot counts the steps of all of them.
    """
    import pyarrow
    import pyarrow.parquet

    numbers = trajectories.episode_numbers
    if not np.array_equal(numbers, np.arange(len(trajectories))):
        raise PrefenvsError(
            f"the data hold {len(numbers)} episodes, numbered {numbers[0]} to {numbers[-1]}: export the progress of "
            "all episodes, from a data set of one task without damaged ones"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lengths = trajectories.lengths
    table = {
        "index": np.arange(len(progress)),
        "episode_index": np.repeat(numbers, lengths),
        "frame_index": np.concatenate([np.arange(length) for length in lengths]),
        "progress_sparse": progress.astype(np.float32),
    }
    new = path.with_name(path.name + ".new")
    pyarrow.parquet.write_table(pyarrow.table(table), new)
    return new.replace(path)


def _chunks(rewards: Array, trajectories: Trajectories, chunk: int) -> tuple[Array, Array]:
    """The mean reward and the steps of the chunk that follows each step, those of last steps left out."""
    means, spans = [], []
    for begin, end in zip(trajectories.begins.tolist(), trajectories.ends.tolist(), strict=True):
        sums = np.concatenate([[0.0], np.cumsum(rewards[begin:end], dtype=np.float64)])
        first = np.arange(end - begin - 1)
        last = np.minimum(first + chunk, end - begin - 1)
        means.append((sums[last] - sums[first]) / (last - first))
        spans.append(last - first)
    return np.concatenate(means), np.concatenate(spans)
