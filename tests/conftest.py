"""One thread (2-thread runs are erratic beside other tests), no wandb, headless OpenGL.

At the end it says what was tried: counted in the tests, so a deselected one counts nothing.
"""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch

from curl.hardware import OpenGLError, choose_opengl

torch.set_num_threads(1)
with contextlib.suppress(OpenGLError):  # before anything imports MuJoCo's renderer
    choose_opengl("auto", torch.device("cpu"))

TALLY = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Counter()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Counter[str]:
    """How often what was tried: kills, kills survived, faults, bad inputs."""
    return request.config.stash[TALLY]


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signals are handled afterwards as they were before: a trainer takes them over."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def fault(tally: Counter[str]) -> None:
    """The test that asks for it is one fault."""
    tally["faults"] += 1


def pytest_unconfigure(config: pytest.Config) -> None:
    tally, reporter = config.stash[TALLY], config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not tally:
        return
    if tally["faults"] or tally["bad inputs"]:
        figures = f"{tally['faults']} faults, {tally['bad inputs']} bad inputs"
        reporter.write_line(f"tried: {figures}")
    if tally["kills"]:
        figures = f"{tally['kills survived']} of {tally['kills']} kills survived"
        reporter.write_line(f"crash harness: {figures}")
