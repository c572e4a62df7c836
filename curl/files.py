"""Files: their checksums, room for them on a disk; texts and folders that are whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """The SHA-256 of what a file holds, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_room(folder: Path, needed: int, what: str) -> None:
    """`OSError` unless the disk of a folder has `needed` bytes free.

    Args:
        folder: it need not exist yet, nor its parents.
        needed: bytes.
        what: needs them, for the message.
    """
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"{what} needs {needed / 1e9:.2f} GB on the disk of {folder}, and {free / 1e9:.2f} GB "
            "are free there"
        )


def write_json(path: Path, content: Any) -> None:
    """Write aside, then rename; `OSError` if that cannot be done."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write aside in UTF-8, then rename; `OSError` if that cannot be done."""
    aside = path.with_name(path.name + ".aside")
    try:
        aside.write_text(content, encoding="utf-8")
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def require_new(folder: Path) -> None:
    """`ValueError` unless a folder can be made there: nothing has the name, or it is empty."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty; name a new folder")
    elif folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} exists and is no folder; name a new one")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill the folder that this yields: it becomes `folder`, unless anything is raised.

    Raises:
        ValueError: `folder` is not new. OSError: its parent cannot be written.
    """
    require_new(folder)
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    aside = parent / f".{folder.absolute().name}.{os.getpid()}.aside"
    aside.mkdir()
    try:
        yield aside
        aside.replace(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
