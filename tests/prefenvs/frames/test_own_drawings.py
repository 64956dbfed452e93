"""What an environment of one's own draws is what raters are shown, or one line says why not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco import reacher_v5

import prefenvs
from prefenvs.envs.check import check_task
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.envs.rendering.renderer import Renderer
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.frames import frames

SHADES = np.arange(0, 250, 10)


class Place(NamedTuple):
    """Where the light is, and how far the battery has run down."""

    cell: int
    charge: float


class Light(gymnasium.Env[Any, Any]):
    """The light moves on."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    observation_space = spaces.Box(0, 30, (1,), np.float32)
    action_space = spaces.Discrete(2)
    max_episode_steps = 12
    drawn: Callable[[Any], int] = staticmethod(lambda state: SHADES[state])

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def place(self) -> Any:
        """The state at the present step."""
        return self.step_number

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.step_number = int(self.np_random.integers(5))
        self.state = self.place()
        return np.array([self.step_number], np.float32), {}

    def step(self, action: Any) -> Any:
        self.step_number += 1
        self.state = self.place()
        return np.array([self.step_number], np.float32), 1.0, False, False, {}

    def render(self) -> Any:
        return np.repeat(np.array([0, self.drawn(self.state)], np.uint8), 16 * 32 * 3).reshape(32, 32, 3)


def light(**parts: Any) -> Any:
    return type("Lit", (Light,), parts)


FORMS = {
    "a whole number": light(),
    "a tuple": light(place=lambda self: (self.step_number, 0.5), drawn=staticmethod(lambda state: SHADES[state[0]])),
    "a list": light(place=lambda self: [self.step_number, 0.5], drawn=staticmethod(lambda state: SHADES[state[0]])),
    "a named tuple": light(
        place=lambda self: Place(self.step_number, 0.5), drawn=staticmethod(lambda state: SHADES[state.cell])
    ),
    "whole numbers": light(
        place=lambda self: np.array([0, self.step_number]), drawn=staticmethod(lambda state: SHADES[state[1]])
    ),
    "with opacity": light(render=lambda self: np.dstack([Light.render(self), np.full((32, 32), 9, np.uint8)])),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_state_comes_back_as_the_environment_has_it(form: str) -> None:
    name = prefenvs.make(FORMS[form]).get_wrapper_attr("task").id
    played = evaluate(random_policy(Light.action_space), name, 1, record=1).trajectories
    assert played is not None
    shown = frames(played.episode(0), size=(32, 32))
    np.testing.assert_array_equal(shown[:, 16:].mean((1, 2, 3)), 10 * played.observations[:, 0])


def raises(*_: Any) -> Any:
    raise RuntimeError("no\nlamp")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"render": lambda self: None}, "draws no picture of itself, render() gave NoneType"),
        ({"render": lambda self: [np.zeros((8, 8, 3), np.uint8)]}, "render() gave list"),
        ({"render": lambda self: np.zeros((8, 8, 3))}, "render() gave [8, 8, 3] float64"),
        ({"render": lambda self: np.zeros((8, 8), np.uint8)}, "render() gave [8, 8] uint8"),
        ({"render": raises}, "render() fails (RuntimeError: no lamp)"),
        (
            {
                "state": property(lambda self: 3),
                "reset": lambda self, **_: (np.ones(1, np.float32), {}),
                "step": lambda self, _: (np.ones(1, np.float32), 1.0, False, False, {}),
            },
            "cannot be set (property 'state'",
        ),
        ({"place": lambda self: [0.0] * self.step_number}, "a state is a vector of one size"),
        ({"place": lambda self: 3.0 if self.step_number < 9 else None}, "held 1 numbers and now cannot be read"),
        ({"step": lambda self, _: raises() if self.step_number > 5 else Light.step(self, 0)}, "step fails (RuntimeErr"),
        ({"step": lambda self, _: (np.zeros(1, np.float32), None, False, False, {})}, "step returns the reward None"),
        (
            {"step": lambda self, _: (np.zeros(1, np.float32), np.ones(2), False, False, {})},
            "the reward array([1., 1.]), which is no number",
        ),
    ],
)
def test_what_cannot_be_shown_is_one_line(parts: dict[str, Any], message: str) -> None:
    def show() -> None:
        name = prefenvs.make(light(**parts)).get_wrapper_attr("task").id
        found = evaluate(random_policy(Light.action_space), name, 2, record=2).trajectories
        assert found is not None
        frames(found.episode(0))

    with pytest.raises(PrefenvsError, match=re.escape(message)) as error:
        show()
    assert "\n" not in str(error.value)


def failed(made: Any) -> dict[str, str]:
    """What the doctor finds wrong, by the name of the check."""
    name = prefenvs.make(made).get_wrapper_attr("task").id
    return {result.name: result.detail for result in check_task(name) if not result.passed}


class Goal(Light):
    """A goal that the state does not tell is drawn, too."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        first = super().reset(seed=seed)
        self.goal = int(self.np_random.integers(100))
        return first

    def render(self) -> Any:
        picture = super().render()
        picture[:, :8] = self.goal
        return picture


def test_the_doctor_finds_a_state_that_does_not_tell_all_that_is_drawn() -> None:
    assert "pixels of the frame of the stored state are not those of what the task shows" in failed(Goal)["rendering"]
    assert failed(Light) == {}


class Mark(reacher_v5.ReacherEnv):
    """The arm reaches the mark, a mocap body, under a light of its own."""

    max_episode_steps = 20

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(xml_file=str(MARKED), **kwargs)

    def reset_model(self) -> Any:
        self.data.mocap_pos[0, :2] = self.np_random.uniform(-0.15, 0.15, 2)
        self.model.mat_rgba[:, :3] = self.np_random.uniform(0, 1, 3)
        return super().reset_model()


MARKED = Path()


def test_mocap_bodies_and_colours_are_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        gl_backend()
    except PrefenvsError as error:
        pytest.skip(str(error))
    text = (Path(reacher_v5.__file__).parent / "assets" / "reacher.xml").read_text()
    mark = """<body mocap="true"><geom size=".03" material="red" contype="0" conaffinity="0"/></body></worldbody>
              <asset><material name="red"/></asset>"""
    (tmp_path / "marked.xml").write_text(text.replace("</worldbody>", mark))
    monkeypatch.setitem(globals(), "MARKED", tmp_path / "marked.xml")
    assert failed(Mark) == {}
    env = prefenvs.make(Mark)
    task = env.get_wrapper_attr("task")
    assert task.scene == ("mat_rgba",)
    seen = []
    with Renderer(task, 64, 64) as renderer:
        for seed in range(2):
            info = env.reset(seed=seed)[1]
            seen.append(renderer.frame(info["state"], info["scene"]))
            env.get_wrapper_attr("restore")(info["state"], info["scene"])
    assert (seen[0] != seen[1]).any(-1).sum() > 10
