"""TensorBoard as a mirror of metrics.jsonl: a file of events in the run folder.

Scalars have the names that they have in wandb, and lie on the axis of the run: env steps, or
updates of a run that learns from a dataset alone. TensorBoard's relative time is the time trained.
Evaluations add their video as an animated GIF, because TensorBoard plays nothing else.

Each start of a run writes a new file that holds the whole run, and then empties the one before. The
new file begins with the event that tells TensorBoard to forget what it has read of this folder. So
a TensorBoard that is already open shows no point twice, and none that the resumed run took back. It
would stay at the old file for ever if that were gone, so an empty file goes at the next start only.
Every row reaches the file at once, so a run that is killed loses none.
"""

# pyright: reportMissingImports=false
# The package is an extra, so pyright may run without it.

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curl.run.folder import RunFolder, to_yaml
from curl.run.mirror import Mirror, Row
from curl.run.video import animated_gif

log = logging.getLogger("curl")

FORMAT = "brain.Event:2"  # the version of the files of events, with which each of them begins


class TensorBoard(Mirror):
    """The file of events of one start of a run.

    Args:
        folder: of the run.
        config: plain values, which TensorBoard shows as a text.
        axis: the count of the clock that the run is measured in.

    Raises:
        ImportError: the package is not installed. OSError: the file cannot be written.
    """

    name = "TensorBoard"

    def __init__(self, *, folder: RunFolder, config: Mapping[str, Any], axis: str) -> None:
        # torch.utils.tensorboard imports TensorFlow where it is, and writes late, from a thread.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.axis, self._event = axis, Event
        self._earlier_files = folder.events()
        start = f"{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"  # later names sort later
        self._records = RecordWriter(folder.new_events(start).open("wb"))
        self._began = time.time()  # when the run would have begun if it had never paused
        self._write(file_version=FORMAT)
        self._write(session_log=SessionLog(status=SessionLog.START))
        self._write(summary=_text("config", to_yaml(config)))

    def write(self, row: Row) -> None:
        self._write(
            step=row.counts[self.axis],
            wall_time=self._began + row.wall_time,
            summary=_summary(row),
        )

    def resume(self, earlier: Sequence[Row]) -> None:
        if earlier:
            self._began = time.time() - earlier[-1].wall_time
        super().resume(earlier)
        for path in self._earlier_files:
            if path.stat().st_size:
                os.truncate(path, 0)
            else:
                path.unlink()

    def close(self) -> None:
        self._records.close()

    def _write(self, *, step: int = 0, wall_time: float | None = None, **content: Any) -> None:
        wall_time = time.time() if wall_time is None else wall_time
        event = self._event(step=step, wall_time=wall_time, **content)
        self._records.write(event.SerializeToString())
        self._records.flush()


def _summary(row: Row) -> Any:
    """The numbers and the video of a row."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

    values = [
        Summary.Value(tag=name, simple_value=float(value)) for name, value in row.values.items()
    ]
    if row.video is not None and (image := _image(row.video)) is not None:
        values.append(Summary.Value(tag="evaluation/video", image=image))
    return Summary(value=values)


def _image(path: Path) -> Any:
    """A video as TensorBoard takes it; None if it cannot be read."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

    try:
        content, (height, width) = animated_gif(path)
    except Exception as error:
        log.warning("TensorBoard could not store the video %s: %s", path, error)
        return None
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)


def _text(tag: str, text: str) -> Any:
    """A text that keeps its lines: TensorBoard reads Markdown, where an indented line is code."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.plugins.text.metadata import create_summary_metadata

    indented = "\n".join(f"    {line}" for line in text.splitlines())
    value = Summary.Value(
        tag=tag,
        metadata=create_summary_metadata(display_name="", description=""),
        tensor=TensorProto(dtype="DT_STRING", string_val=[indented.encode()]),
    )
    return Summary(value=[value])
