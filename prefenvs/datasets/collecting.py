"""Data of mixed quality, made here: episodes of chosen policies, kept as they finish, so that collecting can go on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from prefenvs.datasets.formats.npz import DESCRIPTION, read_npz, save_episodes
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.sources import Disturbance, Source, load_source
from prefenvs.envs import make
from prefenvs.envs.spaces import action_vectors
from prefenvs.errors import PrefenvsError, failure_told
from prefenvs.evaluate import as_trained
from prefenvs.internal.child import follow_parent
from prefenvs.protocols import Policy
from prefenvs.segments import Array
from prefenvs.tasks import Task, find_task
from prefenvs.trajectories import Trajectories, TrajectoryBuffer

Load = Callable[[Source, Task, spaces.Space[Any], int], Policy]
"""Turns a source into a policy; a function of a module, where worker processes are to call it."""

# Steps after which finished episodes are written down.
BLOCK = 20_000


@dataclass(frozen=True)
class CollectionPlan:
    """What to collect: everything that the data depend on.

    sources: the mixture; its episodes come in shuffled order, so that a part of them is a mixture too.
    after_success: steps that an episode goes on after its first success, None for its whole length.
    seed: of resets, noise, random actions and order; episode i depends on it and on i alone.
    """

    task: str
    sources: tuple[Source, ...]
    seed: int = 0
    after_success: int | None = None

    def __post_init__(self) -> None:
        task = find_task(self.task)
        if self.after_success is not None and task.success_key is None:
            raise PrefenvsError(f"task {task.id!r} tells no success after which an episode could stop")
        if self.after_success is not None and self.after_success < 0:
            raise PrefenvsError(f"an episode goes on for at least 0 steps after success, got {self.after_success}")
        if self.seed < 0:
            raise PrefenvsError(f"a seed is at least 0, got {self.seed}")

    @cached_property
    def order(self) -> Array:
        """Which source plays each episode, [E]."""
        counts = [source.episodes for source in self.sources]
        return np.random.default_rng(self.seed).permutation(np.repeat(np.arange(len(counts)), counts))


@dataclass(frozen=True, eq=False)
class Episode:
    """One finished episode: its trajectory, the source's label, and success (None where the task tells none)."""

    trajectories: Trajectories
    label: str
    success: float | None


def collect(
    plan: CollectionPlan,
    folder: Path,
    *,
    load: Load = load_source,
    workers: int = 1,
    progress: Callable[[Episode], object] | None = None,
) -> OfflineDataset:
    """Play the episodes of a plan that `folder` does not hold yet, and return all of them.

    The folder fills with .npz files as episodes finish; when Ctrl-C or an error stops it, what is finished is written
    first, and the same call goes on from there. The data are the same, however often it was stopped.

    workers: processes that play episodes side by side. progress: called with each episode. Raises PrefenvsError for
    fewer than one worker, for one that dies, and for a folder with episodes of another plan.
    """
    if workers < 1:
        raise PrefenvsError(f"at least 1 process must play, got {workers}")
    folder.mkdir(parents=True, exist_ok=True)
    _keep_plan(folder, plan)
    done = count_episodes(folder)
    total = sum(source.episodes for source in plan.sources)
    waiting: list[Episode] = []
    with _players(plan, range(done, total), load, workers) as episodes:
        try:
            for episode in episodes:
                waiting.append(episode)
                if progress is not None:
                    progress(episode)
                if sum(len(item.trajectories.observations) for item in waiting) >= BLOCK:
                    done = _save(folder, done, waiting, plan)
        except BrokenProcessPool as error:
            raise PrefenvsError(
                "a process that plays episodes has died, for want of memory perhaps: what was finished is kept; go on "
                "with fewer workers"
            ) from error
        finally:
            if waiting:
                _save(folder, done, waiting, plan)
    return read_npz(folder, plan.task)


def _keep_plan(folder: Path, plan: CollectionPlan) -> None:
    """Write down, beside the first episodes, what is collected; raises PrefenvsError where it was something else."""
    path, asked = folder / DESCRIPTION, json.loads(json.dumps(dataclasses.asdict(plan)))
    known: dict[str, Any] = {}
    try:
        if path.is_file():
            known = json.loads(path.read_text(encoding="utf-8")).get("plan") or {}
    except (ValueError, AttributeError) as error:
        raise PrefenvsError(f"{path} is damaged ({error}): remove it, and collect by the same plan") from None
    for name, value in asked.items() if known else ():
        if known.get(name) != value:
            raise PrefenvsError(
                f"{folder} holds episodes of {name}={known.get(name)!r}, not {value!r}: choose another folder"
            )
    if not known:
        new = path.with_name(path.name + ".new")
        new.write_text(json.dumps({"task": plan.task, "plan": asked}, indent=2) + "\n", encoding="utf-8")
        new.replace(path)


def count_episodes(folder: Path) -> int:
    """Number of episodes in a folder that `collect` fills; a damaged file raises PrefenvsError."""
    total = 0
    for path in sorted(folder.glob("episodes-*.npz")):
        way_out = "remove it and collect its episodes again"
        with failure_told(f"{path} is damaged", way_out), np.load(path) as file:
            total += len(file["ends"])
    return total


def play(env: gymnasium.Env[Any, Any], policy: Policy, plan: CollectionPlan, number: int) -> Episode:
    """Play episode `number` of a plan, in an environment of its task."""
    task, source = find_task(plan.task), plan.sources[plan.order[number]]
    streams = np.random.SeedSequence([plan.seed, number]).spawn(2)
    # Below 2^31, where evaluation has no seeds.
    observation, info = env.reset(seed=int(streams[0].generate_state(1)[0] >> 1))
    # Copies, because an environment may write the next observation and state into the same arrays.
    observation, state = np.array(observation), _copy(info.get("state"))
    disturb = Disturbance(source, env.action_space, np.random.default_rng(streams[1]))
    buffer = TrajectoryBuffer(task.id, max_episodes=None)
    show = as_trained(policy, env)
    memory: tuple[Array, ...] | None = None
    start, left, success = True, plan.after_success, 0.0
    done = False
    while not done:
        actions, memory = policy.predict(show(observation[None]), memory, np.array([start]), deterministic=True)
        action = disturb(actions[0])
        taken = action_vectors(env.action_space, action)
        following, _, terminated, truncated, after = env.step(action)
        start = False
        success = max(success, float(after.get(task.success_key, 0.0)) if task.success_key else 0.0)
        if success and left is not None:
            truncated, left = truncated or left == 0, left - 1
        done = bool(terminated or truncated)
        buffer.add_step(
            0,
            observation,
            taken,
            after["true_reward"],
            state,
            done=done,
            terminated=bool(terminated),
            scene=after.get("scene"),
            final_observation=following,
        )
        observation, state = np.array(following), _copy(after.get("state"))
    return Episode(buffer.trajectories(), source.label, success if task.success_key else None)


def _copy(array: Array | None) -> Array | None:
    return None if array is None else np.array(array)


def _save(folder: Path, first: int, waiting: list[Episode], plan: CollectionPlan) -> int:
    """Write finished episodes as the next file, forget them, and return how many the folder holds now."""
    buffer = TrajectoryBuffer(plan.task, max_episodes=None)
    for episode in waiting:
        buffer.extend(episode.trajectories)
    policies = np.array([episode.label for episode in waiting])
    known = [episode.success for episode in waiting if episode.success is not None]
    successes = np.array(known) if known else None
    # A file takes its name from its first episode: writing it a second time changes nothing.
    save_episodes(folder / f"episodes-{first:07d}.npz", buffer.trajectories(), policies, successes)
    first += len(waiting)
    waiting.clear()
    return first


@contextmanager
def _players(plan: CollectionPlan, numbers: range, load: Load, workers: int) -> Iterator[Iterator[Episode]]:
    """Give the episodes in their order, as they finish, from this process or from others."""
    if workers == 1 or len(numbers) < 2:
        with closing(make(plan.task)) as env:
            policies = _Policies(plan, load, env)
            yield (play(env, policies[number], plan, number) for number in numbers)
        return
    context = get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(numbers)), context, _start_worker, (plan, load))
    try:
        yield pool.map(_play_in_worker, numbers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Policies:
    """The policies of a plan, each loaded when its first episode comes."""

    def __init__(self, plan: CollectionPlan, load: Load, env: gymnasium.Env[Any, Any]) -> None:
        self.plan, self.load, self.env = plan, load, env
        self.loaded: dict[str, Policy] = {}

    def __getitem__(self, number: int) -> Policy:
        """The policy that plays an episode; a random one begins anew with each, so that order does not matter."""
        source = self.plan.sources[self.plan.order[number]]
        if source.policy == "random":
            seed = int(np.random.SeedSequence([self.plan.seed, number, 1]).generate_state(1)[0] >> 1)
            return self.load(source, find_task(self.plan.task), self.env.action_space, seed)
        if source.policy not in self.loaded:
            task = find_task(self.plan.task)
            self.loaded[source.policy] = self.load(source, task, self.env.action_space, self.plan.seed)
        return self.loaded[source.policy]


_worker: dict[str, Any] = {}


def _start_worker(plan: CollectionPlan, load: Load) -> None:
    follow_parent()
    # Ctrl-C reaches all processes of a terminal; the one that collects decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Read by PyTorch when a policy first imports it: the processes share the cores as they are.
    os.environ["OMP_NUM_THREADS"] = "1"
    env = make(plan.task)
    _worker.update(plan=plan, env=env, policies=_Policies(plan, load, env))


def _play_in_worker(number: int) -> Episode:
    return play(_worker["env"], _worker["policies"][number], _worker["plan"], number)
