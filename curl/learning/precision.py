"""What every agent computes with: the dtype of its networks, and noise from its own generator."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """The context in which an agent runs its networks; with float32 it changes nothing.

    Convolutions and hidden layers then compute in `precision`. What must stay float32 (last layers,
    layer norms, losses) says so itself, see `curl/learning/networks.py`.

    Args:
        device: where the networks are.
        precision: float32 or bfloat16. float16 would need a scaled loss, which no agent here has.
    """
    enabled = precision != torch.float32
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def gaussian_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise, float32, of the shape of `like`, on the device of `generator`."""
    return torch.randn(like.shape, generator=generator, device=generator.device)
