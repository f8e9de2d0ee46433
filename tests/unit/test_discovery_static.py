"""Static discovery, and which discoveries there are: what `DISCOVERIES` makes of what it may be told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.build import node
from weft.discovery import DISCOVERIES, Discovery, Place
from weft.discovery.etcd import EtcdDiscovery
from weft.discovery.multicast import Multicast
from weft.discovery.static import Static
from weft.errors import SettingsError
from weft.model import Known, Node
from weft.settings.means import EtcdMeans, Means

PLACE = Place("b", "eth0", ip_address("192.0.2.2"), "run-1")


async def test_the_peers_of_the_settings_are_known_at_once_without_this_one() -> None:
    peers = (node("c", "192.0.2.3"), node("b", "192.0.2.2"), node("a", "192.0.2.1", "10.1.0.0/24"))
    static: Discovery = DISCOVERIES["static"](Means(peers=peers), PLACE)
    seen: list[Known[Node]] = []

    async def follow() -> None:
        async for known in static.peers():
            seen.append(known)

    following = asyncio.create_task(follow())
    static.announce(peers[1])
    await asyncio.sleep(0)
    await static.close()
    await static.close()
    await following
    expected = tuple(replace(peer, source="static") for peer in (peers[2], peers[0]))
    assert seen == [Known(expected, complete=True)]
    assert (set(static.departed()), dict(static.counters())) == (set(), {})


def test_the_settings_vouch_for_a_peer_at_any_time() -> None:
    static = Static("a", (node("b", "192.0.2.2"),), wall=lambda: 7.0)
    assert static.last_seen() == {"b": 7.0}


def test_each_discovery_takes_what_is_its_own() -> None:
    multicast = DISCOVERIES["multicast"](Means(plain=True, crowded=True), PLACE)
    assert isinstance(multicast, Multicast)
    assert (multicast._settings.plain, multicast._settings.crowded) == (True, True)
    told = EtcdMeans(("10.0.1.100:2379",), "/docker-router/discovery/", 12, "u", "p")
    etcd = DISCOVERIES["etcd"](Means(etcd=told, plain=True, peer_timeout=9.0), PLACE)
    assert isinstance(etcd, EtcdDiscovery)
    settings = etcd._settings
    assert (settings.prefix, settings.lease_ttl, settings.plain) == ("/docker-router/discovery", 12, True)
    assert (settings.node, settings.peer_timeout) == ("b", 9.0)


def test_an_etcd_that_nobody_named_is_said() -> None:
    with pytest.raises(SettingsError, match="no endpoint"):
        DISCOVERIES["etcd"](Means(), PLACE)
