"""Engines know the container networks of this host. This module holds their one Protocol and their table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from weft.model import Known, Network
from weft.settings import Settings


class Engine(Protocol):
    """A source of this host's networks."""

    @property
    def name(self) -> str: ...

    def networks(self) -> AsyncIterator[Known[Network]]:
        """Yield the full set, sorted by name, at start and each time that it changed; never ends by itself.

        While the engine can't be asked, the last set stays (yielded again with a Problem that says so)."""
        ...

    async def close(self) -> None: ...


def _docker(settings: Settings) -> Engine:
    from weft.engines.docker import Docker

    return Docker(settings.docker_host, settings.expose)


def _static(settings: Settings) -> Engine:
    from weft.engines.static import Static

    return Static(settings.networks)


ENGINES: dict[str, Callable[[Settings], Engine]] = {"docker": _docker, "static": _static}
"""What the setting `engine` may say → the engine, made from the settings."""
