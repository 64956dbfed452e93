"""A-PARL: reward learning that knows which policy its reward makes (Chakraborty et al. 2024), exact on a board.

"PARL: a unified framework for policy alignment in reinforcement learning from human feedback". Here rewards are linear
in the features of a move and policies are tables, so that the derivative of the policy in the reward is exact, where
the paper has networks and samples; that labels of earlier rounds are kept is this project's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor
from torch.nn.functional import softplus

from prefenvs.agents.direct.learner import RoundLearner
from prefenvs.agents.registry import Algorithm, Settings
from prefenvs.agents.tabular.board import (
    CELLS,
    FEATURES,
    MOVES,
    cells_of,
    evaluate_policy,
    soft_policy,
    soft_values,
    sum_features,
)
from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveFloat, PositiveInt, check_settings
from prefenvs.segments import Array, Segment
from prefenvs.tasks import Task, find_task


@dataclass(frozen=True)
class PARLConfig:
    """Settings of A-PARL."""

    labels: PositiveInt = 100
    """Label budget: pairs of episodes that may be asked about; learning ends with it."""
    per_session: PositiveInt = 10
    """Pairs of the present policy's episodes that are asked about together."""
    policy_weight: NonNegativeFloat = 0.02
    """Weight of the gradient through the policy; 0 leaves plain reward learning, for comparison."""
    explore: NonNegativeInt = 5_000
    """Random moves at first, by which the board becomes known; moves never made are not taken later."""
    temperature: PositiveFloat = 0.02
    """Weight of the policy's entropy in what it maximises; where it is large, lasting pays more than arriving."""
    gamma: OpenFraction = 0.95
    """Discount of the policy's objective."""
    ridge: PositiveFloat = 1e-3
    """Weight of the squared reward weights in the loss."""
    rate: PositiveFloat = 0.05
    """Learning rate of the reward weights (Adam)."""
    updates: PositiveInt = 50
    """Steps on the reward weights in each session."""
    sweeps: PositiveInt = 20
    """Sweeps of soft value iteration before each of them."""

    def __post_init__(self) -> None:
        check_settings(self)


class BoardPolicy(BasePolicy):
    """What is known of a delivery board, the reward weights [6], and the policy [C, 4] for them."""

    features: Tensor
    following: Tensor
    known: Tensor
    weights: Tensor
    values: Tensor
    chances: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **kwargs)
        double = torch.float64
        self.register_buffer("features", torch.zeros(CELLS, MOVES, FEATURES, dtype=double))
        # Cell C is where an episode has ended, worth 0.
        self.register_buffer("following", torch.full((CELLS, MOVES), CELLS))
        self.register_buffer("known", torch.zeros(CELLS, MOVES, dtype=torch.bool))
        self.register_buffer("weights", torch.zeros(FEATURES, dtype=double))
        self.register_buffer("values", torch.zeros(CELLS, dtype=double))
        self.register_buffer("chances", torch.full((CELLS, MOVES), 1.0 / MOVES, dtype=double))

    def forward(self, observations: Tensor, deterministic: bool = False) -> Tensor:
        """Return moves [B] for observations [B, 124]."""
        chances = self.chances[observations[:, :CELLS].argmax(1)]
        return chances.argmax(1) if deterministic else torch.multinomial(chances, 1).squeeze(1)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)

    def shifted_features(self) -> Tensor:
        """Return features [C, 4, 6] less those of the best known move that ends nothing, which is so worth 0.

        Labels about episodes of nearly one length hardly tell what a step costs, on which it depends whether an end is
        worth reaching.
        """
        going = self.known & (self.following < CELLS)
        worth = torch.where(going, self.features @ self.weights, -torch.inf)
        return self.features - self.features.flatten(0, 1)[worth.argmax()] * going.any()

    def solve(self, gamma: float, temperature: float, sweeps: int) -> None:
        """Move values and policy towards the soft optimum of the reward weights."""
        rewards = self.shifted_features() @ self.weights
        for _ in range(sweeps):
            after = torch.cat([self.values, self.values.new_zeros(1)])[self.following]
            action_values = rewards + gamma * after
            self.values.copy_(soft_values(action_values, temperature, self.known))
        found = soft_policy(action_values, temperature, self.known)
        self.chances.copy_(torch.where(self.known.any(1, keepdim=True), found, 1.0 / MOVES))


class PARL(RoundLearner):
    """Learns a reward of a board from comparisons of the policy's own episodes, and lets the policy follow exactly.

    Lower level: pi_w, the soft optimum of r_w = w . f(s, a). Upper level: descent on the loss of labels about its own
    episodes, G(w) = E_{x, y ~ pi_w} [l_w(x, y)], l the cross entropy of Bradley and Terry, whose gradient is

        E[grad l_w(x, y)] + E[l_w(x, y) sum over t of d log pi_w(a_t | s_t) / dw],   d log pi_w(a | s) / dw_k = A_k / t

    with A_k the advantages of pi_w by feature k alone (see `barfi.mixing_gradient`): what a reward fits well is also
    worth visiting. The first term is over all labels so far; the second over the newest session's, with the mean loss
    taken off. Differences from the paper: everything is a table, and nothing is sampled but episodes.
    """

    name = "parl"
    takes = ("discrete",)
    config_type = PARLConfig
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": BoardPolicy}
    config: PARLConfig
    policy: BoardPolicy

    def _setup_model(self) -> None:
        shape = self.observation_space.shape
        if shape != (CELLS + MOVES * FEATURES,) or self.action_space != spaces.Discrete(MOVES):
            raise PrefenvsError(f"parl keeps a table of one delivery board, not of observations {shape}: Delivery-v0")
        super()._setup_model()
        # Sums of features of the first episode less those of the second, and the chance that it is better.
        self.rows: list[list[float]] = []
        self.shares: list[float] = []

    def check_run(self, total_steps: int) -> None:
        """As every learner's; raises PrefenvsError too for actions that are held."""
        super().check_run(total_steps)
        if find_task(self.task).repeat > 1:
            raise PrefenvsError(f"parl knows what single steps on the board do, and {self.task} holds each action")

    def _round(self, callback: BaseCallback) -> bool:
        """Play an episode by chance at first, then pairs of episodes, which are asked about and learned from."""
        if self.num_timesteps < self.config.explore:
            return self._play(callback) is not None
        self.rounds += 1
        episodes = []
        for _ in range(2 * min(self.config.per_session, self.left)):
            episode = self._play(callback)
            if episode is None:
                return False
            episodes.append(episode)
        assert self.oracle is not None
        self.oracle.observe(self.recorder.buffer.trajectories())
        pairs = list(zip(episodes[::2], episodes[1::2], strict=True))
        answers = self.compare(pairs)
        answered = [(pair, chances) for pair, chances in zip(pairs, answers, strict=True) if chances is not None]
        self.rows += [(sum_features(pair[0]) - sum_features(pair[1])).tolist() for pair, _ in answered]
        self.shares += [float(chances[0]) for _, chances in answered]
        if answered:
            loss = self._fit([pair for pair, _ in answered])
            self.logger.record("reward/loss", loss)
        return True

    def _play(self, callback: BaseCallback) -> Segment | None:
        """Return one episode, by chance at first; notes what it shows of the board. None where a callback ends it."""
        policy, observation, done = self.policy, np.asarray(self.recorder.reset()), False
        chances = policy.chances.cpu().numpy()
        if self.num_timesteps < self.config.explore:
            chances = np.full_like(chances, 1.0 / MOVES)
        while not done:
            cell = int(cells_of(observation)[0])
            move = int(self.rng.choice(MOVES, p=chances[cell]))
            policy.features[cell] = torch.as_tensor(observation[0, CELLS:].reshape(MOVES, FEATURES))
            following, _, dones, infos = self.recorder.step(np.array([move]))
            observation, done = np.asarray(following), bool(dones[0])
            after = infos[0]["terminal_observation"][None] if done else observation
            ended = done and not infos[0].get("TimeLimit.truncated", False)
            policy.following[cell, move] = CELLS if ended else int(cells_of(after)[0])
            policy.known[cell, move] = True
            self.num_timesteps += 1
            if not callback.on_step():
                return None
        return self.recorder.buffer.trajectories().episode(-1)

    def _fit(self, newest: Sequence[tuple[Segment, Segment]]) -> float:
        """Take steps on the reward weights and follow with the policy; return the loss before the last one."""
        c, policy = self.config, self.policy
        rows = torch.tensor(self.rows, dtype=torch.float64, device=self.device)
        shares = torch.tensor(self.shares, dtype=torch.float64, device=self.device)
        visited = [[(cells_of(one.observations), one.actions.argmax(1)) for one in pair] for pair in newest]
        weights = policy.weights.clone().requires_grad_()
        adam = torch.optim.Adam([weights], c.rate)
        for _ in range(c.updates):
            policy.weights.copy_(weights.detach())
            policy.solve(c.gamma, c.temperature, c.sweeps)
            margins = rows @ weights
            losses = softplus(margins) - shares * margins
            loss = losses.mean() + 0.5 * c.ridge * weights.square().sum()
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            assert weights.grad is not None
            if c.policy_weight:
                weights.grad += c.policy_weight * self.policy_gradient(losses.detach()[-len(newest) :], visited)
            adam.step()
        policy.weights.copy_(weights.detach())
        policy.solve(c.gamma, c.temperature, c.sweeps)
        return float(loss.detach())

    def policy_gradient(self, losses: Tensor, visited: Sequence[Sequence[tuple[Array, Array]]]) -> Tensor:
        """Return the gradient [6] of the mean loss [N] of pairs in the reward weights through the policy."""
        scores = policy_scores(self.policy, self.config.gamma, self.config.temperature)
        totals = torch.stack(
            [sum((scores[:, s, a].sum(1) for s, a in pair), scores.new_zeros(FEATURES)) for pair in visited]
        )
        return (losses - losses.mean()) @ totals / len(losses)

    def state_dict(self) -> dict[str, Any]:
        """Return the labels and the random state."""
        return {"rows": self.rows, "shares": self.shares, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.rows, self.shares = list(state["rows"]), list(state["shares"])
        self.rng.bit_generator.state = state["rng"]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rows", "shares"]


def policy_scores(policy: BoardPolicy, gamma: float, temperature: float) -> Tensor:
    """Return d log pi(a | s) / dw_k [6, C, 4] of the soft optimum for the reward weights w: A_k(s, a) / temperature."""
    chances = torch.where(policy.known, policy.chances, 0.0)
    rewards = policy.shifted_features().permute(2, 0, 1)
    _, advantages, _ = evaluate_policy(chances, rewards, policy.following, gamma)
    return advantages / temperature


def preset(
    task: Task, name: str = "published", *, labels: int | None = None, steps: int | None = None, **_: Any
) -> Any:
    """Return settings for boards; steps: as many as the labels need, by the task's horizon."""
    config = PARLConfig() if labels is None else PARLConfig(labels=labels)
    return Settings(config, steps or config.explore + (2 * config.labels + 1) * task.horizon)


ALGORITHM = Algorithm(
    name="parl",
    title="A-PARL",
    source="online",
    learner=PARL,
    config=PARLConfig,
    preset=preset,
)
