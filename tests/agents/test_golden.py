"""The reference implementation's numbers: forward values and four consecutive updates.

`reference_updates.json` was recorded in float32 on a CPU with torch 2.13.0, on weights made by the
formula below and batches made by the one in support/golden.py, which also has the tolerances.

With CURL_TEST_DEVICE=cuda the same updates are computed on a GPU, eagerly, in float32 without TF32.
The noise is drawn on the host, as it was recorded. There the first update gets the tolerance of the
later ones: Adam's first step is the learning rate times a gradient's sign, and sums of another
order turn the sign of gradients that are nearly 0.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from curl.agents.sac import SAC
from curl.augmentations.crop import Crop
from curl.learning.networks import squashed_gaussian
from curl.objectives.infonce import InfoNCE, infonce
from support.golden import DEVICE, GOLDEN, golden_batch, source, tensor_deviations, within_tolerance

EDGE = 35  # the trunk's output is 32 x 35 x 35


class HostNoise(SAC):
    """Draws its noise on the host, where the recorded updates drew theirs."""

    def _noise(self, like: Tensor) -> Tensor:
        if self.device.type == "cpu":
            return super()._noise(like)
        return torch.randn(like.shape, generator=self.host).to(self.device)

    def seed(self, seed: int) -> None:
        self.host = torch.Generator().manual_seed(seed)
        self.generator.manual_seed(seed)


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    """cuDNN's convolutions would use TF32; matrix products do not unless asked to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def make_agent() -> HostNoise:
    return HostNoise(
        channels=9,
        action_dim=2,
        query=Crop(size=84),
        key=Crop(size=84),
        objective=InfoNCE(latent_dim=50),
        generator=torch.Generator(DEVICE),
        hidden_dim=GOLDEN["hidden_dim"],
        second_encoder_step=True,
    )


def named_tensors(agent: SAC) -> dict[str, Tensor]:
    """The agent's parameters under the golden file's names."""
    names: dict[str, Tensor] = {}

    def add(prefix: str, module: torch.nn.Module | torch.nn.Parameter) -> None:
        parameters = (
            {"": module}
            if isinstance(module, torch.nn.Parameter)
            else dict(module.named_parameters())
        )
        names.update({f"{prefix}{'.' * bool(k)}{k}": v for k, v in parameters.items()})

    for target, trunk, critic in (
        ("", agent.trunk, agent.critic),
        ("target.", agent.target_trunk, agent.target_critic),
    ):
        for i, convolution in enumerate(trunk.convolutions):
            add(f"{target}conv{i}", convolution)
        add(f"{target}{'' if target else 'critic.'}projection", critic.projection.linear)
        add(f"{target}{'' if target else 'critic.'}norm", critic.projection.norm)
        for q in ("q1", "q2"):
            for i, layer in enumerate([*getattr(critic, q).hidden, getattr(critic, q).output]):
                add(f"{target}{q}.linear{i}", layer)
    add("actor.projection", agent.actor.projection.linear)
    add("actor.norm", agent.actor.projection.norm)
    for i, layer in enumerate([*agent.actor.policy.hidden, agent.actor.policy.output]):
        add(f"policy.linear{i}", layer)
    add("bilinear", agent.objective.bilinear)
    return names


def nchw(name: str, tensor: Tensor) -> Tensor:
    """Projection weights with their columns in the reference's (filter, row, column) order."""
    if name.endswith("projection.weight"):
        return tensor.detach().view(-1, EDGE, EDGE, 32).permute(0, 3, 1, 2).flatten(1)
    return tensor.detach()


@torch.no_grad()
def load_golden_weights(agent: SAC) -> None:
    for name, tensor in named_tensors(agent).items():
        rng = np.random.default_rng(zlib.crc32(source(name).encode()))
        shape = tuple(tensor.shape)
        x = torch.as_tensor(rng.standard_normal(shape, dtype=np.float32))
        if len(shape) == 1:
            x = 0.05 * x + float(name.endswith("norm.weight"))
        else:
            x = x / math.sqrt(math.prod(shape[1:]))
        if name.endswith("projection.weight"):
            x = x.view(-1, 32, EDGE, EDGE).permute(0, 2, 3, 1).flatten(1)
        tensor.copy_(x)


def deviations(agent: HostNoise) -> list[dict[str, float]]:
    """Run the four updates; the worst deviation of each kind after each."""
    load_golden_weights(agent)
    worst = []
    for update, expected in enumerate(GOLDEN["updates"]):
        agent.seed(expected["seed"])
        metrics = agent.learn(*(tensor.to(DEVICE) for tensor in golden_batch(update)))
        agent.updates += 1
        losses = {
            "train_critic/loss": "critic_loss",
            "train_actor/loss": "actor_loss",
            "train_alpha/loss": "alpha_loss",
            "train_alpha/value": "alpha",
            "train/curl_loss": "contrastive_loss",
            "train/batch_reward": "batch_reward",
        }
        found = {"loss": 0.0}
        for theirs, ours in losses.items():
            assert (ours in metrics) == (theirs in expected["losses"]), ours
            if ours in metrics:
                value = expected["losses"][theirs]
                found["loss"] = max(found["loss"], abs(metrics[ours].item() / value - 1))
        assert agent.log_alpha.item() == pytest.approx(expected["log_alpha"], rel=1e-5)
        tensors = named_tensors(agent)
        ours_nchw = {name: nchw(name, tensors[name]) for name in expected["tensors"]}
        worst.append(found | tensor_deviations(ours_nchw, expected["tensors"]))
    return worst


def test_four_updates_match_the_reference() -> None:
    worst = deviations(make_agent())
    assert within_tolerance(worst), worst


class SkipsOneEncoderAverage(HostNoise):
    def update_targets(self) -> None:
        if self.updates != 0:
            super().update_targets()


class UpdatesTheActorOnOddSteps(HostNoise):
    def learn(self, *views: Any) -> Any:
        self.updates += 1
        metrics = super().learn(*views)
        self.updates -= 1
        return metrics


@pytest.mark.parametrize("broken", ["one average", "one Adam", "tau", "discount"])
def test_a_broken_update_does_not_match(broken: str) -> None:
    """The golden test can fail: each of these mistakes lands outside its tolerance."""
    agent = make_agent()
    if broken == "one average":
        agent.__class__ = SkipsOneEncoderAverage
    elif broken == "one Adam":
        del agent.optimizers["encoder"]
    elif broken == "tau":
        agent.encoder_tau = 0.01
    elif broken == "discount":
        agent.discount = 0.98
    assert not within_tolerance(deviations(agent))


def test_actor_on_odd_updates_does_not_match() -> None:
    agent = make_agent()
    agent.__class__ = UpdatesTheActorOnOddSteps
    with pytest.raises(AssertionError):
        deviations(agent)


def test_forward_values_match_the_reference() -> None:
    agent, expected = make_agent(), GOLDEN["forward"]
    limit = 1e-5 if DEVICE.type == "cpu" else 1e-4
    load_golden_weights(agent)
    obs, action, _, _, _, key = (tensor.to(DEVICE) for tensor in golden_batch(0))
    with torch.no_grad():
        features = agent.trunk(obs)
        latent = agent.critic.projection(features)
        q1, q2 = agent.critic(latent, action)
        mean, log_std = agent.actor(features)
        k = agent.target_critic.projection(agent.target_trunk(key))
        logits = latent @ agent.objective.bilinear @ k.T
    logits_minus_max = logits - logits.max(1, keepdim=True).values
    records = {
        "critic_latent": latent,
        "actor_latent": agent.actor.projection(features).detach(),
        "logits_minus_row_max": logits_minus_max,
    }
    for name, tensor in records.items():
        record = expected[name]
        values = tensor.flatten()[record["at"]].cpu()
        torch.testing.assert_close(values, torch.tensor(record["values"]), rtol=1e-4, atol=2e-5)
        assert tensor.square().mean().sqrt().item() == pytest.approx(record["rms"], rel=limit)
    noise = torch.randn(8, 2, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    sampled, log_pi = squashed_gaussian(mean, log_std, noise)
    lists = {
        "q1": q1,
        "q2": q2,
        "mean_action": torch.tanh(mean),
        "log_std": log_std,
        "sampled_action_seed5": sampled,
        "log_prob_seed5": log_pi,
    }
    for name, tensor in lists.items():
        wanted = torch.tensor(expected[name])
        torch.testing.assert_close(tensor.flatten().cpu(), wanted, rtol=limit, atol=limit)
    assert infonce(logits).item() == pytest.approx(expected["contrastive_loss"], rel=limit)
