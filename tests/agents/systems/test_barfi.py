"""BARFI: its gradient is the implicit one, its primary reward the best fit to labels, and a heuristic that misleads
loses its weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prefenvs.agents.tabular.barfi import BARFI, BARFIConfig, fit_weights, mixing_gradient, soft_policy, soft_values
from prefenvs.bench.claims.delivery import drive, make_segment, random_segment
from prefenvs.bench.claims.tabular import coins
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.envs.delivery.board import find_board
from prefenvs.errors import PrefenvsError
from prefenvs.oracles import PartialReturnOracle, Teacher
from prefenvs.preferences import Preference, Query

BOARD = find_board(4)
GAMMA, TEMPERATURE = 0.7, 0.3


def small_world() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards [3, 5, 4], following cells [5, 4] and chances of a start [5] of five cells, one move of which ends."""
    rng = np.random.default_rng(0)
    rewards, following = rng.normal(size=(3, 5, 4)), rng.integers(0, 5, (5, 4))
    following[2, 1] = 5
    return torch.from_numpy(rewards), torch.from_numpy(following), torch.tensor([0.5, 0.5, 0, 0, 0]).double()


def solve(mixing: torch.Tensor, rewards: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """The soft optimum [5, 4] of a mixture, by value iteration."""
    known, values = torch.ones(5, 4, dtype=torch.bool), torch.zeros(5).double()
    for _ in range(80):
        after = torch.cat([values, torch.zeros(1)])[following]
        action_values = torch.einsum("k,kca->ca", mixing, rewards) + GAMMA * after
        values = soft_values(action_values, TEMPERATURE, known)
    return soft_policy(action_values, TEMPERATURE, known)


def returns(logits: torch.Tensor, reward: torch.Tensor, world: tuple[torch.Tensor, ...], bonus: float) -> torch.Tensor:
    """The discounted return of the policy with these logits [5, 4], by unrolling; differentiable."""
    _, following, starts = world
    policy, value = logits.softmax(1), torch.zeros(5).double()
    for _ in range(80):
        after = torch.cat([value, torch.zeros(1).double()])[following]
        value = (policy * (reward - bonus * policy.log() + GAMMA * after)).sum(1)
    return (starts * value).sum()


def test_the_gradient_is_that_of_differences_and_the_implicit_one() -> None:
    world = small_world()
    rewards, following, starts = world
    mixing = torch.tensor([1.0, 0.7, 0.1]).double()
    policy = solve(mixing, rewards, following)
    gradient, primary = mixing_gradient(policy, rewards, following, starts, GAMMA, TEMPERATURE)
    assert float(primary) == pytest.approx(float(returns(policy.log(), rewards[0], world, 0.0)), abs=1e-9)
    for k in range(3):
        step = 1e-5 * torch.eye(3).double()[k]
        one, other = (
            returns(solve(mixing + sign * step, rewards, following).log(), rewards[0], world, 0.0) for sign in (1, -1)
        )
        assert float(gradient[k]) == pytest.approx(float(one - other) / 2e-5, abs=1e-6)

    def lower(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return returns(logits, torch.einsum("k,kca->ca", weights, rewards), world, TEMPERATURE)

    logits = policy.log().requires_grad_()
    upper = torch.autograd.grad(returns(logits, rewards[0], world, 0.0), logits)[0].ravel()
    hessian = torch.autograd.functional.hessian(lower, (logits.detach(), mixing))
    # A constant for all moves of a cell changes nothing, so that the Hessian has no inverse but a pseudo-inverse.
    inverse = torch.linalg.pinv(hessian[0][0].reshape(20, 20), hermitian=True, rtol=1e-8)
    implicit = -upper @ inverse @ hessian[0][1].reshape(20, 3)
    np.testing.assert_allclose(gradient.numpy(), implicit.numpy(), atol=1e-6)


def test_the_primary_reward_is_the_best_fit_to_the_answers() -> None:
    rng = np.random.default_rng(0)
    made = [random_segment(BOARD, int(rng.choice(BOARD.starts)), 4, rng) for _ in range(60)]
    rater = PartialReturnOracle(Teacher(beta=1.0), seed=0)
    rater.ask([Query((made[2 * i], made[2 * i + 1])) for i in range(30)])
    answers = rater.collect()
    weights, count = fit_weights([*answers, Preference(answers[0].query, None)], 0.1)
    assert count == 30

    def loss(w: np.ndarray) -> float:
        total = 0.0
        for answer in answers:
            scores = []
            for segment in answer.query.segments:
                moves = segment.actions.argmax(1)
                scores.append((BOARD.features[segment.observations[:, :100].argmax(1), moves] @ w).sum())
            total -= answer.probabilities @ np.log(np.exp(scores) / np.exp(scores).sum())
        return total / 30 + 0.05 * float(w @ w)

    for k in range(6):
        step = 1e-4 * np.eye(6)[k]
        assert (loss(weights + step) - loss(weights - step)) / 2e-4 == pytest.approx(0.0, abs=1e-4)


def learner(heuristic: object, **settings: float) -> BARFI:
    data = drive(BOARD, np.full((100, 4), 0.25), 120, np.random.default_rng(0))
    cells, moves = data.observations[:, :100].argmax(1), data.actions.argmax(1)
    rows = [slice(end - 3, end) for end in data.ends[data.lengths >= 3].tolist()]
    made = [make_segment(BOARD, cells[row], moves[row]) for row in rows]
    rater = PartialReturnOracle(Teacher(beta=0.3), seed=0)
    rater.ask([Query(pair) for pair in zip(made[::2], made[1::2], strict=False)])
    config = BARFIConfig(**settings)  # type: ignore[arg-type]
    return BARFI(OfflineDataset("drives", data), rater.collect(), config, heuristic=heuristic, device="cpu")  # type: ignore[arg-type]


def test_a_heuristic_that_misleads_loses_its_weight_and_a_fixed_sum_keeps_it() -> None:
    found = learner(coins, sweeps=5).learn(60)
    mixing = found.tables.mixing.detach().numpy()
    assert abs(mixing[1]) < 0.3 * mixing[0]
    assert (learner(coins, rate=0.0).learn(3).tables.mixing.detach().numpy() == [1.0, 1.0, 0.0]).all()


@pytest.mark.parametrize(
    ("heuristic", "match"),
    [
        (lambda observations, actions: observations, "one reward for each is due"),
        (lambda observations, actions: 1 / 0, "fails: ZeroDivisionError"),
        (None, "--heuristic module:NAME"),
    ],
)
def test_what_is_no_heuristic_is_refused_in_a_line(heuristic: object, match: str) -> None:
    with pytest.raises(PrefenvsError, match=match):
        learner(heuristic)


def test_without_answers_there_is_no_primary_reward() -> None:
    with pytest.raises(PrefenvsError, match="there are none"):
        fit_weights([], 0.1)
