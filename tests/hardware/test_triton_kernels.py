"""The kernels, run by Triton's interpreter, against the PyTorch code that they stand in for.

The interpreter cuts float32 off where it should round it to bfloat16, so results are float32 here.
tests/contracts/test_on_gpu.py runs what a GPU runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from curl.data.batch import FrameStacks
from curl.hardware.kernels import kernels_on
from support.paths import ROOT

CPU = torch.device("cpu")
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"  # Triton asks when it is imported
in_the_interpreter = pytest.mark.skipif(not INTERPRETS, reason="run by a test of this file")


@pytest.mark.skipif(
    INTERPRETS or importlib.util.find_spec("triton") is None,
    reason="needs Triton (x86-64 Linux: it is in the dev extra)",
)
def test_the_kernels_in_a_process_that_interprets_them() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "14 passed, 1 skipped" in done.stdout


@pytest.fixture
def interpreted() -> ModuleType:
    return importlib.import_module("curl.hardware.triton_kernels")


def draw(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


@in_the_interpreter
@pytest.mark.parametrize(
    ("frames", "stacks", "size"),
    [((7, 20, 24, 3), (5, 3), 17), ((4, 13, 13, 1), (2, 1), 13), ((9, 30, 30, 3), (3, 2), 5)],
    ids=["wide", "whole, of one frame", "small"],
)
def test_a_window_is_that_of_the_frame_stacks(
    frames: tuple[int, ...], stacks: tuple[int, int], size: int, interpreted: ModuleType
) -> None:
    pixels = draw(0, 256, *frames).to(torch.uint8)
    indices = draw(0, frames[0], *stacks, seed=1)
    top, left = (draw(0, edge - size + 1, stacks[0], seed=edge) for edge in (frames[1], frames[2]))
    wanted = FrameStacks(pixels, indices).window(top, left, size)
    found = interpreted.window(pixels, indices, top, left, size).permute(0, 3, 1, 2)
    assert torch.equal(found, wanted) and found.stride() == wanted.stride()


@in_the_interpreter
def test_a_window_of_repeated_frames(interpreted: ModuleType) -> None:
    """Indices that are expanded, not copied."""
    stacks = FrameStacks(draw(0, 256, 6, 9, 9, 3).to(torch.uint8), draw(0, 6, 4, 3)).first_frames()
    zeros = torch.zeros(4, dtype=torch.int64)
    found = interpreted.window(stacks.frames, stacks.indices, zeros, zeros, 9)
    assert torch.equal(found.permute(0, 3, 1, 2), stacks.whole())


@in_the_interpreter
@pytest.mark.parametrize(("channels", "wide"), [(9, 16), (3, 8), (8, 8)])
def test_pixels_are_scaled_and_padded(channels: int, wide: int, interpreted: ModuleType) -> None:
    pixels = draw(0, 256, 2, channels, 11, 13).to(torch.uint8)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    found = interpreted.scaled(pixels, wide, torch.float32)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found[:, :channels], pixels / 255, rtol=2**-22, atol=0)
    assert not found[:, channels:].any()


def test_in_bfloat16_every_product_is_the_quotient() -> None:
    """So the kernel may multiply by 1 / 255."""
    byte = torch.arange(256, dtype=torch.float32)
    assert torch.equal((byte * (1 / 255)).to(torch.bfloat16), (byte / 255).to(torch.bfloat16))


@in_the_interpreter
@pytest.mark.parametrize("shape", [(3, 32, 9, 7), (1, 8, 1, 1), (2, 1, 40, 40)])
def test_back_through_a_relu(
    shape: tuple[int, ...], interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreted, "PROGRAMS", 3)  # fewer than there are parts
    y, gradient = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)).contiguous(
            memory_format=torch.channels_last
        )
        for seed in (0, 1)
    )
    passed, total = interpreted.rectified_gradient(gradient, y.relu())
    assert torch.equal(passed, torch.ops.aten.threshold_backward(gradient, y.relu(), 0))
    torch.testing.assert_close(total, passed.sum((0, 2, 3)))


@in_the_interpreter
def test_trying_them_out_finds_a_wrong_one(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreted.try_out(CPU, torch.float32)
    right = interpreted.window
    monkeypatch.setattr(interpreted, "window", lambda *args: right(*args) + 1)
    with pytest.raises(RuntimeError, match="a window came out wrong"):
        interpreted.try_out(CPU, torch.float32)


def test_a_cpu_has_none() -> None:
    assert kernels_on(CPU) is None


def test_kernels_that_fail_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Triton may be missing, too old or without a compiler: one line says so, PyTorch computes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kernels_on.cache_clear()
    try:
        with caplog.at_level("INFO", logger="curl"):
            assert kernels_on(torch.device("cuda", 0)) is None
            assert kernels_on(torch.device("cuda", 0)) is None
    finally:
        kernels_on.cache_clear()
    assert len(caplog.messages) == 1 and "PyTorch computes" in caplog.messages[0]
