"""Processes side by side, until all have ended, a time limit is reached or a signal arrives.

The processes are runs that write a checkpoint on SIGTERM. A signal to the driver becomes one
SIGTERM for each of them, so that everything is saved. They live in sessions of their own: the
Ctrl-C of a terminal reaches them once, through the driver. If the driver itself is killed, Linux
sends them SIGTERM; elsewhere they go on and hold their locks until they are finished.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

GRACE = 120.0  # seconds that a run gets to write its checkpoint before it is killed
SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass
class Process:
    """A running process and the file that holds what it prints."""

    popen: subprocess.Popen[bytes]
    output: IO[bytes]
    began: float

    def tell(self, number: int) -> None:
        """Send a signal to the process itself, whose workers it ends in its own way."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.send_signal(number)

    def kill(self) -> None:
        """Kill the process and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)


class Fleet:
    """Up to `at_once` processes.

    Args:
        at_once: how many may run.
        deadline: of `time.monotonic`, when all are asked to stop; None: never.
        say: prints a line.
    """

    def __init__(self, *, at_once: int, deadline: float | None, say: Callable[[str], None]) -> None:
        self.at_once, self.deadline, self.say = at_once, deadline, say
        self.running: dict[str, Process] = {}
        self.signals: list[int] = []
        self.why_stopped = ""
        self._told = 0
        self._kill_at: float | None = None

    def listen(self) -> None:
        """Take the signals that ask to stop; one that is ignored (nohup) stays ignored."""
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signals.append(number)
        if len(self.signals) > 2:
            for process in self.running.values():
                process.kill()
            os._exit(128 + number)

    @property
    def stopping(self) -> bool:
        return bool(self.why_stopped)

    @property
    def has_room(self) -> bool:
        """Whether another process may be started now."""
        return not self.stopping and len(self.running) < self.at_once

    def start(
        self, name: str, command: Sequence[str], output: Path, *, env: Mapping[str, str], cwd: Path
    ) -> None:
        """Start a process; what it prints is appended to `output`."""
        output.parent.mkdir(parents=True, exist_ok=True)
        file = output.open("ab")
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=dies_with(os.getpid()),
        )
        self.running[name] = Process(popen, file, time.monotonic())

    def check(self) -> dict[str, int]:
        """Hand on what has to be handed on; the processes that ended since, name -> exit code.

        As of `subprocess`: -n for a process that the signal n killed.
        """
        if not self.stopping and self.deadline is not None and time.monotonic() >= self.deadline:
            self._stop("the time limit is reached")
        if not self.stopping and self.signals:
            self._stop(f"{signal.Signals(self.signals[0]).name} arrived")
        if len(self.signals) > 1 and self._told < 2:
            self.say("once more: the runs leave at once, with the checkpoints that they have")
            self._tell()
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            for name, process in self.running.items():
                self.say(f"{name} has not stopped within {GRACE:.0f} s and is killed")
                process.kill()
            self._kill_at = None
        ended = {}
        for name, process in list(self.running.items()):
            code = process.popen.poll()
            if code is not None:
                process.output.close()
                del self.running[name]
                ended[name] = code
        return ended

    def _stop(self, why: str) -> None:
        self.why_stopped = why
        if self.running:
            self.say(f"{why}: runs write their checkpoints and stop: {len(self.running)}")
        self._tell()
        self._kill_at = time.monotonic() + GRACE

    def _tell(self) -> None:
        self._told += 1
        for process in self.running.values():
            process.tell(signal.SIGTERM)


def dies_with(parent: int) -> Callable[[], None] | None:
    """What a new process does before its program begins: ask for SIGTERM when the driver dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(128 + signal.SIGTERM)

    return ask
