"""Options that make updates faster: the exact ones change nothing, the others little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from curl.agents.sac import SAC
from curl.augmentations.crop import Crop
from curl.data.replay import ReplayBuffer
from curl.learning import networks
from curl.objectives.infonce import InfoNCE


def make_agent(seed: int = 0, **options: Any) -> SAC:
    torch.manual_seed(seed)
    sizes = {"channels": 9, "action_dim": 2, "hidden_dim": 64, "latent_dim": 16}
    return SAC(
        query=Crop(size=36),
        key=Crop(size=36),
        objective=InfoNCE(latent_dim=16),
        generator=torch.Generator().manual_seed(seed),
        **sizes,
        **options,
    )


@pytest.fixture(scope="module")
def replay() -> ReplayBuffer:
    """A square that moves with the action over a noisy ground."""
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(capacity=400, frame_size=40, action_dim=2)

    def frame(x: float) -> np.ndarray:
        pixels = rng.integers(0, 40, (40, 40, 3), np.uint8)
        pixels[10:25, int(x) : int(x) + 10] = 220
        return pixels

    x = 15.0
    replay.begin(frame(x))
    for _ in range(300):
        action = rng.uniform(-1, 1, 2)
        x = float(np.clip(x + 3 * action[0], 0, 29))
        replay.add(action, x / 29, False, frame(x))
    return replay


def train(agent: SAC, replay: ReplayBuffer, updates: int) -> list[dict[str, float]]:
    history = []
    for _ in range(updates):
        batch = replay.sample(32, agent.generator)
        history.append({k: float(v) for k, v in agent.update(batch).items()})
    return history


def averages(history: list[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in history if name in row]))


def test_bfloat16_stays_near_float32_over_50_updates(replay: ReplayBuffer) -> None:
    """Means over 50 updates: critic loss within 10 %, contrastive 3 %, actor loss and Q 0.05.

    Another seed's means differ by up to 60 % and 0.6, so a wrong loss is far outside.
    """
    exact = train(make_agent(), replay, 50)
    rounded = train(make_agent(precision=torch.bfloat16), replay, 50)
    assert exact[0] != rounded[0]
    tolerances = {
        "critic_loss": {"rel": 0.1},
        "contrastive_loss": {"rel": 0.03},
        "actor_loss": {"abs": 0.05},
        "q_mean": {"abs": 0.05},
    }
    for name, tolerance in tolerances.items():
        assert averages(rounded, name) == pytest.approx(averages(exact, name), **tolerance), name


def test_the_joint_update_is_another_method_that_still_learns(replay: ReplayBuffer) -> None:
    separate, joint = make_agent(), make_agent(joint=True)
    assert set(joint.optimizers) == {"critic", "actor", "alpha"}
    first, second = train(separate, replay, 60), train(joint, replay, 60)
    assert first[-1]["contrastive_loss"] != second[-1]["contrastive_loss"]
    for history in (first, second):
        assert averages(history[-10:], "contrastive_loss") < averages(
            history[:5], "contrastive_loss"
        )
        assert averages(history[-10:], "critic_loss") < averages(history[:5], "critic_loss")


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("channels", [3, 8, 9])
def test_cudnn_gets_more_channels_and_gives_the_same(
    channels: int, centred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for cuDNN's kernel, in float32: features and gradients, and what it reads."""
    read: list[tuple[int, bool]] = []

    def stand_in(x: Tensor, weight: Tensor, bias: Tensor, *geometry: Any) -> Tensor:
        last = all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, weight))
        read.append((x.shape[1], last))
        return functional.relu(functional.conv2d(x, weight, bias, *geometry))

    trunk = networks.ConvTrunk(channels=channels, size=36, centred=centred)
    networks.initialise(trunk, convolutions="orthogonal")
    pixels = torch.randint(0, 256, (4, channels, 36, 36), dtype=torch.uint8)
    pixels = pixels.to(memory_format=torch.channels_last)

    def outputs(view: Tensor) -> list[Tensor]:
        features = trunk(view)
        return [features, *torch.autograd.grad(features.square().mean(), trunk.parameters())]

    expected = outputs(pixels)
    monkeypatch.setattr(networks, "fused_on_cuda", lambda *_: True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", stand_in)
    for view in (pixels, pixels / 255, trunk.scaled(pixels), trunk.scaled(trunk.scaled(pixels))):
        for one, other in zip(outputs(view), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert read[:4] == [(-(-channels // 8) * 8, True), (32, True), (32, True), (32, True)]


@pytest.mark.skipif(not networks.FUSED_CONVOLUTION, reason="PyTorch without oneDNN")
def test_the_fused_convolution_is_the_plain_one_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = networks.ConvTrunk(channels=9, size=36)
    pixels = torch.randint(0, 256, (4, 9, 36, 36), dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fused = trunk(pixels)
        monkeypatch.setattr(networks, "FUSED_CONVOLUTION", False)
        assert torch.equal(fused, trunk(pixels))
    assert fused.dtype == torch.bfloat16
