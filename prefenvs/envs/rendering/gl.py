"""Find an OpenGL backend that works on this machine, and hold its contexts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from functools import cache
from importlib import import_module
from typing import Any

from prefenvs.errors import PrefenvsError, failure_told

# Set beside MUJOCO_GL once a backend has been seen to work, so that child processes need not try it again.
CHECKED = "PREFENVS_GL_CHECKED"
LINUX_BACKENDS = ("egl", "osmesa", "glfw")
INSTALL = (
    "on Debian or Ubuntu `apt-get install libegl1 libgl1-mesa-dri`, or `apt-get install libosmesa6` and "
    "MUJOCO_GL=osmesa; `pip install PyOpenGL` if that is missing"
)
# Runs in a process of its own: a backend that fails half-way leaves PyOpenGL, and with it the process, unusable.
PROBE = """
import os, sys
try:
    import mujoco
    model = mujoco.MjModel.from_xml_string("<mujoco><visual><quality shadowsize='0' offsamples='0'/></visual></mujoco>")
    context = mujoco.GLContext(16, 16)
    context.make_current()
    mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
except Exception as error:
    print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr, flush=True)
    os._exit(1)
print("works", flush=True)
os._exit(0)
"""


@cache
def gl_backend() -> str:
    """Return the OpenGL backend that frames are rendered with: egl, osmesa, glfw, or the system's own (cgl, wgl).

    MUJOCO_GL decides if it is set. Otherwise, on Linux, egl and then osmesa are tried (glfw first where there is a
    display), each in a short process of its own, and MUJOCO_GL is set for this process and its children. Found once.
    Raises PrefenvsError, with what to install, if none works.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    if sys.platform != "linux":
        return "cgl" if sys.platform == "darwin" else "wgl"
    if asked in ("", "on", "1", "true", "enable", "enabled"):
        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        candidates: tuple[str, ...] = ("glfw", "egl", "osmesa") if display else ("egl", "osmesa")
    elif asked in (*LINUX_BACKENDS, "glx"):
        candidates = ("glfw",) if asked == "glx" else (asked,)
    else:
        way_out = f"choose one of {', '.join(LINUX_BACKENDS)}, or unset it to have one found"
        raise PrefenvsError(f"MUJOCO_GL={asked} names no OpenGL backend that can render: {way_out}")

    failures = []
    for name in candidates:
        failure = None if os.environ.get(CHECKED) == name else _failure_of(name)
        if failure is None:
            _use(name)
            return name
        failures.append(f"{name}: {failure}")
    raise PrefenvsError(
        f"no OpenGL backend works here, so no frame can be rendered ({'; '.join(failures)}). "
        + (f"Unset MUJOCO_GL={asked} to try the others, or: " if asked else "Way out: ")
        + INSTALL
    )


@contextmanager
def without_backend() -> Iterator[None]:
    """Let MuJoCo and dm_control be imported where MUJOCO_GL names a backend that is not installed.

    Both load the named backend when they are first imported, and fail, although only rendering needs it;
    `gl_backend` reports the missing one where something is to be rendered.
    """
    asked = os.environ.get("MUJOCO_GL", "")
    if sys.platform != "linux" or _loadable(asked.lower().strip()):
        yield
        return
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield
    finally:
        os.environ["MUJOCO_GL"] = asked


@cache
def _loadable(backend: str) -> bool:
    libraries = {"egl": "EGL", "osmesa": "OSMesa"}
    if backend in libraries:
        return find_library(libraries[backend]) is not None
    return backend in (
        "",
        "glfw",
        "glx",
        "on",
        "1",
        "true",
        "enable",
        "enabled",
        "off",
        "0",
        "false",
        "disable",
        "disabled",
    )


def _failure_of(name: str) -> str | None:
    """Try a backend in a process of its own; return None if it works, else the last line of what it said."""
    environment = {**os.environ, "MUJOCO_GL": name}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return "no answer within 30 s"
    if "works" in probe.stdout:
        return None
    lines = [line.strip() for line in probe.stderr.splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"exit status {probe.returncode}"


def _use(name: str) -> None:
    """Make `name` the backend of this process and its children."""
    os.environ["MUJOCO_GL"] = os.environ[CHECKED] = name
    if name in ("egl", "osmesa"):
        os.environ.setdefault("PYOPENGL_PLATFORM", name)


def open_context(width: int, height: int) -> Any:
    """Return a new context of MuJoCo's own class, with a frame buffer of at least `width` x `height` pixels.

    The backend's module is imported by name, because MuJoCo's own choice was made when it was first imported. Raises
    PrefenvsError for a machine that gives none.
    """
    backend = gl_backend()
    with failure_told(f"the OpenGL backend {backend} gave no context", INSTALL):
        module = import_module(f"mujoco.{'glfw' if backend == 'wgl' else backend}")
        with _unchanged():
            return module.GLContext(width, height)


@contextmanager
def current(context: Any) -> Iterator[None]:
    """Make a context current in this thread, and give the thread back the one it had.

    So a renderer may be used from several threads in turn, and beside environments that render on their own.
    """
    with _unchanged():
        context.make_current()
        yield


def free_context(context: Any) -> None:
    """Free a context, whichever is current in this thread."""
    with _unchanged():
        context.free()


@contextmanager
def _unchanged() -> Iterator[None]:
    """Give this thread back the context that was current in it; EGL can tell which, the others cannot."""
    if gl_backend() != "egl":
        yield
        return
    module = import_module("mujoco.egl")
    egl = module.EGL
    before = egl.eglGetCurrentContext()
    try:
        yield
    finally:
        # No display yet: the first context could not be opened.
        if module.EGL_DISPLAY is not None:
            egl.eglMakeCurrent(module.EGL_DISPLAY, egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, before)
