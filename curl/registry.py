"""Find the one class that a file of a package holds: a file and a YAML make a new sibling."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, TypeVar

from curl.checks import choice, flag

T = TypeVar("T")


def build(
    base: type[T],
    package: str,
    name: str,
    settings: dict[str, Any],
    offered: Mapping[str, Any] | None = None,
) -> T:
    """Build the subclass of `base` that `<package>/<name>.py` defines, from `settings`.

    What is `offered` is passed only to a constructor that names it, and is no setting.

    Raises:
        ValueError: no such file, an unknown setting, or a setting it refuses.
    """
    paths = importlib.import_module(package).__path__
    kind = package.rsplit(".", 1)[-1].removesuffix("s")
    choice(kind, name, sorted(m.name for m in pkgutil.iter_modules(paths) if m.name != "base"))
    module = importlib.import_module(f"{package}.{name}")
    found = next(
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing)
        and issubclass(thing, base)
        and thing.__module__ == module.__name__
    )
    parameters = inspect.signature(found).parameters
    allowed = [name for name in parameters if name not in ("args", "kwargs")]
    given = {key: value for key, value in (offered or {}).items() if key in allowed}
    allowed = [p for p in allowed if p not in given]
    for setting in settings:
        choice(f"setting of {kind} {name}", setting, allowed or ["(none)"])
        if parameters[setting].annotation in (bool, "bool"):
            flag(f"{kind} {setting}", settings[setting])
    return found(**settings, **given)
