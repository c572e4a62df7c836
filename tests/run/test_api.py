"""The Python API: a loaded policy computes what evaluations compute; runs start from Python."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import curl
from curl.command.interactive import configuration
from curl.data.batch import FrameStacks, stack_of
from curl.data.environment import environment_settings
from curl.data.seeding import Stream, episode_seed, seed_everything
from curl.run import policy as module
from curl.run.build import build_agent
from curl.run.checkpoint import Checkpoints
from curl.run.evaluation import Evaluator
from curl.run.policy import Policy
from support.paths import ROOT

CPU = torch.device("cpu")
EDGE, STACK, ACTION_DIM = 24, 3, 1  # pixels, frames, components of Pendulum's action
TINY = {
    "task": "pendulum",
    "env_steps": 24,
    "initial_steps": 4,
    "batch_size": 4,
    "render_size": EDGE,
    "augmentation.query.size": 20,
    "augmentation.key.size": 20,
    "agent.hidden_dim": 8,
    "agent.latent_dim": 8,
    "replay.capacity": 50,
    "eval_episodes": 1,
    "precision": "float32",
    "threads": 1,
    "device": "cpu",
    "video": False,
    "logger.wandb": "disabled",
    "task.max_episode_steps": 40,
    "task.action_repeat": 4,
}


def tiny(**changes: Any) -> dict[str, Any]:
    return configuration(TINY | {key.replace("__", "."): value for key, value in changes.items()})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose agent is random: what it has learned does not matter here."""
    folder = tmp_path_factory.mktemp("made") / "run"
    save(folder, tiny(run_dir=str(folder)))
    return folder


def save(folder: Path, config: Mapping[str, Any], env_steps: int = 24, **changes: Any) -> Path:
    agent = build_agent(config, action_dim=ACTION_DIM, generator=seed_everything(env_steps, CPU))
    state = {
        "agent": agent.state(),
        "config": config,
        "counters": {"env_steps": env_steps, "agent_steps": env_steps // 4},
    }
    return Checkpoints(folder).save(env_steps, state | changes)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def policy(run: Path) -> Policy:
    return curl.load(run, device="cpu")


def frames(*shape: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (*shape, EDGE, EDGE, 3), dtype=np.uint8)


def as_array(frames: np.ndarray) -> np.ndarray:
    return frames


def as_tensor(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames.copy())


KINDS = pytest.mark.parametrize("kind", [as_array, as_tensor])


# -- predict ---------------------------------------------------------------------------------------


def test_a_policy_tells_what_it_is(policy: Policy) -> None:
    assert (policy.frame_stack, policy.render_size, policy.action_dim) == (STACK, EDGE, ACTION_DIM)
    assert policy.env_steps == 24 and policy.config["batch_size"] == 4
    assert repr(policy) == "<Policy of pendulum after 24 env steps, on cpu>"


@KINDS
def test_one_stack_gives_what_an_evaluation_computes(policy: Policy, kind: Any) -> None:
    given = frames(STACK)
    expected = policy.agent.act(stack_of(torch.as_tensor(given)), deterministic=True)[0]
    action = policy.predict(kind(given))
    assert type(action) is type(kind(given))
    assert action.shape == (ACTION_DIM,) and str(action.dtype).endswith("float32")
    assert np.array_equal(action, expected) and abs(float(action[0])) <= 1


@KINDS
def test_a_batch_gives_what_an_evaluation_side_by_side_computes(policy: Policy, kind: Any) -> None:
    given = frames(5, STACK)
    pixels = torch.as_tensor(given).flatten(0, 1)
    stacks = FrameStacks(pixels, torch.arange(5 * STACK).view(5, STACK))
    action = policy.predict(kind(given))
    assert action.shape == (5, ACTION_DIM) and type(action) is type(kind(given))
    assert np.array_equal(action, policy.agent.act(stacks, deterministic=True))
    assert np.array_equal(policy.predict(kind(given[:1]))[0], policy.predict(kind(given[0])))


def test_predicting_changes_neither_the_frames_nor_the_gradient_mode(policy: Policy) -> None:
    given = torch.from_numpy(frames(STACK))
    before = given.clone()
    action = policy.predict(given)
    assert torch.equal(given, before) and torch.is_grad_enabled() and not action.requires_grad


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.flip(np.flip(x, 0).copy(), 0),  # negative strides
        lambda x: np.moveaxis(np.moveaxis(x, -1, 1).copy(), 1, -1),  # channels first in memory
        lambda x: np.frombuffer(x.tobytes(), np.uint8).reshape(x.shape),  # read-only
    ],
    ids=["flipped", "permuted", "read-only"],
)
@pytest.mark.filterwarnings("error")
def test_the_layout_in_memory_does_not_matter(policy: Policy, change: Any) -> None:
    given = frames(STACK)
    changed = change(given)
    assert np.array_equal(changed, given)
    assert np.array_equal(policy.predict(changed), policy.predict(given))


def test_drawn_actions_differ_and_follow_the_seed(run: Path, policy: Policy) -> None:
    given = frames(STACK)
    drawn = [policy.predict(given, deterministic=False) for _ in range(3)]
    assert not np.array_equal(drawn[0], drawn[1])
    again = curl.load(run, device="cpu")
    assert np.array_equal([again.predict(given, deterministic=False) for _ in range(3)], drawn)
    other = curl.load(run, device="cpu", seed=1)
    assert not np.array_equal(other.predict(given, deterministic=False), drawn[0])


WANTED = r"uint8 \[3, 24, 24, 3\] or \[B, 3, 24, 24, 3\]"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (frames(STACK).astype(np.float32) / 255, r"got float32 \[3, 24, 24, 3\]"),
        (torch.from_numpy(frames(STACK)).long(), r"got int64 \[3, 24, 24, 3\]"),
        (frames(STACK + 1), r"got uint8 \[4, 24, 24, 3\]"),
        (frames(2, STACK - 1), r"got uint8 \[2, 2, 24, 24, 3\]"),
        (frames(0, STACK), r"got uint8 \[0, 3, 24, 24, 3\]"),
        (frames(1, 1, STACK), r"got uint8 \[1, 1, 3, 24, 24, 3\]"),
        (frames(STACK)[:, :20], r"got uint8 \[3, 20, 24, 3\]"),
        (np.moveaxis(frames(STACK), -1, 1), r"got uint8 \[3, 3, 24, 24\]"),
        (frames()[None, :, :, 0], r"got uint8 \[1, 24, 24\]"),
        (frames(STACK).tolist(), "got a value of type list"),
        (None, "got a value of type NoneType"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_frames_that_do_not_fit_are_refused_in_one_line(
    policy: Policy, given: Any, found: str
) -> None:
    with pytest.raises(ValueError, match=rf"^frames must be .*{WANTED}, {found}$") as caught:
        policy.predict(given)
    assert "\n" not in str(caught.value)


# -- reset and step --------------------------------------------------------------------------------


class Recorded:
    """An agent that notes its actions."""

    def __init__(self, agent: Any) -> None:
        self.agent, self.actions = agent, []

    def act(self, obs: FrameStacks, *, deterministic: bool) -> torch.Tensor:
        action = self.agent.act(obs, deterministic=deterministic)
        self.actions.append(action[0].numpy().copy())
        return action


def test_the_loop_of_a_user_is_the_loop_of_an_evaluation(run: Path, policy: Policy) -> None:
    """Two episodes: the same actions and the same returns, bit for bit."""
    recorded = Recorded(policy.agent)
    evaluator = Evaluator(
        settings=environment_settings(policy.config, software=True),
        episodes=2,
        frame_stack=STACK,
        device=CPU,
    )
    expected = evaluator(recorded, seed=7)  # pyright: ignore[reportArgumentType]
    assert len(recorded.actions) == 20 and len(np.unique(recorded.actions)) > 2
    returns, actions = [], []
    with contextlib.closing(curl.make_env(run, device="cpu")) as env:
        for episode in range(2):
            frame, _ = env.reset(seed=episode_seed(7, Stream.EVALUATION, episode))
            policy.reset()
            total, over = 0.0, False
            while not over:
                actions.append(policy.step(frame))
                frame, reward, terminated, truncated, _ = env.step(actions[-1])
                total, over = total + float(reward), terminated or truncated
            returns.append(total)
    assert returns == expected and np.array_equal(actions, recorded.actions)


@KINDS
def test_the_first_frame_fills_the_stack(policy: Policy, kind: Any) -> None:
    many = frames(STACK + 2)
    for episode in (many, many[::-1]):
        policy.reset()
        for newest in range(len(episode)):
            places = np.clip(np.arange(newest - STACK + 1, newest + 1), 0, None)
            expected = policy.predict(episode[places])
            action = policy.step(kind(episode[newest]))
            assert type(action) is type(kind(many)) and np.array_equal(action, expected)


@KINDS
def test_an_environment_may_reuse_the_memory_of_its_frame(policy: Policy, kind: Any) -> None:
    many, reused = frames(STACK), kind(np.zeros((EDGE, EDGE, 3), np.uint8))
    policy.reset()
    for frame in many:
        reused[:] = kind(frame)
        action = policy.step(reused)
    assert np.array_equal(action, policy.predict(many))


def test_a_refused_frame_changes_nothing(policy: Policy) -> None:
    first, second = frames(2)
    policy.step(first)
    for wrong in (first[:20], first.astype(np.int16), frames(STACK)):
        with pytest.raises(ValueError, match=r"^frame must be uint8 \[24, 24, 3\], got "):
            policy.step(wrong)
    expected = policy.predict(np.stack([first, first, second]))
    assert np.array_equal(policy.step(second), expected)


# -- loading ---------------------------------------------------------------------------------------


def refused(*_: Any, **__: Any) -> Any:
    raise AssertionError("an environment was opened")


@pytest.mark.parametrize("which", ["folder", "state file", "string"])
def test_loading_opens_no_environment(
    run: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gym, "make", refused)
    state = run / "checkpoints" / "state-24.pt"
    path = {"folder": run, "state file": state, "string": str(run)}[which]
    assert curl.load(path, device="cpu").predict(frames(STACK)).shape == (ACTION_DIM,)


def test_loading_needs_no_hydra_wandb_opengl_or_gymnasium(run: Path) -> None:
    foreign = ("hydra", "omegaconf", "wandb", "OpenGL", "mujoco", "dm_control", "gymnasium")
    program = f"""
import sys, curl, numpy as np
assert not set(sys.modules) & {{"hydra", "gymnasium", "curl.run", "curl.command"}}
policy = curl.load({str(run)!r}, device="cpu")
policy.predict(np.zeros(({STACK}, {EDGE}, {EDGE}, 3), np.uint8))
sys.exit(", ".join(name for name in {foreign} if name in sys.modules) or None)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"imported: {done.stderr}"


def test_the_newest_sound_checkpoint_is_taken(run: Path) -> None:
    save(run, tiny(), env_steps=48)
    newest = save(run, tiny(), env_steps=100)
    assert curl.load(run, device="cpu").env_steps == 100
    newest.write_bytes(b"garbled")
    assert curl.load(run, device="cpu").env_steps == 48
    assert curl.load(run / "checkpoints" / "state-48.pt", device="cpu").env_steps == 48


def test_loading_disturbs_no_random_numbers(run: Path) -> None:
    before = seed_everything(3, CPU), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    curl.load(run, device="cpu")
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002


@pytest.mark.parametrize("saved", ["float32", "bfloat16"])
def test_a_policy_computes_in_the_precision_that_is_asked_for(tmp_path: Path, saved: str) -> None:
    save(tmp_path, tiny(precision=saved))
    stack = frames(STACK)
    actions = {
        asked: curl.load(tmp_path, device="cpu", precision=asked).predict(stack)
        for asked in (None, "float32", "bfloat16")
    }
    assert np.array_equal(actions[None], actions[saved])
    assert 0 < np.abs(actions["float32"] - actions["bfloat16"]).max() < 0.05
    line = "precision must be one of auto, float32, bfloat16; got 'half'"
    with pytest.raises(ValueError, match=f"^{line}$"):
        curl.load(tmp_path, device="cpu", precision="half")


SIZES = {"action_dim": ACTION_DIM, "observation": [STACK, EDGE, EDGE, 3]}


@pytest.mark.parametrize("saved", [{}, {"sizes": SIZES}])
def test_the_checkpoint_tells_how_many_components_an_action_has(
    tmp_path: Path, saved: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key of its own, or, where an older version saved it, with the weights of its actor."""
    monkeypatch.setattr(gym, "make", refused)
    save(tmp_path, tiny(), **saved)
    assert curl.load(tmp_path, device="cpu").action_dim == ACTION_DIM


def test_where_the_checkpoint_does_not_tell_the_environment_does(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "saved_action_dim", lambda _: None)
    assert curl.load(run, device="cpu").action_dim == ACTION_DIM
    assert module.saved_action_dim.__name__ == "<lambda>"
    monkeypatch.undo()
    assert module.saved_action_dim({"agent": {}}) is None
    assert module.saved_action_dim({"agent": {"modules": {"actor": {}}}}) is None


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, "1", None])
def test_a_wrong_number_of_components_is_refused(tmp_path: Path, wrong: Any) -> None:
    save(tmp_path, tiny(), sizes=SIZES | {"action_dim": wrong})
    with pytest.raises(ValueError, match="the checkpoint's sizes are"):
        curl.load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: shutil.rmtree(run), "does not exist"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "there is none"),
        (lambda run: (run / "checkpoints/state-24.pt").write_bytes(b""), "all 1 are damaged"),
    ],
    ids=["no run", "no checkpoint", "damaged"],
)
def test_what_is_no_run_is_refused_in_one_line(
    run: Path, damage: Callable[[Path], Any], reason: str
) -> None:
    damage(run)
    with pytest.raises(ValueError, match=reason) as caught:
        curl.load(run, device="cpu")
    assert "\n" not in str(caught.value) and str(run) in str(caught.value)


def test_a_device_that_is_not_there_is_refused(run: Path) -> None:
    with pytest.raises(ValueError, match="device must be auto, cpu"):
        curl.load(run, device="gpu")


# -- environments ----------------------------------------------------------------------------------


def test_every_source_gives_the_environment_of_the_run(run: Path, policy: Policy) -> None:
    state = run / "checkpoints" / "state-24.pt"
    scene = {key: policy.config[key] for key in ("task", "render_size", "shadow_size")}
    first = []
    for source in (run, str(run), state, policy, policy.config, scene):
        with contextlib.closing(curl.make_env(source, device="cpu")) as env:
            assert env.observation_space.shape == (EDGE, EDGE, 3)
            assert env.action_space.shape == (ACTION_DIM,)
            frame, _ = env.reset(seed=1)
            assert frame.dtype == np.uint8
            first.append(frame)
    assert all(np.array_equal(frame, first[0]) for frame in first)


def test_shadows_are_those_that_the_run_found(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` depends on the machine, and config.yaml says what it was."""
    (run / "config.yaml").write_text("shadow_size: auto\nused: {shadow_size: null}\n")
    assert module.saved_config(run)["shadow_size"] is None
    (run / "config.yaml").write_text("shadow_size: auto\nused: {shadow_size: 256}\n")
    assert module.saved_config(run)["shadow_size"] == 256
    (run / "config.yaml").write_text("shadow_size: 0\nused: {shadow_size: 256}\n")
    assert module.saved_config(run)["shadow_size"] == 0
    (run / "config.yaml").write_text("shadow_size: auto\n")
    assert module.saved_config(run)["shadow_size"] == "auto"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"task": {"name": "x"}}, "render_size is missing"),
        ("/nowhere/at/all", "does not exist"),
    ],
)
def test_what_has_no_environment_is_refused(source: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        curl.make_env(source, device="cpu")


# -- training --------------------------------------------------------------------------------------


def handled() -> list[Any]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    return [signal.getsignal(number) for number in numbers]


def in_main_thread(call: Callable[[], Any]) -> Any:
    return call()


def in_thread(call: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(
    ("where", "ipython"), [(in_main_thread, False), (in_main_thread, True), (in_thread, False)]
)
def test_training_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, ipython: bool
) -> None:
    """The run ends at its budget; handlers, threads and gradients are as before."""
    if ipython:
        monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    during: list[Any] = []
    evaluate = Evaluator.__call__

    def watching(self: Evaluator, *args: Any, **options: Any) -> list[float]:
        during.append(handled())
        return evaluate(self, *args, **options)

    monkeypatch.setattr(Evaluator, "__call__", watching)
    before = handled(), threading.active_count(), torch.get_num_threads()
    folder = where(lambda: curl.train(TINY, {"run_dir": tmp_path / "run"}))
    assert folder == tmp_path / "run"
    assert handled() == before[0] and torch.get_num_threads() == before[2]
    taken = where is in_main_thread and not ipython
    assert during and all((found == before[0]) is not taken for found in during)
    policy = curl.load(folder, device="cpu")
    assert policy.env_steps == 24
    again = curl.train(policy.config, {"env_steps": 28})
    assert again == folder and curl.load(folder, device="cpu").env_steps == 28


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_stopped_a_run_goes_to_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a script: a checkpoint, then the KeyboardInterrupt that the script expects."""
    evaluate = Evaluator.__call__

    def interrupted(self: Evaluator, *args: Any, **options: Any) -> list[float]:
        signal.raise_signal(signal.SIGINT)
        return evaluate(self, *args, **options)

    monkeypatch.setattr(Evaluator, "__call__", interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background
    before = handled()
    with pytest.raises(KeyboardInterrupt):
        curl.train(TINY, {"run_dir": tmp_path / "run"})
    assert handled() == before and list(tmp_path.glob("run/checkpoints/state-*.pt"))


def test_a_run_that_fails_is_a_valueerror(tmp_path: Path) -> None:
    before = handled()
    with pytest.raises(ValueError, match="unknown environment"):
        curl.train(TINY, {"run_dir": tmp_path / "run", "task.env_id": "Nope-v0"})
    assert handled() == before and not list(tmp_path.iterdir())


def test_settings_mean_what_they_mean_on_the_command_line() -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        expected = compose("train", ["task=walker_walk", "objective=none", "agent.hidden_dim=64"])
    typed = configuration("task=walker_walk", "objective=none", "agent.hidden_dim=64")
    given = configuration({"task": "walker_walk", "objective": "none", "agent.hidden_dim": 64})
    nested = configuration("task=walker_walk", {"agent": {"hidden_dim": 64}}, "objective=none")
    assert typed == given == nested
    assert typed["run_dir"] == expected.run_dir == "runs/walker_walk/curl-crop-none/seed_1"
    assert typed["agent"]["hidden_dim"] == 64 and "experiment" not in typed


def test_a_whole_configuration_is_taken_as_it_is() -> None:
    whole = configuration("task=walker_walk") | {"label": "mine"}
    assert configuration(whole) == whole
    changed = configuration(whole, {"seed": 5, "agent.hidden_dim": 3})
    assert (changed["seed"], changed["agent"]["hidden_dim"]) == (5, 3)
    assert whole["seed"] == 1 and whole["agent"]["hidden_dim"] != 3


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["task=nope"], "unknown task 'nope'; known: "),
        ([{"task": "cartpole_swingdown"}], "did you mean cartpole_swingup"),
        (["env_stepz=5"], "unknown key 'env_stepz'; did you mean env_steps"),
        (["foo"], "cannot read 'foo': write key=value"),
        (["task=walker_walk,cheetah_run"], "holds several values"),
        ([5], "settings are strings such as 'seed=3' and mappings, got 5"),
        ([configuration(), "seed=3"], "a whole configuration takes no overrides; give seed=3"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_settings_are_refused_in_one_line(settings: list[Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        configuration(*settings)
    assert "\n" not in str(caught.value)


def test_a_misspelt_key_in_a_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown key 'env_stepz'; did you mean env_steps"):
        curl.train(TINY, {"env_stepz": 5, "run_dir": tmp_path / "run"})
    assert not list(tmp_path.iterdir())


def test_a_program_of_hydras_goes_on_as_before() -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        configuration("seed=3")
        assert GlobalHydra.instance().hydra is before
        with pytest.raises(ValueError):
            configuration("env_stepz=3")
        assert GlobalHydra.instance().hydra is before
    assert not GlobalHydra.instance().is_initialized()


# -- the package -----------------------------------------------------------------------------------


def test_the_package_lists_what_it_offers() -> None:
    assert {"load", "make_env", "train", "Policy", "__version__"} <= set(dir(curl))
    assert callable(curl.train) and curl.Policy is Policy
    with pytest.raises(AttributeError, match="module 'curl' has no attribute 'nope'"):
        curl.nope  # noqa: B018


def test_the_example_of_the_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = inspect.cleandoc(curl.__doc__ or "")
    example = textwrap.dedent("\n".join(re.findall(r"^    .*$", text, re.MULTILINE)))
    assert example.count("\n") == 6
    assert '"experiment=laptop", "env_steps=20000"' in example
    example = example.replace('"env_steps=20000"', "tiny")
    tiny = TINY | {"run_dir": tmp_path / "run"}
    del tiny["augmentation.query.size"], tiny["augmentation.key.size"], tiny["render_size"]
    names: dict[str, Any] = {"curl": curl, "tiny": tiny}
    exec(example, names)
    assert names["truncated"] and names["frame"].dtype == np.uint8
    names["env"].close()
