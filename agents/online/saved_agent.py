"""Agents of Stable-Baselines3's kind in files of tensors and JSON, which are read without running anything."""

from __future__ import annotations

import dataclasses
import inspect
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import (
    load_from_zip_file,
    recursive_getattr,
    recursive_setattr,
    save_to_zip_file,
)
from stable_baselines3.common.type_aliases import GymEnv, TrainFreq
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from prefenvs.agents.nets.residual import NormalisedObservations
from prefenvs.agents.nets.saved import damage_told, find_saved, new_file, read_config
from prefenvs.agents.nets.spaces import check_flat
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.envs.spaces import is_picture
from prefenvs.errors import PrefenvsError
from prefenvs.internal.file_sizes import check_zip
from prefenvs.segments import Array

FORMAT = "prefenvs-online-1"
RECORD = "agent.json"
OWN_CLASSES = {NormalisedObservations.__name__: NormalisedObservations}
# What a constructor takes and no file holds: what the user makes anew, what the class itself chooses, and the machine.
NOT_SAVED = (
    *(
        "self",
        "policy",
        "env",
        "oracle",
        "reward",
        "reward_model",
        "config",
        "device",
        "tensorboard_log",
        "_init_setup_model",
    ),
    *("replay_buffer_class", "rollout_buffer_class", "args", "kwargs"),
)
COUNTERS = (
    *("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_current_progress_remaining"),
    *("_n_updates", "_episode_num", "_n_calls", "exploration_rate", "reward_learned"),
)
WAY_OUT = "put it back from a copy, or train again"


class SavedAgent(BaseAlgorithm):
    """An agent that records its episodes, saved as tensors and JSON; to be put before Stable-Baselines3's in the bases.

    A file is a zip: networks, optimisers and temperature as Stable-Baselines3 writes them (`*.pth`, tensors that torch
    reads with `weights_only=True`), and constructor arguments, spaces and counters in agent.json.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[Any] | None] = None
    """The dataclass of the constructor's argument `config`, if it takes one."""
    # The recorder refuses a VecNormalize, so that a file tells all that `evaluate` has to know.
    sees_raw_observations: ClassVar[bool] = True

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        venv = BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        return venv if isinstance(venv, TrajectoryRecorder) else TrajectoryRecorder(venv)

    @property
    def recorder(self) -> TrajectoryRecorder:
        """The wrapper that records this agent's episodes; raises PrefenvsError where it has no environment."""
        if not isinstance(self.env, TrajectoryRecorder):
            raise PrefenvsError(
                "the agent has no environment: pass env=prefenvs.make(...) to the constructor or to load"
            )
        return self.env

    @property
    def task(self) -> str:
        """Id of the task that the agent is trained on."""
        return self.recorder.buffer.task

    def predict(self, observation: Any, *arguments: Any, **keywords: Any) -> tuple[Array, tuple[Array, ...] | None]:
        """Return actions as Stable-Baselines3's `predict`; raises PrefenvsError for a dictionary or a tuple."""
        check_flat(observation, spaces.flatdim(self.observation_space))
        return super().predict(observation, *arguments, **keywords)

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Write the agent to a file, ".zip" added where the name has no ending; complete or not at all.

        Raises PrefenvsError where it cannot be written, and for `exclude` or `include`, which `save_sb3` takes.
        """
        if exclude or include:
            raise PrefenvsError(
                "exclude and include choose what Stable-Baselines3 pickles, and a saved agent holds no pickles: "
                "leave them out, or call save_sb3"
            )
        if not isinstance(path, str | Path):
            self._write(path)
            return
        path = Path(path)
        with new_file(path if path.suffix else path.with_suffix(".zip")) as new, new.open("w+b") as file:
            self._write(file)

    def save_sb3(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Write the agent as Stable-Baselines3 does, for its own loaders (`SAC.load`, `PPO.load`).

        Such a file holds pickles, and reading it runs what they say; prefenvs itself does not read it.
        """
        super().save(path, exclude, include)

    @classmethod
    def load(
        cls,
        path: Any,
        env: Any = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Read an agent that `save` wrote, to act or to explore on; arguments are Stable-Baselines3's.

        path: of a file, or of a run folder, whose newest checkpoint is read, with the reward learned. A file has none.
        custom_objects, kwargs: arguments of the constructor in place of those in the file, and those that no file can
        hold, such as a policy of your own (`policy_class`), its classes (`policy_kwargs`) or a schedule of your own.

        Raises PrefenvsError for a file that is damaged, of another kind or version, or lacks such an argument.
        """
        given = {**(custom_objects or {}), **kwargs}
        reward = None
        if isinstance(path, str | Path):
            found = find_saved(path)
            reward = found.with_name("reward.pt") if Path(path).is_dir() else None
            path = found
        with damage_told(path, WAY_OUT):
            record, parameters, variables = read_agent(path, device, print_system_info)
            check_algorithm(record, cls.name, path)
            agent = cls._make(path, env, device, record, given)
            agent.set_parameters(parameters, exact_match=True, device=device)
            for name, value in variables.items():
                recursive_setattr(agent, f"{name}.data", value.data)
            for name in COUNTERS:
                if name in record["counters"]:
                    setattr(agent, name, record["counters"][name])
            if agent.use_sde:
                agent.policy.reset_noise()  # type: ignore[operator]
        ours = "reward_model" in given or "reward_model" not in record["code"]
        if reward is not None and reward.is_file() and ours and hasattr(agent, "load_reward_model"):
            with damage_told(reward, WAY_OUT, always=True):
                agent.load_reward_model(reward)
        return agent

    @classmethod
    def _make(cls, path: Any, env: Any, device: Any, record: dict[str, Any], given: dict[str, Any]) -> Self:
        """Return an agent of the file's settings, with `given` in place of them, and with weights of its own."""
        allowed = _arguments(cls)
        settings = {name: value for name, value in record["settings"].items() if name not in given}
        if not settings.keys() <= set(allowed):
            raise ValueError(f"settings {sorted(settings.keys() - set(allowed))}")
        needed = {"policy_class", "policy_kwargs"} if env is None else set(record["code"])
        lacking = sorted(needed & set(record["code"]) - given.keys())
        if lacking:
            names = ", ".join(f"{name}=..." for name in lacking)
            raise PrefenvsError(f"{path} was saved with code of yours, which no file holds: pass {names} to load")
        settings = {name: _decode(value) for name, value in settings.items()}
        if "train_freq" in settings:
            settings["train_freq"] = tuple(settings["train_freq"])
        if cls.config_type is not None:
            settings["config"] = read_config(cls.config_type, record["config"])
        given = dict(given)
        policy = given.pop("policy_class", record["policy"])
        settings |= {name: given.pop(name) for name in list(given) if name in (*allowed, *NOT_SAVED)}
        agent = cls(policy, env, device=device, _init_setup_model=False, **settings)  # type: ignore[call-arg]
        seen, actions = (_make_space(record["spaces"][name]) for name in ("observation", "action"))
        if agent.env is None:
            agent.observation_space, agent.action_space, agent.n_envs = seen, actions, record["envs"]
        elif (seen, actions) != (agent.env.observation_space, agent.env.action_space):
            shapes = [space.shape for space in (seen, actions, agent.env.observation_space, agent.env.action_space)]
            raise PrefenvsError(
                f"the spaces of {path} (observed {shapes[0]}, actions {shapes[1]}) are not those of the environment "
                f"({shapes[2]}, {shapes[3]}), or have other bounds: load it with an environment like its own"
            )
        vars(agent).update(given)
        agent._setup_model()
        return agent

    def _write(self, file: Any) -> None:
        variables = {name: recursive_getattr(self, name) for name in self._get_torch_save_params()[1]}
        text = json.dumps(_describe(self))
        save_to_zip_file(file, params=self.get_parameters(), pytorch_variables=variables)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(RECORD, text)


def read_agent(path: Any, device: Any, print_system_info: bool = False) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Return a saved agent's record, the state dicts of its parts, and its other tensors; raises as `read_record`."""
    record = read_record(path)
    if hasattr(path, "seek"):
        path.seek(0)
    _, parameters, variables = load_from_zip_file(
        path, load_data=False, device=device, print_system_info=print_system_info
    )
    return record, parameters, variables or {}


def check_algorithm(record: dict[str, Any], name: str, path: Any) -> None:
    """Raise a PrefenvsError where a saved agent's record is of another algorithm than that of a name."""
    if record["algorithm"] != name:
        raise PrefenvsError(f"{path} holds an agent of {record['algorithm']!r}, not {name!r}")


def read_record(path: Any) -> dict[str, Any]:
    """Return what agent.json of a saved agent holds.

    Raises PrefenvsError for a file of Stable-Baselines3 or of an older version, and other errors for damaged files.
    """
    check_zip(path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if RECORD not in names and "data" in names:
            raise PrefenvsError(
                f"{path} holds pickles, which can run code: it was saved by Stable-Baselines3 or an older version of "
                "prefenvs, and is not read; train again with this version, or use the version that wrote it"
            )
        record: dict[str, Any] = json.loads(archive.read(RECORD))
    if record["format"] != FORMAT:
        raise PrefenvsError(f"{path} is of the format {record['format']!r}, not {FORMAT!r}: train again")
    return record


def is_saved_agent(path: Path) -> bool:
    """Whether a file was written by `SavedAgent.save`; False for files that are no zip too."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return RECORD in archive.namelist()


def find_kind(path: Path, kinds: Sequence[type[SavedAgent]]) -> type[SavedAgent]:
    """Return which of these classes a saved agent is of; raises PrefenvsError for any other file."""
    with damage_told(path, WAY_OUT):
        name = read_record(path)["algorithm"]
    for kind in kinds:
        if kind.name == name:
            return kind
    raise PrefenvsError(
        f"{path} holds an agent of {name!r}, where {', '.join(kind.name for kind in kinds)} can be used"
    )


def _arguments(kind: type[Any]) -> list[str]:
    """Names of the constructor arguments that a file may hold, of all constructors that pass theirs on."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            names |= dict.fromkeys(parameters)
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
    return [name for name in names if name not in NOT_SAVED]


def _describe(agent: SavedAgent) -> dict[str, Any]:
    """Return what agent.json holds; "code" names the arguments that are code of the user's and not in it."""
    kind = type(agent)
    policy = next((name for name, policy in kind.policy_aliases.items() if policy is agent.policy_class), None)
    settings, code = {}, [] if policy else ["policy_class"]
    for name in _arguments(kind):
        # Stable-Baselines3 keeps each argument as an attribute, this one as a private one.
        attribute = "_stats_window_size" if name == "stats_window_size" else name
        if not hasattr(agent, attribute):
            continue
        try:
            settings[name] = _encode(getattr(agent, attribute))
        except TypeError:
            code.append(name)
    config = None
    if kind.config_type is not None:
        fields = dataclasses.asdict(agent.config)  # type: ignore[attr-defined]
        # A selector or schedule of the user's own is code.
        config = {name: value for name, value in fields.items() if _is_plain(value)}
        code += ["config"] if len(config) < len(fields) else []
    return {
        "format": FORMAT,
        "algorithm": agent.name,
        "policy": policy,
        "settings": settings,
        "code": code,
        "config": config,
        "spaces": {
            "observation": _describe_space(agent.observation_space),
            "action": _describe_space(agent.action_space),
        },
        "envs": agent.n_envs,
        "counters": {name: _encode(getattr(agent, name)) for name in COUNTERS if hasattr(agent, name)},
    }


def _is_plain(value: Any) -> bool:
    try:
        _encode(value)
    except TypeError:
        return False
    return True


def _encode(value: Any) -> Any:
    """Return JSON of plain values, of Stable-Baselines3's schedules and torch's classes; TypeError for others."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, TrainFreq):
        return [value.frequency, value.unit.value]
    if isinstance(value, FloatSchedule | ConstantSchedule):
        return _encode(value.value_schedule if isinstance(value, FloatSchedule) else value.val)
    if isinstance(value, LinearSchedule):
        return {"linear": [value.start, value.end, value.end_fraction]}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _encode(item) for key, item in value.items()}
    name = value.__name__ if isinstance(value, type) else ""
    if _find_class(name) is value:
        return {"class": name}
    raise TypeError(type(value).__name__)


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"class"}:
        kind = _find_class(value["class"])
        if kind is None:
            raise ValueError(f"a class {value['class']!r}")
        return kind
    if value.keys() == {"linear"}:
        return LinearSchedule(*value["linear"])
    return {key: _decode(item) for key, item in value.items()}


def _find_class(name: str) -> type[Any] | None:
    """Return the class of this package, `torch.nn` or `torch.optim` of that name; any other name is None."""
    found = OWN_CLASSES.get(name) or getattr(torch.nn, name, None) or getattr(torch.optim, name, None)
    known = (torch.nn.Module, torch.optim.Optimizer)
    return found if isinstance(found, type) and issubclass(found, known) else None


def _describe_space(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return JSON of a space; bounds that are infinite are null."""
    if isinstance(space, spaces.Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"nvec": space.nvec.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"switches": int(np.prod(space.shape))}
    if not isinstance(space, spaces.Box):
        raise PrefenvsError(
            f"an agent of the space {space} cannot be saved: only of Box, Discrete, MultiDiscrete and MultiBinary ones"
        )
    sides = (space.low, space.high)
    if is_picture(space) and all(bound.min() == bound.max() for bound in sides):
        # One number in the place of as many as there are pixels.
        sides = (space.low.ravel()[:1], space.high.ravel()[:1])
    bounds = ([value if np.isfinite(value) else None for value in bound.ravel().tolist()] for bound in sides)
    low, high = bounds
    return {"low": low, "high": high, "shape": list(space.shape), "dtype": space.dtype.name}


def _make_space(record: dict[str, Any]) -> spaces.Space[Any]:
    if "n" in record:
        return spaces.Discrete(record["n"], start=record["start"])
    if "nvec" in record:
        return spaces.MultiDiscrete(record["nvec"])
    if "switches" in record:
        return spaces.MultiBinary(record["switches"])
    dtype = np.dtype(record["dtype"])
    low, high = (
        _fill([infinite if value is None else value for value in record[side]], record["shape"], dtype)
        for side, infinite in (("low", -np.inf), ("high", np.inf))
    )
    return spaces.Box(low, high, dtype=dtype.type)


def _fill(values: list[float], shape: list[int], dtype: np.dtype[Any]) -> Any:
    array = np.array(values, dtype)
    return np.full(shape, array[0], dtype) if len(values) == 1 else array.reshape(shape)
