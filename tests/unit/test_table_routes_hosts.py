"""One node for each host, whoever tells of it; and where its packets are sent."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import PRIVATE, network, node
from weft.core.acceptance import Policy, accept
from weft.core.table_routes_hosts import ANY, Hosts, destinations, gather, nobody
from weft.model import Mac, Node

POLICY = Policy(nobody("manager"), ANY, PRIVATE, (), ())


def lease(endpoint: str, *subnets: str, since: float = 1.0) -> Node:
    return replace(
        node(" & ".join(subnets), endpoint, networks=(network("lease", *subnets, since=since),)), source="flannel"
    )


def told(name: str, endpoint: str, *subnets: str, since: float = 1e9, source: str = "registrar") -> Node:
    return replace(node(name, endpoint, networks=(network("web", *subnets, since=since),)), source=source)


def routes(*claims: Node) -> tuple[list[str], list[str]]:
    """`destination>hop`, and what was refused."""
    hosts = gather(claims)
    accepted = accept(hosts.nodes, POLICY)
    made = [f"{one.dst}>{one.via}" for one in destinations(accepted.nodes, hosts).destinations]
    return made, [problem.message for problem in (*hosts.problems, *accepted.problems)]


def test_nobody_is_nothing() -> None:
    assert gather([]) == Hosts()


def test_two_subnets_on_one_host_are_two_routes() -> None:
    """flannel-route-manager had one of them deleted."""
    made, refused = routes(lease("192.0.2.1", "10.0.1.0/24"), lease("192.0.2.1", "10.0.0.0/24", since=2))
    assert (made, refused) == ([f"10.0.{n}.0/24>192.0.2.1" for n in (1, 0)], [])
    (host,) = gather([lease("192.0.2.1", "10.0.1.0/24"), lease("192.0.2.1", "10.0.0.0/24", since=2)]).nodes
    assert (host.id, host.source) == ("10.0.1.0/24", "flannel")


def test_a_subnet_that_two_sources_tell_of_one_host_is_one_claim() -> None:
    claims = lease("192.0.2.1", "10.0.1.0/24"), told("h1", "192.0.2.1", "10.0.1.0/24", "10.0.2.0/24")
    assert routes(*claims) == (["10.0.1.0/24>192.0.2.1", "10.0.2.0/24>192.0.2.1"], [])
    hosts = gather(claims)
    one, two = destinations(hosts.nodes, hosts).destinations
    assert (one.source, one.peer, one.rule) == ("flannel", "10.0.1.0/24", "lease 10.0.1.0/24 of 192.0.2.1")
    assert (two.source, two.peer, two.rule) == ("registrar", "10.0.1.0/24", "network web of 192.0.2.1")
    assert hosts.nodes[0].source == "flannel and registrar"
    assert [s for w in hosts.nodes[0].networks for s in w.subnets] == [ip_network(f"10.0.{n}.0/24") for n in (1, 2)]


def test_the_backend_the_vni_and_the_mac_of_a_host_are_nobodys_business() -> None:
    claims = [
        replace(lease(f"192.0.2.{n}", f"10.0.{n}.0/24"), vni=n, backend=backend, mac=mac, port=n, mtu=100)
        for n, backend, mac in (
            (1, "vxlan", Mac(bytes(6))),
            (2, "alloc", Mac(b"\x01" * 6)),
            (3, "host-gw", nobody("").mac),
        )
    ]
    assert routes(*claims) == ([f"10.0.{n}.0/24>192.0.2.{n}" for n in (1, 2, 3)], [])


@pytest.mark.parametrize(
    ("claim", "made"),
    [
        (lease("192.0.2.1,fd99::1", "10.0.1.0/24", "fd00:1::/64"), ["10.0.1.0/24>192.0.2.1", "fd00:1::/64>fd99::1"]),
        (lease("192.0.2.1", "10.0.1.0/24", "fd00:1::/64"), ["10.0.1.0/24>192.0.2.1", "fd00:1::/64>192.0.2.1"]),
        (lease("fd99::1", "10.0.1.0/24", "fd00:1::/64"), ["10.0.1.0/24>fd99::1", "fd00:1::/64>fd99::1"]),
        (lease("fd99::1", "fd00:1::/64"), ["fd00:1::/64>fd99::1"]),
    ],
)
def test_a_hop_is_of_the_subnets_own_family_or_else_of_the_other(claim: Node, made: list[str]) -> None:
    assert routes(claim) == (made, [])


def test_an_address_that_another_source_knows_of_the_host_will_do() -> None:
    claims = lease("192.0.2.1", "fd00:1::/64"), told("h1", "192.0.2.1,fd99::1", "10.0.1.0/24")
    assert routes(*claims)[0] == ["fd00:1::/64>fd99::1", "10.0.1.0/24>192.0.2.1"]


def test_claims_that_a_third_one_joins_are_one_host() -> None:
    claims = [
        lease("192.0.2.1", "10.0.1.0/24"),
        lease("fd99::1", "fd00:1::/64", since=2),
        lease("192.0.2.1,fd99::1", "10.0.3.0/24", since=3),
        lease("192.0.2.9", "10.0.9.0/24"),
    ]
    nodes = gather(claims).nodes
    assert [n.id for n in nodes] == ["10.0.1.0/24", "10.0.9.0/24"]
    assert nodes[0].endpoints == (ip_address("192.0.2.1"), ip_address("fd99::1"))
    assert gather(claims[::-1]) == gather(claims)


def test_two_hosts_of_one_name_are_two() -> None:
    nodes = gather(
        [told("h1", "192.0.2.1", "10.0.1.0/24"), told("h1", "192.0.2.2", "10.0.2.0/24", source="agents")]
    ).nodes
    assert [n.id for n in nodes] == ["h1", "h1 (registrar: 192.0.2.1)"]


def test_networks_that_are_not_exposed_are_left_out() -> None:
    claim = node("h1", "192.0.2.1", networks=(network("a", "10.0.1.0/24"), network("b", "10.0.2.0/24", exposed=False)))
    assert routes(claim) == (["10.0.1.0/24>192.0.2.1"], [])
    shy = node("h2", "192.0.2.2", networks=(network("b", "10.0.3.0/24", exposed=False),))
    assert [n.networks for n in gather([shy]).nodes] == [()]


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "127.0.0.1", "127.9.9.9", "169.254.1.1", "224.0.0.1", "255.255.255.255"]
)
def test_no_route_leads_to_what_is_no_hosts_address(address: str) -> None:
    made, refused = routes(lease(address, "10.0.1.0/24"), lease("192.0.2.2", "10.0.2.0/24"))
    assert made == ["10.0.2.0/24>192.0.2.2"]
    assert refused == [f"flannel's 10.0.1.0/24: no route can lead to {address}"]


@pytest.mark.parametrize("address", ["::", "::1", "fe80::1", "ff02::1"])
def test_the_other_address_of_such_a_host_is_taken(address: str) -> None:
    made, refused = routes(lease(f"192.0.2.1,{address}", "10.0.1.0/24", "fd00:1::/64"))
    assert made == ["10.0.1.0/24>192.0.2.1", "fd00:1::/64>192.0.2.1"]
    assert refused == [
        f"flannel's 10.0.1.0/24 & fd00:1::/64: no route can lead to {address}; its other address is taken"
    ]


def test_who_tells_no_address_is_named() -> None:
    silent = replace(lease("192.0.2.1", "10.0.1.0/24"), endpoints=())
    assert routes(silent) == ([], ["flannel's 10.0.1.0/24 is not routed to: it tells no address"])


def test_of_two_hosts_that_claim_one_subnet_the_older_holds_and_both_are_named() -> None:
    made, refused = routes(
        lease("192.0.2.2", "10.0.1.0/24", "10.0.2.0/24", since=7), told("h1", "192.0.2.1", "10.0.0.0/20", since=3)
    )
    assert made == ["10.0.0.0/20>192.0.2.1"]
    assert len(refused) == 2
    assert all("h1" in text and "10.0.1.0/24 & 10.0.2.0/24" in text for text in refused)


@pytest.mark.parametrize("bad", ["0.0.0.0/0", "127.0.0.0/24", "169.254.0.0/24", "224.0.0.0/24", "8.8.8.0/24", "::/0"])
def test_one_bad_lease_takes_no_other_along(bad: str) -> None:
    made, refused = routes(
        lease("192.0.2.1", bad), lease("192.0.2.1", "10.0.1.0/24"), lease("192.0.2.2", "10.0.2.0/24")
    )
    assert sorted(made) == ["10.0.1.0/24>192.0.2.1", "10.0.2.0/24>192.0.2.2"]
    assert len(refused) == 1
    assert bad in refused[0]


POOL = [
    *(lease(f"192.0.2.{n % 3}", f"10.0.{n}.0/24", since=n) for n in range(1, 6)),
    told("h1", "192.0.2.1,fd99::1", "10.0.1.0/24", "10.1.0.0/24"),
    told("h1", "fd99::2", "10.2.0.0/24", source="agents"),
    lease("fd99::1,fd99::2", "10.3.0.0/24", since=9),
    lease("127.0.0.1", "10.4.0.0/24"),
    lease("192.0.2.7", "10.0.0.0/22", since=9),
]


@given(st.lists(st.frozensets(st.sampled_from(range(len(POOL)))), min_size=2, max_size=6))
def test_memory_never_changes_the_result(history: list[frozenset[int]]) -> None:
    hosts, asked, accepted = None, None, None
    for step in history:
        claims = [POOL[n] for n in sorted(step)]
        hosts = gather(claims, hosts)
        accepted = accept(hosts.nodes, POLICY, accepted)
        asked = destinations(accepted.nodes, hosts, asked)
        anew = gather([replace(claim) for claim in claims])
        assert hosts == anew
        assert asked.destinations == destinations(accept(anew.nodes, POLICY).nodes, anew).destinations


def test_what_is_the_same_is_not_made_anew() -> None:
    first = gather(POOL[:2])
    second = gather(POOL[:3], first)
    assert second.nodes[0] is first.nodes[0]
    assert second.nodes != first.nodes
