"""PEBBLE and PrefPPO learn from pictures, which stay bytes from the environment to the reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import prefenvs
from prefenvs.agents.online.dqn import DQNConfig, make_dqn
from prefenvs.agents.online.exploration import compared, shrink
from prefenvs.agents.online.pebble import PEBBLE, PebbleConfig
from prefenvs.agents.online.prefppo import PrefPPO, PrefPPOConfig
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.agents.rewards.image.ensemble import ImageRewardConfig
from prefenvs.agents.rewards.image.observed import PixelReward
from prefenvs.envs.check import check_task
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import evaluate
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment
from prefenvs.store import Store

SIZE = 48


class Dot(gymnasium.Env[Any, Any]):
    """A dot on a grey square goes to the middle. The rest is for its author."""

    metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own
    max_episode_steps = 20
    shape: tuple[int, ...] = (SIZE, SIZE + 4, 3)

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, self.shape, np.uint8)
        self.action_space: Any = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2)
        return self._see(), {}

    def step(self, action: Any) -> Any:
        self.place = np.clip(self.place + 0.2 * np.asarray(action), -1, 1)
        return self._see(), -float(np.abs(self.place).sum()), False, False, {}

    def _see(self) -> Any:
        picture = np.full((SIZE, SIZE + 4, 3), 90, np.uint8)
        row, column = (20 + 18 * self.place).astype(int)
        picture[row : row + 6, column : column + 6] = (250, 20, 20)
        return picture


class Grey(Dot):
    shape = (SIZE, SIZE + 4)

    def _see(self) -> Any:
        return super()._see()[..., 0]


class First(Dot):
    shape = (3, SIZE, SIZE + 4)

    def _see(self) -> Any:
        return np.moveaxis(super()._see(), -1, 0)


class Choosing(Dot):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Discrete(4)

    def step(self, action: Any) -> Any:
        return super().step(np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[action])


REWARD = RewardConfig(members=2, epochs=2)
SCHEDULE: dict[str, Any] = {"labels": 6, "per_session": 3, "interact": 40, "segment_length": 6, "reward": REWARD}


def redder(first: Any, second: Any) -> int:
    assert first.observations.dtype == np.uint8
    middle = slice(SIZE // 3, 2 * SIZE // 3)
    red = [one.observations[-1, 0, middle, middle].sum() for one in (first, second)]
    return int(red[1] > red[0])


def pebble(env: Any = None) -> Any:
    config = PebbleConfig(unsupervised_steps=40, reset_updates=2, **SCHEDULE)
    small: dict[str, Any] = {"batch_size": 8, "learning_starts": 20, "buffer_size": 300, "gradient_steps": 1}
    env = prefenvs.make(Dot) if env is None else env
    return PEBBLE("CnnPolicy", env, redder, config, policy_kwargs={"net_arch": [16]}, seed=0, device="cpu", **small)


def prefppo(env: Any = None) -> Any:
    config = PrefPPOConfig(unsupervised_steps=40, unsupervised_epochs=1, **SCHEDULE)
    small: dict[str, Any] = {"n_steps": 40, "n_epochs": 1, "batch_size": 20, "policy_kwargs": {"net_arch": [16]}}
    env = prefenvs.make(Choosing) if env is None else env
    return PrefPPO("CnnPolicy", env, redder, config, seed=0, device="cpu", **small)


@pytest.mark.parametrize("kind", [Dot, First, Grey])
def test_pictures_have_their_channels_first(kind: Any) -> None:
    env = prefenvs.make(kind)
    channels = 1 if kind is Grey else 3
    assert env.observation_space == spaces.Box(0, 255, (channels, SIZE, SIZE + 4), np.uint8)
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    np.testing.assert_array_equal(
        seen[0], env.unwrapped._see() if kind is Grey else prefenvs.make(Dot).reset(seed=0)[0][0]
    )


@pytest.mark.parametrize("make", [pebble, prefppo])
def test_agents_learn_from_pictures(make: Any, tmp_path: Path) -> None:
    agent = make()
    agent.learn(160)
    assert agent.feedback.labels == 6
    assert agent.reward_learned
    assert isinstance(agent.reward_model, PixelReward)
    recorded = agent.recorder.buffer.trajectories()
    assert (recorded.observations.dtype, recorded.observations.shape[1:]) == (np.uint8, (3, SIZE, SIZE + 4))
    if make is pebble:
        rewards = agent.replay_buffer.rewards[:160, 0]
        expected = agent.learned_reward(agent.replay_buffer.observations[:160, 0], np.zeros((160, 2)))[0]
        np.testing.assert_allclose(rewards, expected, atol=1e-5)
    assert len(evaluate(agent, agent.task, 2)) == 2
    # What is saved and resumed is the same agent.
    agent.save(tmp_path / "agent.zip")
    assert (tmp_path / "agent.zip").stat().st_size < 30e6
    seen = recorded.observations[:5]
    loaded = type(agent).load(tmp_path / "agent.zip", device="cpu")
    np.testing.assert_array_equal(*(one.predict(seen, deterministic=True)[0] for one in (agent, loaded)))
    agent.save_checkpoint(tmp_path / "checkpoint")
    again = make()
    again.resume(tmp_path / "checkpoint")
    np.testing.assert_array_equal(again.reward_model.predict(seen, None), agent.reward_model.predict(seen, None))
    again.learn(40, reset_num_timesteps=False)
    assert again.num_timesteps == 200


def test_a_reward_on_pictures_learns_what_is_preferred() -> None:
    rng = np.random.default_rng(0)

    def segment() -> Segment:
        bright = rng.integers(60, 200)
        return Segment(rng.integers(0, bright, (4, 2, SIZE, SIZE), dtype=np.uint8), np.zeros((4, 1)))

    queries = [Query((segment(), segment())) for _ in range(40)]
    labels = [
        Preference(q, np.eye(2)[int(q.segments[1].observations.mean() > q.segments[0].observations.mean())])
        for q in queries
    ]
    model = PixelReward((2, SIZE, SIZE), ImageRewardConfig(members=2, stride=2, epochs=30), device="cpu")
    figures = model.fit(labels[:30])
    assert figures["labels"] == 30
    assert model.table.inputs.dtype == torch.uint8
    beliefs = model.preference_probabilities(queries[30:]).mean(0).argmax(1)
    right = [int(np.argmax(label.probabilities)) for label in labels[30:]]  # type: ignore[arg-type]
    assert (beliefs == right).mean() >= 0.9
    with pytest.raises(PrefenvsError, match=r"takes pictures \[N, 2, 48, 48\], got"):
        model.predict(np.zeros((1, 3, SIZE, SIZE), np.uint8))


def test_exploration_compares_pictures_by_their_cells() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (3, 2, 64, 80), dtype=np.uint8)
    cells = compared(pictures, torch.device("cpu")).numpy()
    expected = pictures.reshape(3, 2, 8, 8, 8, 10).mean((3, 5)).reshape(3, -1) / 255
    np.testing.assert_allclose(cells, expected, atol=1e-5)
    np.testing.assert_allclose(shrink(torch.from_numpy(pictures).float()).numpy(), expected, atol=1e-5)


def test_a_store_keeps_pictures(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (3, 3, SIZE, SIZE), dtype=np.uint8)
    query = Query((Segment(pictures, np.zeros((3, 2))), Segment(pictures[::-1], np.zeros((3, 2)))))
    with Store(tmp_path / "labels.sqlite") as store:
        store.add_preferences([Preference(query, np.array([1.0, 0.0]))])
        (answer,) = store.preferences()
    assert answer.query.segments[0].observations.dtype == np.uint8
    np.testing.assert_array_equal(answer.query.segments[0].observations, pictures)


def test_the_doctor_knows_pictures() -> None:
    task = prefenvs.make(Dot).get_wrapper_attr("task")
    assert [result.name for result in check_task(task.id, rendering=False) if not result.passed] == []


class Small(Dot):
    shape = (20, 20, 3)

    def _see(self) -> Any:
        return super()._see()[:20, :20]


class Signed(Dot):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 200, self.shape, np.uint8)

    def _see(self) -> Any:
        return np.minimum(super()._see(), 200)


class Both(Dot):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict({"camera": self.observation_space, "arm": spaces.Box(-1, 1, (2,))})  # type: ignore[assignment]

    def _see(self) -> Any:
        return {"camera": super()._see(), "arm": self.place.astype(np.float32)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pebble(prefenvs.make(Small)), "48 pixels or more"),
        (lambda: prefenvs.make(Signed), "observe a Box with low=0 and high=255"),
        (lambda: prefenvs.make(Both), "pictures beside other things"),
        (lambda: PEBBLE("MlpPolicy", prefenvs.make(Dot), redder), "shows pictures, and MlpPolicy .* choose CnnPolicy"),
        (lambda: PEBBLE("CnnPolicy", prefenvs.make("Pendulum-v1"), redder), "shows vectors, and CnnPolicy"),
        (lambda: make_dqn(prefenvs.make(Choosing).get_wrapper_attr("task").id, DQNConfig()), "DQN sees vectors, not"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(PrefenvsError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
