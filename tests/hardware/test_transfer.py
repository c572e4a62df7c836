"""Copies that wait for nothing: what they hold, on a CPU and on a GPU that is played."""

from __future__ import annotations

import torch

from curl.hardware.transfer import ToHost, put
from support.virtual_cuda import GPU, VirtualCuda, on_gpu


def test_on_a_cpu_a_tensor_is_there_at_once() -> None:
    tensor = torch.arange(3.0)
    copy = ToHost(tensor)
    assert copy.arrived() and copy.get() is tensor


def test_from_a_gpu_it_comes_beside_what_is_launched_next() -> None:
    with VirtualCuda() as gpu:
        tensor = torch.arange(3.0, device=GPU)
        with gpu.watching():
            copy = ToHost(tensor)
            tensor += 1
            assert not copy.arrived()
            got = copy.get()
        assert not on_gpu(got) and got.tolist() == [0.0, 1.0, 2.0]
    assert gpu.waits == [] and len(gpu.events) == 1


def test_what_is_put_on_a_gpu_may_change_at_once() -> None:
    with VirtualCuda() as gpu:
        target, source = torch.zeros(2, 3, device=GPU), torch.ones(3)
        with gpu.watching():
            put(target[1], source)
        source.zero_()
        assert target.tolist() == [[0.0] * 3, [1.0] * 3]
    assert gpu.waits == [] and gpu.copies == [(3,)]


def test_put_on_a_cpu() -> None:
    target = torch.zeros(2, 3, dtype=torch.uint8)
    put(target[0], torch.full((3,), 7, dtype=torch.uint8))
    assert target.tolist() == [[7] * 3, [0] * 3]
