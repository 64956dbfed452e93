"""One form for every fixed data set: episodes, the transitions in them, and a scale for returns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from prefenvs.datasets.formats.columns import check_columns
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array, short_repr
from prefenvs.tasks import known_task
from prefenvs.trajectories import Trajectories


class TransitionArrays(NamedTuple):
    """N transitions as flat arrays, all float32 but `rows`.

    observations, next_observations: [N, obs]; actions: [N, act]; true_rewards: [N] or None (privileged: only a learner
    that is labelled as the true-reward upper bound reads it); terminals: [N], 1.0 where the task ended the episode,
    never at a time limit; rows: [N] int64, where each transition's step lies in the trajectories' flat arrays.
    """

    observations: Array
    actions: Array
    next_observations: Array
    true_rewards: Array | None
    terminals: Array
    rows: Array


@dataclass(frozen=True, eq=False)
class OfflineDataset:
    """A fixed data set to learn from.

    name: its name or folder, for messages and tables; trajectories: its episodes, checked here for NaN and infinity.
    terminals, timeouts: [S] bool, a file's own flags for each step, where it has them. Both may be set at one step, and
    in D4RL's mazes `terminals` is set at the goal while the recording goes on; elsewhere None, and
    `trajectories.terminated` says all.
    reference_scores: returns of a random policy and of an expert, which D4RL's normalised score calls 0 and 100.
    policies, successes: [E] text and [E] float, which policy acted in each episode and whether it ever succeeded, where
    data collected here say so; successes are privileged, as true rewards are.
    action_space: of the data, where the file tells it; discrete actions lie in the trajectories as one-hot rows.
    inferred: [E] bool, whether an episode's actions were inferred from what was seen, where that was done.
    interventions: [S] bool, whether a person who watched a policy acted at each step, where the recording tells it.
    horizon: steps of an episode under which the data were published and their reference scores hold, where that may
    differ from the task's own time limit, as in D4RL's pen; else None.
    """

    name: str
    trajectories: Trajectories
    terminals: Array | None = None
    timeouts: Array | None = None
    reference_scores: tuple[float, float] | None = None
    policies: Array | None = None
    successes: Array | None = None
    action_space: spaces.Space[Any] | None = None
    horizon: int | None = None
    inferred: Array | None = None
    interventions: Array | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not len(self.trajectories):
            raise PrefenvsError(f"data set {self.name!r} holds no finished episode")
        if self.horizon is not None and (type(self.horizon) is not int or self.horizon < 1):
            raise PrefenvsError(
                f"data set {self.name!r} has the time limit {self.horizon!r}, which is no count of steps"
            )
        for flag in ("terminals", "timeouts", "interventions"):
            array = getattr(self, flag)
            if array is not None and array.shape != (len(self.trajectories.observations),):
                raise PrefenvsError(f"{flag} of data set {self.name!r} has shape {array.shape}, not one flag a step")
        for column in ("policies", "successes", "inferred"):
            array = getattr(self, column)
            if array is not None and len(array) != len(self):
                raise PrefenvsError(f"data set {self.name!r} has {len(array)} {column} for {len(self)} episodes")
        check_columns(self.trajectories, self.name)
        scores = self.reference_scores
        if scores is not None and not (len(scores) == 2 and np.isfinite(scores).all() and scores[0] != scores[1]):
            raise PrefenvsError(f"reference_scores of data set {self.name!r} are two different returns, got {scores}")

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.trajectories)

    @property
    def task(self) -> str:
        """The task's id, empty where no task of the suite corresponds to the data."""
        return self.trajectories.task

    @property
    def inferred_share(self) -> float:
        """Share of the steps whose actions were inferred."""
        return 0.0 if self.inferred is None else float(np.repeat(self.inferred, self.trajectories.lengths).mean())

    @property
    def time_limit(self) -> int:
        """Steps of an episode at most: the data's own, else the task's, else those of the longest episode."""
        if self.horizon is not None:
            return self.horizon
        task = known_task(self.task)
        return int(self.trajectories.lengths.max()) if task is None else task.horizon

    def transitions(self) -> TransitionArrays:
        """Return every transition whose next observation is known, in the order of the data.

        Where `final_observations` is None, the last step of an episode that the task did not end is left out, as in
        D4RL's q-learning form; after a step that the task ended nothing is bootstrapped, so that its own observation
        stands in for the next one. With all steps kept, observations and actions are the trajectories' own arrays.
        Raises PrefenvsError for a data set without any.
        """
        data, terminals = self.trajectories, self._terminals()
        last = data.ends - 1
        lost = last[~terminals[last]] if data.final_observations is None else last[:0]
        rows = np.delete(np.arange(len(terminals)), lost)
        if not len(rows):
            raise PrefenvsError(f"data set {self.name!r} has no transition whose next observation is known")

        def keep(array: Array) -> Array:
            array = np.asarray(array, np.float32)
            return array[rows] if len(lost) else array

        self.warn_of_unknown_ends()
        following = np.take(data.observations, rows + 1, axis=0, mode="clip").astype(np.float32, copy=False)
        ends = np.isin(last, rows, assume_unique=True)
        final = data.observations[last] if data.final_observations is None else data.final_observations
        following[np.searchsorted(rows, last[ends])] = final[ends]
        rewards = None if data.true_rewards is None else keep(data.true_rewards)
        return TransitionArrays(keep(data.observations), keep(data.actions), following, rewards, keep(terminals), rows)

    def intervention_rewards(self) -> Array:
        """Return RLIF's rewards [S] float64: -1 for the step before each intervention, 0 for all others.

        An intervention that an episode begins with has no step before it. Raises PrefenvsError where the data tell
        of none.
        """
        if self.interventions is None or not self.interventions.any():
            raise PrefenvsError(
                f"data set {self.name!r} tells of no intervention: it needs a column "
                "complementary_info.is_intervention (LeRobot) or an array interventions (.npz)"
            )
        begins = self.interventions[1:] & ~self.interventions[:-1]
        begins[self.trajectories.ends[:-1] - 1] = False
        return -np.append(begins, False).astype(np.float64)

    def qlearning_rows(self) -> Array:
        """Return the steps [N] int64 that D4RL's `qlearning_dataset` keeps, by which published label files count.

        It drops every step at a time limit, whether or not the task ended there too, and the last step of all. Without
        flags of time limits, the last steps of episodes that the task did not end are taken for them.
        """
        timeouts = self.timeouts
        if timeouts is None:
            timeouts = np.zeros(len(self.trajectories.observations), bool)
            timeouts[self.trajectories.ends - 1] = True
            timeouts &= ~self._terminals()
        return np.flatnonzero(~timeouts[:-1])

    def normalised_score(self, returns: Array | float) -> Array:
        """Return 100 (R - random) / (expert - random), elementwise, in float64 (Fu et al. 2020, D4RL, section 4).

        D4RL's figures were measured on version 2 of the MuJoCo tasks; on later versions the score is a convention.
        Raises PrefenvsError where no reference scores are known.
        """
        if self.reference_scores is None:
            raise PrefenvsError(
                f"no reference scores are known for data set {self.name!r}: report true returns, or give "
                "reference_scores=(random, expert)"
            )
        random, expert = self.reference_scores
        scores: Array = 100.0 * (np.asarray(returns, np.float64) - random) / (expert - random)
        return scores

    def warn_of_unknown_ends(self) -> None:
        """Warn, before anything bootstraps, where nothing tells which episodes the task ended."""
        if self.terminals is None and self.trajectories.terminated is None:
            warnings.warn(
                f"data set {self.name!r} does not tell which episodes the task ended, so all are taken for cut off and "
                "values are bootstrapped through their ends: give the task, or `terminated` in its trajectories",
                stacklevel=3,
            )

    def _terminals(self) -> Array:
        """Whether the task ended the episode, [S] bool."""
        if self.terminals is not None:
            return self.terminals
        terminals = np.zeros(len(self.trajectories.observations), bool)
        if self.trajectories.terminated is not None:
            terminals[self.trajectories.ends - 1] = self.trajectories.terminated
        return terminals


def join_inferred(known: OfflineDataset, bare: OfflineDataset, actions: Array, name: str) -> OfflineDataset:
    """Return two data sets as one: the first as it is, then the second with inferred actions [S, act], marked so.

    Their observations have the same size; what only one of them tells is left out.
    """
    parts = (known.trajectories, bare.trajectories)

    def joined(arrays: list[Array | None]) -> Array | None:
        held = [array for array in arrays if array is not None]
        return np.concatenate(held) if len(held) == len(arrays) else None

    both = Trajectories(
        np.concatenate([part.observations for part in parts]),
        np.concatenate([known.trajectories.actions, actions]),
        np.concatenate([known.trajectories.ends, bare.trajectories.ends + known.trajectories.ends[-1]]),
        true_rewards=joined([part.true_rewards for part in parts]),
        terminated=joined([part.terminated for part in parts]),
        final_observations=joined([part.final_observations for part in parts]),
        task=known.task if known.task == bare.task else "",
        source=name,
    )
    return OfflineDataset(
        name,
        both,
        policies=joined([known.policies, bare.policies]),
        successes=joined([known.successes, bare.successes]),
        inferred=np.repeat([False, True], [len(known), len(bare)]),
    )
