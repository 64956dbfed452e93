"""RLIF: when an expert takes over, what that costs, and that recorded interventions give the same rewards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prefenvs
from prefenvs.agents.direct.rlif import RLIF, RLIFConfig, load_expert_named
from prefenvs.agents.registry import Offline, find_algorithm
from prefenvs.datasets.formats.npz import read_npz, write_npz
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.tasks import find_task

from ..worlds import make_point_data

SMALL: dict[str, Any] = {
    "learning_starts": 100,
    "gradient_steps": 0,
    "batch_size": 16,
    "policy_kwargs": {"net_arch": [16, 16]},
    "seed": 0,
    "device": "cpu",
}


class Still:
    """Does nothing, and thinks that what turns less is better."""

    def predict(self, observations: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return np.zeros((len(observations), 1), np.float32), None

    def advantage(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return -np.abs(np.asarray(actions)[:, 0])


def learn(config: RLIFConfig, steps: int = 450, expert: Any = None) -> RLIF:
    agent = RLIF("MlpPolicy", prefenvs.make("Pendulum-v1"), expert or Still(), config, **SMALL)
    return agent.learn(steps)


@pytest.mark.parametrize("trigger", ["value", "action"])
def test_a_bad_step_is_punished_and_the_expert_acts_for_the_next_ones(trigger: Any) -> None:
    threshold = {"value": 1.0, "action": 0.5}[trigger]
    agent = learn(RLIFConfig(trigger=trigger, threshold=threshold, mistakes=0.0, takeover=3))
    buffer = agent.replay_buffer
    torques, rewards, done = (x[:450, 0] for x in (2.0 * buffer.actions[..., 0], buffer.rewards, buffer.dones))
    # Written anew from what is described: walk through the steps.
    left, expected, expert_steps = 0, np.zeros(450), 0
    for step in range(450):
        if left:
            assert torques[step] == 0.0
            left, expert_steps = left - 1, expert_steps + 1
        elif abs(torques[step]) > 1.0 and not done[step] and step < 449:
            expected[step], left = -1.0, 3
        left = 0 if done[step] else left
    np.testing.assert_array_equal(rewards, expected)
    assert agent.expert_steps == expert_steps > 30
    assert agent.interventions == -expected.sum()
    # Recorded flags give the same rewards.
    pool = agent.recorder.buffer.trajectories()
    flags = np.zeros(400, bool)
    for begin in np.flatnonzero(expected[:400]):
        end = pool.ends[pool.ends > begin][0]
        flags[begin + 1 : min(begin + 4, end)] = True
    recorded = OfflineDataset("watched", pool, interventions=flags).intervention_rewards()
    later = np.append(flags[1:] & ~flags[:-1], False)
    np.testing.assert_array_equal(recorded, -later.astype(float))
    # A takeover that follows another at once is one intervention in flags alone.
    assert ((recorded == 0) | (expected[:400] == -1)).all()


def test_demonstrations_come_first_and_learning_ends_with_the_experts_steps() -> None:
    config = RLIFConfig(threshold=1.0, demonstrations=60, expert_steps=100)
    agent = learn(config, 2_000)
    assert 100 <= agent.expert_steps <= 104
    assert agent.num_timesteps < 2_000
    assert (agent.replay_buffer.actions[:60] == 0).all()
    assert (agent.replay_buffer.rewards[:60] == 0).all()


def test_a_body_that_normalises_sees_every_observation() -> None:
    small = SMALL | {"policy_kwargs": {"net_arch": [8], "body": "simba"}}
    agent = RLIF("MlpPolicy", prefenvs.make("Pendulum-v1"), Still(), RLIFConfig(trigger="action"), **small)
    agent.learn(120)
    assert int(agent.actor.features_extractor.count) == 120


def test_chance_takes_over_at_its_rate_whatever_is_done() -> None:
    agent = learn(RLIFConfig(trigger="random", rate=0.25, takeover=1), 1_000)
    own = 1_000 - agent.expert_steps
    assert agent.interventions / own == pytest.approx(0.25, abs=0.05)


def test_what_cannot_be_is_refused_in_a_line() -> None:
    class Blind:
        predict = Still.predict

    for config, match in (
        ({"trigger": "no"}, "choose value, action, random"),
        ({"demonstrations": 10, "expert_steps": 10}, "leave none"),
    ):
        with pytest.raises(PrefenvsError, match=match):
            RLIFConfig(**config)
    with pytest.raises(PrefenvsError, match="Blind has not: choose --trigger action"):
        learn(RLIFConfig(), expert=Blind())
    with pytest.raises(PrefenvsError, match="no scripted policy"):
        load_expert_named("scripted", find_task("Pendulum-v1"))
    with pytest.raises(PrefenvsError, match="has no predict"):
        load_expert_named("math:pi", find_task("Pendulum-v1"))
    with pytest.raises(PrefenvsError, match="cannot be made: TypeError"):
        load_expert_named("math:cos", find_task("Pendulum-v1"))
    assert isinstance(load_expert_named(f"{__name__}:Still", find_task("Pendulum-v1")), Still)


def test_iql_learns_from_recorded_interventions_that_a_file_keeps(tmp_path: Path) -> None:
    dataset = make_point_data(episodes=4, task="")
    ends = dataset.trajectories.ends
    flags = np.zeros(ends[-1], bool)
    # One in the middle of an episode, one over an episode's end, one that an episode begins with.
    flags[[5, 6, 7, ends[0] - 1, ends[0], ends[1]]] = True
    watched = dataclasses.replace(dataset, interventions=flags)
    loaded = read_npz(write_npz(watched, tmp_path / "watched"))
    np.testing.assert_array_equal(loaded.interventions, flags)
    expected = np.zeros(ends[-1])
    expected[[4, ends[0] - 2]] = -1.0
    np.testing.assert_array_equal(loaded.intervention_rewards(), expected)
    algorithm = find_algorithm("iql")
    settings = algorithm.settings(find_task("Pendulum-v1"), "small", interventions=True)
    (learner,) = algorithm.make_offline(settings, [Offline(loaded, device="cpu")])
    assert learner.learns_from == "interventions"
    assert learner.data is not None
    np.testing.assert_array_equal(learner.data.rewards.numpy(), expected[learner.data.rows.numpy()])
    with pytest.raises(PrefenvsError, match="tells of no intervention"):
        algorithm.make_offline(settings, [Offline(dataset, device="cpu")])
