"""Multi-layer perceptrons: several of one shape as one set of batched weights, and layers that multiply in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Output = Literal["tanh", "sigmoid", "relu", "identity"]
Precision = Literal["float32", "bfloat16"]
Initialise = Callable[[nn.Linear], object]

OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "identity": lambda x: x,
}


def linear(x: Tensor, weight: Tensor, bias: Tensor, rounded: bool = False) -> Tensor:
    """Return [..., out] for inputs [..., in], weight [out, in] and bias [out].

    rounded: multiply in bfloat16; what goes in and out, and all gradients, stay float32.
    """
    if rounded:
        return functional.linear(*(part.to(torch.bfloat16) for part in (x, weight, bias))).float()
    return functional.linear(x, weight, bias)


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor, rounded: bool = False) -> Tensor:
    """Return `linear` of K layers at once: [K, B, out] for inputs [K, B, in], weight [K, out, in] and bias [K, out]."""
    if rounded:
        x, weight, bias = (part.to(torch.bfloat16) for part in (x, weight, bias))
    product = torch.baddbmm(bias[:, None], x, weight.mT)
    return product.float() if rounded else product


class InnerLinear(nn.Linear):
    """A layer between others that multiplies in bfloat16; weights, inputs, outputs and gradients are float32."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out] for inputs [..., in]."""
        return linear(input, self.weight, self.bias, rounded=True)


def round_inner(layers: nn.Sequential, last: bool = False) -> None:
    """Let all linear layers but the first multiply in bfloat16, the last one only if said so; parameters stay.

    The first layer sees observations, whose digits may matter; what comes after the last, such as Q, keeps its own.
    """
    found = [(i, layer) for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    for i, layer in found[1:] if last else found[1:-1]:
        inner = InnerLinear(layer.in_features, layer.out_features, device="meta")
        inner.weight, inner.bias = layer.weight, layer.bias
        layers[i] = inner


class BatchedLinear(nn.Module):
    """K affine maps in one `torch.baddbmm`: x [K, B, in] -> [K, B, out].

    `weight` [K, out, in] and `bias` [K, out] are K `nn.Linear` stacked, so that member k of a saved state is the state
    of a plain layer; each member starts as `nn.Linear` does, or as `initialise` leaves one.
    """

    def __init__(
        self, members: int, inputs: int, outputs: int, initialise: Initialise | None = None, rounded: bool = False
    ) -> None:
        """`rounded`: multiply in bfloat16; `initialise`: called with each member's layer."""
        super().__init__()
        self.rounded, self._initialise = rounded, initialise
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(members, outputs))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights, member after member, from PyTorch's global generator."""
        members, outputs, inputs = self.weight.shape
        for k in range(members):
            layer = nn.Linear(inputs, outputs)
            if self._initialise is not None:
                self._initialise(layer)
            self.weight[k], self.bias[k] = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return [K, B, out] for inputs [K, B, in], or for inputs [B, in] that all members share."""
        if x.dim() == 2:
            x = x.expand(len(self.weight), -1, -1)
        return stacked_linear(x, self.weight, self.bias, self.rounded)


class BatchedMLP(nn.Sequential):
    """K multi-layer perceptrons of equal sizes: x [K, B, in] or shared [B, in] -> [K, B, out]."""

    def __init__(
        self,
        members: int,
        sizes: Sequence[int],
        activation: Callable[[], nn.Module] = nn.ReLU,
        initialise: Initialise | None = None,
        precision: Precision = "float32",
        layer_norm: bool = False,
    ) -> None:
        """`sizes`: input, hidden and output widths; `activation`: between layers; `initialise`: see `BatchedLinear`.

        precision: bfloat16 multiplies in that type between the first and the last layer. layer_norm: normalise each
        hidden layer before its activation, without learned scales.
        """
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            rounded = precision == "bfloat16" and 0 < i < len(sizes) - 2
            layers.append(BatchedLinear(members, inputs, outputs, initialise, rounded))
            if i < len(sizes) - 2:
                layers += [nn.LayerNorm(outputs, elementwise_affine=False)] if layer_norm else []
                layers.append(activation())
        super().__init__(*layers)

    def round_inner(self) -> None:
        """Let the layers between the first and the last multiply in bfloat16; parameters stay."""
        for layer in [layer for layer in self if isinstance(layer, BatchedLinear)][1:-1]:
            layer.rounded = True


def rows_per_chunk(device: torch.device) -> int:
    """Rows in one product: on a CPU few enough for activations to stay in its cache, else enough to fill the device."""
    return 2_048 if device.type == "cpu" else 65_536


class EnsembleMLP(nn.Module):
    """M independent MLPs of equal shape with LeakyReLU(0.01); each layer's weights are one tensor [M, in, out].

    Weights and biases start as those of `nn.Linear` do, uniform within 1 / sqrt(in).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        members: int,
        output: Output = "tanh",
        precision: Precision = "float32",
        generator: torch.Generator | None = None,
        normalised: bool = False,
    ) -> None:
        """`sizes`: input, hidden and output widths; `generator`: CPU generator for the initial weights.

        precision: bfloat16 multiplies in that type between the first and the last layer. normalised: keep an input's
        mean and deviation beside the weights, 0 and 1 until `normalise`.
        """
        super().__init__()
        self.members, self.output = members, OUTPUTS[output]
        self.rounded = precision == "bfloat16"
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            for group, rows in ((self.weights, fan_in), (self.biases, 1)):
                group.append(nn.Parameter(torch.empty(members, rows, fan_out)))
        self.reset_parameters(generator)
        self.normalised = normalised
        if normalised:
            self.register_buffer("mean", torch.zeros(sizes[0]))
            self.register_buffer("std", torch.ones(sizes[0]))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights from a CPU generator."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            for parameter in (weight, bias):
                uniform = torch.rand(parameter.shape, generator=generator)
                parameter.copy_((2.0 * uniform - 1.0) * weight.shape[1] ** -0.5)

    def normalise(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Compute from (x - mean) / std in the place of inputs x; [in] each."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, x: Tensor) -> Tensor:
        """Return [M, ..., out] for inputs [..., in] that all members share."""
        rows = x.reshape(1, -1, x.shape[-1]).expand(self.members, -1, -1)
        return self._compute(rows).view(self.members, *x.shape[:-1], -1)

    def forward_each(self, x: Tensor) -> Tensor:
        """Return [M, ..., out] for inputs [M, ..., in], each member's own."""
        return self._compute(x.reshape(self.members, -1, x.shape[-1])).view(*x.shape[:-1], -1)

    def _prepare(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std if self.normalised else x

    def _compute(self, x: Tensor) -> Tensor:
        x = self._prepare(x)
        layers = [(weight.mT, bias.squeeze(1)) for weight, bias in zip(self.weights, self.biases, strict=True)]
        if x.device.type == "cpu":
            # One member after another: on a CPU batched products are slower, and activations fall out of its cache.
            each = zip(*(zip(weight.unbind(), bias.unbind(), strict=True) for weight, bias in layers), strict=True)
            x = torch.stack([self._chain(linear, part, own) for part, own in zip(x.unbind(), each, strict=True)])
        else:
            x = self._chain(stacked_linear, x, layers)
        return self.output(x)

    def _chain(self, product: Callable[..., Tensor], x: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        last = len(layers) - 1
        for i, (weight, bias) in enumerate(layers):
            x = product(x, weight, bias, self.rounded and 0 < i < last)
            if i < last:
                x = functional.leaky_relu(x, 0.01, inplace=True)
        return x


def initialise(module: nn.Module) -> None:
    """Give every linear layer orthogonal weights and zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
