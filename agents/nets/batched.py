"""K networks of one shape side by side: each layer is one batched product over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from prefenvs.agents.nets.mlp import Precision, stacked_linear

Initialise = Callable[[nn.Linear], object]


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
        self.rounded = rounded
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(members, outputs))
        self.reset_parameters(initialise)

    @torch.no_grad()
    def reset_parameters(self, initialise: Initialise | None = None) -> None:
        """Draw new weights, member after member, from PyTorch's global generator."""
        members, outputs, inputs = self.weight.shape
        for k in range(members):
            layer = nn.Linear(inputs, outputs)
            if initialise is not None:
                initialise(layer)
            self.weight[k], self.bias[k] = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return [K, B, out] for inputs [K, B, in], or for inputs [B, in] that all members share."""
        if x.dim() == 2:
            x = x.expand(len(self.weight), -1, -1)
        return stacked_linear(x, self.weight, self.bias, self.rounded)

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        members, outputs, inputs = self.weight.shape
        return f"members={members}, inputs={inputs}, outputs={outputs}"


class BatchedMLP(nn.Sequential):
    """K multi-layer perceptrons of equal sizes: x [K, B, in] or shared [B, in] -> [K, B, out]."""

    def __init__(
        self,
        members: int,
        sizes: Sequence[int],
        activation: Callable[[], nn.Module] = nn.ReLU,
        initialise: Initialise | None = None,
        precision: Precision = "float32",
    ) -> None:
        """`sizes`: input, hidden and output widths; `activation`: between layers; `initialise`: see `BatchedLinear`.

        precision: bfloat16 multiplies in that type between the first and the last layer.
        """
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            rounded = precision == "bfloat16" and 0 < i < len(sizes) - 2
            layers += [BatchedLinear(members, inputs, outputs, initialise, rounded), activation()]
        super().__init__(*layers[:-1])
