"""What ends a run before its budget: signals, NaNs, failing or hanging environments."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np


class RunError(ValueError):
    """The run cannot go on; the message names the cause and the step."""


class StopSignal:
    """The first SIGINT, SIGTERM or SIGUSR1 (SLURM) asks to stop, a second one leaves at once."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.number: int | None = None
        self._announce = announce
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            if hasattr(signal, name) and threading.current_thread() is threading.main_thread():
                signal.signal(getattr(signal, name), self._stop)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)  # files are renamed into place: nothing is half written
        self.number = number
        self._announce("stopping after this step with a checkpoint; once more to leave at once")


def require_finite(values: Mapping[str, float], env_steps: int) -> None:
    """`RunError` that names the first quantity that is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise RunError(f"{name} became {value} at env step {env_steps}")


class Watched:
    """Steps an environment; its exceptions, NaNs and hangs become a `RunError`.

    Args:
        env: the environment.
        timeout: seconds a reset or step may take before `on_hang` is called (in another thread).
        on_hang: is given the cause and must not return to the hanging call.
    """

    def __init__(
        self, env: gym.Env[Any, Any], *, timeout: float, on_hang: Callable[[str], None]
    ) -> None:
        self.env, self.timeout, self.on_hang = env, timeout, on_hang
        self._since: float | None = None
        threading.Thread(target=self._watch, daemon=True, name="environment watchdog").start()

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
        self._since = time.monotonic()
        try:
            return call()
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise RunError(f"the environment's {name} raised {cause}") from error
        finally:
            self._since = None

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self.timeout / 4))
            since = self._since
            if since is not None and time.monotonic() - since > self.timeout:
                self.on_hang(f"the environment has not answered for {self.timeout:g} s")
                return
