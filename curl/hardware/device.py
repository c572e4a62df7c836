"""Device, precision and OpenGL backend: what depends on the machine, decided once."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import sys
import warnings

import torch

from curl.checks import choice
from curl.hardware import egl
from curl.hardware.limits import available_memory

log = logging.getLogger("curl")

OPENGL_LIBRARIES = {
    "egl": ("libEGL.so.1", "libGL.so.1"),
    "osmesa": ("libOSMesa.so.8", "libGL.so.1"),
}
OPENGL_HELP = "sudo apt-get install -y libegl1 libgl1 libosmesa6"


class OpenGLError(RuntimeError):
    """No OpenGL backend can draw here."""


def choose_device(name: str) -> torch.device:
    """The device that `name` means; a CUDA device always with its number.

    `auto` is the first CUDA device if there is one, else the CPU; `cuda` is the first one. A device
    without a number would differ from the devices of its own tensors: "cuda" is not "cuda:0".

    Raises:
        ValueError: no such name, or no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<number>; got {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        device = torch.device("cuda", device.index or 0)
        if device.index >= count:
            raise ValueError(f"device={name} does not exist: this machine has {count} CUDA devices")
    return device


def prepare_device(device: torch.device) -> None:
    """Make `device` this process's own, and float32 mean float32 there; before any allocation."""
    if device.type == "cuda":
        make_current(device)
        full_float32()


def make_current(device: torch.device) -> None:
    """Make a CUDA device PyTorch's current one; nothing on a CPU.

    Tensors say where they are, but streams, events, graphs and pinned memory belong to the current
    device, and so does whatever a library allocates without asking. With `cuda:1` they would open a
    context on the first GPU as well, which takes some hundred megabytes of somebody else's memory.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


def full_float32() -> None:
    """Compute float32 products on CUDA in float32, and not in TF32, in the whole process.

    PyTorch's default lets cuDNN compute float32 convolutions in TF32, which keeps 10 bits of the
    mantissa instead of 23; `precision=float32` is for those who want the paper's arithmetic. Under
    `precision=bfloat16` the large products are bfloat16 in either case. What stays in float32 there
    (last layers, losses, the scores of the objective) stays so for its accuracy, and is too small
    for TF32 to save time.

    These are PyTorch's older flags. Setting them sets the newer ones (`fp32_precision`) alike,
    while the newer ones alone leave the older to contradict them, and PyTorch 2.13 then raises
    wherever it reads the older itself, as in `torch.backends.cudnn.flags`.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


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

    A `MUJOCO_GL` that is already set wins; `auto` tries EGL, then OSMesa. On CUDA the frames are
    drawn by the GPU that learns. `OpenGLError` as `find_opengl` raises it.
    """
    backend = find_opengl(name)
    os.environ["MUJOCO_GL"] = backend
    if backend == "egl" and device.type == "cuda":
        choose_rendering_gpu(device)
    return backend


def find_opengl(name: str) -> str:
    """The backend that `choose_opengl` will take; changes nothing.

    Raises:
        ValueError: no such backend.
        OpenGLError: no library loads, with the command that mends it, or there is no display.
    """
    choice("opengl", name, ("auto", "egl", "osmesa", "glfw"))
    name = os.environ.get("MUJOCO_GL") or name
    if name == "glfw":
        if lack := lack_of_a_display():
            raise OpenGLError(f"opengl=glfw needs a display ({lack}); use egl or osmesa")
        return name
    if name not in ("auto", *OPENGL_LIBRARIES):
        raise ValueError(f"MUJOCO_GL must be egl, osmesa or glfw; got {name!r}")
    wanted = list(OPENGL_LIBRARIES) if name == "auto" else [name]
    for backend in wanted:
        if all(_loads(library) for library in OPENGL_LIBRARIES[backend]):
            return backend
    raise OpenGLError(
        f"no headless OpenGL library was found (tried {', '.join(wanted)}); "
        f"on Debian or Ubuntu run: {OPENGL_HELP}"
    )


def lack_of_a_display() -> str:
    """Why GLFW can open no window here; empty if it can. Without one MuJoCo would crash."""
    try:
        import glfw
    except ImportError as error:
        return str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if glfw.init():
            return ""
        _, reason = glfw.get_error()
    return reason.decode(errors="replace") if isinstance(reason, bytes) else "GLFW does not start"


def load_renderer(backend: str) -> None:
    """Import what draws, once `choose_opengl` took `backend`.

    Raises:
        OpenGLError: it does not start: no such EGL device or no driver, for example.
    """
    try:
        importlib.import_module("dm_control._render")
    except Exception as error:  # PyOpenGL and the drivers raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        other = "osmesa" if backend == "egl" else "egl"
        raise OpenGLError(f"opengl={backend} cannot draw here: {reason}; try {other}") from None


def choose_rendering_gpu(device: torch.device) -> None:
    """Set `MUJOCO_EGL_DEVICE_ID`, for this process and those it starts, to the GPU `device`.

    What is set already is left alone. Where EGL knows no such device, MuJoCo takes the first one
    that works. That may be another GPU, or the CPU: in a container NVIDIA's EGL is there only if
    NVIDIA_DRIVER_CAPABILITIES includes `graphics`.
    """
    if "MUJOCO_EGL_DEVICE_ID" in os.environ:
        return
    number = egl.device_of(device.index or 0)
    if number is not None:
        os.environ["MUJOCO_EGL_DEVICE_ID"] = str(number)
        return
    log.warning(
        "EGL knows no device that is %s, so another GPU or the CPU may draw the frames; "
        "MUJOCO_EGL_DEVICE_ID=<number> chooses one, and a container needs "
        "NVIDIA_DRIVER_CAPABILITIES=all to see NVIDIA's",
        device,
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
    return available_memory()


def machine(device: torch.device) -> dict[str, str | int]:
    """What a run on `device` was made on, for its records."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = torch.cpu.get_capabilities().get("cpu_name", "")
    return {
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "processor": str(name),
        "threads": torch.get_num_threads(),
    }
