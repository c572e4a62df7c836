"""The cursor of a terminal: a progress display hides it, and every way out shows it again."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from support.faulty_runs import arguments
from support.paths import ROOT
from support.programs import ENVIRONMENT
from support.synthetic_runs import make_run

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


class InTerminal:
    """A process whose standard output is a terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        ours, theirs = pty.openpty()
        environment = ENVIRONMENT | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.output = b""
        self.reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self.reader.start()

    def _read(self, terminal: int) -> None:
        try:
            while part := os.read(terminal, 65536):
                self.output += part
        except OSError:  # how Linux says that the other end was closed
            pass
        os.close(terminal)

    def wait_for(self, text: bytes) -> None:
        end = time.monotonic() + 120
        while text not in self.output:
            assert self.process.poll() is None and time.monotonic() < end, self.output
            time.sleep(0.02)

    def ends_with(self, code: int) -> None:
        try:
            assert self.process.wait(30) == code, self.output
        finally:
            self.process.kill()
        self.reader.join(10)
        assert HIDE in self.output, "it never hid the cursor"
        assert self.output.rfind(SHOW) > self.output.rfind(HIDE), "the cursor stays hidden"


def test_a_second_interrupt_of_a_run_shows_the_cursor(tmp_path: Path) -> None:
    """The environment hangs, so that the first one asks in vain."""
    started = InTerminal(arguments(tmp_path, task__env_id="Hangs-v0", env_timeout=1000))
    started.wait_for(HIDE)
    path = tmp_path / "metrics.jsonl"
    while not (path.exists() and '"env_steps": 9,' in path.read_text()):
        assert started.process.poll() is None
        time.sleep(0.05)
    started.process.send_signal(signal.SIGINT)
    started.wait_for(b"a second signal stops at once")
    assert started.process.poll() is None
    started.process.send_signal(signal.SIGINT)
    started.ends_with(128 + signal.SIGINT)


@pytest.mark.slow
def test_a_hanging_environment_shows_the_cursor(tmp_path: Path) -> None:
    started = InTerminal(arguments(tmp_path, task__env_id="Hangs-v0", env_timeout=2))
    started.ends_with(3)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_every_end_of_a_watched_status_shows_the_cursor(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    make_run(tmp_path)
    command = [sys.executable, "-m", "curl", "status", str(tmp_path), "--watch", "100"]
    started = InTerminal(command)
    started.wait_for(b"1 run")
    time.sleep(0.3)
    for _ in range(3):
        if started.process.poll() is None:
            started.process.send_signal(number)
    started.ends_with(code)
