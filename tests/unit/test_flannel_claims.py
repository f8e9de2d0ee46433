"""What another host's lease says is a claim (law 8): what of it reaches a plan, and whom a bad one can harm."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from weft.agent.lease_book import Reader
from weft.core import flannel
from weft.core.acceptance import Policy, accept
from weft.core.flannel import Home, Options
from weft.core.interface import External
from weft.model import Mac
from weft.stores import Entries, Entry, Snapshot
from weft.wire.flannel import (
    Backend,
    BackendData,
    Config,
    Lease,
    Pool4,
    Vtep,
    VxlanBackend,
    WireguardBackend,
    lease_key,
    lease_value,
)
from weft.wire.flannel import WireguardPeer as Peer

POOL = Pool4(IPv4Network("10.5.0.0/16"), 24, IPv4Address("10.5.1.0"), IPv4Address("10.5.255.0"))
OURS, ANNS, BENS = ("A" * 42 + last + "=" for last in "AEI")


def vtep(number: int, vni: int = 1) -> Vtep:
    return Vtep(vni, Mac(bytes([2, 0, 0, 0, 0, number])))


def lease(subnet: str, host: str, data: BackendData) -> Lease:
    kind = "vxlan" if isinstance(data, Vtep) else "wireguard"
    return Lease(IPv4Network(subnet), None, IPv4Address(host), None, kind, data)


def routed(backend: Backend, *others: Lease) -> tuple[dict[str, list[str]], list[str]]:
    """Which subnets of each of these leases the host 192.0.2.1 with 10.5.1.0/24 routes to, and what it complains of."""
    config, options = Config(POOL, None, backend), Options("/network")
    mine = lease("10.5.1.0/24", "192.0.2.1", vtep(1))
    home = Home(External("eth0", 1500, IPv4Address("192.0.2.1")), mine, {4: Mac(bytes([2, 0, 0, 0, 0, 1]))}, OURS)
    me, profile = flannel.me(config, home, (4,)), flannel.profile(config, options, (4,), OURS)
    nodes = [node for one in others if (node := flannel.node(one, config, (4,))) is not None]
    claims, _ = flannel.reachable(nodes, config, {})
    accepted = accept(claims, Policy(me, 4, profile.span, me.networks, ()))
    subnets = {node.id: [str(s) for network in node.networks for s in network.subnets] for node in accepted.nodes}
    return {name: nets for name, nets in subnets.items() if nets}, [p.message for p in accepted.problems]


def test_wireguard_hosts_listen_on_ports_of_their_own() -> None:
    found, problems = routed(
        WireguardBackend(),
        lease("10.5.2.0/24", "192.0.2.2", Peer(ANNS, 0)),  # older flannel tells none
        lease("10.5.3.0/24", "192.0.2.3", Peer(BENS, 4444)),
    )
    assert found == {"10.5.2.0/24": ["10.5.2.0/24"], "10.5.3.0/24": ["10.5.3.0/24"]}
    assert not problems


def test_a_vni_of_which_older_flannel_tells_the_lower_16_bits_is_ours() -> None:
    found, _ = routed(VxlanBackend(vni=70_000), lease("10.5.2.0/24", "192.0.2.2", vtep(2, 70_000 & 0xFFFF)))
    assert found == {"10.5.2.0/24": ["10.5.2.0/24"]}
    found, problems = routed(VxlanBackend(vni=70_000), lease("10.5.2.0/24", "192.0.2.2", vtep(2, 7)))
    assert (found, problems) == ({}, ["node 10.5.2.0/24 is not routed to: its VNI is 7, this host's is 70000"])


def test_a_lease_that_the_same_host_had_by_a_former_config_costs_it_nothing() -> None:
    for before in ("10.4.2.0/24", "10.9.2.0/24"):
        found, problems = routed(
            VxlanBackend(), lease(before, "192.0.2.2", vtep(2)), lease("10.5.2.0/24", "192.0.2.2", vtep(2))
        )
        assert found == {"10.5.2.0/24": ["10.5.2.0/24"]}
        assert any(before in problem for problem in problems)


def test_an_endpoint_in_this_hosts_own_subnet_is_a_containers() -> None:
    found, problems = routed(VxlanBackend(), lease("10.5.2.0/24", "10.5.1.7", vtep(2)))
    assert found == {}
    assert problems == ["node 10.5.2.0/24 is not routed to: its endpoint 10.5.1.7 lies in this host's own network"]


@pytest.mark.parametrize(("wide", "narrow", "holds"), [(9, 2, "10.5.200.0/24"), (2, 9, "10.5.128.0/17")])
def test_of_leases_that_overlap_the_older_one_holds(wide: int, narrow: int, holds: str) -> None:
    """By the revisions at which their keys were made, so a later one around others takes nothing from them."""
    leases = {
        lease("10.5.128.0/17", "192.0.2.9", vtep(9)): wide,
        lease("10.5.200.0/24", "192.0.2.2", vtep(2)): narrow,
    }
    keys = {f"/network/subnets/{lease_key(one)}": (lease_value(one), made) for one, made in leases.items()}
    entries = Entries.of([Entry(key, value, made, made, 1) for key, (value, made) in keys.items()])
    book = Reader("/network").book(Snapshot(entries, 9))
    found, problems = routed(VxlanBackend(), *(held.lease for held in book.held))
    assert found == {holds: [holds]}
    assert f"the older claim of node {holds}" in " ".join(problems)
