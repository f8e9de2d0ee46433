"""What HOST_GATEWAY_MAP comes to on this host: for each node that an entry matches, the first hop. Pure; called by
`topology.py`.

The longest prefix wins, and the map overrides whatever is detected. The gateway may itself be matched by another entry:
the first hop is then that one's, and so on. The same map on all hosts is normal, so entries that name this host as the
gateway say nothing to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from weft.core.sight import Course, Place, Sight
from weft.model import IPAddress, IPNetwork, Problem, StaticRoute, Way
from weft.settings.gateways import MAP, MapEntry

LEVELS = 16
"""Entries that may lead from one to the next."""
WAITING = "it is not known yet how this host reaches {}"


@dataclass(frozen=True, slots=True)
class Match:
    """A node that an entry matches: how it is reached, and the endpoint that this is about."""

    course: Course
    entry: MapEntry
    endpoint: IPAddress

    def route(self) -> StaticRoute | None:
        """What an underlay course needs."""
        if self.course.kind != "underlay" or self.course.gateway is None:
            return None
        return StaticRoute(ip_network(self.endpoint), self.course.gateway, self.course.dev, MAP, self.course.rule)


@dataclass(slots=True)
class GatewayMap:
    """`entries`: the most specific first, each with its prefix as (version, mask, masked bits). `owners`: address →
    node. `own`: this host's addresses. `asked`: addresses whose ways decide. `used`: entries that match a node or a
    gateway. `inner`: gateway → the containers' network that it is in."""

    sight: Sight
    entries: tuple[tuple[int, int, int, MapEntry], ...]
    owners: Mapping[IPAddress, Place]
    own: frozenset[IPAddress]
    asked: set[IPAddress] = field(default_factory=set)
    used: set[MapEntry] = field(default_factory=set)
    inner: dict[IPAddress, IPNetwork | None] = field(default_factory=dict)

    @classmethod
    def of(cls, sight: Sight) -> GatewayMap:
        entries = sorted(map(_masked, sight.entries), key=lambda masked: masked[1].bit_count(), reverse=True)
        owners: dict[IPAddress, Place] = {}
        if entries:
            for address, place in _addresses(sight.places):
                owners.setdefault(address, place)
        inside = (a.ip for uplink in sight.uplinks for a in uplink.addresses)
        own = frozenset((*sight.me.endpoints, *inside, *(s.ip for s in sight.me.segments)))
        return cls(sight, tuple(entries), owners, own)

    def match(self, place: Place) -> Match | None:
        """How the map leads to a node; None if no entry speaks of it."""
        if not self.entries:
            return None
        found = [(entry, e) for e in place.endpoints if (entry := self._entry(e)) is not None]
        if not found:
            return None
        entry, endpoint = min(found, key=lambda pair: pair[0].prefix.max_prefixlen - pair[0].prefix.prefixlen)
        course = self._resolve(endpoint, ())
        return Match(course, entry, endpoint) if course is not None else None

    def idle(self) -> Iterable[Problem]:
        """Entries that match no node, after all were asked about: nothing is wrong, unless they were mistyped."""
        for entry in self.sight.entries:
            if entry not in self.used and not any(address in entry.prefix for address in self.own):
                yield Problem(MAP, f"{MAP}: {entry.text} does nothing: no known node is at {entry.prefix}", wrong=False)

    def _entry(self, address: IPAddress) -> MapEntry | None:
        """The most specific entry for an address, other than one that names the address itself as the gateway."""
        version, number = address.version, int(address)
        for of, mask, bits, entry in self.entries:
            if number & mask == bits and version == of and entry.gateway != address:
                self.used.add(entry)
                return entry
        return None

    def _resolve(self, address: IPAddress, chain: tuple[MapEntry, ...]) -> Course | None:
        entry = self._entry(address)
        if entry is None or entry.gateway in self.own:
            return None
        if entry in chain:
            circle = ", ".join(e.text for e in chain[chain.index(entry) :])
            return self._fault(chain[0], f"these entries lead in a circle: {circle}. Remove or change one of them")
        if len(chain) == LEVELS:
            why = f"more than {LEVELS} entries lead on from one to the next. Name a gateway nearer to this host"
            return self._fault(chain[0], why)
        onward = self._onward(entry, address)
        before = self._resolve(onward, (*chain, entry))
        if before is None:
            return self._hop(entry, address, None)
        course = before if before.kind == "none" else self._hop(entry, address, before)
        rule = f"map entry {entry.text}" if course is before else course.rule
        return replace(course, rule=f"{rule}; {onward} in turn: {before.rule}")

    def _onward(self, entry: MapEntry, address: IPAddress) -> IPAddress:
        """The address of the gateway that another entry may speak of: a relay's endpoint, since tunnels end there."""
        gateway = self.owners.get(entry.gateway)
        if gateway is None or self.sight.mode in ("underlay", "fdb") or self._refusal(entry, gateway, address):
            return entry.gateway
        return next((e for e in gateway.endpoints if self._entry(e) is not None), entry.gateway)

    def _hop(self, entry: MapEntry, address: IPAddress, before: Course | None) -> Course:
        """The first hop by this entry. `before`: that to its gateway, if the map speaks of it, too."""
        gateway = self.owners.get(entry.gateway)
        if self.sight.mode in ("auto", "relay"):
            refusal = self._refusal(entry, gateway, address)
            if not refusal and gateway is not None:
                relay = before.relay if before is not None and before.kind == "relay" else gateway.id
                return Course("relay", f"map entry {entry.text}: {entry.gateway} is {gateway.id}, which relays", relay)
            if self.sight.mode == "relay":
                return self._fault(entry, refusal)
        inner = self._inner(entry.gateway)
        if inner is not None:
            own = f"it is inside of {inner}, which is itself reached through the tunnels"
            return self._fault(entry, f"{own}. Name an address that the gateway has on the underlay")
        if self.sight.mode == "fdb":
            return self._forwarded(entry, gateway, before)
        return self._underlay(entry, before)

    def _inner(self, gateway: IPAddress) -> IPNetwork | None:
        """The network of containers that a gateway is in by mistake."""
        if gateway not in self.inner:
            subnets = (*self.sight.span, *(s for place in self.sight.places for s in place.subnets))
            self.inner[gateway] = next((subnet for subnet in subnets if gateway in subnet), None)
        return self.inner[gateway]

    def _refusal(self, entry: MapEntry, gateway: Place | None, address: IPAddress) -> str:
        """Why the gateway can't relay, and what would help; "" if it can."""
        other = "or set HOST_GATEWAY_MODE to auto or underlay"
        if gateway is None:
            known = ", ".join(f"{p.id} ({p.endpoints[0]})" for p in self.sight.places if p.endpoints)
            known = known if len(known) <= 200 else f"{len(self.sight.places)} others"
            return (
                f"{entry.gateway} is no known node's address, so nobody relays there (known: {known or 'none'}). "
                f"Run weft registrar there, {other}"
            )
        if gateway is self.owners.get(address):
            return f"{entry.gateway} is {gateway.id} itself, which is no relay to itself. Name another gateway, {other}"
        if gateway.carries == "none":
            return f"{gateway.id} ({entry.gateway}) relays for nobody. Run weft registrar or flannel there, {other}"
        return ""

    def _underlay(self, entry: MapEntry, before: Course | None) -> Course:
        gateway = entry.gateway
        rule = f"map entry {entry.text}: a host route through"
        if before is not None:
            return replace(before, rule=f"map entry {entry.text}: as {gateway}")
        if gateway not in self.sight.answered:
            self.asked.add(gateway)
            way = self._on_link(gateway)
            if way is None:
                return Course("direct", f"map entry {entry.text}: {WAITING.format(gateway)}")
        else:
            self.asked.add(gateway)
            way = self.sight.ways.get(gateway)
        if way is None:
            segments = ", ".join(f"{a.network} on {u.name}" for u in self.sight.uplinks for a in u.addresses)
            return self._fault(
                entry,
                f"this host has no route to {gateway}, and no known node that relays has this address. Name the "
                f"gateway's address on a segment of this host's ({segments or 'it has none'}), add a route to "
                f"{gateway}, or run weft registrar on the gateway",
            )
        if way.gateway is None:
            return Course("underlay", f"{rule} {gateway} on {way.dev}", gateway=gateway, dev=way.dev)
        rule = f"{rule} {way.gateway} on {way.dev}, which leads to {gateway}"
        return Course("underlay", rule, gateway=way.gateway, dev=way.dev)

    def _forwarded(self, entry: MapEntry, gateway: Place | None, before: Course | None) -> Course:
        if before is not None:
            return replace(before, rule=f"map entry {entry.text}: as {entry.gateway}")
        port = self.sight.port
        problem = ""
        if gateway is not None:
            problem = (
                f"{MAP}: {entry.text} in mode fdb: {gateway.id} ({entry.gateway}) ends tunnels on UDP {port} itself, "
                f"and drops frames that are not for its own MAC. HOST_GATEWAY_MODE=relay lets it relay"
            )
        rule = f"map entry {entry.text}, mode fdb: {entry.gateway} has to forward UDP {port} itself (DNAT)"
        return Course("fdb", rule, gateway=entry.gateway, problem=problem)

    def _on_link(self, gateway: IPAddress) -> Way | None:
        """The way to a gateway on a segment of this host's, before the kernel was asked."""
        devices = (u.name for u in self.sight.uplinks if any(gateway in a.network for a in u.addresses))
        return next((Way(dev) for dev in devices), None)

    def _fault(self, entry: MapEntry, why: str) -> Course:
        return Course("none", f"map entry {entry.text}", problem=f"{MAP}: {entry.text} can't work: {why}")


def _masked(entry: MapEntry) -> tuple[int, int, int, MapEntry]:
    prefix = entry.prefix
    return prefix.version, int(prefix.netmask), int(prefix.network_address), entry


def _addresses(places: Iterable[Place]) -> Iterable[tuple[IPAddress, Place]]:
    """Endpoints before what the nodes say that their uplinks have."""
    for place in places:
        yield from ((endpoint, place) for endpoint in place.endpoints)
    for place in places:
        yield from ((segment.ip, place) for segment in place.segments)
