"""ZO-RankSGD: policy search from rankings of perturbed policies (Tang et al. 2023), with neither reward nor gradients.

Differences from the authors' code: a place in a ranking weighs m - 1 - 2r, the pairs that it wins less those it loses
(the code has m - 2r, which adds the mean perturbation to every step); all candidates of a round start alike.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from prefenvs.agents.direct.learner import RoundLearner
from prefenvs.agents.nets.spaces import WithinBounds
from prefenvs.agents.registry import Algorithm, Settings
from prefenvs.errors import PrefenvsError
from prefenvs.internal.seeding import derive_seed
from prefenvs.limits import PositiveFloat, PositiveFraction, PositiveInt, check_settings
from prefenvs.raters import AnyRater
from prefenvs.segments import Array, Segment
from prefenvs.tasks import Task


@dataclass(frozen=True)
class RankSGDConfig:
    """Settings of ZO-RankSGD."""

    labels: PositiveInt = 240
    """Label budget in questions "which is best?"; a round asks min(top, candidates - 1) to rank and 1 to choose."""
    candidates: PositiveInt = 8
    """Perturbed policies that are ranked in a round (m)."""
    top: PositiveInt = 8
    """How many of them are put in order, best first (k); the others count as worse than these."""
    perturbation: PositiveFloat = 0.5
    """Standard deviation of the perturbations of the parameters (mu)."""
    step: PositiveFloat = 2.0
    """Longest step along the direction found (eta)."""
    shrink: PositiveFraction = 0.4
    """Each further candidate of the line search steps so much less far (gamma)."""
    steps_tried: PositiveInt = 5
    """Candidates of the line search beside the present policy (l)."""
    hidden: tuple[PositiveInt, ...] = ()
    """Sizes of the policy's hidden layers (tanh); none: a linear policy."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.candidates < 2 or self.top > self.candidates:
            raise PrefenvsError(
                f"a ranking of the best {self.top} of {self.candidates} policies tells nothing: choose 2 or more "
                "candidates, and top no more than these"
            )
        if self.labels < self.questions:
            raise PrefenvsError(
                f"a budget of {self.labels} labels is smaller than a round's {self.questions} questions: "
                "raise --labels or lower --top"
            )

    @property
    def questions(self) -> int:
        """Questions of one round."""
        return min(self.top, self.candidates - 1) + 1


class RankedPolicy(WithinBounds):
    """A deterministic policy without any layer that learns by gradients: linear, or a small tanh network."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any = None,
        net_arch: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        """net_arch: widths of the hidden layers; other arguments are Stable-Baselines3's."""
        box = isinstance(action_space, spaces.Box)
        super().__init__(observation_space, action_space, squash_output=box, **kwargs)
        outputs = spaces.flatdim(action_space)
        layers = create_mlp(spaces.flatdim(observation_space), outputs, list(net_arch), nn.Tanh)
        self.net = nn.Sequential(*layers)
        last = [layer for layer in layers if isinstance(layer, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, observations: Tensor) -> Tensor:
        """Return actions in [-1, 1], [B, act], or the numbers of discrete ones, [B]."""
        outputs: Tensor = self.net(observations.float().flatten(1))
        return outputs.tanh() if self.squash_output else outputs.argmax(1)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self.forward(observation)


class RankSGD(RoundLearner):
    """Moves the parameters of a policy along what rankings of its perturbations say, and asks how far.

    A round: m policies x + mu xi_i, xi_i ~ N(0, I), play an episode each from one start. A rater names the best, then
    the best of the rest, until k are in order. The direction is `ranking_direction` of the xi; directions are averaged
    until a step is made. The policies x + eta gamma^j g and x itself play from another start, and the rater names the
    best: that is the new x (algorithm 2 of Tang et al. 2023, "Zeroth-order optimization meets human feedback").
    """

    name = "ranksgd"
    takes = ("bounded", "discrete")
    config_type = RankSGDConfig
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": RankedPolicy}
    config: RankSGDConfig
    policy: RankedPolicy

    def __init__(
        self,
        policy: str | type[RankedPolicy],
        env: GymEnv | str | None,
        oracle: AnyRater | None = None,
        config: RankSGDConfig | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """As every `DirectLearner`."""
        hidden = list((config or RankSGDConfig()).hidden)
        policy_kwargs = {"net_arch": hidden} | (policy_kwargs or {})
        super().__init__(policy, env, oracle, config, policy_kwargs=policy_kwargs, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        for parameter in self.policy.parameters():
            parameter.requires_grad_(False)
        # Candidates play with a network of their own, so that callbacks find the policy as it is.
        self.candidate = copy.deepcopy(self.policy)
        self.direction = torch.zeros_like(parameters_to_vector(self.policy.parameters()))
        self.directions = 0

    @property
    def needed(self) -> int:
        """Questions of one round."""
        return self.config.questions

    def _round(self, callback: BaseCallback) -> bool:
        """Rank the perturbed policies, then the steps along the direction."""
        c, center = self.config, parameters_to_vector(self.policy.parameters())
        self.rounds += 1
        drawn = self.rng.normal(size=(c.candidates, len(center)))
        noise = torch.as_tensor(drawn, dtype=center.dtype, device=center.device)
        episodes = self._play([center + c.perturbation * one for one in noise], 0, callback)
        if episodes is None:
            return False
        order = self._rank(episodes)
        if order:
            self.direction = self.direction + ranking_direction(noise, order)
            self.directions += 1
        if not self.directions:
            return True
        steps = c.step * c.shrink ** np.arange(c.steps_tried)
        tried = [center, *(center + step * self.direction / self.directions for step in steps.tolist())]
        episodes = self._play(tried, 1, callback)
        if episodes is None:
            return False
        best = self._choose(episodes)
        self.logger.record("search/step", float([0.0, *steps][best or 0]))
        self.logger.record("search/directions", self.directions)
        if best:
            vector_to_parameters(tried[best], self.policy.parameters())
            self.direction, self.directions = torch.zeros_like(center), 0
        return True

    def _play(self, candidates: Sequence[Tensor], part: int, callback: BaseCallback) -> list[Segment] | None:
        """Return one whole episode of each candidate, all from the same start; None where a callback ends training."""
        start = derive_seed(self.seed or 0, "ranksgd", 2 * self.rounds + part)
        episodes = []
        for parameters in candidates:
            vector_to_parameters(parameters, self.candidate.parameters())
            self.recorder.seed(start)
            observation: Any = self.recorder.reset()
            done = False
            while not done:
                observation, _, dones, _ = self.recorder.step(self._act(observation))
                done = bool(dones[0])
                self.num_timesteps += 1
                if not callback.on_step():
                    return None
            episodes.append(self.recorder.buffer.trajectories().episode(-1))
        assert self.oracle is not None
        self.oracle.observe(self.recorder.buffer.trajectories())
        return episodes

    def _act(self, observation: Array) -> Array:
        """Return the candidate's action [1, act]; quicker than by `predict`."""
        actions: Array = self.candidate(torch.as_tensor(observation, device=self.device)).cpu().numpy()
        return self.candidate.unscale_action(actions) if self.candidate.squash_output else actions

    def _rank(self, episodes: Sequence[Segment]) -> list[int]:
        """Return the best `top` episodes, best first; those before the first skip."""
        left, order = list(range(len(episodes))), list[int]()
        while len(order) < self.config.top and len(left) > 1:
            best = self._choose([episodes[i] for i in left])
            if best is None:
                return order
            order.append(left.pop(best))
        return order if len(order) == self.config.top else [*order, *left]

    def _choose(self, episodes: Sequence[Segment]) -> int | None:
        """Return which episode the rater calls best, one of them where several are; None for a skip."""
        (chances,) = self.compare([episodes])
        if chances is None:
            return None
        return int(self.rng.choice(np.flatnonzero(chances >= chances.max() - 1e-9)))

    def state_dict(self) -> dict[str, Any]:
        """Return the directions gathered and the random state."""
        return {
            "rounds": self.rounds,
            "direction": self.direction.tolist(),
            "directions": self.directions,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.rounds, self.directions = int(state["rounds"]), int(state["directions"])
        self.direction = torch.as_tensor(state["direction"], dtype=self.direction.dtype, device=self.device)
        self.rng.bit_generator.state = state["rng"]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "candidate", "direction"]


def ranking_weights(order: Sequence[int], count: int) -> Array:
    """Return the weight [m] of each of m = `count` items, of which those in `order` are the best k, best first.

    Item i wins w_i more pairs than it loses among those that the ranking decides: m - 1 - 2r at place r = 0, 1, ...,
    and -k below; divided by the number of decided pairs, k (k - 1) / 2 + k (m - k).
    """
    k = len(order)
    weights = np.full(count, -float(k))
    weights[list(order)] = count - 1 - 2.0 * np.arange(k)
    scaled: Array = weights / (k * (k - 1) / 2 + k * (count - k))
    return scaled


def ranking_direction(noise: Tensor, order: Sequence[int]) -> Tensor:
    """Return the direction [d] of ascent, sum_i w_i xi_i, from perturbations xi [m, d] (equation 7 of Tang et al.)."""
    weights = torch.as_tensor(ranking_weights(order, len(noise)), dtype=noise.dtype, device=noise.device)
    return weights @ noise


def preset(
    task: Task,
    name: str = "published",
    *,
    labels: int = RankSGDConfig.labels,
    candidates: int = RankSGDConfig.candidates,
    top: int = RankSGDConfig.top,
    steps: int | None = None,
    **_: Any,
) -> Any:
    """Return settings for small policies; steps: as many as the label budget can use, by the task's horizon."""
    config = RankSGDConfig(labels=labels, candidates=candidates, top=top)
    rounds = config.labels // config.questions
    return Settings(config, steps or rounds * (config.candidates + config.steps_tried + 1) * task.horizon)


ALGORITHM = Algorithm(
    name="ranksgd",
    title="ZO-RankSGD",
    source="online",
    learner=RankSGD,
    config=RankSGDConfig,
    preset=preset,
)
