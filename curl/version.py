"""The version of this package, and the commit of its code.

pyproject.toml and CITATION.cff say the same version.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

VERSION = "0.1.0"


def commit() -> str | None:
    """The commit of a checkout that the package runs from, with `+changes` if it was edited.

    None if it was installed from elsewhere, or if there is no git here.
    """
    folder = Path(__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # a checkout of another project, for all we know
    return commit_of(folder, ".")


def commit_of(folder: Path, *paths: str) -> str | None:
    """The commit of the checkout around a folder, with `+changes` if tracked files were edited.

    Args:
        paths: which files count, as git takes them.

    Returns:
        None if there is no checkout, or no git.
    """
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *paths)
    return None if head is None or changes is None else head + "+changes" * bool(changes)


def _git(folder: Path, *command: str) -> str | None:
    """What git answers there; None if it does not."""
    try:
        ended = subprocess.run(
            ["git", *command], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return None if ended.returncode else ended.stdout.strip()
