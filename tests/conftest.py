"""One thread (2-thread runs are erratic beside other tests), no wandb, headless OpenGL, no GPU.

`CURL_TEST_DEVICE=cuda python -m pytest` leaves the GPUs visible: runs that the tests start then
take one where they would, and the recorded updates of test_golden.py are computed on it.

At the end it says what was tried: counted in the tests, so a deselected one counts nothing.
"""

import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

os.environ.setdefault("WANDB_MODE", "disabled")
DEVICE = os.environ.get("CURL_TEST_DEVICE", "cpu")
if DEVICE == "cpu":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch  # noqa: E402

from curl.command import labels  # noqa: E402, F401  which configs/train.yaml needs
from curl.hardware.device import OpenGLError, choose_opengl  # noqa: E402

torch.set_num_threads(1)
with contextlib.suppress(OpenGLError):  # before anything imports MuJoCo's renderer
    choose_opengl("auto", torch.device("cpu"))

pytest.register_assert_rewrite("support")  # its assertions explain themselves too

if DEVICE != "cpu" and not torch.cuda.is_available():
    raise pytest.UsageError(f"CURL_TEST_DEVICE={DEVICE}, but PyTorch sees no GPU")

TALLY = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Counter()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Counter[str]:
    """How often what was tried: kills, kills survived, faults, bad inputs."""
    return request.config.stash[TALLY]


@pytest.fixture(autouse=True)
def process_settings() -> Iterator[None]:
    """What programs set for their whole process is afterwards as it was before."""
    logger = logging.getLogger("curl")
    log = list(logger.handlers), logger.propagate, logger.level
    yield
    assert torch.is_grad_enabled(), "gradients were left switched off"
    logger.handlers, logger.propagate = log[:2]
    logger.setLevel(log[2])


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
