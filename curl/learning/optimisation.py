"""Adam, its state from another machine, and a step that differentiates no more than it has to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

OF_THE_DEVICE = ("fused", "capturable", "foreach")
"""Settings of an optimiser that say how to compute on its device, and nothing about learning."""


def adam(parameters: Iterable[Tensor], lr: float, beta1: float = 0.9) -> torch.optim.Adam:
    """Adam with betas (`beta1`, 0.999), in one fused kernel, capturable in a CUDA graph."""
    parameters = list(parameters)
    on_cuda = parameters[0].device.type == "cuda"
    betas = (beta1, 0.999)
    return torch.optim.Adam(parameters, lr=lr, betas=betas, fused=True, capturable=on_cuda)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state that `optimizer.state_dict()` gave, on whatever device that was.

    PyTorch would take the saved settings whole: after a checkpoint from a CPU nothing would be
    capturable any more, and updates on a GPU would run eagerly ever after. Here `optimizer` keeps
    how it computes, and takes everything else. PyTorch also puts the step counts where the settings
    say (on the parameters' device if fused or capturable), so the settings come first.

    Raises:
        ValueError: the saved state has other parameters. Other malformed states raise whatever
            they make PyTorch raise.
    """
    ours, theirs = optimizer.param_groups, state["param_groups"]
    groups = [
        {**saved, **{name: own[name] for name in OF_THE_DEVICE if name in own}}
        for own, saved in zip(ours, theirs, strict=True)
    ]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def step(loss: Tensor, *optimizers: torch.optim.Optimizer) -> Tensor:
    """One step of each optimiser on the gradient of `loss`; returns the gradient's norm.

    Only the optimisers' own parameters are differentiated: an actor loss that passes through the
    critic costs no gradient of the critic's weights. Gradients are new tensors in every step, which
    nothing reads before they are written: those that a CUDA graph (or a capture that failed) left
    behind are of no consequence.
    """
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    parameters = list(dict.fromkeys(parameters))
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for optimizer in optimizers:
        optimizer.step()
    return torch.nn.utils.get_total_norm(gradients)
