"""Who acts in collected data: scripted, random and saved policies, with noise, in chosen shares."""

from __future__ import annotations

import json
import math
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from prefenvs.errors import PrefenvsError, failure_told, import_extra
from prefenvs.evaluate import random_policy
from prefenvs.internal.file_sizes import check_zip
from prefenvs.protocols import Policy
from prefenvs.segments import Array
from prefenvs.tasks import Task

_PART = re.compile(r"(?P<policy>.+?)(:(?P<noise>\d*\.?\d+))?(:(?P<random>\d*\.?\d+))?=(?P<amount>\d*\.?\d+)")


@dataclass(frozen=True)
class Source:
    """One part of a mixture.

    policy: "scripted" (Meta-World's own), "random", or the path of a run folder or of a Stable-Baselines3 .zip file.
    noise: standard deviation of the Gaussian noise on each action, in halves of the action's range, before it is
    clipped to that range. random: probability of a uniformly random action instead, drawn at every step.
    """

    policy: str
    noise: float = 0.0
    random: float = 0.0
    episodes: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise PrefenvsError(f"the noise on the actions of {self.policy} must be at least 0, got {self.noise}")
        if not 0 <= self.random <= 1:
            raise PrefenvsError(f"the share of random actions of {self.policy} must lie in 0 to 1, got {self.random}")

    @property
    def label(self) -> str:
        """The source as a mixture names it, without its share."""
        noise = f":{self.noise:g}" if self.noise or self.random else ""
        return f"{self.policy}{noise}{f':{self.random:g}' if self.random else ''}"


def parse_mix(parts: Sequence[str], episodes: int | None = None) -> tuple[Source, ...]:
    """Read a mixture such as `scripted:0.3=50 scripted:0.3:0.1=20 random=20 runs/x=10`.

    Each part is <policy>[:<noise>[:<random share>]]=<amount>. Amounts are numbers of episodes, or, where `episodes` is
    given, shares of it, which are rounded so that they add up. Raises PrefenvsError for what cannot be read.
    """
    sources, amounts = [], []
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None:
            raise PrefenvsError(
                f"cannot read {part!r} in the mixture: write <policy>[:<noise>[:<random share>]]=<amount>, such as "
                "scripted:0.3=50"
            )
        sources.append(Source(match["policy"], float(match["noise"] or 0), float(match["random"] or 0)))
        amounts.append(float(match["amount"]))
    total = sum(amounts)
    if not total:
        raise PrefenvsError("the mixture has no episodes: give at least one part a positive amount")
    if episodes is None:
        odd = [part for part, amount in zip(parts, amounts, strict=True) if amount != int(amount)]
        if odd:
            raise PrefenvsError(f"{odd[0]!r} is no whole number of episodes; shares need --episodes")
        counts = [int(amount) for amount in amounts]
    else:
        if episodes < 1:
            raise PrefenvsError(f"at least 1 episode must be collected, got {episodes}")
        # The largest remainders are rounded up.
        exact = np.array(amounts) * episodes / total
        whole = np.floor(exact + 1e-9).astype(int)
        whole[np.argsort(whole - exact, kind="stable")[: episodes - whole.sum()]] += 1
        counts = whole.tolist()
    return tuple(replace(source, episodes=count) for source, count in zip(sources, counts, strict=True))


class ScriptedPolicy:
    """Meta-World's hand-written policy of a task."""

    def __init__(self, task: Task) -> None:
        if task.family != "metaworld":
            raise PrefenvsError(
                f"task {task.id!r} has no scripted policy: Meta-World's tasks have; name random, a run or a checkpoint"
            )
        policies = import_extra("metaworld.policies", "a scripted policy").ENV_POLICY_MAP
        # They ask for more than the arm can do, as a matter of course, and warn of it at every other step.
        warnings.filterwarnings("ignore", message="Constant.s. may be too high", module="metaworld.policies")
        self._policy: Any = policies[task.source]()

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Array, None]:
        """Return one action [4], within -1 to 1, for each of the observations [N, 39]."""
        # Some of its rules divide by a distance, which is zero where the arm has arrived.
        actions = [np.nan_to_num(self._policy.get_action(np.asarray(row, np.float64))) for row in observation]
        return np.clip(np.stack(actions), -1.0, 1.0).astype(np.float32), None


def load_source(source: Source, task: Task, action_space: spaces.Space[Any], seed: int) -> Policy:
    """Return the policy of a source, without its noise; run folders are the command line's to open.

    Raises PrefenvsError for an unknown policy.
    """
    if source.policy == "scripted":
        return ScriptedPolicy(task)
    if source.policy == "random":
        return random_policy(action_space, seed)
    path = Path(source.policy)
    if not path.is_file():
        raise PrefenvsError(
            f"there is no policy {source.policy!r}: name scripted, random, a run folder, or a .zip file of "
            "Stable-Baselines3"
        )
    return load_sb3(path)


def load_sb3(path: Path) -> Policy:
    """Load a model that Stable-Baselines3's `save` wrote, whichever of its algorithms it is of.

    Such a file can run code when it is read: load those that you trust. Raises PrefenvsError for a file that is no such
    model.
    """
    import stable_baselines3 as sb3

    with failure_told(f"{path} is no saved model of Stable-Baselines3"):
        check_zip(path)
        with zipfile.ZipFile(path) as archive:
            own = "agent.json" in archive.namelist()
            data = {} if own else json.loads(archive.read("data"))
        module = "prefenvs.agents" if own else str(data["policy_class"]["__module__"])
    if module.startswith(("agents.", "prefenvs.")):
        raise PrefenvsError(f"{path} is an agent of prefenvs: name the folder of its run")
    algorithms: dict[str, Any] = {"sac": sb3.SAC, "td3": sb3.TD3, "dqn": sb3.DQN}
    algorithm = algorithms.get(module.split(".")[1] if "." in module else "")
    if algorithm is None:
        # PPO and A2C share their policies.
        algorithm = sb3.PPO if "clip_range" in data else sb3.A2C
    with failure_told(f"{path} cannot be loaded as {algorithm.__name__}"):
        model: Policy = algorithm.load(path, device="cpu")
    return model


class Disturbance:
    """Noise on a policy's actions, drawn from a generator of the episode's own."""

    def __init__(self, source: Source, action_space: spaces.Space[Any], rng: np.random.Generator) -> None:
        if source.noise and not isinstance(action_space, spaces.Box):
            raise PrefenvsError(f"{source.label}: noise needs continuous actions; give a share of random ones instead")
        if source.noise and isinstance(action_space, spaces.Box) and not action_space.is_bounded():
            raise PrefenvsError(f"{source.label}: noise is in halves of the range of actions, which has no end here")
        self.source, self.space, self.rng = source, action_space, rng
        action_space.seed(int(rng.integers(2**31)))

    def __call__(self, action: Array) -> Array:
        """Return the action that is taken, clipped to the action space."""
        if self.source.random and self.rng.random() < self.source.random:
            return np.asarray(self.space.sample())
        if not isinstance(self.space, spaces.Box):
            return action
        if self.source.noise:
            half = (self.space.high - self.space.low) / 2
            action = action + self.source.noise * half * self.rng.standard_normal(self.space.shape)
        return np.clip(action, self.space.low, self.space.high).astype(np.float32)
