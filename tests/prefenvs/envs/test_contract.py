"""Every registered task keeps the contract, and the checks notice one that does not."""

from typing import Any

import numpy as np
import pytest

import prefenvs
from prefenvs.envs import check
from prefenvs.envs.hidden_reward import HiddenReward
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.errors import PrefenvsError

RENDERED = {
    "HalfCheetah-v5",
    "Humanoid-v5",
    "CartPole-v1",
    "Pendulum-v1",
    "dmc-reacher-easy-v0",
    "dmc-quadruped-walk-v0",
    "metaworld-drawer-open-v3",
    "metaworld-basketball-v3",
    "metaworld-sweep-into-v3",
    "FetchPush-v4",
    "PointMaze_UMaze-v3",
    "AntMaze_UMaze-v5",
    "AdroitHandPen-v1",
    "FrankaKitchen-v1",
    "Delivery-v0",
    "humanoid-kneel-v0",
}


@pytest.mark.parametrize("task_id", [task.id for task in prefenvs.list_tasks()])
def test_contract(task_id: str) -> None:
    failed = [result for result in check.check_task(task_id, rendering=False) if not result.passed]
    assert not failed


@pytest.mark.parametrize("task_id", sorted(RENDERED & {task.id for task in prefenvs.list_tasks()}))
def test_rendering_contract(task_id: str) -> None:
    try:
        gl_backend()
    except PrefenvsError as error:
        pytest.skip(str(error))
    task = prefenvs.find_task(task_id)
    first, second = (check._make(task, render_mode="rgb_array") for _ in range(2))
    result = check._run(check.check_rendering, task, first, second, 7)
    first.close()
    second.close()
    assert result.passed, result.detail


def check_with(name: str, first: HiddenReward, second: HiddenReward) -> check.CheckResult:
    return check._run(getattr(check, f"check_{name}"), first.task, first, second, 7)


def pair(task_id: str) -> tuple[HiddenReward, HiddenReward]:
    first, second = prefenvs.make(task_id), prefenvs.make(task_id)
    assert isinstance(first, HiddenReward)
    assert isinstance(second, HiddenReward)
    return first, second


def test_a_leak_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = HiddenReward.step

    def tell(self: HiddenReward, action: Any) -> Any:
        observation, reward, terminated, truncated, info = original(self, action)
        info["scene"] = np.array(info["true_reward"])
        return observation, reward, terminated, truncated, info

    first, second = pair("HalfCheetah-v5")
    monkeypatch.setattr(HiddenReward, "step", tell)
    result = check_with("hidden", first, second)
    assert not result.passed
    assert "info['scene'] equals the true reward" in result.detail


def test_a_returned_reward_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = HiddenReward.step

    def pay(self: HiddenReward, action: Any) -> Any:
        observation, _, terminated, truncated, info = original(self, action)
        return observation, info["true_reward"], terminated, truncated, info

    first, second = pair("HalfCheetah-v5")
    monkeypatch.setattr(HiddenReward, "step", pay)
    assert not check_with("hidden", first, second).passed


def test_an_unseeded_draw_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = HiddenReward.reset
    rng = np.random.default_rng()

    def jitter(self: HiddenReward, **kwargs: Any) -> Any:
        observation, info = original(self, **kwargs)
        return observation + rng.normal(scale=1e-3, size=observation.shape).astype(np.float32), info

    first, second = pair("HalfCheetah-v5")
    monkeypatch.setattr(HiddenReward, "reset", jitter)
    assert not check_with("seed", first, second).passed


def test_lagging_positions_matter_to_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = pair("Ant-v5")
    assert check_with("resume", first, second).passed
    monkeypatch.setattr("prefenvs.envs.states.DERIVED", ())
    assert not check_with("resume", first, second).passed


def test_a_wrong_time_limit_is_noticed() -> None:
    first = prefenvs.make("HalfCheetah-v5", max_episode_steps=30)
    assert isinstance(first, HiddenReward)
    assert not check_with("spaces", first, first).passed
    assert not check_with("horizon", first, first).passed


def test_an_unknown_task_is_an_error() -> None:
    with pytest.raises(PrefenvsError, match="unknown task"):
        check.check_task("Nothing-v0")
