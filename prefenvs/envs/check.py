"""The contract of every environment, proved by running it: `prefenvs doctor --task ID` prints what this finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from prefenvs.envs import make
from prefenvs.envs.hidden_reward import HiddenReward
from prefenvs.envs.spaces import is_picture, name_entries
from prefenvs.envs.states import mujoco_model
from prefenvs.segments import Array
from prefenvs.tasks import Task, find_task
from prefenvs.tasks.own import OWN

STEPS = 20
TOLERANCE = 1e-12
# What `info` may hold beside the task's success key.
KEYS = {"true_reward", "state", "scene"}


@dataclass(frozen=True)
class CheckResult:
    """One property of an environment: its name, whether it holds, and what was seen."""

    name: str
    passed: bool
    detail: str


class CheckFailed(Exception):
    """A property does not hold; the message says what was seen."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """What a run of fixed actions gave: observations [T + 1, obs], true rewards [T], states [T + 1, s], infos."""

    observations: Array
    rewards: Array
    states: Array
    infos: list[dict[str, Any]]

    def difference(self, other: Rollout) -> float:
        """Largest absolute difference of any number; infinite if the lengths differ."""
        if len(self.rewards) != len(other.rewards):
            return float("inf")
        pairs = ((self.observations, other.observations), (self.rewards, other.rewards), (self.states, other.states))
        return max(float(np.max(np.abs(a - b), initial=0.0)) for a, b in pairs)


def check_task(task_id: str, rendering: bool = True, seed: int = 7) -> list[CheckResult]:
    """Run every check of one task; a check that fails says so in its result, and none of them raises.

    rendering: also render frames, which needs an OpenGL backend. Raises PrefenvsError only for an unknown task or one
    whose package is not installed.
    """
    task = find_task(task_id)
    first, second = (_make(task, render_mode="rgb_array" if rendering else None) for _ in range(2))
    checks: list[Callable[[Task, HiddenReward, HiddenReward, int], str]] = [
        check_spaces,
        check_seed,
        check_seeds_differ,
        check_hidden,
        check_restore,
        check_resume,
        check_horizon,
    ]
    if rendering:
        checks.append(check_rendering)
    results = []
    if "state" not in first.reset(seed=seed)[1]:
        checks = [check for check in checks if check not in (check_restore, check_resume, check_rendering)]
        films = "films while training asks and curves of collected data"
        shown = films if "rgb_array" in first.metadata.get("render_modes", []) else "curves of observations"
        told = f"not told, so a resumed run begins its episodes anew, and raters see {shown}: give the class a vector"
        results = [CheckResult("state", True, f"{told} `state` that can be set")]
    try:
        return results + [_run(check, task, first, second, seed) for check in checks]
    finally:
        first.close()
        second.close()


def _run(
    check: Callable[[Task, HiddenReward, HiddenReward, int], str],
    task: Task,
    first: HiddenReward,
    second: HiddenReward,
    seed: int,
) -> CheckResult:
    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        return CheckResult(name, True, check(task, first, second, seed))
    except CheckFailed as failure:
        return CheckResult(name, False, str(failure))
    except Exception as error:  # Whatever a third party's task raises is a finding, not a crash of the doctor.
        return CheckResult(name, False, f"{type(error).__name__}: {error}")


def _make(task: Task, **kwargs: Any) -> HiddenReward:
    env = make(task.id, **kwargs)
    if not isinstance(env, HiddenReward):
        raise CheckFailed(f"the outermost wrapper is {type(env).__name__}, not HiddenReward")
    return env


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise CheckFailed(message)


def _actions(env: gymnasium.Env[Any, Any], count: int, seed: int) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def _roll(env: HiddenReward, actions: Sequence[Any], observation: Array, info: dict[str, Any]) -> Rollout:
    """Do the actions from where the environment is, until they or the episode end."""
    unknown = np.zeros(0)
    observations, states, infos = [observation], [info.get("state", unknown)], [info]
    for action in actions:
        observation, _, terminated, truncated, info = env.step(action)
        observations.append(observation)
        states.append(info.get("state", unknown))
        infos.append(info)
        if terminated or truncated:
            break
    rewards = np.array([info["true_reward"] for info in infos[1:]])
    return Rollout(np.array(observations), rewards, np.array(states), infos)


def check_spaces(task: Task, first: HiddenReward, second: HiddenReward, seed: int) -> str:
    """Observations are float32 vectors or pictures inside their space; the time limit is the table's horizon."""
    box, action = first.observation_space, first.action_space
    _require(
        isinstance(box, spaces.Box) and (is_picture(box) or box.dtype == np.float32),
        f"the observation space is {box}, neither a float32 Box nor pictures",
    )
    _require(len(box.shape or ()) == (3 if is_picture(box) else 1), f"observations have shape {box.shape}")
    _require(
        isinstance(action, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary),
        f"the action space is {action}",
    )
    spec = first.spec
    limit = None if spec is None else spec.max_episode_steps
    _require(limit == task.horizon, f"the time limit is {limit}, the table says {task.horizon}")
    rollout = _roll(first, _actions(first, STEPS, seed), *first.reset(seed=seed))
    for step, observation in enumerate(rollout.observations):
        _require(box.contains(observation), f"observation {step} is outside its space")
    entries = name_entries(first.unwrapped.observation_space)
    return f"observations {box.shape} {box.dtype}{' of ' * bool(entries)}{entries}, actions {action}"


def check_seed(task: Task, first: HiddenReward, second: HiddenReward, seed: int) -> str:
    """The seed of `reset` determines the episode, and the unseeded ones after it, whatever happened before."""
    actions = _actions(first, STEPS, seed)
    # The two environments have different pasts.
    second.reset(seed=seed + 1)
    for action in actions[:3]:
        second.step(action)
    again = []
    for env in (first, second):
        runs = [_roll(env, actions, *env.reset(seed=seed)), _roll(env, actions, *env.reset())]
        again.append(runs)
    for name, a, b in zip(("seeded", "next"), again[0], again[1], strict=True):
        _require(a.difference(b) == 0.0, f"two runs of the {name} episode differ by {a.difference(b):.3g}")
        scenes = [run.infos[0].get("scene") for run in (a, b)]
        same = scenes[0] is scenes[1] is None or np.array_equal(*scenes)  # type: ignore[arg-type]
        _require(bool(same), f"the scenes of the {name} episode differ")
    _require(again[0][0].difference(again[0][1]) > 0.0, "an unseeded reset repeats the seeded episode")
    return f"bit for bit over {len(again[0][0].rewards)} steps"


def check_seeds_differ(task: Task, first: HiddenReward, second: HiddenReward, seed: int) -> str:
    """Different seeds begin differently."""
    starts = np.array([first.reset(seed=seed + k)[0] for k in range(3)])
    varied = np.flatnonzero(np.ptp(starts, axis=0) > 0)
    _require(len(np.unique(starts, axis=0)) == 3, "two of three seeds give the same first observation")
    return f"{len(varied)} of {starts[0].size} entries of the first observation vary"


def check_hidden(task: Task, first: HiddenReward, second: HiddenReward, seed: int) -> str:
    """Returned rewards are 0.0, `true_reward` is the task's own, and no other entry of `info` carries it."""
    actions = _actions(first, STEPS, seed)
    first.reset(seed=seed)
    # All of the task but the wrapper that hides its reward.
    bare = second.env
    bare.reset(seed=seed)
    seen: list[tuple[float, dict[str, Any]]] = []
    for step, action in enumerate(actions):
        _, reward, terminated, truncated, info = first.step(action)
        _, true_reward, *_ = bare.step(action if first.task_action is None else first.task_action(action))
        _require(type(reward) is float and reward == 0.0, f"step {step} returned the reward {reward!r}")
        _require(info.get("true_reward") == float(true_reward), f"step {step}: true_reward is not the task's reward")
        seen.append((float(true_reward), info))
        if terminated or truncated:
            break
    for _, info in seen:
        extra = set(info) - KEYS - {task.success_key}
        _require(not extra, f"info holds {sorted(map(str, extra))}")
        _require(task.success_key is None or task.success_key in info, f"info lacks {task.success_key!r}")
    for key in set(seen[0][1]) - {"true_reward", task.success_key}:
        told = all(np.size(info[key]) == 1 and np.all(info[key] == reward) for reward, info in seen)
        _require(not told, f"info[{key!r}] equals the true reward")
    return f"info holds {', '.join(seen[0][1])}"


def check_restore(task: Task, first: HiddenReward, second: HiddenReward, seed: int) -> str:
    """A captured state can be put back, here and in another environment; `info` holds the same state."""
    rollout = _roll(first, _actions(first, 3, seed), *first.reset(seed=seed))
    state, scene = first.capture(), first.scene
    _require(np.array_equal(state, rollout.states[-1]), "info['state'] is not what capture() returns")
    _require(state.dtype == np.float64 and state.ndim == 1, f"a state is {state.dtype} of shape {state.shape}")
    second.reset(seed=seed + 1)
    first.reset(seed=seed + 2)
    for env in (first, second):
        env.restore(state, scene)
        _require(np.array_equal(env.capture(), state), "restore() did not bring the state back")
    return f"{state.size} numbers, scene {None if scene is None else scene.size}"


def check_resume(task: Task, first: HiddenReward, second: HiddenReward, seed: int) -> str:
    """An episode resumed from a snapshot goes on as the original did."""
    # Short of the time limit, whose counter is no part of a snapshot.
    actions = _actions(first, min(STEPS + 3, task.horizon), seed)
    begun = _roll(first, actions[:3], *first.reset(seed=seed))
    snapshot = first.snapshot()
    start = begun.observations[-1], begun.infos[-1]
    original = _roll(first, actions[3:], *start)
    worst = 0.0
    for env in (first, second):
        _roll(env, actions[:2], *env.reset(seed=seed + 1))
        env.resume(snapshot)
        worst = max(worst, original.difference(_roll(env, actions[3:], *start)))
    _require(worst <= TOLERANCE, f"the resumed episode differs by {worst:.3g}")
    return f"largest difference {worst:.1g} over {len(original.rewards)} steps"


def check_horizon(task: Task, first: HiddenReward, second: HiddenReward, seed: int) -> str:
    """Random actions end an episode by the time limit at the horizon, or earlier where the task terminates."""
    first.reset(seed=seed)
    action_steps = _actions(first, task.horizon, seed)
    for step, action in enumerate(action_steps, start=1):
        _, _, terminated, truncated, _ = first.step(action)
        if terminated:
            return f"the task ends itself, here after {step} steps of at most {task.horizon}"
        if truncated:
            _require(step == task.horizon, f"truncated after {step} steps, the table says {task.horizon}")
            return f"truncated after {step} steps"
    raise CheckFailed(f"no end after {task.horizon} steps")


def _require_same(frame: Array, other: Array, name: str) -> None:
    differing = int(np.any(frame != other, axis=-1).sum())
    _require(differing == 0, f"{differing} pixels of the frame of the stored state are not those of {name}")


def _seen_now(task: Task, env: HiddenReward) -> Array:
    """The picture of a simulation as it is, whatever of it is recorded."""
    from prefenvs.frames.fitting import draw, fit

    model = mujoco_model(env)
    if model is None:
        bare: Any = env.unwrapped
        if hasattr(bare, "last_u"):  # Pendulum's arrow is of the drawing, not of the state
            bare.last_u = None
        return fit(draw(env.env, f"task {task.id!r}"), (256, 256))
    from prefenvs.envs.rendering.mujoco import MujocoPainter

    painter = MujocoPainter(model, task.camera, 256, 256)
    try:
        frame: Array = painter.paint(env.snapshot().state[None])[0]
    finally:
        painter.close()
    return frame


def check_rendering(task: Task, first: HiddenReward, second: HiddenReward, seed: int) -> str:
    """Frames show something, equal those made from the stored state, and leave the simulation alone."""
    from prefenvs.envs.rendering.renderer import Renderer

    actions = _actions(first, 5, seed)
    watched = _roll(first, actions[:2], *first.reset(seed=seed))
    frame = first.render()
    _require(frame.dtype == np.uint8 and frame.shape == (256, 256, 3), f"a frame is {frame.dtype} {frame.shape}")
    spread = float(frame.std())
    _require(spread > 3.0, f"the frame is blank: its pixels vary by {spread:.2f}")
    renderer = Renderer(task)
    again = renderer.frame(watched.states[-1], watched.infos[-1].get("scene"))
    renderer.close()
    _require_same(again, frame, "the live one")
    if task.family == OWN:
        seen = _seen_now(task, first)
        _require_same(again, seen, "what the task shows: let its state tell all of it, or give that another name")
    rest = _roll(first, actions[2:], watched.observations[-1], watched.infos[-1])
    unwatched = _roll(second, actions, *second.reset(seed=seed))
    _require(np.array_equal(rest.states[-1], unwatched.states[-1]), "rendering changed the simulation")
    return f"frame {frame.shape}, equal to the one of the stored state"
