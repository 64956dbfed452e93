"""Reward models, selectors and schedules of one's own, and models of sequences, in the online learners."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

import prefenvs
from prefenvs.agents import (
    PEBBLE,
    GaussianReward,
    GaussianRewardConfig,
    PebbleConfig,
    PreferenceTransformer,
    PreferenceTransformerConfig,
    PrefPPO,
    PrefPPOConfig,
    RewardConfig,
)
from prefenvs.agents.online.replay import RelabelBuffer
from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.agents.rewards.groups import GroupReward
from prefenvs.agents.rewards.options.surf import SurfConfig
from prefenvs.agents.runs.train import load_reward
from prefenvs.cli import main
from prefenvs.errors import PrefenvsError
from prefenvs.metrics.agreement import mean_rewards
from prefenvs.oracles import PartialReturnOracle
from prefenvs.preferences import Preference
from prefenvs.protocols import RewardModel, predict_segments
from prefenvs.queries import Selector
from prefenvs.runs import Run

from ...worlds import Point, Rater


class Linear:
    """A linear reward: the mean difference between what was preferred and what was not."""

    def __init__(self, observation_size: int, action_size: int, seed: int = 0) -> None:
        self.weights = np.zeros(observation_size + action_size, np.float32)

    def predict(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return (np.concatenate([observations, actions], 1) @ self.weights)[None]

    def fit(self, preferences: Sequence[Preference]) -> dict[str, float]:
        for answer in (answer for answer in preferences if answer.best is not None):
            sums = [np.concatenate([s.observations, s.actions], 1).mean(0) for s in answer.query.segments]
            self.weights += 0.01 * (sums[answer.best] - sums[1 - answer.best])
        return {"labels": float(len(preferences))}

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.weights.tolist()))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        weights = json.loads(Path(path).read_text())
        model = cls(len(weights), 0)
        model.weights = np.array(weights, np.float32)
        return model


TINY: dict[str, Any] = {"width": 8, "layers": 1, "heads": 1, "epochs": 3}
TRANSFORMER = functools.partial(PreferenceTransformer, config=PreferenceTransformerConfig(**TINY), device="cpu")
GAUSSIAN = functools.partial(GaussianReward, config=GaussianRewardConfig(**TINY), device="cpu")
STEPS = 420


def make_pebble(reward_model: Any, env: Any = None, oracle: Any = None, **settings: Any) -> PEBBLE:
    base: dict[str, Any] = {
        "labels": 12,
        "per_session": 4,
        "interact": 60,
        "segment_length": 8,
        "unsupervised_steps": 120,
        "reset_updates": 2,
        "selector": "entropy",
    }
    return PEBBLE(
        "MlpPolicy",
        env or prefenvs.make("Pendulum-v1"),
        oracle or PartialReturnOracle("oracle", seed=0),
        PebbleConfig(**base | settings),
        learning_starts=100,
        batch_size=8,
        buffer_size=5_000,
        policy_kwargs={"net_arch": [8]},
        reward_model=reward_model,
        seed=0,
        device="cpu",
    )


@pytest.mark.parametrize("model", [Linear, TRANSFORMER, GAUSSIAN], ids=["linear", "transformer", "gaussian"])
def test_a_model_of_one_s_own_trains_pebble_and_resumes_exactly(model: Any, tmp_path: Path) -> None:
    unbroken = make_pebble(model)
    unbroken.learn(300)
    unbroken.feedback.total_steps = STEPS
    unbroken.save_checkpoint(tmp_path / "checkpoint")
    assert unbroken.feedback.labels > 0
    assert np.unique(unbroken.replay_buffer.rewards[:290]).size > 100
    unbroken.learn(STEPS - 300, reset_num_timesteps=False)
    resumed = make_pebble(model)
    resumed.resume(tmp_path / "checkpoint")
    resumed.learn(STEPS - 300, reset_num_timesteps=False)
    assert type(resumed.reward_model) is type(unbroken.reward_model)
    for name in ("observations", "actions", "rewards"):
        rows = [getattr(agent.replay_buffer, name)[:STEPS] for agent in (resumed, unbroken)]
        np.testing.assert_array_equal(*rows, err_msg=name)
    assert resumed.feedback.labels == unbroken.feedback.labels == 12


def test_the_replay_holds_the_rewards_of_whole_episodes() -> None:
    """As `relabel` computes them offline, whichever rows were filled in when."""
    agent = make_pebble(TRANSFORMER, Point(), Rater())
    agent.learn(300)
    model = agent.reward_model
    assert isinstance(model, PreferenceTransformer)
    assert model.context == agent.replay_buffer.context == 8
    episodes = agent.recorder.buffer.trajectories()
    rows = len(episodes.observations)
    np.testing.assert_array_equal(episodes.observations, agent.replay_buffer.observations[:rows, 0])
    np.testing.assert_allclose(agent.replay_buffer.rewards[:rows, 0], model.relabel(episodes), atol=1e-5)


def test_windows_stay_within_episodes_environments_and_the_ring() -> None:
    """The reward counts the steps that it can see, at most 4: so it tells where each window begins."""

    def count(observations: np.ndarray, actions: np.ndarray, ends: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        assert ends is not None
        begins = np.concatenate([[0], ends[:-1]])
        seen = [np.minimum(np.arange(end - begin) + 1, 4) for begin, end in zip(begins, ends, strict=True)]
        return np.concatenate(seen).astype(np.float32), observations[:, 1]

    env = Point()
    buffer = RelabelBuffer(20, env.observation_space, env.action_space, "cpu", n_envs=2)
    buffer.context = 4
    lengths, clock, episode = (5, 7), [0, 0], [0, 1]
    for _ in range(23):
        seen = np.array([[episode[i], clock[i]] for i in range(2)], np.float32)
        clock = [time + 1 for time in clock]
        following = np.array([[episode[i], clock[i]] for i in range(2)], np.float32)
        done = np.array([clock[i] == lengths[i] for i in range(2)])
        buffer.add(seen, following, np.zeros((2, 1)), np.zeros(2), done, [{}, {}])
        episode = [number + 2 * ended for number, ended in zip(episode, done, strict=True)]
        clock = [0 if ended else time for time, ended in zip(clock, done, strict=True)]
        if buffer.added % 3 == 0:
            buffer.fill(count)
    buffer.fill(count)
    times = buffer.observations[:, :, 1]
    np.testing.assert_array_equal(buffer.spreads, times)
    np.testing.assert_array_equal(buffer.rewards, np.minimum(times + 1, 4))
    # After the ring has wrapped, the first steps of its oldest episodes are lost.
    oldest = (np.arange(10) - buffer.pos) % 10
    buffer.relabel(count, chunk=6)
    np.testing.assert_array_equal(buffer.rewards, np.minimum(np.minimum(times, oldest[:, None]) + 1, 4))


@pytest.mark.parametrize("model", [Linear, TRANSFORMER], ids=["linear", "transformer"])
def test_prefppo_rewards_its_rollouts_by_a_model_of_one_s_own(model: Any) -> None:
    config = PrefPPOConfig(
        labels=8, per_session=4, interact=60, segment_length=8, unsupervised_steps=60, selector="uniform"
    )
    sizes: dict[str, Any] = {"n_steps": 40, "batch_size": 20, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}}
    agent = PrefPPO("MlpPolicy", Point(), Rater(), config, reward_model=model, seed=0, device="cpu", **sizes)
    agent.learn(200)
    assert agent.reward_learned
    # Rollouts of 40 steps cut episodes of 25: the last one's rewards are those of whole episodes.
    episodes = agent.recorder.buffer.trajectories()
    expected = (
        agent.reward_model.relabel(episodes)
        if isinstance(agent.reward_model, PreferenceTransformer)
        else agent.reward_model.predict(episodes.observations, episodes.actions)[0]
    )
    buffer = agent.rollout_buffer
    observations = buffer.observations.reshape(-1, 2)
    at = len(expected) - 40
    np.testing.assert_array_equal(observations, episodes.observations[at:])
    before = {0: list(zip(episodes.observations[at - 10 : at], episodes.actions[at - 10 : at], strict=True))}
    np.testing.assert_allclose(agent._learned(observations, before), expected[at:], atol=1e-5)


def test_a_model_can_be_named_and_must_keep_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{__name__}:Linear"
    assert isinstance(make_pebble(name).reward_model, Linear)
    assert isinstance(Linear(2, 1), RewardModel)
    model = Linear(3, 1)
    assert make_pebble(model).reward_model is model
    with pytest.raises(PrefenvsError, match="has no fit and no save and no load"):
        make_pebble(type("Half", (), {"predict": Linear.predict, "__init__": Linear.__init__}))
    with pytest.raises(PrefenvsError, match=r"holds no 'Linaer'\. Did you mean Linear"):
        make_pebble(f"{__name__}:Linaer")
    monkeypatch.setattr(Linear, "predict", lambda self, observations, actions: np.zeros(len(observations)))
    with pytest.raises(
        PrefenvsError, match=r"returned rewards of shape \[2\] for 2 steps: predict returns \[members, 2\]"
    ):
        make_pebble(Linear).learn(STEPS)


def test_a_model_of_one_s_own_on_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    main(["train", "pebble", "--task", "Pendulum-v1", "--reward-model", f"{__name__}:Linear", "--selector", "uniform",
          "--preset", "small", "--folder", str(folder), "--no-progress", "--steps", "420", "--labels", "8",
          "--per-session", "4", "--interact", "100", "--segment-length", "10", "--unsupervised-steps", "100",
          "--learning-starts", "190", "--episodes", "1", "--hidden", "8"])  # fmt: skip
    model = load_reward(Run.open(folder))
    assert isinstance(model, Linear)
    assert np.any(model.weights)
    assert mean_rewards(model, np.ones((3, 10, 3), np.float32), np.ones((3, 10, 1), np.float32)).shape == (3, 10)
    with (folder / "log" / "from-0" / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["time/total_timesteps"] == "420"


def test_a_kind_of_reward_model_goes_by_its_name() -> None:
    kinds = {"transformer": PreferenceTransformer, "gaussian": GaussianReward, "groups": GroupReward}
    for name, kind in ({"ensemble": RewardEnsemble, "mlp": RewardEnsemble} | kinds).items():
        assert type(make_pebble(name).reward_model) is kind
    assert make_pebble("transformer").reward_model.config.epochs == 100  # the small settings
    choose = "choose ensemble, transformer, gaussian, groups, or module:NAME of your own"
    with pytest.raises(PrefenvsError, match=f"'image' cannot be used here: {choose}"):
        make_pebble("image")
    with pytest.raises(PrefenvsError, match=f"'transfomer' is unknown: {choose}. Did you mean transformer"):
        make_pebble("transfomer")


def test_a_setting_of_the_ensemble_is_refused_beside_a_model_of_one_s_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "pebble", "--task", "Pendulum-v1", "--reward-model", f"{__name__}:Linear",
              "--reward.width", "64", "--folder", str(tmp_path / "run"), "--no-progress"])  # fmt: skip
    assert "--reward.width is about the reward ensemble, in whose place is Linear" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_part_that_raises_is_named_in_one_line() -> None:
    class Unmade(Linear):
        def __init__(self, observation_size: int, action_size: int, seed: int = 0) -> None:
            raise RuntimeError("no weights")

    class Unfit(Linear):
        def fit(self, preferences: Sequence[Preference]) -> dict[str, float]:
            raise ZeroDivisionError("no spread")

    def late(per_session: int, steps: int, total: int) -> int:
        raise KeyError("phase")

    with pytest.raises(PrefenvsError, match=r"Unmade.* cannot be made: RuntimeError: no weights"):
        make_pebble(Unmade)
    with pytest.raises(PrefenvsError, match=r"Unfit fails to fit \d+ answers: ZeroDivisionError: no spread"):
        make_pebble(Unfit).learn(STEPS)
    with pytest.raises(PrefenvsError, match=r"the schedule fails after \d+ steps: KeyError: 'phase'"):
        make_pebble(Linear, schedule=late).learn(STEPS)


def test_what_one_member_cannot_do_is_refused_before_training() -> None:
    for settings in ({"selector": "disagreement"}, {"aggregate": "mean-std"}, {"bonus": 0.05}):
        with pytest.raises(PrefenvsError, match="compares a reward model's members, and PreferenceTransformer has one"):
            make_pebble(TRANSFORMER, **settings).learn(STEPS)
    for settings in ({"surf": SurfConfig(margin=2)}, {"restart": True}, {"agent_weight": 0.1}):
        with pytest.raises(PrefenvsError, match=f"{next(iter(settings))} is about the reward ensemble"):
            make_pebble(Linear, reward=RewardConfig(**settings)).learn(STEPS)


def test_a_selector_sees_sequences_as_the_model_scores_them() -> None:
    model = TRANSFORMER(observation_size=2, action_size=1, seed=0)
    model.context = 5
    rng = np.random.default_rng(0)
    observations, actions = rng.normal(size=(6, 5, 2)), rng.normal(size=(6, 5, 1))
    together = predict_segments(model, observations, actions)
    apart = [model.predict(*pair)[0] for pair in zip(observations, actions, strict=True)]
    np.testing.assert_allclose(together[0], apart, atol=1e-6)


CALLS: list[tuple[Any, ...]] = []


def newest(pool: Any, count: int, length: int, reward_model: Any, labelled: Any, rng: Any) -> list[Any]:
    """Ask about the newest episodes alone."""
    CALLS.append((count, length, len(labelled)))
    return Selector("uniform", last_episodes=3).select(pool, count, length, reward_model, labelled, rng)


class Newest:
    select = staticmethod(newest)


def halving(size: int, steps: int, total: int) -> float:
    return size * (1 - steps / total)


@pytest.mark.parametrize("selector", [newest, Newest, Newest(), f"{__name__}:newest", f"{__name__}:Newest"])
def test_a_selector_and_a_schedule_of_one_s_own(selector: Any) -> None:
    CALLS.clear()
    rater = Rater()
    schedule = halving if callable(selector) else f"{__name__}:halving"
    make_pebble(Linear, Point(), rater, selector=selector, schedule=schedule, per_session=8).learn(400)
    sizes = [len(queries) for queries in rater.asked]
    # 221 of 400 steps are made before the first session; the first one is uniform.
    assert sizes[0] == 3
    assert sizes == sorted(sizes, reverse=True)
    assert [(count, length) for count, length, _ in CALLS] == [(size, 8) for size in sizes[1:]]
    assert CALLS[0][2] == sizes[0]


def test_nonsense_of_a_selector_or_a_schedule_is_told_in_one_line() -> None:
    with pytest.raises(PrefenvsError, match="query selector 3 is no selector"):
        PebbleConfig(selector=3)  # type: ignore[arg-type]
    with pytest.raises(PrefenvsError, match="the schedule returned 'many' after 220 steps"):
        make_pebble(Linear, schedule=lambda *_: "many").learn(STEPS)  # type: ignore[arg-type, return-value]
    with pytest.raises(PrefenvsError, match="returned 2 of str: it returns at most 4"):
        make_pebble(Linear, Point(), Rater(), selector=lambda *_: ["one", "two"]).learn(STEPS)  # type: ignore[list-item]
