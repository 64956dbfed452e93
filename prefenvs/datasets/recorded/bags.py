"""A folder of ROS bags with a table of topics: messages become observations and actions at one rate, and cameras.

`bags.toml` names the topics; every bag below the folder is an episode, or those of its table `episodes` are:

    rate = 20                                             # steps per second
    observations = ["/joint_states.position", "/gripper"]
    actions = ["/command.data"]                           # may be left out
    cameras = { front = "/front/compressed", wrist = "/wrist/compressed" }
    task = "open the drawer"
    gap = 1.0                                             # seconds that an observation or camera may be silent

    [[episodes]]                                          # may be left out
    bag = "monday.mcap"
    start = 2.5                                           # seconds since the bag began; and `end`
    task = "open the drawer"                              # and `policy`, `success` (0 to 1)

An episode lasts while all topics speak. Each step shows the last message that had come, and its action is the last
command that had come before the next step; times are those at which the bag received the messages.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.recorded.episodes import Faults, choose_task, inside
from prefenvs.errors import PrefenvsError
from prefenvs.frames.bags import connections, is_bag, open_bag, picture_times
from prefenvs.frames.recording import Camera, Recording
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories

TABLE = "bags.toml"
NUMBERS = (bool, int, float, np.bool_, np.number)


@dataclass(frozen=True)
class Topics:
    """What a table asks for. observations, actions: topics with their field, such as /joint_states.position."""

    rate: float
    observations: tuple[str, ...]
    actions: tuple[str, ...]
    cameras: Mapping[str, str]
    gap: float


def read_bags(folder: str | Path, task: str | None = None, skip_damaged: bool = False) -> OfflineDataset:
    """Read a folder of ROS bags and its bags.toml; pictures are read when they are looked at.

    task: the sentence of the task whose episodes are read, where there are several, or a task of the suite that all of
    them are of. skip_damaged: leave damaged episodes out, for which
    all pictures are looked at. Raises PrefenvsError naming table, bag and topic.
    """
    folder = Path(folder)
    topics, episodes = _read_table(folder)
    sentences = [str(episode.get("task") or folder.name) for episode in episodes]
    task_id, chosen = choose_task(sentences, task, str(folder))
    faults = Faults(str(folder), skip_damaged)
    read = {
        number: columns
        for number in chosen
        if (columns := faults.attempt(number, lambda n=number: _read(folder, episodes[n], topics)))  # type: ignore[misc]
    }
    faults.compare({number: columns["layout"] for number, columns in read.items()})
    if topics.cameras:
        faults.check({number: columns["recording"] for number, columns in read.items() if number not in faults.found})
    read = {number: columns for number, columns in read.items() if number not in faults.found}
    faults.warn(len(chosen))
    successes, policies = ([episodes[number].get(key) for number in read] for key in ("success", "policy"))
    trajectories = Trajectories(
        np.concatenate([columns["observations"] for columns in read.values()]),
        np.concatenate([columns["actions"] for columns in read.values()]),
        np.cumsum([len(columns["actions"]) for columns in read.values()]),
        task=task_id,
        source=folder.name,
        recordings=tuple(columns["recording"] for columns in read.values()) if topics.cameras else None,
        numbers=np.array(list(read), np.int64),
    )
    return OfflineDataset(
        str(folder),
        trajectories,
        policies=np.array([str(policy or "") for policy in policies]) if any(policies) else None,
        successes=None if None in successes else np.array(successes, np.float64),
    )


def _read_table(folder: Path) -> tuple[Topics, list[dict[str, Any]]]:
    path = folder / TABLE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise PrefenvsError(f"{path} cannot be read: {error}") from error

    def get(name: str, kind: type | tuple[type, ...], default: Any, of: Mapping[str, Any] = table) -> Any:
        value = of.get(name, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise PrefenvsError(
                f"{name} in {path} is {value!r}: write it as {TABLE} has it, see docs/how-to/recordings.md"
            )
        return value

    rate, gap = float(get("rate", (int, float), 0)), float(get("gap", (int, float), 1.0))
    if not 0 < rate <= 1000:
        raise PrefenvsError(f"rate in {path} is {rate:g}: give the steps per second that the bags are resampled to")
    if not gap > 0:
        raise PrefenvsError(f"gap in {path} is {gap:g}: give the seconds for which a topic may be silent")
    cameras = {str(name): str(topic) for name, topic in get("cameras", dict, {}).items()}
    named = {key: tuple(str(topic) for topic in get(key, list, [])) for key in ("observations", "actions")}
    if not cameras and not named["observations"]:
        raise PrefenvsError(f"{path} names no topic: give observations, cameras or both")
    episodes = [dict(episode) for episode in get("episodes", list, [])]
    if not episodes:
        episodes = [{"bag": str(bag.relative_to(folder))} for bag in _find_bags(folder)]
    if not episodes:
        raise PrefenvsError(f"{folder} holds no bag: a folder with a metadata.yaml, or a file .mcap, .db3 or .bag")
    for number, episode in enumerate(episodes):
        if not isinstance(episode.get("bag"), str):
            raise PrefenvsError(f"episode {number} in {path} names no bag")
        for key in ("start", "end", "success"):
            get(key, (int, float), 0.0, episode)
        episode.setdefault("task", get("task", str, ""))
    return Topics(rate, named["observations"], named["actions"], cameras, gap), episodes


def _find_bags(folder: Path) -> list[Path]:
    """The bags below a folder by name; the files of a bag that is a folder are no bags of their own."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if is_bag(path):
            found.append(path)
        elif path.is_dir():
            found += _find_bags(path)
    return found


def _read(folder: Path, episode: Mapping[str, Any], topics: Topics) -> dict[str, Any]:
    """Return the observations, actions and recording of an episode."""
    file = inside(folder, episode["bag"])
    path = folder / file
    if not path.exists():
        raise PrefenvsError(f"there is no bag {path}")
    spoken, layout = _messages(path, [*topics.observations, *topics.actions])
    seen = {name: picture_times(path, topic)[0] for name, topic in topics.cameras.items()}
    watched = {**{name: spoken[name][0] for name in topics.observations}, **seen}
    firsts = [times[0] for times in (*seen.values(), *(times for times, _ in spoken.values()))]
    begin = max([float(episode.get("start", 0.0)), *firsts])
    end = min([float(episode.get("end", math.inf)), *(times[-1] for times in watched.values())])
    # The last message still counts, whatever the rounding of a rate such as 30.
    steps = np.arange(0.0, end - begin + 1e-6, 1.0 / topics.rate)
    if not len(steps):
        raise PrefenvsError(
            f"{path} has no time at which all topics spoke: one ends at {end:.6g} s, another begins at {begin:.6g} s"
        )
    for name, times in watched.items():
        _check_gaps(times, begin, end, topics.gap, f"{topics.cameras.get(name, name)} in {path}")
    cameras = tuple(Camera(name, file, topic, begin) for name, topic in topics.cameras.items())
    return {
        "observations": _sample(spoken, topics.observations, begin + steps),
        "actions": _sample(spoken, topics.actions, begin + steps + 1.0 / topics.rate - 1e-6),
        "recording": Recording(cameras, steps, str(folder)) if cameras else None,
        "layout": layout,
    }


def _check_gaps(times: Array, begin: float, end: float, gap: float, name: str) -> None:
    # What the first step shows came before it, and what the last one shows may have come long before the end.
    shown = times[max(int(np.searchsorted(times, begin + 1e-6, side="right")) - 1, 0) :]
    shown = np.append(shown[shown < end], end)
    apart = np.diff(shown)
    if len(apart) and apart.max() > gap:
        at = shown[apart.argmax()]
        raise PrefenvsError(
            f"{name} is silent for {apart.max():.4g} s from {at:.6g} s on: cut the episode by start and end, or allow "
            f"a larger gap in {TABLE}"
        )


def _sample(spoken: Mapping[str, tuple[Array, Array]], names: Sequence[str], at: Array) -> Array:
    """Return the last vectors [n, width] of these topics at the times [n], side by side."""
    parts = [np.zeros((len(at), 0), np.float32)]
    for name in names:
        times, values = spoken[name]
        parts.append(values[np.maximum(np.searchsorted(times, at + 1e-6, side="right") - 1, 0)])
    return np.concatenate(parts, axis=1)


def _messages(path: Path, names: Sequence[str]) -> tuple[dict[str, tuple[Array, Array]], dict[str, str]]:
    """Return when the messages of each topic came, [n] seconds since the bag began, and their numbers [n, width].

    Beside them what the numbers are, in words: joints by name, where messages such as JointState list them.
    """
    fields = {name: _split(name) for name in names}
    with open_bag(path) as bag:
        wanted = {topic: connections(bag, topic, path) for topic, _ in fields.values()}
        came: dict[str, list[float]] = {name: [] for name in names}
        held: dict[str, list[Array]] = {name: [] for name in names}
        layout: dict[str, str] = {}
        chosen = [connection for group in wanted.values() for connection in group]
        for connection, stamp, content in bag.messages(chosen) if chosen else ():
            message = bag.deserialize(content, connection.msgtype)
            for name, (topic, field) in fields.items():
                if topic == connection.topic:
                    came[name].append((stamp - bag.start_time) / 1e9)
                    held[name].append(_numbers(message, field, f"{name} in {path}"))
                    what = _describe(message, len(held[name][-1]))
                    if layout.setdefault(name, what) != what:
                        raise PrefenvsError(
                            f"{name} in {path} is {layout[name]} at first and {what} {came[name][-1]:.6g} s after the "
                            "bag began: record each under a topic of its own"
                        )
    result = {}
    for name in names:
        values = np.stack(held[name]).astype(np.float32)
        if not np.isfinite(values).all():
            first = int(np.argwhere(~np.isfinite(values))[0][0])
            raise PrefenvsError(f"{name} in {path} holds a NaN or infinite value at {came[name][first]:.6g} s")
        result[name] = np.asarray(came[name]), values
    return result, layout


def _describe(message: Any, width: int) -> str:
    """What a message's numbers are, in words."""
    names = getattr(message, "name", None)
    joints = ", ".join(map(str, names)) if isinstance(names, list) else ""
    return f"{width} numbers{' of ' if joints else ''}{joints}"


def _split(name: str) -> tuple[str, tuple[str, ...]]:
    """The topic and the fields of a name such as /arm/joint_states.position; a topic holds no dot."""
    topic, *fields = name.split(".")
    return topic, tuple(fields)


def _numbers(message: Any, field: Sequence[str], name: str) -> Array:
    """Return the numbers [n] of a message's field, or of all of its fields but the header."""
    for part in field:
        if not hasattr(message, part):
            known = ", ".join(key for key in vars(message) if not key.startswith("_"))
            raise PrefenvsError(f"{name}: its messages have no field {part!r}, but {known}")
        message = getattr(message, part)
    values = np.asarray(list(_flatten(message)), np.float64)
    if not len(values):
        raise PrefenvsError(f"{name} holds no number")
    return values


def _flatten(value: Any) -> Any:
    if isinstance(value, NUMBERS):
        yield float(value)
    elif isinstance(value, (np.ndarray, list, tuple)):
        for item in value:
            yield from _flatten(item)
    elif hasattr(value, "__dataclass_fields__"):
        for key in value.__dataclass_fields__:
            if key not in ("header", "__msgtype__"):
                yield from _flatten(getattr(value, key))
