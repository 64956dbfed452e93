"""The policy network of learners from fixed data: bounded by tanh, Gaussian or deterministic, with dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from prefenvs.agents.nets.mlp import Precision, initialise, linear

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class TanhActor(nn.Module):
    """mean(s) = tanh(MLP(s)) in [-1, 1]^act, and for a Gaussian one log-std for each action, the same in all states.

    Dropout follows every hidden layer where a call is told which units to drop (`draw_dropped`), and is off otherwise.
    Its rate is rounded to a multiple of 1/256, so that one random byte decides about a unit.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        gaussian: bool = True,
        orthogonal: bool = False,
        precision: Precision = "float32",
    ) -> None:
        """`hidden`: widths of the ReLU layers; `orthogonal`: orthogonal weights and zero biases at the start.

        precision: bfloat16 multiplies in that type between the first and the last layer.
        """
        super().__init__()
        sizes = [observation_size, *hidden, action_size]
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes))
        self.log_std = nn.Parameter(torch.zeros(action_size)) if gaussian else None
        self.hidden, self.rounded = tuple(hidden), precision == "bfloat16"
        # A rate just below 1 leaves some units.
        self.dropped = min(round(256 * dropout), 255)
        if orthogonal:
            initialise(self.layers)

    def draw_dropped(self, leading: Sequence[int], generator: torch.Generator) -> list[Tensor]:
        """Draw which units of each hidden layer to drop for observations [*leading, obs]: bool [*leading, width]."""
        if not self.dropped:
            return []
        return [random_bytes(torch.Size((*leading, width)), generator) < self.dropped for width in self.hidden]

    def forward(self, observations: Tensor, dropped: Sequence[Tensor] = ()) -> Tensor:
        """Return the mean action [..., act] for observations [..., obs]; `dropped`: what `draw_dropped` returned."""
        x = observations
        for i, layer in enumerate(self.layers[:-1]):
            assert isinstance(layer, nn.Linear)
            rounded = self.rounded and i > 0
            if not dropped:
                x = torch.relu(linear(x, layer.weight, layer.bias, rounded))
                continue
            # relu(c x) = c relu(x) for c > 0: scaling the layer is cheaper than scaling its output.
            scale = 256.0 / (256.0 - self.dropped)
            x = linear(x, layer.weight * scale, layer.bias * scale, rounded)
            x = _MaskedReLU.apply(x, dropped[i])  # type: ignore[no-untyped-call]
        mean: Tensor = torch.tanh(self.layers[-1](x))
        return mean

    def log_prob(self, observations: Tensor, actions: Tensor, dropped: Sequence[Tensor] = ()) -> Tensor:
        """Return log pi(a | s), [...]; a deterministic actor gives -|mean(s) - a|^2 in its place, summed over actions.

        That is a Gaussian of fixed standard deviation without its constants and its factor 1/2.
        """
        error: Tensor = self(observations, dropped) - actions
        if self.log_std is None:
            return -error.square().sum(-1)
        log_std = self.log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        terms = 0.5 * (error * torch.exp(-log_std)).square() + log_std + 0.5 * math.log(2.0 * math.pi)
        return -terms.sum(-1)

    def act(self, observations: Tensor, deterministic: bool, generator: torch.Generator) -> Tensor:
        """Return actions [B, act], not yet clipped: the mean, or a draw from the Gaussian if there is one."""
        mean: Tensor = self(observations)
        if deterministic or self.log_std is None:
            return mean
        std = self.log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + std * noise


def make_adam(groups: Sequence[dict[str, object]], lr: float) -> torch.optim.Adam:
    """Return Adam whose step is one fused kernel for each group of parameters."""
    return torch.optim.Adam([dict(group) for group in groups], lr=lr, fused=True)


def random_bytes(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return independent uniform bytes, uint8, on the generator's device."""
    words = torch.empty((shape.numel() + 7) // 8, dtype=torch.int64, device=generator.device)
    # All 64 bits are drawn; the default range would leave the sign bit 0.
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.uint8)[: shape.numel()].view(shape)


class _MaskedReLU(torch.autograd.Function):
    """max(x, 0) where not dropped, else 0; the output alone tells where gradients pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dropped: Tensor) -> Tensor:
        """Return the masked activation [...]; `dropped` is bool [...]."""
        return x.clamp_min(0.0).masked_fill_(dropped, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep the activation for the backward pass."""
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient by x [...]."""
        (output,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, output, 0.0), None
