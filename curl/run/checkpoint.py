"""A checkpoint holds everything that a run needs to continue. It is complete, or it is absent.

    checkpoints/state-<position>.pt       agent, optimisers, counters, configuration, generators
    checkpoints/frames-<first>-<last>.pt  the replay rows written since the checkpoint before

Each file is written under another name, flushed to the disk and then renamed. The state file comes
last and names the frame files that it needs with their SHA-256, so a checkpoint exists as soon as
its state file does. The two newest checkpoints are kept. All files are read with
`weights_only=True`, so that none of them can execute code.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from curl.files import sha256
from curl.run.clock import AGENT_STEPS, AXES, ENV_STEPS, UPDATES, Clock
from curl.run.folder import STATE, RunFolder

log = logging.getLogger("curl")

FORMAT = 1
KEPT = 2
UNABLE = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # of a flush of a folder
KEYS = ("agent", "config", "counters", "segments")  # of a state file, and the trainer's own


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another format."""


class NewerFormatError(CheckpointError):
    """A checkpoint of a later version of this program."""


def save_file(path: Path, content: Any, *, checksum: Path | None = None) -> str:
    """Write `content` under another name, flush it and rename it to `path`; return its SHA-256.

    Args:
        checksum: a file that gets the digest first, together with the digest of the file that is
            replaced, so that there is no moment at which `path` is without its checksum.
    """
    aside = path.with_name(path.name + ".aside")
    digest_aside = path.with_name(path.name + ".sha256.aside")
    try:
        with aside.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        digest = sha256(aside)
        if checksum is not None:
            before = [sha256(path)] if path.exists() else []
            with digest_aside.open("w") as file:
                file.write("\n".join([digest, *before]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            digest_aside.replace(checksum)
        aside.replace(path)
        _flush_folder(path.parent)
    except Exception as error:
        for unfinished in (aside, digest_aside):
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # torch.save wraps the disk's errors
            raise OSError(f"cannot write {path.name}: {error}") from None
        raise
    return digest


def load_file(path: Path, digest: str | None = None) -> Any:
    """Read what `save_file` wrote, onto the CPU. `CheckpointError` if it is damaged.

    Args:
        digest: the SHA-256 that it must have, or several of them, one per line.
    """
    if digest is not None:
        verify(path, digest)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {reason}") from None


def verify(path: Path, digest: str) -> None:
    """`CheckpointError` unless the file's SHA-256 is in `digest` (one per line)."""
    try:
        found = sha256(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if found not in digest.split():
        raise CheckpointError(f"{path} is damaged: its checksum does not match")


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder(folder)
        self.folder = self.run.checkpoints
        self.segments: list[dict[str, Any]] = []  # file, first, last, sha256
        self._needs: dict[str, list[dict[str, Any]]] = {}  # state file -> its segments

    def states(self) -> list[Path]:
        """State files, oldest first."""
        return self.run.states()

    def save(
        self,
        position: int,
        state: dict[str, Any],
        *,
        frames: tuple[int, int] | None = None,
        export: Callable[[int, int], Any] | None = None,
        kind: str = STATE,
    ) -> Path:
        """Write a checkpoint, and those of its frames that no earlier checkpoint holds.

        Args:
            position: of the run on its axis.
            state: everything but the frames.
            frames: numbers [oldest, newest) of the frames that belong to the checkpoint; None if
                it has none.
            export: returns the frames [first, last).
            kind: `load` reads checkpoints of the kind STATE alone.

        Raises:
            OSError: the disk is full or refuses; the earlier checkpoints are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        segments = list(self.segments) if frames is not None else []
        if frames is not None and export is not None:
            oldest, newest = frames
            if not all((self.folder / s["file"]).exists() for s in segments):
                segments = []  # the folder was lost meanwhile: all frames once more
            segments = [s for s in segments if s["last"] > oldest]
            first = max(oldest, segments[-1]["last"] if segments else oldest)
            if first < newest:
                segments.append(self._save_frames(first, newest, export))
        path = self.run.checkpoint(position, kind)
        content = {"format": FORMAT, "segments": segments, **state}
        try:
            save_file(path, content, checksum=path.with_suffix(".sha256"))
        except Exception:
            self._drop_unused(segments[-1:], path)
            raise
        if kind == STATE:
            self.segments = self._needs[path.name] = segments
            self._tidy()
        return path

    def _save_frames(
        self, first: int, newest: int, export: Callable[[int, int], Any]
    ) -> dict[str, Any]:
        """Write the frames [first, newest); returns their entry in a list of segments."""
        path = self.run.frames(first, newest)
        entry = {"file": path.name, "first": first, "last": newest}
        try:
            return entry | {"sha256": save_file(path, export(first, newest))}
        except Exception:
            self._drop_unused([entry])
            raise

    def _drop_unused(self, segments: list[dict[str, Any]], path: Path | None = None) -> None:
        """Remove frame files that a failed save left and no state file names.

        The next attempt would write the same frames again under another name, into a disk that is
        full already. The state file `path`, which could not be saved, is read anew: it is in place
        if only the flush of its folder failed.
        """
        with contextlib.suppress(OSError):
            for state in {*self.states(), *([path] if path is not None else [])}:
                with contextlib.suppress(CheckpointError):
                    known = None if state == path else self._needs.get(state.name)
                    named = {s["file"] for s in known or read_state(state)["segments"]}
                    segments = [segment for segment in segments if segment["file"] not in named]
            for segment in segments:
                (self.folder / segment["file"]).unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Any], Iterator[Any]] | None:
        """The newest sound checkpoint with its frame files; None if there is none at all.

        All files are verified at once, and the frame files then read one at a time: a whole
        replay buffer beside the one it goes into might not fit into memory. A damaged checkpoint
        is passed over with a warning, and put aside once a sound one is found.

        Raises:
            CheckpointError: all are damaged, or one is of a newer format, after which an older
                one would begin another history; nothing on the disk is changed.
        """
        states, damaged = self.states(), []
        for path in reversed(states):
            try:
                state = read_state(path, checksum=True)
                for segment in state["segments"]:
                    verify(self.folder / segment["file"], segment["sha256"])
            except NewerFormatError as error:
                raise CheckpointError(f"{error}: resume with that version") from None
            except CheckpointError as error:
                log.warning("%s; trying the checkpoint before it", error)
                damaged.append(path)
                continue
            for bad in damaged:
                bad.rename(bad.with_suffix(".damaged"))
            self.segments = self._needs[path.name] = list(state["segments"])
            return state, (load_file(self.folder / s["file"]) for s in state["segments"])
        if states:
            raise CheckpointError(f"all {len(states)} checkpoints in {self.folder} are damaged")
        return None

    def newest_state(self) -> dict[str, Any]:
        """The newest sound state without its frames, to evaluate; changes nothing on the disk.

        Raises:
            CheckpointError: there is none.
        """
        states = self.states()
        for path in reversed(states):
            try:
                return read_state(path, checksum=True)
            except CheckpointError as error:
                log.warning("%s", error)
        found = f"all {len(states)} are damaged" if states else "there is none"
        raise CheckpointError(f"no checkpoint to evaluate in {self.folder}: {found}")

    def _tidy(self) -> None:
        states = self.states()
        for path in states[:-KEPT]:
            path.unlink(missing_ok=True)
            path.with_suffix(".sha256").unlink(missing_ok=True)
        needed: set[str] = set()
        for path in states[-KEPT:]:
            try:
                if path.name not in self._needs:
                    self._needs[path.name] = read_state(path)["segments"]
                needed |= {s["file"] for s in self._needs[path.name]}
            except CheckpointError:
                path.unlink(missing_ok=True)
        for path in self.run.all_frames():
            if path.name not in needed:
                path.unlink(missing_ok=True)
        for path in self.folder.glob("*.aside"):
            path.unlink(missing_ok=True)


def read_state(path: Path, *, checksum: bool = False) -> dict[str, Any]:
    """A state file, checked for being one of this format; `checksum`: it must have one.

    Without its checksum file a checkpoint is incomplete, but a copied state file can be read.
    """
    try:
        digest = path.with_suffix(".sha256").read_text().strip()
    except FileNotFoundError:
        if checksum:
            raise CheckpointError(f"{path} is incomplete: it has no checksum") from None
        digest = None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the checksum of {path} cannot be read: {error}") from None
    state = load_file(path, digest)
    found = state.get("format") if isinstance(state, dict) else None
    if type(found) is not int or found != FORMAT:
        kind = NewerFormatError if isinstance(found, int) and found > FORMAT else CheckpointError
        raise kind(f"{path} has checkpoint format {found}, this version reads {FORMAT}")
    missing = [key for key in KEYS if key not in state]
    if missing:
        raise CheckpointError(f"{path} is not a run's checkpoint: it lacks {', '.join(missing)}")
    types = {"file": str, "first": int, "last": int, "sha256": str}
    segments = state["segments"]
    if not isinstance(segments, list) or not all(
        isinstance(s, dict) and {key: type(value) for key, value in s.items()} == types
        for s in segments
    ):
        raise CheckpointError(f"{path} is damaged: its list of frame files is invalid")
    return state


@dataclass(frozen=True)
class Sizes:
    """What the agent of a run acts on, so that nobody has to open an environment to learn it.

    Attributes:
        action_dim: A, of its actions [A].
        observation: [S, H, W, 3], the shape of the uint8 frame stack that it sees.
    """

    action_dim: int
    observation: tuple[int, ...]

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"action_dim": self.action_dim, "observation": list(self.observation)}


def sizes_of(state: Mapping[str, Any]) -> Sizes | None:
    """The sizes that a state file holds; None if an older version wrote it.

    Raises:
        CheckpointError: they are no sizes.
    """
    if "sizes" not in state:
        return None
    found = state["sizes"]
    pairs = found if isinstance(found, Mapping) else {}
    action_dim, observation = pairs.get("action_dim"), pairs.get("observation")
    numbers = [action_dim, *(observation if isinstance(observation, list) else ())]
    if len(numbers) != 5 or not all(type(n) is int and 0 < n < 2**31 for n in numbers):
        raise CheckpointError(f"the checkpoint's sizes are {str(found)[:100]}")
    return Sizes(numbers[0], tuple(numbers[1:]))


def clock_of(state: Mapping[str, Any]) -> Clock:
    """The clock of a state file.

    Older versions saved no axis, which was env steps. The oldest did not count env steps: all their
    agent steps were of equal length. They did not count updates either: these are taken to be all
    that were due, which is too many where a run was resumed without its replay buffer and waited
    until it was filled again.

    Raises:
        CheckpointError: a count that is none, or an unknown axis.
    """
    counters, config, axis = state["counters"], state["config"], state.get("axis", ENV_STEPS)
    counts = {name: counters[name] for name in AXES if name in counters}
    if ENV_STEPS not in counts:
        counts[ENV_STEPS] = counters[AGENT_STEPS] * config["task"]["action_repeat"]
    for name, count in counts.items():
        if type(count) is not int or count < 0:
            raise CheckpointError(f"the checkpoint's counter {name} is {str(count)[:40]!r}")
    if UPDATES not in counts:
        counts[UPDATES] = _updates_due(config, counts.get(AGENT_STEPS, 0))
    if not isinstance(axis, str) or axis not in AXES:
        raise CheckpointError(f"the checkpoint's axis is {str(axis)[:40]!r}")
    return Clock(axis, **counts)


def _updates_due(config: Mapping[str, Any], agent_steps: int) -> int:
    """How many updates a run of an older version has made by then; 0 if its settings do not say."""
    per_step, initial_steps = config.get("updates_per_step", 1), config.get("initial_steps")
    if type(per_step) not in (int, float) or type(initial_steps) is not int:
        return 0
    if not 0 < per_step < math.inf:
        return 0
    return math.floor(Fraction(repr(per_step)) * max(0, agent_steps - initial_steps))


def restored_progress(
    state: dict[str, Any], fresh: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, float], float]:
    """A state's counters, newest metrics and wall time, for a trainer that begins at `fresh`.

    Raises:
        CheckpointError: they are of other types than `fresh`, or below it.
    """
    counters = {name: state["counters"][name] for name in fresh}
    for name, least in fresh.items():
        value = counters[name]
        if type(value) is not type(least) or (isinstance(least, int) and value < least):
            raise CheckpointError(f"the checkpoint's counter {name} is {str(value)[:40]!r}")
    metrics = {str(name): float(value) for name, value in state["metrics"].items()}
    return counters, metrics, float(state["wall_time"])


@contextlib.contextmanager
def refuse_foreign_content(path: Path) -> Iterator[None]:
    """Turn errors from a sound file that holds something else into a `CheckpointError`."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{path} was saved by another program: {repr(error)[:200]}") from None


def _flush_folder(folder: Path) -> None:
    """Flush a rename to the disk, where the file system can.

    Some network and FUSE file systems cannot flush a folder and say so. The file itself has been
    flushed and renamed by then. A full or failing disk (ENOSPC, EIO) is an error all the same.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
    finally:
        os.close(handle)
