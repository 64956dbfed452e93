"""The task tables agree with the packages that the tasks come from."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

import prefenvs
from prefenvs.envs.adapters import make_source
from prefenvs.envs.states import mujoco_model
from prefenvs.errors import PrefenvsError
from prefenvs.tasks import Task
from prefenvs.tasks.files import write_task

TASKS = prefenvs.list_tasks()
# One task of each kind of model and camera.
SAMPLES = [
    *(task.id for task in prefenvs.list_tasks("gymnasium_mujoco")),
    *(task.id for task in prefenvs.list_tasks("dm_control")),
    "metaworld-drawer-open-v3",
    "FetchSlide-v4",
    "PointMaze_Medium-v3",
    "AntMaze_Large-v5",
    "AdroitHandDoor-v1",
    "AdroitHandRelocate-v1",
    "FrankaKitchen-v1",
]


def test_every_id_is_unique_and_registered() -> None:
    ids = [task.id for task in TASKS]
    assert len(set(ids)) == len(ids)
    for task in TASKS:
        spec = gymnasium.spec(f"prefenvs/{task.id}")
        assert spec.max_episode_steps == task.horizon


def test_the_published_families_are_complete() -> None:
    assert len(prefenvs.list_tasks("metaworld")) == 50
    assert len(prefenvs.list_tasks("gymnasium_mujoco")) == 11
    assert len(prefenvs.list_tasks("dm_control")) == 12
    import metaworld

    assert {task.source for task in prefenvs.list_tasks("metaworld")} == set(metaworld.ALL_V3_ENVIRONMENTS)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_rows_are_filled_in(task: Task) -> None:
    assert task.sentence.endswith(".")
    assert len(task.sentence.split()) >= 6
    assert 1 <= task.segment_length <= task.horizon
    assert task.fps > 0
    for budget in task.budgets:
        assert budget.source
        assert 0 < budget.per_session <= budget.labels
        sessions = (budget.steps - 10_000) // budget.interact
        assert sessions >= 1
    assert [budget.labels for budget in task.budgets] == sorted(budget.labels for budget in task.budgets)


def test_each_metaworld_task_has_its_own_sentence() -> None:
    sentences = [task.sentence for task in prefenvs.list_tasks("metaworld")]
    assert len(set(sentences)) == len(sentences)


def test_horizons_are_those_of_the_packages() -> None:
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    for task in TASKS:
        if task.family in ("gymnasium_mujoco", "classic_control", "robotics") and not task.id.startswith("d4rl-"):
            assert gymnasium.spec(task.source).max_episode_steps == task.horizon, task.id


def test_metaworld_and_suite_horizons() -> None:
    import metaworld
    from dm_control import suite

    assert metaworld.SawyerXYZEnv.max_path_length == prefenvs.find_task("metaworld-reach-v3").horizon
    for task in prefenvs.list_tasks("dm_control"):
        domain, name = task.source.split("/")
        assert suite.load(domain, name)._step_limit == task.horizon


@pytest.mark.parametrize("task_id", SAMPLES)
def test_frames_per_second_and_camera_fit_the_model(task_id: str) -> None:
    task = prefenvs.find_task(task_id)
    env = make_source(task_id)
    env.reset(seed=0)
    model = mujoco_model(env)
    kinds = mujoco.mjtObj
    for kind, name in ((kinds.mjOBJ_CAMERA, task.camera.name), (kinds.mjOBJ_BODY, task.camera.track)):
        assert name is None or mujoco.mj_name2id(model, kind, name) >= 0
    env.close()
    # One step of the environment lasts 1 / fps seconds of simulated time.
    hidden = prefenvs.make(task_id)
    _, first = hidden.reset(seed=0)
    _, _, _, _, second = hidden.step(hidden.action_space.sample())
    hidden.close()
    assert task.fps == round(1.0 / (second["state"][0] - first["state"][0]))


def test_pebble_budgets_of_bpref() -> None:
    walker = {(b.labels, b.per_session, b.interact, b.steps) for b in prefenvs.find_task("dmc-walker-walk-v0").budgets}
    assert {(500, 50, 20_000, 500_000), (1000, 100, 20_000, 500_000)} <= walker
    button = {(b.labels, b.per_session, b.lr) for b in prefenvs.find_task("metaworld-button-press-v3").budgets}
    assert button == {(10_000, 50, 3e-4), (20_000, 100, 3e-4)}


def test_a_misspelt_task_gets_near_matches() -> None:
    with pytest.raises(PrefenvsError, match=r"unknown task 'halfcheeta-v5'.*HalfCheetah-v5"):
        prefenvs.make("halfcheeta-v5")
    with pytest.raises(PrefenvsError, match=r"unknown family 'robotic'.*robotics"):
        prefenvs.list_tasks("robotic")
    assert prefenvs.find_task("prefenvs/Ant-v5").id == "Ant-v5"


def test_a_segment_longer_than_the_episode_is_refused() -> None:
    with pytest.raises(PrefenvsError, match="segment of 51 steps"):
        Task("x", "robotics", "A sentence.", horizon=50, segment_length=51, fps=1, source="x")


def test_importing_prefenvs_imports_nothing_heavy() -> None:
    heavy = ["torch", "stable_baselines3", "mujoco", "metaworld", "dm_control", "gymnasium_robotics", "pygame", "scipy"]
    heavy += ["sklearn", "matplotlib", "pandas", "sqlalchemy", "pyarrow", "h5py", "av", "PIL", "tyro", "rich", "openai"]
    code = f"import sys, prefenvs; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("task_id", "extra"),
    [("dmc-walker-walk-v0", "dmc"), ("metaworld-reach-v3", "metaworld"), ("FetchReach-v4", "robotics")],
)
def test_a_missing_package_names_its_extra(task_id: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("prefenvs.envs.adapters.import_module", refuse)
    with pytest.raises(PrefenvsError, match=rf'pip install -e ".*\[{extra}\]"'):
        prefenvs.make(task_id)


def test_arguments_reach_the_task() -> None:
    action = np.full(6, 0.5, np.float32)
    rewards = []
    for weight in (1.0, 2.0):
        env = prefenvs.make("HalfCheetah-v5", forward_reward_weight=weight, ctrl_cost_weight=0.0)
        env.reset(seed=0)
        rewards.append(env.step(action)[4]["true_reward"])
    assert rewards[1] == pytest.approx(2 * rewards[0])
    assert prefenvs.make("HalfCheetah-v5", max_episode_steps=7).spec.max_episode_steps == 7  # type: ignore[union-attr]
    with pytest.raises(PrefenvsError, match=r"cannot be made with.*wheels"):
        prefenvs.make("HalfCheetah-v5", wheels=4)
    with pytest.raises(PrefenvsError, match=r"no render_mode 'human': choose one of .*rgb_array"):
        prefenvs.make("dmc-walker-walk-v0", render_mode="human")
    with pytest.raises(PrefenvsError, match="the goal would move within an episode"):
        prefenvs.make("PointMaze_UMaze-v3", reset_target=True)


@pytest.mark.parametrize("name", ["dmc-walker-walk-v0", "metaworld-drawer-open-v3", "Pendulum-v1", "CartPole-v1"])
def test_a_held_action_is_the_same_action_several_times(name: str) -> None:
    held, plain = prefenvs.make(f"{name}@3"), prefenvs.make(name)
    row, held_row = prefenvs.find_task(name), prefenvs.find_task(f"{name}@3")
    assert held_row.horizon == row.horizon // 3
    held.reset(seed=5)
    plain.reset(seed=5)
    held.action_space.seed(0)
    for step in range(held_row.horizon):
        action = held.action_space.sample()
        observation, _, terminated, truncated, info = held.step(action)
        total = 0.0
        for _ in range(3):
            expected, _, ended, _, plain_info = plain.step(action)
            total += plain_info["true_reward"]
            if ended:
                break
        np.testing.assert_array_equal(observation, expected)
        assert info["true_reward"] == pytest.approx(total)
        assert terminated == ended
        assert truncated == (step + 1 == held_row.horizon)
        if terminated:
            break


@pytest.mark.parametrize("hand", ["door", "hammer", "pen", "relocate"])
def test_d4rls_reward_is_of_every_step_of_a_held_action_and_of_a_task_file(hand: str, tmp_path: Path) -> None:
    name = f"d4rl-{hand}-v1"
    plain = prefenvs.make(name)
    held = [prefenvs.make(f"{task}@3") for task in (name, write_task(prefenvs.find_task(name), tmp_path / "hand.json"))]
    plain.action_space.seed(0)
    for env in (plain, *held):
        env.reset(seed=5)
    for _ in range(3):
        action = plain.action_space.sample()
        total = sum(plain.step(action)[4]["true_reward"] for _ in range(3))
        assert [env.step(action)[4]["true_reward"] for env in held] == pytest.approx([total, total])


def test_budgets_of_held_actions_are_of_the_same_time() -> None:
    row, held = prefenvs.find_task("dmc-walker-walk-v0"), prefenvs.find_task("prefenvs/dmc-walker-walk-v0@2")
    assert held.segment_length / held.fps == row.segment_length / row.fps
    for one, other in zip(row.budgets, held.budgets, strict=True):
        assert (other.steps, other.interact) == (one.steps // 2, one.interact // 2)
        assert (other.labels, other.per_session) == (one.labels, one.per_session)
    assert prefenvs.find_task("dmc-walker-walk-v0@1") == row
    # A task without a published budget gets walker-walk's of the same time, too.
    plain, held = (prefenvs.find_task(name).budget(70) for name in ("Reacher-v5", "Reacher-v5@4"))
    assert (held.interact, held.steps, held.labels) == (plain.interact // 4, plain.steps // 4, 70)


def test_a_success_while_an_action_is_held_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    held = prefenvs.make("FetchReach-v4@3")
    held.reset(seed=0)
    told = iter([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    source = type(held.unwrapped)
    step = source.step

    def reached_for_a_moment(self: Any, action: Any) -> Any:
        *rest, info = step(self, action)
        return *rest, info | {"is_success": next(told)}

    monkeypatch.setattr(source, "step", reached_for_a_moment)
    found = [held.step(held.action_space.sample())[4]["is_success"] for _ in range(2)]
    assert found == [1.0, 0.0]


@pytest.mark.parametrize("repeat", [0, 1_001])
def test_an_action_held_for_no_step_or_beyond_the_episode_is_refused(repeat: int) -> None:
    with pytest.raises(PrefenvsError, match=f"@{repeat}: an action is held for 1 to 1000 steps"):
        prefenvs.find_task(f"dmc-walker-walk-v0@{repeat}")


def test_a_task_file_may_hold_actions(tmp_path: Path) -> None:
    path = write_task(prefenvs.find_task("Pendulum-v1@2"), tmp_path / "slow.json")
    env = prefenvs.make(str(path))
    assert env.spec is not None
    assert env.spec.max_episode_steps == 100
    assert prefenvs.find_task(str(path)).repeat == 2
    assert prefenvs.find_task(f"{path}@5").repeat == 10
