"""Exported programs act as the agent does, and what does not is noticed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from curl import augmentations
from curl.agents.base import Agent
from curl.data.batch import FrameStacks
from curl.data.environment import own_actions
from curl.run import exporting
from curl.run.build import build_agent
from curl.run.clock import Clock
from curl.run.evaluation import Evaluator
from curl.run.exporting import (
    ONNX_FILE,
    TORCH_FILE,
    ExportError,
    acted,
    exact,
    largest_difference,
    program_of,
    read_onnx,
    read_torch,
    require_same,
    stacks_of,
    tolerance,
    write_onnx,
    write_torch,
)
from curl.run.policy import Policy, load, make_env
from support import foreign
from support.configuration import composed
from support.paths import CONFIGS
from support.untrained import save, settings

PRESETS = sorted(path.stem for path in (CONFIGS / "agent").glob("*.yaml"))
AGENTS = [name for name in PRESETS if not name.endswith(("_small", "_reference"))]
AUGMENTATIONS = sorted(path.stem for path in (CONFIGS / "augmentation").glob("*.yaml"))
SPACE = gym.spaces.Box(np.float32([[-2, 0], [1, -0.3]]), np.float32([[2, 1], [5, 0.1]]))


def frames(config: dict[str, Any], count: int, seed: int = 0) -> np.ndarray:
    shape = (count, config["frame_stack"], *[config["render_size"]] * 2, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def policy_of(config: dict[str, Any], action_dim: int = 4) -> Policy:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    agent = build_agent(config, action_dim=action_dim, generator=generator)
    device = torch.device("cpu")
    return Policy(agent, config=config, device=device, action_dim=action_dim, clock=Clock())


def in_bounds(action: np.ndarray, space: gym.spaces.Box = SPACE) -> np.ndarray:
    """What RescaleAction makes of actions [N, A] in [-1, 1]."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return low + (action.reshape(-1, *space.shape) + 1) / 2 * (high - low)


# -- programs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=AGENTS)
def agent_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    loop = {"loop": "offline", "updates": 4, "env_steps": "null", "dataset": "sound/test-v0"}
    config = composed(f"agent={request.param}", *(f"{key}={loop[key]}" for key in loop))
    return config | {"agent": config["agent"] | {"hidden_dim": 16}, "precision": "float32"}


@pytest.fixture(scope="module")
def exported(agent_config: dict[str, Any]) -> tuple[Policy, torch.export.ExportedProgram]:
    policy = policy_of(agent_config)
    return policy, program_of(policy, SPACE)


def assert_acts_as(policy: Policy, act: exporting.Acts) -> None:
    for count in (1, 3):
        seen = frames(policy.config, count)
        action = act(seen)
        assert action.dtype == np.float32 and action.shape == (count, 2, 2)
        assert all(one in SPACE for one in action)
        np.testing.assert_allclose(action, in_bounds(policy.predict(seen)), atol=1e-5)


def test_the_program_of_every_agent_acts_as_it_does(
    exported: tuple[Policy, torch.export.ExportedProgram], tmp_path: Path
) -> None:
    """At the sizes of the paper: cropped frames, an own shape of actions, batches of any size."""
    policy, program = exported
    write_torch(program, tmp_path / TORCH_FILE)
    act = read_torch(tmp_path / TORCH_FILE)
    assert_acts_as(policy, act)
    assert (act(frames(policy.config, 1)) != act(frames(policy.config, 1, seed=1))).any()


def test_a_program_has_what_acts_and_nothing_else(
    exported: tuple[Policy, torch.export.ExportedProgram],
) -> None:
    """No critic, no target, no objective; and it trains nothing."""
    _, program = exported
    assert {name.split(".")[0] for name in program.state_dict} == {"trunk", "actor", "low", "high"}
    assert not any(tensor.requires_grad for tensor in program.state_dict.values())


def test_onnx_runtime_acts_as_every_agent_does(
    exported: tuple[Policy, torch.export.ExportedProgram], tmp_path: Path
) -> None:
    for module in exporting.EXTRA:
        pytest.importorskip(module, reason="extra onnx")
    import onnx

    policy, program = exported
    write_onnx(program, tmp_path / ONNX_FILE)
    act = read_onnx(tmp_path / ONNX_FILE)
    assert_acts_as(policy, act)
    assert [path.name for path in tmp_path.iterdir()] == [ONNX_FILE], "the weights are inside"
    graph = onnx.load(tmp_path / ONNX_FILE).graph
    edge = policy.render_size
    for (value,), name, shape in (
        (graph.input, "frames", ["batch", policy.frame_stack, edge, edge, 3]),
        (graph.output, "action", ["batch", 2, 2]),
    ):
        axes = value.type.tensor_type.shape.dim
        assert value.name == name
        assert [axis.dim_param or axis.dim_value for axis in axes] == shape


class View(nn.Module):
    def __init__(self, augmentation: augmentations.Augmentation) -> None:
        super().__init__()
        self.augmentation = augmentation

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.augmentation.evaluate(stacks_of(frames))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("side", ["query", "key"])
def test_the_view_that_evaluations_see_can_be_exported(name: str, side: str) -> None:
    config = composed(f"augmentation={name}")
    augmentation = augmentations.make(**config["augmentation"][side], where="augmentation")
    example = torch.from_numpy(frames(config, 2))
    batch = {"frames": {0: torch.export.Dim("batch")}}
    module = View(augmentation)
    view = torch.export.export(module, (example,), dynamic_shapes=batch, strict=False).module()
    for count in (1, 3):
        seen = torch.from_numpy(frames(config, count))
        rows = torch.arange(count * seen.shape[1]).view(count, -1)
        assert torch.equal(view(seen), augmentation.evaluate(FrameStacks(seen.flatten(0, 1), rows)))


def test_frames_that_are_too_small_for_a_view_are_refused() -> None:
    stacks = stacks_of(torch.zeros(2, 3, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="a window of 9 pixels does not fit"):
        stacks.centre(9)


class Stubborn(nn.Module):
    """An actor of somebody else."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.how = how

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.how(features)[:, :4]
        return mean, mean


@pytest.mark.parametrize(
    "how",
    [
        lambda features: features * (1 if features.mean().item() > 0 else 2),
        lambda features: torch.from_numpy(np.sort(features.numpy())),
    ],
    ids=["asks what the frames are", "leaves PyTorch"],
)
def test_what_cannot_be_traced_is_refused_in_one_line(how: Any) -> None:
    policy = policy_of(settings())
    policy.agent.actor = Stubborn(how)  # pyright: ignore[reportAttributeAccessIssue]
    policy.predict(frames(policy.config, 1))
    with pytest.raises(ExportError) as caught:
        program_of(policy, gym.spaces.Box(-1, 1, (4,)))
    assert str(caught.value).startswith("agent.name=sac cannot be exported: ")
    assert "\n" not in str(caught.value)


# -- what the checkpoint does ----------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody's package of environments."""
    foreign.write(tmp_path / "elsewhere")
    registered = dict(gym.registry)
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    yield
    sys.modules.pop("foreign_pixels", None)
    gym.registry.clear()
    gym.registry.update(registered)


@pytest.mark.parametrize("name", ["Matrix", "Scalar", "Doubles"])
def test_an_episode_tells_what_was_seen_and_what_the_environment_was_given(
    package: None, tmp_path: Path, name: str
) -> None:
    components = {"Matrix": 6, "Scalar": 1, "Doubles": 2}[name]
    config = settings(**{"task.env_id": f"foreign_pixels:foreign/{name}-v0"})
    policy = load(save(tmp_path / "run", config, action_dim=components), device="cpu")
    with contextlib.closing(make_env(policy)) as env:
        space = own_actions(env)
        seen, given = acted(policy, env, seed=2)
        assert len(seen) == len(given) == 10  # an episode has 40 steps, and an action lasts 4
        some, _ = acted(policy, env, seed=2, steps=4)
        assert np.array_equal(some, seen[:4])
    assert given.shape[1:] == space.shape
    wanted = in_bounds(policy.predict(seen).astype(np.float64), space)
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    assert np.ptp(given, axis=0).max() > 0, "the actions depend on what is seen"
    assert (seen[0] == seen[0, 0]).all(), "the first frame fills the stack"
    assert np.array_equal(seen[1:, :-1], seen[:-1, 1:])


def test_the_episode_is_the_first_one_of_an_evaluation(tmp_path: Path) -> None:
    policy = load(save(tmp_path, settings()), device="cpu")
    seen: list[np.ndarray] = []
    act = policy.agent.act

    def watched(obs: FrameStacks, *, deterministic: bool) -> torch.Tensor:
        seen.append(obs.frames[obs.indices].numpy())
        return act(obs, deterministic=deterministic)

    with contextlib.closing(make_env(policy)) as env:
        found, _ = acted(policy, env, seed=5)
    policy.agent.act = watched  # pyright: ignore[reportAttributeAccessIssue]
    from curl.data.environment import environment_settings

    evaluator = Evaluator(
        settings=environment_settings(policy.config, True),
        episodes=1,
        frame_stack=policy.frame_stack,
        device=policy.device,
    )
    evaluator(policy.agent, seed=5)
    assert np.array_equal(np.concatenate(seen), found)


def test_stopping_ends_the_episode(tmp_path: Path) -> None:
    policy = load(save(tmp_path, settings()), device="cpu")
    answers = iter([False, False, True])
    with contextlib.closing(make_env(policy)) as env, pytest.raises(InterruptedError):
        acted(policy, env, seed=0, stop=lambda: next(answers))
    assert not list(answers)


# -- comparing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["curl", "drqv2", "bc", "iql"])
def test_the_rounding_error_of_an_agent_is_measured(name: str) -> None:
    config = settings(agent="curl" if name == "curl" else None)
    if name != "curl":
        loop = {"loop": "offline", "updates": 4, "env_steps": "null", "dataset": "sound/test-v0"}
        config = settings(agent=name, **loop)
    policy = policy_of(config, action_dim=2)
    before = {key: value.clone() for key, value in weights(policy.agent).items()}
    seen = frames(config, 4)
    found, rounded = exact(policy, seen), policy.predict(seen)
    assert found.dtype == np.float64 and found.shape == rounded.shape
    assert 0 < np.abs(found - rounded).max() < 1e-5
    after = weights(policy.agent)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(value.dtype == torch.float32 for value in after.values())


def weights(agent: Agent) -> dict[str, torch.Tensor]:
    modules = {name: part for name, part in vars(agent).items() if isinstance(part, nn.Module)}
    return {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


@pytest.mark.parametrize(
    ("rounding", "allowed"), [(0.0, 1e-5), (1e-7, 1e-5), (4e-6, 4e-5), (0.5, 1e-3)]
)
def test_what_is_allowed_grows_with_the_rounding_error_up_to_a_limit(
    rounding: float, allowed: float
) -> None:
    assert tolerance(rounding) == pytest.approx(allowed)


WIDE = gym.spaces.Box(np.float32([-1, -400]), np.float32([1, 400]))


def test_differences_are_relative_to_the_width_of_the_bounds() -> None:
    actions = np.zeros((3, 2))
    assert largest_difference(actions + np.array([0, 4]), actions, WIDE) == pytest.approx(0.01)
    assert largest_difference(actions - np.array([0.5, 4]), actions, WIDE) == pytest.approx(0.5)
    with pytest.raises(ExportError, match=r"actions are \[3, 1\], not \[3, 2\]"):
        largest_difference(actions[:, :1], actions, WIDE)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda count, action: action + 0.01, "0.01"),
        (lambda count, action: action + 0.01 * (count == 1), "0.01"),
        (lambda count, action: action + 0.01 * (count > 1), "0.01"),
        (lambda count, action: np.where(action == action[-1], np.nan, action), "nan"),
    ],
    ids=["always", "on one stack", "in a batch", "not a number"],
)
def test_a_program_that_acts_differently_is_refused_in_one_line(wrong: Any, told: str) -> None:
    space, seen = gym.spaces.Box(-1, 1, (1,)), np.arange(5, dtype=np.uint8)[:, None]
    actions = seen / 10.0

    def act(stacks: np.ndarray) -> np.ndarray:
        return wrong(len(stacks), stacks / 10.0)

    with pytest.raises(ExportError) as caught:
        require_same("policy.onnx", act, seen, actions, space, allowed=1e-5)
    assert str(caught.value) == (
        "policy.onnx does not act as the checkpoint does: in 5 steps the actions differ by up to "
        f"{told} of half the width of their bounds; 1e-05 is allowed"
    )
    assert require_same("policy.onnx", lambda s: s / 10.0, seen, actions, space, allowed=0.0) == 0
