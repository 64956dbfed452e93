"""The table of algorithms, from which the command line, loading, the benchmark's methods and the docs are made.

An algorithm is declared beside its code as an `Algorithm`. Another package offers its own as an entry point of the
group `prefenvs.algorithms`, and `module:NAME` works wherever a name does.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.internal.loading import declared, load_object

if TYPE_CHECKING:
    from prefenvs.datasets.offline import OfflineDataset
    from prefenvs.frames.rewards import StateReward
    from prefenvs.preferences import Oracle, Preference
    from prefenvs.segments import Array
    from prefenvs.tasks import Task

ALGORITHMS = {
    "pebble": "prefenvs.agents.online.pebble:ALGORITHM",
    "prefppo": "prefenvs.agents.online.prefppo:ALGORITHM",
    "dqn": "prefenvs.agents.online.dqn:ALGORITHM",
    "clip": "prefenvs.agents.online.state_reward:ALGORITHM",
    "thompson": "prefenvs.agents.variants.thompson:ALGORITHM",
    "resets": "prefenvs.agents.variants.resets:ALGORITHM",
    "demonstrations": "prefenvs.agents.variants.demonstrations:ALGORITHM",
    "spo": "prefenvs.agents.direct.spo:ALGORITHM",
    "ranksgd": "prefenvs.agents.direct.ranksgd:ALGORITHM",
    "rlif": "prefenvs.agents.direct.rlif:ALGORITHM",
    "iql": "prefenvs.agents.offline.iql:ALGORITHM",
    "cpl": "prefenvs.agents.offline.cpl:ALGORITHM",
    "bc": "prefenvs.agents.offline.bc:ALGORITHM",
    "oppo": "prefenvs.agents.offline.oppo:ALGORITHM",
    "ipl": "prefenvs.agents.offline.ipl:ALGORITHM",
    "dcppo": "prefenvs.agents.tabular.dcppo:ALGORITHM",
    "barfi": "prefenvs.agents.tabular.barfi:ALGORITHM",
    "parl": "prefenvs.agents.tabular.parl:ALGORITHM",
    "dppo": "prefenvs.agents.offline.dppo:ALGORITHM",
}
GROUP = "prefenvs.algorithms"
"""Entry points by which other packages offer algorithms: the name, and `package.module:OBJECT`."""


@dataclass(frozen=True)
class Settings:
    """What a run is made of: the learner's configuration, its other options, and its length in steps.

    options: an `Algorithm.options`; steps: of the environment online, gradient steps from fixed data.
    """

    config: Any
    steps: int
    options: Any = None


@dataclass(frozen=True)
class Online:
    """What an online learner is made with: its task, its rater or reward, its seed and its device.

    oracle: None on the true reward; reward: of states, for `learns_from="states"`. film: whether its environments draw
    what they do, for raters that could not see it otherwise. reward_model: one of your own in place of the ensemble, as
    the learner's constructor takes it.
    """

    task: Task
    oracle: Oracle | None = None
    seed: int = 0
    device: str = "auto"
    reward: StateReward | None = None
    film: bool = False
    reward_model: Any = None


@dataclass(frozen=True)
class Offline:
    """What a learner from fixed data is made with.

    preferences: None where its options need no labels; folder: a run folder that may hold its reward model already;
    rank: scores segments of the data set by a simulated rater, a `prefenvs.agents.offline.tables.RankedSegments`.
    rewards [S], returns [E]: the true ones, handed over only to options whose `true_reward` says so.
    """

    dataset: OfflineDataset
    preferences: list[Preference] | None = None
    seed: int = 0
    device: str = "auto"
    folder: Path | None = None
    rank: Callable[[], Any] | None = None
    rewards: Array | None = None
    returns: Array | None = None


@dataclass(frozen=True)
class OfflineOptions:
    """What a learner from fixed data is told beside its configuration; the base of those that need more than labels."""

    def needs_labels(self, config: Any) -> bool:
        """Whether a rater's labels are learned from."""
        return True

    def unused(self) -> tuple[str, ...]:
        """Parts of the configuration that have no effect with these options, so that they are no flags."""
        return ()

    def signal(self, rater: str, config: Any) -> str:
        """What is learned from, in a word, for the run folder's name; `rater`: who answered."""
        return rater


@dataclass(frozen=True)
class Row:
    """A row of benchmark tables: the algorithm with these command line options.

    asks: whether it asks a rater; rater: the one that it asks whatever the suite's; rewards: whether it fits a reward.
    controls: the rows that show what its labels teach; bound: the one on the true reward, with the same exploration.
    upper: in place of the algorithm's. keeps: options of feedback sessions that matter though nobody is asked.
    """

    name: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    asks: bool = True
    rewards: bool = False
    rater: str = ""
    controls: tuple[str, ...] = ()
    bound: str = ""
    upper: str = ""
    keeps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Algorithm:
    """One algorithm, declared beside its code.

    name: on the command line; title: in tables; source: "online" from an environment or "offline" from a data set.
    learner: its class; config: its configuration, a frozen dataclass whose fields are flags.
    preset: `preset(task, name, **given)` returns the `Settings` for a task. Its keyword parameters name the flags that
    other defaults depend on, such as `steps`; it gets those that stand on the command line, and ends with `**_`.
    presets: their names, the default first. options: further flags, a dataclass such as SAC's arguments.
    make: makes the learner, `make_online` or `make_offline` by default.
    signal: "labels" of a rater, a reward of "states", an expert's "interventions", or the "true" reward only.
    resumes: continues from a checkpoint; together: several seeds share their gradient steps.
    rows: of benchmark tables; upper: the row on the true reward by which they are normalised.
    """

    name: str
    title: str
    source: Literal["online", "offline"]
    learner: type[Any]
    config: type[Any]
    preset: Callable[..., Settings]
    presets: tuple[str, ...] = ("published",)
    options: type[Any] | None = None
    make: Callable[..., Any] | None = None
    signal: Literal["labels", "states", "interventions", "true"] = "labels"
    resumes: bool = True
    together: bool = False
    rows: tuple[Row, ...] = ()
    upper: str = ""

    @property
    def takes_reward_model(self) -> bool:
        """Whether a reward model can be put in the place of the one that the learner would fit to its labels."""
        own = self.source == "online" and self.signal == "labels" and self.make is None
        return own and "reward_model" in inspect.signature(self.learner).parameters

    def make_online(self, settings: Settings, given: Online) -> Any:
        """Return an online learner; without a `make` of its own the learner's class gets environments and rater."""
        if self.make is not None:
            return self.make(settings, given)
        from prefenvs.envs.vectors import make_envs

        mode = {"render_mode": "rgb_array"} if given.film else {}
        envs = make_envs(given.task.id, getattr(settings.options, "envs", 1), given.seed, **mode)
        keywords = {} if settings.options is None else settings.options.keywords()
        keywords |= {} if given.reward_model is None else {"reward_model": given.reward_model}
        # Pictures keep their axes, vectors have one.
        policy = "CnnPolicy" if len(envs.observation_space.shape or ()) > 1 else "MlpPolicy"
        return self.learner(
            policy, envs, given.oracle, settings.config, seed=given.seed, device=given.device, **keywords
        )

    def make_offline(self, settings: Settings, each: Sequence[Offline]) -> list[Any]:
        """Return learners from fixed data, one for each seed."""
        if self.make is not None:
            made: list[Any] = self.make(settings, each)
            return made
        return [
            self.learner(one.dataset, one.preferences, settings.config, seed=one.seed, device=one.device)
            for one in each
        ]

    def settings(self, task: Task, name: str | None = None, **given: Any) -> Settings:
        """Return the preset's settings, with the options' defaults where it gives none."""
        settings = self.preset(task, name or self.presets[0], **given)
        if settings.options is None and self.options is not None:
            settings = dataclasses.replace(settings, options=self.options())
        return settings


def list_algorithms() -> dict[str, str]:
    """Return where each algorithm is declared, `module:OBJECT` by name; nothing is imported.

    Raises PrefenvsError where an installed package offers a name that is taken.
    """
    found = dict(ALGORITHMS)
    for name, place in declared(GROUP).items():
        if found.get(name, place) != place:
            raise PrefenvsError(
                f"an installed package offers an algorithm called {name!r} ({place}), which there is already: give it "
                "another name"
            )
        found[name] = place
    return found


def find_algorithm(name: str) -> Algorithm:
    """Return an algorithm by its name, or one of your own by `module:NAME`; raises PrefenvsError for an unknown one."""
    if ":" in name:
        # Whatever name its author gave it, it is found again by this one.
        return dataclasses.replace(load_object(name, Algorithm), name=name)
    places = list_algorithms()
    if name not in places:
        raise PrefenvsError(
            f"unknown algorithm {name!r}.{near_matches(name, places)} `prefenvs train --help` lists all; one of your "
            "own is called module:NAME"
        )
    algorithm = load_object(places[name], Algorithm)
    if algorithm.name != name:
        raise PrefenvsError(
            f"the algorithm {name!r} is declared as {algorithm.name!r} in {places[name]}: name it alike"
        )
    return algorithm


def describe_algorithm(place: str) -> str:
    """Return the first line of the docstring of an algorithm's module, `module:OBJECT`, without importing it."""
    module = place.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
        source = "" if spec is None or spec.origin is None else Path(spec.origin).read_text()
        text = ast.get_docstring(ast.parse(source)) or ""
    except (ImportError, OSError, SyntaxError, ValueError):
        text = ""
    return text.partition("\n")[0] or f"declared in {place}"
