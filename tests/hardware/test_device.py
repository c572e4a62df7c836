"""The device, its arithmetic and the GPU that draws. There is no GPU here: CUDA is played."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from curl.command import eval as evaluation_program
from curl.data.environment import make_env
from curl.hardware import device as hardware
from curl.hardware.device import choose_device, choose_rendering_gpu, egl, machine, prepare_device
from curl.run import start

GPU = torch.device("cuda", 1)


class StopHereError(Exception):
    """Ends a program where a test has seen enough."""


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two GPUs; the devices that were made current."""
    current: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


# -- the device ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)]
)
def test_a_cuda_device_has_its_number(name: str, number: int, two_gpus: list[Any]) -> None:
    """torch.device("cuda") is not equal to the device of any tensor."""
    assert choose_device(name) == torch.device("cuda", number)


def test_a_gpu_that_is_not_there_is_refused(two_gpus: list[Any]) -> None:
    with pytest.raises(ValueError, match="device=cuda:2 does not exist: this machine has 2 CUDA"):
        choose_device("cuda:2")
    assert not two_gpus


def test_the_device_becomes_the_current_one(
    two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "full_float32", lambda: None)
    prepare_device(torch.device("cpu"))
    assert not two_gpus
    prepare_device(GPU)
    assert two_gpus == [GPU]


def test_programs_prepare_the_device_before_anything_is_made(
    two_gpus: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenGL, networks, replay: all that could allocate on another GPU comes afterwards."""

    def stop(*_: object) -> None:
        raise StopHereError

    calls: list[torch.device] = []
    for program in (start, evaluation_program):
        monkeypatch.setattr(program, "prepare_device", calls.append)
        monkeypatch.setattr(program, "choose_opengl", stop)
        monkeypatch.setattr(program, "seed_everything", stop, raising=False)
    config = {"threads": 0, "device": "cuda:1", "opengl": "auto"}
    with pytest.raises(StopHereError):
        start.build_and_run(config, None, GPU, None, None)  # pyright: ignore[reportArgumentType]
    settings = {"episodes": 1, "seed": 0, "video": False, "processes": 1, "out": None}
    settings |= {"runs": [tmp_path], "device": "cuda:1", "opengl": "auto", "shift": None}
    with pytest.raises(StopHereError):
        evaluation_program.evaluate_all(argparse.Namespace(**settings))
    assert calls == [GPU, GPU]


def test_a_run_s_records_name_its_own_processor(
    two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run on the CPU of a machine with GPUs is no run on the GPU, and asks it nothing."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert machine(GPU)["processor"] == "GPU 1"
    assert machine(torch.device("cpu"))["processor"] != "GPU 1"


SETTINGS = """
import torch
from curl.hardware.device import full_float32
before = torch.backends.cudnn.allow_tf32
full_float32()
with torch.backends.cudnn.flags(enabled=True):  # reads them all
    pass
print(before, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
      torch.get_float32_matmul_precision(), torch.backends.cudnn.conv.fp32_precision != "tf32",
      torch.backends.cuda.matmul.fp32_precision != "tf32")
"""


def test_float32_is_not_tf32_and_no_setting_contradicts_another() -> None:
    """In a process of its own, warnings as errors: PyTorch raises where old and new differ."""
    command = [sys.executable, "-W", "error", "-c", SETTINGS]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.stderr == ""
    assert answer.stdout.split() == ["True", "False", "False", "highest", "True", "True"]


def test_an_environment_needs_no_cuda(two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation's processes build, reset and step one; each would hold a context of its own."""

    def touch() -> None:
        raise AssertionError("CUDA was initialised")

    monkeypatch.setattr(torch.cuda, "_lazy_init", touch)
    with pytest.raises(AssertionError, match="CUDA was initialised"):
        torch.zeros(1, device="cuda")
    env = make_env(env_id="Pendulum-v1", action_repeat=2, render_size=40)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()


# -- the GPU that draws ----------------------------------------------------------------------------


class FakeEgl:
    """libEGL with two GPUs in another order than CUDA's, between them a software renderer.

    Args:
        cuda: the CUDA number of each device, None for one that has none.
        missing: functions that this library does not have.
    """

    def __init__(self, cuda: list[int | None], missing: tuple[bytes, ...] = ()) -> None:
        handles = ctypes.POINTER(ctypes.c_void_p)
        numbers = ctypes.POINTER(ctypes.c_ssize_t)

        def query_devices(most: int, devices: Any, count: Any) -> int:
            for place in range(min(most, len(cuda))):
                devices[place] = 1000 + place
            count[0] = min(most, len(cuda))
            return 1

        def query_attribute(device: int, attribute: int, value: Any) -> int:
            number = cuda[device - 1000]
            if attribute != 0x323A or number is None:
                return 0  # EGL_BAD_ATTRIBUTE
            value[0] = number
            return 1

        self.functions = {
            b"eglQueryDevicesEXT": ctypes.CFUNCTYPE(
                ctypes.c_uint, ctypes.c_int, handles, ctypes.POINTER(ctypes.c_int)
            )(query_devices),
            b"eglQueryDeviceAttribEXT": ctypes.CFUNCTYPE(
                ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, numbers
            )(query_attribute),
        }

        def address(name: bytes) -> int | None:
            if name in missing:
                return None
            return ctypes.cast(self.functions[name], ctypes.c_void_p).value

        self.eglGetProcAddress = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(address)


@pytest.mark.parametrize("cuda", [[1, None, 0], [0], [None], []], ids=str)
def test_egl_is_asked_which_cuda_device_each_of_its_devices_is(cuda: list[int | None]) -> None:
    assert egl.cuda_numbers(FakeEgl(cuda)) == cuda


@pytest.mark.parametrize("missing", [b"eglQueryDevicesEXT", b"eglQueryDeviceAttribEXT"])
def test_an_egl_that_cannot_be_asked_knows_nothing(missing: bytes) -> None:
    assert egl.cuda_numbers(FakeEgl([0, 1], (missing,))) == []


def test_this_machine_s_egl_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real question in the real process; there is no CUDA device 99."""
    asked: list[Any] = []
    run = subprocess.run

    def watched(*arguments: Any, **keywords: Any) -> Any:
        asked.append(run(*arguments, **keywords))
        return asked[-1]

    monkeypatch.setattr(subprocess, "run", watched)
    if not hardware._loads("libEGL.so.1"):
        pytest.skip("no EGL here")
    assert egl.device_of(99) is None
    assert isinstance(json.loads(asked[0].stdout), list)


@pytest.mark.parametrize(
    "answer",
    [
        OSError("no"),
        subprocess.TimeoutExpired("egl", 60),
        subprocess.CalledProcessError(-11, "egl"),
    ],
    ids=repr,
)
def test_a_driver_that_fails_does_not_end_the_run(
    answer: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise answer

    monkeypatch.setattr(subprocess, "run", run)
    assert egl.device_of(0) is None


def test_the_gpu_that_learns_draws(two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever CUDA_VISIBLE_DEVICES says: EGL's answer counts the devices that are visible."""
    monkeypatch.setattr(egl, "device_of", {0: 2, 1: 0}.get)
    monkeypatch.setattr(hardware, "_loads", lambda _: True)
    for variable in ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID"):
        monkeypatch.setenv(variable, "restored afterwards")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-4f1c,GPU-77ab")
    assert hardware.choose_opengl("auto", choose_device("auto")) == "egl"
    assert os.environ["MUJOCO_EGL_DEVICE_ID"] == "2"
    choose_rendering_gpu(GPU)  # what is set already stays
    assert os.environ["MUJOCO_EGL_DEVICE_ID"] == "2"
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID")
    choose_rendering_gpu(GPU)
    assert os.environ["MUJOCO_EGL_DEVICE_ID"] == "0"


def test_where_egl_cannot_say_mujoco_decides(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(egl, "device_of", lambda _: None)
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID", raising=False)
    with caplog.at_level("WARNING", logger="curl"):
        choose_rendering_gpu(GPU)
    assert "MUJOCO_EGL_DEVICE_ID" not in os.environ
    assert ["EGL knows no device that is cuda:1" in line for line in caplog.messages] == [True]
