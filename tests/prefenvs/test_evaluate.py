from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import prefenvs
from prefenvs import PrefenvsError
from prefenvs.evaluate import Evaluation, evaluate, evaluation_seeds, random_policy


class Countdown(gymnasium.Env[Any, Any]):
    """An episode of as many steps as its seed says; each step's true reward is the action plus a trace of the seed.

    Success flashes up in the second step of episodes with an even seed, and is gone at the end.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: ClassVar[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.reset_with: list[int] = []
        self.closed = False
        self.shown = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        self.reset_with.append(seed)
        self.number, self.t, self.length = seed % 1000, 0, 2 + seed % 7
        return self._observe(), {"state": np.array([seed, 0.0])}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.t < self.length, "stepped past the end"
        self.t += 1
        info = {
            "true_reward": float(np.ravel(action)[0]) + 0.001 * self.number,
            "state": np.array([self.reset_with[-1], self.t]),
            "success": float(self.t == 2 and self.number % 2 == 0),
        }
        done = self.t == self.length
        return self._observe(), 0.0, done and self.number % 3 == 0, done and self.number % 3 != 0, info

    def close(self) -> None:
        self.closed = True

    def _observe(self) -> Any:
        # The same array every time, as some environments do.
        self.shown[:] = self.number, self.t
        return self.shown


class Discrete(Countdown):
    action_space = spaces.Discrete(3)


class Echo:
    """Acts by the step number that it sees."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        return observation[:, 1:] / 10.0, None


class Counter:
    """A recurrent policy: its state counts the steps since the episode began, and so does its action."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        steps = np.zeros(len(observation)) if state is None else state[0]
        steps = np.where(episode_start, 0.0, steps)
        return steps[:, None] / 10.0, (steps + 1.0,)


def expected(seeds: Any) -> tuple[Any, Any, Any]:
    lengths = 2 + seeds % 7
    numbers = seeds % 1000
    returns = lengths * (lengths - 1) / 20 + 0.001 * numbers * lengths
    return lengths, returns, (numbers % 2 == 0).astype(float)


@given(st.integers(1, 25), st.integers(1, 8), st.integers(0, 100))
def test_every_episode_counts_exactly_once_whatever_its_length(episodes: int, num_envs: int, seed: int) -> None:
    envs = [Countdown() for _ in range(num_envs)]
    finished: list[int] = []
    result = evaluate(Echo(), "t", episodes, seed, envs=envs, success_key="success", progress=finished.append)
    seeds = evaluation_seeds(seed, episodes)
    lengths, returns, success = expected(seeds)
    np.testing.assert_array_equal(result.seeds, seeds)
    np.testing.assert_array_equal(result.lengths, lengths)
    np.testing.assert_allclose(result.returns, returns, atol=1e-5)
    np.testing.assert_array_equal(result.success, success)
    assert len(result) == episodes
    assert finished == list(range(1, episodes + 1))
    for i, env in enumerate(envs):
        assert env.reset_with == seeds[i::num_envs].tolist()
        assert not env.closed


def test_a_recurrent_policy_keeps_its_states_apart() -> None:
    by_memory = evaluate(Counter(), "t", 20, envs=[Countdown() for _ in range(3)])
    by_sight = evaluate(Echo(), "t", 20, envs=[Countdown() for _ in range(3)])
    np.testing.assert_allclose(by_memory.returns, by_sight.returns, atol=1e-5)


@given(st.integers(0, 2**15 - 1), st.integers(0, 2**15 - 1), st.integers(1, 2**16))
def test_evaluation_seeds_fit_32_bits_and_never_meet(seed: int, other: int, episodes: int) -> None:
    seeds = evaluation_seeds(seed, episodes)
    assert seeds[0] >= 2**31
    assert seeds[-1] < 2**32
    if seed != other:
        assert not np.intersect1d(seeds, evaluation_seeds(other, episodes)).size


@pytest.mark.parametrize(("seed", "episodes"), [(-1, 1), (2**15, 1), (0, 0), (0, 2**16 + 1)])
def test_seeds_out_of_range_are_refused(seed: int, episodes: int) -> None:
    with pytest.raises(PrefenvsError):
        evaluation_seeds(seed, episodes)


def test_recorded_episodes_hold_states_beside_their_observations() -> None:
    result = evaluate(Echo(), "t", 7, envs=[Countdown() for _ in range(3)], record=5)
    recorded = result.trajectories
    assert recorded is not None
    np.testing.assert_array_equal(recorded.lengths, result.lengths[:5])
    np.testing.assert_allclose(recorded.returns, result.returns[:5])
    assert recorded.states is not None
    episode = np.repeat(np.arange(5), recorded.lengths)
    np.testing.assert_array_equal(recorded.states[:, 0], result.seeds[episode])
    np.testing.assert_array_equal(recorded.states[:, 1], recorded.observations[:, 1])
    np.testing.assert_array_equal(recorded.observations[:, 0], result.seeds[episode] % 1000)
    np.testing.assert_allclose(recorded.actions[:, 0], recorded.observations[:, 1] / 10)
    assert recorded.terminated is not None
    np.testing.assert_array_equal(recorded.terminated, result.seeds[:5] % 1000 % 3 == 0)
    np.testing.assert_array_equal(recorded.final_observations, np.stack([result.seeds % 1000, result.lengths], 1)[:5])
    assert evaluate(Echo(), "t", 2, envs=[Countdown()]).trajectories is None


def test_discrete_actions_are_recorded_one_hot() -> None:
    env = Discrete()
    result = evaluate(random_policy(env.action_space), "t", 6, envs=[env], record=6)
    assert result.trajectories is not None
    actions = result.trajectories.actions
    assert actions.shape[1] == 3
    np.testing.assert_array_equal(actions.sum(axis=1), 1.0)
    by_episode = np.add.reduceat(actions @ np.arange(3.0), result.trajectories.begins)
    np.testing.assert_allclose(by_episode, result.returns - 0.001 * (result.seeds % 1000) * result.lengths)
    assert len(np.unique(actions.argmax(axis=1))) == 3


def test_figures() -> None:
    returns = np.array([1.0, 100.0, 2.0, 3.0, -50.0, 4.0, 5.0, 6.0])
    evaluation = Evaluation("t", returns, np.full(8, 2), np.arange(8), np.array([1.0, 0, 0, 0, 1, 0, 0, 0]))
    assert evaluation.mean_return == pytest.approx(returns.mean())
    assert evaluation.iqm_return == pytest.approx(3.5)
    assert evaluation.success_rate == pytest.approx(0.25)
    assert evaluation.metrics() == {
        "return_mean": pytest.approx(returns.mean()),
        "return_iqm": pytest.approx(3.5),
        "return_std": pytest.approx(returns.std()),
        "length_mean": 2.0,
        "episodes": 8.0,
        "success_rate": 0.25,
    }
    without = Evaluation("t", returns[:1], np.full(1, 2), np.arange(1))
    assert without.success_rate is None
    assert without.iqm_return == 1.0
    assert "success_rate" not in without.metrics()


def test_random_policy_is_reproducible_and_leaves_the_space_alone() -> None:
    space = spaces.Box(-1.0, 1.0, (2,), np.float32, seed=3)
    before = space.np_random.bit_generator.state
    observations = np.zeros((500, 4))
    actions, _ = random_policy(space, 1).predict(observations)
    again, _ = random_policy(space, 1).predict(observations)
    other, _ = random_policy(space, 2).predict(observations)
    np.testing.assert_array_equal(actions, again)
    assert actions.shape == (500, 2)
    assert not np.array_equal(actions, other)
    assert space.np_random.bit_generator.state == before


def test_wrong_input_is_refused_with_a_way_out() -> None:
    class Open(Countdown):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            observation, reward, terminated, truncated, _ = super().step(action)
            return observation, reward, terminated, truncated, {}

    with pytest.raises(PrefenvsError, match=r"prefenvs\.make"):
        evaluate(Echo(), "t", envs=[Open()])
    with pytest.raises(PrefenvsError, match="'won'"):
        evaluate(Echo(), "t", envs=[Countdown()], success_key="won")
    env = Countdown()
    with pytest.raises(PrefenvsError, match="twice"):
        evaluate(Echo(), "t", envs=[env, env])
    with pytest.raises(PrefenvsError, match="at least 1 environment"):
        evaluate(Echo(), "t", envs=[])
    with pytest.raises(PrefenvsError, match="HalfCheetah-v5"):
        evaluate(Echo(), "HalfCheeta-v5")


def test_environments_are_closed_even_when_the_policy_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Countdown] = []

    def make(task_id: str) -> Countdown:
        made.append(Countdown())
        return made[-1]

    class Broken(Echo):
        def predict(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            raise RuntimeError("broken")

    monkeypatch.setattr("prefenvs.evaluate.make", make)
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(Broken(), "HalfCheetah-v5", episodes=3)
    assert [env.closed for env in made] == [True] * 3


def test_a_task_evaluates_to_the_same_figures_in_new_and_in_reused_environments() -> None:
    space = prefenvs.make("InvertedPendulum-v5").action_space
    envs = [prefenvs.make("InvertedPendulum-v5") for _ in range(2)]
    results = [evaluate(random_policy(space), "prefenvs/InvertedPendulum-v5", 4, envs=used) for used in (envs, envs)]
    results.append(evaluate(random_policy(space), "InvertedPendulum-v5", 4, num_envs=2, record=1))
    for result in results:
        assert result.task == "InvertedPendulum-v5"
        assert result.success is None
        np.testing.assert_array_equal(result.returns, results[0].returns)
        # One point for each step that does not end the episode.
        np.testing.assert_array_equal(result.returns, result.lengths - 1)
    recorded = results[-1].trajectories
    assert recorded is not None
    assert recorded.states is not None
    assert recorded.terminated is not None
    assert recorded.terminated.tolist() == [True]
    other = evaluate(random_policy(space), "InvertedPendulum-v5", 4, seed=1, num_envs=2)
    assert not np.array_equal(other.returns, results[0].returns)
