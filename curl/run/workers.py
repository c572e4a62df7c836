"""Environments in processes of their own, for evaluations side by side.

Gymnasium's `AsyncVectorEnv`, except for how its processes live and end:

- A terminal's Ctrl-C and SLURM send their signals to the whole process group. Only the main process
  heeds them: the workers, the fork server and the resource tracker that start them do not.
- The workers end when the main process closes its pipes, and also when it dies by SIGKILL.
- Closing never raises and never waits for ever, whatever state the workers are in.
- A worker that was killed is noticed (`alive`), and is named instead of raising `EOFError`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.async_vector_env import _async_worker

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}  # that ask the main process to stop
GRACE = 5.0  # seconds that a worker gets to close its environment before it is killed


class WorkerError(RuntimeError):
    """The process of an environment ended by itself."""


class Workers(AsyncVectorEnv):
    """One environment per process.

    Args:
        make: what makes each of them, one after another in its process; picklable.
    """

    def __init__(self, make: Sequence[Callable[[], gym.Env[Any, Any]]]) -> None:
        start_fork_server()
        with self.naming_the_dead():  # forkserver, because EGL hangs in a forked process
            super().__init__(make, context="forkserver", worker=deaf_worker)

    def alive(self) -> bool:
        """Whether all processes are there."""
        return all(process.is_alive() for process in self.processes)

    @contextlib.contextmanager
    def naming_the_dead(self) -> Iterator[None]:
        """Turn the error of a broken pipe into a `WorkerError` that says how the process ended."""
        try:
            yield
        except (EOFError, ConnectionError) as error:
            deadline = time.monotonic() + GRACE
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.01)  # its pipe closes a moment before the process has ended
            codes = {p.exitcode for p in self.processes if p.exitcode not in (None, 0)}
            how = ", ".join(ending(code) for code in sorted(codes)) or "its pipe closed"
            raise WorkerError(f"an evaluation process died ({how})") from error

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End the processes: gently, unless `terminate`, and by SIGKILL after GRACE seconds."""
        for pipe in self.parent_pipes:
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()  # a worker that waits for its next command ends
        deadline = time.monotonic() + (0.0 if terminate else GRACE)
        for process in self.processes:
            with contextlib.suppress(Exception):
                process.join(max(0.0, deadline - time.monotonic()))
                if process.is_alive():
                    process.kill()
                process.join(GRACE)


def start_fork_server() -> None:
    """Start the process that forks the workers, and the resource tracker, with signals blocked.

    What they start inherits the blocked signals, so that there is no moment at which one of them
    could be ended by a signal that was meant for the main process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the call before unblocks some of them
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def deaf_worker(*args: Any) -> None:
    """Gymnasium's worker, which heeds no signal and ends quietly with the main process.

    A handler that does nothing takes the place of the inherited block: programs that an environment
    starts begin with the system's own handling then, and can be terminated.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)  # C code that waits in a system call is not disturbed
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    torch.set_num_threads(1)  # the processes themselves are what runs in parallel
    threading.Thread(target=end_with_the_main_process, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the main process closed the pipe, or died
        _async_worker(*args)


def end_with_the_main_process() -> None:
    """End this process once the main one has died, though an environment may still be working."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(GRACE)  # the environment is closed properly if it comes back by then
        os._exit(1)


def ending(code: int) -> str:
    """The exit code of a process in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            memory = "; is the memory full?" if -code == signal.SIGKILL else ""
            return f"killed by {name}{memory}"
    return f"exit code {code}"
