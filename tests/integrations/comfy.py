"""What ComfyUI does around nodes, as far as they see it."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, AutoencoderTiny

CLASSES = {"flux2": AutoencoderKLFlux2, "qwen-image": AutoencoderKLQwenImage, "taesd": AutoencoderTiny}

#: Makes a node of a name, and calls it with inputs.
Run = Callable[..., Any]


def run(comfyui: ModuleType, name: str, **inputs: Any) -> Any:
    """A node's output, on an event loop of its own, as each prompt has."""
    return asyncio.run(call(comfyui, name, **inputs))


async def call(comfyui: ModuleType, name: str, **inputs: Any) -> Any:
    """A node's output."""
    node = comfyui.NODE_CLASS_MAPPINGS[name]()
    return await getattr(node, node.FUNCTION)(**inputs)


def latent(*shape: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A LATENT."""
    return {"samples": torch.randn(*shape, generator=torch.Generator().manual_seed(seed))}


def load(vaes: Path, vae: str) -> Any:
    """The VAE that the worker has."""
    return CLASSES.get(vae, AutoencoderKL).from_pretrained(vaes / vae).eval()


def as_image(decoded: torch.Tensor) -> torch.Tensor:
    """(n, 3, height, width) of a decoder -> IMAGE, as ComfyUI makes it."""
    return ((decoded + 1) / 2).clamp(0, 1).movedim(1, -1)


def picture(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """An IMAGE as if it were loaded from a file: levels of 255."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.float32)
    return torch.from_numpy(levels / 255)


class Interrupt:
    """ComfyUI's flag of a canceled prompt, and what looks at it: whoever finds it set takes it back."""

    class InterruptProcessingException(BaseException):
        """As ComfyUI's."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.is_set = False
        management = ModuleType("comfy.model_management")
        management.throw_exception_if_processing_interrupted = self.look  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "comfy.model_management", management)

    def look(self) -> None:
        if self.is_set:
            self.is_set = False
            raise self.InterruptProcessingException
