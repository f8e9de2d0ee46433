"""discovery.json and routes.json: the document's text, weft's own, and whatever else somebody may write there."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import WireError
from weft.model import DiscoveryData, Mac, Network, Node, Peer, Problem, parse_mac
from weft.wire import discovery_data, routes_json, texts
from weft.wire.discovery_data import DiscoveryReader, decode, encode
from weft.wire.routes_json import RuntimeRoute, decode_routes, encode_routes

EXAMPLE = """{
  "version": 1,
  "last_update": "2024-01-15T10:30:00Z",
  "peers": [
    {
      "stack_id": "stack-a",
      "host_ip": "10.0.1.5",
      "vxlan_endpoint": "10.0.1.5:4789",
      "vni": 1000,
      "last_seen": "2024-01-15T10:30:00Z",
      "status": "active"
    },
    {
      "stack_id": "stack-b",
      "host_ip": "10.0.2.6",
      "vxlan_endpoint": "10.0.2.6:4789",
      "vni": 1001,
      "last_seen": "2024-01-15T10:29:45Z",
      "status": "active"
    }
  ]
}
"""
"""The docker-router document, Data Structures 1."""
ROUTES = """{
  "routes": [
    {
      "destination": "172.21.0.0/16",
      "next_hop": "192.168.100.2",
      "interface": "vxlan0",
      "source": "static-config"
    }
  ]
}
"""
"""The same, Data Structures 3."""
NO_MAC = Mac(bytes(6))
THEN = 1705314600.0
A = Node("stack-a", (IPv4Address("10.0.1.5"),), 4789, 1000, NO_MAC, 0, stack="stack-a")
FULL = Node(
    "router-1",
    (IPv4Address("10.0.1.5"), IPv6Address("fd00::5")),
    4790,
    1000,
    parse_mac("82:3d:cd:46:bc:78"),
    1500,
    networks=(
        Network("web", (IPv4Network("172.20.0.0/16"), IPv6Network("fd01::/64")), since=1700000000.25),
        Network("later", (IPv4Network("172.30.0.0/16"),)),
    ),
    overlay=(IPv4Address("192.168.100.1"), IPv6Address("fd02::1")),
    version="0.1.0",
    source="gossip",
    stack="stack-a",
)


def entry(**other: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXAMPLE)["peers"][0]
    return {**found, **other}


def file(*peers: object, **other: Any) -> bytes:
    return json.dumps({"version": 1, "last_update": "2024-01-15T10:30:00Z", "peers": peers, **other}).encode()


def only(body: bytes) -> Node:
    data = decode(body)
    assert data.problems == ()
    (peer,) = data.peers
    return peer.node


def complaint(body: bytes, left: int = 0) -> str:
    """What is said about the one thing that is wrong in the file."""
    data = decode(body)
    assert len(data.peers) == left
    (problem,) = data.problems
    assert (problem.subject, problem.wrong) == ("discovery.json", True)
    return problem.message


def test_the_documents_example_byte_for_byte() -> None:
    data = decode(EXAMPLE.encode())
    b = replace(A, id="stack-b", stack="stack-b", vni=1001, endpoints=(IPv4Address("10.0.2.6"),))
    assert data == DiscoveryData((Peer(A, THEN), Peer(b, THEN - 15)), last_update=THEN)
    assert encode(data, "") == EXAMPLE


def test_what_weft_writes_is_the_documents_with_more() -> None:
    data = DiscoveryData(
        (Peer(FULL, THEN, "stale"),),
        (Peer(replace(FULL, id="here"), THEN),),
        THEN + 0.9,
        False,
        (Problem("etcd", "nobody answers"), Problem("b", "of another VNI", wrong=False)),
    )
    text = encode(data, "gossip")
    assert decode(text.encode()) == replace(data, last_update=THEN)
    raw = json.loads(text)
    assert list(raw) == ["version", "last_update", "peers", "weft"]
    extra = raw["peers"][0].pop("weft")
    assert raw["peers"][0] == entry(
        vxlan_endpoint="10.0.1.5:4790",
        status="stale",
        vxlan_ip="192.168.100.1",
        networks=["172.20.0.0/16", "fd01::/64", "172.30.0.0/16"],
    )
    assert extra["peer_id"] == "router-1"
    assert extra["endpoints"] == ["10.0.1.5", "fd00::5"]
    assert extra["mac"] == "82:3d:cd:46:bc:78"
    assert (raw["weft"]["mode"], raw["weft"]["complete"]) == ("gossip", False)
    assert raw["weft"]["problems"][0] == {"subject": "etcd", "message": "nobody answers"}
    assert raw["weft"]["here"][0]["weft"]["peer_id"] == "here"


def test_a_plain_entry_with_networks_needs_no_more_than_the_document() -> None:
    body = file(entry(vxlan_ip="192.168.100.2", networks=["172.21.0.0/16"], weft=None))
    node = only(body)
    assert node.networks == (Network("172.21.0.0/16", (IPv4Network("172.21.0.0/16"),)),)
    assert node.overlay == (IPv4Address("192.168.100.2"),)
    assert "weft" not in encode(decode(body), "")


def test_a_lone_agent_is_no_stack() -> None:
    """A `weft agent`'s overlay addresses are its bridges': none of them is a vxlan_ip to go through."""
    agent = replace(FULL, stack="", id="host-1")
    text = encode(DiscoveryData((Peer(agent, THEN),), last_update=THEN), "multicast")
    assert decode(text.encode()).peers[0].node == agent
    raw = json.loads(text)["peers"][0]
    assert raw["stack_id"] == "host-1"
    assert "vxlan_ip" not in raw


def test_networks_that_are_not_exposed_are_not_written() -> None:
    node = replace(FULL, networks=(*FULL.networks, Network("own", (IPv4Network("10.9.0.0/24"),), exposed=False)))
    assert "10.9.0.0" not in encode(DiscoveryData((Peer(node, THEN),)), "")


@pytest.mark.parametrize(
    ("written", "port"),
    [("[fd00::5]:4789", 4789), ("fd00::5:4790", 4790), (None, 4789)],
)
def test_an_ipv6_endpoint(written: str | None, port: int) -> None:
    node = only(file(entry(host_ip="fd00::5", vxlan_endpoint=written)))
    assert (node.endpoints, node.port) == ((IPv6Address("fd00::5"),), port)
    assert only(encode(DiscoveryData((Peer(node, 0),)), "").encode()) == node


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vni": "1000"}, r"Expected `int`, got `str` - at `\$.vni`"),
        ({"vni": 1 << 24}, "<= 16777215"),
        ({"stack_id": ""}, "1 to 253 octets of printable text"),
        ({"stack_id": "a\nb"}, "1 to 253 octets of printable text"),
        ({"host_ip": "nonsense", "vxlan_endpoint": None}, "'nonsense' does not appear to be an IPv4 or IPv6 address"),
        ({"host_ip": "127.0.0.1", "vxlan_endpoint": None}, "can't be the address of another host"),
        ({"host_ip": "fe80::1%eth0", "vxlan_endpoint": None}, "has a zone"),
        ({"vxlan_endpoint": "10.9.9.9:4789"}, "is not host_ip '10.0.1.5' with a port"),
        ({"vxlan_endpoint": "10.0.1.5:0"}, "'0' is not a port from 1 to 65535"),
        ({"vxlan_endpoint": "10.0.1.5:4٧89"}, "is not a port"),
        ({"last_seen": "yesterday"}, "RFC3339"),
        ({"last_seen": "2024-01-15T10:30:00"}, "timezone"),
        ({"status": "asleep"}, "Invalid enum value 'asleep'"),
        ({"networks": ["172.20.0.1/16"]}, "172.20.0.1/16 has host bits set"),
        ({"networks": ["10.0.0.0/8"] * 65537}, "65537 networks, and 65536 is the limit"),
        ({"weft": {"mac": "ff:ff:ff:ff:ff:ff"}}, "is not the address of one interface"),
        ({"weft": {"mac": "00:00:00:00:00:00"}}, "is not the address of one interface"),
        ({"weft": {"mtu": 40}}, "an MTU of 40"),
        ({"weft": {"endpoints": ["10.0.1.6"]}}, "host_ip is not the first of the endpoints"),
        ({"weft": {"endpoints": ["10.0.1.5", "10.0.1.6"]}}, "more than one endpoint of one family"),
        ({"vxlan_ip": "192.0.2.1", "weft": {"overlay": ["192.0.2.2"]}}, "vxlan_ip is not the first"),
        ({"weft": {"named": [{"name": "web", "subnets": 2}]}, "networks": ["10.0.0.0/8"]}, "1 subnets, and names"),
        ({"weft": 1}, "Expected `object | null`, got `int`"),
        ({"weft": {"backend": ""}}, "printable text"),
    ],
)  # fmt: skip
def test_a_bad_entry_is_a_problem_and_the_rest_is_kept(change: dict[str, Any], words: str) -> None:
    body = file(entry(**change), entry(stack_id="stack-c"))
    assert re.search(words, complaint(body, left=1))
    assert "peers[0] can't be read and is left out" in complaint(body, left=1)
    assert not decode(body).complete, "it may have been a peer that is there: nobody is removed"
    assert not decode(file(weft={"here": [entry(**change)]})).complete


def test_a_long_text_that_is_at_fault_is_not_repeated_as_a_whole() -> None:
    assert len(complaint(file(entry(host_ip="x" * 100_000, vxlan_endpoint=None)))) < 400


def test_a_thousand_bad_entries_are_fifty_problems_and_one() -> None:
    problems = decode(file(*[1] * 1000)).problems
    assert len(problems) == 51
    assert problems[-1].message == "950 more entries are wrong in one way or another"


def test_of_two_with_one_id_the_active_and_newer_one_holds() -> None:
    old = entry(status="stale", host_ip="10.0.9.9", vxlan_endpoint="10.0.9.9:4789", last_seen="2025-01-01T00:00:00Z")
    older = entry(host_ip="10.0.8.8", vxlan_endpoint="10.0.8.8:4789", last_seen="2023-01-01T00:00:00Z")
    for peers in ((old, entry(), older), (older, entry(), old)):
        data = decode(file(*peers))
        assert [peer.node for peer in data.peers] == [A]
        assert [problem.message for problem in data.problems if "twice" in problem.message] == [
            p.message for p in data.problems
        ]
        assert len(data.problems) == 2
        assert data.complete


def test_this_hosts_own_is_no_peer() -> None:
    data = decode(file(entry(), weft={"here": [entry()]}))
    assert (data.peers, [peer.node for peer in data.here]) == ((), [A])
    assert "one of this host's own and of its peers, too" in data.problems[0].message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"version":1}', file(version=2), file(last_update="now"), b"[" * 100_000, b"\xff"],
)
def test_what_is_no_file_of_version_1(body: bytes) -> None:
    with pytest.raises(WireError, match=r"octets are no discovery.json of version 1: "):
        decode(body)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_data, "MAX_PEERS", 2)
    with pytest.raises(WireError, match="has 3 peers, and 2 is the limit"):
        decode(file(entry(), entry(), entry()))
    monkeypatch.setattr(discovery_data, "LONGEST", 10)
    with pytest.raises(WireError, match="octets, and 10 is the limit"):
        decode(file())
    monkeypatch.setattr(routes_json, "LONGEST", 10)
    with pytest.raises(WireError, match="octets, and 10 is the limit"):
        decode_routes(ROUTES.encode())


def test_problems_of_the_file_can_not_forge_a_log_line() -> None:
    rows = [
        {"subject": "a\nb", "message": "it\x1b[2J broke" + "x" * 5000, "wrong": False},
        *[{"subject": "s", "message": ""}] * 99,
    ]
    problems = decode(file(weft={"problems": rows})).problems
    assert len(problems) == 50
    assert (problems[0].subject, problems[0].wrong) == ("a?b", False)
    assert problems[0].message.startswith("it?[2J broke")
    assert len(problems[0].message) <= texts.SHOWN


def test_times_that_no_calendar_has() -> None:
    for seconds in (float("nan"), float("inf"), -1.0, 1e300):
        data = decode(encode(DiscoveryData((Peer(A, seconds),), last_update=seconds), "").encode())
        assert (data.last_update, data.peers[0].last_seen) == (0.0, 0.0)


def test_unchanged_entries_give_the_very_same_nodes() -> None:
    reader = DiscoveryReader()
    first = reader.decode(file(entry(), entry(stack_id="b")))
    second = reader.decode(file(entry(last_seen="2024-01-15T11:00:00Z"), entry(stack_id="b", vni=7)))
    (b, a), (b2, a2) = ([peer.node for peer in data.peers] for data in (first, second))
    assert a2 is a
    assert (b.vni, b2.vni) == (1000, 7)
    with pytest.raises(WireError):
        reader.decode(b"")
    assert reader.decode(file(entry())).peers[0].node is a


def test_a_thousand_peers_are_read_in_50_ms() -> None:
    base = ip_address("10.1.0.0")
    nodes = (
        replace(FULL, id=f"r{i:04}", stack=f"s{i}", endpoints=(base + i,), overlay=(ip_address("192.168.0.0") + i,))
        for i in range(1000)
    )
    data = DiscoveryData(tuple(Peer(node, THEN) for node in nodes), last_update=THEN)
    body = encode(data, "etcd").encode()
    texts.subnet.cache_clear()
    texts.address.cache_clear()

    def took() -> float:
        start = time.thread_time()
        read = decode(body)
        seconds = time.thread_time() - start
        assert read == data
        return seconds

    assert min(took() for _ in range(5)) < (0.5 if sys.gettrace() is None else 5), "coverage slows it down"


labels = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=20)
v4 = st.integers(0x0A000000, 0x0AFFFFFF).map(IPv4Address)
v6 = st.integers(1, 2**64).map(lambda n: IPv6Address((0xFD00 << 112) + n))
subnets = st.builds(lambda a, n: ip_network((a, n), strict=False), v4, st.integers(8, 32)) | st.builds(
    lambda a, n: ip_network((a, n), strict=False), v6, st.integers(16, 128)
)
networks = st.builds(
    Network,
    labels,
    st.lists(subnets, max_size=3).map(tuple),
    since=st.floats(0, 2e9) | st.just(float("inf")),
)
endpoints = st.tuples(v4) | st.tuples(v6) | st.tuples(v4, v6) | st.tuples(v6, v4)
nodes = st.builds(
    Node,
    id=labels,
    endpoints=endpoints,
    port=st.integers(1, 65535),
    vni=st.integers(0, 2**24 - 1),
    mac=st.binary(min_size=6, max_size=6).map(lambda b: Mac(bytes([b[0] & 0xFE]) + b[1:])),
    mtu=st.just(0) | st.integers(576, 65535),
    networks=st.lists(networks, max_size=3).map(tuple),
    overlay=st.lists(v4 | v6, max_size=2).map(tuple),
    backend=labels,
    version=labels | st.just(""),
    source=labels | st.just(""),
    key=labels | st.just(""),
    stack=labels | st.just(""),
)
peers = st.builds(Peer, nodes, st.integers(0, 2**33).map(float), st.sampled_from(["active", "stale"]))


def by_id(found: list[Peer]) -> tuple[Peer, ...]:
    return tuple(sorted({peer.node.id: peer for peer in found}.values(), key=lambda peer: peer.node.id))


@given(st.lists(peers, max_size=4).map(by_id), st.booleans(), labels | st.just(""))
def test_what_was_written_is_read(found: tuple[Peer, ...], complete: bool, mode: str) -> None:
    here = tuple(replace(peer, node=replace(peer.node, id="~" + peer.node.id)) for peer in found[:1])
    data = DiscoveryData(found, here, 1e9, complete, (Problem("s", "m"),))
    again = decode(encode(data, mode).encode())
    assert [p.node.networks for p in again.peers] == [p.node.networks for p in data.peers]
    assert again == data


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*entry(), "vxlan_ip", "networks", "weft"]), json_values))
def test_whatever_an_entry_says_the_others_are_read(change: dict[str, Any]) -> None:
    data = decode(file(entry(**change), entry(stack_id="another")))
    assert "another" in [peer.node.id for peer in data.peers]
    assert len(data.peers) + len(data.problems) >= 2


@given(st.dictionaries(st.sampled_from(["version", "last_update", "peers", "weft"]), json_values))
def test_whatever_a_file_says_it_is_read_or_refused(change: dict[str, Any]) -> None:
    try:
        decode(file(**change))
    except WireError:
        return


@given(st.binary(max_size=60) | st.integers(0, len(EXAMPLE)).map(lambda n: EXAMPLE[:n].rstrip("}\n ").encode()))
def test_half_a_file_is_no_file(body: bytes) -> None:
    with pytest.raises(WireError):
        decode(body)
    with pytest.raises(WireError):
        decode_routes(body)


def test_the_documents_routes_byte_for_byte() -> None:
    route = RuntimeRoute(ip_network("172.21.0.0/16"), ip_address("192.168.100.2"), "vxlan0", "static-config")
    assert decode_routes(ROUTES.encode()) == (route,)
    assert encode_routes([route]) == ROUTES


def test_routes_are_sorted_and_come_back() -> None:
    rows = tuple(
        RuntimeRoute(ip_network(to), ip_address(via), "vxlan1000", "discovery")
        for to, via in (("10.2.0.0/16", "192.0.2.2"), ("10.2.0.0/16", "192.0.2.10"), ("fd00::/64", "fd01::1"))
    )
    assert decode_routes(encode_routes(reversed(rows)).encode()) == rows
    assert decode_routes(encode_routes([]).encode()) == ()


@pytest.mark.parametrize("field", ["destination", "next_hop", "interface", "source"])
def test_a_row_that_is_no_route(field: str) -> None:
    row = {"destination": "10.0.0.0/8", "next_hop": "192.0.2.1", "interface": "vxlan1", "source": "discovery"}
    assert decode_routes(json.dumps({"routes": [row]}).encode())
    with pytest.raises(WireError, match=r"are no routes.json: "):
        decode_routes(json.dumps({"routes": [{**row, field: ""}]}).encode())
