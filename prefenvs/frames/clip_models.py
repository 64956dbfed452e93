"""CLIP and its relatives, from transformers or open_clip, behind one small form: texts and frames to vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prefenvs.errors import PrefenvsError, failure_told, install_command
from prefenvs.segments import Array

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# OpenAI's, which every CLIP model has unless its own files say otherwise.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OPEN_CLIP = "open_clip:"


class TextImageModel(Protocol):
    """A model whose vectors of a picture and of its description lie close together."""

    name: str
    size: int
    """Side in pixels of the square pictures that the model takes."""

    def embed_images(self, frames: Array) -> Tensor:
        """Return vectors [N, d] float32 of length 1 for frames [N, H, W, 3] uint8, on the model's device."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return vectors [N, d] float32 of length 1, on the model's device."""


class CLIP:
    """A checkpoint together with its preparation of pictures and texts; nothing in it is trained."""

    def __init__(
        self,
        name: str,
        module: Any,
        encode_images: Callable[[Tensor], Tensor],
        encode_texts: Callable[[Sequence[str]], Tensor],
        size: int,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        device: str | torch.device = "auto",
    ) -> None:
        """Hold a module; `encode_images` takes prepared pictures [N, 3, size, size], `encode_texts` takes texts."""
        import torch
        from stable_baselines3.common.utils import get_device

        self.name, self.size, self.device = name, size, get_device(device)
        self.module = module.to(self.device).eval().requires_grad_(False)
        self._encode_images, self._encode_texts = encode_images, encode_texts
        self._mean = 255.0 * torch.tensor(mean, device=self.device).view(3, 1, 1)
        self._std = 255.0 * torch.tensor(std, device=self.device).view(3, 1, 1)

    def prepare(self, frames: Array) -> Tensor:
        """Return frames [N, H, W, 3] uint8 as the network takes them, [N, 3, size, size] float32.

        Frames of another size are resized bicubically to the square, without regard to their proportions (VLM-RM).
        Raises PrefenvsError for frames of another shape or type.
        """
        import torch
        from torch.nn import functional

        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise PrefenvsError(f"frames are [N, H, W, 3] uint8, these are {list(frames.shape)} {frames.dtype}")
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device).permute(0, 3, 1, 2).float()
        if pixels.shape[-2:] != (self.size, self.size) and len(pixels):
            size = (self.size, self.size)
            pixels = functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp_(0.0, 255.0)
        return (pixels - self._mean) / self._std

    def embed_images(self, frames: Array) -> Tensor:
        """Return vectors [N, d] float32 of length 1 for frames [N, H, W, 3] uint8; half precision on a GPU."""
        import torch

        with torch.inference_mode(), self._precision():
            return _unit(self._encode_images(self.prepare(frames)))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return vectors [N, d] float32 of length 1."""
        import torch

        with torch.inference_mode(), self._precision():
            return _unit(self._encode_texts(list(texts)))

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        return torch.autocast("cuda", torch.float16) if self.device.type == "cuda" else contextlib.nullcontext()


def _unit(vectors: Tensor) -> Tensor:
    vectors = vectors.float()
    length: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / length


def load_clip(name: str | Path, device: str | torch.device = "auto") -> CLIP:
    """Read a checkpoint.

    name: a folder or hub name for transformers (`openai/clip-vit-large-patch14`; SigLIP works too), or for open_clip
    `open_clip:ARCHITECTURE@WEIGHTS`, with a published tag or a file (`open_clip:ViT-bigG-14@laion2b_s39b_b160k`), or
    `open_clip:hf-hub:ORGANISATION/MODEL`. Hub names are downloaded by these packages, and kept where they keep things.
    Raises PrefenvsError for a missing package or a name that nothing can be read from.
    """
    name = str(name)
    load = _load_open_clip if name.startswith(OPEN_CLIP) else _load_transformers
    way_out = "give a folder, a hub name, or open_clip:ARCHITECTURE@WEIGHTS"
    with failure_told(f"no CLIP model can be read from {name!r}", way_out):
        return load(name, device)


def _import(package: str, wheel: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        extra = install_command("clip") if package == "transformers" else f"pip install {wheel}"
        raise PrefenvsError(f"a CLIP model needs the package {wheel}, which is not installed: {extra}") from error


def _load_transformers(name: str, device: str | torch.device) -> CLIP:
    transformers = _import("transformers", "transformers")
    module = transformers.AutoModel.from_pretrained(name).eval()
    for method in ("get_image_features", "get_text_features"):
        if not hasattr(module, method):
            raise PrefenvsError(
                f"{name!r} is a {type(module).__name__}, which does not read pictures and texts as CLIP"
            )
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    vision = module.config.vision_config
    mean, std = _statistics(name)
    # SigLIP was trained on texts of one length and looks at the last token.
    padding: dict[str, Any] = {"padding": True}
    length = module.config.text_config.max_position_embeddings
    if "siglip" in module.config.model_type:
        padding = {"padding": "max_length", "max_length": length}

    def encode_texts(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), return_tensors="pt", **padding)
        if tokens["input_ids"].shape[1] > length:
            longest = max(texts, key=len)
            raise PrefenvsError(f"the prompt {longest!r} is longer than the {length} tokens that {name!r} reads")
        return _pooled(module.get_text_features(**{key: value.to(module.device) for key, value in tokens.items()}))

    def encode_images(pixels: Tensor) -> Tensor:
        return _pooled(module.get_image_features(pixel_values=pixels))

    return CLIP(name, module, encode_images, encode_texts, int(vision.image_size), mean, std, device)


def _pooled(output: Any) -> Tensor:
    """The projected vector: transformers 5 returns it within an object, older ones as it is."""
    return output if not hasattr(output, "pooler_output") else output.pooler_output  # type: ignore[no-any-return]


def _statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of pixels that a checkpoint was trained with, or OpenAI's where it does not say."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        told = ImageProcessingMixin.get_image_processor_dict(name)[0]
    except OSError:
        told = {}
    return told.get("image_mean") or MEAN, told.get("image_std") or STD


def _load_open_clip(name: str, device: str | torch.device) -> CLIP:
    open_clip = _import("open_clip", "open_clip_torch")
    architecture, _, weights = name.removeprefix(OPEN_CLIP).partition("@")
    module = open_clip.create_model(architecture, pretrained=weights or None)
    tokenizer = open_clip.get_tokenizer(architecture)
    if not weights and not architecture.startswith(("hf-hub:", "local-dir:")):
        raise PrefenvsError(f"{name!r} names no weights: open_clip:{architecture}@TAG, or @ and a file")
    visual = module.visual
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    statistics = getattr(visual, "image_mean", None) or MEAN, getattr(visual, "image_std", None) or STD

    def encode_texts(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts)).to(next(module.parameters()).device)
        return module.encode_text(tokens)  # type: ignore[no-any-return]

    return CLIP(name, module, module.encode_image, encode_texts, int(size), *statistics, device)
