"""All parameters of a network in one vector: one kernel for Adam's step, one for a target's, views for stacking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.utils._pytree import tree_map

FIRST, SECOND = "exp_avg", "exp_avg_sq"


class FlatParameters:
    """A vector whose consecutive parts are the given parameters' memory.

    The parameters stay what they are, with their shapes and names; writing to them writes to the vector and the other
    way round. Where something gave them other memory (a move to another device, a deep copy), `vector` gathers them
    again. Two `FlatParameters` of the same parameters in the same order share one vector.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self._vector: Tensor | None = None
        self._addresses: list[int] = []

    @property
    def vector(self) -> Tensor:
        """The values [n], detached; not a copy."""
        if self._vector is None or [p.data_ptr() for p in self.parameters] != self._addresses:
            self._vector = self._adopt() if self._consecutive() else self._gather()
            self._addresses = [p.data_ptr() for p in self.parameters]
        return self._vector

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of a vector [n], each a view in its parameter's shape."""
        parts = zip(vector.split(self.sizes), self.parameters, strict=True)  # type: ignore[no-untyped-call]
        return [part.view(parameter.shape) for part, parameter in parts]

    def _consecutive(self) -> bool:
        first = self.parameters[0].untyped_storage().data_ptr()
        if any(p.untyped_storage().data_ptr() != first or not p.is_contiguous() for p in self.parameters):
            return False
        return all(a.storage_offset() + a.numel() == b.storage_offset() for a, b in pairwise(self.parameters))

    def _adopt(self) -> Tensor:
        first = self.parameters[0].detach()
        return first.as_strided((sum(self.sizes),), (1,), first.storage_offset())

    def _gather(self) -> Tensor:
        vector = torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, self.split(vector), strict=True):
            parameter.data = part
        return vector


class FlatAdam(torch.optim.Adam):
    """`torch.optim.Adam` with fused steps on one vector instead of one tensor for each parameter.

    For one group of float parameters that all receive gradients; its state dict is Adam's, in both directions.
    """

    def __init__(self, params: Any, lr: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(params, lr=lr, **{"fused": True} | kwargs)
        self._flat: FlatParameters | None = None
        self._moments: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step; parameters without a gradient count as having gradient 0."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        group = self.param_groups[0]
        flat = self._flatten()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in flat.parameters]
        adam(
            [flat.vector],
            [torch.cat([grad.flatten() for grad in grads])],
            [self._moments[FIRST]],
            [self._moments[SECOND]],
            [],
            [self._moments["step"]],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's state dict, with a step counter for each parameter."""
        state = super().state_dict()
        state["state"] = {i: entry | {"step": entry["step"].clone()} for i, entry in state["state"].items()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state dict of a `FlatAdam` or of a `torch.optim.Adam` over the same parameters."""
        super().load_state_dict(state_dict)
        # The steps of this class are fused whatever the saved optimiser's were.
        self.param_groups[0]["fused"], self.param_groups[0]["foreach"] = True, False
        self._flat = None

    def _flatten(self) -> FlatParameters:
        """Make the moments views of vectors, as the parameters are; done once, and again after a load or a move."""
        flat = self._flat
        if flat is not None and self._moments[FIRST].device == flat.parameters[0].device:
            return flat
        flat = FlatParameters(self.param_groups[0]["params"])
        entries = [self.state[parameter] for parameter in flat.parameters]
        vector = flat.vector
        moments = {name: torch.zeros_like(vector) for name in (FIRST, SECOND)}
        # The step counter of fused Adam is a float32 scalar on the device.
        moments["step"] = torch.zeros((), dtype=torch.float32, device=vector.device)
        for name in (FIRST, SECOND):
            for part, entry in zip(flat.split(moments[name]), entries, strict=True):
                if name in entry:
                    part.copy_(entry[name])
                entry[name] = part
        for entry in entries:
            moments["step"].copy_(torch.as_tensor(entry.get("step", 0.0)))
        for entry in entries:
            entry["step"] = moments["step"]
        self._flat, self._moments = flat, moments
        return flat


def own_memory(state: Any) -> Any:
    """Return a state in which no tensor is part of a larger one: a file would hold the weights of all seeds else."""

    def detach(leaf: Any) -> Any:
        shared = isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > leaf.numel() * leaf.element_size()
        return leaf.detach().clone() if shared else leaf

    return tree_map(detach, state)
