"""Updates and actions on a GPU that is played: nothing mixes, and the host does not wait."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from curl import augmentations, objectives
from curl.agents.sac import SAC
from curl.command.views import resolved
from curl.data import replay
from curl.data.batch import Metrics
from curl.data.replay import ReplayBuffer
from curl.run import evaluation, online
from curl.run.evaluation import Evaluator
from curl.run.guard import RunError
from curl.run.online import OnlineTrainer
from support.paths import CONFIGS
from support.virtual_cuda import GPU, HOST, Generator, MixedDevicesError, VirtualCuda, on_gpu, place

FRAME = 100
FLAGS: dict[str, dict[str, Any]] = {
    "joint": {"joint": True},
    "shared key encoder": {"shared_key_encoder": True},
    "detached encoder": {"detach_encoder": True},
    "first frame only": {"first_frame_only": True},
    "clean critic": {"clean_critic": True},
    "second encoder step": {"second_encoder_step": True},
}


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def configured(group: str, name: str) -> dict[str, Any]:
    return resolved(CONFIGS / group / f"{name}.yaml")


COMBINATIONS = [
    *(("crop", objective, {}) for objective in names("objective")),
    *((augmentation, "infonce", {}) for augmentation in names("augmentation")),
    *(("crop", "cpc", flags) for flags in FLAGS.values()),
]


def make_agent(
    generator: torch.Generator,
    augmentation: str = "crop",
    objective: str = "infonce",
    kind: type[SAC] = SAC,
    **flags: Any,
) -> SAC:
    views = configured("augmentation", augmentation)
    sizes = {"latent_dim": 16, "action_dim": 2}
    return kind(
        channels=9,
        query=augmentations.make(**views["query"]),
        key=augmentations.make(**views["key"]),
        objective=objectives.make(**configured("objective", objective), **sizes),
        generator=generator,
        hidden_dim=32,
        capture=False,
        **sizes,
        **flags,
    )


def make_replay(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> ReplayBuffer:
    monkeypatch.setattr(replay, "free_bytes", lambda _: 10**12)
    return ReplayBuffer(capacity=30, frame_size=FRAME, action_dim=2, device=device, target=GPU)


def fill(buffer: ReplayBuffer) -> None:
    """Three episodes of noise."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        buffer.begin(rng.integers(0, 255, (FRAME, FRAME, 3), dtype=np.uint8))
        for step in range(9):
            frame = rng.integers(0, 255, (FRAME, FRAME, 3), dtype=np.uint8)
            buffer.add(torch.rand(2), 1.0, step == 8, frame)


def learn(
    gpu: VirtualCuda, agent: SAC, buffer: ReplayBuffer, *, updates: int = 2, batch_size: int = 4
) -> None:
    """Some updates, watched."""
    assert isinstance(agent.generator, Generator)
    with gpu.watching():
        for _ in range(updates):
            metrics = agent.update(buffer.sample(batch_size, agent.generator, agent.offsets))
            assert all(map(on_gpu, metrics.values()))


@pytest.mark.parametrize(("augmentation", "objective", "flags"), COMBINATIONS, ids=str)
def test_an_update_stays_on_the_gpu(
    augmentation: str, objective: str, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is copied, and nothing waits. It is so with the replay buffer on the GPU."""
    with VirtualCuda() as gpu:
        agent = make_agent(Generator(), augmentation, objective, **flags)
        buffer = make_replay(GPU, monkeypatch)
        fill(buffer)
        # constants of an augmentation (noise levels, weights) move to the GPU in the first update
        learn(gpu, agent, buffer, updates=1)
        gpu.waits.clear()
        gpu.copies.clear()
        learn(gpu, agent, buffer)
    assert gpu.operations > 500
    assert gpu.waits == [] and gpu.copies == []


@pytest.mark.parametrize(
    ("augmentation", "objective", "flags"),
    [
        *(("crop", objective, {}) for objective in names("objective")),
        *((name, "infonce", {}) for name in names("augmentation")),
        ("crop", "cpc", FLAGS["first frame only"]),
    ],
    ids=str,
)
def test_windows_alone_are_copied_from_a_replay_buffer_on_the_host(
    augmentation: str, objective: str, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with VirtualCuda() as gpu:
        agent = make_agent(Generator(), augmentation, objective, **flags)
        buffer = make_replay(HOST, monkeypatch)
        fill(buffer)
        learn(gpu, agent, buffer, updates=1)
        gpu.waits.clear()
        gpu.copies.clear()
        learn(gpu, agent, buffer, updates=1, batch_size=4)
    pixels = [shape for shape in gpu.copies if len(shape) == 4]
    size = FRAME if augmentation == "translate" else agent.query.size
    assert {shape[1:] for shape in pixels} == {(9, size, size)}
    rows = agent.contrast.objective.rows or 4 if objective != "none" else 0
    views = sum(shape[0] for shape in pixels) - 8  # the critic's, of obs and next_obs
    if objective == "none":
        assert views == 0
    else:
        own = 0 if agent.contrast.shares_view else 1
        queries = len(agent.contrast.objective.query_offsets) - 1 + own
        assert views == min(4, rows) * (len(agent.contrast.objective.key_offsets) + queries)
    # The host waits for numbers that the GPU drew, and for the small columns of the batch.
    allowed = ("in batch.py: window", "in replay.py: batch", "in replay.py: _later")
    assert [wait for wait in gpu.waits if not wait.endswith(allowed)] == []
    windows = [wait for wait in gpu.waits if wait.endswith("in batch.py: window")]
    assert set(windows) <= {"to to the host in batch.py: window"}  # the copy over waits for nothing


@pytest.mark.parametrize("device", [GPU, HOST], ids=["on the GPU", "on the host"])
def test_acting_waits_for_nothing_but_the_action(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VirtualCuda() as gpu:
        agent, buffer = make_agent(Generator()), make_replay(device, monkeypatch)
        fill(buffer)
        stacks = buffer.latest()
        with gpu.watching():
            actions = [agent.act(stacks, deterministic=flag) for flag in (True, False)]
        assert all(map(on_gpu, actions)) and gpu.waits == []
        with gpu.watching():
            actions[0].cpu()
    assert gpu.waits == ["cpu to the host"]


class Noise:
    """An environment of noise, and what `episode_length` asks of it."""

    action_space = gym.spaces.Box(-1, 1, (2,))

    def __init__(self) -> None:
        self.unwrapped, self.steps = self, 0
        self.source = np.random.default_rng(0)

    def frame(self) -> np.ndarray:
        return self.source.integers(0, 255, (FRAME, FRAME, 3), dtype=np.uint8)

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        return self.frame(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.frame(), 1.0, False, False, {}


def make_trainer(agent: SAC, buffer: ReplayBuffer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An online loop in noise, without what it does between its steps."""
    monkeypatch.setattr(online, "episode_length", lambda env: env.steps)
    nothing: Any = None
    return OnlineTrainer(
        env=Noise(),  # pyright: ignore[reportArgumentType]
        replay=buffer,
        env_steps=100,
        batch_size=4,
        updates_per_step=1,
        initial_steps=3,
        save_replay=False,
        agent=agent,
        generator=agent.generator,
        evaluator=nothing,
        logger=nothing,
        checkpoints=nothing,
        config={},
        threads=nothing,
        seed=0,
        eval_every=100,
        checkpoint_every=100,
        log_every=100,
        video=False,
        env_timeout=60,
    )


def test_while_the_environment_steps_the_gpu_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within agent steps the host waits for actions alone, each with an update launched after it.

    And for the update before, whose metrics it has by then to look at.
    """
    with VirtualCuda() as gpu:
        agent, buffer = make_agent(Generator()), make_replay(GPU, monkeypatch)
        trainer = make_trainer(agent, buffer, monkeypatch)
        for _ in range(6):
            trainer.advance()
        gpu.waits.clear()
        with gpu.watching():
            for _ in range(4):
                trainer.advance()
        assert agent.updates == 7
    assert gpu.waits == []
    # By turns: the update before the last one, and the action, with an update launched after it.
    assert len(gpu.events) == 8 and min(gpu.events) > 300, gpu.events


def test_an_update_that_is_not_finite_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the environment sees an action that is none, though the GPU is an update behind."""
    with VirtualCuda():
        agent, buffer = make_agent(Generator()), make_replay(GPU, monkeypatch)
        trainer = make_trainer(agent, buffer, monkeypatch)
        for _ in range(6):
            trainer.advance()
        steps = trainer.env.env.steps
        with torch.no_grad():
            for weight in agent.trunk.parameters():
                weight.fill_(float("nan"))
        with pytest.raises(RunError, match="critic_loss became nan at env step 6"):
            trainer.advance()
        assert trainer.env.env.steps == steps


def test_a_checkpoint_of_a_cpu_goes_on_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, moments and step counts are then where a fused, captured step looks for them."""
    cpu = make_agent(torch.Generator())
    buffer = ReplayBuffer(capacity=30, frame_size=FRAME, action_dim=2)
    fill(buffer)
    for _ in range(2):
        cpu.update(buffer.sample(4, cpu.generator))
    state = copy.deepcopy(cpu.state())
    with VirtualCuda() as gpu:
        agent, buffer = make_agent(Generator()), make_replay(GPU, monkeypatch)
        fill(buffer)
        agent.load(state)
        for optimizer in agent.optimizers.values():
            assert all(group["capturable"] for group in optimizer.param_groups)
            for values in optimizer.state.values():
                assert all(map(on_gpu, values.values()))
        learn(gpu, agent, buffer)
        assert gpu.waits == []
        exported = buffer.export(buffer.oldest(), buffer.written)
        assert not any(on_gpu(value) for value in exported.values() if isinstance(value, Tensor))


class TwoSteps:
    """An environment of frames [3, H, W, 3] that is over after two steps."""

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return np.zeros((3, FRAME, FRAME, 3), np.uint8), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert action.shape == (2,)
        self.steps += 1
        return np.zeros((3, FRAME, FRAME, 3), np.uint8), 1.0, self.steps == 2, False, {}

    def close(self) -> None:
        pass


def test_a_policy_on_a_gpu_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "make_stacked_env", lambda *_: TwoSteps())
    with VirtualCuda():
        evaluator = Evaluator(settings={"action_repeat": 1}, episodes=2, frame_stack=3, device=GPU)
        assert evaluator(make_agent(Generator()), seed=0) == [2.0, 2.0]


# -- the played GPU can fail -----------------------------------------------------------------------


class Planted(SAC):
    """An agent with a mistake in its update."""

    def learn(self, *views: Any) -> Metrics:
        metrics = super().learn(*views)
        self.mistake(metrics)
        return metrics

    def mistake(self, metrics: Metrics) -> None:
        raise NotImplementedError


class Looks(Planted):
    def mistake(self, metrics: Metrics) -> None:
        metrics["critic_loss"].item()


class Branches(Planted):
    def mistake(self, metrics: Metrics) -> None:
        if metrics["critic_loss"] > 0:
            self.branched = True


class Selects(Planted):
    def mistake(self, metrics: Metrics) -> None:
        losses = torch.stack([metrics["critic_loss"]] * 2)
        metrics["critic_loss"] = losses[losses > 0].mean()


class MakesAConstant(Planted):
    def mistake(self, metrics: Metrics) -> None:
        metrics["constant"] = torch.tensor(3.0, device=self.device)


class CopiesUnpinned(Planted):
    def mistake(self, metrics: Metrics) -> None:
        metrics["constant"] = torch.ones(1).to(self.device, non_blocking=True).sum()


class MixesVectors(Planted):
    def mistake(self, metrics: Metrics) -> None:
        metrics["critic_loss"] = (metrics["critic_loss"] + torch.ones(2)).mean()


class MixesAScalar(Planted):
    def mistake(self, metrics: Metrics) -> None:
        metrics["critic_loss"] = metrics["critic_loss"] * torch.tensor(2.0)


class DrawsOnTheHost(Planted):
    def mistake(self, metrics: Metrics) -> None:
        torch.randn(2, generator=torch.Generator(), device=self.device)


def updated(kind: type[SAC], monkeypatch: pytest.MonkeyPatch) -> VirtualCuda:
    with VirtualCuda() as gpu:
        agent, buffer = make_agent(Generator(), kind=kind), make_replay(GPU, monkeypatch)
        fill(buffer)
        learn(gpu, agent, buffer, updates=1)
    return gpu


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Looks, "item"),
        (Branches, "__bool__"),
        (Selects, "__getitem__ by a mask"),
        (MakesAConstant, "tensor from memory that is not pinned"),
        (CopiesUnpinned, "to to the GPU from memory that is not pinned"),
    ],
)
def test_an_update_that_waits_is_seen(
    kind: type[SAC], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [wait for wait in updated(kind, monkeypatch).waits if wait.startswith(what)]


@pytest.mark.parametrize("kind", [MixesVectors, MixesAScalar, DrawsOnTheHost])
def test_an_update_that_mixes_devices_is_seen(
    kind: type[SAC], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MixedDevicesError):
        updated(kind, monkeypatch)


def test_a_part_that_was_left_on_the_host_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with VirtualCuda() as gpu:
        agent, buffer = make_agent(Generator()), make_replay(GPU, monkeypatch)
        fill(buffer)
        place(list(agent.target_critic.q1.parameters())[:1], gpu=False)
        with pytest.raises(MixedDevicesError):
            learn(gpu, agent, buffer)
