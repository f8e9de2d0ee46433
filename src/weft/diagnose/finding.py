"""What is wrong, and what to do about it. Pure; the judges of `judge.py` make them, `page.py` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

import msgspec

from weft.diagnose.facts import Facts, LeaseFacts, LinkFacts
from weft.model import IPAddress, IPNetwork

Severity = Literal["critical", "warning", "note"]
"""critical: traffic is lost; warning: something is not as it should be; note: it is, and worth knowing."""
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "note")


class Root(IntEnum):
    """How near to the root of the trouble: of two findings as bad as each other, the cause stands before its effects
    (a device that is missing before its routes, a blocked port before the host that doesn't answer)."""

    ETCD = 1
    ENTRIES = 2
    LINK = 3
    HOST = 4
    FIREWALL = 5
    CONFLICT = 6
    TABLES = 7
    ROUTES = 8
    ENGINE = 9
    DAEMON = 10
    PATHS = 11
    HEALTH = 12


class Finding(msgspec.Struct, frozen=True):
    """`what`: one sentence; `fix`: what to do, "" where nothing need be done."""

    severity: Severity
    section: str
    what: str
    fix: str = ""
    root: Root = Root.HEALTH


class Own:
    """What of the facts is this host's own, worked out once."""

    def __init__(self, facts: Facts) -> None:
        addresses = frozenset(one.address.ip for one in facts.kernel.addresses)
        self.addresses = addresses
        self.name = facts.host_name
        self.leases = tuple(lease for lease in facts.etcd.leases if self._mine(lease, facts))
        links = {link.name: link for link in facts.kernel.links}
        self.links = links
        self.flannel = _flannel(facts, links)
        self.tunnel = links.get(f"vxlan{facts.own_vni}")

    @property
    def tunnels(self) -> tuple[LinkFacts, ...]:
        return tuple(link for link in (self.flannel, self.tunnel) if link is not None)

    def _mine(self, lease: LeaseFacts, facts: Facts) -> bool:
        return not lease.entry and (lease.public_ip == facts.public_ip or lease.public_ip in self.addresses)


def others(facts: Facts, own: Own) -> tuple[LeaseFacts, ...]:
    """The other hosts' leases whose backend is vxlan, with a VTEP that can be read."""
    mine = frozenset(lease.path for lease in own.leases)
    return tuple(
        lease
        for lease in facts.etcd.leases
        if lease.path not in mine and lease.backend == "vxlan" and lease.mac and not lease.entry
    )


def owner_of(address: IPAddress, facts: Facts) -> str:
    """The host that registered itself with this address, or the address."""
    named = (one.host for one in facts.etcd.hosts if address == one.address or address in one.endpoints)
    return next(named, str(address))


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one.overlaps(other)
    return isinstance(one, IPv6Network) and isinstance(other, IPv6Network) and one.overlaps(other)


def names(words: Iterable[str], most: int = 5) -> str:
    """`a, b, c and 4 more`."""
    every = list(words)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def few(found: Iterable[Finding], most: int = 8) -> Iterator[Finding]:
    """Of many of one kind, the first, and how many more."""
    every = list(found)
    yield from every[:most]
    if len(every) > most:
        last = every[most]
        more = f"and {len(every) - most} more of the same kind"
        yield Finding(last.severity, last.section, more, "see `weft diagnose --json`", last.root)


def _flannel(facts: Facts, links: dict[str, LinkFacts]) -> LinkFacts | None:
    """flannel's device: by the VNI of its config, else any that flannel names so."""
    named = links.get(f"flannel.{facts.etcd.vni}")
    others_ = (link for name, link in links.items() if name.startswith("flannel.") and link.vni)
    return named if named is not None and facts.etcd.vni else next(others_, named)
