"""Evaluation: how well a policy does by the true reward, in environments and on seeds of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from prefenvs.envs import make
from prefenvs.envs.hidden_reward import changing_wrapper
from prefenvs.envs.spaces import action_vectors
from prefenvs.errors import PrefenvsError
from prefenvs.protocols import Policy
from prefenvs.segments import Array
from prefenvs.tasks import find_task, known_task
from prefenvs.trajectories import Trajectories, TrajectoryBuffer

if TYPE_CHECKING:
    from prefenvs.frames.live import LiveFrames
    from prefenvs.frames.recording import Recording

Env = gymnasium.Env[Any, Any]

# Reset seeds from here on belong to evaluation; training seeds stay below.
FIRST_SEED = 2**31
# Each evaluation seed has so many reset seeds, and no two share one.
EPISODES_PER_SEED = 2**16
LAST_SEED = 2**15 - 1


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What E episodes of one policy on one task gave.

    returns: [E] undiscounted true returns; lengths: [E] steps; seeds: [E] the seed each episode was reset with.
    success: [E], the greatest success value seen in each episode; None where the task does not tell success.
    trajectories: the first episodes with states, as many as were asked for; None if none were.
    """

    task: str
    returns: Array
    lengths: Array
    seeds: Array
    success: Array | None = None
    trajectories: Trajectories | None = None

    def __repr__(self) -> str:
        success = "" if self.success_rate is None else f", success_rate={self.success_rate:.3g}"
        return f"Evaluation(task={self.task!r}, episodes={len(self)}, mean_return={self.mean_return:.6g}{success})"

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.returns)

    @property
    def mean_return(self) -> float:
        """Mean true return."""
        return float(self.returns.mean())

    @property
    def iqm_return(self) -> float:
        """Interquartile mean: the mean without the lowest and the highest quarter, floor(E / 4) episodes each."""
        cut = len(self.returns) // 4
        return float(np.sort(self.returns)[cut : len(self.returns) - cut].mean())

    @property
    def success_rate(self) -> float | None:
        """Mean over episodes of the greatest success value, in [0, 1]; None where the task does not tell success."""
        return None if self.success is None else float(self.success.mean())

    def metrics(self) -> dict[str, float]:
        """Return the figures that a log or a table takes."""
        figures = {
            "return_mean": self.mean_return,
            "return_iqm": self.iqm_return,
            "return_std": float(self.returns.std()),
            "length_mean": float(self.lengths.mean()),
            "episodes": float(len(self)),
        }
        return figures if self.success_rate is None else figures | {"success_rate": self.success_rate}


def random_policy(action_space: spaces.Space[Any], seed: int = 0) -> Policy:
    """Return a policy that acts uniformly at random: the floor that every learner has to leave behind."""
    return _RandomPolicy(action_space, seed)


def evaluation_seeds(seed: int, episodes: int, first: int = 0) -> Array:
    """Return the reset seeds of an evaluation, [episodes]: 2^31 + 2^16 * seed + first, first + 1, ...

    They fit into 32 bits, are disjoint for different evaluation seeds, and cannot meet a training seed below 2^31.
    Raises PrefenvsError for a seed or a number of episodes outside these.
    """
    if not 0 <= seed <= LAST_SEED:
        raise PrefenvsError(f"an evaluation seed lies between 0 and {LAST_SEED}, got {seed}")
    if not 1 <= episodes <= EPISODES_PER_SEED - first or first < 0:
        after = f" from number {first} on" if first else ""
        raise PrefenvsError(f"an evaluation takes 1 to {EPISODES_PER_SEED} episodes, got {episodes}{after}")
    return FIRST_SEED + EPISODES_PER_SEED * seed + first + np.arange(episodes)


def evaluate(
    policy: Policy,
    task_id: str,
    episodes: int = 10,
    seed: int = 0,
    num_envs: int = 5,
    deterministic: bool = True,
    record: int = 0,
    envs: Sequence[Env] | None = None,
    success_key: str | None = None,
    progress: Callable[[int], object] | None = None,
    horizon: int | None = None,
    first: int = 0,
    film: str | Path | None = None,
) -> Evaluation:
    """Run a policy for `episodes` whole episodes and return what it truly earned.

    Environment i of `num_envs` plays episodes i, i + num_envs, ..., so every episode counts once and none is cut off or
    preferred for being short. They step one after the other in this process and share each call of `policy.predict`.

    policy: anything with Stable-Baselines3's `predict`; recurrent states are carried along. With `deterministic` false
    it draws from its own generator, which `seed` does not set. An agent whose environment is a `VecNormalize` is shown
    observations normalised by its statistics; one that was trained behind other wrappers is refused.
    seed: number of the evaluation, 0 to 32767; `evaluation_seeds` tells the reset seeds, which no training run uses.
    record: how many of the first episodes to return as trajectories with simulator states, as a recorder wants them.
    envs: environments to use and leave open, instead of `num_envs` new ones: making some takes longer than an episode.
    success_key: key of `info` that tells success, where it is not the task's own or the task is not in the tables.
    progress: called with the number of finished episodes after each one.
    horizon: steps after which episodes are cut off, where that is earlier than the task's own time limit: D4RL's scores
    on the pen are of 100 steps, the task has 200 (`OfflineDataset.horizon`).
    first: number of the first episode; evaluations of one seed that share no number share no reset seed.
    film: a folder for videos of the recorded episodes, drawn while they are played: for tasks without states. Raises
    PrefenvsError for numbers below 1, an environment given twice, and a policy of other spaces.
    """
    seeds = evaluation_seeds(seed, episodes, first)
    task_id = task_id.removeprefix("prefenvs/")
    row = find_task(task_id) if envs is None else known_task(task_id)
    if row is not None:
        success_key = success_key or row.success_key
    if horizon is not None and horizon < 1:
        raise PrefenvsError(f"an evaluation's episodes have at least 1 step, got horizon={horizon}")
    if (num_envs if envs is None else len(envs)) < 1:
        raise PrefenvsError("an evaluation needs at least 1 environment, got 0")
    if envs is not None and len({id(env) for env in envs}) < len(envs):
        raise PrefenvsError("envs holds the same environment twice; make one for each place")
    with ExitStack() as stack:
        if envs is None:
            mode: dict[str, Any] = {} if film is None else {"render_mode": "rgb_array"}
            envs = [stack.enter_context(closing(make(task_id, **mode))) for _ in range(min(num_envs, episodes))]
        envs = envs[:episodes]
        show = as_trained(policy, envs[0])
        live = None if film is None else _live_frames(film, envs[0].metadata.get("render_fps") or 30)
        runs = [_Run(env, seeds, i, len(envs), record, success_key, horizon, live) for i, env in enumerate(envs)]
        _play(policy, runs, deterministic, progress, show)
    finished = sorted((episode for run in runs for episode in run.finished), key=lambda episode: episode.number)
    return Evaluation(
        task=task_id,
        returns=np.array([episode.earned for episode in finished]),
        lengths=np.array([episode.length for episode in finished]),
        seeds=seeds,
        success=None if success_key is None else np.array([episode.success for episode in finished]),
        trajectories=_trajectories(finished[:record], task_id, seed) if record else None,
    )


def _live_frames(folder: str | Path, fps: float) -> LiveFrames:
    from prefenvs.frames.live import LiveFrames

    return LiveFrames(folder, max(round(fps), 1))


class _RandomPolicy:
    """Draws every action from the action space, whatever it sees."""

    def __init__(self, action_space: spaces.Space[Any], seed: int) -> None:
        self.action_space = deepcopy(action_space)
        self.action_space.seed(seed)

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Array, None]:
        """Return one action for each of the observations [N, obs]."""
        return np.stack([self.action_space.sample() for _ in range(len(observation))]), None


@dataclass
class _Episode:
    """One episode as it goes on; `steps` are the arguments of `TrajectoryBuffer.add_step`, empty if not recorded."""

    number: int
    earned: float = 0.0
    length: int = 0
    success: float | None = None
    steps: list[tuple[Any, ...]] = field(default_factory=list)
    terminated: bool = False
    scene: Array | None = None
    final_observation: Array | None = None
    recording: Recording | None = None


class _Run:
    """One environment and the episodes that it has to play."""

    def __init__(
        self,
        env: Env,
        seeds: Array,
        first: int,
        stride: int,
        record: int,
        success_key: str | None,
        horizon: int | None = None,
        live: LiveFrames | None = None,
    ) -> None:
        self.live, self.place = live, first
        self.env, self.seeds, self.stride, self.record, self.success_key = env, seeds, stride, record, success_key
        self.horizon = horizon
        self.finished: list[_Episode] = []
        self.idle = self.fresh = False
        self._begin(first)

    def _begin(self, number: int) -> None:
        self.episode = _Episode(number)
        observation, info = self.env.reset(seed=int(self.seeds[number]))
        # Copies, because an environment may return the same arrays each time.
        self.observation, self.state = np.array(observation), _copy(info.get("state"))
        self.fresh = True
        self._film()

    def _film(self) -> None:
        if self.live is not None and self.episode.number < self.record:
            self.live.add(self.place, self.env.render())

    def step(self, action: Array) -> bool:
        """Take one step, go on to the next episode after the last one's end, and tell whether one ended."""
        episode = self.episode
        taken = action_vectors(self.env.action_space, action) if episode.number < self.record else None
        observation, _, terminated, truncated, info = self.env.step(action)
        if "true_reward" not in info:
            raise PrefenvsError('the environment tells no true reward: make it with prefenvs.make("<task>")')
        earned = float(info["true_reward"])
        episode.earned += earned
        episode.length += 1
        if self.success_key in info:
            success = float(info[self.success_key])
            episode.success = success if episode.success is None else max(success, episode.success)
        if taken is not None:
            episode.steps.append((self.observation, taken, earned, self.state))
        self.observation, self.state, self.fresh = np.array(observation), _copy(info.get("state")), False
        if not (terminated or truncated or episode.length == self.horizon):
            self._film()
            return False
        if self.live is not None and taken is not None:
            episode.recording = self.live.end(self.place)
        if self.success_key is not None and episode.success is None:
            raise PrefenvsError(f"no step of the episode told {self.success_key!r} in info; name the right success_key")
        episode.terminated, episode.scene = bool(terminated), _copy(info.get("scene"))
        episode.final_observation = self.observation
        self.finished.append(episode)
        if episode.number + self.stride < len(self.seeds):
            self._begin(episode.number + self.stride)
        else:
            self.idle = True
        return True


def as_trained(policy: Policy, env: Env) -> Callable[[Array], Array]:
    """Return what makes of the task's observations [N, obs] those that a policy was trained on.

    Raises PrefenvsError if its observations or actions are not those of the environment. What a file of a
    Stable-Baselines3 agent does not tell, such as the statistics of its VecNormalize, has to be attached: `set_env`.
    That of an off-policy agent does not even tell that there were any: a warning says so.
    """
    for what in ("observation_space", "action_space"):
        theirs, ours = getattr(policy, what, None), getattr(env, what)
        bounds = what == "action_space" and isinstance(ours, spaces.Box) and hasattr(policy, "get_vec_normalize_env")
        differ = isinstance(theirs, spaces.Space) and (
            theirs.shape != ours.shape
            or isinstance(theirs, spaces.Discrete) != isinstance(ours, spaces.Discrete)
            or (bounds and not (np.allclose(theirs.low, ours.low) and np.allclose(theirs.high, ours.high)))  # type: ignore[attr-defined]
        )
        if differ:
            raise PrefenvsError(
                f"the policy was trained with the {what.replace('_', ' ')} {theirs}, and the environment's is {ours}: "
                "evaluate it on its own task; wrappers that change observations or actions belong into the task"
            )
    # Stable-Baselines3's algorithms know their environment, which is the only place of a VecNormalize's statistics. The
    # file of an on-policy agent (it has a GAE lambda) tells by an observation kept from before normalising that there
    # was one; off-policy agents keep one in any case.
    normalise = getattr(policy, "get_vec_normalize_env", lambda: None)()
    kept = getattr(policy, "_last_original_obs", None) if hasattr(policy, "gae_lambda") else None
    if normalise is None and kept is not None:
        raise PrefenvsError(
            "the policy was trained behind a VecNormalize, whose statistics its file does not hold: attach it first, "
            'with policy.set_env(VecNormalize.load("statistics.pkl", venv))'
        )
    _warn_of_statistics(policy)
    trained_in = getattr(policy, "get_env", lambda: None)()
    names = [changing_wrapper(inner) for inner in getattr(getattr(trained_in, "unwrapped", None), "envs", ())]
    for name in names:
        if name is not None and changing_wrapper(env) != name:
            raise PrefenvsError(
                f"the policy was trained behind {name}, which the environment lacks: pass envs=[...] that have it too"
            )
    return np.asarray if normalise is None else normalise.normalize_obs


def _warn_of_statistics(policy: Policy) -> None:
    """Warn of a loaded off-policy agent of Stable-Baselines3, whose file looks the same behind a VecNormalize.

    Agents of this package see raw observations, and say so in `sees_raw_observations`.
    """
    loaded = hasattr(policy, "replay_buffer") and getattr(policy, "get_env", lambda: 0)() is None
    if loaded and not getattr(policy, "sees_raw_observations", False):
        warnings.warn(
            f"the file of a {type(policy).__name__} does not tell whether it was trained behind a VecNormalize: if it "
            'was, these returns are wrong until policy.set_env(VecNormalize.load("statistics.pkl", venv)); if not, set '
            "policy.sees_raw_observations = True",
            stacklevel=4,
        )


def _play(
    policy: Policy,
    runs: list[_Run],
    deterministic: bool,
    progress: Callable[[int], object] | None,
    show: Callable[[Array], Array],
) -> None:
    """Step all environments until each has played its episodes; `show` turns observations into the policy's own."""
    memory: tuple[Array, ...] | None = None
    done = 0
    while not all(run.idle for run in runs):
        # Idle environments stay in the batch, so that a recurrent policy's states keep their places.
        observations = show(np.stack([run.observation for run in runs]))
        starts = np.array([run.fresh for run in runs])
        actions, memory = policy.predict(observations, memory, starts, deterministic=deterministic)
        for run, action in zip(runs, actions, strict=True):
            if not run.idle and run.step(action):
                done += 1
                if progress is not None:
                    progress(done)


def _copy(array: Array | None) -> Array | None:
    return None if array is None else np.array(array)


def _trajectories(episodes: list[_Episode], task: str, seed: int) -> Trajectories:
    buffer = TrajectoryBuffer(task, source=f"evaluation-{seed}", max_episodes=None)
    for episode in episodes:
        last = len(episode.steps) - 1
        for i, step in enumerate(episode.steps):
            buffer.add_step(
                0,
                *step,
                done=i == last,
                terminated=episode.terminated,
                scene=episode.scene,
                final_observation=episode.final_observation,
                recording=episode.recording,
            )
    return buffer.trajectories()
