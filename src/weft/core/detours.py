"""A node whose tunnel is down and that nobody relays to: is there a gateway on the way that this host doesn't use?
Pure; called by `topology.py`.

One gateway is proposed at a time and kept while the tunnel comes up with it in time; else it is withdrawn for the next
one, and after the last there is a long rest. What is on a segment of this host's, or behind a route without a gateway
(a WireGuard interface's), needs none: direct is right there. The candidates, in this order:

- a node on a segment of this host's that says that it is also on the segment of the other's endpoint,
- the gateway by which this host reaches another address in the same /24 (IPv6: /64).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from weft.core.sight import Detour, Place, Sight
from weft.model import IPAddress, IPInterface, IPNetwork

TRIAL = 10.0
"""Seconds in which the tunnel has to come up."""
REST = 600.0
"""Seconds between two rounds."""
BLOCK = {4: 8, 6: 64}
"""Bits of an address that may differ in its neighbourhood."""


@dataclass(frozen=True, slots=True)
class Candidate:
    gateway: IPAddress
    dev: str
    why: str


@dataclass(slots=True)
class Search:
    """`own`: this host's addresses and their devices. `bridges`: a segment of others' → the candidates that are on it
    and on one of `own`. `addresses`, `blocks`: neighbourhood → addresses in it that somebody named, and the gateways by
    which they are reached. `trials`: addresses whose ways are of our own making, so that nothing follows from them."""

    sight: Sight
    own: tuple[tuple[IPInterface, str], ...]
    trials: frozenset[IPAddress]
    asked: set[IPAddress] = field(default_factory=set)
    _bridges: Mapping[IPNetwork, tuple[tuple[str, Candidate], ...]] | None = None
    _addresses: Mapping[tuple[int, int], tuple[IPAddress, ...]] | None = None
    _blocks: dict[tuple[int, int], Mapping[tuple[IPAddress, str], list[IPAddress]]] = field(default_factory=dict)

    @classmethod
    def of(cls, sight: Sight, detours: Mapping[str, Detour]) -> Search:
        own = tuple((a, u.name) for u in sight.uplinks for a in u.addresses)
        tried = {name for name, detour in detours.items() if detour.gateway is not None and not detour.held}
        return cls(sight, own, frozenset(e for p in sight.places if p.id in tried for e in p.endpoints))

    def step(
        self, place: Place, before: Detour | None, state: Literal["unknown", "up", "down"], lost: bool
    ) -> Detour | None:
        """The search after a finding on the node's tunnel. `lost`: it is down, nobody relays, and nothing else is known
        to be the matter. None: there is no search."""
        if before is not None and before.gateway is not None:
            if before.held and state != "down":
                return before
            if state == "up":
                return replace(before, held=True)
            if before.held:
                before = replace(before, held=False, since=self.sight.now)
        if not lost or not place.endpoints:
            return None
        endpoint = place.endpoints[0]
        self.asked.add(endpoint)
        self._block(endpoint)
        if before is None:
            before = Detour(self.sight.now)
        if before.gateway is None:
            if endpoint not in self.sight.answered:
                return before
            before = replace(before, usual=self.sight.ways.get(endpoint))
        return self._go_on(place, before)

    def _go_on(self, place: Place, before: Detour) -> Detour:
        now = self.sight.now
        candidates = list(self._candidates(place, before))
        if before.gateway is not None:
            current = (before.gateway, before.dev)
            if now < before.since + TRIAL and any((c.gateway, c.dev) == current for c in candidates):
                return before
            before = replace(before, gateway=None, dev="", why="", tried=before.tried | {current})
        elif before.rest and now >= before.rest:
            before = replace(before, tried=frozenset(), rest=0.0)
        fresh = next((c for c in candidates if (c.gateway, c.dev) not in before.tried), None)
        if fresh is not None:
            return replace(before, since=now, gateway=fresh.gateway, dev=fresh.dev, why=fresh.why, rest=0.0)
        if before.tried and not before.rest:
            return replace(before, rest=now + REST)
        return before

    def _candidates(self, place: Place, before: Detour) -> Iterator[Candidate]:
        endpoint, usual = place.endpoints[0], before.usual
        if any(endpoint in own.network for own, _ in self.own) or (usual is not None and usual.gateway is None):
            return
        known = {(usual.gateway, usual.dev)} if usual is not None else set()
        for candidate in (*self._neighbours(place, endpoint), *self._hints(endpoint)):
            key = (candidate.gateway, candidate.dev)
            if key not in known:
                known.add(key)
                yield candidate

    def _neighbours(self, place: Place, endpoint: IPAddress) -> Iterator[Candidate]:
        for network, found in self._between().items():
            if endpoint in network:
                yield from (candidate for name, candidate in found if name != place.id)

    def _hints(self, endpoint: IPAddress) -> Iterator[Candidate]:
        for (gateway, dev), shown in self._block(endpoint).items():
            by = next((address for address in shown if address != endpoint), None)
            if by is not None:
                yield Candidate(gateway, dev, f"this host reaches {by} through it")

    def _between(self) -> Mapping[IPNetwork, tuple[tuple[str, Candidate], ...]]:
        if self._bridges is None:
            bridges: dict[IPNetwork, tuple[tuple[str, Candidate], ...]] = {}
            for place in self.sight.places:
                for segment in place.segments:
                    dev = self._dev(segment.ip)
                    for other in place.segments if dev else ():
                        why = f"{place.id} is on the segment {other.network}, too"
                        found = (place.id, Candidate(segment.ip, dev, why))
                        bridges[other.network] = (*bridges.get(other.network, ()), found)
            self._bridges = bridges
        return self._bridges

    def _dev(self, address: IPAddress) -> str:
        """By which an address of another's is on a segment of this host's; "" if it is on none."""
        devices = (dev for own, dev in self.own if address in own.network and address != own.ip)
        return next(devices, "")

    def _block(self, endpoint: IPAddress) -> Mapping[tuple[IPAddress, str], list[IPAddress]]:
        """The gateways by which its neighbourhood is reached. All of that is asked for from now on."""
        key = _neighbourhood(endpoint)
        if key not in self._blocks:
            gateways: dict[tuple[IPAddress, str], list[IPAddress]] = {}
            for address in self._near().get(key, ()):
                self.asked.add(address)
                way = self.sight.ways.get(address)
                if way is not None and way.gateway is not None and address not in self.trials:
                    gateways.setdefault((way.gateway, way.dev), []).append(address)
            self._blocks[key] = gateways
        return self._blocks[key]

    def _near(self) -> Mapping[tuple[int, int], tuple[IPAddress, ...]]:
        if self._addresses is None:
            near: dict[tuple[int, int], set[IPAddress]] = {}
            everything = [a for p in self.sight.places for a in (*p.endpoints, *(s.ip for s in p.segments))]
            everything += [entry.gateway for entry in self.sight.entries]
            for address in everything:
                near.setdefault(_neighbourhood(address), set()).add(address)
            self._addresses = {key: tuple(sorted(found, key=int)) for key, found in near.items()}
        return self._addresses


def _neighbourhood(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address) >> BLOCK[address.version]


def again(detours: Mapping[str, Detour]) -> float | None:
    """When a trial or a rest ends."""
    ends = [d.since + TRIAL if d.gateway is not None else d.rest for d in detours.values() if not d.held]
    return min((end for end in ends if end), default=None)
