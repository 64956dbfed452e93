"""Frozen encoders: pictures to features, by networks that somebody else has trained."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn
from torch.nn import functional

from prefenvs.errors import PrefenvsError, failure_told, import_extra
from prefenvs.frames.clip_models import load_clip
from prefenvs.internal.loading import import_named
from prefenvs.segments import Array

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder(Protocol):
    """Turns frames into features; a callable with the size of the frames that it wants.

    One that `load_encoder` finds by its name has an attribute `name`; one whose features are kept on the disk has that,
    or a `key` that no other encoder has.
    """

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
        self.name = ""
        self.size, self.device = size, get_device(device)
        self.module = module.to(self.device).eval().requires_grad_(False)
        self._mean = torch.tensor(mean, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(std, device=self.device).view(3, 1, 1)

    @cached_property
    def key(self) -> str:
        """Made of the weights, so that features kept of another module are never taken for its own."""
        digest = hashlib.blake2b(repr(self.module).encode(), digest_size=8)
        for name, tensor in self.module.state_dict().items():
            digest.update(name.encode() + np.ascontiguousarray(tensor.detach().cpu().float().numpy()).tobytes())
        return f"{type(self.module).__name__.lower()}-{digest.hexdigest()}"

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
        """`name`: as `prefenvs.frames.clip_models.load_clip` takes it."""
        self.name = str(name)
        self._clip = load_clip(name, device)
        self.size = self._clip.size

    def __call__(self, frames: Array) -> Tensor:
        """Return features [N, d] float32 for frames [N, H, W, 3] uint8."""
        return self._clip.embed_images(frames)


def load_encoder(name: str | Path, device: str | torch.device = "auto") -> Encoder:
    """Return a frozen encoder by name.

    name: of a CLIP model (see `prefenvs.frames.clip_models.load_clip`); `timm:NAME` or `transformers:NAME` for a
    backbone of those packages, whose pooled features are taken; or `module:NAME` of your own, an `nn.Module`, an
    encoder, or a function that makes one. Raises PrefenvsError where it cannot be had.
    """
    kind, _, rest = str(name).partition(":")
    if kind == "timm":
        return _load_timm(rest, device)
    if kind == "transformers":
        return _load_transformers(rest, device)
    if not rest or kind == "open_clip" or Path(name).exists():
        return ClipEncoder(name, device)
    module, attribute = import_named(str(name), "encoder")
    found: Any = getattr(module, attribute, None)
    found = found() if isinstance(found, type) or (callable(found) and not hasattr(found, "size")) else found
    if isinstance(found, nn.Module):
        found = ModuleEncoder(found, int(getattr(found, "size", 224)), device=device)
    if not callable(found) or not hasattr(found, "size"):
        raise PrefenvsError(f"{name} is neither an nn.Module nor an encoder with a size: {type(found).__name__}")
    found.name = str(name)
    return found  # type: ignore[no-any-return]


def _load_timm(name: str, device: str | torch.device) -> Encoder:
    try:
        import timm
    except ImportError:
        raise PrefenvsError(f"the encoder timm:{name} needs the package timm: pip install timm") from None
    with failure_told(f"timm has no model {name!r}"):
        model = timm.create_model(name, pretrained=True, num_classes=0)
        data = timm.data.resolve_model_data_config(model)
    encoder = ModuleEncoder(model, int(data["input_size"][-1]), tuple(data["mean"]), tuple(data["std"]), device)
    encoder.name = f"timm:{name}"
    return encoder


class _Pooled(nn.Module):
    """A transformers backbone reduced to one vector: its pooled output, else the mean over tokens or places."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        out = self.model(pixel_values=pixels)
        pooled: Tensor | None = getattr(out, "pooler_output", None)
        if pooled is not None:
            return pooled
        hidden: Tensor = out.last_hidden_state
        return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))


def _load_transformers(name: str, device: str | torch.device) -> Encoder:
    transformers = import_extra("transformers", f"the encoder transformers:{name}")
    with failure_told(f"transformers has no model {name!r}"):
        model = transformers.AutoModel.from_pretrained(name)
        model = getattr(model, "vision_model", model)
        size = getattr(model.config, "image_size", 224)
    encoder = ModuleEncoder(_Pooled(model), int(size if isinstance(size, int) else size[0]), *IMAGENET, device)
    encoder.name = f"transformers:{name}"
    return encoder
