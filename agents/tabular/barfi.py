"""BARFI: a designer's heuristic mixed with the preference reward, by the gradient of the latter (Gupta et al. 2023).

"Behavior alignment via reward function optimization". Here all is a table and every gradient exact, where the paper has
networks, samples and a Neumann series; the discount is not learned, and the primary reward comes from preferences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from prefenvs.agents.offline.learner import OfflineConfig
from prefenvs.agents.registry import Algorithm, Settings
from prefenvs.agents.tabular.board import (
    CELLS,
    FEATURES,
    MOVES,
    BoardLearner,
    BoardOptions,
    cells_of,
    evaluate_policy,
    read_board,
    soft_policy,
    soft_values,
    sum_features,
)
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError, failure_told
from prefenvs.internal.loading import import_object
from prefenvs.limits import NonNegativeFloat, OpenFraction, PositiveFloat, PositiveInt, check_settings
from prefenvs.preferences import Preference
from prefenvs.segments import Array
from prefenvs.tasks import Task

Heuristic = Callable[[Array, Array], Array]
"""Maps observations [N, 124] and one-hot moves [N, 4] to rewards [N]."""


@dataclass(frozen=True)
class BARFIConfig(OfflineConfig):
    """Settings of BARFI."""

    heuristic: str = ""
    """The designer's reward, module:NAME: a function of observations [N, 124] and one-hot moves [N, 4]."""
    rate: NonNegativeFloat = 0.05
    """Learning rate of the mixing weights (Adam); 0 leaves the sum of both rewards as it is, for comparison."""
    temperature: PositiveFloat = 0.02
    """Weight of the policy's entropy in what it maximises; rewards are scaled to at most 1."""
    sweeps: PositiveInt = 20
    """Sweeps of soft value iteration before each step of the weights."""
    gamma: OpenFraction = 0.95
    """Discount, of the policy's objective and of the primary return."""
    ridge: PositiveFloat = 1e-3
    """Weight of the squared reward weights in the fit to preferences."""

    def __post_init__(self) -> None:
        check_settings(self)


class Tables(nn.Module):
    """What is known of each cell and move, and what was learned.

    counts: [C, 4]; following: [C, 4] cells, C where an episode has ended; starts: [C] chances; rewards: [3, C, 4], the
    primary one, the heuristic and 1; mixing: [3]; values: [C] soft values of the mixed reward; weights: [6].
    """

    counts: Tensor
    following: Tensor
    starts: Tensor
    rewards: Tensor
    values: Tensor
    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        double = torch.float64
        self.mixing = nn.Parameter(torch.tensor([1.0, 1.0, 0.0], dtype=double))
        self.register_buffer("counts", torch.zeros(CELLS, MOVES, dtype=double))
        self.register_buffer("following", torch.full((CELLS, MOVES), CELLS))
        self.register_buffer("starts", torch.zeros(CELLS, dtype=double))
        self.register_buffer("rewards", torch.zeros(3, CELLS, MOVES, dtype=double))
        self.register_buffer("values", torch.zeros(CELLS, dtype=double))
        self.register_buffer("weights", torch.zeros(FEATURES, dtype=double))


class BARFI(BoardLearner[BARFIConfig]):
    """Learns to mix two rewards of a delivery board so that the policy for the mixture earns most of the first.

    Primary reward: r_p = w . f(s, a) - c, f the features of a move, w by Bradley and Terry from preferences, and c such
    that the best move that ends nothing is worth 0. Mixture: r = m_1 r_p + m_2 r_h + m_3, from (1, 1, 0), with the
    heuristic r_h. Lower level: the policy pi of r with a bonus for entropy. Upper level: ascent on J_p(pi), the return
    by r_p, in m (see `mixing_gradient`).

    On tables the best policy for r_p alone is known, so that no heuristic can better it; what is shown is that a
    misleading one loses its weight. The paper's gain, faster learning where the primary reward is sparse, is not here.
    """

    name = "barfi"
    config_type: ClassVar[type[BARFIConfig]] = BARFIConfig
    tables: Tables

    def __init__(self, dataset: OfflineDataset, *args: Any, heuristic: Heuristic | None = None, **kwargs: Any) -> None:
        """heuristic: the designer's reward, in the place of the configuration's; all else as every such learner."""
        self._heuristic = heuristic
        super().__init__(dataset, *args, **kwargs)

    def _give(self, preferences: Sequence[Preference] | None, heuristic: Heuristic | None = None) -> None:
        self._heuristic = heuristic

    def _make_tables(self) -> Tables:
        return Tables()

    def _build(self) -> None:
        super()._build()
        self.adam = torch.optim.Adam([self.tables.mixing], self.config.rate)

    def _load(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        self.learns_from = "preferences and a heuristic"
        board = read_board(dataset)
        weights, self.labels = fit_weights(preferences or [], self.config.ridge)
        seen = dataset.trajectories.observations
        rows = np.zeros((CELLS, seen.shape[1]), np.float32)
        rows[cells_of(seen)] = seen
        known = board.counts > 0
        primary, heuristic = board.features @ weights, self._read_heuristic(rows)
        # Pairs of one length leave a constant for each step open, on which it depends whether an end is worth reaching.
        primary = primary - primary[known & (board.following < CELLS)].max(initial=-np.inf)
        rewards = np.stack([_scale(primary * known), _scale(heuristic * known), np.ones_like(primary)])
        tables = {"counts": board.counts, "following": board.following, "rewards": rewards, "weights": weights}
        for name, array in (tables | {"starts": board.starts / board.starts.sum()}).items():
            getattr(self.tables, name).copy_(torch.from_numpy(array))

    def _read_heuristic(self, observations: Array) -> Array:
        """Return the heuristic [C, 4] of every move; raises PrefenvsError where there is none or it is no reward."""
        name = self.config.heuristic
        if self._heuristic is None and not name:
            raise PrefenvsError("barfi mixes in a designer's reward: --heuristic module:NAME, or heuristic=...")
        found = self._heuristic or import_object(name, "heuristic")
        label = name or repr(found)
        with failure_told(f"the heuristic {label} fails"):
            rewards = found(np.repeat(observations, MOVES, 0), np.tile(np.eye(MOVES, dtype=np.float32), (CELLS, 1)))
            array = np.asarray(rewards, np.float64)
        if array.shape != (CELLS * MOVES,) or not np.isfinite(array).all():
            raise PrefenvsError(
                f"the heuristic {label} returned shape {list(array.shape)}, or not finite numbers, for {CELLS * MOVES} "
                "moves: one reward for each is due"
            )
        return array.reshape(CELLS, MOVES)

    def _update(self) -> dict[str, Tensor]:
        t, c = self.tables, self.config
        mixing = t.mixing.detach()
        for _ in range(c.sweeps):
            t.values.copy_(soft_values(self._action_values(), c.temperature, t.counts > 0))
        policy = soft_policy(self._action_values(), c.temperature, t.counts > 0)
        gradient, primary = mixing_gradient(policy, t.rewards, t.following, t.starts, c.gamma, c.temperature)
        t.mixing.grad = -gradient
        self.adam.step()
        return {"primary_return": primary, "primary": mixing[0], "heuristic": mixing[1], "constant": mixing[2]}

    def _action_values(self) -> Tensor:
        """Return Q [C, 4] of the mixed reward."""
        t = self.tables
        after = torch.cat([t.values, t.values.new_zeros(1)])[t.following]
        return torch.einsum("k,kca->ca", t.mixing.detach(), t.rewards) + self.config.gamma * after

    def _choose(self, cells: Tensor) -> Tensor:
        """Return the best seen move; the first one in cells that were never visited."""
        values = torch.where(self.tables.counts > 0, self._action_values(), -torch.inf)
        return values[cells].argmax(1)

    def preference_accuracy(self, preferences: Sequence[Preference]) -> float:
        """Return the share of decided pairs whose better segment has the higher primary reward."""
        rows, shares = _differences(preferences)
        decided = shares != 0.5
        right = ((rows @ self.tables.weights.cpu().numpy()) > 0) == (shares > 0.5)
        return float(right[decided].mean()) if decided.any() else float("nan")

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"adam": self.adam}


def mixing_gradient(
    policy: Tensor, rewards: Tensor, following: Tensor, starts: Tensor, gamma: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the gradient [K] of the primary return J_p in the weights of the mixture, and J_p.

    policy: [C, 4], the soft optimum of the mixture of rewards [K, C, 4], of which the first is the primary one; starts:
    [C] chances. With A_k the advantages of pi by reward k alone and d its discounted visits from the starts,

        d log pi(a | s) / d m_k = A_k(s, a) / t,   d J_p / d m_k = sum_s d(s) sum_a pi(a | s) A_p(s, a) A_k(s, a) / t.

    This is the implicit gradient -dJ_p/dtheta H^-1 d2J/dtheta dm (Gupta et al. 2023, section 4) at the optimum of the
    lower level, where the envelope theorem gives dV/dm_k = V_k, so that no Hessian is needed.
    """
    values, advantages, system = evaluate_policy(policy, rewards, following, gamma)
    visits = torch.linalg.solve(system.T, starts)
    weighted = visits[:, None] * policy * advantages[0]
    return (weighted * advantages).sum((1, 2)) / temperature, (starts * values[0]).sum()


def fit_weights(preferences: Sequence[Preference], ridge: float) -> tuple[Array, int]:
    """Return the reward weights w [6] that explain preferences between two segments, and how many there were.

    They minimise the mean over pairs of -p log P - (1 - p) log(1 - P), P = sigmoid(w . (F_1 - F_2)) with F the sums of
    the features of the moves made, plus ridge / 2 |w|^2. Raises PrefenvsError where no pair was answered.
    """
    rows, shares = _differences(preferences)
    if not len(rows):
        raise PrefenvsError("barfi learns its primary reward from answered pairs, and there are none")

    def loss(w: Array) -> tuple[float, Array]:
        margin = rows @ w
        value = (np.logaddexp(0.0, margin) - shares * margin).mean() + 0.5 * ridge * (w @ w)
        chances = 0.5 * (1.0 + np.tanh(0.5 * margin))
        return float(value), rows.T @ (chances - shares) / len(rows) + ridge * w

    return minimize(loss, np.zeros(FEATURES), jac=True, method="L-BFGS-B").x, len(rows)


def _differences(preferences: Sequence[Preference]) -> tuple[Array, Array]:
    """Return F_1 - F_2 [N, 6] of the answered pairs, and the chance that the first is better [N]."""
    pairs = [answer for answer in preferences if answer.probabilities is not None and len(answer.query.segments) == 2]
    rows = [sum_features(pair.query.segments[0]) - sum_features(pair.query.segments[1]) for pair in pairs]
    shares = [0.0 if pair.probabilities is None else float(pair.probabilities[0]) for pair in pairs]
    return np.array(rows).reshape(-1, FEATURES), np.array(shares)


def _scale(rewards: Array) -> Array:
    """Divide rewards by the largest absolute one."""
    most = np.abs(rewards).max()
    return rewards / most if most > 0 else rewards


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return settings for boards, whatever the task."""
    return Settings(BARFIConfig(), steps or 400)


ALGORITHM = Algorithm(
    name="barfi",
    title="BARFI",
    source="offline",
    learner=BARFI,
    config=BARFIConfig,
    options=BoardOptions,
    preset=preset,
)
