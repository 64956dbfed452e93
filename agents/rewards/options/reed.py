"""REED: a reward network whose representation predicts the next state's (Metcalf et al., CoRL 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from prefenvs.agents.nets.mlp import BatchedLinear, EnsembleMLP, Output, Precision
from prefenvs.limits import AtLeastTwo, PositiveFloat, PositiveInt, check_settings

NARROWER = 8
"""How many times narrower the predictor's hidden layer is than what it predicts, as SimSiam has it."""


@dataclass(frozen=True)
class ReedConfig:
    """Self-prediction by distillation (SimSiam); the defaults are those of the published scripts for Meta-World."""

    learning_rate: PositiveFloat = 5e-5
    """Learning rate of encoders, trunk and the heads that compare (Adam)."""
    epochs: PositiveInt = 20
    """Passes over the transitions."""
    batch_size: AtLeastTwo = 256
    """Transitions in a batch."""
    transitions: PositiveInt = 5_000
    """How many are drawn of the recorded episodes, at most; published are all of the replay."""
    every: PositiveInt = 4
    """Fits to labels for one self-prediction, which comes before the first of them."""
    width: PositiveInt = 32
    """Numbers by which the predicted and the next state are compared."""

    def __post_init__(self) -> None:
        check_settings(self)


class Transitions(NamedTuple):
    """N steps: observations [N, obs], actions [N, act], and the observations after them [N, obs]."""

    observations: Tensor
    actions: Tensor
    following: Tensor


class EncodedMLP(EnsembleMLP):
    """M MLPs on an encoded observation and an encoded action: a linear layer of its own size and LeakyReLU each."""

    def __init__(
        self,
        inputs: tuple[int, int],
        hidden: list[int],
        members: int,
        output: Output = "tanh",
        precision: Precision = "float32",
        generator: torch.Generator | None = None,
        normalised: bool = False,
    ) -> None:
        """inputs: sizes of observations and actions; hidden: widths; the others are `EnsembleMLP`'s."""
        super().__init__([sum(inputs), *hidden, 1], members, output, precision, generator, normalised)
        self.inputs = inputs
        self.encoders = nn.ParameterList()
        for size in inputs:
            self.encoders.extend([nn.Parameter(torch.empty(members, rows, size)) for rows in (size, 1)])
        self._draw_encoders(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights from a CPU generator."""
        super().reset_parameters(generator)
        if hasattr(self, "encoders"):
            self._draw_encoders(generator)

    @torch.no_grad()
    def _draw_encoders(self, generator: torch.Generator | None) -> None:
        for parameter in self.encoders:
            uniform = torch.rand(parameter.shape, generator=generator)
            parameter.copy_((2.0 * uniform - 1.0) * max(parameter.shape[2], 1) ** -0.5)

    def encode_state(self, observations: Tensor) -> Tensor:
        """Return encodings [M, N, obs] of observations [M, N, obs]."""
        if self.normalised:
            size = self.inputs[0]
            observations = (observations - self.mean[..., :size]) / self.std[..., :size]
        return self._encode(observations, 0)

    def represent(self, x: Tensor) -> Tensor:
        """Return what the last layer gets [M, N, width] for inputs [M, N, obs + act]."""
        x = self._prepare(x)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = functional.leaky_relu(torch.baddbmm(bias, x, weight), 0.01)
        return x

    def _encode(self, x: Tensor, which: int) -> Tensor:
        weight, bias = self.encoders[2 * which], self.encoders[2 * which + 1]
        return functional.leaky_relu(torch.baddbmm(bias, x, weight), 0.01)

    def _prepare(self, x: Tensor) -> Tensor:
        x = super()._prepare(x)
        parts = torch.split(x, list(self.inputs), -1)
        return torch.cat([self._encode(part, which) for which, part in enumerate(parts)], -1)


class SelfPrediction(nn.Module):
    """The heads that compare: a linear predictor of the next state's encoding, a projection of it, and SimSiam's head.

    The loss of a member is the negative cosine between head(project(predict(z(s, a)))) and project(encode(s')), through
    which no gradient flows (Metcalf et al. 2023, eq. 5; Chen and He 2021).
    """

    def __init__(self, network: EncodedMLP, config: ReedConfig, generator: torch.Generator) -> None:
        """generator: on the CPU, for the initial weights."""
        super().__init__()
        self.config = config
        members, size, width = network.members, network.inputs[0], config.width
        inner = width // NARROWER if width > 2 * NARROWER else width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            self.predict = BatchedLinear(members, network.weights[-1].shape[1], size)
            self.project = BatchedLinear(members, size, width)
            self.narrow, self.widen = BatchedLinear(members, width, inner), BatchedLinear(members, inner, width)
        self.scale = nn.Parameter(torch.ones(members, 1, inner))
        self.offset = nn.Parameter(torch.zeros(members, 1, inner))
        self.to(network.weights[0].device)
        self._network = [network]
        self.optimizer = torch.optim.Adam(self.trained(), lr=config.learning_rate)

    def trained(self) -> list[nn.Parameter]:
        """Return what is learned: encoders and trunk of the reward network, and the heads."""
        network = self._network[0]
        return [*network.encoders, *network.weights[:-1], *network.biases[:-1], *self.parameters()]

    def loss(self, batch: Transitions) -> Tensor:
        """Return each member's loss [M] on transitions [M, B, ...] of its own."""
        network = self._network[0]
        latent = self.narrow(self.project(self.predict(network.represent(torch.cat(batch[:2], -1)))))
        # Batch normalisation by this batch alone, as in training.
        spread, mean = torch.var_mean(latent, 1, correction=0, keepdim=True)
        latent = functional.relu((latent - mean) * torch.rsqrt(spread + 1e-5) * self.scale + self.offset)
        with torch.no_grad():
            target = self.project(network.encode_state(batch.following))
        return -functional.cosine_similarity(self.widen(latent), target, dim=-1).mean(1)

    def learn(self, transitions: Transitions, generator: torch.Generator) -> float:
        """Pass over the transitions, in an order of each member's own; return the last pass's mean loss."""
        network, total = self._network[0], 0.0
        count, size = len(transitions.observations), self.config.batch_size
        for _ in range(self.config.epochs):
            order = torch.rand(network.members, count, generator=generator).argsort(1).to(network.weights[0].device)
            total = 0.0
            for rows in torch.split(order, size, 1):
                if rows.shape[1] < 2:
                    continue
                losses = self.loss(Transitions(*(part[rows] for part in transitions)))
                self.optimizer.zero_grad()
                losses.sum().backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                total += float(losses.detach().mean()) * rows.shape[1] / count
        return total

    def whole_state(self) -> dict[str, Any]:
        """Return heads and optimiser."""
        return {"heads": self.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_whole_state(self, state: dict[str, Any]) -> None:
        """Take up what `whole_state` returned."""
        self.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
