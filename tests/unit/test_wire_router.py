"""The codec of discovery datagrams: what goes in comes out, nothing private goes in, rubbish raises WireError only."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import WireError
from weft.model import IPAddress, IPNetwork, Mac, Network, Node
from weft.wire.hello import Goodbye, Hello, Query, Stamp, TableSync, merge, plain_node
from weft.wire.router import (
    decode,
    encode_goodbye,
    encode_hello,
    encode_query,
    encode_response,
    read_node,
)

LIMIT = 1395
STAMP = Stamp("5f0c9e", 1_700_000_000_000, 7)
DOCUMENT = b"""{
  "type": "HELLO",
  "version": 1,
  "peer_id": "stack-a-router-1",
  "host_ip": "10.0.1.5",
  "vxlan_ip": "192.168.100.1",
  "vni": 1000,
  "stack_name": "stack-a",
  "networks": ["172.20.0.0/16"]
}"""

labels = st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=60)


def reachable(address: IPAddress) -> bool:
    """It can be the address of another host."""
    nowhere = address.is_multicast or address.is_unspecified or address.is_loopback
    return not nowhere and address != IPv4Address("255.255.255.255")


v4 = st.ip_addresses(v=4).filter(reachable)
v6 = st.ip_addresses(v=6).filter(reachable)
macs = st.binary(min_size=6, max_size=6).map(lambda b: Mac(bytes([b[0] & 0xFE | 2]) + b[1:]))


@st.composite
def subnets(draw: st.DrawFn) -> IPNetwork:
    address = draw(st.ip_addresses())
    length = draw(st.integers(0, address.max_prefixlen))
    return ip_network((address, length), strict=False)


networks = st.builds(
    Network,
    name=labels,
    subnets=st.lists(subnets(), max_size=90).map(tuple),
    since=st.floats(allow_nan=False, min_value=0),
)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    families: list[st.SearchStrategy[IPAddress]] = draw(st.sampled_from([[v4], [v6], [v4, v6], [v6, v4]]))
    return Node(
        id=draw(labels),
        endpoints=tuple(draw(family) for family in families),
        port=draw(st.integers(1, 65535)),
        vni=draw(st.integers(0, 2**24 - 1)),
        mac=draw(macs),
        mtu=draw(st.just(0) | st.integers(576, 65535)),
        networks=tuple(draw(st.lists(networks, max_size=12))),
        overlay=tuple(draw(st.lists(st.ip_addresses(), max_size=30))),
        backend="vxlan",
        version=draw(st.sampled_from(["", "0.1.0"])),
        source="multicast",
    )


@st.composite
def routers(draw: st.DrawFn) -> Node:
    """Nodes of a stack; its name may be the node's own id."""
    me = draw(nodes())
    stack = draw(st.just(me.id) | labels)
    return replace(me, stack=stack, overlay=tuple(draw(st.lists(v4 | v6, max_size=2))))


def node(*names: Network, **fields: Any) -> Node:
    plain = Node("host-a", (IPv4Address("10.0.1.5"),), 4789, 4096, Mac(bytes.fromhex("823dcd46bc78")), 1500, names)
    return replace(plain, source="multicast", **fields)


def heard(bodies: list[bytes]) -> Hello:
    parts = [decode(body) for body in bodies]
    hellos = [part for part in parts if isinstance(part, Hello)]
    assert len(hellos) == len(parts)
    return merge(hellos)


@given(nodes() | routers(), st.booleans())
def test_every_node_comes_back_and_no_datagram_is_too_long(me: Node, query: bool) -> None:
    bodies = encode_hello(me, STAMP, LIMIT, query)
    assert all(len(body) <= LIMIT for body in bodies)
    hello = heard(bodies)
    assert hello.node == me
    assert (hello.stamp, hello.query, hello.endpoints, hello.vni) == (STAMP, query, me.endpoints, me.vni)
    assert hello.subnets == tuple(subnet for network in me.networks for subnet in network.subnets)


@given(nodes() | routers())
def test_without_a_limit_everything_is_in_one_part(me: Node) -> None:
    (body,) = encode_hello(me, STAMP)
    assert read_node(body, "gossip") == replace(me, source="gossip")


@given(st.binary(max_size=300))
def test_random_octets_raise_only_wire_error(octets: bytes) -> None:
    with pytest.raises(WireError):
        decode(octets)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.ip_addresses().map(str),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.data())
def test_a_message_with_any_field_changed_raises_only_wire_error(data: st.DataObject) -> None:
    """Nearly right is harder to survive than random: one field of a good message gets any JSON value."""
    me = node(Network("web", (ip_network("172.20.0.0/16"),)), overlay=(ip_address("172.20.0.1"),))
    whole: dict[str, Any] = json.loads(encode_hello(me, STAMP, LIMIT)[0])
    target = data.draw(st.sampled_from([whole, whole["weft"], whole["weft"]["named"][0]]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(json_values)
    try:
        message = decode(json.dumps(whole).encode())
    except WireError:
        return
    assert isinstance(message, Hello | Goodbye | Query)


@given(st.binary(max_size=6), st.integers(0, 800))
def test_a_cut_or_patched_datagram_raises_only_wire_error(patch: bytes, at: int) -> None:
    body = encode_hello(node(Network("web", (ip_network("172.20.0.0/16"),))), STAMP, LIMIT)[0]
    for changed in (body[:at], body[:at] + patch + body[at + len(patch) :]):
        try:
            decode(changed)
        except WireError:
            continue


def test_deeply_nested_json_is_a_wire_error() -> None:
    with pytest.raises(WireError):
        decode(b'{"type":"HELLO","x":' + b"[" * 60_000)


def test_the_documents_hello_is_understood() -> None:
    hello = decode(DOCUMENT)
    assert hello == Hello(
        peer_id="stack-a-router-1",
        endpoints=(IPv4Address("10.0.1.5"),),
        vni=1000,
        stack_name="stack-a",
        vxlan_ip=IPv4Address("192.168.100.1"),
        subnets=(IPv4Network("172.20.0.0/16"),),
        stamp=None,
        node=None,
    )


def test_ours_holds_every_field_of_the_document() -> None:
    ours = json.loads(encode_hello(node(Network("web", (ip_network("172.20.0.0/16"),))), STAMP, LIMIT)[0])
    document = json.loads(DOCUMENT)
    assert list(ours) == [*document, "weft"]
    assert {key: type(value) for key, value in ours.items() if key != "weft"} == {
        k: type(v) for k, v in document.items()
    }
    assert ours["networks"] == ["172.20.0.0/16"]


def test_a_router_of_a_stack_says_what_the_document_has() -> None:
    router = node(
        Network("internal", (ip_network("172.20.0.0/16"),)),
        id="stack-a-router-1",
        vni=1000,
        stack="stack-a",
        overlay=(ip_address("192.168.100.1"),),
    )
    ours = json.loads(encode_hello(router, STAMP)[0])
    assert ours.pop("weft")["stack"] is True
    assert ours == json.loads(DOCUMENT)
    assert json.loads(encode_response(router, 1))["stack_id"] == "stack-a"


def test_who_is_no_stack_s_names_itself_and_its_endpoint() -> None:
    ours = json.loads(encode_hello(node(overlay=(ip_address("172.20.0.1"),)), STAMP)[0])
    assert (ours["stack_name"], ours["vxlan_ip"], ours["weft"]["stack"]) == ("host-a", "10.0.1.5", False)


def test_an_overlay_address_that_is_not_told_is_no_vxlan_ip() -> None:
    private = Network("secret", (ip_network("10.66.0.0/16"),), exposed=False)
    body = encode_hello(node(private, stack="a", overlay=(ip_address("10.66.0.1"),)), STAMP)[0]
    assert json.loads(body)["vxlan_ip"] == "10.0.1.5"


@pytest.mark.parametrize(
    ("stack_name", "flag", "stack"),
    [("host-a", None, ""), ("", None, ""), ("b", None, "b"), ("host-a", True, "host-a"), ("", True, "host-a")],
)
def test_a_stack_is_one_by_its_name_or_by_the_sender_s_word(stack_name: str, flag: bool | None, stack: str) -> None:
    """A weft before stacks says neither; another program may say the name alone."""
    whole = json.loads(changed(stack_name=stack_name))
    whole["weft"].pop("stack") if flag is None else whole["weft"].update(stack=flag)
    hello = decode(json.dumps(whole).encode())
    assert isinstance(hello, Hello)
    assert hello.node is not None
    assert hello.node.stack == stack


def test_the_plain_form_makes_a_node_that_is_flooded_to() -> None:
    hello = decode(DOCUMENT)
    assert isinstance(hello, Hello)
    told = plain_node(hello, "multicast")
    assert told == Node(
        id="stack-a-router-1",
        endpoints=(IPv4Address("10.0.1.5"),),
        port=4789,
        vni=1000,
        mac=Mac(bytes(6)),
        mtu=0,
        networks=(Network("172.20.0.0/16", (IPv4Network("172.20.0.0/16"),)),),
        overlay=(IPv4Address("192.168.100.1"),),
        source="multicast",
        stack="stack-a",
    )
    bare = replace(hello, stack_name="", vxlan_ip=None, subnets=())
    assert plain_node(bare, "etcd", 4790) == replace(
        told, port=4790, networks=(), overlay=(), source="etcd", stack="stack-a-router-1"
    )


def test_what_is_no_whole_hello_of_weft_s_is_no_node() -> None:
    many = node(*(Network(f"net-{n}", (IPv4Network((f"10.{n}.0.0", 16)),)) for n in range(200)))
    for body in (DOCUMENT, encode_goodbye(node(), STAMP), *encode_hello(many, STAMP, LIMIT)):
        with pytest.raises(WireError, match="no whole HELLO"):
            read_node(body, "gossip")


def test_table_sync_is_known_for_what_it_is() -> None:
    document = b"""{"type": "TABLE_SYNC", "version": 1, "peer_id": "stack-a-router-1", "sequence": 12345,
                    "peers": [{"stack_id": "b", "host_ip": []}], "routes": [1, null, {}]}"""
    assert decode(document) == TableSync("stack-a-router-1")
    for broken in (document.replace(b"12345", b"-1"), document.replace(b"stack-a-router-1", b"")):
        with pytest.raises(WireError):
            decode(broken)


@pytest.mark.parametrize("kind", ["ANNOUNCE", "RESPONSE"])
def test_the_older_announcements_are_understood(kind: str) -> None:
    body = json.dumps(
        {
            "type": kind,
            "version": 1,
            "stack_id": "a",
            "host_ip": "10.0.1.5",
            "vni": 1000,
            "timestamp": "2024-01-15T10:30:00Z",
        }
    )
    hello = decode(body.encode())
    assert isinstance(hello, Hello)
    assert (hello.peer_id, hello.kind, hello.node, hello.vni) == ("a", kind, None, 1000)


def test_the_older_query_is_understood_and_ours_reads_like_it() -> None:
    old = {"type": "QUERY", "version": 1, "stack_id": "a", "host_ip": "10.0.1.5", "vni": 1000, "timestamp": 1.5}
    assert decode(json.dumps(old).encode()) == Query("a", (IPv4Address("10.0.1.5"),), None)
    body = encode_query("a", IPv4Address("10.0.1.5"), STAMP)
    assert decode(body) == Query("a", (IPv4Address("10.0.1.5"),), STAMP)
    assert set(json.loads(body)) == {*old, "weft"}


def test_a_query_tells_nothing_that_would_make_a_peer_of_us() -> None:
    assert not isinstance(decode(encode_query("a", IPv4Address("10.0.1.5"), STAMP)), Hello)


def test_response_and_goodbye() -> None:
    response = encode_response(node(), 1_700_000_000)
    assert json.loads(response) == {
        "type": "RESPONSE",
        "version": 1,
        "stack_id": "host-a",
        "host_ip": "10.0.1.5",
        "vni": 4096,
        "timestamp": 1_700_000_000,
    }
    assert decode(encode_goodbye(node(), STAMP)) == Goodbye("host-a", (IPv4Address("10.0.1.5"),), STAMP)


def test_what_is_not_exposed_is_not_told() -> None:
    private = Network("secret", (ip_network("10.66.0.0/16"),), exposed=False)
    me = node(
        private,
        Network("web", (ip_network("172.20.0.0/16"),)),
        overlay=(ip_address("10.66.0.1"), ip_address("172.20.0.1")),
    )
    bodies = encode_hello(me, STAMP, LIMIT)
    assert b"secret" not in bodies[0]
    assert b"10.66" not in bodies[0]
    told = heard(bodies).node
    assert told is not None
    assert [network.name for network in told.networks] == ["web"]
    assert told.overlay == (ip_address("172.20.0.1"),)


def test_bridges_and_notes_stay_at_home() -> None:
    network = Network("web", (ip_network("172.20.0.0/16"),), "br-1234", 5.0, note="mine")
    told = heard(encode_hello(node(network), STAMP, LIMIT)).node
    assert told is not None
    assert told.networks == (Network("web", network.subnets, since=5.0),)


def test_two_hundred_networks_go_out_in_parts_and_one_long_network_runs_over_parts() -> None:
    many = [Network(f"net-{n}", (IPv4Network((f"10.{n}.0.0", 16)),), since=float(n)) for n in range(200)]
    long = Network("long", tuple(IPv6Network((0xFD00 << 112 | n << 64, 64)) for n in range(150)), since=1.0)
    me = node(*many, long)
    bodies = encode_hello(me, STAMP, LIMIT)
    assert len(bodies) > 5
    assert all(len(body) <= LIMIT for body in bodies)
    assert heard(bodies).node == me


def test_a_name_that_cannot_be_sent_is_shortened_not_refused() -> None:
    told = heard(encode_hello(node(Network("a\nb" + "é" * 200, ()), Network("", ())), STAMP, LIMIT)).node
    assert told is not None
    assert told.networks[0].name == "a?b" + "é" * 125
    assert told.networks[1].name == "?"


@pytest.mark.parametrize(
    "me",
    [
        node(id="a\nb"),
        node(id=""),
        node(endpoints=()),
        node(mtu=575),
        node(mtu=-1),
        node(stack="a\nb"),
        node(mac=Mac(bytes(6))),
        node(stack="a", overlay=(ip_address("239.1.1.1"),)),
    ],
)
def test_a_node_that_nobody_could_read_is_not_sent(me: Node) -> None:
    with pytest.raises(WireError, match="can't be announced"):
        encode_hello(me, STAMP, LIMIT)


def test_what_others_would_refuse_is_not_sent() -> None:
    """One value that can't be would cost this host all its peers."""
    ages = (float("nan"), -1.0, float("inf"), 0.0)
    me = node(*(Network(f"n{n}", (IPv4Network((n << 8, 24)),), since=age) for n, age in enumerate(ages)), mtu=65536)
    told = heard(encode_hello(me, STAMP, LIMIT)).node
    assert told is not None
    assert told.mtu == 65535
    assert [network.since for network in told.networks] == [float("inf")] * 3 + [0.0]


def test_more_networks_than_all_parts_hold_are_an_error_that_says_so() -> None:
    many = (Network("n", tuple(IPv4Network((n << 8, 24)) for n in range(20_000))),)
    with pytest.raises(WireError, match="256 is the limit; expose fewer"):
        encode_hello(node(*many), STAMP, LIMIT)
    with pytest.raises(WireError, match="does not fit"):
        encode_hello(node(*many), STAMP, 430)


def changed(**fields: Any) -> bytes:
    """A good HELLO with some of its fields changed; `weft_x` is x in the member `weft`."""
    me = node(Network("web", (ip_network("172.20.0.0/16"),)), Network("db", (ip_network("172.21.0.0/16"),)))
    whole: dict[str, Any] = json.loads(encode_hello(me, STAMP, LIMIT)[0])
    for key, value in fields.items():
        (whole["weft"] if key.startswith("weft_") else whole)[key.removeprefix("weft_")] = value
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2},
        {"type": "TABLE_ASYNC"},
        {"vxlan_ip": "239.1.1.1"},
        {"vxlan_ip": "0.0.0.0"},
        {"stack_name": "a\nforged log line"},
        {"peer_id": "a\nforged log line"},
        {"peer_id": "x" * 254},
        {"host_ip": "10.0.1.6"},
        {"host_ip": "239.1.1.1", "weft_endpoints": ["239.1.1.1"]},
        {"host_ip": "127.0.0.1", "weft_endpoints": ["127.0.0.1"]},
        {"host_ip": "fe80::1%eth0", "weft_endpoints": ["fe80::1%eth0"]},
        {"weft_endpoints": ["10.0.1.5", "10.0.1.6"]},
        {"weft_endpoints": []},
        {"networks": ["172.20.0.1/16", "172.21.0.0/16"]},
        {"networks": ["172.20.0.0/16"]},
        {"weft_mac": "01:00:5e:01:01:01"},
        {"weft_mac": "00:00:00:00:00:00"},
        {"weft_part": 2},
        {"weft_parts": 257},
        {"weft_port": 0},
        {"vni": 1 << 24},
        {
            "weft_named": [
                {"name": "a", "since": None, "subnets": 1, "more": True},
                {"name": "b", "since": 0, "subnets": 1},
            ]
        },
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    assert isinstance(decode(changed()), Hello)
    with pytest.raises(WireError):
        decode(changed(**fields))


def part(me: Node, number: int, of: int, open_ended: bool = False) -> Hello:
    return Hello(me.id, me.endpoints, me.vni, stamp=STAMP, node=me, part=number, parts=of, open_ended=open_ended)


@pytest.mark.parametrize(
    "parts",
    [
        [part(node(), 1, 2)],
        [part(node(), 2, 2), part(node(), 1, 2)],
        [part(node(Network("a", ())), 1, 1, open_ended=True)],
        [part(node(Network("a", ())), 1, 2, open_ended=True), part(node(), 2, 2)],
        [part(node(Network("a", ())), 1, 2, open_ended=True), part(node(Network("b", ())), 2, 2)],
        [part(node(), 1, 2), replace(part(node(), 2, 2), node=None)],
        [replace(part(node(), 1, 1), node=None)],
    ],
)
def test_parts_that_make_no_whole(parts: list[Hello]) -> None:
    with pytest.raises(WireError):
        merge(parts)


def test_second_family() -> None:
    me = node(endpoints=(IPv4Address("10.0.1.5"), IPv6Address("fd00:99::5")))
    assert heard(encode_hello(me, STAMP, LIMIT)).node == me
