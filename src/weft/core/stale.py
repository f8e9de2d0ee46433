"""Entries of flannel's device that contradict the leases: the ladder's first rung. Pure; called by `agent/healing.py`.

flanneld hears of a lease once and looks at its device never again: what it missed, or what somebody changed, stays
wrong, and a route that somebody deleted stays away. Otherwise weft writes nothing on a device of flanneld's (DESIGN,
"Ownership").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from weft.core import commands
from weft.model import IPAddress, IPNetwork, Mac, mac_text
from weft.objects import ZERO_MAC, Fdb, Neighbour, Op, Route, Why

Entry: TypeAlias = Fdb | Neighbour | Route


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the leases ask of `device`. `fdb`: each VTEP's MAC and the address it is at. `neighbours`: each overlay
    address and its VTEP's MAC. `routes`: each lease's subnet and the overlay address that it is behind. `lost`: the
    VTEPs (their addresses) whose hosts don't answer: what is missing altogether is made for these alone, since flannel
    may well do without (DirectRouting)."""

    device: str
    fdb: Mapping[Mac, IPAddress] = field(default_factory=dict)
    neighbours: Mapping[IPAddress, Mac] = field(default_factory=dict)
    routes: Mapping[IPNetwork, IPAddress] = field(default_factory=dict)
    lost: frozenset[IPAddress] = frozenset()


def corrections(wanted: Wanted, found: Iterable[Entry]) -> tuple[Op, ...]:
    """What is to be changed on the device, each with the reason. Entries that no lease speaks of are left alone."""
    there = [entry for entry in found if entry.dev == wanted.device]
    return (*_neighbours(wanted, there), *_fdb(wanted, there), *_routes(wanted, there))


def relayed(device: str, leases: Mapping[IPAddress, IPNetwork], found: Iterable[Entry]) -> dict[IPAddress, IPAddress]:
    """Whose lease is reached through another one's VTEP, by parts of it that are routed there (`core/plan.py`).
    `leases`: the address of each VTEP and its subnet; the answer: address by address."""
    parts = [(e.dst, e.via) for e in found if isinstance(e, Route) and e.dev == device]
    return {
        address: via
        for address, subnet in leases.items()
        for dst, via in parts
        if via is not None
        and via != address
        and via in leases
        and dst.version == subnet.version
        and dst.prefixlen > subnet.prefixlen
        and dst.network_address in subnet
    }


def reason(op: Op) -> str:
    """One sentence about one correction: what is wrong, and the line that mends it."""
    return f"{op.why.rule}: {commands.lines(op)[0]}"


def _fdb(wanted: Wanted, found: list[Entry]) -> Iterator[Op]:
    entries = {entry.mac: entry for entry in found if isinstance(entry, Fdb) and entry.mac != ZERO_MAC}
    macs = {address: mac for mac, address in wanted.fdb.items()}
    for mac, entry in sorted(entries.items()):
        right = wanted.fdb.get(mac)
        if right is not None and right != entry.dst:
            rule = f"frames for {mac_text(mac)} go to {entry.dst}, its lease is at {right}"
            yield Op("change", Fdb(wanted.device, mac, right), _why(right, rule), entry)
        elif right is None and entry.dst in macs:
            now = mac_text(macs[entry.dst])
            rule = f"{mac_text(mac)} is at {entry.dst} no more, whose lease says {now}"
            yield Op("remove", entry, _why(entry.dst, rule), entry)
    for mac, address in sorted(wanted.fdb.items()):
        if mac not in entries and address in wanted.lost:
            rule = f"nothing says that {mac_text(mac)} is at {address}"
            yield Op("add", Fdb(wanted.device, mac, address), _why(address, rule))


def _neighbours(wanted: Wanted, found: list[Entry]) -> Iterator[Op]:
    entries = {entry.address: entry for entry in found if isinstance(entry, Neighbour)}
    for address, mac in sorted(wanted.neighbours.items(), key=lambda item: (item[0].version, int(item[0]))):
        entry, peer = entries.get(address), wanted.fdb.get(mac, address)
        right = Neighbour(wanted.device, address, mac)
        if entry is not None and entry.mac != mac:
            rule = f"{address} is taken for {mac_text(entry.mac)}, its lease says {mac_text(mac)}"
            yield Op("change", right, _why(peer, rule), entry)
        elif entry is None and peer in wanted.lost:
            yield Op("add", right, _why(peer, f"nothing says which VTEP {address} is at"))


def _routes(wanted: Wanted, found: list[Entry]) -> Iterator[Op]:
    there = {entry.dst for entry in found if isinstance(entry, Route)}
    for subnet, gateway in sorted(wanted.routes.items(), key=lambda item: (item[0].version, item[0])):
        mac = wanted.neighbours.get(gateway)
        peer = wanted.fdb.get(mac, gateway) if mac is not None else gateway
        if subnet not in there and peer in wanted.lost:
            right = Route(subnet, wanted.device, via=gateway, onlink=True)
            yield Op("add", right, _why(peer, f"no route leads to {subnet}, the lease of {peer}"))


def _why(peer: IPAddress, rule: str) -> Why:
    return Why("etcd", str(peer), rule)
