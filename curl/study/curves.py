"""Curve files: one finished run in one small file of JSON lines, without its run folder.

The first line says what the run was, each line after it is one evaluation:

    {"curve": 1, "preset": ..., "variant": ..., "task": ..., "seed": 3, "commits": [...],
     "settings_hash": ..., "used": {...}, "config": {...}}
    {"env_steps": 10000, "returns": [412.3, ...], "wall_seconds": 183.2}

`used` is the machine with its Python and torch versions, OpenGL and precision; `commits` has
several entries where a run was resumed with other code. Returns are undiscounted, one for each
evaluation episode. Wall seconds count the training and the evaluations of all resumptions. A run
whose axis is another than env steps says so under `used`, and its lines hold that count instead.

Beside seed_3.jsonl may lie seed_3.looks.json, which eval --shift made of the same run.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curl.run.clock import axis_of

FORMAT = 1
NAME = re.compile(r"seed_\d+\.jsonl")  # of a curve file; one that is kept apart has a longer name
TEXTS = ("preset", "variant", "task", "settings_hash")


@dataclass(frozen=True, eq=False)
class Curve:
    """A learning curve.

    Attributes:
        header: the first line; `config` in it holds nested plain values, as train.py saved them.
        steps: int64 [E], positions of the evaluations on the axis of the run, ascending.
        returns: float64 [E, N], undiscounted return of each of the N episodes of an evaluation.
        wall_seconds: float64 [E], seconds trained and evaluated up to the end of each evaluation.
    """

    header: Mapping[str, Any]
    steps: np.ndarray
    returns: np.ndarray
    wall_seconds: np.ndarray

    @property
    def config(self) -> Mapping[str, Any]:
        return self.header["config"]

    @property
    def axis(self) -> str:
        """The count that `steps` are of: `env_steps`, or what the header says."""
        return axis_of(self.header.get("used"))

    def lines(self) -> str:
        """The content of its file."""
        rows: list[Mapping[str, Any]] = [{"curve": FORMAT, **self.header}]
        numbers = zip(self.steps, self.returns, self.wall_seconds, strict=True)
        for steps, returns, seconds in numbers:
            row = {self.axis: int(steps), "returns": [round(float(r), 4) for r in returns]}
            rows.append(row | {"wall_seconds": round(float(seconds), 1)})
        return "".join(json.dumps(row) + "\n" for row in rows)


def write_curve(path: Path, curve: Curve) -> None:
    """Write the file aside, flush it to the disk and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".aside")
    with aside.open("w", encoding="utf-8") as file:
        file.write(curve.lines())
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def read_curve(path: Path, name: str | None = None) -> Curve:
    """Read a curve file.

    Args:
        name: what messages call the file.

    Raises:
        ValueError: it is no curve file, or of another format; one line.
    """
    name = name or path.as_posix()
    lines = path.read_text(errors="replace").splitlines()
    try:
        header = json.loads(lines[0])
        form = header.pop("curve")
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{name} is not a curve file: its first line does not say so") from None
    if form != FORMAT:
        raise ValueError(f"{name} has curve format {form}, this version reads {FORMAT}")
    wrong = [key for key in TEXTS if not isinstance(header.get(key), str)]
    wrong += ["seed"] * (type(header.get("seed")) is not int)
    wrong += [key for key in ("config", "used") if not isinstance(header.get(key), dict)]
    wrong += ["commits"] * (not isinstance(header.get("commits"), list))
    if wrong:
        raise ValueError(f"{name} is damaged: its first line lacks {', '.join(wrong)}")
    try:
        axis = axis_of(header["used"])
    except ValueError as error:
        raise ValueError(f"{name} is damaged: {error}") from None
    steps: list[int] = []
    returns: list[list[float]] = []
    seconds: list[float] = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = json.loads(line)
            steps.append(int(row[axis]))
            returns.append([float(value) for value in row["returns"]])
            seconds.append(float(row["wall_seconds"]))
            whole = len(returns[-1]) == len(returns[0]) > 0 and sorted(set(steps)) == steps
            if not (whole and all(map(math.isfinite, (*returns[-1], seconds[-1])))):
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(f"{name}, line {number} is not an evaluation") from None
    if not steps:
        raise ValueError(f"{name} holds no evaluation")
    return Curve(
        header=header,
        steps=np.array(steps, dtype=np.int64),
        returns=np.array(returns, dtype=np.float64),
        wall_seconds=np.array(seconds, dtype=np.float64),
    )


def looks_beside(path: Path) -> Path:
    """Where the returns on other looks belong that go with a curve file."""
    return path.with_suffix(".looks.json")


def curve_files(top: Path) -> Iterator[Path]:
    """`top` itself if it is a file, else the curve files in or below it."""
    if top.is_file():
        yield top
    for folder, _, files in os.walk(top):
        yield from (Path(folder) / file for file in files if NAME.fullmatch(file))
