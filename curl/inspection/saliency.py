"""Which pixels a network looks at: gradient x input, and occlusion as the check of it.

Both compare the view with a grey one. Gradient x input is the gradient of the output times the
difference of a pixel from the mean colour of its channel: to first order, the change of the output
if that pixel were grey. Occlusion makes one square patch after the other grey and measures that
change. Where the network is nearly linear the two agree; where they do not, the gradient describes
an infinitesimal neighbourhood and says little about what the network uses (Adebayo et al. 2018;
Atrey et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from curl.inspection.measures import pooled, rank_correlation

PATCHES = 9
"""The edge of a patch is that of the view divided by this, and patches overlap by half."""
CHUNK = 128  # views that a network sees at a time

Function = Callable[[Tensor], Tensor]
"""Views float32 [B, C, H, W] -> outputs [B, K]."""


@dataclass(frozen=True, eq=False)
class Saliency:
    """The maps of one view.

    Attributes:
        gradient: float64 [H, W], the size of gradient x input, over channels and outputs.
        occlusion: float64 [P, P], the change of the outputs (their Euclidean distance) when a patch
            becomes grey.
        agreement: Spearman's correlation of occlusion with what gradient x input, summed over each
            patch, says it should be; NaN where nothing changes.
    """

    gradient: np.ndarray
    occlusion: np.ndarray
    agreement: float


def grey(view: Tensor) -> Tensor:
    """The mean of each channel of a view [C, H, W]: [C, 1, 1]."""
    return view.mean((1, 2), keepdim=True)


def gradient_times_input(function: Function, view: Tensor) -> Tensor:
    """The gradient of each output times the difference of the view from grey: [K, C, H, W]."""
    view = view.detach().requires_grad_()
    (outputs,) = function(view[None])  # [K]
    last = len(outputs) - 1
    parts = [
        torch.autograd.grad(output, view, retain_graph=k < last)[0]
        for k, output in enumerate(outputs)
    ]
    return torch.stack(parts) * (view - grey(view)).detach()


def corners(size: int) -> tuple[np.ndarray, int]:
    """The first rows (and columns) of the patches of a view, and the edge of a patch."""
    patch = max(1, round(size / PATCHES))
    last = size - patch
    return np.unique(np.append(np.arange(0, last, max(1, patch // 2)), last)), patch


@torch.no_grad()
def occlusion(function: Function, view: Tensor) -> np.ndarray:
    """The outputs with each patch grey minus those without: float64 [K, P * P]."""
    starts, patch = corners(view.shape[-1])
    places = [(int(top), int(left)) for top in starts for left in starts]
    covered, colour = view.repeat(len(places), 1, 1, 1), grey(view)
    for each, (top, left) in zip(covered, places, strict=True):
        each[:, top : top + patch, left : left + patch] = colour
    changes = []
    for part in covered.split(CHUNK):
        # In the same batch, because batches of other sizes are rounded in other ways.
        *outputs, plain = function(torch.cat([part, view[None]]))
        changes.append(torch.stack(outputs) - plain)
    return torch.cat(changes).T.double().cpu().numpy()


def saliency(function: Function, view: Tensor) -> Saliency:
    """Both maps of a view, float32 [C, H, W] in [0, 1], and how well they agree."""
    product = gradient_times_input(function, view).double()
    starts, patch = corners(view.shape[-1])
    of_pixels = product.sum(1).cpu().numpy()  # [K, H, W]
    predicted = np.linalg.norm(pooled(of_pixels, starts, patch), axis=0)  # [P * P]
    measured = np.linalg.norm(occlusion(function, view), axis=0)
    return Saliency(
        gradient=product.abs().sum((0, 1)).cpu().numpy(),
        occlusion=measured.reshape(len(starts), len(starts)),
        agreement=rank_correlation(predicted, measured),
    )
