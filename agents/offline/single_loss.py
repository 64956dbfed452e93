"""Learners from fixed data whose gradient step lowers one loss; several seeds of such a learner can train together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor

from prefenvs.agents.nets.mlp import Precision
from prefenvs.agents.offline.learner import OfflineConfig, OfflineLearner
from prefenvs.errors import failure_told
from prefenvs.limits import check_settings

Drawn = dict[str, Any]
"""All that chance has a part in, in one update: tensors by name, or lists and named tuples of them."""
Loss = Callable[[Drawn], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class SingleLossConfig(OfflineConfig):
    """Settings that all these learners have."""

    precision: Precision = "float32"
    """bfloat16 multiplies in that type between the first and the last layers: faster where the processor has it."""

    def __post_init__(self) -> None:
        check_settings(self)


Config = TypeVar("Config", bound=SingleLossConfig)


class SingleLossLearner(OfflineLearner[Config]):
    """A learner with one optimiser, in which an update draws a batch, and then lowers its loss.

    A subclass leaves all chance to `_draw`, and computes `_loss` from what was drawn and the networks of `_modules`
    alone, without a look at values, so that `prefenvs.agents.offline.seeds` can do so for several learners in one pass.
    """

    _compiled: Loss | None = None

    @abstractmethod
    def _draw(self) -> Drawn:
        """Draw the batch of an update, and whatever else is random in it."""

    @abstractmethod
    def _loss(self, drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and figures for the log as scalars."""

    def compile(self, backend: str = "inductor") -> Self:
        """Compute the loss and its gradients by `torch.compile` from now on, and return the learner.

        It takes some seconds at the first update, and needs a C++ compiler on a CPU. The results are the same up to
        rounding. On a CPU it pays for IQL, not for CPL (docs/results/performance.md). A group of seeds goes on
        without it.
        """
        check_compiler(backend, self.device)
        self._compiled = torch.compile(self._loss, backend=backend, fullgraph=True)
        return self

    def _before_update(self) -> None:
        """Set what depends on the number of steps, learning rates above all."""

    def _after_update(self) -> None:
        """Move what follows the networks."""

    def _update(self) -> dict[str, Tensor]:
        self._before_update()
        loss, figures = (self._compiled or self._loss)(self._draw())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._after_update()
        return {name: figure.detach() for name, figure in figures.items()}


def check_compiler(backend: str = "inductor", device: str | torch.device = "auto") -> None:
    """Raise a PrefenvsError where `torch.compile` does not work."""
    with failure_told("torch.compile does not work here", "install a C++ compiler, such as g++, or leave compile out"):
        torch.compile(torch.neg, backend=backend)(torch.zeros(2, device=get_device(device)))
