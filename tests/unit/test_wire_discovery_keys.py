"""A stack's keys in etcd: what goes in comes out, the document's own are understood, rubbish raises WireError only."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.test_wire_router import STAMP, labels, node, nodes, routers
from weft.errors import WireError
from weft.model import Mac, Network, Node
from weft.wire.discovery_keys import (
    NAMES,
    IncompleteError,
    Registration,
    folder,
    owner,
    peer_of,
    read,
    time_text,
    values,
)
from weft.wire.router import encode_hello, read_node

DOCUMENT = {
    "host_ip": b"10.0.1.5",
    "vni": b"1000",
    "vxlan_endpoint": b"10.0.1.5:4789",
    "last_seen": b"2024-01-15T10:30:00Z",
}
SEEN = 1705314600.0
PLAIN = Node(
    id="stack-a",
    endpoints=(ip_address("10.0.1.5"),),
    port=4789,
    vni=1000,
    mac=Mac(bytes(6)),
    mtu=0,
    source="etcd",
    stack="stack-a",
)


@example(replace(node(), id='"a" ', stack=" 'a'"), False, 0)
@given(nodes() | routers(), st.booleans(), st.integers(0, 4_000_000_000))
def test_every_node_comes_back(me: Node, departed: bool, wall: int) -> None:
    assert read(me.id, values(me, STAMP, wall, departed)) == Registration(
        replace(me, source="etcd"), STAMP, departed, float(wall)
    )


def test_the_documents_keys_are_a_plain_peer() -> None:
    assert read("stack-a", DOCUMENT) == Registration(PLAIN, seen=SEEN)


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"host_ip": b'"10.0.1.5"', "vni": b'"1000"\n'}, {}),
        ({"vxlan_endpoint": b""}, {}),
        ({"vxlan_endpoint": b"10.9.9.9:4790"}, {"endpoints": (ip_address("10.9.9.9"),), "port": 4790}),
        ({"host_ip": b"fd00::5", "vxlan_endpoint": b"[fd00::5]:4789"}, {"endpoints": (ip_address("fd00::5"),)}),
        ({"stack_id": b"a"}, {"stack": "a"}),
        ({"vxlan_ip": b'"192.168.100.1"'}, {"overlay": (ip_address("192.168.100.1"),)}),
        (
            {"networks": b'["172.20.0.0/16"]'},
            {"networks": (Network("172.20.0.0/16", (ip_network("172.20.0.0/16"),)),)},
        ),
        ({"networks": b""}, {}),
        ({"color": b"\xff"}, {}),
    ],
    ids=str,
)
def test_what_else_another_program_may_say(fields: dict[str, bytes], changes: dict[str, Any]) -> None:
    assert read("stack-a", {**DOCUMENT, **fields}).node == replace(PLAIN, **changes)


@pytest.mark.parametrize("seen", [b"", None])
def test_a_last_seen_may_be_missing(seen: bytes | None) -> None:
    fields = {**DOCUMENT, "last_seen": seen} if seen is not None else {"host_ip": b"10.0.1.5", "vni": b"1000"}
    assert read("stack-a", fields).seen is None


@pytest.mark.parametrize(
    "fields",
    [
        {"host_ip": b"localhost"},
        {"host_ip": b"\xff"},
        {"vni": b"16777216"},
        {"vni": b"-1"},
        {"vni": b"1e3"},
        {"vni": "١".encode()},
        {"vxlan_endpoint": b"10.0.1.5"},
        {"vxlan_endpoint": b"10.0.1.5:0"},
        {"vxlan_endpoint": b"10.0.1.5:65536"},
        {"vxlan_endpoint": b"127.0.0.1:4789"},
        {"vxlan_ip": b"0.0.0.0"},
        {"networks": b"172.20.0.0/16"},
        {"networks": b'["172.20.0.1/16"]'},
        {"networks": b"[" * 60_000},
        {"stack_id": b"a\nb"},
        {"last_seen": b"yesterday"},
        {"last_seen": b"2024-01-15T10:30:00"},
        {"weft": b"{}"},
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_values_that_make_no_sense_are_refused(fields: dict[str, bytes]) -> None:
    with pytest.raises(WireError, match="the keys of stack-a can't be read"):
        read("stack-a", {**DOCUMENT, **fields})


def test_a_network_that_goes_on_after_the_end_is_refused() -> None:
    fields = values(node(Network("web", (ip_network("172.20.0.0/16"),))), STAMP, 0)
    fields["weft"] = fields["weft"].replace(b'"more":false', b'"more":true')
    with pytest.raises(WireError, match="nothing after it"):
        read("host-a", fields)


@pytest.mark.parametrize("missing", ["host_ip", "vni"])
def test_a_key_that_must_be_there(missing: str) -> None:
    with pytest.raises(IncompleteError, match=missing):
        read("stack-a", {name: value for name, value in DOCUMENT.items() if name != missing})


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), st.binary(max_size=40) | st.text(max_size=20).map(str.encode)))
def test_any_values_raise_only_wire_error(fields: dict[str, bytes]) -> None:
    owner(fields)
    for there in (fields, {**values(node(), STAMP, 0), **fields}):
        try:
            read("stack-a", there)
        except WireError:
            continue


@given(labels)
def test_any_peer_id_has_a_folder_of_its_own(peer_id: str) -> None:
    where = folder("/p", peer_id)
    assert where.count("/") == 3
    assert peer_of(where.split("/")[2]) == peer_id


@pytest.mark.parametrize("segment", ["", "%61", "a%2fb", "%", "%FF", "a\nb", "x" * 254])
def test_what_is_no_folder_of_a_peer_s(segment: str) -> None:
    with pytest.raises(WireError, match="is no peer id"):
        peer_of(segment)


def test_whose_keys_they_are() -> None:
    address, details = owner(values(node(), STAMP, 0, departed=True))
    assert address == "10.0.1.5"
    assert details is not None
    assert (details.instance, details.departed) == (STAMP.instance, True)
    assert owner(DOCUMENT) == ("10.0.1.5", None)
    assert owner({"weft": b"rubbish", "host_ip": b' "10.0.1.5" '}) == ("10.0.1.5", None)
    assert owner({"vni": b"1"}) == ("", None)


def test_what_nobody_would_believe_is_not_written() -> None:
    with pytest.raises(WireError, match="can't be announced"):
        values(node(mac=Mac(bytes(6))), STAMP, 0)


def test_times_are_the_documents() -> None:
    assert time_text(SEEN + 0.9) == "2024-01-15T10:30:00Z"


def test_the_pages_examples_are_what_is_written() -> None:
    """docs/discovery-etcd.md and docs/discovery-multicast.md."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "discovery-etcd.md").read_text().split("## Keys")[1].split("The first four")[0]
    assert set(re.findall(r"(?:stack-a/|^ +)([a-z_]+) {3,}", page, re.M)) == NAMES
    example = (docs / "discovery-multicast.md").read_text().split("beyond them:")[1].split("\n\n")[1]
    hello = read_node(example.encode(), "multicast")
    assert hello.stack == ""
    assert json.loads(encode_hello(hello, STAMP)[0])["weft"].keys() == json.loads(example)["weft"].keys()
