"""Frozen encoders: pictures to features, by networks that somebody else has trained."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn
from torch.nn import functional

from prefenvs.clip_models import load_clip
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array


class Encoder(Protocol):
    """Turns frames into features; a callable with the size of the frames that it wants."""

    size: int

    def __call__(self, frames: Array) -> Tensor:
        """Return features [N, d] float32 for frames [N, size, size, 3] uint8."""


class ModuleEncoder:
    """Any `nn.Module` from pictures [N, 3, H, W] to features [N, ...], which are flattened; it is not trained."""

    def __init__(
        self,
        module: nn.Module,
        size: int,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        device: str | torch.device = "auto",
    ) -> None:
        """`size`: side of the pictures; `mean`, `std`: taken off and divided by, for values in [0, 1]."""
        self.size, self.device = size, get_device(device)
        self.module = module.to(self.device).eval().requires_grad_(False)
        self._mean = torch.tensor(mean, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(std, device=self.device).view(3, 1, 1)

    @torch.inference_mode()
    def __call__(self, frames: Array) -> Tensor:
        """Return features [N, d] float32 for frames [N, H, W, 3] uint8, resized to `size` where they differ."""
        pixels = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2).float() / 255.0
        if pixels.shape[-1] != self.size:
            pixels = functional.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        features = self.module((pixels - self._mean) / self._std)
        if not isinstance(features, Tensor):
            raise PrefenvsError(
                f"an encoder returns a tensor, {type(self.module).__name__} a {type(features).__name__}"
            )
        return features.flatten(1).float()


class ClipEncoder:
    """The picture half of a CLIP model: features are its vectors of length 1."""

    def __init__(self, name: str | Path, device: str | torch.device = "auto") -> None:
        """`name`: as `prefenvs.clip_models.load_clip` takes it."""
        self.name = str(name)
        self._clip = load_clip(name, device)
        self.size = self._clip.size

    def __call__(self, frames: Array) -> Tensor:
        """Return features [N, d] float32 for frames [N, H, W, 3] uint8."""
        return self._clip.embed_images(frames)
