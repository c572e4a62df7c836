"""Device, precision, OpenGL backend and randomness: what depends on the machine, decided once."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch

from curl.checks import choice, whole

OPENGL_LIBRARIES = {
    "egl": ("libEGL.so.1", "libGL.so.1"),
    "osmesa": ("libOSMesa.so.8", "libGL.so.1"),
}
OPENGL_HELP = "sudo apt-get install -y libegl1 libgl1 libosmesa6"


class OpenGLError(RuntimeError):
    """No OpenGL backend can draw here."""


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device if there is one, else the CPU. `ValueError` if absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<number>; got {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ValueError(f"device={name} is not here: this machine has {count} CUDA devices")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of convolutions and matrix products: `auto`, `float32` or `bfloat16`.

    `auto` takes bfloat16 where the hardware multiplies it natively (CUDA compute capability 8.0
    and up; x86 CPUs with AMX or AVX512-BF16) and float32 elsewhere. Parameters, optimiser
    states, losses and the networks' last layers are float32 in either case.
    """
    choice("precision", name, ("auto", "float32", "bfloat16"))
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def choose_opengl(name: str, device: torch.device) -> str:
    """Set `MUJOCO_GL` before anything imports MuJoCo's renderer; return the backend.

    A `MUJOCO_GL` that is already set wins; `auto` tries EGL, then OSMesa. On CUDA the rendering
    GPU follows the compute GPU. `OpenGLError` with the command that mends it if none loads.
    """
    choice("opengl", name, ("auto", "egl", "osmesa", "glfw"))
    name = os.environ.get("MUJOCO_GL") or name
    if name not in ("auto", *OPENGL_LIBRARIES):
        if name != "glfw":
            raise ValueError(f"MUJOCO_GL must be egl, osmesa or glfw; got {name!r}")
        return name
    wanted = list(OPENGL_LIBRARIES) if name == "auto" else [name]
    for backend in wanted:
        if all(_loads(library) for library in OPENGL_LIBRARIES[backend]):
            os.environ["MUJOCO_GL"] = backend
            if backend == "egl" and device.type == "cuda" and device.index is not None:
                os.environ.setdefault("MUJOCO_EGL_DEVICE_ID", str(device.index))
            return backend
    raise OpenGLError(
        f"no headless OpenGL library was found (tried {', '.join(wanted)}); "
        f"on Debian or Ubuntu run: {OPENGL_HELP}"
    )


def renders_in_software(backend: str, device: torch.device) -> bool:
    """Whether frames are drawn by the CPU: OSMesa always, EGL where no GPU is used."""
    return backend == "osmesa" or (backend == "egl" and device.type == "cpu")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def free_bytes(device: torch.device) -> int:
    """Memory that can still be allocated on `device`, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):  # Linux: counts what caches would give back
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
        limits.append(container_free_bytes(Path("/sys/fs/cgroup")))
    return min(limits)


def container_free_bytes(group: Path) -> int:
    """What a control group (version 2) leaves of its limit; the file cache gives way."""
    limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return limit - used + int(stat.get("inactive_file", 0))


def seed_everything(seed: int, device: torch.device) -> torch.Generator:
    """Seed the global generators (initialisation) and return the run's own, on `device`."""
    random.seed(whole("seed", seed, at_least=0))
    np.random.seed(seed % 2**32)  # noqa: NPY002  dm_control tasks may fall back on it
    torch.manual_seed(seed)
    return torch.Generator(device).manual_seed(seed)


def machine() -> dict[str, str | int]:
    """What the run was made on, for its records."""
    cuda = torch.cuda.is_available()
    name = (
        torch.cuda.get_device_name() if cuda else torch.cpu.get_capabilities().get("cpu_name", "")
    )
    return {
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "processor": str(name),
        "threads": torch.get_num_threads(),
    }
