"""Route tables of clouds. This module holds their one Protocol and their table; `target.py` makes a Target of each.

A backend of one's own is one file and one entry point of the group `weft.route_tables`, named as in `-backend=NAME`,
that leads to a function like those in BACKENDS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from weft.model import Problem
from weft.objects import Failure, Key, Op
from weft.objects.cloud import CloudRoute
from weft.settings.route_manager import RouteManagerSettings


@dataclass(frozen=True, slots=True)
class Contents:
    """What the tables hold now: a full set. `routes`: ours, by key. `foreign`: keys of routes that are somebody else's,
    with a phrase that names each. `problems`: what a person should know (an instance that drops what isn't its own).
    `calls`: how many it took to find out."""

    routes: Mapping[Key, CloudRoute]
    foreign: Mapping[Key, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Room:
    """A quota, as it was read last before something was added. `free`: routes that still fit; `limit`: in all.
    `what`: whose limit it is, for people ("quota ROUTES of project p", "table rtb-1")."""

    what: str
    limit: int
    free: int


class RouteTables(Protocol):
    """The route tables of one provider that this daemon was told to keep."""

    @property
    def name(self) -> str:
        """As in `-backend=NAME`."""
        ...

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables; () until the first `read` has found them."""
        ...

    @property
    def room(self) -> Mapping[str, Room]:
        """By table, as far as a quota was read."""
        ...

    @property
    def calls(self) -> Mapping[tuple[str, str], int]:
        """Calls of the provider's API so far, by (method, outcome): ("routes.insert", "ok"), (…, "429"): /metrics."""
        ...

    async def read(self) -> Contents:
        """Every route there, ours or not. Raises TargetError: what was asked, what was answered, what to do."""
        ...

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Carry out ops on CloudRoutes; one answer each, None only if the provider says that it is done. They are about
        different keys: any order will do, and several at once. One failure never stops the rest; deleting what is gone
        is success; adding where somebody else's route stands is Failure(conflict=True). `change` replaces so that at no
        moment, and after no failure, the destination is without a route. Cancelled, it leaves nothing half known: the
        next `read` says what came of it."""
        ...

    def lines(self, ops: Sequence[Op]) -> list[str]:
        """The provider's own command lines (`gcloud compute routes create …`) that would do the same."""
        ...

    def called(self, route: CloudRoute) -> str:
        """What people know the route by, in the log: `flannel-default-10-244-72-0-24`."""
        ...

    async def close(self) -> None:
        """Give up connections; what was written stays."""
        ...


def _google(settings: RouteManagerSettings) -> RouteTables:
    from weft.targets.cloud.google import GoogleRoutes

    return GoogleRoutes.of(settings)


def _aws(settings: RouteManagerSettings) -> RouteTables:
    from weft.targets.cloud.aws import AwsRoutes

    return AwsRoutes.of(settings)


def _memory(settings: RouteManagerSettings) -> RouteTables:
    from weft.targets.cloud.memory import MemoryRoutes

    return MemoryRoutes.of(settings)


def _stdout(settings: RouteManagerSettings) -> RouteTables:
    from weft.targets.cloud.stdout import StdoutRoutes

    return StdoutRoutes.of(settings)


BACKENDS: Mapping[str, Callable[[RouteManagerSettings], RouteTables]] = {
    "google": _google,
    "aws": _aws,
    "memory": _memory,
    "stdout": _stdout,
}

LOCAL = frozenset({"memory", "stdout"})
"""Of those, the ones whose table is in this process: nobody else writes it."""
