"""Any Gymnasium environment is a task: by id, by name, as a class, a function or an object."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv

import prefenvs
from prefenvs.agents import PEBBLE
from prefenvs.agents.online.prefppo import PrefPPO, PrefPPOConfig
from prefenvs.cli import main
from prefenvs.datasets import CollectionPlan, Source, collect, load_dataset
from prefenvs.envs.check import check_task
from prefenvs.envs.rendering.renderer import Renderer
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.tasks.files import read_task, write_task

MODULE = '''
import gymnasium
import numpy as np
from gymnasium import spaces


class Reach(gymnasium.Env):
    """A point moves to the middle of a square. The rest is for its author."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}

    def __init__(self, render_mode=None, size=1.0):
        self.observation_space = spaces.Dict(
            {"place": spaces.Box(-2, 2, (2,), np.float32), "goal": spaces.Discrete(3)}
        )
        self.action_space = spaces.Box(-1, 1, (1, 2), np.float32)
        self.render_mode, self.size = render_mode, size

    def _observe(self):
        return {"place": self.place.astype(np.float32), "goal": 1}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-self.size, self.size, 2)
        return self._observe(), {}

    def step(self, action):
        self.place = np.clip(self.place + 0.1 * np.ravel(action), -2, 2)
        distance = float(np.linalg.norm(self.place))
        return self._observe(), -distance, False, False, {"is_success": distance < 0.1}


class Lasting(Reach):
    max_episode_steps = 24


class Unpaid(Lasting):
    has_reward = False


def make_it():
    """A point, made by a function."""
    return gymnasium.wrappers.TimeLimit(Reach(), 16)


gymnasium.register("OwnReach-v0", entry_point=Reach, max_episode_steps=30)
gymnasium.register("Lasting-v0", entry_point=Lasting, max_episode_steps=25)
gymnasium.register("own_space/Reach-v1", entry_point=Reach, max_episode_steps=31, kwargs={"size": 0.5})
COUNT = 3
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_environments.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    try:
        import own_environments  # type: ignore[import-not-found]

        yield own_environments
    finally:
        sys.path.remove(str(folder))


WAYS: dict[str, tuple[Callable[[Any], Any], str, int]] = {
    "class by name": (lambda own: "own_environments:Lasting", "own_environments:Lasting", 24),
    "function by name": (lambda own: "own_environments:make_it", "own_environments:make_it", 16),
    "id by its module": (lambda own: "own_environments:OwnReach-v0", "own_environments:OwnReach-v0", 30),
    "id named like a class": (lambda own: "own_environments:Lasting-v0", "own_environments:Lasting-v0", 25),
    "id in a namespace": (lambda own: "own_space/Reach-v1", "own_space/Reach-v1", 31),
    "registered id": (lambda own: "OwnReach-v0", "OwnReach-v0", 30),
    "class": (lambda own: own.Lasting, "own_environments:Lasting", 24),
    "function": (lambda own: own.make_it, "own_environments:make_it", 16),
    "object with a spec": (lambda own: gymnasium.make("OwnReach-v0"), "OwnReach-v0", 30),
    "object with another limit": (
        lambda own: gymnasium.make("OwnReach-v0", max_episode_steps=7),
        "Reach-OwnReach-v0",
        7,
    ),
    "object with a limit around it": (
        lambda own: gymnasium.wrappers.TimeLimit(gymnasium.make("OwnReach-v0"), 9),
        "Reach-OwnReach-v0-2",
        9,
    ),
    "another library's id": (lambda own: "MountainCarContinuous-v0", "MountainCarContinuous-v0", 999),
    "MuJoCo": (lambda own: "Pusher-v5", "Pusher-v5", 100),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_a_task(own: Any, way: str) -> None:
    given, name, horizon = WAYS[way]
    with prefenvs.make(given(own)) as env:
        task = env.get_wrapper_attr("task")
        assert (task.id, task.horizon) == (name, horizon)
        assert prefenvs.find_task(name) is task
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        assert observation.ndim == 1
        for step in range(1, horizon + 1):
            observation, reward, _, truncated, info = env.step(env.action_space.sample())
            assert reward == 0.0
            assert info["true_reward"] < 0.0
            assert truncated == (step == horizon)
    assert len(evaluate(random_policy(env.action_space), name, episodes=2)) == 2


def test_what_is_inferred(own: Any) -> None:
    task = prefenvs.find_task("own_environments:OwnReach-v0")
    assert (task.fps, task.segment_length, task.success_key) == (12, 15, "is_success")
    assert task.sentence == "A point moves to the middle of a square."
    assert task.file_name == "own_environments-OwnReach-v0"
    assert task.has_reward
    assert not prefenvs.find_task("own_environments:Unpaid").has_reward
    assert prefenvs.make(functools.partial(own.Unpaid)).get_wrapper_attr("task").sentence == ""  # not partial's own
    assert prefenvs.find_task("Pusher-v5").fps == 20
    assert prefenvs.make("own_environments:OwnReach-v0").action_space == spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "metaworld", "source": "fly"}, "(metaworld, fly) cannot be made"),
        ({"family": "dm_control", "source": "fly"}, "(dm_control, fly) cannot be made"),
        ({"family": "other", "source": "Fly-v9"}, "(other, Fly-v9) cannot be made"),
        ({"kwargs": {"wings": 2}}, "cannot be made with {'wings': 2}: TypeError"),
        ({"source": "own_environments:broken"}, "RuntimeError: no robot"),
        ({"source": "gymnasium.envs.mujoco.reacher_v5:ReacherEnv", "scene": ("wings",)}, "has no array 'wings'"),
    ],
)
def test_a_row_that_makes_no_environment_is_one_line(own: Any, fields: dict[str, Any], message: str) -> None:
    own.broken = raises
    row = prefenvs.Task("Wrong", "own", "It flies.", 12, 6, 20, "own_environments:Reach")
    with pytest.raises(PrefenvsError, match=re.escape(message)):
        prefenvs.make(dataclasses.replace(row, **fields)).reset(seed=0)


@pytest.mark.parametrize("source", ["own_environments:Reach", "own_environments:OwnReach-v0", "OwnReach-v0"])
def test_a_row_that_you_write(own: Any, source: str) -> None:
    row = prefenvs.Task(f"mine-{source}", "own", "The point is in the middle.", 12, 6, 20, source)
    env = prefenvs.make(row)
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[3] for _ in range(12)] == [False] * 11 + [True]
    with pytest.raises(PrefenvsError, match="which makes no environment"):
        prefenvs.make(prefenvs.Task(f"none-{source}", "own", "Nothing.", 12, 6, 20, source + "x"))


def test_an_object_with_wrappers_stays_what_it_is(own: Any) -> None:
    given = gymnasium.wrappers.RescaleAction(gymnasium.make("OwnReach-v0", size=0.1), -0.5, 0.5)
    env = prefenvs.make(given)
    assert env.action_space.high.tolist() == [0.5, 0.5]
    assert env.unwrapped is given.unwrapped
    again = prefenvs.make(env.get_wrapper_attr("task").id)
    assert again.unwrapped is not env.unwrapped
    assert again.action_space == env.action_space
    assert again.unwrapped.size == 0.1


def test_an_object_that_cannot_be_made_again_is_one_line(own: Any) -> None:
    class Doubled(gymnasium.RewardWrapper[Any, Any]):
        def reward(self, reward: Any) -> float:
            return 2.0 * float(reward)

    name = prefenvs.make(Doubled(gymnasium.make("OwnReach-v0"))).get_wrapper_attr("task").id
    with pytest.raises(PrefenvsError, match=r"cannot be made again.*give prefenvs\.make a function that makes it"):
        prefenvs.make(name)


@pytest.mark.parametrize("steps", [0, -1, 2.5, "ten"])
def test_an_impossible_time_limit_is_one_line(own: Any, steps: Any) -> None:
    for task in ("Pendulum-v1", own.Reach):
        with pytest.raises(PrefenvsError, match="an episode has a whole number of steps, 1 or more"):
            prefenvs.make(task, max_episode_steps=steps)


def test_an_object_without_a_spec_serves_once(own: Any) -> None:
    env = prefenvs.make(own.Reach(), max_episode_steps=8)
    assert env.reset(seed=0)[0].shape == (5,)
    with pytest.raises(PrefenvsError, match=r"give prefenvs\.make its class, or a function that makes it"):
        prefenvs.make(env.get_wrapper_attr("task").id)


def test_a_mujoco_reset_that_moves_bodies_is_recorded() -> None:
    class Moving(ReacherEnv):
        def reset_model(self) -> Any:
            self.model.body_pos[1] = self.np_random.uniform(-0.1, 0.1, 3)
            return super().reset_model()

    env = prefenvs.make(Moving, max_episode_steps=20)
    assert env.get_wrapper_attr("task").scene == ("body_pos",)
    assert env.reset(seed=1)[1]["scene"].shape == (env.unwrapped.model.nbody * 3,)


class Cheetah(HalfCheetahEnv):
    """A cheetah whose camera no table names."""


@pytest.mark.parametrize("made", [Cheetah, AntEnv])
def test_the_camera_follows_the_robot_as_gymnasiums_rendering_does(made: Callable[..., Any]) -> None:
    env = prefenvs.make(made, max_episode_steps=20)
    state = env.reset(seed=0)[1]["state"]
    moved = state.copy()
    moved[1] += 30.0  # x of the torso, after the time
    with Renderer(env.get_wrapper_attr("task").id, 64, 64) as renderer:
        here, there = renderer.frames(np.stack([state, moved])).astype(int)
    robot = [((frame[..., 0] - frame[..., 2]) > 30).sum() for frame in (here, there)]
    assert robot[0] > 100
    assert robot[1] > 0.8 * robot[0]


def test_the_doctor_checks_it(own: Any) -> None:
    results = check_task("own_environments:Lasting", rendering=False)
    assert [result.name for result in results if not result.passed] == []
    assert "state" in [result.name for result in results]
    assert any("of goal [0:3], place [3:5]" in result.detail for result in results), "which entry is what"


def test_data_of_a_task_without_states_are_its_own(own: Any, tmp_path: Path) -> None:
    collect(CollectionPlan("own_environments:Lasting", (Source("random", episodes=2),)), tmp_path)
    assert load_dataset(tmp_path, "own_environments:Lasting").trajectories.states is None
    np.savez(tmp_path / "x.npz", observations=np.zeros((2, 4)), actions=np.zeros((2, 2)), ends=[2])
    with pytest.raises(PrefenvsError, match="is not of task 'own_environments:Lasting'"):
        load_dataset(tmp_path / "x.npz", "own_environments:Lasting")


def test_without_states_the_episode_cannot_be_put_back(own: Any) -> None:
    env = prefenvs.make("own_environments:Lasting")
    assert "state" not in env.reset(seed=0)[1]
    with pytest.raises(PrefenvsError, match="does not tell its state"):
        env.get_wrapper_attr("capture")()


def raises(*_: Any) -> Any:
    raise RuntimeError("no\nrobot")


def faulty(**parts: Any) -> Any:
    """An environment class with some part that is not as it should be."""
    sound = {
        "observation_space": spaces.Box(-1, 1, (2,), np.float32),
        "action_space": spaces.Discrete(2),
        "max_episode_steps": 20,
        "seen": np.zeros(2),
        "reset": lambda self, **_: (self.seen, {}),
        "step": lambda self, _: (self.seen, 0.0, False, False, {}),
    }
    return type("Faulty", (gymnasium.Env,), sound | parts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda own: "own_environments:Nothing", "own_environments has no prefenvs.Task, environment class or"),
        (lambda own: "own_environments:COUNT", "nor does importing it register that id"),
        (lambda own: "own_environments:Reach", "does not tell how many steps an episode has"),
        (lambda own: own.Reach, "give prefenvs.make max_episode_steps"),
        (lambda own: raises, "the environment cannot be made"),
        (lambda own: lambda: 3, "a call gives int, not a gymnasium.Env"),
        (lambda own: 3, "or a class or function that makes one, got 3"),
        (lambda own: faulty(observation_space=None), "has no observation_space: set a gymnasium.Space"),
        (lambda own: faulty(reset=lambda self, **_: self.seen), "reset returns ndarray, where Gymnasium's returns obs"),
        (lambda own: faulty(step=lambda self, _: (self.seen, 0.0, False, {})), "step returns 4 values, where"),
        (lambda own: faulty(step=raises), "step fails: RuntimeError: no robot"),
        (lambda own: faulty(close=raises), "close() raised RuntimeError: no robot"),
        (lambda own: faulty(close=raises, step=raises), "step fails: RuntimeError: no robot"),
        (lambda own: faulty(seen=np.ones(3)), "outside its space: it has the shape [3], the space [2]"),
        (lambda own: faulty(seen=np.array([0.0, 3.0])), "entry 1 is 3, beyond -1 to 1; widen the space, or clip"),
        (lambda own: faulty(seen="far"), "it is a str, no array of numbers"),
        (
            lambda own: faulty(observation_space=spaces.Dict(a=spaces.Discrete(2)), seen={"b": 1}),
            "it has ['b'], the sp",
        ),
        (lambda own: faulty(observation_space=spaces.Dict(a=spaces.Discrete(2)), seen={"a": 2}), "in 'a', 2 is not in"),
        (lambda own: "OwnReach-v7", "unknown task 'OwnReach-v7'"),
        (lambda own: lambda: gymnasium.wrappers.NormalizeReward(own.make_it()), "NormalizeReward scales by what"),
    ],
)
def test_what_cannot_be_a_task_is_one_line(own: Any, given: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(PrefenvsError, match=re.escape(message)) as error:
        prefenvs.make(given(own))
    assert "\n" not in str(error.value)


def test_a_script_and_the_command_line_find_the_same_task(own: Any, tmp_path: Path) -> None:
    task = prefenvs.find_task("own_environments:make_it")
    assert task.sentence == "A point moves to the middle of a square."
    assert prefenvs.make(own.make_it).get_wrapper_attr("task") is task


def in_a_process(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "prefenvs", *words.split()]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, env=os.environ)


def test_an_imported_module_registers_the_task(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "imported_environments.py").write_text(MODULE.replace("OwnReach", "Imported"))
    known = in_a_process("tasks --task Imported-v0 --import imported_environments --write imported.json", tmp_path)
    assert known.returncode == 0, known.stderr
    assert "task imported_environments:Imported-v0: episodes of 30 steps" in known.stderr
    # The file is enough for the next process, and what was edited in it counts.
    row = json.loads((tmp_path / "imported.json").read_text())
    assert row["source"] == "imported_environments:Imported-v0"
    (tmp_path / "imported.json").write_text(json.dumps(row | {"sentence": "Be in the middle.", "segment_length": 7}))
    shown = in_a_process("tasks --task imported.json", tmp_path)
    assert json.loads(shown.stdout) | {"sentence": "Be in the middle.", "segment_length": 7} == json.loads(shown.stdout)
    monkeypatch.chdir(tmp_path)
    main(["doctor", "--task", "imported.json"])
    for words, message in (
        ("doctor --task Imported-v0 --import nothing_here", "the module 'nothing_here' cannot be imported"),
        ("tasks --import", "--import needs the name of a module"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(words.split())
        told = capsys.readouterr().err
        assert (stopped.value.code, told.count("\n")) == (2, 1)
        assert message in told


def test_a_row_survives_its_file(own: Any, tmp_path: Path) -> None:
    for name in ("own_environments:Lasting", "metaworld-drawer-open-v3"):
        task = prefenvs.find_task(name)
        path = write_task(task, tmp_path / "row.json")
        assert dataclasses.replace(read_task(path), id=task.id) == task


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no object of fields"),
        ('{"horizn": 3}', "has the field 'horizn', which no task has. Did you mean horizon"),
        ('{"horizon": "3"}', "has horizon='3', which is no int"),
        ('{"horizon": 3}', "lacks the field 'family'"),
        ('{"camera": "track"}', "has camera='track', which is no dict"),
        ('{"has_reward": "no"}', "has has_reward='no', which is no bool"),
        ('{"fps": true}', "has fps=True, which is no int"),
        ('{"scene": "body_pos"}', "has scene='body_pos', which is no list"),
        (None, "there is no task file"),
    ],
)
def test_a_spoilt_task_file_is_one_line(own: Any, tmp_path: Path, edit: str | None, message: str) -> None:
    path = tmp_path / "row.json"
    if edit is not None:
        path.write_text(edit)
    with pytest.raises(PrefenvsError, match=re.escape(message)):
        prefenvs.find_task(str(path))


@pytest.mark.parametrize("fields", [{"horizon": "9"}, {"horizon": 20.0}, {"fps": None}, {"segment_length": 2.5}])
def test_a_row_of_broken_numbers_is_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(PrefenvsError, match="is a whole number, got"):
        dataclasses.replace(prefenvs.find_task("Pendulum-v1"), **fields)


def test_a_task_file_with_impossible_numbers_or_of_another_kind_is_one_line(own: Any, tmp_path: Path) -> None:
    path = write_task(prefenvs.find_task("own_environments:Lasting"), tmp_path / "row.json")
    path.write_text(path.read_text().replace('"fps": 12', '"fps": 0'))
    with pytest.raises(PrefenvsError, match="fps is at least 1 step per second, got 0"):
        read_task(path)
    with pytest.raises(PrefenvsError, match="cannot be read: Is a directory"):
        read_task(tmp_path)


def test_an_object_has_no_file(own: Any, tmp_path: Path) -> None:
    env = prefenvs.make(own.Reach(), max_episode_steps=8)
    with pytest.raises(PrefenvsError, match="nothing tells how to make it again"):
        write_task(env.get_wrapper_attr("task"), tmp_path / "row.json")


class Switches(gymnasium.Env[Any, Any]):
    """Press the right keys. The rest is for its author."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    max_episode_steps = 20

    def __init__(self, kind: str) -> None:
        shifted = spaces.MultiDiscrete(np.array([[3, 2]]), start=np.array([[1, -1]]))
        self.action_space: Any = shifted if kind == "discrete" else spaces.MultiBinary((2, 2))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return self.observation_space.sample(), float(np.sum(action)), False, False, {}


@pytest.mark.parametrize(("kind", "width"), [("discrete", 5), ("binary", 4)])
def test_several_discrete_actions(kind: str, width: int) -> None:
    env = prefenvs.make(lambda: Switches(kind))
    config = PrefPPOConfig(labels=8, per_session=4, interact=40, segment_length=5, unsupervised_steps=40)
    agent = PrefPPO(
        "MlpPolicy", env, lambda a, b: int(b.actions[:, 0].sum() > a.actions[:, 0].sum()), config, n_steps=20
    )
    agent.learn(120)
    assert agent.feedback is not None
    assert agent.feedback.labels == 8
    segment = agent.feedback.preferences[0].query.segments[0]
    assert segment.actions.shape == (5, width)
    assert set(np.unique(segment.actions)) <= {0.0, 1.0}
    if kind == "discrete":
        assert (segment.actions[:, :3].sum(1) == 1).all()
        assert (segment.actions[:, 3:].sum(1) == 1).all()
    # What PPO learns its reward from is what was recorded.
    recorded = agent.recorder.buffer.trajectories().actions[-20:]
    np.testing.assert_array_equal(agent._actions(), recorded)
    again = BytesIO()
    agent.save(again)
    again.seek(0)
    loaded = PrefPPO.load(again)
    assert loaded.action_space == env.action_space
    seen = env.observation_space.sample()
    assert (loaded.predict(seen, deterministic=True)[0] == agent.predict(seen, deterministic=True)[0]).all()
    with pytest.raises(PrefenvsError, match="PEBBLE cannot learn with the actions"):
        PEBBLE("MlpPolicy", prefenvs.make(lambda: Switches(kind)), lambda a, b: 0)
