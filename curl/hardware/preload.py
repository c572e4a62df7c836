"""Load Triton before anything can draw; `curl/__init__.py` does this for every entry.

PyTorch's CUDA wheels for Linux bring Triton, which carries its own copy of LLVM. Mesa, which draws
where no GPU does, loads another LLVM when the first OpenGL context is made. If Mesa's copy comes
first, importing Triton ends the process with a segmentation fault, and PyTorch imports it as soon
as the first optimiser is made. The other order works. Training, evaluation, evaluation workers,
benchmarks and a user's own script all import `curl` before they can make one of its environments,
so the package itself is the place. The import takes about 0.1 s and does not touch the GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import warnings
from pathlib import Path


def load_triton() -> None:
    """Import Triton if it is installed; hide it from PyTorch if importing it would fail.

    PyTorch takes a hidden Triton for one that is not installed: only `torch.compile` needs it.
    """
    if "triton" in sys.modules or importlib.util.find_spec("triton") is None:
        return
    if mesa_is_loaded():
        hide_triton("something was drawn with OpenGL before curl was imported")
        return
    try:
        importlib.import_module("triton")
    except Exception as error:  # a broken installation may raise anything
        hide_triton(f"it cannot be imported ({type(error).__name__}: {error})")


def hide_triton(reason: str) -> None:
    """Make `import triton` raise ImportError from now on, and warn of it."""
    sys.modules["triton"] = None  # pyright: ignore[reportArgumentType]
    warnings.warn(f"Triton is not used in this process: {reason}", RuntimeWarning, stacklevel=2)


def mesa_is_loaded() -> bool:
    """Whether Mesa's LLVM is in this process already (Linux; elsewhere there is no Triton)."""
    with contextlib.suppress(OSError):
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        return "/libLLVM" in mapped and ("/libGL" in mapped or "/libOSMesa" in mapped)
    return False
