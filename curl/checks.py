"""Refusals: one line that names the value and what is allowed."""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections.abc import Iterable


def integer(name: str, value: object, *, at_least: int = 1) -> int:
    """`value` as an int that is at least `at_least`; `ValueError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name} must be an integer >= {at_least}, got {value!r}")
    return value


def real(
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
) -> float:
    """`value` as a finite float within [low, high] ((low, high] with `open_low`)."""
    opening = "(" if open_low or low == -math.inf else "["
    interval = f"{opening}{low:g}, {high:g}{')' if high == math.inf else ']'}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number in {interval}, got {value!r}")
    if value < low or value > high or (open_low and value == low):
        raise ValueError(f"{name} must lie in {interval}, got {value!r}")
    return float(value)


def positive(name: str, value: object) -> float:
    """`value` as a finite float above 0."""
    return real(name, value, low=0, open_low=True)


def choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Refuse a `value` that is not one of `allowed`, with the nearest spelling as a hint."""
    options = [str(option) for option in allowed]
    if str(value) in options:
        return
    near = difflib.get_close_matches(str(value), options, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(options)}; got {str(value)!r}{hint}")


def flag(name: str, value: object) -> bool:
    """`value` as true or false; `ValueError` otherwise."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def needs_extra(what: str, extra: str, *modules: str) -> None:
    """Refuse `what` if a module that the extra installs is not there; nothing is imported."""
    if not all(map(_installed, modules)):
        command = f"pip install -e '.[{extra}]' -c constraints.txt"
        raise ValueError(f"{what} needs an extra: {command}")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it belongs to
        return False
