"""Seeds derived from one: nothing that is told apart by its seed alone shares random numbers."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import prefenvs
from prefenvs.agents import PEBBLE, PrefPPO
from prefenvs.agents.online.dqn import DQNConfig, make_dqn
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.envs.vectors import make_envs
from prefenvs.evaluate import FIRST_SEED, evaluation_seeds
from prefenvs.internal.seeding import derive_seed, sequence
from prefenvs.oracles import HybridOracle, PartialReturnOracle, RaterContext, Teacher, make_rater
from prefenvs.preferences import Query
from prefenvs.segments import Array, Segment

TASK = "Pendulum-v1"


def starts(venv: VecEnv) -> set[bytes]:
    """The start states of a vector of environments, as its next reset gives them."""
    return {row.tobytes() for row in np.asarray(venv.reset())}


def pebble(seed: int, count: int) -> BaseAlgorithm:
    return PEBBLE("MlpPolicy", make_envs(TASK, count, seed), seed=seed, device="cpu", buffer_size=100)


def prefppo(seed: int, count: int) -> BaseAlgorithm:
    return PrefPPO("MlpPolicy", make_envs(TASK, count, seed), seed=seed, device="cpu", n_steps=8, batch_size=8)


def own_vector(seed: int, count: int) -> BaseAlgorithm:
    """A vector that the user made with Stable-Baselines3's own class."""
    envs = DummyVecEnv([lambda: prefenvs.make(TASK)] * count)
    return PEBBLE("MlpPolicy", envs, seed=seed, device="cpu", buffer_size=100)


def other_algorithm(seed: int, count: int) -> BaseAlgorithm:
    """An algorithm that seeds the vector itself and knows nothing of us, such as imitation's agents."""
    return PPO("MlpPolicy", make_envs(TASK, count, seed), seed=seed, device="cpu", n_steps=8, batch_size=8)


@pytest.mark.parametrize("make_agent", [pebble, prefppo, own_vector, other_algorithm], ids=lambda make: make.__name__)
def test_runs_of_neighbouring_seeds_share_no_environment(make_agent: Callable[[int, int], BaseAlgorithm]) -> None:
    count, found = 6, []
    for seed in (0, 1, 2, 5):
        venv = make_agent(seed, count).env
        assert venv is not None
        found.append(starts(venv))
    assert all(len(own) == count for own in found)
    assert not any(a & b for a, b in itertools.combinations(found, 2))
    again = make_agent(1, count).env
    assert again is not None
    assert starts(again) == found[1]


def test_dqn_and_processes_are_seeded_alike() -> None:
    boards = [make_dqn("CartPole-v1", DQNConfig(), seed).env for seed in (0, 1)]
    assert not starts(boards[0]) & starts(boards[1])  # type: ignore[arg-type]
    apart = TrajectoryRecorder(SubprocVecEnv([lambda: prefenvs.make(TASK)] * 2, start_method="fork"))
    together = TrajectoryRecorder(DummyVecEnv([lambda: prefenvs.make(TASK)] * 2))
    try:
        assert apart.seed(3) == together.seed(3)
        np.testing.assert_array_equal(apart.reset(), together.reset())
        # Only the next reset is seeded.
        assert starts(together).isdisjoint(starts(together))
    finally:
        apart.close()


def test_no_training_seed_is_one_of_an_evaluation() -> None:
    venv = make_envs(TASK, 64, 0)
    for seed in (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40):
        assert max(venv.seed(seed)) < FIRST_SEED  # type: ignore[type-var]
    assert evaluation_seeds(0, 1).min() >= FIRST_SEED


def test_parts_of_one_evaluation_share_no_episode() -> None:
    parts = evaluation_seeds(7, 10), evaluation_seeds(7, 10, first=10), evaluation_seeds(8, 10)
    assert len(np.unique(np.concatenate(parts))) == 30
    with pytest.raises(prefenvs.PrefenvsError, match="from number 65530 on"):
        evaluation_seeds(0, 10, first=65_530)


def test_purposes_and_seeds_have_streams_of_their_own() -> None:
    names: list[tuple[Any, ...]] = [
        ("rater",),
        ("routing",),
        ("environments", 0),
        ("environments", 1),
        ("x", 0, 0),
        (0,),
    ]
    found = {derive_seed(seed, *name) for seed in range(50) for name in names}
    assert len(found) == 50 * len(names)
    assert all(0 <= seed < 2**31 for seed in found)
    assert derive_seed(3, "rater") == derive_seed(3, "rater")
    with pytest.raises(prefenvs.PrefenvsError, match="at least 0, got -1"):
        derive_seed(-1, "rater")


def errors(oracle: Any, queries: list[Query]) -> Array:
    """Which queries a teacher who errs answers wrongly."""
    oracle.ask(queries)
    return np.array([answer.best == 1 for answer in oracle.collect()])


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    """Pairs whose first segment is better."""
    rng = np.random.default_rng(0)
    segments = [
        Segment(rng.normal(size=(2, 1)).astype(np.float32), np.zeros((2, 1), np.float32), np.full(2, 1.0 - i % 2))
        for i in range(4_000)
    ]
    return [Query((segments[i], segments[i + 1])) for i in range(0, len(segments), 2)]


def overlap(first: Array, second: Array) -> float:
    """Share of the first one's errors that the second makes too."""
    return float((first & second).sum() / first.sum())


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_two_erring_raters_of_a_hybrid_err_independently(queries: list[Query], seed: int) -> None:
    rater = make_rater("hybrid:cheap=mistake,costly=noisy,route=random", RaterContext(TASK, seed))
    assert isinstance(rater, HybridOracle)
    assert isinstance(rater.cheap, PartialReturnOracle)
    assert isinstance(rater.costly, PartialReturnOracle)
    for one in (rater.cheap, rater.costly):
        one.teacher = Teacher(mistake=0.1)
    wrong = errors(rater.cheap, queries), errors(rater.costly, queries)
    assert min(part.sum() for part in wrong) > 100
    assert overlap(*wrong) < 0.2


@pytest.mark.parametrize("name", ["mistake", "regret-mistake"])
def test_every_simulated_rater_takes_the_seed_it_is_given(queries: list[Query], name: str) -> None:
    first, second = (make_rater(name, RaterContext("Delivery-v0", seed)) for seed in (0, 1))
    states = [one._rng.bit_generator.state["state"]["state"] for one in (first, second)]  # type: ignore[attr-defined]
    assert states[0] != states[1]


@pytest.mark.parametrize("other", ["plain", "pair"], ids=["default_rng(seed)", "default_rng([seed, 0])"])
def test_a_rater_does_not_err_by_the_numbers_that_its_queries_are_drawn_with(queries: list[Query], other: str) -> None:
    drawn = np.random.default_rng(5 if other == "plain" else [5, 0]).random(len(queries)) < 0.1
    rater = PartialReturnOracle(Teacher(mistake=0.1), seed=5)
    assert overlap(errors(rater, queries), drawn) < 0.25
    assert np.random.default_rng(sequence(5, "rater")).random() == np.random.default_rng(sequence(5, "rater")).random()
