"""The logger writes metrics as JSON lines to the disk, and shows them on the console and in wandb.

`metrics.jsonl` holds one object per line with `kind`, the counts of the run's clock (`env_steps`,
`agent_steps`, `updates`), `wall_time` (seconds trained, over all resumptions), and by kind:

    train       losses, alpha, entropy, Q, contrastive accuracy, gradient norms, updates_per_second
    episode     return, length
    evaluation  return_mean, return_std (of a sample, ddof = 1; null for one episode), returns

Rows of older versions lack `updates`.

An offline wandb run cannot be resumed: each start of a run leaves a file of its own. A resumed run
therefore writes all earlier rows into the new file first, so that each of them is whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import netrc
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from curl.checks import choice
from curl.run.clock import AGENT_STEPS, AXES, ENV_STEPS, UPDATES, Clock, words
from curl.run.folder import RunFolder
from curl.summary import sample_std
from curl.tables import Terminal

log = logging.getLogger("curl")

# Seconds that wandb gets to begin and to upload the rest; without a network it would wait for ever.
PATIENCE = {"WANDB_INIT_TIMEOUT": "30", "WANDB_FINISH_TIMEOUT": "60"}
NOT_METRICS = ("kind", *AXES, "wall_time")  # of a row
MALFORMED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)  # of a bad line


class Logger:
    """The metrics of one run.

    Args:
        folder: of the run.
        wandb: auto, online, offline or disabled.
        project: wandb project.
        config: plain values, kept with the wandb run.
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
        self._offline = False
        self._wandb = self._start_wandb(wandb, project, config or {})
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
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(errors="replace").splitlines():
            with contextlib.suppress(*MALFORMED):
                row = json.loads(line)
                last = position
                if last_evaluation is not None and row.get("kind") == "evaluation":
                    last = min(position, last_evaluation)
                if row[self.axis] <= last:
                    kept.append(line + "\n")
        aside = self.path.with_suffix(".aside")
        aside.write_text("".join(kept))
        aside.replace(self.path)
        for line in kept if self._offline else ():
            with contextlib.suppress(*MALFORMED):
                self._mirror(json.loads(line))

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
        self._mirror(row)

    def _mirror(self, row: Mapping[str, Any]) -> None:
        """Give a row to wandb, with the video of an evaluation where there is one.

        Rows of one agent step (of one update, where those are the axis) become one of wandb's,
        whose steps only rise. Online, wandb passes over the rows that it got before the run was
        killed and gets again after it was resumed.
        """
        if self._wandb is None:
            return
        kind, step = row["kind"], UPDATES if self.axis == UPDATES else AGENT_STEPS
        values = {
            f"{kind}/{name}": value
            for name, value in row.items()
            if name not in NOT_METRICS and isinstance(value, (int, float))
        }
        if kind == "evaluation" and (video := self._wandb_video(row[self.axis])) is not None:
            values["evaluation/video"] = video
        try:
            counts = {name: row[name] for name in AXES if name in row and name != step}
            self._wandb.log({**values, **counts}, step=row[step])
        except Exception as error:
            log.warning("wandb failed, metrics go to %s only: %s", self.path, error)
            self._wandb = None

    def video_path(self, position: int) -> Path:
        """Where the video of the evaluation at a position belongs."""
        return self.folder.video(position)

    def _wandb_video(self, position: int) -> Any:
        """The video of an evaluation as wandb takes it; None if there is none."""
        path = self.video_path(position)
        if not path.exists():
            return None
        try:
            import wandb

            return wandb.Video(str(path))  # of a file: it needs no encoder
        except Exception as error:
            log.warning("wandb could not store the video %s: %s", path, error)
            return None

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

    def evaluation(self, clock: Clock, returns: list[float]) -> None:
        """Append the row of an evaluation, and print it in a table."""
        mean, std = float(np.mean(returns)), sample_std(returns)
        values = {"return_mean": mean, "return_std": std, "returns": [round(r, 4) for r in returns]}
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
        if self._wandb is None:
            return
        try:
            self._wandb.finish()
        except Exception as error:
            folder = Path(self._wandb.dir).parent
            log.warning("wandb: %s; `wandb sync %s` uploads the rest", error, folder)

    def _start_wandb(self, mode: str, project: str, config: Mapping[str, Any]) -> Any:
        mode = os.environ.get("WANDB_MODE", mode) if mode == "auto" else mode
        if mode == "disabled":
            return None
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
        for variable, seconds in PATIENCE.items():
            os.environ.setdefault(variable, seconds)
        import wandb

        if mode == "auto":
            mode = "online" if _logged_in() else "offline"
        marker = self.folder.wandb_id
        if not marker.exists():
            marker.write_text(uuid.uuid4().hex[:8])
        for attempt in dict.fromkeys((mode, "offline")):
            try:
                self._offline = attempt == "offline"
                return wandb.init(
                    project=project,
                    id=marker.read_text().strip(),
                    name="/".join(self.folder.path.parts[-3:]),
                    dir=str(self.folder.path),
                    config=dict(config),
                    mode=attempt,  # pyright: ignore[reportArgumentType]
                    resume="allow" if attempt == "online" else None,
                )
            except Exception as error:
                reason = (str(error).splitlines() or [repr(error)])[0]
                log.warning("wandb cannot be used %s: %s", attempt, reason)
                wandb.teardown()  # it holds on to the run's id
        return None


def _logged_in() -> bool:
    """Whether wandb has a key: in the environment or from `wandb login`, which writes ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
