"""Exported policies and reward models run without this package and give what `predict` gives."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import prefenvs
from prefenvs.agents import BC, CPL, IQL, OPPO, BCConfig, CPLConfig, GaussianReward, IQLConfig, OPPOConfig
from prefenvs.agents.nets.residual import NormalisedObservations
from prefenvs.agents.online.dqn import DQNConfig, make_dqn
from prefenvs.agents.online.pebble import PEBBLE, PebbleConfig
from prefenvs.agents.online.prefppo import PrefPPO, PrefPPOConfig
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.agents.rewards.pearl import GaussianRewardConfig
from prefenvs.agents.rewards.preference_transformer import PreferenceTransformer, PreferenceTransformerConfig
from prefenvs.agents.runs import export
from prefenvs.agents.runs.train import load_reward
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run

SMALL = RewardConfig(width=16, epochs=3, normalise=True)


def first(one: Any, other: Any) -> int:
    return int(other.observations.sum() > one.observations.sum())


def pebble() -> Any:
    config = PebbleConfig(labels=4, per_session=4, interact=60, segment_length=5, unsupervised_steps=40, reward=SMALL)
    small = {"policy_kwargs": {"net_arch": [16]}, "batch_size": 16, "learning_starts": 20}
    return PEBBLE("MlpPolicy", prefenvs.make("Reacher-v5"), first, config, **small)  # type: ignore[arg-type]


def prefppo(task: str, **given: Any) -> Any:
    config = PrefPPOConfig(labels=4, per_session=4, interact=60, segment_length=5, unsupervised_steps=60, reward=SMALL)
    return PrefPPO(
        "MlpPolicy", prefenvs.make(task), first, config, n_steps=60, policy_kwargs={"net_arch": [16]}, **given
    )


ONLINE: dict[str, Callable[[], Any]] = {
    "pebble": pebble,
    "prefppo": lambda: prefppo("Reacher-v5", use_sde=True),
    "prefppo discrete": lambda: prefppo("CartPole-v1"),
    "dqn": lambda: make_dqn("CartPole-v1", DQNConfig(learning_starts=10, width=8)),
}


def keep(learner: Any, folder: Path, task: str) -> Run:
    run = Run.create(folder, f"train {learner.name}", {"task": task})
    learner.save_checkpoint(run.checkpoint)
    return run


def loaded(path: Path, *arrays: Any) -> Any:
    with torch.no_grad():
        return torch.jit.load(str(path))(*map(torch.from_numpy, arrays)).numpy()


def in_plain_python(path: Path, *arrays: Any) -> Any:
    """What a file gives in a process that never imports the package."""
    inputs = path.with_name("inputs.npz")
    np.savez(inputs, *arrays)
    code = (
        "import sys, json, numpy, torch; file = torch.jit.load(sys.argv[1]); arrays = numpy.load(sys.argv[2]);"
        "print(json.dumps(file(*(torch.from_numpy(arrays[name]) for name in arrays.files)).tolist()));"
        "assert not [name for name in sys.modules if name.startswith(('prefenvs', 'stable_baselines3'))]"
    )
    done = subprocess.run([sys.executable, "-c", code, path, inputs], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout))


@pytest.mark.parametrize("name", ONLINE)
def test_online_agents(name: str, tmp_path: Path) -> None:
    agent = ONLINE[name]()
    agent.learn(120)
    run = keep(agent, tmp_path / "run", agent.env.unwrapped.get_attr("task")[0].id)
    paths = export.export_run(run, tmp_path / "out", "torchscript")
    rng = np.random.default_rng(3)
    seen = rng.normal(2.0, 3.0, (7, *agent.observation_space.shape)).astype(np.float32)
    actions = (in_plain_python if name == "prefppo" else loaded)(paths[0], seen)
    np.testing.assert_allclose(actions, agent.predict(seen, deterministic=True)[0], atol=1e-5)
    text = paths[-1].read_text()
    assert f"[B, {seen.shape[1]}] float32" in text
    if name == "dqn":
        assert [path.name for path in paths] == ["policy.pt", "README.md"]
        return
    if name.startswith("prefppo"):
        # The statistics are inside: without them the actions would be others.
        assert isinstance(agent.policy.features_extractor, NormalisedObservations)
        assert float(agent.policy.features_extractor.count) > 0
    done = rng.uniform(-1, 1, (7, agent.reward_model.action_size)).astype(np.float32)
    np.testing.assert_allclose(loaded(paths[1], seen, done), agent.reward_model.predict(seen, done), atol=1e-5)


@pytest.mark.parametrize("true_reward", [False, True])
def test_a_reward_that_was_never_learned_is_none(true_reward: bool, tmp_path: Path) -> None:
    agent = pebble()
    agent.config = dataclasses.replace(agent.config, true_reward=true_reward)
    # The first question would come after 60 steps.
    agent.learn(120, callback=lambda *_: agent.num_timesteps < 50)
    run = keep(agent, tmp_path / "run", "Reacher-v5")
    assert (run.checkpoint / "reward.pt").is_file()
    assert load_reward(run) is None
    paths = export.export_run(run, tmp_path / "out", "torchscript")
    assert [path.name for path in paths] == ["policy.pt", "README.md"]


class Bright(gymnasium.Env[Any, Any]):
    """Shows a square as bright as it acts."""

    observation_space = spaces.Box(0, 255, (48, 52, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    max_episode_steps = 10

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.full((48, 52, 3), self.np_random.integers(256), np.uint8), {}

    def step(self, action: Any) -> Any:
        return np.full((48, 52, 3), int(127 + 127 * action[0]), np.uint8), float(action[0]), False, False, {}


def test_an_agent_that_sees_pictures(tmp_path: Path) -> None:
    config = PebbleConfig(
        labels=4, per_session=4, interact=60, segment_length=5, unsupervised_steps=20, reward=RewardConfig(epochs=1)
    )
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "buffer_size": 100}
    agent = PEBBLE("CnnPolicy", prefenvs.make(Bright), first, config, learning_starts=10, device="cpu", **small)
    agent.learn(45)
    run = keep(agent, tmp_path / "run", "")
    policy, reward, readme = export.export_run(run, tmp_path / "out", "torchscript")
    seen = np.random.default_rng(0).integers(0, 255, (3, 3, 48, 52), dtype=np.uint8)
    np.testing.assert_allclose(loaded(policy, seen), agent.predict(seen, deterministic=True)[0], atol=1e-5)
    np.testing.assert_allclose(loaded(reward, seen), agent.reward_model.predict(seen, None), atol=1e-5)  # type: ignore[arg-type]
    assert "[B, 3, 48, 52] uint8" in readme.read_text()
    found = load_reward(run)
    assert found is not None
    np.testing.assert_allclose(found.predict(seen, seen), agent.reward_model.predict(seen, seen), atol=1e-5)


OFFLINE: dict[str, Callable[[Any, Any], Any]] = {
    "iql": lambda data, labels: IQL(data, labels, IQLConfig(hidden=(16,), reward=SMALL)),
    "cpl": lambda data, labels: CPL(data, labels, CPLConfig(hidden=(16,), pretrain_updates=10)),
    "bc": lambda data, labels: BC(data, None, BCConfig(hidden=(16,))),
}


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_learners(name: str, tmp_path: Path, make_dataset: Any, prefer: Any) -> None:
    data = make_dataset(task="")
    learner = OFFLINE[name](data, prefer(data, 20))
    learner.learn(30)
    path, readme = export.export_run(keep(learner, tmp_path / "run", "point"), tmp_path / "out", "torchscript")
    assert "as the data set holds them" in readme.read_text()
    seen = data.trajectories.observations[:9]
    np.testing.assert_allclose(loaded(path, seen), learner.predict(seen)[0], atol=1e-5)


def test_a_policy_that_remembers_is_refused(tmp_path: Path, make_dataset: Any, prefer: Any) -> None:
    data = make_dataset(task="")
    learner = OPPO(data, prefer(data, 20), OPPOConfig(layers=1, heads=1))
    with pytest.raises(PrefenvsError, match="oppo remembers the steps before"):
        export.export_run(keep(learner, tmp_path / "run", "point"), tmp_path / "out", "torchscript")


SEQUENCES = [
    PreferenceTransformer(3, 2, PreferenceTransformerConfig(width=16, heads=2)),
    GaussianReward(3, 2, GaussianRewardConfig(width=16, heads=2)),
]


@pytest.mark.parametrize("model", SEQUENCES)
def test_sequence_rewards(model: Any, tmp_path: Path) -> None:
    model.context = 6
    part, path = export.describe_reward(model), tmp_path / "reward.pt"
    export.write_torchscript(part, path)
    export.compare(part, export.read_torchscript(path), path)
    inputs = part.draw(4)
    assert inputs["observations"].shape == (4, 6, 3)
    expected = model.predict(inputs["observations"], inputs["actions"])[..., -1]
    np.testing.assert_allclose(loaded(path, *inputs.values()), expected, atol=1e-5)


def test_a_file_that_differs_is_refused(tmp_path: Path) -> None:
    part = export.describe_policy(pebble())
    with pytest.raises(PrefenvsError, match="differ from predict's"):
        export.compare(part, lambda inputs: part.predict(**inputs) + 0.01, tmp_path / "policy.pt")


def test_onnx_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = keep(pebble(), tmp_path / "run", "Reacher-v5")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(PrefenvsError, match="needs the package onnxruntime, which is not installed: pip install"):
        export.export_run(run, tmp_path / "out", "onnx")


def pictures() -> Any:
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "buffer_size": 100, "device": "cpu"}
    config = PebbleConfig(labels=4, per_session=4, segment_length=5)
    return PEBBLE("CnnPolicy", prefenvs.make(Bright), first, config, **small)


@pytest.mark.parametrize("name", [*ONLINE, "pictures", *OFFLINE])
def test_a_policy_as_onnx_gives_what_predict_gives(name: str, tmp_path: Path, make_dataset: Any, prefer: Any) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    if name in OFFLINE:
        data = make_dataset(task="")
        agent = OFFLINE[name](data, prefer(data, 20))
    else:
        agent = pictures() if name == "pictures" else ONLINE[name]()
    run = keep(agent, tmp_path / "run", "")
    paths = export.export_run(run, tmp_path / "out", "onnx")
    assert [path.name for path in paths if "policy" in path.name] == ["policy.onnx"]


@pytest.mark.parametrize("model", SEQUENCES)
def test_a_reward_of_sequences_as_onnx_gives_what_predict_gives(model: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model.context = 6
    part, path = export.describe_reward(model), tmp_path / "reward.onnx"
    export.write_onnx(part, path)
    export.compare(part, export.read_onnx(path), path)
