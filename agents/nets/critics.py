"""Stable-Baselines3's critics, computed side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from stable_baselines3.common.policies import ContinuousCritic
from torch import Tensor, nn

from prefenvs.agents.nets.flat import FlatParameters
from prefenvs.agents.nets.mlp import InnerLinear, stacked_linear


class StackedCritic(ContinuousCritic):
    """K critics, each layer of which is one batched product.

    Modules, parameters and state dicts are those of `ContinuousCritic`. The parameters are consecutive parts of one
    vector, `flat`, and `values` computes with views of it that hold one layer of all critics. A features extractor with
    parameters, or layers with parameters other than linear ones, are computed one critic after another.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.flat = FlatParameters(list(self.parameters()))
        layers = list(self.q_networks[0].children())
        plain = all(isinstance(layer, nn.Linear) or not list(layer.parameters()) for layer in layers)
        self.stackable = plain and not list(self.features_extractor.parameters())
        self._vector: Tensor | None = None
        self._views: list[Tensor] = []
        self._leaves: list[Tensor] = []

    @property
    def leaves(self) -> list[Tensor]:
        """What to take gradients of `values` by: the parameters of all critics stacked [K, ...], views of `flat`."""
        if self.stackable:
            self._stack()
            return self._leaves
        return [p for name, p in self.named_parameters() if not (self.share_features_extractor and "features" in name)]

    def values(self, observations: Tensor, actions: Tensor, frozen: bool = False) -> Tensor:
        """Return Q [K, B, 1]; gradients flow to the inputs, and to `leaves` unless `frozen`."""
        if not self.stackable:
            self.requires_grad_(not frozen)
            values = torch.stack(self(observations, actions))
            self.requires_grad_(True)
            return values
        self._stack()
        x = torch.cat([self.extract_features(observations, self.features_extractor), actions], 1)
        x = x.expand(self.n_critics, -1, -1)
        parameters = iter(self._views if frozen else self._leaves)
        for layer in self.q_networks[0].children():
            if isinstance(layer, nn.Linear):
                x = stacked_linear(x, next(parameters), next(parameters), isinstance(layer, InnerLinear))
            elif isinstance(layer, nn.ReLU):
                x = x.relu_()
            else:
                x = layer(x)
        return x

    def give_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Make the gradients by `leaves` those of the parameters."""
        if not self.stackable:
            for leaf, gradient in zip(self.leaves, gradients, strict=True):
                leaf.grad = gradient
            return
        each = zip(*(network.parameters() for network in self.q_networks), strict=True)
        for parameters, gradient in zip(each, gradients, strict=True):
            for parameter, part in zip(parameters, gradient.unbind(), strict=True):
                parameter.grad = part

    def _stack(self) -> None:
        """Make the stacked views, anew where the parameters have moved."""
        vector = self.flat.vector
        if vector is self._vector:
            return
        each = list(self.q_networks[0].parameters())
        parts = vector.view(self.n_critics, -1).split([p.numel() for p in each], dim=1)  # type: ignore[no-untyped-call]
        self._vector = vector
        self._views = [part.unflatten(1, p.shape) for part, p in zip(parts, each, strict=True)]
        self._leaves = [view.detach().requires_grad_() for view in self._views]
