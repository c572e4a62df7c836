"""A CUDA graph that is played on the CPU, operator by operator.

While a tape runs, every operator that PyTorch calls is noted with its arguments. A replay calls the
noted operators again, on the same memory. What holds for a CUDA graph holds here:

- The work's Python code runs once. What it decided then is decided for ever.
- Recording changes nothing: tensors and random generators are afterwards as they were before.
- Memory that the work allocates belongs to a pool that all recordings share. A recording finds it
  overwritten by others, so each replay begins with rubbish there (`Recordings.replay`).
- The work must not look at a value: that would wait for a GPU, which is not allowed in a capture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from curl.data.batch import Metrics

LOOKS_AT_VALUES = {
    "aten::_local_scalar_dense",  # item(), float(), if tensor:
    "aten::equal",
    "aten::nonzero",  # shapes that depend on values: boolean masks, unique
    "aten::masked_select",
    "aten::_unique2",
}


class Tape(TorchDispatchMode):
    """Notes the operators called in its context; `RuntimeError` where one would ask a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.own: dict[int, Tensor] = {}  # storages that were allocated here, by address
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # others, as they were before
        self.generators: dict[int, tuple[torch.Generator, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in LOOKS_AT_VALUES:
            raise RuntimeError(f"not permitted when stream is capturing: {func._schema.name}")
        self._save(func, args, kwargs)
        out = func(*args, **kwargs)
        given = {address(t) for t in tensors((args, kwargs))}
        for tensor in tensors(out):
            if address(tensor) not in given | self.before.keys():
                self.own[address(tensor)] = tensor
        self.calls.append((func, args, kwargs, out))
        return out

    def _save(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what the operator is about to overwrite, and the generator that it draws from."""
        for place, argument in enumerate(func._schema.arguments):
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            if isinstance(value, torch.Generator):
                self.generators.setdefault(id(value), (value, value.get_state()))
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tensors(value):
                    if address(tensor) not in self.own | self.before:
                        whole = tensor.detach().new_empty(0).set_(tensor.untyped_storage())
                        self.before[address(tensor)] = whole, whole.clone()

    def undo(self) -> None:
        """Bring everything back to how it was before the tape."""
        for tensor, before in self.before.values():
            tensor.copy_(before)
        for generator, state in self.generators.values():
            generator.set_state(state)

    def play(self) -> None:
        """Call the noted operators again, on the same memory."""
        for func, args, kwargs, out in self.calls:
            returns = [value.alias_info for value in func._schema.returns]
            if any(alias is not None and not alias.is_write for alias in returns):
                continue  # a view: its memory is another call's
            new = func(*args, **kwargs)
            if returns and all(alias is None for alias in returns):
                for target, source in zip(tree_leaves(out), tree_leaves(new), strict=True):
                    if isinstance(target, Tensor):
                        target.detach().copy_(source)


class Recordings:
    """Makes recordings (as `curl.learning.capture.Recorder` does) that share one pool."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.tapes: list[Tape] = []
        self.replays = 0

    def warm_up(self, work: Callable[[], Metrics]) -> Metrics:
        return work()

    def record(self, work: Callable[[], None]) -> Recording:
        tape = Tape()
        try:
            with tape:
                work()
        finally:
            with torch.no_grad():
                tape.undo()
        self.tapes.append(tape)
        return Recording(self, tape)

    @torch.no_grad()
    def replay(self, tape: Tape) -> None:
        """Play one tape; the pool holds rubbish before, and what it leaves is rubbish to others."""
        for one in self.tapes:
            for tensor in one.own.values():
                spoil(tensor)
        tape.play()
        self.replays += 1


class Recording:
    def __init__(self, recordings: Recordings, tape: Tape) -> None:
        self.recordings, self.tape = recordings, tape

    def replay(self) -> None:
        self.recordings.replay(self.tape)


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def address(tensor: Tensor) -> int:
    """Where its storage lies; a storage that is kept alive shares it with no other."""
    return tensor.untyped_storage().data_ptr()


def spoil(tensor: Tensor) -> None:
    """Fill a tensor with values that nothing sensible can be computed from."""
    rubbish = (
        float("nan") if tensor.is_floating_point() else 1 if tensor.dtype == torch.bool else 77
    )
    tensor.detach().fill_(rubbish)
