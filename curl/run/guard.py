"""What ends a run before its budget: signals, NaNs, failing or hanging environments."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from curl.data.batch import Metrics
from curl.hardware.transfer import ToHost
from curl.run.clock import ENV_STEPS, at


class RunError(ValueError):
    """The run cannot go on; the message names the cause and the step."""


@contextlib.contextmanager
def failures_of(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever goes wrong in the agent or the replay buffer into a `RunError` of one line.

    Args:
        what: what is done, for the message.
        remedy: which settings to lower when the memory does not suffice.
    """
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"{what} failed: {reason(error)}{remedied(error, remedy)}") from error


def remedied(error: BaseException, remedy: str) -> str:
    """`remedy` as the end of a message about `error`, where a lack of memory was its cause."""
    return f"; {remedy}" if is_out_of_memory(error) else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory is lacking; PyTorch's CPU allocator has no type for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    lacking = "out of memory", "can't allocate memory", "alloc_failed"
    return isinstance(error, RuntimeError) and any(words in text for words in lacking)


def reason(error: BaseException) -> str:
    """Type and message of an exception in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


class Signals:
    """Installs the signal handlers of a run, all of them, and puts back those that were there.

    Args:
        owned: whether the process belongs to the run. A notebook or any other host program keeps
            its handlers, and so does a program that trains in another thread than its main one,
            because Python handles signals in the main thread alone.
    """

    def __init__(self, *, owned: bool = True) -> None:
        self.owned = owned and threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}

    def handle(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        """Handle a signal from now on, if the process belongs to the run."""
        if self.owned:
            self._before.setdefault(number, signal.getsignal(number))
            signal.signal(number, handler)

    def restore(self) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._before.items():
            if handler is not None:  # None: one that was not installed from Python
                signal.signal(number, handler)
        self._before.clear()


class StopSignal:
    """The first SIGINT, SIGTERM or SIGUSR1 (SLURM) asks to stop, a second one leaves at once.

    Args:
        announce: is told that the first one was understood.
        signals: what handles them; None: `Signals()`.
        leave: is called before a second one ends the process; it must be quick.
        what: what happens after the first one, for the announcement.
    """

    def __init__(
        self,
        announce: Callable[[str], None],
        *,
        signals: Signals | None = None,
        leave: Callable[[], None] = lambda: None,
        what: str = "stopping after this step with a checkpoint",
    ) -> None:
        self.number: int | None = None
        self._announce, self._leave, self._what = announce, leave, what
        signals = signals or Signals()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signals.handle(number, self._stop)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.number is not None:
            try:
                self._leave()
            finally:
                os._exit(128 + number)  # files are renamed into place: nothing is half written
        self.number = number
        with contextlib.suppress(Exception):  # it may have come amid a write to the same stream
            self._announce(f"{self._what}; a second signal stops at once")


def require_finite(values: Mapping[str, float], position: int, axis: str = ENV_STEPS) -> None:
    """`RunError` that names the first quantity that is NaN or infinite, and where it was."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise RunError(f"{name} became {value} at {at(position, axis)}")


class FiniteUpdates:
    """Whether all that updates measured is finite, asked when a GPU has finished them."""

    def __init__(self) -> None:
        self._noted: list[tuple[ToHost, Metrics, int, str]] = []

    def note(self, metrics: Metrics, position: int, axis: str) -> None:
        """The metrics of an update, scalars, made at a position on the axis. There may be none."""
        if not metrics:
            return
        finite = torch.isfinite(torch.stack(list(metrics.values()))).all()
        self._noted.append((ToHost(finite), metrics, position, axis))

    def require(self, *, ahead: int = 0) -> None:
        """`RunError` with quantity and step if one of the updates noted so far was not finite.

        Args:
            ahead: how many of the newest are left to the next call if a GPU has not finished them.
        """
        while len(self._noted) > ahead or (self._noted and self._noted[0][0].arrived()):
            finite, metrics, position, axis = self._noted.pop(0)
            if not finite.get():
                values = {name: float(value) for name, value in metrics.items()}
                require_finite(values, position, axis)
                raise RunError(f"an update at {at(position, axis)} was not finite")  # overwritten


class Watchdog:
    """Notices calls that do not come back.

    Args:
        timeout: seconds a watched call may take.
        on_hang: is given the cause, in another thread, and ends the process: nothing can be
            raised in a call that hangs in C.
        signals: what handles SIGUSR2, which interrupts a call; None: `Signals()`.
    """

    def __init__(
        self,
        *,
        timeout: float,
        on_hang: Callable[[str], None],
        signals: Signals | None = None,
    ) -> None:
        self.timeout, self.on_hang = timeout, on_hang
        self.cause = f"the environment has not answered for {timeout:g} s"
        self._since: float | None = None
        self._interruptible = False
        signals = signals or Signals()
        self._can_interrupt = signals.owned
        signals.handle(signal.SIGUSR2, self._interrupt)
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="environment watchdog").start()

    @contextlib.contextmanager
    def watching(self, *, interruptible: bool = False) -> Iterator[None]:
        """Watch what happens inside; `interruptible`: raise a `TimeoutError` there, if possible.

        Python code (a sleep, a lock, a socket) is left by the exception of a signal's handler. C
        code that ignores signals is given as long again before `on_hang`.
        """
        self._interruptible = interruptible and self._can_interrupt
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def close(self) -> None:
        """End the thread that watches."""
        self._closed.set()

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        if self._since is not None and self._interruptible:  # else the call came back just now
            raise TimeoutError(self.cause)

    def _watch(self) -> None:
        interrupted: float | None = None
        while not self._closed.wait(min(1.0, self.timeout / 4)):
            since = self._since
            waited = 0.0 if since is None else time.monotonic() - since
            if waited > self.timeout * (2 if self._interruptible else 1):
                self.on_hang(self.cause)
                return
            if waited > self.timeout and since != interrupted:
                interrupted = since
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)


class Watched:
    """Steps an environment; its exceptions and NaNs become a `RunError`.

    Args:
        watchdog: is told of hangs; None: nobody is.
        interruptible: whether a hang is a `TimeoutError` where that is possible: see
            `Watchdog.watching`. Otherwise it is what the watchdog makes of it.
    """

    def __init__(
        self, env: gym.Env[Any, Any], watchdog: Watchdog | None, *, interruptible: bool = False
    ) -> None:
        self.env, self.watchdog, self.interruptible = env, watchdog, interruptible

    def reset(self, *, seed: int) -> np.ndarray:
        return self._call("reset", lambda: self.env.reset(seed=seed))[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """Frame, reward, terminated, truncated."""
        if not np.isfinite(action).all():
            raise RunError(f"the action became {action.tolist()}")
        frame, reward, terminated, truncated, _ = self._call("step", lambda: self.env.step(action))
        if not math.isfinite(reward):
            raise RunError(f"the environment returned the reward {reward}")
        return frame, float(reward), bool(terminated), bool(truncated)

    def _call(self, name: str, call: Callable[[], Any]) -> Any:
        try:
            with self._watching():
                return call()
        except Exception as error:
            if self.interruptible and isinstance(error, TimeoutError):
                raise
            cause = f"{type(error).__name__}: {error}"
            raise RunError(f"the environment's {name} raised {cause}") from error

    def _watching(self) -> contextlib.AbstractContextManager[None]:
        if self.watchdog is None:
            return contextlib.nullcontext()
        return self.watchdog.watching(interruptible=self.interruptible)
