"""Leases as nodes: the memory only saves time, and a lease that stays gives the very node that it gave before."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.flannel import Versions, end
from weft.core.roster import Roster
from weft.model import IPAddress, Mac
from weft.wire.flannel import Config, ExtensionBackend, HostGwBackend, Lease, Pool4, Pool6, Vtep, VxlanBackend

POOL4 = Pool4(IPv4Network("10.5.0.0/16"), 24, IPv4Address("10.5.1.0"), IPv4Address("10.5.255.0"))
POOL6 = Pool6(IPv6Network("fc00:5::/48"), 64, IPv6Address("fc00:5:0:1::"), IPv6Address("fc00:5:0:ffff::"))
VXLAN = Config(POOL4, POOL6, VxlanBackend(direct_routing=True))
HOST_GW = Config(POOL4, POOL6, HostGwBackend())
NEAR: dict[IPAddress, str] = {ip_address(f"192.0.2.{i}"): "eth0" for i in range(4)}


def lease(i: int, host: int, backend: str = "vxlan", six: bool = False, created: int = 0) -> Lease:
    return Lease(
        IPv4Network(f"10.5.{i}.0/24"),
        IPv6Network(f"fc00:5:0:{i}::/64") if six else None,
        IPv4Address(f"192.0.2.{host}"),
        IPv6Address(f"fd00:99::{host}") if six else None,
        backend,
        Vtep(1, Mac(bytes([2, 0, 0, 0, 0, host]))) if backend == "vxlan" else None,
        Vtep(1, Mac(bytes([2, 0, 0, 0, 6, host]))) if six and backend == "vxlan" else None,
        created=created,
    )


leases = st.lists(
    st.builds(
        lease,
        st.integers(1, 9),
        st.integers(1, 8) | st.integers(1, 2),
        st.sampled_from(["vxlan", "host-gw", "extension"]),
        st.booleans(),
        st.integers(1, 3),
    ),
    max_size=7,
    unique_by=lambda one: one.subnet,
).map(tuple)
versions: st.SearchStrategy[Versions] = st.sampled_from([(4,), (6,), (4, 6)])


@given(
    st.lists(st.tuples(leases, st.sampled_from([VXLAN, HOST_GW]), st.sampled_from([{}, NEAR])), max_size=5), versions
)
def test_the_memory_changes_nothing(
    steps: list[tuple[tuple[Lease, ...], Config, dict[IPAddress, str]]], version: Versions
) -> None:
    remembered = Roster()
    for now, config, direct in steps:
        remembered = remembered.after(now, config, version, direct)
        assert remembered == Roster().after(now, config, version, direct)
        ids = [node.id for node in (*remembered.claims.made, *(node for node, _ in remembered.faults.made))]
        assert sorted(ids) == sorted(node.id for node in remembered.nodes.made)
        routed = [str(s) for node in remembered.nodes.made for network in node.networks for s in network.subnets]
        told = [str(s) for one in now for s in (one.subnet, one.subnet6) if s is not None and s.version in version]
        assert sorted(routed) == sorted(told)
        ends = [end(node) for node in remembered.nodes.made]
        assert len(set(ends)) == len(ends)


@pytest.mark.parametrize("config", [VXLAN, HOST_GW])
def test_a_lease_that_stays_gives_the_node_that_it_gave(config: Config) -> None:
    backend = "vxlan" if config is VXLAN else "host-gw"
    many = tuple(lease(i, i, backend) for i in range(1, 9))
    first = Roster().after(many, config, (4,), NEAR)
    other = lease(3, 12, backend)
    second = first.after((*many[:2], other, *many[3:]), config, (4,), NEAR)
    assert [i for i, one in enumerate(second.nodes.made) if one is not first.nodes.made[i]] == [2]
    assert {id(claim) for claim in second.claims.made} - {id(claim) for claim in first.claims.made} == {
        id(claim) for claim in second.claims.made if claim.id == "10.5.3.0/24"
    }
    far = [""] if config is VXLAN else []
    assert [claim.direct for claim in first.claims.made[:4]] == ["eth0", "eth0", "eth0", *far]
    third = second.after(many[1:], config, (4,), NEAR)
    assert third.nodes.made[2] is second.nodes.made[3]
    fourth = third.after(many[1:], config, (4,), {**NEAR, ip_address("192.0.2.2"): "eth1"})
    assert [i for i, claim in enumerate(fourth.claims.made) if claim is not third.claims.made[i]] == [0]


def test_several_leases_with_one_end_are_one_node_named_after_the_oldest() -> None:
    own, added, more = lease(7, 2, created=5), lease(3, 2, created=8), lease(9, 2, created=6)
    other = lease(4, 3, created=7)
    found = Roster().after((added, other, own, more), VXLAN, (4,), {})
    assert [node.id for node in found.claims.made] == ["10.5.4.0/24", "10.5.7.0/24"]
    (host,) = (node for node in found.claims.made if node.id == "10.5.7.0/24")
    assert [(network.name, str(*network.subnets), network.since) for network in host.networks] == [
        ("lease", "10.5.7.0/24", 5.0),
        ("10.5.9.0/24", "10.5.9.0/24", 6.0),
        ("10.5.3.0/24", "10.5.3.0/24", 8.0),
    ]
    assert [str(address) for address in host.overlay] == ["10.5.7.0", "10.5.9.0", "10.5.3.0"]
    assert Roster().after((other, own), VXLAN, (4,), {}).claims.made[1].networks == host.networks[:1]


def test_another_mac_or_a_backend_that_is_told_of_each_lease_is_another_node() -> None:
    twin = replace(lease(3, 2), data=Vtep(1, Mac(bytes(5) + b"\x02")))
    assert len(Roster().after((lease(1, 2), twin), VXLAN, (4,), {}).nodes.made) == 2
    told = (lease(1, 2, "extension"), lease(3, 2, "extension"))
    assert len(Roster().after(told, Config(POOL4, None, ExtensionBackend()), (4,), {}).nodes.made) == 2


def test_a_host_of_several_leases_is_made_anew_when_one_of_them_comes_or_goes_and_no_other_host_is() -> None:
    plain = tuple(lease(i, i, created=1) for i in range(3, 9))
    own, added = lease(1, 2, created=2), lease(9, 2, created=3)
    first = Roster().after((own, *plain), VXLAN, (4,), {})
    second = first.after((own, *plain, added), VXLAN, (4,), {})
    assert [i for i, one in enumerate(second.nodes.made) if one is not first.nodes.made[i]] == [0]
    assert len(second.nodes.made[0].networks) == 2
    third = second.after((own, *plain), VXLAN, (4,), {})
    assert third.nodes.made == first.nodes.made
    fourth = second.after((*plain, added), VXLAN, (4,), {})
    assert [node.id for node in fourth.nodes.made][-1] == "10.5.9.0/24"
