"""Saved agents and checkpoints hold tensors and JSON, and reading them runs nothing."""

from __future__ import annotations

import base64
import errno
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN as TheirDQN
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig, PrefPPO, PrefPPOConfig, RewardConfig, RewardEnsemble, StateRewardSAC
from prefenvs.agents.experts import load_expert
from prefenvs.agents.online import checkpoint as checkpoints
from prefenvs.agents.online import saved_agent
from prefenvs.agents.online.dqn import DQNConfig, make_dqn
from prefenvs.agents.online.prefppo import PPOConfig
from prefenvs.agents.runs.train import load_policy
from prefenvs.datasets.sources import load_sb3
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run

from ...worlds import Point, Rater

SMALL = RewardConfig(width=8, layers=1, epochs=2)
FEEDBACK: dict[str, Any] = {"labels": 10, "per_session": 5, "interact": 50, "segment_length": 8, "reward": SMALL}
SAC_SIZES: dict[str, Any] = {"learning_starts": 30, "batch_size": 8, "buffer_size": 500, "seed": 0, "device": "cpu"}
PPO_SIZES: dict[str, Any] = {"n_steps": 50, "batch_size": 25, "n_epochs": 1, "seed": 0, "device": "cpu"}


class Distance:
    """Rewards states near 1."""

    def score(self, states: np.ndarray, scenes: np.ndarray | None) -> np.ndarray:
        return np.asarray(-np.abs(states - 1.0).sum(1), np.float32)


def make_pebble(env: Any = None, net: Any = None, **kwargs: Any) -> PEBBLE:
    config = PebbleConfig(**FEEDBACK, unsupervised_steps=30, reset_updates=2)
    net = net or {"net_arch": [8]}
    return PEBBLE("MlpPolicy", env or Point(), Rater(), config, policy_kwargs=net, **{**SAC_SIZES, **kwargs})


def make_prefppo(env: Any = None, **kwargs: Any) -> PrefPPO:
    config = PrefPPOConfig(**FEEDBACK, unsupervised_steps=50, unsupervised_epochs=1)
    net = {"net_arch": {"pi": [8], "vf": [4]}, "activation_fn": torch.nn.ELU}
    return PrefPPO("MlpPolicy", env or Point(), Rater(), config, policy_kwargs=net, **{**PPO_SIZES, **kwargs})


def make_clip(env: Any = None) -> StateRewardSAC:
    sizes = {**SAC_SIZES, "train_freq": 10}
    return StateRewardSAC("MlpPolicy", env or Point(), Distance(), policy_kwargs={"net_arch": [8]}, **sizes)


MAKERS: dict[str, Callable[[], Any]] = {
    "pebble": make_pebble,
    "prefppo": make_prefppo,
    "clip": make_clip,
    "dqn": lambda: make_dqn("CartPole-v1", DQNConfig(width=8, learning_starts=20)),
}


@pytest.fixture(scope="module")
def learned() -> dict[str, Any]:
    return {name: make().learn(150) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints in the middle of Pendulum's episodes, so that every part of them is filled."""
    made = {}
    for name, make in (("pebble", make_pebble), ("prefppo", make_prefppo), ("clip", make_clip)):
        agent: Any = make(prefenvs.make("Pendulum-v1"))
        agent.learn(250)
        made[name] = agent.save_checkpoint(tmp_path_factory.mktemp(name) / "checkpoint")
    return made


def leaves(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every file, those within archives too; torch's own archives count as one file."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        yield name, data
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(member.endswith("data.pkl") for member in archive.namelist()):
            yield f"{name}.torch", data
            return
        for member in archive.namelist():
            yield from leaves(f"{name}/{member}", archive.read(member))


def check_harmless(name: str, data: bytes) -> None:
    """Fail for anything but tensors, arrays of numbers, JSON, a store, and two texts about versions."""
    if name.endswith(".torch"):
        assert torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)) == [], name
        torch.load(io.BytesIO(data), weights_only=True)
    elif name.endswith(".npy"):
        np.load(io.BytesIO(data), allow_pickle=False)
    elif name.endswith(".json"):
        json.loads(data)
    elif name.endswith(".sqlite"):
        assert data.startswith(b"SQLite format 3\0")
    else:
        assert name.rsplit("/", 1)[-1] in ("_stable_baselines3_version", "system_info.txt"), name
    for module in (b"prefenvs.agents", b"prefenvs.envs", b"stable_baselines3.", b"__main__"):
        assert module not in data, f"{name} names {module!r}"


@pytest.mark.parametrize("algorithm", ["pebble", "prefppo", "clip"])
def test_a_checkpoint_holds_tensors_and_json_only(folders: dict[str, Path], algorithm: str) -> None:
    found = [leaf for path in folders[algorithm].iterdir() for leaf in leaves(path.name, path.read_bytes())]
    for name, data in found:
        check_harmless(name, data)
    assert len(found) > 20


def test_the_search_for_pickles_finds_some(tmp_path: Path, learned: dict[str, Any]) -> None:
    learned["pebble"].save_sb3(tmp_path / "theirs.zip")
    found = dict(leaves("theirs.zip", (tmp_path / "theirs.zip").read_bytes()))
    with pytest.raises(AssertionError, match="data"):
        check_harmless("theirs.zip/data", found["theirs.zip/data"])
    torch.save({"trap": Path("x")}, tmp_path / "x.pt")
    with pytest.raises(AssertionError, match=r"x\.pt"):
        check_harmless("x.pt.torch", (tmp_path / "x.pt").read_bytes())


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def rewrite(archive: Path, member: str, content: bytes, drop: str = "") -> None:
    with zipfile.ZipFile(archive) as file:
        members = {name: file.read(name) for name in file.namelist() if name != drop}
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in (members | {member: content}).items():
            file.writestr(name, data)


def torch_bytes(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def npz_bytes(path: Path, trap: Trap) -> bytes:
    file, objects = io.BytesIO(), np.array([trap], object)
    with np.load(path) as arrays:
        np.savez(file, **dict.fromkeys(arrays.files, objects))
    return file.getvalue()


def their_data(trap: Trap) -> bytes:
    return json.dumps({"trap": {":serialized:": base64.b64encode(cloudpickle.dumps(trap)).decode()}}).encode()


def set_trap(folder: Path, name: str, trap: Trap) -> None:
    """Put a pickle that does something into a file of a checkpoint, where its reader would come upon it."""
    file, _, member = name.partition("!")
    path = folder / file
    if member == "data":
        rewrite(path, "data", their_data(trap), drop="agent.json")
    elif member:
        rewrite(path, member, torch_bytes({"trap": trap}))
    elif path.suffix == ".npz":
        path.write_bytes(npz_bytes(path, trap))
    elif path.suffix == ".npy":
        np.save(path, np.array([trap], object))
    elif path.suffix == ".pt":
        path.write_bytes(torch_bytes({"trap": trap}))
    else:
        path.write_bytes(pickle.dumps(trap))


MODEL = ("model.zip", "model.zip!data", "model.zip!policy.pth", "model.zip!pytorch_variables.pth")
TRAPS = [*MODEL, "reward.pt", "trajectories.npz", "episodes.npz", "replay.npz", "state.json", "preferences.sqlite"]


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_in_a_checkpoint_is_refused_and_not_sprung(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    trap = Trap(tmp_path / "sprung")
    folder = shutil.copytree(folders["pebble"], tmp_path / "checkpoint")
    set_trap(folder, name, trap)
    with pytest.raises(PrefenvsError) as error:
        make_pebble(prefenvs.make("Pendulum-v1")).resume(folder)
    check_message(error, name.split("!")[0])
    if name.startswith("model.zip"):
        with pytest.raises(PrefenvsError) as error:
            PEBBLE.load(folder / "model.zip", device="cpu")
        check_message(error, "model.zip")
    assert not trap.marker.exists()
    pickle.loads(pickle.dumps(trap))
    assert trap.marker.exists(), "the trap itself must work"


def test_a_trap_in_the_states_seen_is_refused_and_not_sprung(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["prefppo"], tmp_path / "checkpoint")
    set_trap(folder, "states_seen.npy", Trap(tmp_path / "sprung"))
    with pytest.raises(PrefenvsError) as error:
        make_prefppo(prefenvs.make("Pendulum-v1")).resume(folder)
    check_message(error, "states_seen.npy")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("command", ["train pebble", "train prefppo", "train clip", "train dqn"])
def test_a_run_folder_with_pickles_acts_as_nobody(tmp_path: Path, learned: dict[str, Any], command: str) -> None:
    """A run of the versions before, or one that somebody has prepared, as `evaluate`, `record` and experts get it."""
    run = Run.create(tmp_path / "run", command, {"task": "Pendulum-v1", "true_reward": True})
    run.checkpoint.mkdir()
    learned[command.split()[1]].save(run.checkpoint / "model.zip")
    rewrite(run.checkpoint / "model.zip", "data", their_data(Trap(tmp_path / "sprung")), drop="agent.json")
    for read in (lambda: load_policy(run), lambda: load_expert(run.folder)):
        with pytest.raises(PrefenvsError, match="train again with this version") as error:
            read()
        check_message(error, "model.zip")
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_of_the_version_before_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["pebble"], tmp_path / "checkpoint")
    state = json.loads((folder / "state.json").read_text())
    del state["format"]
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "episodes.npz").rename(folder / "episodes.pickle")
    with pytest.raises(PrefenvsError, match=r"older version.*start the run anew") as error:
        make_pebble(prefenvs.make("Pendulum-v1")).resume(folder)
    check_message(error, "checkpoint")


def check_message(error: pytest.ExceptionInfo[PrefenvsError], name: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert name in message


def observations_of(agent: Any) -> np.ndarray:
    size = agent.observation_space.shape[0]
    return np.random.default_rng(0).normal(size=(20, size)).astype(np.float32)


@pytest.mark.parametrize("algorithm", MAKERS)
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_saved_agent_acts_as_before(
    tmp_path: Path, learned: dict[str, Any], algorithm: str, deterministic: bool
) -> None:
    agent = learned[algorithm]
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", device="cpu")
    actions = []
    for one in (agent, loaded):
        torch.manual_seed(1)
        actions.append(one.predict(observations_of(agent), deterministic=deterministic)[0])
    if algorithm == "dqn" and not deterministic:
        # Its random actions come from NumPy, and from the action space.
        assert agent.exploration_rate == loaded.exploration_rate
    else:
        np.testing.assert_array_equal(*actions)
    assert loaded.num_timesteps == agent.num_timesteps >= 150
    assert (loaded.observation_space, loaded.action_space) == (agent.observation_space, agent.action_space)
    for name in ("config", "gamma", "batch_size", "learning_rate", "seed", "_n_updates", "reward_learned"):
        assert getattr(loaded, name, None) == getattr(agent, name, None), name
    for name, expected in agent.get_parameters().items():
        found = loaded.get_parameters()[name]
        torch.testing.assert_close(
            dict(found.get("state", found)), dict(expected.get("state", expected)), rtol=0, atol=0
        )


@pytest.mark.parametrize("algorithm", ["pebble", "prefppo", "clip"])
def test_what_is_loaded_is_saved_as_it_was(tmp_path: Path, learned: dict[str, Any], algorithm: str) -> None:
    agent = learned[algorithm]
    agent.save(tmp_path / "one.zip")
    type(agent).load(tmp_path / "one.zip", device="cpu").save(tmp_path / "two.zip")
    one, two = (json.loads(zipfile.ZipFile(tmp_path / name).read("agent.json")) for name in ("one.zip", "two.zip"))
    assert one == two


def test_a_loaded_agent_explores_on(tmp_path: Path) -> None:
    make_pebble().save(tmp_path / "new.zip")
    loaded = PEBBLE.load(tmp_path / "new.zip", env=Point(), oracle=Rater(), device="cpu", batch_size=16)
    loaded.learn(150)
    assert loaded.reward_learned
    assert loaded.batch_size == 16
    with pytest.raises(PrefenvsError, match="are not those of the environment"):
        PEBBLE.load(tmp_path / "new.zip", env=prefenvs.make("Reacher-v5"), device="cpu")


def test_an_agent_goes_through_memory(learned: dict[str, Any]) -> None:
    file = io.BytesIO()
    learned["pebble"].save(file)
    file.seek(0)
    loaded = PEBBLE.load(file, device="cpu")
    seen = observations_of(loaded)
    np.testing.assert_array_equal(*(one.predict(seen, deterministic=True)[0] for one in (loaded, learned["pebble"])))


def test_a_run_folder_is_an_agent(folders: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = shutil.copytree(folders["pebble"], tmp_path / "run" / "checkpoint")
    loaded, by_file = (PEBBLE.load(path, device="cpu") for path in (tmp_path / "run", checkpoint / "model.zip"))
    seen = observations_of(loaded)
    np.testing.assert_array_equal(*(one.predict(seen, deterministic=True)[0] for one in (loaded, by_file)))
    actions = np.zeros((len(seen), *loaded.action_space.shape), np.float32)
    kept = RewardEnsemble.load(checkpoint / "reward.pt", device="cpu")
    np.testing.assert_array_equal(*(one.predict(seen, actions) for one in (loaded.reward_model, kept)))
    with pytest.raises(PrefenvsError, match=r"not a dict: give it gymnasium\.spaces\.flatten"):
        loaded.predict({"place": seen})
    (tmp_path / "run" / "checkpoint" / "model.zip").unlink()
    with pytest.raises(PrefenvsError, match="a folder without a saved agent"):
        PEBBLE.load(tmp_path / "run")


def test_an_agent_of_another_kind_is_named(tmp_path: Path, learned: dict[str, Any]) -> None:
    learned["prefppo"].save(tmp_path / "agent.zip")
    with pytest.raises(PrefenvsError, match="an agent of 'prefppo', not 'pebble'"):
        PEBBLE.load(tmp_path / "agent.zip")


class Halved(FlattenExtractor):
    """An extractor of a user's."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return super().forward(observations) / 2.0


def test_code_of_ones_own_is_asked_for(tmp_path: Path) -> None:
    net = {"net_arch": [8], "features_extractor_class": Halved}
    agent = make_pebble(net=net, learning_rate=lambda remaining: 1e-3 * remaining)
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(PrefenvsError, match=r"code of yours.*policy_kwargs=") as error:
        PEBBLE.load(tmp_path / "agent.zip")
    check_message(error, "agent.zip")
    loaded = PEBBLE.load(tmp_path / "agent.zip", policy_kwargs=net, device="cpu")
    seen = observations_of(agent)
    np.testing.assert_array_equal(*(one.predict(seen, deterministic=True)[0] for one in (loaded, agent)))
    # To act, nothing needs the schedule; to learn, it does.
    with pytest.raises(PrefenvsError, match="learning_rate="):
        PEBBLE.load(tmp_path / "agent.zip", env=Point(), policy_kwargs=net)
    loaded = PEBBLE.load(tmp_path / "agent.zip", env=Point(), policy_kwargs=net, learning_rate=0.5, device="cpu")
    assert loaded.learning_rate == 0.5


def test_a_schedule_of_stable_baselines3_comes_back(tmp_path: Path) -> None:
    falling = LinearSchedule(0.4, 0.1, 0.5)
    make_prefppo(clip_range=falling, learning_rate=falling).save(tmp_path / "agent.zip")
    loaded = PrefPPO.load(tmp_path / "agent.zip", env=Point(), device="cpu")
    assert [loaded.clip_range(left) for left in (1.0, 0.75, 0.1)] == [0.4, 0.25, 0.1]
    assert loaded.lr_schedule(0.75) == 0.25
    # So does the preset's own, in training's very numbers.
    falling = PPOConfig(clip_range_falls=True).keywords()["clip_range"]
    make_prefppo(clip_range=falling).save(tmp_path / "agent.zip")
    loaded = PrefPPO.load(tmp_path / "agent.zip", env=Point(), device="cpu")
    assert [loaded.clip_range(left) for left in (1.0, 0.5, 0.0)] == [0.4, 0.2, 0.0]
    assert loaded.clip_range(1 / 3) == falling(1 / 3)


def test_a_checkpoint_goes_on_whatever_code_its_agent_has(tmp_path: Path) -> None:
    net = {"net_arch": [8], "features_extractor_class": Halved}
    agent = make_pebble(net=net)
    agent.learn(150)
    agent.save_checkpoint(tmp_path / "checkpoint")
    resumed = make_pebble(net=net)
    resumed.resume(tmp_path / "checkpoint")
    torch.testing.assert_close(resumed.policy.state_dict(), agent.policy.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(("algorithm", "theirs"), [("pebble", SAC), ("prefppo", PPO), ("clip", SAC), ("dqn", TheirDQN)])
def test_stable_baselines3_loads_what_is_exported_for_it(
    tmp_path: Path, learned: dict[str, Any], algorithm: str, theirs: Any
) -> None:
    agent = learned[algorithm]
    agent.save_sb3(tmp_path / "agent.zip")
    loaded, seen = theirs.load(tmp_path / "agent.zip", device="cpu"), observations_of(agent)
    np.testing.assert_array_equal(*(one.predict(seen, deterministic=True)[0] for one in (loaded, agent)))
    with pytest.raises(PrefenvsError, match="saved by Stable-Baselines3"):
        type(agent).load(tmp_path / "agent.zip")
    with pytest.raises(PrefenvsError, match="save_sb3"):
        agent.save(tmp_path / "agent.zip", include=["replay_buffer"])


@pytest.mark.parametrize("algorithm", ["pebble", "dqn"])
def test_an_expert_is_read_from_what_its_agent_saved(tmp_path: Path, learned: dict[str, Any], algorithm: str) -> None:
    learned[algorithm].save(tmp_path / "agent.zip")
    assert type(load_expert(tmp_path / "agent.zip", "cpu")) is type(learned[algorithm])
    learned["prefppo"].save(tmp_path / "ppo.zip")
    with pytest.raises(PrefenvsError, match="pebble, clip, dqn"):
        load_expert(tmp_path / "ppo.zip")
    with pytest.raises(PrefenvsError, match="agent of prefenvs"):
        load_sb3(tmp_path / "ppo.zip")


WRITERS = {
    "replay": (np, "savez"),
    "model": (saved_agent, "save_to_zip_file"),
    "reward": (torch, "save"),
    "answers": (checkpoints, "Store"),
    "state": (Path, "write_text"),
}


@pytest.mark.parametrize("moment", WRITERS)
def test_a_full_disk_keeps_the_former_checkpoint(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder = shutil.copytree(folders["pebble"], tmp_path / "checkpoint")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    agent = make_pebble(prefenvs.make("Pendulum-v1"))
    agent.resume(folder)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*WRITERS[moment], fail)
        with pytest.raises(PrefenvsError, match=r"No space left on device.*is kept") as error:
            agent.save_checkpoint(folder)
    check_message(error, "checkpoint")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    agent.save_checkpoint(folder)
    make_pebble(prefenvs.make("Pendulum-v1")).resume(folder)


def test_a_full_disk_keeps_the_former_saved_agent(
    learned: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned["pebble"].save(tmp_path / "agent.zip")
    before = (tmp_path / "agent.zip").read_bytes()

    def fail(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saved_agent, "save_to_zip_file", fail)
    with pytest.raises(PrefenvsError, match="could not be written"):
        learned["pebble"].save(tmp_path / "agent.zip")
    assert (tmp_path / "agent.zip").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["agent.zip"]


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        gymnasium.spaces.Box(np.array([-1.0, -np.inf]), np.array([np.inf, 2.5]), dtype=np.float64),
        gymnasium.spaces.Box(0, 255, (2, 2, 3), np.uint8),
        gymnasium.spaces.Discrete(4),
    ],
)
def test_spaces_come_back(space: gymnasium.Space[Any]) -> None:
    record = json.loads(json.dumps(saved_agent._describe_space(space), allow_nan=False))
    assert saved_agent._make_space(record) == space
