"""`-backend=NAME` → route tables: weft's own, else a plug-in's. Called by `daemons/route_manager.py`.

A plug-in is an entry point of the group `weft.route_tables` in any installed distribution; it leads to a function like
those in BACKENDS (docs/cloud-routes-plugins.md).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from weft.errors import SettingsError, WeftError
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import BACKENDS, RouteTables

GROUP = "weft.route_tables"
MEMBERS = ("name", "tables", "room", "calls", "read", "apply", "lines", "called", "close")

Opener = Callable[[RouteManagerSettings], RouteTables]


def names() -> list[str]:
    """Every name that -backend takes here."""
    return sorted({*BACKENDS, *(entry.name for entry in entry_points(group=GROUP))})


def open_tables(settings: RouteManagerSettings) -> RouteTables:
    """The tables that `settings.backend` names. Raises SettingsError: there is no such backend (and which there are),
    a plug-in is broken, a module that a backend needs isn't installed, or the backend's own word on its settings."""
    name = settings.backend
    if name in BACKENDS:
        return _opened(f"-backend={name}", BACKENDS[name], settings)
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise SettingsError(
            f"-backend={name}: there is no such backend; there is {', '.join(names())}. Others are installed as "
            f"Python packages with an entry point of the group {GROUP}"
        )
    if len({entry.value for entry in found}) > 1:
        several = ", ".join(sorted(map(_origin, found)))
        raise SettingsError(
            f"-backend={name}: several packages have a backend of this name, uninstall all but one: {several}"
        )
    return _plugged(found[0], settings)


def _plugged(entry: EntryPoint, settings: RouteManagerSettings) -> RouteTables:
    asked = f"-backend={entry.name}, a plug-in ({_origin(entry)})"
    try:
        opener = entry.load()
    except Exception as error:  # it is others' code, whatever it raises
        raise SettingsError(f"{asked}: it can't be loaded: {error!r}") from error
    if not callable(opener):
        raise SettingsError(f"{asked}: it must be a function from settings to route tables, and is a {_kind(opener)}")
    tables = _opened(asked, opener, settings)
    missing = [member for member in MEMBERS if not hasattr(tables, member)]
    if missing:
        raise SettingsError(f"{asked}: it gave a {_kind(tables)}, which lacks {', '.join(missing)} of RouteTables")
    return tables


def _opened(asked: str, opener: Opener, settings: RouteManagerSettings) -> RouteTables:
    try:
        return opener(settings)
    except WeftError:
        raise
    except ImportError as error:
        extra = f"; pip install 'weft[{settings.backend}]'" if settings.backend in BACKENDS else ""
        raise SettingsError(f"{asked}: {error}{extra}") from error
    except Exception as error:
        raise SettingsError(f"{asked}: it can't be used: {error!r}") from error


def _origin(entry: EntryPoint) -> str:
    dist = entry.dist
    return f"{entry.value} of {dist.name} {dist.version}" if dist is not None else entry.value


def _kind(thing: object) -> str:
    return type(thing).__name__
