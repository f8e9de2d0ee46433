"""Gossip's codecs: what goes in comes out, sizes are what they are said to be, rubbish raises WireError only; and the
seal: who has no key gets nothing in, and nothing twice."""

from __future__ import annotations

import itertools
import json
import zlib
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_wire_router import nodes
from weft.core.swim_values import Ack, Address, Indirect, Message, Nack, Ping, Rumour, State, Update, digest_of
from weft.errors import WireError
from weft.model import Mac, Network, Node
from weft.wire import gossip, gossip_payload, gossip_seal, table_sync
from weft.wire.gossip_payload import pack, unpack
from weft.wire.gossip_seal import OVERHEAD, WINDOW, Seal, SealError, Why
from weft.wire.hello import Stamp
from weft.wire.seal import derive_key
from weft.wire.table_sync import Table

STAMP = Stamp("5f0c9e", 1_700_000_000_000, 7)
HERE = Address(bytes((10, 0, 1, 5)), 4790)
NODE = Node(
    id="stack-a",
    endpoints=(ip_address("10.0.1.5"),),
    port=4789,
    vni=1000,
    mac=Mac(bytes((2, 0, 0, 0, 0, 1))),
    mtu=1500,
    networks=(Network("internal", (ip_network("172.20.0.0/16"),), since=1.0),),
    overlay=(ip_address("192.168.100.1"),),
    source="gossip",
    stack="stack-a",
)
ONE, TWO = derive_key(b"one"), derive_key(b"two")

labels = st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=60)
addresses = st.builds(
    lambda ip, port: Address(ip.packed, port),
    st.ip_addresses().filter(lambda ip: not ip.is_multicast and not ip.is_unspecified and ip.packed != b"\xff" * 4),
    st.integers(1, 65535),
)
counts = st.integers(0, 2**63 - 1)
digests = st.binary(min_size=8, max_size=8)


@st.composite
def _updates(draw: st.DrawFn) -> Update:
    state = draw(st.sampled_from(State))
    by = draw(labels) if state in (State.SUSPECT, State.DEAD) else ""
    placed = state is State.ALIVE or draw(st.booleans())
    address, digest = (draw(addresses), draw(digests)) if placed else (None, b"")
    payload = draw(st.none() | st.binary(max_size=300))
    return Update(state, draw(labels), draw(counts), by, address, digest, payload)


updates = _updates()
some = st.lists(updates, max_size=4).map(tuple)
seqs = st.integers(0, 2**32 - 1)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, seqs, seqs, st.integers(0, 2**64 - 1), some),
    st.builds(Ack, seqs, some),
    st.builds(Nack, seqs, some),
    st.builds(Indirect, seqs, addresses, seqs, some),
    st.builds(Rumour, some),
)


@given(messages)
def test_a_message_comes_out_as_it_went_in_and_is_as_long_as_was_said(message: Message) -> None:
    body = gossip.encode(message)
    assert gossip.decode(body) == message
    assert gossip.size(message) == len(body) + OVERHEAD
    assert gossip.name_of(message) in ("PING", "ACK", "NACK", "INDIRECT", "RUMOUR")


@given(st.binary(max_size=200))
def test_rubbish_is_no_message(body: bytes) -> None:
    try:
        message = gossip.decode(body)
    except WireError:
        return
    assert gossip.decode(gossip.encode(message)) == message


@given(messages, st.data())
def test_a_changed_message_is_sound_or_refused(message: Message, data: st.DataObject) -> None:
    body = bytearray(gossip.encode(message))
    at = data.draw(st.integers(0, len(body) - 1)) if body else 0
    body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        gossip.decode(bytes(body))
    except WireError:
        return


def test_a_full_datagram_is_no_longer_than_any_path_carries() -> None:
    indirect = Indirect(1, Address(bytes(15) + b"\1", 1), 1)
    assert gossip.size(indirect) + gossip.ROOM <= gossip.MOST


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x09\0\0\0\1",
        b"\x05\x07\x01a" + bytes(8),  # no state
        b"\x05\xc1\x01a" + bytes(8),  # no such flags
        b"\x05\x02\x01a" + b"\xff" * 8 + b"\1b",  # nobody could contradict it
        b"\x05\x01\x01a" + bytes(8),  # alive and nowhere
        b"\x05\x11\x01a" + bytes(8) + b"\x03" + bytes(3),  # no address has 3 octets
        b"\x05\x11\x01a" + bytes(8) + b"\x04\x0a\0\0\1\0\0" + bytes(8),  # port 0
        b"\x05\x11\x01a" + bytes(8) + b"\x04\xe0\0\0\1\0\1" + bytes(8),  # multicast
        b"\x05\x04\x01\n" + bytes(8),  # an id that forges a log line
        b"\x05\x04\x00" + bytes(8),
    ],
)
def test_what_cannot_be_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        gossip.decode(body)


# The payload. ---------------------------------------------------------------------------------------------------


@given(nodes())
def test_a_hello_comes_out_as_it_went_in(node: Node) -> None:
    told = unpack(pack(node, STAMP))
    assert (told.id, told.endpoints, told.mac, told.vni) == (node.id, node.endpoints, node.mac, node.vni)
    assert told.source == "gossip"


def test_a_usual_hello_is_short() -> None:
    payload = pack(NODE, STAMP)
    assert unpack(payload) == NODE
    assert len(payload) < 150


@given(st.binary(max_size=100))
def test_rubbish_is_no_hello(payload: bytes) -> None:
    with pytest.raises(WireError):
        unpack(payload)


def test_a_hello_of_too_many_networks_is_not_sent() -> None:
    subnets = tuple(ip_network((0x0A000000 + (i * 2654435761 % 2**24), 32)) for i in range(60_000))
    with pytest.raises(WireError, match="expose fewer networks"):
        pack(replace(NODE, networks=(Network("many", subnets),)), STAMP)


def test_a_hello_that_swells_is_refused() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=gossip_payload._DICTIONARY)
    bomb = packer.compress(b" " * (gossip_payload.LONGEST + 100)) + packer.flush()
    with pytest.raises(WireError, match="more than"):
        unpack(bomb)


# Tables. --------------------------------------------------------------------------------------------------------


@given(st.lists(updates, max_size=5).map(tuple), st.lists(labels, max_size=3).map(tuple), counts)
def test_a_table_comes_out_as_it_went_in(told: tuple[Update, ...], want: tuple[str, ...], sequence: int) -> None:
    table = Table("me", HERE, "answer", sequence, told, want)
    assert table_sync.decode(table_sync.encode(table)) == table


def test_a_table_is_the_documents_table_sync() -> None:
    payload = pack(NODE, STAMP)
    alive = Update(State.ALIVE, "stack-a", 17, "", HERE, digest_of(payload), payload)
    left = Update(State.LEFT, "stack-b", 3)
    six = replace(NODE, id="stack-c", endpoints=(ip_address("fd00::5"),))
    other = Update(
        State.ALIVE, "stack-c", 1, "", Address(ip_address("fd00::5").packed, 4790), b"12345678", pack(six, STAMP)
    )
    octets = table_sync.encode(Table("stack-a", HERE, "ask", 12345, (alive, left, other)), NODE)
    told = json.loads(zlib.decompress(octets))
    assert {name: told[name] for name in ("type", "version", "peer_id", "sequence")} == {
        "type": "TABLE_SYNC",
        "version": 1,
        "peer_id": "stack-a",
        "sequence": 12345,
    }
    first, second, third = told["peers"]
    first.pop("weft")
    assert first == {
        "stack_id": "stack-a",
        "host_ip": "10.0.1.5",
        "status": "active",
        "vxlan_endpoint": "10.0.1.5:4789",
        "vni": 1000,
    }
    assert second["status"] == "stale"
    assert third["vxlan_endpoint"] == "[fd00::5]:4789"
    assert told["routes"] == [
        {
            "destination": "172.20.0.0/16",
            "next_hop": "192.168.100.1",
            "interface": "vxlan1000",
            "source": "discovery",
        }
    ]


@given(st.binary(max_size=200))
def test_rubbish_is_no_table(octets: bytes) -> None:
    for body in (octets, zlib.compress(octets)):
        with pytest.raises(WireError):
            table_sync.decode(body)


def _table(**changes: object) -> bytes:
    peer = {"peer_id": "b", "state": 1, "incarnation": 1, "address": ["10.0.0.1", 1], "digest": "00" * 8} | changes
    entry = {"stack_id": "b", "host_ip": "10.0.0.1", "status": "active", "weft": peer}
    weft = {"step": "ask", "address": ["10.0.1.5", 4790], "want": []}
    table = {"type": "TABLE_SYNC", "version": 1, "peer_id": "a", "sequence": 1, "peers": [entry], "routes": []}
    return zlib.compress(json.dumps(table | {"weft": weft}).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"state": 5},
        {"incarnation": 2**63},
        {"incarnation": -1},
        {"address": None},
        {"address": ["10.0.0.1%eth0", 1]},
        {"address": ["224.0.0.1", 1]},
        {"address": ["10.0.0.1", 0]},
        {"digest": "00"},
        {"digest": "x"},
        {"peer_id": "a\nb"},
        {"state": 2, "by": ""},
        {"hello": "!"},
        {"hello": "QUJD" * (gossip_payload.MOST // 3 + 1)},
    ],
)
def test_a_table_of_what_cannot_be_is_refused(changes: dict[str, object]) -> None:
    assert len(table_sync.decode(_table()).updates) == 1
    with pytest.raises(WireError):
        table_sync.decode(_table(**changes))


def test_a_hello_that_cannot_be_read_is_passed_on_as_it_is() -> None:
    update = Update(State.ALIVE, "b", 1, "", HERE, b"12345678", b"rubbish")
    assert table_sync.decode(table_sync.encode(Table("a", HERE, "ask", 1, (update,)))).updates == (update,)


def test_a_table_that_swells_or_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WireError, match="more than"):
        table_sync.decode(zlib.compress(b" " * (table_sync.LONGEST + 1)))
    monkeypatch.setattr(table_sync, "MOST", 100)
    with pytest.raises(WireError, match="is the limit"):
        table_sync.encode(Table("a", HERE, "ask", 1))


# The seal. ------------------------------------------------------------------------------------------------------


def seal(*keys: Any, window: bool = True, start: int = 1) -> Seal:
    numbers = itertools.count(start)
    return Seal(keys, lambda: next(numbers).to_bytes(8, "big"), window)


@given(st.binary(max_size=100))
def test_what_is_sealed_is_opened_once(body: bytes) -> None:
    ours, theirs = seal(ONE), seal(ONE)
    datagram = ours.seal(body)
    assert len(datagram) == len(body) + OVERHEAD
    assert theirs.open(datagram) == body
    with pytest.raises(SealError) as refused:
        theirs.open(datagram)
    assert refused.value.why is Why.REPLAYED
    assert ours.seal(body) != datagram


def test_over_a_connection_nothing_is_counted() -> None:
    opener = seal(ONE, window=False)
    datagram = seal(ONE).seal(b"x", b"answer to 1")
    assert opener.open(datagram, b"answer to 1") == opener.open(datagram, b"answer to 1") == b"x"
    with pytest.raises(SealError):
        opener.open(datagram, b"answer to 2")


def test_datagrams_may_overtake_each_other() -> None:
    ours, theirs = seal(ONE), seal(ONE)
    datagrams = [ours.seal(bytes((n % 256,))) for n in range(WINDOW + 10)]
    assert theirs.open(datagrams[20]) == b"\x14"
    assert theirs.open(datagrams[5]) == b"\x05"
    assert theirs.open(datagrams[-1])
    for stale in (datagrams[0], datagrams[5], datagrams[20]):
        with pytest.raises(SealError):
            theirs.open(stale)
    assert theirs.open(datagrams[100])


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        ((ONE,), (TWO,), Why.WRONG_KEY),
        ((), (ONE,), Why.UNSEALED),
        ((ONE,), (), Why.SEALED),
    ],
)
def test_who_has_another_key_is_not_heard(ours: tuple[Any, ...], theirs: tuple[Any, ...], why: Why) -> None:
    with pytest.raises(SealError) as refused:
        seal(*theirs).open(seal(*ours).seal(b"x"))
    assert refused.value.why is why


def test_a_key_is_changed_without_a_gap() -> None:
    old, between, new = seal(ONE), seal(ONE, TWO), seal(TWO, ONE)
    assert new.open(old.seal(b"a")) == b"a"
    assert between.open(new.seal(b"b")) == b"b"
    assert old.open(between.seal(b"c")) == b"c"


def test_without_a_key_nothing_is_sealed() -> None:
    assert seal().open(seal().seal(b"x")) == b"x"


@given(st.binary(max_size=60))
def test_rubbish_is_not_opened(datagram: bytes) -> None:
    for opener in (seal(ONE), seal(ONE, TWO)):
        with pytest.raises(SealError):
            opener.open(datagram)


def test_a_changed_datagram_is_not_opened() -> None:
    datagram = bytearray(seal(ONE).seal(b"hello"))
    for at in range(1, len(datagram)):
        changed = bytes(datagram[:at]) + bytes((datagram[at] ^ 1,)) + bytes(datagram[at + 1 :])
        with pytest.raises(SealError):
            seal(ONE).open(changed)


def test_a_salt_is_drawn_anew_before_a_counter_repeats_and_old_ones_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gossip_seal, "_LAST", 2)
    monkeypatch.setattr(gossip_seal, "SENDERS", 2)
    ours, theirs = seal(ONE), seal(ONE)
    datagrams = [ours.seal(b"x") for _ in range(8)]
    assert len({datagram[:13] for datagram in datagrams}) == 8
    assert len({datagram[1:9] for datagram in datagrams}) == 4
    assert all(theirs.open(datagram) for datagram in datagrams)
    assert len(theirs._senders) == 2
