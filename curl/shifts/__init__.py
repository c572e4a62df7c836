"""Shifts: another look of the same environment. One file each, one YAML for each strength.

    shifts.make({"noise": {"label": "noise", "severity": 3}})

The settings name the file of each shift, so that several can be chosen together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curl.registry import build, require_name
from curl.shifts.base import Look, Shift


def make(settings: Mapping[str, Mapping[str, Any]]) -> Look:
    """The look that `settings` describe: name of a file of curl/shifts -> its settings.

    `label` is what reports call it, and no setting of it. Without any shift the environment looks
    as it does.

    Raises:
        SettingsError: no such file, or settings that it does not take.
    """
    made: dict[str, Shift] = {}
    for name, own in settings.items():
        require_name(__name__, name, "shift")
        rest = {str(key): value for key, value in own.items() if key != "label"}
        made[name] = build(Shift, __name__, name, rest, where=f"shift.{name}")
    return Look(made)
