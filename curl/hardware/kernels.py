"""Whether a device has the Triton kernels of `curl/hardware/triton_kernels.py`.

They are for NVIDIA GPUs and need Triton, which PyTorch's CUDA wheels for Linux bring, and a C
compiler, which Triton calls once. Everywhere else, and for tensors of other forms, PyTorch computes
the same: `curl/data/batch.py` and `curl/learning/networks.py` hold both ways side by side.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType

import torch

log = logging.getLogger("curl")


@functools.cache
def kernels_on(device: torch.device) -> ModuleType | None:
    """The module of kernels, once each of them has worked on `device`; None: PyTorch computes."""
    if device.type != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return None
    try:
        from curl.hardware import triton_kernels

        triton_kernels.try_out(device)
    except Exception as error:  # a missing compiler, a GPU that is too old: Triton raises anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        log.info("Triton's kernels are not used, PyTorch computes what they would: %s", reason)
        return None
    return triton_kernels
