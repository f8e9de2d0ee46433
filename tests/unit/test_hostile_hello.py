"""Whatever HELLO the codec lets through, nothing behind it may fall over: acceptance, the plan, the kernel's encoders.

A HELLO that passed the codec and broke an encoder would stop every agent that heard it, all at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.build import VNI, node, uplink, view
from weft.core.acceptance import Policy, accept
from weft.core.plan import plan
from weft.errors import WireError
from weft.model import Host, Node, Profile
from weft.targets.kernel.writing import ENCODERS
from weft.wire.hello import Hello
from weft.wire.router import decode

ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
"""The most trusting setting of `allowed`."""


def edges(*numbers: int) -> st.SearchStrategy[int]:
    """The edges, what is just beside them, and anything else."""
    return st.sampled_from([n + off for n in numbers for off in (-1, 0, 1)]) | st.integers(-(2**63), 2**63)


odd_labels = st.text(max_size=20) | st.sampled_from(["a", "\n", "x" * 253, "x" * 254, "\u2028", "é" * 127])
endpoint_texts = st.ip_addresses().map(str) | st.sampled_from(
    [
        "10.0.1.5",
        "fd00:99::5",
        "192.0.2.1",
        "0.0.0.0",
        "255.255.255.255",
        "fe80::1",
        "::",
        "::ffff:10.0.1.5",
        "fe80::1%9",
    ]
)
odd_subnets = st.builds(
    lambda address, length: f"{address}/{length}",
    st.ip_addresses() | st.sampled_from(["10.2.0.0", "0.0.0.0", "255.255.255.255", "::", "fd00::%1", "fd00::%\n"]),
    st.sampled_from([-1, 0, 1, 8, 16, 31, 32, 33, 64, 127, 128, 129]),
)


@st.composite
def subnets(draw: st.DrawFn) -> str:
    address = draw(st.ip_addresses() | st.sampled_from([ip_address("10.2.0.0"), ip_address("fd00:2::")]))
    length = draw(st.sampled_from([0, 1, 8, 16, address.max_prefixlen - 1, address.max_prefixlen]))
    return str(ip_network((address, length), strict=False))


macs = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":")) | st.sampled_from(["", "02:00:00:00:00"])
ages = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([None, -1, -0.0, 0, 1e308, 2**63])
networks = st.lists(
    st.tuples(odd_labels | st.just("web"), ages | st.just(1.0), st.lists(subnets() | odd_subnets, max_size=3)),
    max_size=3,
)
FIELDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "peer_id": ("b", odd_labels),
    "vni": (VNI, edges(0, 2**24 - 1)),
    "stack_name": ("b", odd_labels),
    "instance": ("i", odd_labels),
    "epoch": (1, edges(0, 2**53)),
    "seq": (1, edges(0, 2**53)),
    "software": ("0.1.0", odd_labels),
    "endpoints": (["10.0.1.5", "fd00:99::5"], st.lists(endpoint_texts, min_size=1, max_size=2)),
    "port": (4789, edges(1, 65535)),
    "mac": ("02:00:00:00:00:05", macs),
    "backend": ("vxlan", odd_labels),
    "mtu": (1500, edges(0, 50, 576, 2**31)),
    "overlay": ([], st.lists(endpoint_texts, max_size=2)),
    "named": ([("web", 1.0, ["10.2.0.0/16", "fd00:2::/64"])], networks),
}
"""What a good HELLO says, and what a bad one might."""


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """One datagram's body with one or two odd fields: where everything is odd, nothing gets past the codec."""
    odd = draw(st.sets(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=2))
    said = {name: draw(other) if name in odd else usual for name, (usual, other) in FIELDS.items()}
    named = said.pop("named")
    head = {name: said.pop(name) for name in ("peer_id", "vni", "stack_name")}
    listed = [subnet for _, _, texts in named for subnet in texts]
    details = {"part": 1, "parts": 1, "query": False, **said}
    details["named"] = [{"name": n, "since": since, "subnets": len(texts)} for n, since, texts in named]
    whole = {"type": "HELLO", "version": 1, "host_ip": said["endpoints"][0], "networks": listed, **head}
    return json.dumps({**whole, "weft": details}).encode()


def hello(mtu: int = 1500, subnet: str = "10.2.0.0/16", since: float | None = 1.0, stack_name: str = "b") -> bytes:
    whole = {
        "type": "HELLO",
        "version": 1,
        "peer_id": "b",
        "host_ip": "10.0.1.5",
        "vni": VNI,
        "stack_name": stack_name,
        "networks": [subnet],
    }
    details = {"instance": "i", "epoch": 1, "seq": 1, "part": 1, "parts": 1, "query": False, "software": "0.1.0"}
    tunnel = {"endpoints": ["10.0.1.5"], "port": 4789, "mac": "02:00:00:00:00:05", "backend": "vxlan", "mtu": mtu}
    named = [{"name": "web", "since": since, "subnets": 1, "more": False}]
    return json.dumps({**whole, "weft": {**details, **tunnel, "overlay": [], "named": named}}).encode()


def survives(claims: Sequence[Node], underlay: int = 4) -> int:
    """Take these claims as far as the kernel's socket; the number of requests made."""
    me = node("a", "192.0.2.1,fd00:99::1", "10.1.0.0/24", "fd00:1::/64")
    uplinks = (uplink("eth0", "192.0.2.1/24", "fd00:99::1/64"),)
    accepted = accept(claims, Policy(me, underlay, ANYWHERE, me.networks, uplinks))
    requests = 0
    for nexthop_objects in (True, False):
        host, profile = Host(uplinks, nexthop_objects=nexthop_objects), Profile(underlay=underlay)
        wanted = plan(
            replace(view(me=me, networks=me.networks, host=host, profile=profile), nodes=accepted.nodes)
        ).wanted
        for thing, _ in wanted.values():
            if type(thing) in ENCODERS:
                requests += len(ENCODERS[type(thing)]([("add", thing)], 7, 1))
    for problem in accepted.problems:
        assert problem.message.isprintable(), "a claim has forged a line of the log"
    return requests


@settings(max_examples=200, deadline=None)
@example([hello(mtu=40)], 4)
@given(st.lists(bodies(), min_size=1, max_size=3), st.sampled_from([4, 6]))
def test_no_hello_that_decodes_breaks_anything_behind_the_codec(said: list[bytes], underlay: int) -> None:
    claims: dict[str, Node] = {}
    for body in said:
        try:
            message = decode(body)
        except WireError:
            continue
        assert isinstance(message, Hello)
        assert message.node is not None
        claims[message.node.id] = message.node
    survives(list(claims.values()), underlay)


@pytest.mark.parametrize("mtu", [0, 576, 577, 1499, 1501, 65535])
def test_a_possible_mtu_is_understood(mtu: int) -> None:
    message = decode(hello(mtu))
    assert isinstance(message, Hello)
    assert message.node is not None
    assert message.node.mtu == mtu
    requests = survives([message.node])
    assert requests or mtu < 1280, "acceptance may ask for more than the codec"


@pytest.mark.parametrize("mtu", [-1, 1, 40, 50, 575, 65536, 2**31])
def test_an_impossible_mtu_is_malformed(mtu: int) -> None:
    with pytest.raises(WireError):
        decode(hello(mtu))


@pytest.mark.parametrize(
    "body",
    [
        hello(since=-1.0),
        hello(since=-1e-300),
        hello().replace(b'"since": 1.0', b'"since": 1e400'),
        hello().replace(b'"since": 1.0', b'"since": NaN'),
        hello(subnet="fd00:2::%1/64"),
        hello(subnet="fd00:2::%\nforged log line/64"),
        hello(subnet="10.2.0.0/33"),
        hello(stack_name="b\nforged log line"),
    ],
    ids=str,
)
def test_other_values_that_no_host_has_are_malformed(body: bytes) -> None:
    with pytest.raises(WireError):
        decode(body)
