"""Which EGL device is which CUDA device, so that frames are drawn on the GPU that learns.

MuJoCo's renderers take the EGL device number `MUJOCO_EGL_DEVICE_ID`, or the first device that
works, which on a machine with many GPUs is the same one for everybody. EGL numbers devices in an
order of its own: it need not be CUDA's, it may leave out the GPUs that `CUDA_VISIBLE_DEVICES`
hides, and it lists software renderers too. So the number cannot be computed from that variable. A
wrong one draws on somebody else's GPU or ends with "must be an integer between 0 and 0".
NVIDIA's driver knows the answer: the attribute EGL_CUDA_DEVICE_NV (extension EGL_NV_device_cuda)
of an EGL device is its CUDA number. According to reports from machines with several GPUs the
numbers are those that this process sees, after `CUDA_VISIBLE_DEVICES`, however that names them
(numbers, UUIDs, MIG instances).

`python -m curl.hardware.egl` prints, as JSON, the CUDA number of every EGL device, or null. The
question is asked in a process of its own: a graphics driver that fails there cannot end a run, and
nothing of it is loaded into this process before it is needed.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from typing import Any

CUDA_DEVICE = 0x323A  # EGL_CUDA_DEVICE_NV
MOST = 64  # devices that are asked for
TIMEOUT = 60.0  # seconds; loading NVIDIA's driver takes about one


def device_of(cuda: int) -> int | None:
    """The number of the EGL device that is CUDA device `cuda`; None if EGL cannot say."""
    command = [sys.executable, "-P", __file__]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=True)
        numbers = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return numbers.index(cuda) if cuda in numbers else None


def cuda_numbers(library: Any) -> list[int | None]:
    """The CUDA number of every EGL device, in EGL's order; None for one that is no CUDA device.

    Args:
        library: libEGL, loaded by ctypes.
    """
    address = library.eglGetProcAddress
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    handles, count = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int)
    value = ctypes.POINTER(ctypes.c_ssize_t)
    query_devices = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, handles, count)
    query_attribute = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, value)
    where = [address(name) for name in (b"eglQueryDevicesEXT", b"eglQueryDeviceAttribEXT")]
    if not all(where):
        return []
    devices, found = (ctypes.c_void_p * MOST)(), ctypes.c_int()
    if not query_devices(where[0])(MOST, devices, ctypes.byref(found)):
        return []
    attribute, numbers = query_attribute(where[1]), []
    for device in devices[: found.value]:
        number = ctypes.c_ssize_t(-1)
        known = attribute(device, CUDA_DEVICE, ctypes.byref(number))
        numbers.append(number.value if known and number.value >= 0 else None)
    return numbers


if __name__ == "__main__":
    print(json.dumps(cuda_numbers(ctypes.CDLL("libEGL.so.1"))))
