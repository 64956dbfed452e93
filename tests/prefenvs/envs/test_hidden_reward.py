"""The reward stays hidden, bad numbers are refused, and states can be put back."""

import pickle
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import prefenvs
from prefenvs.envs.adapters import make_source
from prefenvs.envs.hidden_reward import HiddenReward
from prefenvs.errors import PrefenvsError

ONE_PER_FAMILY = (
    "HalfCheetah-v5",
    "Pendulum-v1",
    "dmc-walker-walk-v0",
    "metaworld-drawer-open-v3",
    "FetchPush-v4",
    "PointMaze_UMaze-v3",
)


def make(task_id: str, **kwargs: Any) -> HiddenReward:
    env = prefenvs.make(task_id, **kwargs)
    assert isinstance(env, HiddenReward)
    return env


def steps(env: HiddenReward, actions: list[Any]) -> list[tuple[Any, ...]]:
    out = []
    for action in actions:
        observation, _, terminated, _, info = env.step(action)
        out.append((observation.copy(), info["true_reward"], info["state"]))
        if terminated:
            break
    return out


def same(first: list[tuple[Any, ...]], second: list[tuple[Any, ...]]) -> bool:
    if len(first) != len(second):
        return False
    return all(np.array_equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_the_true_reward_is_the_task_s_own_and_the_returned_one_is_zero() -> None:
    env, reference = make("HalfCheetah-v5"), gymnasium.make("HalfCheetah-v5")
    first, _ = env.reset(seed=3)
    expected, _ = reference.reset(seed=3)
    assert np.array_equal(first, expected.astype(np.float32))
    env.action_space.seed(0)
    for _ in range(50):
        action = env.action_space.sample()
        observation, reward, _, _, info = env.step(action)
        expected, true_reward, *_ = reference.step(action)
        assert reward == 0.0
        assert info["true_reward"] == true_reward
        assert np.array_equal(observation, expected.astype(np.float32))


@pytest.mark.parametrize("task_id", ONE_PER_FAMILY)
def test_info_holds_the_documented_keys_only(task_id: str) -> None:
    env = make(task_id)
    _, info = env.reset(seed=0)
    task = env.task
    assert "true_reward" not in info
    for _ in range(3):
        *_, info = env.step(env.action_space.sample())
        assert set(info) == {"true_reward", "state"} | ({"scene"} if task.scene else set()) | {
            key for key in [task.success_key] if key
        }
        assert type(info["true_reward"]) is float
        assert info["state"].dtype == np.float64
        assert np.array_equal(info["state"], env.capture())


def test_the_scene_belongs_to_the_episode() -> None:
    env = make("metaworld-drawer-open-v3")
    _, first = env.reset(seed=0)
    for _ in range(3):
        *_, info = env.step(env.action_space.sample())
        assert np.array_equal(info["scene"], first["scene"])
    _, second = env.reset()
    assert not np.array_equal(first["scene"], second["scene"])


def test_restoring_needs_the_scene_where_a_reset_sets_one() -> None:
    env = make("metaworld-drawer-open-v3")
    _, first = env.reset(seed=0)
    drawer = env.unwrapped.model.body("drawer").id  # type: ignore[attr-defined]
    place = env.unwrapped.data.xpos[drawer].copy()  # type: ignore[attr-defined]
    env.reset(seed=1)
    env.restore(first["state"])
    assert not np.allclose(env.unwrapped.data.xpos[drawer], place)  # type: ignore[attr-defined]
    env.restore(first["state"], first["scene"])
    assert np.allclose(env.unwrapped.data.xpos[drawer], place)  # type: ignore[attr-defined]
    assert env.scene is not None
    assert np.array_equal(env.scene, first["scene"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_refused(bad: float) -> None:
    env = make("HalfCheetah-v5")
    env.reset(seed=0)
    action = np.zeros(6, np.float32)
    action[2] = bad
    with pytest.raises(PrefenvsError, match=r"'HalfCheetah-v5' was given the action.*NaN or infinite"):
        env.step(action)


class Broken(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Returns what a simulator that blew up would return."""

    reward: float = 0.0
    entry: float = 0.0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        observation[1] = self.entry
        return observation, self.reward, terminated, truncated, info


def test_a_simulator_that_blew_up_is_noticed() -> None:
    inner = Broken(make_source("Pendulum-v1"))
    env = HiddenReward(inner, "Pendulum-v1")
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    inner.reward = float("nan")
    with pytest.raises(PrefenvsError, match="returned the reward nan"):
        env.step(np.zeros(1, np.float32))
    inner.reward, inner.entry = 0.0, float("nan")
    with pytest.raises(PrefenvsError, match="returned nan in entry 1 of the observation"):
        env.step(np.zeros(1, np.float32))
    # Finite numbers whose sum overflows are no fault.
    inner.entry = 3.4e38
    env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    "task_id", ["HalfCheetah-v5", "CartPole-v1", "dmc-walker-walk-v0", "metaworld-reach-v3", "FetchPush-v4"]
)
def test_gymnasium_s_checker_is_content(task_id: str) -> None:
    check_env(prefenvs.make(task_id), skip_render_check=True)


def test_vector_environments() -> None:
    task_id = "prefenvs/metaworld-reach-v3"
    for vector in (SyncVectorEnv, AsyncVectorEnv):
        envs = vector([lambda: gymnasium.make(task_id)] * 2)  # type: ignore[abstract]
        envs.reset(seed=[0, 1])
        _, rewards, _, _, infos = envs.step(envs.action_space.sample())
        assert np.all(rewards == 0.0)
        assert infos["true_reward"].shape == (2,)
        assert np.stack(infos["state"]).shape == (2, infos["state"][0].size)
        envs.close()


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_stable_baselines_vector_environments(kind: type) -> None:
    envs = kind([partial(prefenvs.make, "HalfCheetah-v5", max_episode_steps=5)] * 2)
    envs.seed(0)
    assert envs.reset().dtype == np.float32
    assert "state" in envs.reset_infos[0]
    for step in range(5):
        _, rewards, dones, infos = envs.step(np.zeros((2, 6), np.float32))
        assert np.all(rewards == 0.0)
        assert all(isinstance(info["true_reward"], float) for info in infos)
        assert list(dones) == [step == 4] * 2
    assert infos[0]["TimeLimit.truncated"]
    envs.close()


@settings(max_examples=15, deadline=None)
@given(
    task_id=st.sampled_from(["Hopper-v5", "Ant-v5", "dmc-hopper-hop-v0", "PointMaze_UMaze-v3", "CartPole-v1"]),
    before=st.integers(0, 6),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_resumed_episode_equals_the_original(task_id: str, before: int, seed: int) -> None:
    env = make(task_id)
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(before + 8)]
    env.reset(seed=seed)
    steps(env, actions[:before])
    snapshot = pickle.loads(pickle.dumps(env.snapshot()))
    original = steps(env, actions[before:])
    next_start = env.reset()[0]
    other = make(task_id)
    other.reset(seed=seed + 1)
    other.resume(snapshot)
    assert same(original, steps(other, actions[before:]))
    assert np.array_equal(other.reset()[0], next_start), "the random generator is part of a snapshot"


def test_states_of_another_task_are_refused() -> None:
    cheetah, hopper = make("HalfCheetah-v5"), make("Hopper-v5")
    cheetah.reset(seed=0)
    hopper.reset(seed=0)
    with pytest.raises(PrefenvsError, match=r"a state of shape \(19,\) does not fit"):
        hopper.restore(cheetah.capture())
    with pytest.raises(PrefenvsError, match=r"snapshot of .* does not fit"):
        hopper.resume(cheetah.snapshot())
    drawer = make("metaworld-drawer-open-v3")
    drawer.reset(seed=0)
    with pytest.raises(PrefenvsError, match=r"a scene of shape \(3,\) does not fit"):
        drawer.restore(drawer.capture(), np.zeros(3))


def test_metaworld_seeds_work_and_leave_numpy_s_generator_alone() -> None:
    env = make("metaworld-drawer-open-v3")
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    first = env.reset(seed=5)[0]
    following = [env.reset()[0] for _ in range(3)]
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(first, env.reset(seed=5)[0])
    assert all(np.array_equal(old, env.reset()[0]) for old in following)
    # The drawer's place is entries 4 to 6 of an observation.
    places = np.array([first, *following, env.reset(seed=6)[0]])[:, 4:7]
    assert len(np.unique(places, axis=0)) == 5


def test_metaworld_s_goal_is_visible_and_its_policy_succeeds() -> None:
    from metaworld.policies import ENV_POLICY_MAP

    env = make("metaworld-button-press-v3")
    policy = ENV_POLICY_MAP["button-press-v3"]()
    observation, _ = env.reset(seed=0)
    goal = env.unwrapped.sawyer._target_pos  # type: ignore[attr-defined]
    assert np.allclose(observation[-3:], goal)
    for _ in range(200):
        action = np.clip(policy.get_action(observation.astype(np.float64)), -1, 1).astype(np.float32)
        observation, _, _, _, info = env.step(action)
        if info["success"] == 1.0:
            return
    pytest.fail("the scripted policy did not press the button")


def test_the_suite_s_own_seeds_are_kept() -> None:
    from dm_control import suite

    env = make("dmc-cheetah-run-v0")
    reference = suite.load("cheetah", "run", task_kwargs={"random": 11})
    expected = np.concatenate([np.ravel(part) for part in reference.reset().observation.values()])
    assert np.array_equal(env.reset(seed=11)[0], expected.astype(np.float32))


def test_dictionary_observations_are_laid_out_by_name() -> None:
    env, bare = make("FetchPush-v4"), make_source("FetchPush-v4")
    flat, _ = env.reset(seed=0)
    parts, _ = bare.reset(seed=0)
    expected = np.concatenate([parts["achieved_goal"], parts["desired_goal"], parts["observation"]])
    assert np.array_equal(flat, expected.astype(np.float32))


def test_fetch_s_target_is_where_its_own_rendering_puts_it() -> None:
    env, bare = make("FetchPickAndPlace-v4"), make_source("FetchPickAndPlace-v4")
    for seed in range(3):
        env.reset(seed=seed)
        bare.reset(seed=seed)
        bare._render_callback()  # type: ignore[attr-defined]
        assert np.allclose(env.unwrapped.model.site_pos, bare.model.site_pos)  # type: ignore[attr-defined]
