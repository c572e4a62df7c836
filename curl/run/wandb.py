"""wandb as a mirror of metrics.jsonl.

An offline wandb run cannot be resumed: each start of a run leaves a file of its own. A resumed run
therefore writes all earlier rows into the new file first, so that each of them is whole. Online,
wandb passes over the rows that it got before the run was killed and gets again after it was
resumed.
"""

from __future__ import annotations

import logging
import netrc
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curl.run.clock import AGENT_STEPS, UPDATES
from curl.run.folder import RunFolder
from curl.run.mirror import Mirror, Row

log = logging.getLogger("curl")

# Seconds that wandb gets to begin and to upload the rest; without a network it would wait for ever.
PATIENCE = {"WANDB_INIT_TIMEOUT": "30", "WANDB_FINISH_TIMEOUT": "60"}


class Wandb(Mirror):
    """A wandb run. Rows of one agent step become one of wandb's, whose steps only rise.

    Args:
        run: what `wandb.init` returned.
        offline: whether it only writes a file.
        axis: the count of the clock that the run is measured in. Where that is updates, they are
            wandb's steps instead.
    """

    name = "wandb"

    def __init__(self, run: Any, *, offline: bool, axis: str) -> None:
        self.run, self.offline = run, offline
        self.step = UPDATES if axis == UPDATES else AGENT_STEPS

    def write(self, row: Row) -> None:
        values: dict[str, Any] = dict(row.values)
        if row.video is not None and (video := _video(row.video)) is not None:
            values["evaluation/video"] = video
        others = {name: count for name, count in row.counts.items() if name != self.step}
        self.run.log({**values, **others}, step=row.counts[self.step])

    def resume(self, earlier: Sequence[Row]) -> None:
        if self.offline:  # a server has them already
            super().resume(earlier)

    def close(self) -> None:
        try:
            self.run.finish()
        except Exception as error:
            folder = Path(self.run.dir).parent
            log.warning("wandb: %s; `wandb sync %s` uploads the rest", error, folder)


def start_wandb(
    mode: str, *, project: str, config: Mapping[str, Any], folder: RunFolder, axis: str
) -> Wandb | None:
    """Begin or resume the wandb run of a folder; None if wandb is disabled or cannot be used.

    Args:
        mode: auto, online, offline or disabled.
        project: wandb project.
        config: plain values, kept with the wandb run.
        folder: of the run.
        axis: see `Wandb`.
    """
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
    marker = folder.wandb_id
    if not marker.exists():
        marker.write_text(uuid.uuid4().hex[:8])
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            run = wandb.init(
                project=project,
                id=marker.read_text().strip(),
                name="/".join(folder.path.parts[-3:]),
                dir=str(folder.path),
                config=dict(config),
                mode=attempt,  # pyright: ignore[reportArgumentType]
                resume="allow" if attempt == "online" else None,
            )
            return Wandb(run, offline=attempt == "offline", axis=axis)
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


def _video(path: Path) -> Any:
    """A video as wandb takes it; None if wandb refuses it."""
    try:
        import wandb

        return wandb.Video(str(path))  # of a file: it needs no encoder
    except Exception as error:
        log.warning("wandb could not store the video %s: %s", path, error)
        return None
