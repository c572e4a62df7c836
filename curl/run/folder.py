"""A run folder: the names of what lies in it, which run it belongs to, and who works on that run.

    config.yaml       the settings of the run, and under `used` what it found on its machine
    metrics.jsonl     one JSON object per line, see curl/run/logger.py
    checkpoints/      state-<position>.pt, diagnostic-<position>.pt, frames-<first>-<last>.pt
    videos/           <position>.mp4 of evaluations, evaluation-<position>-seed<seed>.mp4 of eval.py
    lock              which process works on the run, as JSON
    failure.txt       why the run failed; absent unless it did
    evaluation.json   what eval.py found last
    shifts/           of eval.py --shift: <position>-seed<seed>.json with the returns on each look,
                      .png with frames of all, a folder of that name with <look>.png and <look>.mp4
    wandb_id          the id of the run at wandb
    events.out.tfevents.*  what TensorBoard reads, see curl/run/tensorboard.py
    output.txt        what a run of a sweep printed
    commits.txt       the versions of the code that benchmarks.dmc trained the run with

No other module spells these names. A position is a number of steps on the axis of the run, which
is env steps where the agent acts in an environment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from curl.schema import USED, complete, marked, shown, within

log = logging.getLogger("curl")

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
VIDEOS = "videos"
LOCK = "lock"
FAILURE = "failure.txt"
EVALUATION = "evaluation.json"
SHIFTS = "shifts"
WANDB_ID = "wandb_id"
EVENTS = "events.out.tfevents.{start}"  # TensorBoard looks for the middle of it
OUTPUT = "output.txt"
COMMITS = "commits.txt"

STATE, DIAGNOSTIC = "state", "diagnostic"  # kinds of checkpoints; a resume reads states alone
FRAMES = "frames-{first}-{last}.pt"

RESUMABLE = marked("resumable")
"""The dotted keys of the settings that may change when a run is resumed."""

IN_USE = "is in use by"  # of the refusal of a folder that another process works in
OTHER_RUN = "holds a run of other settings"  # of the refusal of a folder of another run
SILENCE = 600  # seconds without news after which a run on another machine counts as stopped
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class InUseError(ValueError):
    """Another process works on the run of this folder."""


# -- names ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run folder, whether or not they exist."""

    path: Path

    @classmethod
    def of(cls, run: Path) -> RunFolder:
        """The folder of `run`, which is a run folder or one of its checkpoint files.

        A checkpoint file that somebody copied elsewhere belongs to the folder in which it lies.
        """
        if run.is_dir():
            return cls(run)
        return cls(run.parent.parent if run.parent.name == CHECKPOINTS else run.parent)

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def videos(self) -> Path:
        return self.path / VIDEOS

    @property
    def lock(self) -> Path:
        return self.path / LOCK

    @property
    def failure(self) -> Path:
        return self.path / FAILURE

    @property
    def evaluation(self) -> Path:
        return self.path / EVALUATION

    @property
    def wandb_id(self) -> Path:
        return self.path / WANDB_ID

    def events(self) -> list[Path]:
        """The files of events for TensorBoard that are there, oldest first."""
        return sorted(self.path.glob(EVENTS.format(start="*")))

    def new_events(self, start: str) -> Path:
        """The file of events of one start of the run; `start` tells it apart from the others."""
        return self.path / EVENTS.format(start=start)

    @property
    def output(self) -> Path:
        return self.path / OUTPUT

    @property
    def commits(self) -> Path:
        return self.path / COMMITS

    def checkpoint(self, position: int, kind: str = STATE) -> Path:
        """The checkpoint at a position, of the kind STATE or DIAGNOSTIC."""
        return self.checkpoints / f"{kind}-{position}.pt"

    def states(self) -> list[Path]:
        """The checkpoints that a resume may read, oldest first."""
        found = self.checkpoints.glob(f"{STATE}-*.pt")
        known = [path for path in found if re.fullmatch(rf"{STATE}-\d+", path.stem)]
        return sorted(known, key=position_of)

    def frames(self, first: int, last: int) -> Path:
        """The file of the replay frames numbered `first` to `last` - 1."""
        return self.checkpoints / FRAMES.format(first=first, last=last)

    def all_frames(self) -> list[Path]:
        """The files of replay frames that are there."""
        return sorted(self.checkpoints.glob(FRAMES.format(first="*", last="*")))

    def video(self, position: int) -> Path:
        """The video of the evaluation that training made at a position."""
        return self.videos / f"{position:08d}.mp4"

    def evaluation_video(self, position: int, seed: int) -> Path:
        """The video of an evaluation of the checkpoint at a position by eval.py."""
        return self.videos / f"evaluation-{position}-seed{seed}.mp4"

    def looks(self, position: int, seed: int) -> Path:
        """What eval.py found on several looks, with the checkpoint at a position."""
        return self.path / SHIFTS / f"{position}-seed{seed}.json"

    def all_looks(self) -> list[Path]:
        """The files of `looks` that are there."""
        return sorted((self.path / SHIFTS).glob("*-seed*.json"))

    def look_sheet(self, position: int, seed: int) -> Path:
        """Frames of all looks."""
        return self.looks(position, seed).with_suffix(".png")

    def look_strip(self, position: int, seed: int, look: str) -> Path:
        """Frames of one look."""
        return self.looks(position, seed).with_suffix("") / f"{_file_name(look)}.png"

    def look_video(self, position: int, seed: int, look: str) -> Path:
        """The video of the first episode on one look."""
        return self.looks(position, seed).with_suffix("") / f"{_file_name(look)}.mp4"

    @property
    def begun(self) -> bool:
        """Whether a process has worked on the run; a run that a sweep announces has not begun."""
        return self.lock.exists() or self.metrics.exists()

    def failed_because(self) -> str:
        """Why the run failed, in one line; empty if no failure was noted."""
        return _text(self.failure)

    def changed(self) -> float | None:
        """Seconds since the epoch when the metrics or the lock were written last; None if never."""
        times = [_modified(path) for path in (self.metrics, self.lock)]
        return max((when for when in times if when is not None), default=None)


def position_of(checkpoint: Path) -> int:
    """The position of the checkpoint with this file name."""
    return int(checkpoint.stem.rsplit("-", 1)[1])


def run_folders(top: Path, *, announced: bool = False) -> Iterator[Path]:
    """The run folders in or below `top`: those that hold metrics.

    Args:
        announced: also the folders of runs that have a configuration or a lock and no metrics yet.
    """
    marks = {METRICS, CONFIG, LOCK} if announced else {METRICS}
    for folder, inside, files in os.walk(top):
        if not marks.isdisjoint(files):
            inside.clear()
            yield Path(folder)


def _file_name(text: str) -> str:
    """`text` without what separates folders."""
    return re.sub(r"[^\w.:=+-]", "_", text)


def _text(path: Path) -> str:
    try:
        return " ".join(path.read_text(errors="replace").split())
    except OSError:
        return ""


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


# -- the settings of the run -----------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Writes what `OmegaConf.save` writes; a string that reads like a number gets quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML 1.2 and OmegaConf read 1e-3 as a number, PyYAML reads it as a string.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+"),
    [*"-+0123456789"],
)


def to_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as the text of a config.yaml; `settings` holds plain values."""
    return yaml.dump(dict(settings), Dumper=_Dumper, allow_unicode=True, sort_keys=False)


def write_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the configuration of a run aside, then rename it."""
    path = RunFolder(folder).config
    aside = path.with_suffix(".aside")
    aside.write_text(to_yaml(settings), encoding="utf-8")
    aside.replace(path)


def read_config(folder: Path, name: str | None = None) -> dict[str, Any]:
    """The configuration that a run saved, as nested plain values.

    Args:
        name: what messages call the folder; None: its path.

    Raises:
        ValueError: it cannot be read; one line. OSError: there is none.
    """
    path = RunFolder(folder).config
    called = f"{name or folder}/{CONFIG}"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # PyYAML raises more than its own errors where a tag does not fit its value.
        raise ValueError(f"{called} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{called} cannot be read: it holds no configuration")
    return config


def differences(before: Mapping[Any, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that make `now` another run than `before`, as `key=value (there: value)`.

    Settings that a resume may change do not count. A key that `before` lacks has its default, if
    there is one; any other key that only one of the two has is a difference, because another
    version of this program saved it.

    Args:
        before: anything that a config.yaml held.
    """
    there, here = complete(before), complete(now)
    keys = [key for key in {**here, **there} if not within(key, RESUMABLE | {USED})]
    told = {key: (_told(here, key), _told(there, key)) for key in keys}
    return [
        f"{key}={ours} (there: {theirs})" for key, (ours, theirs) in told.items() if ours != theirs
    ]


def _told(config: Mapping[str, Any], key: str) -> str:
    return shown(config[key]) if key in config else "no such setting"


def differing(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The settings that make `config` another run than the one in `folder`; none if it has none.

    Raises:
        ValueError: the configuration in the folder cannot be read.
    """
    if not RunFolder(folder).config.exists():
        return []
    return differences(read_config(folder), config)


def refuse_another_run(folder: Path, config: Mapping[str, Any]) -> None:
    """`ValueError` if `folder` holds checkpoints of a run of other settings."""
    if not RunFolder(folder).states():
        return
    if other := differing(folder, config):
        raise ValueError(
            f"{folder} {OTHER_RUN}: {'; '.join(other)}; "
            "give the same settings to resume it, or another run_dir"
        )


def save_config(folder: Path, config: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    """Write the configuration of a run that begins or goes on.

    Args:
        used: what the run found on its machine; see USED in curl/schema.py.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_another_run(folder, config)
    write_config(folder, {**config, USED: dict(used)})


# -- who works on the run --------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """The process that holds, or held, the lock of a run folder.

    Attributes:
        process: its number; None if the lock file does not say.
        host: the name of its machine; None if the lock file does not say.
    """

    process: int | None = None
    host: str | None = None

    def __str__(self) -> str:
        if self.process is None:
            return "another process"
        return f"process {self.process} on {self.host}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`. The system releases it however the process ends.

    A file system without locks (an NFS mount without its lock service, some FUSE mounts) is warned
    of, and the run goes on. Refusing it would keep every run from such a disk, while the lock only
    guards against starting the same run twice, which its user can avoid.

    Raises:
        InUseError: another process holds it.
        OSError: the folder or the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with RunFolder(folder).lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InUseError(f"{folder} {IN_USE} {_parsed(file.read())}") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            log.warning(
                "the file system of %s has no locks (%s): do not start a second run in this folder "
                "while this one is running, because nothing would prevent it",
                *(folder, error.strerror),
            )
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}) + "\n")
        file.flush()
        yield


def holder(folder: Path) -> Holder | None:
    """The process that holds the lock of `folder`; None if none does.

    The system is asked, not the file, whose text outlives the process that wrote it.
    """
    try:
        with RunFolder(folder).lock.open(errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                return _parsed(file.read())
    except FileNotFoundError:
        pass
    return None


def last_holder(folder: Path) -> Holder | None:
    """The process that the lock file names, whether or not it is still there; None without one."""
    found = _parsed(_text(RunFolder(folder).lock))
    return None if found.process is None else found


def is_worked_on(folder: Path, age: float) -> bool:
    """Whether a process works on the run, as far as any machine that sees its files can tell.

    Args:
        age: seconds since the files of the run changed. A process on another machine counts as
            gone after SILENCE of them.
    """
    found = last_holder(folder)
    if found is None or found.process is None:
        return False
    if found.host != socket.gethostname():
        return age < SILENCE
    try:
        os.kill(found.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # A process of that number lives, and the lock tells whether it is still the same one. Asking
    # takes the lock from no run that starts now, whose number would have to be the same as well.
    try:
        return holder(folder) is not None
    except OSError:
        return age < SILENCE


def _parsed(text: str) -> Holder:
    """The content of a lock file; an empty `Holder` if it is something else.

    Older versions wrote `process <number> on <host>`.
    """
    if older := re.fullmatch(r"process (\d{1,10}) on (.+)", text.strip()):
        process, host = int(older[1]), older[2]
    else:
        try:
            content = json.loads(text)
            process, host = content["process"], content["host"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return Holder()
    known = type(process) is int and 0 < process < 2**31 and isinstance(host, str)
    return Holder(process, host) if known else Holder()
