"""Find the one class that a file of a package holds: a file and a YAML make a new sibling."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from curl.checks import choice
from curl.schema import SettingsError, constructor_of, require, signature_model

T = TypeVar("T")

_around: ContextVar[str] = ContextVar("around", default="")
"""Dotted key of the settings that are being built: one part may build others, as `compose` does."""


def find(base: type[T], package: str, name: str, where: str = "") -> type[T]:
    """The subclass of `base` that `<package>/<name>.py` defines.

    Raises:
        SettingsError: no such file. `where` is the dotted key of the settings.
    """
    require_name(package, name, where)
    module = importlib.import_module(f"{package}.{name}")
    return next(
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing)
        and issubclass(thing, base)
        and thing.__module__ == module.__name__
    )


def require_name(package: str, name: str, where: str = "", others: Sequence[str] = ()) -> None:
    """`SettingsError` unless the package has a file of that name, or it is one of `others`."""
    paths = importlib.import_module(package).__path__
    names = sorted(m.name for m in pkgutil.iter_modules(paths) if m.name != "base")
    try:
        choice(f"{where or kind_of(package)}.name", name, [*names, *others])
    except ValueError as error:
        raise SettingsError(str(error)) from None


def build(
    base: type[T],
    package: str,
    name: str,
    settings: dict[str, Any],
    offered: Mapping[str, Any] | None = None,
    where: str = "",
) -> T:
    """Build the subclass of `base` that `<package>/<name>.py` defines, from `settings`.

    Its constructor's arguments and their types are what `settings` may hold. What is `offered` is
    passed only to a constructor that names it, and is no setting.

    Raises:
        SettingsError: no such file, an unknown or missing setting, one of another type, or one that
            the constructor refuses; settings are named by dotted keys, below the key `where`.
    """
    above = _around.get()
    where = f"{above}.{where}" if above and where else where or kind_of(package)
    token = _around.set(where)
    try:
        found = find(base, package, name, where)
        parameters, _ = constructor_of(found)
        given = {key: value for key, value in (offered or {}).items() if key in parameters}
        require(signature_model(found, given), settings, where)
        try:
            return found(**settings, **given)
        except SettingsError:
            raise
        except ValueError as error:
            raise SettingsError(located(str(error), where, settings)) from None
    finally:
        _around.reset(token)


def require_use(
    base: type[Any], package: str, name: str, chosen: Mapping[str, str], where: str = ""
) -> None:
    """Refuse to build a class that would ignore a part which was chosen for it.

    Args:
        chosen: the name of an offered part -> how to choose nothing for it, for the message.

    Raises:
        SettingsError: no such file, or its constructor does not name one of the chosen parts.
    """
    where = where or kind_of(package)
    parameters, _ = constructor_of(find(base, package, name, where))
    for part, nothing in chosen.items():
        if part not in parameters:
            raise SettingsError(f"{where}.name={name} does not use {part}: choose {nothing}")


def kind_of(package: str) -> str:
    """What a package holds: `agent` of `curl.agents`."""
    return package.rsplit(".", 1)[-1].removesuffix("s")


def located(message: str, where: str, settings: Mapping[str, Any]) -> str:
    """A refusal of one of `settings` with its dotted key, or with that of the whole group."""
    first = re.match(r"\w+", message)
    return f"{where}{'.' if first and first[0] in settings else ': '}{message}"
