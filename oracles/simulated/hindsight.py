"""The hindsight rater: sees what a segment leads to before it judges (RLHS)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from gymnasium import spaces
from tyro.conf import arg

from prefenvs.envs import make
from prefenvs.envs.spaces import action_vectors
from prefenvs.envs.states import goes_on
from prefenvs.errors import PrefenvsError
from prefenvs.internal.seeding import derive_seed
from prefenvs.limits import PositiveInt
from prefenvs.oracles.simulated.immediate import ImmediateOracle
from prefenvs.preferences import Oracle, Query
from prefenvs.protocols import Policy
from prefenvs.segments import Array, Segment
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories


@dataclass(frozen=True)
class HindsightOptions:
    """A rater who is shown a simulated continuation of each segment."""

    rater: Annotated[str, arg(name="hindsight-rater")] = "oracle"
    """Who judges segment and continuation together: a simulated rater, in square brackets if it has options, such as
    [noisy:beta=0.1]."""
    steps: Annotated[PositiveInt, arg(name="hindsight-steps")] = 10
    """Steps of the continuation; it ends earlier with the episode."""
    policy: Annotated[str, arg(name="hindsight-policy")] = "current"
    """Who continues: current (the agent in training, deterministic), random, or the run folder of an agent."""


class HindsightOracle(ImmediateOracle):
    """Roll a policy out from the end of each segment, and let another rater judge segment and continuation as one.

    The label belongs to the segment alone (Liang et al. 2025, "RLHS"). The simulator is put into the segment's last
    state, takes its last action, and the policy goes on for `steps` steps, or to the task's time limit. All segments of
    a query are continued alike far: where an episode terminates early, its last observation is repeated with actions
    and rewards of 0. Only for tasks whose segments hold all that the simulator needs to go on; each call checks it on
    one step whose outcome was recorded.
    """

    def __init__(self, inner: Oracle, task: str, steps: int = 10, policy: Policy | None = None, seed: int = 0) -> None:
        """Take the rater that judges; policy: None is the agent in training. seed: of what the simulator draws."""
        super().__init__()
        if steps < 1:
            raise PrefenvsError(f"hindsight looks at least 1 step ahead, got {steps}")
        self.inner, self.task, self.steps, self.policy = inner, find_task(task), steps, policy
        self.name = f"hindsight-{inner.name}"
        self._seed, self._given = seed, policy is not None
        self._env: Any = None

    def follow(self, policy: Policy) -> None:
        """Continue segments by the agent in training, unless a policy was given."""
        if not self._given:
            self.policy = policy

    def ask(self, queries: Sequence[Query]) -> None:
        """Answer at once; raises PrefenvsError where states are missing or the simulator cannot go on from them."""
        if not queries:
            return
        if self.policy is None:
            raise PrefenvsError(
                "hindsight: no agent is in training that could continue segments: choose policy=random or a run folder"
            )
        with closing(make(self.task.id)) as env:
            self._env = env
            env.reset(seed=derive_seed(self._seed, "hindsight"))
            self._check(queries[0].segments[0])
            continued = {query.id: self._continue(query, self.policy) for query in queries}
        originals = {continued[query.id].id: query for query in queries}
        self.inner.ask([continued[query.id] for query in queries])
        answers = self.inner.collect()
        if self.inner.pending or len(answers) != len(queries):
            raise PrefenvsError(f"hindsight needs a rater that answers at once, which {self.inner.name} does not")
        self._answers += [replace(a, query=originals[a.query.id], oracle=self.name, shown=None) for a in answers]

    def _check(self, segment: Segment) -> None:
        """Raise a PrefenvsError unless one step from a stored state leads to the observation that was recorded."""
        if segment.states is None:
            raise PrefenvsError(f"hindsight continues segments from their states, which those of {segment.task} lack")
        if len(segment) < 2:
            return
        if not goes_on(self._env, segment):
            raise PrefenvsError(
                f"hindsight: a segment of {self.task.id} cannot be continued, as its states do not hold all that the "
                "simulator goes on with; choose another task"
            )

    def _continue(self, query: Query, policy: Policy) -> Query:
        """Return the query with every segment continued by equally many steps."""
        ends = [segment.start + len(segment) for segment in query.segments]
        left = self.task.horizon - max(ends) if min(segment.start for segment in query.segments) >= 0 else self.steps
        steps = min(self.steps, max(left, 0))
        return Query(tuple(self._extend(segment, steps, policy) for segment in query.segments)) if steps else query

    def _extend(self, segment: Segment, steps: int, policy: Policy) -> Segment:
        if segment.states is None:
            raise PrefenvsError(f"hindsight continues segments from their states, which those of {segment.task} lack")
        self._env.reset()
        self._env.restore(segment.states[-1], segment.scene)
        observation, _, done, _, info = self._env.step(self._action(segment.actions[-1]))
        blank = np.zeros_like(segment.actions[-1])
        rows: list[tuple[Array, Array, float, Array]] = []
        for _ in range(steps):
            seen, state = np.ravel(observation), info["state"]
            if done:
                rows.append((seen, blank, 0.0, state))
                continue
            action = policy.predict(np.asarray(observation)[None], deterministic=True)[0][0]
            observation, _, done, _, info = self._env.step(action)
            space = self._env.action_space
            vector = np.ravel(action_vectors(space, action))
            rows.append((seen, vector, float(info.get("true_reward", np.nan)), state))
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        observations, actions, rewards, states = columns
        return replace(
            segment,
            observations=np.concatenate([segment.observations, observations.astype(segment.observations.dtype)]),
            actions=np.concatenate([segment.actions, actions.astype(segment.actions.dtype)]),
            true_rewards=None if segment.true_rewards is None else np.concatenate([segment.true_rewards, rewards]),
            states=np.concatenate([segment.states, states]),
        )

    def _action(self, vector: Array) -> Any:
        """Return the action of the environment that a segment holds as a vector."""
        space = self._env.action_space
        if isinstance(space, spaces.Discrete):
            return int(space.start + np.argmax(vector))
        return np.asarray(vector, space.dtype).reshape(space.shape)

    def observe(self, trajectories: Trajectories) -> None:
        """Pass recent trajectories on."""
        self.inner.observe(trajectories)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the rater that judges."""
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.inner.load_state_dict(state["inner"])
