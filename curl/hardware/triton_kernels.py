"""Three kernels in Triton, each of which does at once what PyTorch needs several passes for.

Only `curl/hardware/kernels.py` imports this file, and only where Triton is installed. Beside each
launcher stands the PyTorch expression that it equals.
"""

# pyright: reportArgumentType=false
# A launch turns numbers into `constexpr`.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 12  # rows of a window that one program copies
PIXELS = 128  # pixels that one program scales
POSITIONS = 256  # pixels of a feature map that a program goes back through at a time
PROGRAMS = 528  # that do so: four for each multiprocessor of an H100; their sums are added up


@triton.jit
def copy_window(
    frames,
    indices,
    top,
    left,
    out,
    height,
    width,
    size,
    depth: tl.constexpr,
    colours: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """Some rows of one stack's window; a row has size * depth * colours bytes, at most block."""
    stack = tl.program_id(0).to(tl.int64)
    first_row = tl.program_id(1) * rows
    at = tl.arange(0, block)
    length = size * depth * colours
    inside = at < length
    x, channel = at // (depth * colours), at % (depth * colours)
    frame = tl.load(indices + stack * depth + channel // colours, mask=inside, other=0)
    row = frame * height + tl.load(top + stack) + first_row
    source = frames + (row * width + tl.load(left + stack) + x) * colours + channel % colours
    target = out + (stack * size + first_row) * length + at
    for y in range(rows):
        there = inside & (first_row + y < size)
        tl.store(
            target + y * length,
            tl.load(source + y * width * colours, mask=there, other=0),
            mask=there,
        )


def window(frames: Tensor, indices: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """One `size` x `size` window of each stack: what `FrameStacks.window` says.

    Args:
        frames: uint8 [N, H, W, C], contiguous.
        indices: int64 [B, S]. top, left: int64 [B].

    Returns:
        uint8 [B, size, size, S * C], contiguous. out[b, y, x, s * C + c] is
        frames[indices[b, s], top[b] + y, left[b] + x, c].
    """
    (batch, depth), (_, height, width, colours) = indices.shape, frames.shape
    shape = (batch, size, size, depth * colours)
    out = torch.empty(shape, dtype=torch.uint8, device=frames.device)
    block = triton.next_power_of_2(size * depth * colours)
    grid = (batch, triton.cdiv(size, ROWS))
    copy_window[grid](
        *(frames, indices.contiguous(), top.contiguous(), left.contiguous(), out),
        *(height, width, size),
        depth=depth,
        colours=colours,
        rows=ROWS,
        block=block,
    )
    return out


@triton.jit
def divide_pixels(
    pixels, out, count, channels: tl.constexpr, wide: tl.constexpr, block: tl.constexpr
):
    """block / wide pixels, from channels channels each to wide of them."""
    first = tl.program_id(0).to(tl.int64) * (block // wide)
    at = tl.arange(0, block)
    pixel, channel = at // wide, at % wide
    there = first + pixel < count
    byte = tl.load(
        pixels + first * channels + pixel * channels + channel,
        mask=there & (channel < channels),
        other=0,
    )
    share = byte.to(tl.float32) * (1.0 / 255.0)  # with a division it all took 0.10 ms and not 0.06
    tl.store(out + first * wide + at, share.to(out.dtype.element_ty), mask=there)


def scaled(pixels: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """(pixels * (1 / 255)).to(dtype), and channels of zeros behind.

    In bfloat16 all 256 products are the quotients of pixels / 255, to the last bit.

    Args:
        pixels: uint8 [B, C, H, W], channels-last in memory.
        channels: a power of two, at least C.

    Returns:
        `dtype` [B, channels, H, W], channels-last in memory.
    """
    batch, given, *edges = pixels.shape
    out = torch.empty(
        (batch, channels, *edges),
        dtype=dtype,
        device=pixels.device,
        memory_format=torch.channels_last,
    )
    count = out.numel() // channels
    divide_pixels[(triton.cdiv(count, PIXELS),)](
        *(pixels, out, count), channels=given, wide=channels, block=PIXELS * channels
    )
    return out


@triton.jit
def rectify_gradient(gradient, y, out, sums, count, filters: tl.constexpr, positions: tl.constexpr):
    """The gradient before a ReLU at every so many positions, and its sum over these."""
    column = tl.arange(0, filters)
    total = tl.zeros((filters,), tl.float32)
    for part in range(tl.program_id(0), tl.cdiv(count, positions), tl.num_programs(0)):
        row = (part * positions + tl.arange(0, positions)).to(tl.int64)
        at = row[:, None] * filters + column[None, :]
        there = (row < count)[:, None]
        passed = tl.load(gradient + at, mask=there, other=0.0)
        passed = tl.where(tl.load(y + at, mask=there, other=0.0) > 0, passed, 0.0)
        tl.store(out + at, passed, mask=there)
        total += tl.sum(passed.to(tl.float32), axis=0)
    tl.store(sums + tl.program_id(0) * filters + column, total)


def rectified_gradient(gradient: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Back through y = relu(x + bias): aten.threshold_backward, and its sum over all positions.

    Args:
        gradient, y: bfloat16 [B, F, H, W], channels-last in memory; F is a power of two.

    Returns:
        the gradient of x [B, F, H, W], like `gradient`, and that of the bias [F], which is summed
        in float32.
    """
    filters = y.shape[1]
    count = y.numel() // filters
    out = torch.empty_like(y)
    programs = min(PROGRAMS, triton.cdiv(count, POSITIONS))
    sums = torch.empty(programs, filters, dtype=torch.float32, device=y.device)
    rectify_gradient[(programs,)](
        *(gradient, y, out, sums, count), filters=filters, positions=POSITIONS
    )
    return out, sums.sum(0).to(y.dtype)


def try_out(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> None:
    """Launch each kernel once; `RuntimeError` if its result is not PyTorch's."""
    bytes_ = torch.arange(10 * 10 * 3, device=device).to(torch.uint8)  # every value of a byte
    frames, zeros = bytes_.view(1, 10, 10, 3), torch.zeros(1, dtype=torch.int64, device=device)
    view = window(frames, zeros[:, None], zeros + 1, zeros, 9)
    require("a window", view, frames[:, 1:, :9])
    pixels = frames.permute(0, 3, 1, 2)
    wide = scaled(pixels, 8, dtype)
    require("pixels", wide[:, :3], (pixels * (1 / 255)).to(dtype))
    require("channels of zeros", wide[:, 3:], torch.zeros_like(wide[:, 3:]))
    passed, total = rectified_gradient(torch.ones_like(wide), wide)
    require("a gradient", passed, (wide > 0).to(dtype))
    require("a sum", total, passed.sum((0, 2, 3)))


def require(what: str, found: Tensor, wanted: Tensor) -> None:
    """`RuntimeError` unless both are equal."""
    if not torch.equal(found, wanted):
        raise RuntimeError(f"{what} came out wrong")
