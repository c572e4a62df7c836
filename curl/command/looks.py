"""The looks that a command is told by names of configs/shift: `noise,color_hard` or `all`.

A name may be followed by settings that replace those of the file: `noise:severity=5`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from curl import shifts
from curl.checks import choice
from curl.command import CONFIGS

ALL, NONE = "all", "none"


@dataclass(frozen=True)
class Looks:
    """Looks that were asked for.

    Attributes:
        settings: name as it was given -> the settings of its shifts.
        named: those that were not merely among `all`.
    """

    settings: dict[str, dict[str, dict[str, Any]]]
    named: frozenset[str]


def chosen(names: Iterable[str], where: str) -> Looks:
    """The looks of these names, in that order; `all` are those of every file but none.yaml.

    Args:
        where: what refusals call the option or the setting.

    Raises:
        ValueError: an unknown name, or settings that its shift does not take; one line.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    named: set[str] = set()
    for name in names:
        if name == ALL:
            found |= {each: look(each, where) for each in known() if each != NONE}
        else:
            found[name] = look(name, where)
            named.add(name)
    if not found:
        raise ValueError(f"{where} names no look; known: {', '.join([*known(), ALL])}")
    return Looks(found, frozenset(named))


def known() -> list[str]:
    """The names of the files."""
    return sorted(path.stem for path in CONFIGS.glob("shift/*.yaml"))


def look(name: str, where: str) -> dict[str, dict[str, Any]]:
    """The settings of one look; `ValueError` in one line if there is none of that name."""
    stem, *changes = name.split(":")
    choice(where, stem, known() if changes else [*known(), ALL])
    found = yaml.safe_load((CONFIGS / "shift" / f"{stem}.yaml").read_text(encoding="utf-8"))
    for change in changes:
        key, sign, value = change.partition("=")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            sign = ""
        if not (sign and found):
            raise ValueError(f"{where}: cannot read {name!r}; write NAME or NAME:SETTING=VALUE")
        for settings in found.values():
            settings[key] = read
    shifts.make(found)
    return found


def with_looks(config: dict[str, Any]) -> dict[str, Any]:
    """A composed configuration with the settings of the looks that `eval_shifts` names.

    What is a group of settings already, as in the configuration of a run, stays as it is.

    Raises:
        ValueError: no such look; one line.
    """
    names = config.get("eval_shifts")
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list):
        return config
    found = chosen(map(str, names), "eval_shifts").settings if names else None
    return config | {"eval_shifts": found}
