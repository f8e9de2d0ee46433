"""Discoveries tell the other hosts about this one and learn theirs. This module holds their one Protocol and table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from weft.model import IPAddress, Known, Node
from weft.settings.means import Means


class Discovery(Protocol):
    """A source of peers, and the way to tell them about this node."""

    @property
    def name(self) -> str: ...

    def announce(self, me: Node) -> None:
        """From now on tell peers this. A value that differs from the last one goes out at once; before the first call
        nothing is told (a HELLO without networks would make the peers drop our routes)."""
        ...

    def peers(self) -> AsyncIterator[Known[Node]]:
        """Yield the full set of peers, sorted by id and without this node, at start and whenever it changed."""
        ...

    def departed(self) -> Collection[str]:
        """Ids of nodes that went of their own accord and said so, as far as that is remembered."""
        ...

    def last_seen(self) -> Mapping[str, float]:
        """Node id → seconds since 1970 when the node was last heard."""
        ...

    def counters(self) -> Mapping[str, int]:
        """How often what happened since the start, for `weft show status`: `received.HELLO`, `refused.malformed`, …"""
        ...

    async def close(self) -> None:
        """Say goodbye if there is a way to, and give up sockets."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a discovery speaks from: this host's id, its uplink and endpoint, a text that is new with each start of the
    program, and the hosts' shared key."""

    node: str
    interface: str
    source: IPAddress
    instance: str
    key: bytes | None = field(default=None, repr=False)


def _multicast(means: Means, place: Place) -> Discovery:
    from weft.discovery.multicast import Multicast
    from weft.discovery.options import MulticastSettings, default_group

    return Multicast(
        MulticastSettings(
            node=place.node,
            interface=place.interface,
            source=place.source,
            instance=place.instance,
            group=means.group or default_group(place.source),
            port=means.port,
            direct=means.direct,
            announce_interval=means.announce_interval,
            peer_timeout=means.peer_timeout,
            goodbye_hold=means.goodbye_hold,
            key=place.key,
            plain=means.plain,
            crowded=means.crowded,
        )
    )


def _etcd(means: Means, place: Place) -> Discovery:
    from weft.discovery.etcd import EtcdDiscovery
    from weft.discovery.options import EtcdSettings
    from weft.stores.etcd import EtcdOptions, EtcdStore

    told = means.etcd
    options = EtcdOptions(
        told.endpoints, told.cafile, told.certfile, told.keyfile, username=told.username, password=told.password
    )
    settings = EtcdSettings(
        node=place.node,
        instance=place.instance,
        prefix=told.prefix.rstrip("/"),
        lease_ttl=told.lease_ttl,
        announce_interval=means.announce_interval,
        peer_timeout=means.peer_timeout,
        goodbye_hold=means.goodbye_hold,
        plain=means.plain,
    )
    return EtcdDiscovery(settings, EtcdStore(options))


def _dns(means: Means, place: Place) -> Discovery:
    from weft.discovery.dns import Dns
    from weft.discovery.dns_options import DnsSettings, parse_key, parse_servers

    told = means.dns
    return Dns(
        DnsSettings(
            node=place.node,
            instance=place.instance,
            domain=told.domain,
            servers=parse_servers(told.server),
            key=parse_key(told.key),
            ttl=told.ttl,
            interval=told.interval,
            peer_timeout=means.peer_timeout,
            goodbye_hold=means.goodbye_hold,
            priority=told.priority,
            weight=told.weight,
            port=means.port,
            plain=means.plain,
        )
    )


def _gossip(means: Means, place: Place) -> Discovery:
    from weft.core.swim_values import PACES
    from weft.discovery.gossip import Gossip
    from weft.discovery.gossip_options import GossipSettings

    return Gossip(
        GossipSettings(
            node=place.node,
            source=place.source,
            instance=place.instance,
            port=means.port,
            seeds=means.gossip.seeds,
            pace=PACES[means.gossip.profile],
            keys=means.gossip.keys or (() if place.key is None else (place.key,)),
            goodbye_hold=means.goodbye_hold,
            fade=means.peer_timeout,
        )
    )


def _static(means: Means, place: Place) -> Discovery:
    from weft.discovery.static import Static

    return Static(place.node, means.peers)


DISCOVERIES: dict[str, Callable[[Means, Place], Discovery]] = {
    "dns": _dns,
    "etcd": _etcd,
    "gossip": _gossip,
    "multicast": _multicast,
    "static": _static,
}
"""What the setting `discovery` may say → the discovery, made from what it may be told and the place. Each imports its
libraries when it is made: a host needs those of one."""
