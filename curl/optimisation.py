"""Adam, and a step of it that differentiates no more than it has to."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def adam(parameters: Iterable[Tensor], lr: float, beta1: float = 0.9) -> torch.optim.Adam:
    """Adam with betas (`beta1`, 0.999), in one fused kernel, capturable in a CUDA graph."""
    parameters = list(parameters)
    on_cuda = parameters[0].device.type == "cuda"
    betas = (beta1, 0.999)
    return torch.optim.Adam(parameters, lr=lr, betas=betas, fused=True, capturable=on_cuda)


def step(loss: Tensor, *optimizers: torch.optim.Optimizer) -> Tensor:
    """One step of each optimiser on the gradient of `loss`; returns the gradient's norm.

    Only the optimisers' own parameters are differentiated: an actor loss that passes through the
    critic costs no gradient of the critic's weights.
    """
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    parameters = list(dict.fromkeys(parameters))
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for optimizer in optimizers:
        optimizer.step()
    return torch.nn.utils.get_total_norm(gradients)
