"""A GPU that is played on the CPU: tensors carry a tag that says where they would be.

Everything is computed on the CPU, with the right values. What is checked is what a CPU never shows:

- Tensors of the host and of the GPU meet in one operation. `MixedDevicesError`, as PyTorch raises;
  and also for a tensor without dimensions, which PyTorch lets pass: a CUDA graph would keep the
  value that it had when it was recorded.
- The host waits for the GPU, or copies from or to memory that is not pinned, which comes to the
  same. Noted in `waits`, with the line of the package that does it. It may also wait for an event,
  for what was launched before that alone: `events` says how much was launched after it.
- Memory is copied to the GPU. Noted in `copies`.

Both are noted within `watching()` only: elsewhere the host may wait as it likes.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import curl

GPU, HOST = torch.device("cuda", 0), torch.device("cpu")
PACKAGE = Path(curl.__file__).parent

WAITS = {
    # values
    *("item", "tolist", "cpu", "equal", "allclose", "is_nonzero", "__contains__", "__repr__"),
    *("__bool__", "__float__", "__int__", "__index__"),
    # shapes that depend on values
    *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"),
    *("repeat_interleave", "one_hot", "combinations"),
}
FROM_PYTHON = {"tensor", "as_tensor", "asarray", "from_numpy"}
COMPARES_NO_VALUES = {"_has_compatible_shallow_copy_type", "is_same_size", "is_set_to"}
INDEXING = {"__getitem__", "__setitem__", "index_put_", "index_put"}


class MixedDevicesError(RuntimeError):
    """Tensors of the host and of the GPU met."""


class Generator(torch.Generator):
    """A random generator on the GPU."""

    @property
    def device(self) -> torch.device:
        return GPU


def on_gpu(tensor: Tensor) -> bool:
    return tensor.__dict__.get("on_gpu", False)


def place(values: Any, gpu: bool) -> Any:
    """Tag all tensors in `values`, and return them."""
    for tensor in tensors(values):
        tensor.__dict__["on_gpu"] = gpu
    return values


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


class VirtualCuda(TorchFunctionMode):
    """The GPU, while its context is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.copies: list[tuple[int, ...]] = []  # shapes of what was copied to the GPU
        self.events: list[int] = []  # operations launched between an event and the wait for it
        self.operations = 0  # on the GPU
        self._watching = False
        self._pinned: dict[int, Tensor] = {}  # by the address of the memory, which it keeps alive

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What happens within is noted."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def __enter__(self) -> VirtualCuda:
        # The copy of a parameter is made where no mode sees it.
        self._deepcopy = nn.Parameter.__deepcopy__

        def deepcopy(parameter: nn.Parameter, memo: dict[int, Any]) -> Any:
            return place(self._deepcopy(parameter, memo), on_gpu(parameter))

        nn.Parameter.__deepcopy__ = deepcopy
        self._cuda = torch.cuda.Event, torch.cuda.current_stream
        torch.cuda.Event = functools.partial(Event, self)
        torch.cuda.current_stream = lambda *_: None
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        nn.Parameter.__deepcopy__ = self._deepcopy
        torch.cuda.Event, torch.cuda.current_stream = self._cuda

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if name in ("__get__", "__set__"):
            return self._property(func, name, args)
        given = tensors((args, kwargs))
        if name in ("to", "cpu", "cuda", "copy_"):
            return self._copy(func, name, given, args, kwargs)
        wanted = kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = HOST
        pinned = kwargs.pop("pin_memory", False)
        gpu = self._where(name, given, wanted, kwargs.get("generator"), args)
        if gpu and name in WAITS:
            self._note(name)
        if gpu and name in ("numpy", "__array__"):
            raise MixedDevicesError("a tensor of the GPU cannot become an array of NumPy's")
        if gpu and name in FROM_PYTHON and not any(map(on_gpu, given)):
            self._note(f"{name} from memory that is not pinned")
        if name == "pin_memory":
            func, args, pinned = torch.clone, (given[0],), True
        self.operations += gpu
        out = place(func(*args, **kwargs), gpu)
        if pinned:
            self._pinned[address(out)] = out
        return out

    def _property(self, func: Any, name: str, args: tuple[Any, ...]) -> Any:
        """Attributes of a tensor: `device` is the played one, `data` and `grad` carry the tag."""
        attribute, tensor = getattr(func.__self__, "__name__", ""), args[0]
        if name == "__set__":
            with torch._C.DisableTorchFunction():
                func(*args)
            if attribute == "data":
                place(tensor, on_gpu(args[1]))
            return None
        if attribute == "device":
            return GPU if on_gpu(tensor) else HOST
        out = func(*args)
        if attribute == "grad":
            return out  # carries its own tag
        return place(out, on_gpu(tensor)) if isinstance(out, Tensor) else out

    def _copy(
        self, func: Any, name: str, given: list[Tensor], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """What may go from one side to the other."""
        target, source = given[0], given[-1]
        if name == "copy_":
            self._cross(name, source, on_gpu(target), bool(kwargs.get("non_blocking")), target)
            return func(*args, **kwargs)  # keeps its tag
        device = [value for value in (*args[1:], kwargs.get("device")) if is_device(value)]
        to_gpu = on_gpu(source)
        if name in ("cpu", "cuda"):
            to_gpu = name == "cuda"
        elif device:
            to_gpu = torch.device(device[0]).type == "cuda"
        self._cross(name, target, to_gpu, bool(kwargs.get("non_blocking")))
        args = tuple(HOST if is_device(value) else value for value in args)
        if "device" in kwargs:
            kwargs["device"] = HOST
        if name == "cuda":
            func, args = torch.Tensor.cpu, args[:1]
        out = func(*args, **kwargs)
        if to_gpu != on_gpu(target) and out is target:
            out = target.detach().clone(memory_format=torch.preserve_format)
        return place(out, to_gpu)

    def _cross(
        self,
        name: str,
        source: Tensor,
        to_gpu: bool,
        non_blocking: bool,
        target: Tensor | None = None,
    ) -> None:
        if to_gpu == on_gpu(source) or not self._watching:
            return
        if not to_gpu:
            pinned = target is not None and address(target) in self._pinned
            if not (pinned and non_blocking):
                self._note(f"{name} to the host")
            return
        self.copies.append(tuple(source.shape))
        if address(source) not in self._pinned:
            self._note(f"{name} to the GPU from memory that is not pinned")
        elif not non_blocking:
            self._note(f"{name} to the GPU that blocks")

    def _where(
        self, name: str, given: list[Tensor], wanted: Any, generator: Any, args: tuple[Any, ...]
    ) -> bool:
        """Whether an operation runs on the GPU. `MixedDevicesError` if it is on neither side."""
        if name in INDEXING:
            return self._where_indexed(name, args)
        sides = {on_gpu(tensor) for tensor in given}
        if len(sides) > 1 and name not in FROM_PYTHON | COMPARES_NO_VALUES:
            shapes = ", ".join(f"{'GPU' if on_gpu(t) else 'host'} {list(t.shape)}" for t in given)
            raise MixedDevicesError(f"{name}: {shapes}")
        gpu = torch.device(wanted).type == "cuda" if wanted is not None else True in sides
        if generator is not None and (generator.device.type == "cuda") != gpu:
            raise MixedDevicesError(f"{name}: the generator is on {generator.device}")
        return gpu

    def _where_indexed(self, name: str, args: tuple[Any, ...]) -> bool:
        """Indices and values follow rules of their own."""
        gpu, indices, values = on_gpu(args[0]), tensors(args[1]), tensors(args[2:])
        if gpu and any(index.dtype == torch.bool for index in indices):
            self._note(f"{name} by a mask")
        if not gpu and any(map(on_gpu, indices)):
            raise MixedDevicesError(f"{name}: a tensor of the host by an index of the GPU")
        if gpu and not all(map(on_gpu, indices)):
            self._note(f"{name} by an index of the host")
        for value in values:
            if on_gpu(value) != gpu:
                if indices:
                    raise MixedDevicesError(f"{name}: a value from the other side")
                self._note(f"{name} of a value from the other side")
        return gpu

    def _note(self, what: str) -> None:
        if self._watching:
            inside = [
                frame
                for frame in traceback.extract_stack()
                if Path(frame.filename).is_relative_to(PACKAGE)
            ]
            where = ""
            if inside:
                where = f" in {Path(inside[-1].filename).name}: {inside[-1].name}"
            self.waits.append(what + where)


class Event:
    """A mark in what is launched on the GPU, that the host can wait for."""

    def __init__(self, gpu: VirtualCuda) -> None:
        self.gpu, self.launched = gpu, 0

    def record(self, stream: None) -> None:
        self.launched = self.gpu.operations

    def query(self) -> bool:
        """The GPU is slow: nothing is finished before somebody waits for it."""
        return False

    def synchronize(self) -> None:
        if self.gpu._watching:
            self.gpu.events.append(self.gpu.operations - self.launched)


def is_device(value: Any) -> bool:
    return isinstance(value, (torch.device, str))


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
