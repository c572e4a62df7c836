"""The files in which eval --shift keeps what it found. Reading them opens nothing that draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRAINING = "training"
"""The name of the look that a run trained on."""


def read_looks(file: Path) -> dict[str, Any]:
    """The content of a file that `evaluate_looks` wrote.

    Raises:
        ValueError: it is none; one line.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8", errors="replace"))
        for look in content["looks"].values():
            if not (look["returns"] and isinstance(look["shift"], dict)):
                raise ValueError
            look["returns"] = [float(value) for value in look["returns"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{file} is not an evaluation on several looks") from None
    return content
