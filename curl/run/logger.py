"""The logger writes metrics as JSON lines to the disk, and shows them on the console and elsewhere.

`metrics.jsonl` holds one object per line with `kind`, the counts of the run's clock (`env_steps`,
`agent_steps`, `updates`), `wall_time` (seconds trained, over all resumptions), and by kind:

    train       losses, alpha, entropy, Q, contrastive accuracy, gradient norms, updates_per_second
    episode     return, length
    evaluation  return_mean, return_std (of a sample, ddof = 1; null for one episode), returns; with
                eval_shifts also <look>/return_mean, <look>/return_std and <look>/returns

Rows of older versions lack `updates`.

Rows also go to the mirrors of the run, see curl/run/mirror.py.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from curl.checks import choice
from curl.run.clock import ENV_STEPS, Clock, words
from curl.run.folder import RunFolder
from curl.run.mirror import NOT_METRICS, Mirror, Row
from curl.run.tensorboard import TensorBoard
from curl.run.wandb import start_wandb
from curl.summary import sample_std
from curl.tables import Terminal

log = logging.getLogger("curl")

MALFORMED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)  # of a bad line


class Logger:
    """The metrics of one run.

    Args:
        folder: of the run.
        wandb: auto, online, offline or disabled.
        project: wandb project.
        tensorboard: whether a file of events for TensorBoard is written.
        config: plain values, kept with the wandb run and in the file of events.
        axis: the count of the clock that the run is measured in.
        budget: position on the axis at which the run ends.
        console: where lines are printed; None: the terminal.
    """

    def __init__(
        self,
        *,
        folder: Path,
        wandb: str = "auto",
        project: str = "curl",
        tensorboard: bool = False,
        config: Mapping[str, Any] | None = None,
        axis: str = ENV_STEPS,
        budget: int,
        console: Console | None = None,
    ) -> None:
        choice("logger.wandb", wandb, ("auto", "online", "offline", "disabled"))
        self.folder = RunFolder(folder)
        self.path = self.folder.metrics
        self.axis = axis
        folder.mkdir(parents=True, exist_ok=True)
        self.console = console or Terminal()
        self.started, self.wall_before = time.monotonic(), 0.0
        self.mirrors: list[Mirror] = []
        place: dict[str, Any] = {"config": config or {}, "folder": self.folder, "axis": axis}
        if (mirror := start_wandb(wandb, project=project, **place)) is not None:
            self.mirrors.append(mirror)
        if tensorboard:
            try:
                self.mirrors.append(TensorBoard(**place))
            except Exception as error:
                log.warning("TensorBoard cannot be used: %s", error)
        columns = ("{task.description}", BarColumn(), TaskProgressColumn(), "{task.fields[status]}")
        parts = [TextColumn(c) if isinstance(c, str) else c for c in columns]
        self.progress = Progress(*parts, "ETA", TimeRemainingColumn(), console=self.console)
        self.task = self.progress.add_task(words(axis), total=budget, status="")
        self._header_shown = False
        self._paused = False

    def announce(self, *lines: str) -> None:
        """Print plain lines, as they are, however narrow the terminal."""
        for line in lines:
            self.console.print(Text(line), soft_wrap=True)

    def wall_time(self) -> float:
        """Seconds trained, over all resumptions."""
        return self.wall_before + time.monotonic() - self.started

    def resume(self, position: int, wall_time: float, last_evaluation: int | None = None) -> None:
        """Drop rows beyond the restored position, and any half line, and go on from there.

        Args:
            position: of the restored checkpoint on the axis; -1 if there is none.
            wall_time: seconds trained until then.
            last_evaluation: position of the last evaluation that is not made again; the rows of
                later ones go as well.
        """
        self.wall_before, self.started = wall_time, time.monotonic()
        kept: list[str] = []
        if self.path.exists():
            last = position if last_evaluation is None else min(position, last_evaluation)
            for line in self.path.read_text(errors="replace").splitlines():
                with contextlib.suppress(*MALFORMED):
                    row = json.loads(line)
                    if row[self.axis] <= (last if row.get("kind") == "evaluation" else position):
                        kept.append(line + "\n")
            aside = self.path.with_suffix(".aside")
            aside.write_text("".join(kept))
            aside.replace(self.path)
        earlier: list[Row] = []
        for line in kept if self.mirrors else ():
            with contextlib.suppress(*MALFORMED):
                earlier.append(self._row(json.loads(line)))
        self._tell(lambda mirror: mirror.resume(earlier))

    def write(self, kind: str, clock: Clock, values: Mapping[str, Any]) -> None:
        """Append one row. A disk that refuses it is reported once, and training goes on.

        Raises:
            ValueError: a metric that is called as one of the fields that every row has.
        """
        if taken := [name for name in NOT_METRICS if name in values]:
            raise ValueError(f"no metric can be called {taken[0]}, which every row has already")
        row = {"kind": kind, **clock.counts(), "wall_time": round(self.wall_time(), 3)}
        row |= {name: _plain(value) for name, value in values.items()}
        try:
            self._append(json.dumps(row) + "\n")
            self._paused = False
        except OSError as error:
            if not self._paused:
                log.warning("metrics cannot be written (%s); training continues", error)
            self._paused = True
        self._tell(lambda mirror: mirror.write(self._row(row)))

    def _row(self, row: Mapping[str, Any]) -> Row:
        """A row for mirrors, with the video of an evaluation where there is one."""
        video = self.video_path(row[self.axis]) if row["kind"] == "evaluation" else None
        return Row.of(row, video if video is not None and video.exists() else None)

    def _tell(self, what: Callable[[Mirror], None]) -> None:
        """Tell every mirror something. One that fails is reported, and told nothing more."""
        for mirror in list(self.mirrors):
            try:
                what(mirror)
            except Exception as error:
                log.warning(
                    "%s failed, and gets no more metrics; %s does: %s",
                    *(mirror.name, self.path, error),
                )
                self.mirrors.remove(mirror)

    def video_path(self, position: int) -> Path:
        """Where the video of the evaluation at a position belongs."""
        return self.folder.video(position)

    def _append(self, line: str) -> None:
        """Write a whole line or none: what a full disk cut off is taken back."""
        with self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                if file.write(line.encode()) != len(line.encode()):
                    raise OSError("the disk is full")
            except OSError:
                file.truncate(end)
                raise

    def evaluation(
        self,
        clock: Clock,
        returns: list[float],
        others: Mapping[str, list[float]] | None = None,
    ) -> None:
        """Append the row of an evaluation, and print it in a table.

        Args:
            others: look -> returns on it; empty where that evaluation failed.
        """
        mean, std = float(np.mean(returns)), sample_std(returns)
        values = _of_returns("", returns)
        for look, its_returns in (others or {}).items():
            if its_returns:
                values |= _of_returns(f"{look}/", its_returns)
        self.write("evaluation", clock, values)
        if not self._header_shown:
            names = (
                f"{words(self.axis):>10} {'return':>8} {'sample std':>10} {'min':>7} {'max':>7} "
                f"{'minutes':>8}"
            )
            self.console.print(Text(names, style="bold"))
            self._header_shown = True
        spread = "-" if std is None else f"{std:.1f}"
        row = f"{clock.now:>10,} {mean:>8.1f} {spread:>10} {min(returns):>7.1f} "
        self.console.print(Text(f"{row}{max(returns):>7.1f} {self.wall_time() / 60:>8.1f}"))
        told = [f"{look} {np.mean(each):.1f}" for look, each in (others or {}).items() if each]
        if told:
            self.announce(f"{'':>10} on other looks: {', '.join(told)}")

    def show(self, position: int, status: str) -> None:
        """Move the progress display."""
        self.progress.update(self.task, completed=position, status=status)

    def restore_terminal(self) -> None:
        """Show the cursor, which the progress display hides, before the process ends at once.

        It writes past all buffers and locks, for it is called from signal handlers and from other
        threads than the one that prints.
        """
        if self.console.is_terminal:
            with contextlib.suppress(OSError, ValueError):
                os.write(self.console.file.fileno(), b"\x1b[?25h\n")

    def close(self) -> None:
        self.progress.stop()
        self._tell(lambda mirror: mirror.close())


def _of_returns(prefix: str, returns: list[float]) -> dict[str, Any]:
    """What a row says of the returns of an evaluation."""
    return {
        f"{prefix}return_mean": float(np.mean(returns)),
        f"{prefix}return_std": sample_std(returns),
        f"{prefix}returns": [round(r, 4) for r in returns],
    }


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
