"""A reward on pictures that are the observations themselves: the image ensemble, with nothing to render."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor

from prefenvs.agents.nets.saved import saved_state
from prefenvs.agents.rewards.image.ensemble import ImageRewardConfig, ImageRewardEnsemble
from prefenvs.agents.rewards.image.frames import FrameTable
from prefenvs.agents.rewards.image.nets import ConvEnsemble
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array, Segment

FORMAT = "prefenvs-pixel-reward-1"


class PixelReward(ImageRewardEnsemble):
    """M convolutional networks r_m(picture) on picture observations: `prefenvs.protocols.RewardModel`.

    The sums over every `stride`-th picture of a segment predict which segment is preferred (Wang et al. 2024, network
    and batch). Actions do not count.
    """

    def __init__(
        self,
        shape: Sequence[int],
        config: ImageRewardConfig | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        """`shape`: channels, height and width of an observation."""
        self.shape = tuple(int(size) for size in shape)
        self.config, self.device = config or ImageRewardConfig(), get_device(device)
        self.encoder = self.features = None
        self.observation_size, self.views = 0, 1
        self.generator = torch.Generator().manual_seed(seed)
        c = self.config
        network = ConvEnsemble(c.members, self.shape[1:], c.channels, c.output, self.generator, self.shape[0])
        self.network = network.to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=c.learning_rate)
        self.table = self._new_table()
        self._sides: dict[str, bool] = {}

    def predict(self, observations: Array, actions: Array | None = None) -> Array:
        """Return each member's reward [M, N] float32 for pictures [N, C, H, W] uint8; actions make no difference."""
        if np.shape(observations)[1:] != self.shape:
            raise PrefenvsError(
                f"the reward model takes pictures [N, {', '.join(map(str, self.shape))}], got "
                f"{list(np.shape(observations))}"
            )

        def see(rows: slice) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(observations[rows])).to(self.device)

        return self._predict(len(observations), see)

    def _new_table(self) -> FrameTable:
        return PictureTable(self.config.stride, self.device)

    def close(self) -> None:
        """Nothing is held open."""

    def save(self, path: str | Path) -> None:
        """Write configuration, weights, optimiser and random state."""
        torch.save({"format": FORMAT, "shape": list(self.shape), **self._state()}, path)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "auto", *_: Any, **__: Any) -> Self:
        """Read what `save` wrote; nothing in it is executed. Raises PrefenvsError for any other file."""
        with saved_state(path, FORMAT, cls.__name__) as state:
            config = ImageRewardConfig(**state["config"] | {"channels": tuple(state["config"]["channels"])})
            model = cls(state["shape"], config, device=device)
            model.network.load_state_dict(state["network"])
            model._go_on(state)
        return model


class PictureTable(FrameTable):
    """The pictures that labelled segments hold as observations, each once, as uint8 on the device."""

    def __init__(self, stride: int, device: torch.device) -> None:
        def see(new: list[tuple[Segment, int]]) -> Tensor:
            return torch.from_numpy(np.stack([segment.observations[step] for segment, step in new])).to(device)

        super().__init__("", stride, see, device)

    def _keys(self, segment: Segment, steps: Array) -> list[bytes]:
        return [hashlib.blake2b(segment.observations[step].tobytes(), digest_size=16).digest() for step in steps]
