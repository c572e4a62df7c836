"""Augmentations against Kornia and torchvision: `python -m benchmarks.augmentations`.

A library that is not installed leaves its column empty; neither is a dependency of the project.

Each side is given its favourite input, ready: ours a uint8 channels-last view, Kornia float32
[B, 3 frames, 3, 84, 84] or [B, 9, 84, 84], torchvision uint8 (float32 for noise), one sample at a
time, because its transforms draw once a call. Crop and translate start from frames of 100 x 100.
All of them treat the frames of a stack alike, except for noise.

Neither takes a `torch.Generator`: both draw from the global one. So neither is used, also where it
is as fast: crop, translate, flip and grayscale of torchvision, whose loop over samples would be
hundreds of launches on a GPU, and crop of Kornia. Both are spared the reading of the frame store,
which our crop and translate include.

CPU milliseconds per batch of 128, one thread of a busy AMD EPYC with AVX512-BF16, medians; Kornia
0.9.0, torchvision 0.28.0, PyTorch 2.13.0; "torch" is the noise drawn by `torch.randn`. Cutouts,
color_jitter and random_conv were measured before they could leave a share of the views clean:

    augmentation   ours   kornia   torchvision   torch
    crop            4.9      5.9           4.4
    shift           3.0     28            19
    translate      11       67            10
    gaussian       20       46            58        37
    cutout          2.5      7.6          13
    cutout_color    2.5
    flip            4.5      8.0           3.4
    rotate          7.4     33             9.4
    grayscale       5.1     12             6.3
    color_jitter   65      354           286
    random_conv    38
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.tables import number
from benchmarks.timing import interleave
from curl import augmentations
from curl.augmentations.base import PixelAugmentation
from curl.data.batch import FrameStacks

NAMES = ("crop", "shift", "translate", "gaussian", "cutout", "cutout_color", "flip", "rotate")
NAMES += ("grayscale", "color_jitter", "random_conv")
SOURCES = ("crop", "translate")  # these read frames themselves
# As often as the transforms of the libraries below change a view, otherwise always.
SETTINGS: dict[str, dict[str, Any]] = {
    "cutout": {"probability": 1.0},
    "cutout_color": {"probability": 1.0},
    "flip": {"probability": 0.5},
    "rotate": {"probability": 0.75},
    "color_jitter": {"probability": 1.0},
    "random_conv": {"probability": 1.0},
}
CPU = torch.device("cpu")
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.5}

Call = Callable[[], object]


def ours(stacks: FrameStacks) -> dict[str, Call]:
    """Our augmentations, on the centre view or, where they read frames, on the stacks."""
    generator = torch.Generator().manual_seed(0)
    view = stacks.centre(84)
    calls: dict[str, Call] = {}
    for name in NAMES:
        augmentation = augmentations.make(name, **SETTINGS.get(name, {}))
        if isinstance(augmentation, PixelAugmentation):
            calls[name] = lambda a=augmentation: a.transform(view, generator)
        else:
            calls[name] = lambda a=augmentation: a(stacks, generator)
    return calls


def kornia(stacks: FrameStacks) -> dict[str, Call]:
    """Kornia's, batched, in float32; `VideoSequential` where channels are colours."""
    k: Any = importlib.import_module("kornia.augmentation")
    whole, view = images(stacks.whole()), images(stacks.centre(84))
    video = view.view(len(view), -1, 3, 84, 84)
    same = {"data_format": "BTCHW", "same_on_frame": True}
    flat = {
        "crop": k.RandomCrop((84, 84), cropping_mode="slice"),
        "shift": k.RandomCrop((84, 84), padding=4, padding_mode="replicate", cropping_mode="slice"),
        "translate": k.RandomCrop((108, 108), padding=8, cropping_mode="slice"),
        "gaussian": k.RandomGaussianNoise(std=0.1, p=1.0),
        "cutout": k.RandomErasing(scale=(0.02, 0.12), ratio=(0.5, 2.0), p=1.0),
        "flip": k.RandomHorizontalFlip(p=0.5),
        "rotate": k.RandomRotation90(times=(0, 3), p=1.0),
    }
    frames = {
        "grayscale": k.VideoSequential(k.RandomGrayscale(p=0.3), **same),
        "color_jitter": k.VideoSequential(k.ColorJitter(**JITTER, p=1.0), **same),
    }
    calls: dict[str, Call] = {}
    for name, transform in flat.items():
        calls[name] = lambda t=transform, x=(whole if name in SOURCES else view): t(x)
    calls["gaussian"] = lambda: flat["gaussian"](view).clamp_(0, 1)
    for name, transform in frames.items():
        calls[name] = lambda t=transform: t(video)
    return calls


def torchvision(stacks: FrameStacks) -> dict[str, Call]:
    """torchvision's (v2), a stack at a time, in uint8 but for noise."""
    v2: Any = importlib.import_module("torchvision.transforms.v2")
    whole, view = stacks.whole().contiguous(), stacks.centre(84).contiguous()
    video, pixels = view.view(len(view), -1, 3, 84, 84), images(view)
    turns = [lambda x, q=quarters: x.rot90(q, (1, 2)) for quarters in range(4)]
    transforms: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "crop": (v2.RandomCrop(84), whole),
        "shift": (v2.RandomCrop(84, padding=4, padding_mode="edge"), view),
        "translate": (v2.RandomCrop(108, padding=8), whole),
        "cutout": (v2.RandomErasing(p=1.0, scale=(0.02, 0.12), ratio=(0.5, 2.0)), view),
        "flip": (v2.RandomHorizontalFlip(0.5), view),
        "rotate": (v2.RandomChoice([v2.Lambda(turn) for turn in turns]), view),
        "grayscale": (v2.RandomGrayscale(0.3), video),
        "color_jitter": (v2.ColorJitter(**JITTER), video),
    }
    calls: dict[str, Call] = {
        name: lambda t=transform, x=batch: torch.stack([t(sample) for sample in x])
        for name, (transform, batch) in transforms.items()
    }
    noise = v2.GaussianNoise(sigma=0.1)
    calls["gaussian"] = lambda: noise(pixels)  # all samples at once, noise needs no loop
    return calls


def images(view: Tensor) -> Tensor:
    """float32 in [0, 1], contiguous [B, C, H, W]."""
    return view.float().div(255).contiguous()


def measure(batch: int, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds a batch: augmentation -> contender -> median, contenders taking turns."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (400, 100, 100, 3), generator=generator, dtype=torch.uint8)
    stacks = FrameStacks(frames, torch.randint(400, (batch, 3), generator=generator))
    contenders: dict[str, dict[str, Call]] = {"ours": ours(stacks)}
    for library in (kornia, torchvision):
        try:
            contenders[library.__name__] = library(stacks)
        except (ImportError, RuntimeError):  # absent, or built for another PyTorch
            continue
    view = stacks.centre(84)
    contenders["torch"] = {"gaussian": lambda: plain_noise(view, generator)}
    table: dict[str, dict[str, float]] = {}
    for name in NAMES:
        calls = {who: side[name] for who, side in contenders.items() if name in side}
        timings = interleave(calls, device=CPU, seconds=seconds, least=0.0)
        table[name] = {who: 1000 * timing.median for who, timing in timings.items()}
    return table


def plain_noise(view: Tensor, generator: torch.Generator) -> Tensor:
    """The Gaussian perturbation with `torch.randn`."""
    pixels = view.permute(0, 2, 3, 1)
    noise = torch.randn(pixels.shape, generator=generator)
    noisy = noise.mul_(0.1).add_(pixels, alpha=1 / 255).clamp_(0, 1)
    return noisy.to(torch.bfloat16).permute(0, 3, 1, 2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augmentations")
    parser.add_argument("--batch", type=int, default=128, help="stacks of 3 frames")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each augmentation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # deprecations inside of the libraries
    rows = measure(options.batch, options.seconds)
    title = f"ms per batch of {options.batch}, {options.threads} threads, torch {torch.__version__}"
    table = Table(box=box.SIMPLE, title=title)
    table.add_column("augmentation", overflow="fold")
    columns = ("ours", "kornia", "torchvision", "torch")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for name, row in rows.items():
        table.add_row(name, *(number(row[c]) if c in row else "" for c in columns))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
