"""Ensembles that look at pictures: convolutions of all members side by side, or heads on an encoder's features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from prefenvs.agents.nets.mlp import OUTPUTS, EnsembleMLP, Output
from prefenvs.errors import PrefenvsError

KERNELS, STRIDES = (5, 3, 3, 3), (3, 2, 2, 2)


class ConvEnsemble(nn.Module):
    """M independent convolutional networks as one: each layer is one convolution with the members as its groups.

    Four convolutions with ReLU, no pooling, one linear layer (Wang et al. 2024). Weights and biases start as those of
    `nn.Conv2d` and `nn.Linear` do, uniform within 1 / sqrt(inputs of a unit).
    """

    def __init__(
        self,
        members: int,
        size: int | Sequence[int],
        channels: Sequence[int],
        output: Output,
        generator: torch.Generator | None = None,
        seen: int = 3,
    ) -> None:
        """`size`: height and width of the frames, or both; `seen`: channels, of all views; `generator`: on the CPU."""
        super().__init__()
        self.members, self.output = members, OUTPUTS[output]
        sides = [size, size] if isinstance(size, int) else list(size)
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            sides = [(side - kernel) // stride + 1 for side in sides]
        if min(sides) < 1:
            raise PrefenvsError(f"frames of {size} pixels are too small for four convolutions: choose 48 or more")
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()

        def draw(fan_in: int, *shape: int) -> nn.Parameter:
            return nn.Parameter((2.0 * torch.rand(*shape, generator=generator) - 1.0) * fan_in**-0.5)

        for (before, after), kernel in zip(pairwise([seen, *channels]), KERNELS, strict=True):
            fan_in = before * kernel**2
            self.weights.append(draw(fan_in, members * after, before, kernel, kernel))
            self.biases.append(draw(fan_in, members * after))
        features = channels[-1] * sides[0] * sides[1]
        self.last, self.last_bias = draw(features, members, features), draw(features, members, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Return rewards [M, N] for frames [N, channels, height, width] uint8."""
        x = frames.float() / 127.5 - 1.0
        for i, (weight, bias, stride) in enumerate(zip(self.weights, self.biases, STRIDES, strict=True)):
            # All members see the same frames, so the first layer needs no groups.
            x = functional.relu(functional.conv2d(x, weight, bias, stride, groups=self.members if i else 1))
        features = x.reshape(x.shape[0], self.members, -1).transpose(0, 1)
        rewards: Tensor = self.output(torch.baddbmm(self.last_bias[:, None], features, self.last[..., None]))
        return rewards.squeeze(-1)


class HeadEnsemble(nn.Module):
    """M small networks on features, which are brought to mean 0 and deviation 1 first, as measured by `standardise`."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        members: int,
        features: int,
        width: int,
        layers: int,
        output: Output,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.heads = EnsembleMLP([features, *[width] * layers, 1], members, output, generator=generator)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def standardise(self, features: Tensor) -> None:
        """Measure mean and deviation on features [N, d]; what does not vary is left as it is."""
        self.mean.copy_(features.mean(0))
        std = features.std(0, correction=0)
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, features: Tensor) -> Tensor:
        """Return rewards [M, N] for features [N, d]."""
        rewards: Tensor = self.heads((features - self.mean) / self.std)
        return rewards.squeeze(-1)
