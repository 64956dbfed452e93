"""Which spaces the learners from fixed data take: each works, or is refused in one line before the first step."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import prefenvs
from prefenvs import Trajectories
from prefenvs.agents import BC, CPL, IQL, OPPO
from prefenvs.agents.offline.dppo import DPPO
from prefenvs.agents.offline.files import find_spaces
from prefenvs.agents.offline.ipl import IPL
from prefenvs.agents.offline.iql import IQLConfig
from prefenvs.datasets import OfflineDataset
from prefenvs.errors import PrefenvsError

LEARNERS = [BC, CPL, DPPO, IPL, IQL, OPPO]


def make_data(actions: np.ndarray, task: str = "", space: spaces.Space | None = None, observations: int = 4):
    rng = np.random.default_rng(0)
    count = len(actions)
    data = Trajectories(
        rng.standard_normal((count, observations)).astype(np.float32),
        actions.astype(np.float32),
        np.array([count]),
        rng.standard_normal(count),
        terminated=np.array([True]),
        final_observations=np.zeros((1, observations), np.float32),
        task=task,
    )
    return OfflineDataset("made", data, action_space=space)


ONE_HOT = np.eye(2)[[0, 1, 1, 0]]
REFUSED = {
    "a discrete task": (ONE_HOT, "CartPole-v1", None, r"the actions of CartPole-v1 are Discrete\(2\); .*prefppo"),
    "a discrete file": (ONE_HOT, "", spaces.Discrete(2, start=-1), r"are Discrete\(2, start=-1\); .*prefppo"),
    "MultiDiscrete": (ONE_HOT, "", spaces.MultiDiscrete([2]), "are MultiDiscrete.*prefppo takes discrete ones"),
    "MultiBinary": (ONE_HOT, "", spaces.MultiBinary(2), "are MultiBinary.*prefppo takes discrete ones"),
    "Dict": (ONE_HOT, "", spaces.Dict({"a": spaces.Box(-1, 1, (2,))}), "are Dict.*no learner here takes such"),
    "whole numbers": (ONE_HOT, "", spaces.Box(0, 9, (2,), np.int64), "are Box.*no learner here takes such"),
    "far away": (100 * ONE_HOT, "", spaces.Box(-1, 1, (2,)), "reach from 0 to 100"),
}


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_other_actions_are_refused_at_construction(kind: str, learner) -> None:
    actions, task, space, message = REFUSED[kind]
    with pytest.raises(PrefenvsError, match=message) as caught:
        learner(make_data(actions, task, space), [], device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "no bounds on both sides"),
        (spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf])), "no bounds on both sides"),
        (spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 0.0])), "or equal ones"),
        (spaces.Box(-1, 1, (3,)), "have 2 entries, but their space is"),
        (spaces.Discrete(2), "prefppo"),
    ],
)
def test_a_space_that_is_given_must_have_bounds_and_fit(space: spaces.Space, message: str) -> None:
    with pytest.raises(PrefenvsError, match=message):
        BC(make_data(ONE_HOT), action_space=space, device="cpu")


def test_an_unbounded_file_takes_its_bounds_from_the_data() -> None:
    unbounded = make_data(3 * ONE_HOT, space=spaces.Box(-np.inf, np.inf, (2,)))
    _, space = find_spaces(unbounded, None)
    np.testing.assert_array_equal(space.high, [3, 3])
    _, space = find_spaces(make_data(ONE_HOT, space=spaces.Box(-2, 2, (2,))), None)
    np.testing.assert_array_equal(space.high, [2, 2])


def test_matrices_of_actions_come_back_as_matrices() -> None:
    rng = np.random.default_rng(0)
    low = np.array([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]], np.float32)
    space = spaces.Box(low, -low)
    learner = BC(make_data(rng.uniform(-1, 1, (8, 6))), action_space=space, device="cpu").learn(3)
    action, _ = learner.predict(np.zeros(4, np.float32))
    assert action.shape == (2, 3)
    assert space.contains(action.astype(np.float32))
    actions, _ = learner.predict(np.zeros((5, 4), np.float32))
    assert actions.shape == (5, 2, 3)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_actions_at_their_bounds_are_within_them(side: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    low, high = (np.round(rng.uniform(*bounds, 50), 1).astype(np.float32) for bounds in ((-3, 0), (0.1, 3)))
    learner = BC(make_data(rng.uniform(low, high, (8, 50))), action_space=spaces.Box(low, high), device="cpu")
    monkeypatch.setattr(learner, "_act", lambda observations, _: torch.full((len(observations), 50), side))
    action, _ = learner.predict(np.zeros(4, np.float32))
    assert learner.action_space.contains(action)
    np.testing.assert_allclose(action, low if side < 0 else high, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 8, 8, 3), (4,), (4, 0)])
def test_observations_that_are_no_vectors_are_refused(shape: tuple[int, ...]) -> None:
    data = Trajectories(np.zeros(shape, np.float32), ONE_HOT.astype(np.float32), np.array([4]))
    with pytest.raises(PrefenvsError, match="expected a vector of at least one number"):
        OfflineDataset("made", data)


def test_actions_beyond_their_bounds_are_told() -> None:
    with pytest.warns(UserWarning, match=r"100.0% of the actions .* outside of their bounds"):
        find_spaces(make_data(3 * ONE_HOT, space=spaces.Box(-1, 1, (2,))), None)


def test_bootstrapping_through_ends_that_are_not_known_is_told() -> None:
    known = make_data(ONE_HOT)
    data = known.trajectories
    unknown = OfflineDataset("made", Trajectories(data.observations, data.actions, data.ends))
    with pytest.warns(UserWarning, match="does not tell which episodes the task ended"):
        IQL(unknown, None, IQLConfig(reward_rule="none"), rewards=np.arange(4.0), device="cpu")


class Gentle(gymnasium.Env):
    """Moves by half a unit at most."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Box(-0.5, 0.5, (1,), np.float32)
    max_episode_steps = 7

    def reset(self, *, seed=None, options=None):
        return np.zeros(4, np.float32), {}

    def step(self, action):
        return np.zeros(4, np.float32), 0.0, False, False, {}


def test_data_of_a_task_of_one_s_own_have_its_bounds_and_time_limit() -> None:
    task = prefenvs.make(Gentle).get_wrapper_attr("task").id
    data = make_data(np.full((4, 1), 0.2), task)
    assert find_spaces(data, None)[1] == Gentle.action_space
    assert data.time_limit == 7
    # Where this process does not know the task, the data alone tell.
    elsewhere = make_data(np.full((4, 1), 0.2), "no_such_module:Gentle")
    assert find_spaces(elsewhere, None)[1] == spaces.Box(-1, 1, (1,), np.float32)
    assert elsewhere.time_limit == 4
