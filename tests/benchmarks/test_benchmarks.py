"""The benchmarks: their plain side is right, their counts are right, a tiny run reports it all."""

from __future__ import annotations

import io
import json
import math
import zlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import contenders, kernels, small, speed, trace
from benchmarks.cells import CONFIGS
from benchmarks.contenders import Loop, Sizes, build, replay_bytes
from benchmarks.floor import Machine, Shapes, floor, update_bytes, update_flops
from benchmarks.plain import PlainAgent, random_crop
from benchmarks.tables import show
from benchmarks.timing import Timing, interleave, ratio
from curl.agents.sac import SAC
from curl.data.batch import FrameStacks
from support.golden import GOLDEN, golden_batch, source, tensor_deviations, within_tolerance

CPU = torch.device("cpu")
PAPER = Shapes(channels=9, size=84, action_dim=1, hidden_dim=1024)
TINY = Sizes(frame=24, crop=20, hidden=16, transitions=20)


class Noise(gym.Env[np.ndarray, np.ndarray]):
    """Random frames, episodes of 3 agent steps."""

    def __init__(self, shadow_size: int | None) -> None:
        self.shadow_size, self.steps = shadow_size, 0
        self.action_space = gym.spaces.Box(-1.0, 1.0, (TINY.action_dim,), np.float32)
        self.observation_space = gym.spaces.Box(0, 255, (TINY.frame, TINY.frame, 3), np.uint8)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return self.render(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.steps += 1
        return self.render(), 1.0, False, self.steps == 3, {}

    def render(self) -> np.ndarray:
        return np.random.default_rng(self.steps).integers(0, 256, (24, 24, 3), np.uint8)


# -- the plain side ------------------------------------------------------------------------------


def plain_tensors(agent: PlainAgent) -> dict[str, Tensor]:
    """The plain agent's parameters under the golden file's names."""
    names: dict[str, Tensor] = {"bilinear": agent.bilinear}
    policy = {"policy": agent.actor.policy}
    for prefix, critic in (("", agent.critic), ("target.", agent.target)):
        modules = {f"conv{i}": layer for i, layer in enumerate(critic.encoder.convs)}
        modules |= {f"{'' if prefix else 'critic.'}projection": critic.encoder.projection}
        modules |= {f"{'' if prefix else 'critic.'}norm": critic.encoder.norm}
        for name, mlp in {"q1": critic.q1, "q2": critic.q2, **({} if prefix else policy)}.items():
            modules |= {f"{name}.linear{i}": mlp[2 * i] for i in range(3)}
        if not prefix:
            modules["actor.projection"] = agent.actor.encoder.projection
            modules["actor.norm"] = agent.actor.encoder.norm
        for name, module in modules.items():
            names |= {f"{prefix}{name}.{k}": v for k, v in module.named_parameters()}
    return names


@torch.no_grad()
def load_golden_weights(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        rng = np.random.default_rng(zlib.crc32(source(name).encode()))
        x = torch.as_tensor(rng.standard_normal(tuple(tensor.shape), dtype=np.float32))
        if x.ndim == 1:
            x = 0.05 * x + float(name.endswith("norm.weight"))
        else:
            x = x / math.sqrt(math.prod(x.shape[1:]))
        tensor.copy_(x)


LOSSES = {
    "train/batch_reward": "batch_reward",
    "train_critic/loss": "critic_loss",
    "train_actor/loss": "actor_loss",
    "train_actor/entropy": "entropy",
    "train_alpha/loss": "alpha_loss",
    "train_alpha/value": "alpha",
    "train/curl_loss": "curl_loss",
}


def deviations(agent: PlainAgent) -> list[dict[str, float]]:
    """Run the recorded updates; the worst deviation of each kind after each."""
    tensors = plain_tensors(agent)
    load_golden_weights(tensors)
    worst = []
    for update, expected in enumerate(GOLDEN["updates"]):
        obs, action, reward, terminated, next_obs, key = golden_batch(update)
        views = (obs.float(), action, reward, next_obs.float(), (~terminated).float(), key.float())
        torch.manual_seed(expected["seed"])
        metrics = agent.update_on(*views, expected["step"])
        wanted = {LOSSES[k]: v for k, v in expected["losses"].items() if k in LOSSES}
        assert metrics.keys() == wanted.keys()
        found = {"loss": max(abs(metrics[k] / v - 1) for k, v in wanted.items())}
        worst.append(found | tensor_deviations(tensors, expected["tensors"]))
    return worst


def test_plain_matches_the_reference() -> None:
    worst = deviations(PlainAgent(2, hidden_dim=GOLDEN["hidden_dim"]))
    assert within_tolerance(worst), worst


def test_a_broken_plain_does_not_match() -> None:
    agent = PlainAgent(2, hidden_dim=GOLDEN["hidden_dim"])
    agent.encoder_tau = 0.01
    assert not within_tolerance(deviations(agent))


def test_plain_crops_are_windows() -> None:
    """A pixel that knows its place tells where its window came from."""
    place = np.arange(24 * 24).reshape(24, 24) % 251
    stacks = np.broadcast_to(place.astype(np.uint8), (6, 9, 24, 24))
    for crop in random_crop(stacks, 20, np.random.default_rng(0)):
        windows = np.lib.stride_tricks.sliding_window_view(stacks[0, 0], (20, 20))
        assert any(np.array_equal(crop[0], w) for row in windows[:4] for w in row[:4])
        assert (crop == crop[0]).all()


# -- counts --------------------------------------------------------------------------------------


def test_encoder_flops_by_hand() -> None:
    convolutions = 41**2 * 32 * 9 * 9 + (39**2 + 37**2 + 35**2) * 32 * 32 * 9
    assert PAPER.encoder_flops == 2 * (convolutions + 32 * 35 * 35 * 50) == 88_481_984


@pytest.mark.parametrize("sizes", [TINY, Sizes(24, 20, 2, 3, 8, 20)])
@pytest.mark.parametrize("joint", [False, True])
def test_update_flops_are_what_pytorch_counts(
    sizes: Sizes, joint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = {"precision": torch.float32, "joint": joint}
    monkeypatch.setitem(contenders.VARIANTS, "counted", variant)
    contender = build("counted", sizes, CPU)
    with FlopCounterMode(display=False) as counter:
        for _ in range(2):  # one with the actor and one without
            contender.update(8)
    # the joint update projects the anchor's features for each loss, where once would do
    twice = 2 * 8 * 3 * sizes.shapes.projection if joint else 0
    assert update_flops(sizes.shapes, 8, joint=joint) + twice == counter.get_total_flops() / 2


def test_parameters_are_counted_right() -> None:
    """Up to biases, LayerNorm and W, which weigh nothing."""
    agent = SAC(
        channels=9,
        action_dim=1,
        query=contenders.Crop(size=84),
        key=contenders.Crop(size=84),
        objective=None,
        generator=torch.Generator(),
    )
    counted = {
        "trunk": (agent.trunk, PAPER.trunk_parameters),
        "projection": (agent.critic.projection, PAPER.projection),
        "policy": (agent.actor.policy, PAPER.policy),
        "q": (agent.critic.q1, PAPER.q),
    }
    for name, (module, count) in counted.items():
        assert sum(p.numel() for p in module.parameters()) == pytest.approx(count, rel=5e-3), name


def test_the_paper_s_update_costs_nine_encoder_forwards() -> None:
    fast = machine_of(flops=1e12, bandwidth=1e12)
    row = floor(fast, PAPER, 128, torch.bfloat16)
    assert 9.0 < row["encoder_forwards"] < 9.5
    assert 6.0 < floor(fast, PAPER, 128, torch.bfloat16, joint=True)["encoder_forwards"] < 6.5
    assert row["floor_ms"] == row["compute_ms"] == pytest.approx(row["gflop"])
    slow = floor(machine_of(flops=1e15, bandwidth=1e9), PAPER, 128, torch.bfloat16)
    assert slow["floor_ms"] == slow["memory_ms"] == pytest.approx(slow["megabytes"])
    assert update_bytes(PAPER, 128, torch.float32) > update_bytes(PAPER, 128, torch.bfloat16)


def machine_of(flops: float, bandwidth: float) -> Machine:
    return Machine({torch.float32: flops, torch.bfloat16: flops}, bandwidth)


def test_replay_bytes() -> None:
    stored = replay_bytes(Sizes())
    assert 3.0e9 < stored["ours"] <= 3.1e9
    assert 18.0e9 <= stored["plain"] < 18.1e9


# -- timing --------------------------------------------------------------------------------------


def test_functions_take_turns_in_whole_periods() -> None:
    seen: list[str] = []
    functions = {name: (lambda name=name: seen.append(name)) for name in "ab"}
    timings = interleave(functions, device=CPU, seconds=0, rounds=(3, 9), period=2, least=0)
    assert "".join(seen) == "aaaa" + "bbbb" + "aabb" * 3  # a warm-up and a trial, then the rounds
    assert [len(t.samples) for t in timings.values()] == [3, 3]


def test_ratios_are_paired() -> None:
    slow, fast = Timing((2.0, 40.0, 6.0), 1, 0.0), Timing((1.0, 10.0, 2.0), 1, 0.0)
    assert ratio(slow, fast) == {"median": 3.0, "q1": 2.5, "q3": 3.5}
    assert slow.summary()["median_ms"] == 6000.0


# -- a whole, tiny run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    settings = speed.Settings(
        device=CPU,
        batches=(4, 6),
        variants=("float32",),
        sizes=TINY,
        seconds=0,
        rounds=(2, 2),
        make_env=Noise,
        memory=False,
        gemm=(16, 1),
    )
    return json.loads(json.dumps(speed.measure(settings)))


def test_a_run_reports_everything(values: dict[str, Any]) -> None:
    wanted = {"device", "torch_version", "threads", "precision", "replay_bytes_100k"}
    wanted |= {f"{what}_speedup" for what in ("update", "sample", "act", "step", "run")}
    assert wanted <= values.keys()
    assert all(values[name] is not None for name in wanted)
    rows = {(row["what"], row["contender"]) for row in values["measurements"]}
    for what in ("update", "sample", "act", "run"):
        assert {(what, "plain"), (what, "float32"), (what, values["variant"])} <= rows
    assert {("step", "ours"), ("render", "ours"), ("run", "plain, own shadows")} <= rows
    for row in values["measurements"]:
        assert 0 < row["q1_ms"] <= row["median_ms"] <= row["q3_ms"]
    assert all(row["time_over_floor"] > 0 for row in values["floor"])


def test_a_run_can_be_shown(values: dict[str, Any]) -> None:
    console = Console(record=True, width=80, file=io.StringIO())
    show(values, console)
    text = console.export_text()
    assert "update" in text and "own shadows" in text and "times as fast as plain" in text


def test_both_sides_remember_the_same_transitions() -> None:
    """The loop hands both sides what the environment said, across the ends of episodes."""
    sides = {name: build(name, TINY, CPU) for name in ("plain", "float32")}
    for contender in sides.values():
        loop = Loop(contender, Noise(None), 4)
        for _ in range(5):
            loop()
    plain, ours = sides["plain"].replay, sides["float32"].replay
    assert plain.position == 5
    for back in range(1, 6):
        after = torch.tensor([int(ours._arrivals[(ours.last - back) % ours.capacity])])
        for stored, newest in ((plain.next_obs, after), (plain.obs, after - 1)):
            stack = ours.stacks(newest).whole()[0].numpy()
            assert np.array_equal(stored[5 - back], stack)


def test_a_variant_that_sac_does_not_know_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contenders.VARIANTS, "magic", {"precision": torch.float32, "magic": 1})
    assert "magic" not in contenders.variants(CPU)
    assert "bfloat16 uncaptured" not in contenders.variants(CPU)  # nothing is captured there
    assert contenders.headline(CPU) in contenders.variants(CPU)


@pytest.mark.parametrize("name", ["plain", None])
def test_trace_names_operations(name: str | None) -> None:
    table = trace.trace(name, device=CPU, batch_size=4, updates=1, sizes=TINY)
    assert "convolution" in table and "Self CPU" in table


def test_the_small_agent_is_the_one_of_the_preset() -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["experiment=laptop"])
    view = config.augmentation.query
    assert config.render_size == view.size == small.EDGE
    assert (view.name, view.pad) == ("shift", 2) and config.objective.name == "infonce"
    assert (*config.agent.strides,) == small.STRIDES
    assert config.agent.hidden_dim == small.HIDDEN
    assert config.agent.convolution_init == "orthogonal"


def test_the_small_benchmark_says_how_many_times_as_fast(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.json"
    arguments = ["--batch", "2", "--seconds", "0.1", "--device", "cpu", "--json", str(out)]
    assert small.run(small.command_line(arguments)) == 0
    values = json.loads(out.read_text())
    assert list(values["milliseconds"]) == ["plain, the paper's sizes", "the small agent"]
    assert min(values["times_as_fast"].values()) > 0 and values["batch"] == 2
    assert "times as fast" in capsys.readouterr().out


# -- kernels ---------------------------------------------------------------------------------------


class PytorchKernels:
    """What takes the place of Triton's kernels where there is no GPU; each counts its calls."""

    def __init__(self) -> None:
        self.calls = dict.fromkeys(("window", "scaled", "rectified_gradient"), 0)

    def window(
        self, frames: Tensor, indices: Tensor, top: Tensor, left: Tensor, size: int
    ) -> Tensor:
        self.calls["window"] += 1
        with kernels.without_kernels():
            return FrameStacks(frames, indices).window(top, left, size).permute(0, 2, 3, 1)

    def scaled(self, pixels: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
        self.calls["scaled"] += 1
        added = channels - pixels.shape[1]
        return functional.pad(pixels / 255, (0, 0, 0, 0, 0, added)).to(dtype)

    def rectified_gradient(self, gradient: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.calls["rectified_gradient"] += 1
        passed = torch.ops.aten.threshold_backward(gradient, y, 0)
        return passed, passed.sum((0, 2, 3))


def test_kernels_take_turns_with_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called Triton calls the kernels, and what is called PyTorch does not."""
    played = PytorchKernels()
    for module in (kernels, kernels.batch, kernels.networks):
        monkeypatch.setattr(module, "kernels_on", lambda device: played)
    monkeypatch.setattr(kernels, "BATCH", 4)
    called = {}
    for name, work in kernels.contenders(CPU, TINY).items():
        for who, function in work.items():
            before = sum(played.calls.values())
            function()
            called[name, who] = sum(played.calls.values()) - before
    # On a CPU nothing but windows takes kernels within an update.
    assert {name: called[name, "triton"] for name, _ in called} == {
        "window": 1,
        "scaling": 1,
        "back through ReLU and bias": 1,
        "update with sampling": 3,
        "acting": 1,
    }
    assert not any(calls for (_, who), calls in called.items() if who == "pytorch")


def test_without_kernels_there_is_nothing_to_compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["kernels", "--device", "cpu"])
    assert kernels.main() == 2
    assert capsys.readouterr().err.strip().endswith("there is nothing to compare")
