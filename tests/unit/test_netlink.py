"""The netlink codec: any bytes are decoded or refused with its own error, and what we encode has the kernel's form."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from weft.errors import KernelError, NetlinkDecodeError
from weft.model import Mac, parse_mac
from weft.objects import Fdb, Key, Neighbour, NextHop, NextHopGroup, Object, Route
from weft.targets.kernel import bulk, codec
from weft.targets.kernel.bpf import facts_filter, listening_filter, underlay_filter
from weft.targets.kernel.bulk import Addresses, Bulk, Unlike
from weft.targets.kernel.codec import HEADER, Message
from weft.targets.kernel.constants import (
    NHA_FDB,
    NHA_GROUP,
    NHA_GROUP_TYPE,
    NHA_ID,
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLM_F_CREATE,
    NLM_F_DUMP_INTR,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLMSG_ERROR,
    RTA_MULTIPATH,
    RTM_DELNEIGH,
    RTM_DELNEXTHOP,
    RTM_DELROUTE,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
)
from weft.targets.kernel.entries import decode_entry, encode_fdb, encode_neighbours
from weft.targets.kernel.groups import encode_groups
from weft.targets.kernel.hops import decode_hop, decode_route, encode_hops, encode_routes
from weft.targets.kernel.host import default_routes
from weft.targets.kernel.links import decode_address, decode_link
from weft.targets.kernel.socket import DumpInterrupted, complete
from weft.targets.kernel.sysctl import forwarding_of

DEV = "vxlan100"
INDEX = 7
NAMES = {INDEX: DEV}
PEER = parse_mac("02:00:00:00:00:02")
VIA = ip_address("192.0.2.2")
VIA6 = ip_address("fe80::2")

DECODERS: dict[str, Callable[[Message], object]] = {
    "link": decode_link,
    "address": decode_address,
    "entry": lambda message: decode_entry(message, NAMES),
    "hop": lambda message: decode_hop(message, NAMES, {INDEX: DEV}),
    "route": lambda message: decode_route(message, NAMES, {}),
    "answer": codec.answer,
    "netconf": forwarding_of,
}

HEADS = {
    "link": struct.pack("=BxHiII", 0, 1, INDEX, 1, 0),
    "address": struct.pack("=BBBBI", 2, 24, 0, 0, INDEX),
    "entry": struct.pack("=BxxxiHBB", 2, INDEX, 0x80, 0, 1),
    "hop": struct.pack("=BBBxI", 2, 0, 76, 4),
    "route": struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 76, 0, 1, 0),
    "answer": struct.pack("=i", -22),
    "netconf": struct.pack("=Bxxx", 2),
}
"""Fixed parts of which each decoder looks at the attributes behind them."""

values = st.sampled_from([b"", INDEX.to_bytes(4, "little"), b"\xff" * 5, bytes(16)]) | st.binary(max_size=24)
attributes = st.lists(st.builds(codec.attribute, st.integers(0, 40) | st.integers(0, 0xFFFF), values), max_size=8)


def message(kind: int, body: bytes, flags: int = 0) -> Message:
    return Message(kind, flags, 1, 0, body)


@pytest.mark.parametrize("name", DECODERS)
@given(body=st.binary(max_size=200), flags=st.integers(0, 0xFFFF))
@example(body=b"", flags=0)
def test_any_bytes_are_decoded_or_refused_with_the_codecs_own_error(name: str, body: bytes, flags: int) -> None:
    with contextlib.suppress(NetlinkDecodeError):
        DECODERS[name](message(RTM_NEWLINK, body, flags))


@pytest.mark.parametrize("name", DECODERS)
@given(found=attributes, cut=st.integers(0, 3))
def test_any_attributes_are_decoded_or_refused_with_the_codecs_own_error(
    name: str, found: list[bytes], cut: int
) -> None:
    body = HEADS[name] + b"".join(found)
    with contextlib.suppress(NetlinkDecodeError):
        DECODERS[name](message(RTM_NEWLINK, body[: len(body) - cut], NLM_F_ACK_TLVS))


@pytest.mark.parametrize("name", ["address", "entry", "hop", "route"])
def test_an_address_of_five_octets_is_refused(name: str) -> None:
    five = b"".join(codec.attribute(kind, bytes(5)) for kind in (1, 2, 6, 7))
    with pytest.raises(NetlinkDecodeError, match="from the kernel can't be read"):
        DECODERS[name](message(RTM_NEWLINK, HEADS[name] + five + codec.u32(5, INDEX) + codec.u32(4, INDEX)))


@given(st.binary(max_size=300))
def test_any_bytes_are_cut_into_messages_or_refused(data: bytes) -> None:
    with contextlib.suppress(NetlinkDecodeError):
        found = list(codec.messages(data))
        assert sum(codec.align(16 + len(m.body)) for m in found) >= len(data)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=200))
def test_any_bytes_go_the_fast_way_or_are_unlike(kind: int, flags: int, body: bytes) -> None:
    decoder = Bulk(INDEX, DEV, Addresses(), {})
    buffer = HEADER.pack(16 + len(body), kind, flags, 1, 0) + body
    for read in (decoder.fdb, decoder.hops, lambda b: decoder.routes(4, b), lambda b: decoder.neighbours(6, b)):
        with contextlib.suppress(Unlike):
            read(buffer)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x10\0\0", "less than a netlink header"),
        (struct.pack("=IHHII", 15, 16, 0, 0, 0), "says it has 15 octets"),
        (struct.pack("=IHHII", 17, 16, 0, 0, 0), "says it has 17 octets; 16 came"),
    ],
)
def test_a_message_of_a_wrong_length_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(NetlinkDecodeError, match=says):
        list(codec.messages(data))


@pytest.mark.parametrize("length", [0, 3, 9])
def test_an_attribute_of_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(NetlinkDecodeError, match="attribute 5"):
        codec.attributes(struct.pack("=HH4x", length, 5))


def test_attributes_come_without_padding_and_without_their_flags() -> None:
    data = codec.attribute(1, b"abc") + codec.nested(2, codec.u32(3, 9))
    found = codec.attributes(data)
    assert found[1] == b"abc"
    assert codec.number(codec.attributes(found[2])[3]) == 9


def test_an_answer_holds_errno_and_the_kernels_words() -> None:
    words = codec.text(1, "Nexthop has invalid gateway")
    asked = HEADER.pack(48, RTM_NEWNEXTHOP, 0, 5, 0)
    body = struct.pack("=i", -22) + asked + words
    answer = codec.answer(message(NLMSG_ERROR, body, NLM_F_CAPPED | NLM_F_ACK_TLVS))
    assert (answer.number, answer.text) == (22, "Nexthop has invalid gateway")
    assert str(KernelError(answer.number, "add x", answer.text)) == "add x: EINVAL: Nexthop has invalid gateway"


def test_an_answer_of_an_old_kernel_repeats_the_request() -> None:
    asked = HEADER.pack(20, RTM_NEWNEXTHOP, 0, 5, 0) + b"abcd"
    body = struct.pack("=i", -2) + asked + codec.text(1, "no")
    assert codec.answer(message(NLMSG_ERROR, body, NLM_F_ACK_TLVS)).text == "no"


def test_a_dump_under_which_the_table_changed_is_not_complete() -> None:
    with pytest.raises(DumpInterrupted):
        list(complete(HEADER.pack(16, RTM_NEWROUTE, NLM_F_DUMP_INTR, 1, 0)))


def test_of_a_dump_of_routes_only_the_default_ones_are_decoded() -> None:
    default = HEADER.pack(28, RTM_NEWROUTE, 0, 1, 0) + struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0)
    other = HEADER.pack(33, RTM_NEWROUTE, 0, 1, 0) + struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 3, 0, 1, 0) + bytes(8)
    assert [m.body[1] for m in default_routes(other + default + other)] == [0]
    with pytest.raises(DumpInterrupted):
        list(default_routes(other + HEADER.pack(36, RTM_NEWROUTE, NLM_F_DUMP_INTR, 1, 0) + other[16:]))


@given(data=st.binary(max_size=100))
@example(data=bytes(40))
@example(data=HEADER.pack(400, RTM_NEWROUTE, 0, 1, 0) + b"\2\x18" + bytes(10))
def test_any_bytes_are_passed_over_or_refused(data: bytes) -> None:
    with contextlib.suppress(NetlinkDecodeError, DumpInterrupted):
        assert sum(len(m.body) + 16 for m in default_routes(data)) <= len(data)


ROUTES = (
    Route(ip_network("10.2.0.0/16"), DEV, nexthop=9, metric=100),
    Route(ip_network("10.3.0.0/24"), DEV, nexthop=9, metric=100, src=ip_address("10.0.0.1"), mtu=1400),
    Route(ip_network("10.4.0.0/24"), DEV, via=VIA, onlink=True, metric=1, table=1000),
    Route(ip_network("10.5.0.0/24"), DEV, via=VIA6, onlink=True),
    Route(ip_network("10.6.0.0/24"), DEV),
    Route(ip_network("fd00:2::/64"), DEV, nexthop=9, metric=100, src=ip_address("fd00::1")),
    Route(ip_network("fd00:3::/64"), DEV, via=VIA6, metric=100),
)


def requests(encoded: list[bytes]) -> list[Message]:
    return [m for data in encoded for m in codec.messages(data)]


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_a_route_is_decoded_as_it_was_encoded(route: Route) -> None:
    (asked,) = requests(encode_routes([("add", route)], INDEX, 1))
    assert (asked.kind, asked.flags & (NLM_F_CREATE | NLM_F_EXCL)) == (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL)
    state = decode_route(asked, NAMES, {9: DEV})
    assert state is not None
    assert (state.key, state.route, state.protocol) == (route.key, route, 76)


@pytest.mark.parametrize("action", ["change", "remove"])
def test_what_a_routes_request_may_do(action: str) -> None:
    (asked,) = requests(encode_routes([(action, ROUTES[0])], INDEX, 1))
    kind, flags = (RTM_NEWROUTE, NLM_F_REPLACE) if action == "change" else (RTM_DELROUTE, 0)
    assert (asked.kind, asked.flags & ~1) == (kind, flags)


def test_routes_of_each_protocol_are_removed_by_their_own() -> None:
    things = [msgspec.structs.replace(ROUTES[4], protocol=protocol) for protocol in (76, 3, 76)]
    asked = requests(encode_routes([("remove", thing) for thing in things], INDEX, 1))
    assert [message.body[5] for message in asked] == [76, 3, 76]
    with pytest.raises(ValueError, match="protocol 3"):
        encode_routes([("add", things[1])], INDEX, 1)


@pytest.mark.parametrize("hop", [NextHop(0x70000001, DEV, VIA), NextHop(0x70000002, DEV, VIA6, onlink=False)], ids=str)
def test_a_next_hop_is_decoded_as_it_was_encoded(hop: NextHop) -> None:
    (asked,) = requests(encode_hops([("add", hop)], INDEX, 1))
    state = decode_hop(asked, NAMES, {})
    assert (state.hop, state.ours) == (hop, True)


GROUP = NextHopGroup(0x60000001, DEV, (5, 0x70000001))
MINE = {5: DEV, 0x70000001: DEV, 6: "vxlan9"}


def test_a_group_is_decoded_as_it_was_encoded() -> None:
    encoded = encode_groups([("add", GROUP), ("change", GROUP), ("remove", GROUP)], INDEX, 1)
    added, changed, removed = requests(encoded)
    state = decode_hop(added, NAMES, MINE)
    assert (state.hop, state.ours, state.members) == (GROUP, True, GROUP.members)
    assert decode_hop(changed, NAMES, MINE) == state
    assert (added.flags & NLM_F_EXCL, changed.flags & NLM_F_REPLACE) == (NLM_F_EXCL, NLM_F_REPLACE)
    assert (removed.kind, removed.body) == (RTM_DELNEXTHOP, bytes(8) + codec.u32(NHA_ID, GROUP.id))
    assert decode_hop(added, NAMES, {5: DEV}).hop is None, "the other member is not ours"
    assert decode_hop(added, NAMES, {**MINE, 5: "vxlan9"}).hop is None, "they are on two devices"


@pytest.mark.parametrize(
    "odd",
    [
        codec.attribute(NHA_GROUP, struct.pack("=IBBH", 5, 1, 0, 0)),
        codec.attribute(NHA_GROUP, struct.pack("=IBBH", 5, 0, 0, 0)) + codec.attribute(NHA_GROUP_TYPE, b"\1\0"),
        codec.attribute(NHA_GROUP, struct.pack("=IBBH", 5, 0, 0, 0)) + codec.attribute(NHA_FDB, b""),
        codec.attribute(NHA_GROUP, b""),
    ],
    ids=["weight", "type", "FDB", "nobody"],
)
def test_a_group_that_weft_would_not_make_is_none_of_its_forms(odd: bytes) -> None:
    state = decode_hop(message(RTM_NEWNEXTHOP, HEADS["hop"] + codec.u32(NHA_ID, GROUP.id) + odd), NAMES, MINE)
    assert (state.hop, state.ours, state.ifindex) == (None, True, 0)


def test_a_route_on_a_group_is_on_the_device_of_its_first_member_or_of_the_group() -> None:
    route = msgspec.structs.replace(ROUTES[0], nexthop=GROUP.id)
    (asked,) = requests(encode_routes([("add", route)], INDEX, 1))
    legs = codec.attribute(RTA_MULTIPATH, struct.pack("=HBBi", 8, 0, 0, INDEX))
    for told, index in ((asked.body + legs, INDEX), (asked.body, 0)):
        state = decode_route(message(RTM_NEWROUTE, told), NAMES, {GROUP.id: DEV})
        assert state is not None
        assert (state.route, state.ifindex) == (route, index)
    others = decode_route(message(RTM_NEWROUTE, asked.body + legs), {}, {})
    assert others is not None
    assert (others.route, others.ifindex) == (None, INDEX)


@pytest.mark.parametrize("address", [VIA, VIA6], ids=str)
def test_entries_are_decoded_as_they_were_encoded(address: IPv4Address) -> None:
    neighbour, fdb = Neighbour(DEV, address, PEER), Fdb(DEV, PEER, address)
    encoded = [*encode_neighbours([("add", neighbour)], INDEX, 1), *encode_fdb([("remove", fdb)], INDEX, 1)]
    first, second = requests(encoded)
    assert decode_entry(first, NAMES) == (neighbour.key, neighbour)
    assert decode_entry(second, NAMES) == (fdb.key, fdb)
    assert (first.kind, second.kind) == (RTM_NEWNEIGH, RTM_DELNEIGH)
    assert decode_entry(first, {}) is None


def test_requests_of_a_batch_are_numbered_one_after_the_other() -> None:
    things = [Neighbour(DEV, ip_address(n), PEER) for n in range(1, 6)]
    numbers = [m.sequence for m in requests(encode_neighbours([("add", t) for t in things], INDEX, 7))]
    assert numbers == [7, 8, 9, 10, 11]


def test_one_odd_message_sends_a_buffer_the_slow_way() -> None:
    found: dict[Key, Object] = {}
    plain = [NextHop(0x70000000 + n, DEV, IPv4Address(n + 1)) for n in range(3)]
    data = [_as_dumped(asked) for asked in encode_hops([("add", hop) for hop in plain], INDEX, 1)]
    Bulk(INDEX, DEV, Addresses(), found).hops(b"".join(data))
    assert list(found.values()) == plain
    other = bytearray(data[1])
    other[18] = 77  # the protocol number
    with pytest.raises(Unlike):
        Bulk(INDEX, DEV, Addresses(), {}).hops(data[0] + bytes(other) + data[2])


def _as_dumped(asked: bytes) -> bytes:
    """A request made to look like an answer: the flags of a dump, and the scope that the kernel fills in."""
    data = bytearray(asked)
    data[6:8] = b"\x02\x00"
    data[17] = 253
    return bytes(data)


def test_networks_are_built_from_numbers_as_from_text() -> None:
    assert IPv4Network((0x0A010200, 24)) == ip_network("10.1.2.0/24")
    assert bulk.Addresses().get(VIA6.packed) == VIA6


class Machine:
    """Classic BPF as the kernel runs it, as far as our programs use it (net/core/filter.c)."""

    def __init__(self, program: bytes) -> None:
        self._code = list(struct.iter_unpack("=HBBI", program))

    def accepts(self, data: bytes) -> bool:
        at, value = 0, 0
        while True:
            code, yes, no, operand = self._code[at]
            at += 1
            if code in (0x20, 0x28, 0x30):
                size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
                value = int.from_bytes(data[operand : operand + size], "big")
            elif code == 0x15:
                at += yes if value == operand else no
            elif code == 0x45:
                at += yes if value & operand else no
            else:
                assert code == 0x06
                return bool(operand)


def notification(kind: int, body: bytes, flags: int = 0, port: int = 0) -> bytes:
    return HEADER.pack(16 + len(body), kind, flags, 0, port) + body


def neighbour_of(index: int) -> bytes:
    return struct.pack("=BxxxiHBB", 2, index, 0x80, 0, 1)


def route_of(protocol: int, length: int = 16) -> bytes:
    return struct.pack("=BBBBBBBBI", 2, length, 0, 0, 254, protocol, 0, 1, 0)


@pytest.mark.parametrize(
    ("data", "heard"),
    [
        (notification(RTM_NEWNEIGH, neighbour_of(7)), True),
        (notification(RTM_DELNEIGH, neighbour_of(65536)), True),
        (notification(RTM_NEWNEIGH, neighbour_of(8)), False),
        (notification(RTM_NEWNEIGH, neighbour_of(7), port=4242), False),
        (notification(RTM_NEWROUTE, route_of(76)), True),
        (notification(RTM_DELROUTE, route_of(76)), True),
        (notification(RTM_NEWROUTE, route_of(186)), False),
        (notification(RTM_DELROUTE, route_of(186)), False),
        (notification(RTM_NEWROUTE, route_of(186), flags=NLM_F_REPLACE), True),
        (notification(RTM_NEWLINK, bytes(16)), True),
        (notification(RTM_NEWLINK, bytes(16), port=4242), False),
        (notification(RTM_NEWNEXTHOP, bytes(8)), True),
    ],
)
def test_what_the_listening_socket_hears(data: bytes, heard: bool) -> None:
    program, length = listening_filter(4242, [7, 65536])
    assert len(program) == 8 * length
    assert Machine(program).accepts(data) is heard


def test_what_the_listening_socket_hears_while_a_route_is_in_our_way() -> None:
    machine = Machine(listening_filter(4242, [7], deletions=True)[0])
    assert machine.accepts(notification(RTM_DELROUTE, route_of(186)))
    assert not machine.accepts(notification(RTM_DELROUTE, route_of(186), port=4242))
    assert not machine.accepts(notification(RTM_NEWROUTE, route_of(186)))


@pytest.mark.parametrize(
    ("data", "heard"),
    [
        (notification(RTM_NEWROUTE, route_of(76)), False),
        (notification(RTM_NEWROUTE, route_of(3)), True),
        (notification(RTM_DELNEXTHOP, bytes([2, 0, 76, 0])), False),
        (notification(RTM_NEWNEXTHOP, bytes([2, 0, 4, 0])), True),
        (notification(RTM_NEWLINK, bytes(16)), True),
    ],
)
def test_what_is_heard_of_the_underlay(data: bytes, heard: bool) -> None:
    assert Machine(underlay_filter()[0]).accepts(data) is heard


@pytest.mark.parametrize(
    ("data", "heard"),
    [
        (notification(RTM_NEWROUTE, route_of(3, length=0)), True),
        (notification(RTM_DELROUTE, route_of(3, length=0)), True),
        (notification(RTM_NEWROUTE, route_of(3, length=24)), False),
        (notification(RTM_NEWLINK, bytes(16)), True),
    ],
)
def test_what_the_host_facts_hear(data: bytes, heard: bool) -> None:
    assert Machine(facts_filter()[0]).accepts(data) is heard


def test_a_mac_is_six_octets() -> None:
    assert Mac(PEER) == bytes([2, 0, 0, 0, 0, 2])
