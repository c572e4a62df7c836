"""What only a GPU can show, held to every agent with every objective: `CURL_TEST_DEVICE=cuda`.

Updates and actions that CUDA graphs replay equal eager ones, and Triton's kernels equal PyTorch's.
Elsewhere `test_agents.py` plays the graphs, and `tests/hardware/test_triton_kernels.py` interprets
the kernels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from curl.agents.base import Agent
from curl.data.replay import ReplayBuffer
from curl.hardware.kernels import kernels_on
from curl.learning.capture import WARM_UP, Captured
from curl.run.build import build_agent
from support.equality import assert_equal
from support.golden import DEVICE
from support.paths import CONFIGS
from support.small_agents import ACTIONS, EDGE, combinations, configuration, filled, tensors

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs CURL_TEST_DEVICE=cuda")
OBJECTIVES = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))
COMBINATIONS = combinations(OBJECTIVES)


@pytest.fixture(scope="module")
def replay() -> ReplayBuffer:
    device = torch.device("cuda", 0)
    sizes = {"capacity": 300, "frame_size": EDGE, "action_dim": ACTIONS}
    return filled(ReplayBuffer(**sizes, device=device))


@pytest.fixture(autouse=True)
def reproducible_convolutions() -> Iterator[None]:
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def make(name: str, objective: str, precision: str, *, capture: bool) -> Agent:
    torch.manual_seed(0)
    config = configuration(name, objective) | {"precision": precision}
    config["agent"] |= {"capture": capture}
    generator = torch.Generator("cuda:0").manual_seed(0)
    return build_agent(config, action_dim=ACTIONS, generator=generator)


def history(agent: Agent, replay: ReplayBuffer, count: int) -> list[object]:
    """Metrics and actions of some updates, and what they leave."""
    source, found = torch.Generator("cuda:0").manual_seed(1), []
    for _ in range(count):
        batch = replay.sample(8, source, agent.offsets)
        found.append({name: value.clone() for name, value in agent.update(batch).items()})
        found += [
            agent.act(batch.obs, deterministic=True),
            agent.act(batch.obs[:1], deterministic=False),
        ]
    return [*found, tensors(agent.state())]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "objective"), COMBINATIONS)
def test_replayed_updates_and_actions_are_eager_ones(
    name: str,
    objective: str,
    precision: str,
    replay: ReplayBuffer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    eager, recorded = (make(name, objective, precision, capture=c) for c in (False, True))
    parts = [value for value in vars(recorded).values() if isinstance(value, Captured)]
    if not parts:
        pytest.skip("this agent records nothing")
    count = (WARM_UP + 2) * max(part._period for part in parts) + 1
    with caplog.at_level(logging.WARNING, logger="curl"):
        found = history(recorded, replay, count)
    assert not caplog.messages
    assert all(part._recordings for part in parts)
    for number, (one, other) in enumerate(zip(history(eager, replay, count), found, strict=True)):
        assert_equal(one, other, f"entry {number}")


def test_tritons_kernels_are_used_and_equal_pytorchs(replay: ReplayBuffer) -> None:
    """They are tried out when they are first asked for; here at the sizes of a run."""
    kernels = kernels_on(torch.device("cuda", 0))
    assert kernels is not None
    source = torch.Generator("cuda:0").manual_seed(0)
    stacks = replay.sample(64, source).obs
    top, left = (torch.randint(0, EDGE - 35, (64,), generator=source, device="cuda") for _ in "xy")
    view = stacks.window(top, left, 36)
    host = stacks.frames.cpu()[stacks.indices.cpu()]  # [B, S, H, W, C]
    for number, (y, x) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        wanted = host[number, :, y : y + 36, x : x + 36].permute(0, 3, 1, 2).flatten(0, 1)
        assert torch.equal(view[number].cpu(), wanted)
    wide = kernels.scaled(view, 16, torch.bfloat16)
    assert torch.equal(wide[:, :9].cpu(), view.cpu().to(torch.bfloat16).div_(255))
    assert not wide[:, 9:].any()
    y, gradient = (
        torch.randn(64, 32, 17, 15, generator=source, device="cuda")
        .to(torch.bfloat16)
        .to(memory_format=torch.channels_last)
        for _ in "yg"
    )
    passed, total = kernels.rectified_gradient(gradient, y.relu())
    assert torch.equal(passed, torch.ops.aten.threshold_backward(gradient, y.relu(), 0))
    torch.testing.assert_close(total.float(), passed.float().sum((0, 2, 3)), rtol=2**-8, atol=0.1)
