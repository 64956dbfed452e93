"""Frames of a task from its recorded simulator states."""

from __future__ import annotations

import os
import sys
import threading
from functools import lru_cache
from typing import Any

import numpy as np

from prefenvs.envs.adapters import make_source
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.envs.states import States, mujoco_model, write_scene
from prefenvs.errors import PrefenvsError
from prefenvs.frames.fitting import draw, fit
from prefenvs.internal.closing import Closing
from prefenvs.segments import Array
from prefenvs.tasks import Task, find_task
from prefenvs.tasks.own import OWN
from prefenvs.tasks.task import tables


class Renderer(Closing):
    """Turn states of a task into frames, the same ones whoever asks and in whatever order.

    A frame depends on state and scene alone: MuJoCo tasks are painted from `mj_setState` and `mj_forward` in a copy of
    the model, others by their own drawing. Threads may share one; close it, or use it in a `with` statement.
    """

    def __init__(
        self,
        task: Task | str,
        width: int = 256,
        height: int = 256,
        quality: bool = False,
        hide_robot: bool = False,
        model: Any = None,
    ) -> None:
        """`width` and `height` in pixels; `quality` adds shadows, reflections and smooth edges, ten times slower.

        model: the `mujoco.MjModel` to paint, in place of the task's own.

        hide_robot: leave out whatever hangs together with a motor, so that only the objects are seen. Raises
        PrefenvsError if that leaves nothing that moves, if the machine has no OpenGL for a MuJoCo task, or if the
        task's package is missing.
        """
        self.task = find_task(task) if isinstance(task, str) else task
        if width < 16 or height < 16:
            raise PrefenvsError(f"a frame of {width} x {height} pixels is too small: choose at least 16 x 16")
        self.width, self.height = width, height
        self._lock = threading.Lock()
        self._scene: Array | None = None
        self._painter: Any
        model = _model_of(self.task) if model is None else model
        if model is None:
            if hide_robot:
                raise PrefenvsError(f"task {self.task.id!r} draws itself, its robot cannot be hidden")
            self._painter = _DrawingPainter(self.task, width, height)
            return
        # Before MuJoCo is imported, which fails by itself, less helpfully, where MUJOCO_GL names nothing that works.
        gl_backend()
        from prefenvs.envs.rendering.mujoco import MujocoPainter

        self._painter = MujocoPainter(model, self.task.camera, width, height, quality, hide_robot)

    def frame(self, state: Array, scene: Array | None = None) -> Array:
        """Return the frame [H, W, 3] uint8 of one state [s], with the episode's scene [m] where the task has one."""
        frame: Array = self.frames(np.asarray(state)[None], scene)[0]
        return frame

    def frames(self, states: Array, scene: Array | None = None) -> Array:
        """Return the frames [T, H, W, 3] uint8 of the states [T, s] of one episode, whose scene is [m].

        Raises PrefenvsError for a wrong shape, a NaN, or a missing scene.
        """
        states = np.ascontiguousarray(states, np.float64)
        if states.ndim != 2:
            raise PrefenvsError(f"states have shape {states.shape}; frames are made of [T, s], one row per step")
        if not np.all(np.isfinite(states)):
            step = int(np.argwhere(~np.isfinite(states))[0][0])
            raise PrefenvsError(
                f"the state at step {step} of {self.task.id!r} holds a NaN or infinite value; there is no picture of it"
            )
        with self._lock:
            self._set_scene(scene)
            frames: Array = self._painter.paint(states)
        return frames

    def close(self) -> None:
        """Free what the renderer holds; a second call does nothing."""
        self._painter.close()

    def _set_scene(self, scene: Array | None) -> None:
        if not self.task.scene:
            return
        if scene is None:
            raise PrefenvsError(
                f"a reset of {self.task.id!r} sets {', '.join(self.task.scene)}, so its states cannot be drawn without "
                'the episode\'s scene: pass `segment.scene`, or `info["scene"]` as recorded'
            )
        if self._scene is None or not np.array_equal(scene, self._scene):
            write_scene(self._painter.model, self.task.scene, scene)
            self._scene = np.array(scene, np.float64)


def draws_itself(task: Task) -> bool:
    """Tell whether pictures of a task are its own drawing, and not MuJoCo's."""
    if task.family != OWN:
        return task.family in ("classic_control", "gridworld")
    return _model_of(task) is None


def _model_of(task: Task) -> Any:
    """The MuJoCo model of a task, None where it draws itself."""
    if task.family != OWN and draws_itself(task):
        return None
    # One of the user's own may be another since.
    model = _compiled(task.id) if task.id in tables() else _compile(task.id)
    if model is None and task.family != OWN:
        raise PrefenvsError(f"task {task.id!r} is not simulated by MuJoCo, and no drawing of it is known")
    return model


def _compile(task_id: str) -> Any:
    env = make_source(task_id)
    model = mujoco_model(env)
    env.close()
    return model


# Some take a second to compile. Painters work on copies.
_compiled = lru_cache(maxsize=4)(_compile)


class _DrawingPainter:
    """Paint a task that draws itself from its attribute `state`, fitted into the frame without distortion."""

    def __init__(self, task: Task, width: int, height: int) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        bare: Any = make_source(task.id, render_mode="rgb_array").unwrapped
        bare.reset(seed=0)
        # Of the drawing, but not of the state: the arrow of the last torque would depend on what was drawn before.
        if hasattr(bare, "last_u"):
            bare.last_u = None
        self._env = bare
        self._name = f"task {task.id!r}"
        draw(bare, self._name)
        self._states = States(bare)
        state = self._states.read()
        if state is None:
            raise PrefenvsError(
                f"task {task.id!r} does not tell its state, so what was recorded cannot be drawn: give the environment "
                "an attribute `state`, a vector that brings a step back"
            )
        self._size = (width, height)

    def paint(self, states: Array) -> Array:
        """Return the frames [T, H, W, 3] uint8 of the states [T, s]."""
        frames = np.empty((len(states), self._size[1], self._size[0], 3), np.uint8)
        for state, frame in zip(states, frames, strict=True):
            self._states.write(state)
            frame[:] = fit(draw(self._env, self._name), self._size)
        return frames

    def close(self) -> None:
        """Do nothing: closing the environment would shut down pygame for every other window of the process."""
