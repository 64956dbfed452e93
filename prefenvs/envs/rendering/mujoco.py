"""MuJoCo states to pixels: one scene, one OpenGL context, and the settings that make software rendering fast."""

from __future__ import annotations

import atexit
import contextlib
import copy
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefenvs.envs.rendering.gl import current, free_context, open_context
from prefenvs.envs.states import state_kinds
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.tasks.task import Camera

# MuJoCo draws the groups 0 to 2 unless it is told otherwise.
UNSEEN = 5

_open: weakref.WeakSet[MujocoPainter] = weakref.WeakSet()


class MujocoPainter:
    """Paint states of one MuJoCo model, on a copy of it, so that the environment it came from is left alone.

    Without `quality` shadows, reflections and multisampling are off and the off-screen buffer has the frame's size:
    shadow maps and sample buffers are most of the work of a software renderer, and show a rater nothing that moves.
    """

    def __init__(
        self, model: Any, camera: Camera, width: int, height: int, quality: bool = False, hide_robot: bool = False
    ) -> None:
        self.model = copy.copy(model)
        if hide_robot:
            _hide_robot(self.model)
        self._context: Any = open_context(width, height)
        import mujoco

        self._mujoco = mujoco
        self._data = mujoco.MjData(self.model)
        self._camera = _camera_of(self.model, camera)
        self._track = None if camera.track is None or camera.name else self.model.body(camera.track).id
        # Without `lookat`, the height of a tracked body's centre of mass in the model's reference pose.
        mujoco.mj_forward(self.model, self._data)
        self._lookat = np.asarray(camera.lookat or (0.0, 0.0, self._data.subtree_com[self._track or 0, 2]))
        self._floors = [] if self._track is None else _find_floors(self.model, self._data, self._track)
        self._option = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(self.model, maxgeom=10_000)
        self._rect = mujoco.MjrRect(0, 0, width, height)

        visual = self.model.vis
        visual.global_.offwidth, visual.global_.offheight = width, height
        if not quality:
            visual.quality.offsamples = visual.quality.shadowsize = 0
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        with current(self._context):
            self._buffers: Any = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffers)
        _open.add(self)
        # Anew, so that it runs before the clean-up that the backend has registered, which invalidates all contexts.
        atexit.unregister(_close_all)
        atexit.register(_close_all)

    def paint(self, states: Array) -> Array:
        """Return the frames [T, H, W, 3] uint8 of the full-physics states [T, s].

        Raises PrefenvsError for a renderer that was closed.
        """
        if self._context is None:
            raise PrefenvsError("this renderer was closed; make a new one")
        mujoco, spec = self._mujoco, self._spec(states)
        frames = np.empty((len(states), self._rect.height, self._rect.width, 3), np.uint8)
        with current(self._context):
            for state, frame in zip(states, frames, strict=True):
                mujoco.mj_setState(self.model, self._data, state, spec)
                mujoco.mj_forward(self.model, self._data)
                camera = self.aim(self._data)
                for floor in self._floors:
                    floor.follow(self._data, camera.lookat)
                mujoco.mjv_updateScene(
                    self.model, self._data, self._option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
                )
                mujoco.mjr_render(self._rect, self._scene, self._buffers)
                mujoco.mjr_readPixels(frame, None, self._rect, self._buffers)
        # OpenGL's rows run upwards.
        return np.ascontiguousarray(frames[:, ::-1])

    def aim(self, data: Any) -> Any:
        """Return the `mujoco.MjvCamera` for a simulation; it follows a body sideways only, so that the ground stays."""
        if self._track is not None:
            self._camera.lookat[:] = self._lookat
            self._camera.lookat[:2] += data.xpos[self._track, :2]
        return self._camera

    def close(self) -> None:
        """Free the OpenGL context; a second call does nothing."""
        if self._context is None:
            return
        with current(self._context):
            self._buffers.free()
        free_context(self._context)
        self._context = self._buffers = None
        _open.discard(self)

    def _spec(self, states: Array) -> Any:
        """Which of MuJoCo's state vectors these are, by their length."""
        sizes = {self._mujoco.mj_stateSize(self.model, kind): kind for kind in reversed(state_kinds())}
        if states.shape[1] not in sizes:
            way_out = "were they recorded from another task, or with another version of it?"
            raise PrefenvsError(
                f"states have {states.shape[1]} numbers, this model has {' or '.join(map(str, sizes))}: {way_out}"
            )
        return sizes[states.shape[1]]


@dataclass(frozen=True)
class _Floor:
    """A plane of limited size that goes along with a body before it runs off, so that marks on the ground tell speed.

    It moves by whole repeats of its texture, which nobody sees, in the painter's picture alone: contacts know no edges.
    room: [2] how far the body may go from the middle before; repeat: [2] of the texture; all in
    metres.
    """

    geom: int
    axes: Array
    room: Array
    repeat: Array

    def follow(self, data: Any, place: Array) -> None:
        """Move the plane in `data`, whose positions are those of the model."""
        away = self.axes @ (place - data.geom_xpos[self.geom])
        beyond = np.abs(away) - self.room
        if beyond.max() <= 0:
            return
        steps = np.ceil(np.maximum(beyond, 0.0) / self.repeat)
        data.geom_xpos[self.geom] += (np.sign(away) * steps * self.repeat) @ self.axes


def _find_floors(model: Any, data: Any, body: int) -> list[_Floor]:
    """Return the level planes of the world that have edges, as `data` has them: the reference pose."""
    import mujoco

    floors = []
    for geom in range(model.ngeom):
        size, axes = model.geom_size[geom, :2], data.geom_xmat[geom].reshape(3, 3).T
        flat = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE and abs(axes[2, 2]) > 0.99
        if not flat or model.body_weldid[model.geom_bodyid[geom]] != 0 or np.any(size <= 0):
            continue
        material = int(model.geom_matid[geom])
        repeat = np.ones(2)
        if material >= 0:
            repeat = 1.0 / np.maximum(model.mat_texrepeat[material], 1e-6)
            repeat = repeat if model.mat_texuniform[material] else 2 * size * repeat
        start = np.abs(axes[:2] @ (data.xpos[body] - data.geom_xpos[geom]))
        floors.append(_Floor(geom, axes[:2], np.minimum(np.maximum(size / 2, start + 1.0), size), repeat))
    return floors


def _hide_robot(model: Any) -> None:
    """Move all parts that hang together with a motor to a group that is not drawn, whatever their material."""
    import mujoco

    acts_on = {mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT}
    driven = [int(model.actuator_trnid[i, 0]) for i in range(model.nu) if model.actuator_trntype[i] in acts_on]
    tendons = [int(model.actuator_trnid[i, 0]) for i in range(model.nu) if model.actuator_trntype[i] not in acts_on]
    for tendon in tendons:
        if 0 <= tendon < model.ntendon:
            wraps = range(model.tendon_adr[tendon], model.tendon_adr[tendon] + model.tendon_num[tendon])
            driven += [int(model.wrap_objid[i]) for i in wraps if model.wrap_type[i] == mujoco.mjtWrap.mjWRAP_JOINT]
    robots = {int(model.body_rootid[model.jnt_bodyid[joint]]) for joint in driven}
    # A hand that is dragged by a mocap body belongs to the robot too.
    for equality in range(model.neq):
        bodies = [int(body) for body in (model.eq_obj1id[equality], model.eq_obj2id[equality])]
        if model.eq_type[equality] == mujoco.mjtEq.mjEQ_WELD and any(model.body_mocapid[body] >= 0 for body in bodies):
            robots |= {int(model.body_rootid[body]) for body in bodies}
    robots.discard(0)
    hidden = np.isin(model.body_rootid, list(robots))
    if not np.any(~hidden[model.dof_bodyid]):
        raise PrefenvsError("nothing that moves is left in the picture without the robot: leave hide_robot unset")
    model.geom_group[hidden[model.geom_bodyid]] = UNSEEN
    model.site_group[hidden[model.site_bodyid]] = UNSEEN


def _camera_of(model: Any, camera: Camera) -> Any:
    """Translate a task's camera into MuJoCo's."""
    import mujoco

    made = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, made)
    for kind, name in ((mujoco.mjtObj.mjOBJ_CAMERA, camera.name), (mujoco.mjtObj.mjOBJ_BODY, camera.track)):
        if name is not None and mujoco.mj_name2id(model, kind, name) < 0:
            count = model.ncam if kind == mujoco.mjtObj.mjOBJ_CAMERA else model.nbody
            known = ", ".join(mujoco.mj_id2name(model, kind, i) or "(unnamed)" for i in range(count))
            raise PrefenvsError(
                f"the model has no camera or body {name!r} to look from or follow; it has {known or 'none'}"
            )
    if camera.name is not None:
        made.type = mujoco.mjtCamera.mjCAMERA_FIXED
        made.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera.name)
        return made
    made.type = mujoco.mjtCamera.mjCAMERA_FREE
    if camera.lookat is not None:
        made.lookat[:] = camera.lookat
    for field in ("distance", "azimuth", "elevation"):
        if getattr(camera, field) is not None:
            setattr(made, field, getattr(camera, field))
    return made


def _close_all() -> None:
    for painter in list(_open):
        # Where another package has shut the display down meanwhile, there is nothing left to free.
        with contextlib.suppress(Exception):
            painter.close()
