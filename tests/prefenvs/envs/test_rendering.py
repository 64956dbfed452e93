from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from stable_baselines3.common.vec_env import DummyVecEnv

import prefenvs
from prefenvs import PrefenvsError, find_task
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.envs.rendering.gl import CHECKED, gl_backend, open_context
from prefenvs.envs.rendering.renderer import Renderer
from prefenvs.tasks import Camera

TASKS = (
    "HalfCheetah-v5",
    "metaworld-drawer-open-v3",
    "dmc-walker-walk-v0",
    "FetchReach-v4",
    "Pendulum-v1",
    "Delivery-v0",
)


@pytest.fixture(scope="module", autouse=True)
def _backend():
    try:
        gl_backend()
    except PrefenvsError as error:
        pytest.skip(str(error))


def run_python(code, **environment):
    variables = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", CHECKED, "PYOPENGL_PLATFORM", "DISPLAY")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**variables, **environment}, capture_output=True, text=True, timeout=120)


def live(task_id, seed=0, steps=5):
    """An environment after some random steps, with its state and scene; skipped where its package is missing."""
    try:
        env = prefenvs.make(task_id, render_mode="rgb_array")
    except PrefenvsError as error:
        pytest.skip(str(error))
    env.action_space.seed(seed)
    _, info = env.reset(seed=seed)
    for _ in range(steps):
        *_, info = env.step(env.action_space.sample())
    return env, info["state"], info.get("scene")


@pytest.fixture(scope="module")
def cheetah():
    env, *_ = live("HalfCheetah-v5")
    _, info = env.reset(seed=1)
    states = []
    for _ in range(20):
        states.append(info["state"])
        *_, info = env.step(env.action_space.sample())
    env.close()
    return np.array(states)


@pytest.mark.parametrize("task_id", TASKS)
def test_a_stored_state_gives_the_frame_of_the_live_environment(task_id):
    env, state, scene = live(task_id, seed=3)
    # Another episode in between, with a scene of its own, must leave no trace.
    other, other_state, other_scene = live(task_id, seed=4)
    with Renderer(task_id) as renderer:
        there = renderer.frame(other_state, other_scene)
        frame = renderer.frame(state, scene)
    assert frame.shape == (256, 256, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 5
    np.testing.assert_array_equal(frame, env.render())
    np.testing.assert_array_equal(there, other.render())
    assert np.any(frame != there)
    env.close()
    other.close()


@pytest.mark.parametrize(
    ("task_id", "camera"),
    [("HalfCheetah-v5", "track"), ("metaworld-drawer-open-v3", "corner"), ("dmc-walker-walk-v0", "side")],
)
def test_with_quality_on_a_frame_equals_mujocos_own_of_a_forwarded_copy(task_id, camera, monkeypatch):
    import mujoco

    # MuJoCo chose when it was imported, perhaps before this process knew of a backend.
    monkeypatch.setattr(mujoco.gl_context, "GLContext", open_context)
    env, state, scene = live(task_id, seed=5)
    model, data = env.unwrapped.model, env.unwrapped.data
    copy = mujoco.MjData(model)
    for name in ("qpos", "qvel", "act", "mocap_pos", "mocap_quat"):
        getattr(copy, name)[:] = getattr(data, name)
    mujoco.mj_forward(model, copy)
    with mujoco.Renderer(model, 240, 320) as reference:
        reference.update_scene(copy, camera)
        expected = reference.render()
    task = dataclasses.replace(find_task(task_id), camera=Camera(name=camera))
    with Renderer(task, 320, 240, quality=True) as renderer:
        np.testing.assert_array_equal(renderer.frame(state, scene), expected)
    env.close()


def test_a_frame_does_not_depend_on_what_was_drawn_before(cheetah):
    with Renderer("HalfCheetah-v5", 96, 64) as renderer:
        frames = renderer.frames(cheetah)
        assert frames.shape == (20, 64, 96, 3)
        np.testing.assert_array_equal(frames[::-1], renderer.frames(cheetah[::-1]))


def test_a_large_frame_is_possible(cheetah):
    with Renderer("HalfCheetah-v5", 1000, 600) as renderer:
        assert renderer.frame(cheetah[0]).shape == (600, 1000, 3)


def test_the_camera_follows_the_body(cheetah):
    def column_of_the_body(frame):
        return np.median(np.nonzero(frame[..., 0].astype(int) - frame[..., 2] > 40)[1])

    far = cheetah[0].copy()
    far[1] += 6.3  # time comes first, then the position along x
    with Renderer("HalfCheetah-v5") as renderer:
        here, there = renderer.frame(cheetah[0]), renderer.frame(far)
    assert abs(column_of_the_body(here) - column_of_the_body(there)) < 3


def test_nobody_runs_off_the_ground(cheetah):
    """The floor of 80 m, whose texture repeats every 4/3 m, goes along; where it ends is far from the robot."""
    places = [0.0, 100.0, 500.0, 500.0 + 1 / 3, -500.0]
    states = np.repeat(cheetah[:1], len(places), axis=0)
    states[:, 1] = places
    with Renderer("HalfCheetah-v5", 128, 128) as renderer:
        start, near, far, after, back = renderer.frames(states)[:, 64:].astype(int)
        renderer._painter._floors.clear()
        (fixed, off) = renderer.frames(states[:2])[:, 64:].astype(int)
    assert np.array_equal(start, fixed)
    assert np.abs(near - far).mean() < 1 < np.abs(after - far).mean()
    assert np.abs(off - near).mean() > 20 < np.abs(off - back).mean()


def test_threads_and_other_viewers_are_left_in_peace(cheetah):
    if gl_backend() == "osmesa":
        pytest.skip("OSMesa cannot tell which buffer the other viewer draws into")
    env = gymnasium.make("HalfCheetah-v5", render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    with Renderer("HalfCheetah-v5", 64, 64) as renderer:
        expected, found = renderer.frames(cheetah), []
        threads = [threading.Thread(target=lambda: found.append(renderer.frames(cheetah))) for _ in range(3)]
        for thread in threads:
            thread.start()
        np.testing.assert_array_equal(env.render(), before)
        for thread in threads:
            thread.join()
    assert len(found) == 3
    for frames in found:
        np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(env.render(), before)
    env.close()


def test_rendering_leaves_the_live_environment_alone():
    env, *_ = live("HalfCheetah-v5")
    data = env.unwrapped.data
    before = data.qpos.copy(), data.xpos.copy()
    samples = env.unwrapped.model.vis.quality.offsamples
    env.render()
    np.testing.assert_array_equal(before[0], data.qpos)
    np.testing.assert_array_equal(before[1], data.xpos)
    assert env.unwrapped.model.vis.quality.offsamples == samples > 0
    env.close()


def test_the_drawing_of_a_task_without_simulator_is_not_distorted():
    with Renderer("CartPole-v1", 300, 300) as renderer:
        upright, fallen = renderer.frames(np.array([[0.0, 0, 0, 0], [0, 0, np.pi / 2, 0]]))

    def pole(frame):
        red, green, blue = (frame[..., i].astype(int) for i in range(3))
        rows, columns = np.nonzero((red > green) & (green > blue) & (red - blue > 60))
        return np.ptp(rows), np.ptp(columns)

    # As long when it lies as when it stands, but for the axle on its end; squeezed from 600 x 400 it would be 1.5.
    assert pole(upright)[0] == pytest.approx(pole(fallen)[1], rel=0.15)
    assert pole(upright)[0] > 4 * pole(upright)[1]


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (np.zeros((2, 7)), "numbers"),
        (np.zeros(19), r"\[T, s\]"),
        (np.full((2, 19), np.nan), "step 0.*NaN"),
    ],
)
def test_states_that_do_not_fit_are_refused(cheetah, states, message):
    assert cheetah.shape[1] == 19
    with Renderer("HalfCheetah-v5", 32, 32) as renderer, pytest.raises(PrefenvsError, match=message):
        renderer.frames(states)


def test_a_missing_scene_a_wrong_camera_and_a_closed_renderer_are_named(cheetah):
    task = dataclasses.replace(find_task("HalfCheetah-v5"), camera=Camera(track="knee"))
    with pytest.raises(PrefenvsError, match=r"'knee'.*torso"):
        Renderer(task)
    with pytest.raises(PrefenvsError, match="too small"):
        Renderer("HalfCheetah-v5", 1, 256)
    renderer = Renderer("HalfCheetah-v5", 32, 32)
    renderer.close()
    renderer.close()
    with pytest.raises(PrefenvsError, match="closed"):
        renderer.frames(cheetah)
    env, state, scene = live("metaworld-drawer-open-v3", steps=1)
    with Renderer("metaworld-drawer-open-v3", 32, 32) as renderer:
        with pytest.raises(PrefenvsError, match=r"body_pos.*scene"):
            renderer.frame(state)
        with pytest.raises(PrefenvsError, match="scene of shape"):
            renderer.frame(state, scene[:-1])
    env.close()


def test_importing_prefenvs_looks_for_no_backend():
    code = "import os, prefenvs; print(os.environ.get('MUJOCO_GL'))"
    assert run_python(code).stdout.strip() == "None"


def test_a_backend_that_does_not_exist_is_one_plain_line():
    code = (
        "from prefenvs.envs.rendering.renderer import Renderer\n"
        "try: Renderer('HalfCheetah-v5')\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    result = run_python(code, MUJOCO_GL="nonsense")
    assert result.stdout.startswith("PrefenvsError MUJOCO_GL=nonsense")
    assert "egl" in result.stdout
    assert result.stdout.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MuJoCo knows one backend")
def test_a_backend_that_does_not_work_is_passed_over_or_explained():
    # GLFW works only where there is a display.
    code = "from prefenvs.envs.rendering.gl import gl_backend\nprint(gl_backend())"
    asked = run_python(code, MUJOCO_GL="glfw")
    assert asked.returncode != 0
    message = asked.stderr.strip().splitlines()[-1]
    assert "glfw:" in message
    assert "apt-get install" in message
    found = run_python(code, DISPLAY=":987", WAYLAND_DISPLAY="")
    assert found.stdout.strip() in ("egl", "osmesa")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MuJoCo knows one backend")
@pytest.mark.parametrize("task", ["HalfCheetah-v5", "dmc-walker-walk-v0", "metaworld-door-close-v3"])
@pytest.mark.parametrize("backend", ["software", "osmesa"])
def test_what_renders_nothing_needs_no_backend(task, backend):
    # No library is found, as on a machine without OSMesa.
    code = (
        "import prefenvs, prefenvs.envs.rendering.gl as gl, os\n"
        "gl.find_library = lambda name: None\n"
        f"env = prefenvs.make({task!r}); env.reset(seed=0); env.step(env.action_space.sample())\n"
        "print('stepped', os.environ['MUJOCO_GL'])"
    )
    result = run_python(code, MUJOCO_GL=backend)
    assert result.stdout.strip() == f"stepped {backend}", result.stderr


def test_a_picture_is_of_the_arguments_that_the_environment_was_made_with() -> None:
    room = [[1] * 7, *([1, *[0] * 5, 1] for _ in range(5)), [1] * 7]
    made = prefenvs.make("PointMaze_UMaze-v3", maze_map=room, render_mode="rgb_array")
    plain = prefenvs.make("PointMaze_UMaze-v3", render_mode="rgb_array")
    frames = []
    for env in (made, plain):
        env.reset(seed=0)
        frames.append(env.render())
    # A room without inner walls, and larger.
    assert (frames[0] != frames[1]).any(-1).mean() > 0.3
    with pytest.warns(UserWarning, match="without maze_map, which its id does not tell"):
        TrajectoryRecorder(DummyVecEnv([lambda: made]))


def test_threads_draw_one_at_a_time_with_a_renderer_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """pygame fills polygons in a buffer of the whole process: threads that drew together showed each other's."""
    plain, drawing, together = PendulumEnv.render, list[int](), list[int]()

    def render(env: PendulumEnv) -> object:
        drawing.append(1)
        time.sleep(0.002)
        together.append(len(drawing))
        drawing.pop()
        return plain(env)

    monkeypatch.setattr(PendulumEnv, "render", render)
    states = np.linspace(-3, 3, 12).reshape(6, 2)

    def show(_: int) -> np.ndarray:
        with Renderer("Pendulum-v1", 32, 32) as renderer:
            return renderer.frames(states)

    with ThreadPoolExecutor(4) as pool:
        shown = list(pool.map(show, range(4)))
    assert max(together) == 1
    assert all(np.array_equal(one, shown[0]) for one in shown)
