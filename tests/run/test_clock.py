"""Env steps, agent steps and updates: every row and checkpoint has them, and a run has an axis."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from curl.agents.base import Agent
from curl.data.batch import FrameStacks, Metrics
from curl.hardware.processor import Threads
from curl.run.checkpoint import CheckpointError, Checkpoints, Sizes, clock_of, save_file
from curl.run.clock import AXES, Clock, at, axis_of, heading, words
from curl.run.folder import RunFolder, save_config
from curl.run.guard import RunError
from curl.run.logger import Logger
from curl.run.loop import Trainer
from curl.study.compare import compare
from curl.study.curves import Curve, read_curve, write_curve
from curl.study.runs import Run, find_runs, read_run
from curl.study.status import find, table
from support.synthetic_runs import CONFIG, make_run

UPDATES = {"axis": "updates"}


def test_a_clock_says_where_a_run_is_on_its_axis() -> None:
    clock = Clock("updates", env_steps=0, agent_steps=0, updates=12)
    assert (clock.now, str(clock)) == (12, "update 12")
    assert clock.counts() == {"env_steps": 0, "agent_steps": 0, "updates": 12}
    assert [words(axis) for axis in AXES] == ["env steps", "agent steps", "updates"]
    assert at(400, "env_steps") == "env step 400"
    assert [heading(axes) for axes in ([], ["updates"] * 2, ["updates", "env_steps"])] == [
        *("env steps", "updates", "position")
    ]
    with pytest.raises(ValueError, match=r"axis must be one of env_steps, .* 'update'"):
        Clock("update")


@pytest.mark.parametrize("used", [None, {}, [], {"machine": {}}])
def test_a_run_that_declares_no_axis_counts_env_steps(used: Any) -> None:
    assert axis_of(used) == "env_steps"


# -- a loop without an environment -----------------------------------------------------------------


class Falling(Agent):
    """Its loss falls with each update; it becomes `value` at update number `number`."""

    def __init__(self, number: int = -1, value: float = math.nan) -> None:
        self.made, self.number, self.value = 0, number, value

    def act(self, obs: FrameStacks, *, deterministic: bool) -> torch.Tensor:
        raise AssertionError("there is no environment to act in")

    def update(self, batch: Any) -> Metrics:
        self.made += 1
        loss = self.value if self.made == self.number else 1 / self.made
        return {"loss": torch.tensor(loss)}

    def state(self) -> dict[str, Any]:
        return {"made": self.made}

    def load(self, state: Mapping[str, Any]) -> None:
        self.made = state["made"]


class Updating(Trainer):
    """An offline loop at its smallest: nothing but updates."""

    axis = "updates"

    def advance(self) -> None:
        self.finite.require()
        metrics = self.agent.update(None)  # pyright: ignore[reportArgumentType]
        self.finite.note(metrics, self.clock.now, self.axis)
        self.clock.updates += 1
        self.metrics |= metrics

    @property
    def remedy(self) -> str:
        return "lower batch_size"

    def status(self) -> str:
        return ""

    def without_updates(self) -> str:
        return "no update"

    def own_state(self) -> dict[str, Any]:
        return {}

    def frames(self) -> tuple[tuple[int, int], Callable[[int, int], Any]] | None:
        return None

    def restore(self, state: dict[str, Any], frames: Iterator[Any]) -> None:
        """Nothing to take back."""

    def resumed(self) -> None:
        """Nothing to take up."""


def evaluated(agent: Falling, **settings: Any) -> list[float]:
    return [float(agent.made), agent.made + 1.0]


def settings(seed: int, budget: int) -> dict[str, Any]:
    """What an offline run would save: its budget is called like its axis."""
    others = {key: value for key, value in CONFIG.items() if key != "env_steps"}
    labels = {"label": "offline", "seed": seed, "eval_every": 10, "eval_episodes": 2}
    return others | labels | {"updates": budget}


def train(folder: Path, agent: Agent | None = None, budget: int = 40, seed: int = 1) -> Updating:
    save_config(folder, settings(seed, budget) | {"run_dir": str(folder)}, UPDATES)
    console = Console(quiet=True)
    logger = Logger(
        folder=folder, wandb="disabled", axis=Updating.axis, budget=budget, console=console
    )
    trainer = Updating(
        agent=agent or Falling(),
        evaluator=evaluated,  # pyright: ignore[reportArgumentType]
        logger=logger,
        checkpoints=Checkpoints(folder),
        generator=torch.Generator(),
        config={},
        sizes=Sizes(1, (3, 8, 8, 3)),
        threads=Threads(1),
        signals=None,
        seed=seed,
        budget=budget,
        eval_every=10,
        checkpoint_every=20,
        log_every=5,
        video=False,
        env_timeout=100,
    )
    try:
        trainer.run()
    finally:
        logger.close()
    return trainer


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]


def counted(folder: Path) -> list[tuple[str, int]]:
    """Kind and updates of each row, which have no other counts than updates."""
    assert all(row["env_steps"] == row["agent_steps"] == 0 for row in rows(folder))
    return [(row["kind"], row["updates"]) for row in rows(folder)]


@pytest.mark.usefixtures("handlers")
def test_a_run_without_an_environment_is_logged_and_resumed_by_its_updates(tmp_path: Path) -> None:
    trainer = train(tmp_path / "undisturbed")
    assert trainer.clock == Clock("updates", updates=40)
    found = counted(tmp_path / "undisturbed")
    assert [n for kind, n in found if kind == "evaluation"] == [0, 10, 20, 30, 40]
    assert [n for kind, n in found if kind == "train"] == list(range(5, 41, 5))
    names = [path.name for path in RunFolder(tmp_path / "undisturbed").states()]
    assert names == ["state-20.pt", "state-40.pt"]
    state = Checkpoints(tmp_path / "undisturbed").newest_state()
    assert state["axis"] == "updates" and clock_of(state) == trainer.clock

    with pytest.raises(RunError, match=r"^loss became nan at update 34; stopped at update 35; "):
        train(tmp_path / "resumed", Falling(35))
    again = train(tmp_path / "resumed", agent := Falling())
    assert agent.made == 40 and again.clock == trainer.clock
    assert counted(tmp_path / "resumed") == found
    losses = [
        [row["loss"] for row in rows(tmp_path / name) if row["kind"] == "train"]
        for name in ("resumed", "undisturbed")
    ]
    assert losses[0] == losses[1] and losses[0] == sorted(losses[0], reverse=True)


@pytest.mark.usefixtures("handlers")
def test_a_run_without_an_environment_is_read_shown_and_compared(tmp_path: Path) -> None:
    folders = [tmp_path / "runs" / f"seed_{seed}" for seed in (1, 2)]
    for seed, folder in enumerate(folders, start=1):
        train(folder, seed=seed)
    run = read_run(folders[0], "it")
    assert (run.axis, run.position, run.budget, run.reached) == ("updates", 40, 40, 40)
    assert run.steps.tolist() == [0, 10, 20, 30, 40] and run.env_steps == 0
    assert [(each.state, each.run and each.run.position) for each in find(folders)] == [
        *[("finished", 40)] * 2
    ]
    text = shown(tmp_path)
    assert "updates" in text and "env steps" not in text
    generator = np.random.default_rng(0)
    comparison = compare(folders, by="label", out=tmp_path / "report", generator=generator)
    assert comparison.grid.axis == "updates" and comparison.grid.at == 40
    report = (tmp_path / "report" / "report.md").read_text()
    assert "at 40 updates" in report and "env steps" not in report
    assert (tmp_path / "report" / "curves.csv").read_text().startswith("variant,task,updates,")


def shown(top: Path) -> str:
    """The table of `curl.study.status`."""
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(table(find([top]), 160))
    return console.export_text()


@pytest.mark.usefixtures("handlers")
def test_runs_on_other_axes_are_shown_together_and_not_compared(tmp_path: Path) -> None:
    make_run(tmp_path / "online", seed=1)
    train(tmp_path / "offline" / "seed_1")
    text = shown(tmp_path)
    assert "position" in text and "40 updates" in text and "100,000 env steps" in text
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"axes differ: .* counts (updates|env steps), .* counts "):
        compare([tmp_path], by="label", generator=generator)


@pytest.mark.usefixtures("handlers")
def test_a_checkpoint_on_another_axis_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    path = RunFolder(tmp_path).states()[-1]
    state = Checkpoints(tmp_path).newest_state() | {"axis": "env_steps"}
    save_file(path, state, checksum=path.with_suffix(".sha256"))
    with pytest.raises(CheckpointError, match="counts env steps, this run counts updates"):
        train(tmp_path)


# -- files of older versions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counters", "config", "expected"),
    [
        ({"agent_steps": 30}, {"task": {"action_repeat": 4}}, (120, 30, 0)),
        ({"agent_steps": 30, "env_steps": 118}, {}, (118, 30, 0)),
        ({"agent_steps": 30, "env_steps": 118}, {"initial_steps": 10}, (118, 30, 20)),
        (
            {"agent_steps": 30, "env_steps": 118},
            {"initial_steps": 10, "updates_per_step": 0.15},
            (118, 30, 3),
        ),
        ({"agent_steps": 5, "env_steps": 5}, {"initial_steps": 10}, (5, 5, 0)),
        ({"agent_steps": 30, "env_steps": 60, "updates": 7}, {"initial_steps": 10}, (60, 30, 7)),
    ],
)
def test_counts_that_older_checkpoints_lack_are_worked_out(
    counters: dict[str, int], config: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    assert clock_of({"counters": counters, "config": config}) == Clock("env_steps", *expected)


@pytest.mark.parametrize("updates", [-1, True, 1.0, "1", None, float("nan")])
def test_a_count_that_is_none_is_refused(updates: Any) -> None:
    state = {"counters": {"env_steps": 1, "agent_steps": 1, "updates": updates}, "config": {}}
    with pytest.raises(CheckpointError, match="the checkpoint's counter updates is "):
        clock_of(state)


@pytest.mark.parametrize("axis", ["update", 3, None, ["updates"]])
def test_an_axis_that_is_none_is_refused(tmp_path: Path, axis: Any) -> None:
    counters = {"env_steps": 1, "agent_steps": 1, "updates": 1}
    with pytest.raises(CheckpointError, match="the checkpoint's axis is "):
        clock_of({"counters": counters, "config": {}, "axis": axis})
    folder = make_run(tmp_path, used={"axis": axis})
    with pytest.raises(ValueError, match=r"it/config\.yaml: axis must be one of "):
        read_run(folder, "it")


def test_rows_without_updates_are_read_and_resumed(tmp_path: Path) -> None:
    """As older versions wrote them."""
    folder = make_run(tmp_path)
    (run,) = find_runs([folder])
    assert (run.axis, run.position, run.reached) == ("env_steps", 100_000, 100_000)
    assert run.clock == Clock("env_steps", env_steps=100_000)
    logger = Logger(folder=folder, wandb="disabled", budget=1, console=Console(quiet=True))
    logger.resume(40_000, 0.0, 20_000)
    logger.close()
    assert [row["env_steps"] for row in rows(folder)] == [400, 0, 20_000]


def test_a_curve_keeps_the_axis_of_its_run(tmp_path: Path) -> None:
    header = {"preset": "p", "variant": "v", "task": "t", "seed": 1, "commits": []}
    header |= {"settings_hash": "x", "used": UPDATES, "config": settings(1, 10)}
    numbers = {"steps": np.array([0, 10]), "returns": np.ones((2, 3))}
    curve = Curve(header=header, wall_seconds=np.array([0.0, 1.0]), **numbers)
    write_curve(path := tmp_path / "seed_1.jsonl", curve)
    assert '{"updates": 10, "returns": ' in path.read_text()
    assert read_curve(path).axis == "updates"
    run: Run = read_run(path, "it")
    assert (run.axis, run.position, run.budget) == ("updates", 10, 10)
    path.write_text(path.read_text().replace('"axis": "updates"', '"axis": "update"'))
    with pytest.raises(ValueError, match="it is damaged: axis must be one of "):
        read_curve(path, "it")
