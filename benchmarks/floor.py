"""What an update cannot go below: its arithmetic and its memory traffic at this machine's best.

Both are counted by hand from the layer shapes, for an update in the paper's order (critic; actor
and temperature; averages; contrast) that computes nothing twice, or for the `joint` variant, which
takes the critic's and the contrastive gradient in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.timing import timed


@dataclass(frozen=True)
class Shapes:
    """Multiply-adds, parameters and activations of the networks, for one sample.

    Args:
        channels, size: of a view, [channels, size, size]. action_dim: A.
    """

    channels: int
    size: int
    action_dim: int
    hidden_dim: int
    latent_dim: int = 50
    filters: int = 32
    layers: int = 4

    @property
    def edges(self) -> list[int]:
        """Edge of each layer's output: 3 x 3 kernels without padding, strides 2, 1, 1, 1."""
        first = (self.size - 3) // 2 + 1
        return [first - 2 * layer for layer in range(self.layers)]

    @property
    def activations(self) -> int:
        """Numbers that the convolutions put out."""
        return sum(self.filters * edge**2 for edge in self.edges)

    @property
    def first_convolution(self) -> int:
        return self.edges[0] ** 2 * self.filters * self.channels * 9

    @property
    def trunk(self) -> int:
        later = sum(edge**2 for edge in self.edges[1:]) * self.filters * self.filters * 9
        return self.first_convolution + later

    @property
    def projection(self) -> int:
        return self.filters * self.edges[-1] ** 2 * self.latent_dim

    @property
    def policy(self) -> int:
        return (self.latent_dim + self.hidden_dim + 2 * self.action_dim) * self.hidden_dim

    @property
    def q(self) -> int:
        return (self.latent_dim + self.action_dim + self.hidden_dim + 1) * self.hidden_dim

    @property
    def trunk_parameters(self) -> int:
        return 9 * self.filters * (self.channels + (self.layers - 1) * self.filters)

    @property
    def encoder_flops(self) -> int:
        """Of one forward pass through trunk and projection; the paper's is 88.5 million."""
        return 2 * (self.trunk + self.projection)


def update_flops(
    shapes: Shapes, batch_size: int, *, joint: bool = False, actor_update_every: int = 2
) -> float:
    """Floating-point operations of one update on average; convolutions and matrix products only.

    A backward pass costs two forward passes (gradients of weights and of inputs), except where
    one of the two is not wanted: the pixels' gradient, the trunk's in the actor's loss, the
    critic's weights' in the actor's loss.
    """
    trunk, projection, policy, twin = shapes.trunk, shapes.projection, shapes.policy, 2 * shapes.q
    encoder, latent = trunk + projection, shapes.latent_dim
    target = (encoder + policy) + (encoder + twin)  # both on next_obs, forward
    critic = 3 * (encoder + twin) - shapes.first_convolution
    # the actor reuses the anchor's features: two projections forward, one's weights backward
    actor = 3 * projection + 3 * policy + 2 * twin
    logits = 3 * latent**2 + 2 * batch_size * latent
    anchor = 0 if joint else 3 * encoder - shapes.first_convolution
    measured = batch_size * latent + latent**2  # cosines and covariance, for the metrics
    contrast = anchor + encoder + logits + measured
    return 2.0 * batch_size * (target + critic + actor / actor_update_every + contrast)


def update_bytes(
    shapes: Shapes,
    batch_size: int,
    dtype: torch.dtype,
    *,
    joint: bool = False,
    average_every: int = 2,
) -> float:
    """Bytes that one update moves at the very least, however its kernels are fused.

    The pixels of three views are read; what the two backward passes (one, if `joint`) need of the
    convolutions is written and read; Adam reads and writes a parameter and its two moments
    (float32); a moving average reads and writes its target and reads its source.
    """
    pixels = 3 * batch_size * shapes.channels * shapes.size**2
    passes = 1 if joint else 2
    kept = passes * 2 * batch_size * shapes.activations * dtype.itemsize
    encoder, twin = shapes.trunk_parameters + shapes.projection, 2 * shapes.q
    trained = passes * encoder + twin + (shapes.projection + shapes.policy) / 2
    return pixels + kept + 24 * trained + 12 * (encoder + twin) / average_every


@dataclass(frozen=True)
class Machine:
    """The best this machine does, measured here.

    Args:
        flops: per second, of a 2048 x 2048 matrix product. bandwidth: bytes per second, of a copy;
            a byte that is read and a byte that is written count as two.
    """

    flops: dict[torch.dtype, float]
    bandwidth: float


def measure_machine(device: torch.device, *, edge: int = 2048, mebibytes: int = 256) -> Machine:
    """Measure arithmetic and bandwidth; `edge` and `mebibytes` are the sizes to do it on."""
    dtypes = (torch.float32, torch.bfloat16)
    flops = {dtype: gemm_flops(device, dtype, edge) for dtype in dtypes}
    source = torch.ones(mebibytes * 2**18, device=device)
    target = torch.zeros_like(source)
    seconds = best(lambda: target.copy_(source), device)
    return Machine(flops, 2 * source.nbytes / seconds)


def gemm_flops(device: torch.device, dtype: torch.dtype, edge: int) -> float:
    """Operations per second of a square matrix product."""
    a, b = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":  # cuDNN's float32 convolutions use TF32 unless told otherwise
        torch.set_float32_matmul_precision("high")
    try:
        return 2 * edge**3 / best(lambda: a @ b, device)
    finally:
        torch.set_float32_matmul_precision(before)


def best(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several tries, in about half a second."""
    calls = 1 if device.type == "cpu" else 20
    once = max(min(timed(function, calls, device) for _ in range(3)), 1e-9)
    tries = min(50, math.ceil(0.5 / once))
    return min(once, *(timed(function, calls, device) for _ in range(tries))) / calls


def floor(
    machine: Machine, shapes: Shapes, batch_size: int, dtype: torch.dtype, *, joint: bool = False
) -> dict[str, float]:
    """The floor of one update: the longer of arithmetic alone and memory traffic alone."""
    flops = update_flops(shapes, batch_size, joint=joint)
    moved = update_bytes(shapes, batch_size, dtype, joint=joint)
    compute, memory = flops / machine.flops[dtype], moved / machine.bandwidth
    return {
        "gflop": flops / 1e9,
        "encoder_forwards": flops / (batch_size * shapes.encoder_flops),
        "megabytes": moved / 1e6,
        "compute_ms": 1000 * compute,
        "memory_ms": 1000 * memory,
        "floor_ms": 1000 * max(compute, memory),
    }
