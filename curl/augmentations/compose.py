"""One augmentation after another, for example a crop and then Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from curl.augmentations.base import Augmentation, PixelAugmentation
from curl.data.batch import FrameStacks
from curl.registry import build


class Compose(Augmentation):
    """The first step makes a view, the others transform it; evaluation is the first step's.

    Args:
        steps: each a mapping of `name` and settings. The first sets the size of the view; the
            others transform pixels, so none of them reads a window (as `crop` does).

    Raises:
        ValueError: no steps, a step that is no such mapping, or one that cannot follow another.
    """

    def __init__(self, *, steps: Sequence[Mapping[str, Any]]) -> None:
        if isinstance(steps, str) or not isinstance(steps, Sequence) or not steps:
            raise ValueError(f"compose steps must be a list of augmentations, got {steps!r}")
        self.first = step(steps[0], "steps[0]")
        self.size = self.first.size
        self.others: list[PixelAugmentation] = []
        for number, settings in enumerate(steps[1:], start=1):
            other = step(settings, f"steps[{number}]", default_size=self.size)
            if not isinstance(other, PixelAugmentation):
                name = settings["name"]
                raise ValueError(f"compose step {name!r} reads a window of its own; put it first")
            if other.size != self.size:
                raise ValueError(f"compose steps have sizes {self.size} and {other.size}")
            self.others.append(other)

    def __call__(self, stacks: FrameStacks, generator: torch.Generator) -> Tensor:
        view = self.first(stacks, generator)
        for other in self.others:
            view = other.transform(view, generator)
        return view

    def pair(
        self, obs: FrameStacks, next_obs: FrameStacks, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        view, next_view = self.first.pair(obs, next_obs, generator)
        for other in self.others:
            view, next_view = (other.transform(v, generator) for v in (view, next_view))
        return view, next_view

    def evaluate(self, stacks: FrameStacks) -> Tensor:
        return self.first.evaluate(stacks)


def step(settings: Any, where: str, default_size: int | None = None) -> Augmentation:
    """The augmentation that `settings`, a mapping with a `name`, describes; `where` names it."""
    if not isinstance(settings, Mapping) or "name" not in settings:
        raise ValueError(f"a compose step must be a mapping with a name, got {settings!r}")
    given = {str(key): value for key, value in settings.items() if key != "name"}
    if default_size is not None and settings["name"] != "compose":
        given.setdefault("size", default_size)
    name = str(settings["name"])
    return build(Augmentation, "curl.augmentations", name, given, where=where)
