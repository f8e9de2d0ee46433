"""What was, and when: every state that the route table had, and every call. Nothing is ever taken out. Kept by `engine`
and `api`; read by tests, and over HTTP through `control`.

All times are seconds of the engine's clock (time.monotonic, unless it was given another).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network

import msgspec

from weft.lab.compute.resources import Route
from weft.model import IPNetwork


class Change(msgspec.Struct, frozen=True):
    """One route came or went at `at`. `operation`: its name; "" if the owner of the cloud did it by hand."""

    at: float
    name: str
    before: Route | None
    after: Route | None
    operation: str


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request and its answer. `method`: as in the discovery document (routes.insert), metadata.token, or "" for a
    path that is nothing. `status` 0: no answer was sent. Bodies are kept if the server was told to."""

    at: float
    took: float
    method: str
    http: str
    path: str
    query: dict[str, str]
    status: int
    reason: str = ""
    fault: str = ""
    request: str = ""
    answer: str = ""
    kind: str = ""
    """The answer's media type."""


@dataclass(frozen=True, slots=True)
class Gap:
    """From `start` on, until `end`, there was no such route."""

    start: float
    end: float


@dataclass(slots=True)
class History:
    """`up_to`: says up to which moment it is complete, and sees to it that it is: now."""

    up_to: Callable[[], float]
    changes: list[Change] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def gaps(
        self,
        dst: IPNetwork,
        start: float,
        end: float | None = None,
        network: str = "default",
        fits: Callable[[Route], bool] = lambda _: True,
        covering: bool = False,
    ) -> list[Gap]:
        """When between the two times `network` had no route to exactly `dst` that `fits`; with `covering`, none to it
        or to all of a wider destination. [] = there was one at every instant. `end`: now, if not given."""
        now = self.up_to()
        end = now if end is None else end

        text = str(dst)

        def counts(route: Route) -> bool:
            if not (covers(route, dst) if covering else route.dest_range == text):
                return False
            return route.network.endswith(f"/{network}") and fits(route)

        moments = [moment for moment in self._counted(counts, start) if moment[0] < end]
        found: list[Gap] = []
        for (at, there), until in zip(moments, [*(at for at, _ in moments[1:]), end], strict=True):
            if there or until <= at:
                continue
            if found and found[-1].end == at:
                found[-1] = Gap(found[-1].start, until)
            else:
                found.append(Gap(at, until))
        return found

    def always(self, dst: IPNetwork, start: float, end: float | None = None, network: str = "default") -> bool:
        """Whether there was a route to `dst` at every instant between the two."""
        return not self.gaps(dst, start, end, network)

    def touched(self, name: str, since: float = 0.0) -> list[Change]:
        """What calls of the API did to the route of that name; what was done by hand doesn't count."""
        self.up_to()
        return [one for one in self.changes if one.name == name and one.operation and one.at >= since]

    def at(self, moment: float) -> dict[str, Route]:
        """The whole table as it was then, by name."""
        self.up_to()
        table: dict[str, Route] = {}
        for change in self.changes:
            if change.at > moment:
                break
            if change.after is None:
                table.pop(change.name, None)
            else:
                table[change.name] = change.after
        return table

    def called(self, *methods: str, since: float = 0.0) -> list[Call]:
        """Calls of the API (of these methods, if any are given) that came since then; metadata's don't count unless
        they are asked for."""
        return [
            one
            for one in list(self.calls)
            if one.at >= since
            and (one.method in methods if methods else not one.method.startswith(("metadata.", "oauth2.")))
        ]

    def _counted(self, counts: Callable[[Route], bool], start: float) -> Iterator[tuple[float, bool]]:
        """Whether any route counts: at `start` first, then at each moment when that may have changed."""
        there: set[str] = set()
        begun = False
        for change in list(self.changes):
            if change.at > start and not begun:
                begun = True
                yield start, bool(there)
            if change.after is not None and counts(change.after):
                there.add(change.name)
            else:
                there.discard(change.name)
            if begun:
                yield change.at, bool(there)
        if not begun:
            yield start, bool(there)


_network = functools.lru_cache(4096)(ip_network)


def covers(route: Route, dst: IPNetwork) -> bool:
    """Whether all of `dst` is in the route's destination (a default route covers nothing: it leads elsewhere)."""
    wide = _network(route.dest_range)
    if wide.version != dst.version or not wide.prefixlen:
        return False
    return dst.subnet_of(wide)  # type: ignore[arg-type]
