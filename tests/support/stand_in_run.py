"""A stand-in for train.py in tests of what drives runs: its files and exit codes, no training.

It composes its configuration as train.py does, holds the run folder's lock, goes on after the
last row that is there, and stops on SIGTERM with exit code 143. CURL_STAND_IN names a JSON file:
part of a run folder -> what such a run does instead, `{"fail": message}`, `{"kill": times}`,
`{"wait": position}` (it waits there for a signal).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from curl.command import (
    CONFIGS,
    labels,  # noqa: F401  which configs/train.yaml needs
)
from curl.run.folder import locked


def main() -> int:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", sys.argv[1:]), resolve=True)
    folder = Path(config["run_dir"])
    behaviour: dict[str, Any] = {}
    if path := os.environ.get("CURL_STAND_IN"):
        for part, value in json.loads(Path(path).read_text()).items():
            if part in str(folder):
                behaviour |= value
    try:
        with locked(folder):
            return run(folder, config, behaviour)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(folder: Path, config: dict[str, Any], behaviour: dict[str, Any]) -> int:
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)

    signal.signal(signal.SIGTERM, stop)
    axis = "updates" if config["loop"] == "offline" else "env_steps"
    used = {"machine": {"processor": "stand-in"}, "device": "cpu", "axis": axis}
    OmegaConf.save(OmegaConf.create({**config, "used": used}), folder / "config.yaml")
    with (folder / "starts").open("a") as file:
        file.write("start\n")
    if "fail" in behaviour:
        print(f"error: {behaviour['fail']}", file=sys.stderr)
        return 2
    metrics = folder / "metrics.jsonl"
    rows = (
        [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    )
    step, every = (rows[-1][axis] if rows else -1), config["eval_every"]
    for target in range(0, config[axis] + 1, every):
        if target <= step:
            continue
        row = {"kind": "evaluation", axis: target, "wall_time": target / 10}
        row["returns"] = [float(config["seed"])] * config["eval_episodes"]
        with metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        frames = folder / "checkpoints" / f"frames-0-{target}.pt"
        frames.parent.mkdir(exist_ok=True)
        frames.touch()
        if behaviour.get("wait") == target:
            deadline = time.monotonic() + 60
            while not stopped and time.monotonic() < deadline:
                time.sleep(0.02)
        starts = (folder / "starts").read_text().count("start")
        if starts <= behaviour.get("kill", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if stopped:
            (folder / "saved").touch()
            return 128 + stopped[0]
    return 0


if __name__ == "__main__":
    sys.exit(main())
