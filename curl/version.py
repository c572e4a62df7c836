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
    answers = []
    for command in (
        ("ls-files", "--error-unmatch", Path(__file__).name),  # another project's, for all we know
        ("rev-parse", "--short=12", "HEAD"),
        ("status", "--porcelain", "--untracked-files=no", "--", "."),
    ):
        try:
            ended = subprocess.run(
                ["git", *command], cwd=folder, capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        if ended.returncode:
            return None
        answers.append(ended.stdout.strip())
    return answers[1] + "+changes" * bool(answers[2])
