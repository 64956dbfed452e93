"""Export: a run's policy and reward model as files that run without this package, with normalisation inside."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

import prefenvs
from prefenvs.agents.offline.learner import OfflineLearner
from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.agents.rewards.image.observed import PixelReward
from prefenvs.agents.rewards.segment import SegmentReward
from prefenvs.agents.runs.train import load_policy, load_reward
from prefenvs.envs.spaces import name_entries
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run
from prefenvs.segments import Array
from prefenvs.tasks import has_environment

Format = Literal["torchscript", "onnx"]
MEMBERS = "[{}, B], a row for each member; agents learn from the mean of the rows"
BATCHES = (1, 5)
"""Sizes of the batches on which a file is compared with `predict`."""
Exportable = RewardEnsemble | PixelReward | SegmentReward[Any]
TOLERANCE = 1e-4
"""Largest difference that rounding may leave, as a share of the largest number."""


@dataclass(frozen=True, eq=False)
class Part:
    """What becomes one file: a module, inputs to try it on, and the `predict` that it has to agree with.

    draw: returns random inputs by name for a batch of so many; predict: of such inputs. axes: of inputs and output, as
    a reader must know them.
    """

    name: str
    module: nn.Module
    draw: Callable[[int], dict[str, Array]]
    predict: Callable[..., Array]
    output: str
    axes: dict[str, str]


class OnlinePolicy(nn.Module):
    """Actions [B, ...] in the task's units for observations [B, ...], the policy's mean or best, as `predict` gives."""

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        self.policy = policy
        space = policy.action_space
        self.bounded = isinstance(space, spaces.Box)
        if isinstance(space, spaces.Box):
            self.register_buffer("low", torch.from_numpy(space.low))
            self.register_buffer("high", torch.from_numpy(space.high))

    low: Tensor
    high: Tensor

    def forward(self, observations: Tensor) -> Tensor:
        """Return the deterministic actions."""
        actions: Tensor = self.policy._predict(observations, deterministic=True)
        if not self.bounded:
            return actions
        actions = actions.reshape(-1, *self.low.shape)
        if self.policy.squash_output:
            actions = self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        return torch.maximum(torch.minimum(actions, self.high), self.low)


class OfflinePolicy(nn.Module):
    """Actions [B, act] in the task's units for observations [B, obs] as the task shows them."""

    mean: Tensor
    std: Tensor
    center: Tensor
    half_width: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, learner: OfflineLearner[Any]) -> None:
        super().__init__()
        self.learner = learner
        self.networks = nn.ModuleDict(learner._modules())
        self.register_buffer("mean", learner.mean)
        self.register_buffer("std", learner.std)
        self.register_buffer("center", torch.from_numpy(learner.center.ravel()))
        self.register_buffer("half_width", torch.from_numpy(learner.half_width.ravel()))
        for name in ("low", "high"):
            bound = getattr(learner.action_space, name).ravel().astype(np.float32)
            self.register_buffer(name, torch.from_numpy(bound))

    def forward(self, observations: Tensor) -> Tensor:
        """Return the deterministic actions."""
        scaled = self.learner._act((observations - self.mean) / self.std, True).clamp(-1.0, 1.0)
        return torch.maximum(torch.minimum(scaled * self.half_width + self.center, self.high), self.low)


class StepRewards(nn.Module):
    """Each member's reward [M, B] of steps: observations [B, obs], actions [B, act]."""

    def __init__(self, model: RewardEnsemble) -> None:
        super().__init__()
        self.network = model.network

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return the rewards."""
        rewards: Tensor = self.network(torch.cat([observations, actions], -1))
        return rewards.squeeze(-1)


class PictureRewards(nn.Module):
    """Each member's reward [M, B] of pictures [B, C, H, W] uint8."""

    def __init__(self, model: PixelReward) -> None:
        super().__init__()
        self.network = model.network

    def forward(self, observations: Tensor) -> Tensor:
        """Return the rewards."""
        rewards: Tensor = self.network(observations)
        return rewards


class WindowRewards(nn.Module):
    """The reward [1, B] of the last step of windows: observations [B, T, obs], actions [B, T, act]."""

    def __init__(self, model: SegmentReward[Any]) -> None:
        super().__init__()
        self.model, self.network = model, model.network

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return the rewards."""
        return self.model.step_rewards(torch.cat([observations, actions], -1), last=True).transpose(0, 1)


def export_run(run: Run, folder: Path, form: Format) -> list[Path]:
    """Write a run's policy and, if it has one, its reward model, with a README.md of shapes beside them.

    Each file is run on random inputs and compared with `predict`. Raises PrefenvsError for a policy that remembers
    steps, for a package that is missing, and where a file gives other numbers.
    """
    ending, write, read = ".pt", write_torchscript, read_torchscript
    if form == "onnx":
        check_onnx()
        ending, write, read = ".onnx", write_onnx, read_onnx
    parts, note = [describe_policy(load_policy(run))], ""
    try:
        model = load_reward_model(run)
        parts += [] if model is None else [describe_reward(model)]
    except PrefenvsError as error:
        note = f"The reward model is not here: {error}."
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part in parts:
        path = folder / f"{part.name}{ending}"
        write(part, path)
        compare(part, read(path), path)
        paths.append(path)
    readme = folder / "README.md"
    readme.write_text(_describe(run, parts, paths, form) + (f"\n{note}\n" if note else ""))
    return [*paths, readme]


def describe_policy(policy: Any) -> Part:
    """Return a policy as a module; raises PrefenvsError for one that remembers steps or is of another kind."""
    if isinstance(policy, OfflineLearner):
        if type(policy).predict is not OfflineLearner.predict:
            raise PrefenvsError(
                f"a policy of {policy.name} remembers the steps before, and only policies of one observation are "
                "exported: those of bc, cpl, iql, ipl, dppo, pebble and prefppo"
            )
        module: nn.Module = OfflinePolicy(policy)
    elif isinstance(policy, BaseAlgorithm):
        module = OnlinePolicy(policy.policy)
    else:
        raise PrefenvsError(f"a policy of {type(policy).__name__} cannot be exported: it is no network of this library")
    seen, actions = policy.observation_space, policy.action_space

    def predict(observations: Array) -> Array:
        predicted: Array = policy.predict(observations, deterministic=True)[0]
        return predicted

    acts = "whole numbers" if not isinstance(actions, spaces.Box) else "in the units of the task"
    recorded = isinstance(policy, OfflineLearner) and not has_environment(policy.task)
    source = "as the data set holds them" if recorded else "as prefenvs.make gives them"
    axes = {
        "observations": f"[B, {_axes(seen)}] {seen.dtype}, {source}",
        "actions": f"[B{''.join(f', {size}' for size in actions.shape or ())}], {acts}: the mean or best action",
    }
    return Part("policy", module.eval(), lambda count: {"observations": _draw(seen, count)}, predict, "actions", axes)


def load_reward_model(run: Run) -> Exportable | None:
    """Return the reward model that a run has learned, None if it has learned none.

    Raises PrefenvsError for one that is not exported.
    """
    model = load_reward(run)
    if model is not None and not isinstance(model, RewardEnsemble | PixelReward | SegmentReward):
        raise PrefenvsError(f"a {type(model).__name__} is not exported")
    return model


def describe_reward(model: Exportable) -> Part:
    """Return a reward model as a module: of single steps, of pictures, or of the windows that a sequence model sees."""
    if isinstance(model, PixelReward):
        return _describe_pixels(model)
    sizes = {"observations": model.observation_size, "actions": model.action_size}
    rng = np.random.default_rng(0)
    if isinstance(model, RewardEnsemble):
        axes = {name: f"[B, {size}] float32, as in segments" for name, size in sizes.items()}
        axes["rewards"] = MEMBERS.format(model.config.members)

        def draw(count: int) -> dict[str, Array]:
            return {name: rng.standard_normal((count, size), np.float32) for name, size in sizes.items()}

        return Part("reward", StepRewards(model).eval(), draw, model.predict, "rewards", axes)
    steps = model.context
    axes = {name: f"[B, {steps}, {size}] float32, the newest step last" for name, size in sizes.items()}
    axes["rewards"] = "[1, B], of each window's last step"

    def draw_windows(count: int) -> dict[str, Array]:
        return {name: rng.standard_normal((count, steps, size), np.float32) for name, size in sizes.items()}

    def predict(observations: Array, actions: Array) -> Array:
        return model.predict(observations, actions)[..., -1]

    return Part("reward", WindowRewards(model).eval(), draw_windows, predict, "rewards", axes)


def _describe_pixels(model: PixelReward) -> Part:
    shape, rng = model.shape, np.random.default_rng(0)
    axes = {"observations": f"[B, {', '.join(map(str, shape))}] uint8", "rewards": MEMBERS.format(model.config.members)}

    def draw(count: int) -> dict[str, Array]:
        return {"observations": rng.integers(0, 256, (count, *shape), dtype=np.uint8)}

    return Part("reward", PictureRewards(model).eval(), draw, model.predict, "rewards", axes)


def compare(part: Part, run_file: Callable[[dict[str, Array]], Array], path: Path) -> None:
    """Raise a PrefenvsError unless a file gives what `predict` gives, up to rounding, for batches of several sizes."""
    for count in BATCHES:
        inputs = part.draw(count)
        found, expected = run_file(inputs), part.predict(**inputs)
        scale = max(float(np.abs(expected).max(initial=0.0)), 1.0)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0.0, atol=TOLERANCE * scale):
            raise PrefenvsError(
                f"{path} gives {part.output} of shape {list(found.shape)} that differ from predict's: it is of no use; "
                "please report this with the run's run.json"
            )


def write_torchscript(part: Part, path: Path) -> None:
    """Write a module as TorchScript, which `torch.jit.load` reads, in C++ too."""
    torch.jit.save(trace(part), str(path))


def trace(part: Part) -> Any:
    """Return a module as its operations on a batch, weights folded in."""
    with torch.no_grad(), warnings.catch_warnings():
        # What tracing warns of is checked on other batches afterwards.
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
            part.module, _tensors(part.draw(BATCHES[-1])), check_trace=False
        )
        return torch.jit.freeze(traced.eval())


def read_torchscript(path: Path) -> Callable[[dict[str, Array]], Array]:
    """Return a function that runs a TorchScript file on inputs by name."""
    module: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]

    def run_file(inputs: dict[str, Array]) -> Array:
        with torch.no_grad():
            result: Array = module(*_tensors(inputs)).numpy()
        return result

    return run_file


def check_onnx() -> None:
    """Raise a PrefenvsError where a package that ONNX needs is not installed."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise PrefenvsError(
                f"--format onnx needs the package {package}, which is not installed: pip install onnx onnxruntime, or "
                "choose --format torchscript"
            )


def write_onnx(part: Part, path: Path) -> None:
    """Write a module as ONNX, with a batch axis of any size."""
    inputs = part.draw(BATCHES[-1])
    batch = {name: {0: "batch"} for name in inputs} | {part.output: {1 if part.name == "reward" else 0: "batch"}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # By way of the same operations; the newer exporter needs one more package.
        torch.onnx.export(
            trace(part),
            _tensors(inputs),
            str(path),
            input_names=list(inputs),
            output_names=[part.output],
            dynamic_axes=batch,
            dynamo=False,
        )


def read_onnx(path: Path) -> Callable[[dict[str, Array]], Array]:
    """Return a function that runs an ONNX file on inputs by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run_file(inputs: dict[str, Array]) -> Array:
        result: Array = session.run(None, inputs)[0]
        return result

    return run_file


def _describe(run: Run, parts: Sequence[Part], paths: Sequence[Path], form: Format) -> str:
    """Return the README of an exported run."""
    lines = [
        f"# {run.config.get('task', '')}: {run.record['command'].removeprefix('train ')}",
        "",
        f"Exported by prefenvs {version('prefenvs')} from a run of `prefenvs {run.record['command']}`. Observations go",
        "in and actions come out in the units of the task: normalisation is inside. B is the batch.",
    ]
    entries = _name_entries(str(run.config.get("task") or ""))
    lines += [f"An observation is {entries}."] if entries else []
    for part, path in zip(parts, paths, strict=True):
        lines += [
            "",
            f"## {path.name}",
            "",
            *(f"- `{name}`: {axes}" for name, axes in part.axes.items()),
            "",
            "```python",
        ]
        names = ", ".join(name for name in part.axes if name != part.output)
        if form == "torchscript":
            lines += [
                "import torch",
                "",
                f'{part.name} = torch.jit.load("{path.name}")',
                f"{part.output} = {part.name}({names})",
            ]
        else:
            fed = ", ".join(f'"{name}": {name}' for name in part.axes if name != part.output)
            lines += ["import onnxruntime", "", f'{part.name} = onnxruntime.InferenceSession("{path.name}")']
            lines += [f"{part.output} = {part.name}.run(None, {{{fed}}})[0]"]
        lines.append("```")
    return "\n".join(lines) + "\n"


def _name_entries(task: str) -> str:
    """Return which entries of an observation hold what, where the task observes a dictionary and can be made here."""
    try:
        env = prefenvs.make(task)
    except PrefenvsError:
        return ""
    entries = name_entries(env.unwrapped.observation_space)
    env.close()
    return entries


def _axes(space: spaces.Space[Any]) -> str:
    return ", ".join(str(size) for size in space.shape or ())


def _draw(space: spaces.Space[Any], count: int) -> Array:
    """Return random observations [count, ...]: within their bounds where there are any."""
    return np.stack([np.asarray(space.sample()) for _ in range(count)])


def _tensors(inputs: dict[str, Array]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in inputs.values())
