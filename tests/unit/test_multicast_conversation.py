"""Hosts that talk over a segment in virtual time: hours pass in milliseconds, and datagrams get lost on demand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.discovery.conversation import Conversation
from weft.discovery.options import MulticastSettings
from weft.discovery.tally import Refused
from weft.model import IPAddress, Known, Mac, Network, Node
from weft.wire.hello import Stamp
from weft.wire.router import encode_hello, encode_query
from weft.wire.seal import derive_key, seal

LIMIT = 1400
TIMEOUT = 90.0
HOLD = 10.0


def node(number: int, *subnets: str) -> Node:
    networks = tuple(Network(f"n{text}", (IPv4Network(text),), since=1.0) for text in subnets)
    mac = Mac(bytes((2, 0, 0, 0, 0, number)))
    return Node(f"host-{number}", (address(number),), 4789, 4096, mac, 1500, networks, source="multicast")


def address(number: int) -> IPv4Address:
    return IPv4Address("192.0.2.0") + number


class Host(Conversation):
    """A conversation that joined, and what it announces."""

    def __init__(self, number: int, now: float, key: bytes | None = None, name: str = "") -> None:
        self.address = address(number)
        who = name or f"host-{number}"
        options = MulticastSettings(who, "eth0", self.address, f"i{number}", key=key, goodbye_hold=HOLD)
        super().__init__(options, int(now * 1000) + 1, Random(number))
        self.joined(now)

    def ids(self) -> list[str]:
        return [peer.id for peer in self.known().items]

    def texts(self) -> str:
        return "\n".join(f"{problem.subject}: {problem.message}" for problem in self.known().problems)


class Segment:
    """Delivers what each host sends to all (itself too), at once; `lose` decides which copies get lost."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.hosts: list[Host] = []
        self.carried: list[tuple[float, IPAddress, bytes]] = []
        self.lose: Callable[[], bool] = lambda: False

    def add(self, number: int, announce: bool = True, key: bytes | None = None) -> Host:
        host = Host(number, self.now, key)
        self.hosts.append(host)
        if announce:
            host.announce(node(number, f"10.{number}.0.0/16"), self.now)
        return host

    def carry(self, datagram: bytes, source: IPAddress) -> None:
        self.carried.append((self.now, source, datagram))
        for host in self.hosts:
            if host.address == source or not self.lose():
                host.receive(datagram, source, self.now)

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        end = self.now + seconds
        while self.hosts:
            self.now = max(self.now, min(host.next_event for host in self.hosts))
            if self.now > end:
                break
            for host in self.hosts:
                for datagram in host.due(self.now, LIMIT, self.now):
                    self.carry(datagram, host.address)
        self.now = end

    def leave(self, host: Host) -> None:
        self.hosts.remove(host)
        for datagram in host.farewell():
            self.carry(datagram, host.address)

    def said(self, kind: str) -> list[bytes]:
        return [datagram for _, _, datagram in self.carried if f'"type":"{kind}"'.encode() in datagram]


@pytest.mark.parametrize("key", [None, b"secret"])
def test_hosts_find_each_other_within_a_second(key: bytes | None) -> None:
    segment = Segment()
    first = segment.add(1, key=key)
    segment.run(500)
    second, third = segment.add(2, key=key), segment.add(3, key=key)
    segment.run(0.5)
    assert first.ids() == ["host-2", "host-3"]
    assert second.ids() == ["host-1", "host-3"]
    assert third.ids() == ["host-1", "host-2"]
    assert first.known().items[0] == node(2, "10.2.0.0/16")
    assert all(not host.known().problems and not host.counters.refused for host in segment.hosts)


def test_a_change_arrives_at_once_and_a_lost_one_a_second_later() -> None:
    segment = Segment()
    first, second = segment.add(1), segment.add(2)
    segment.run(50)
    first.announce(node(1, "10.99.0.0/16"), segment.now)
    segment.run(0)
    assert second.known().items == (node(1, "10.99.0.0/16"),)
    segment.run(50)
    segment.lose = lambda: True
    first.announce(node(1), segment.now)
    segment.run(0.5)
    segment.lose = lambda: False
    assert second.known().items == (node(1, "10.99.0.0/16"),)
    segment.run(0.5)
    assert second.known().items == (node(1),)


def test_announcing_the_same_again_says_nothing() -> None:
    segment = Segment()
    host = segment.add(1)
    segment.run(10)
    before = len(segment.carried)
    host.announce(node(1, "10.1.0.0/16"), segment.now)
    segment.run(0.5)
    assert len(segment.carried) == before


def test_goodbye_removes_after_a_moment_and_silence_after_the_timeout() -> None:
    segment = Segment()
    first, second, third = segment.add(1), segment.add(2), segment.add(3)
    segment.run(100)
    segment.leave(second)
    segment.run(HOLD - 1)
    assert first.ids() == ["host-2", "host-3"]
    segment.run(1)
    assert first.ids() == ["host-3"]
    segment.hosts.remove(third)
    segment.run(TIMEOUT - 34)
    assert first.ids() == ["host-3"]
    segment.run(34)
    assert first.ids() == []


def test_one_goodbye_may_get_lost() -> None:
    segment = Segment()
    first, second = segment.add(1), segment.add(2)
    segment.run(10)
    lost = iter([True, False])
    segment.lose = lambda: next(lost)
    segment.leave(second)
    segment.run(HOLD)
    assert first.ids() == []
    assert next(lost, "none left") == "none left"


def test_complete_after_one_peer_timeout_of_listening() -> None:
    segment = Segment()
    host = segment.add(1)
    segment.run(TIMEOUT - 1)
    assert not host.known().complete
    segment.run(1)
    assert host.known().complete
    host.lost()
    assert not host.known().complete
    segment.run(10)
    host.joined(segment.now)
    segment.run(TIMEOUT - 1)
    assert not host.known().complete
    segment.run(1)
    assert host.known().complete


def test_while_the_group_is_lost_nothing_is_said_and_silence_means_nothing() -> None:
    segment = Segment()
    first, second = segment.add(1), segment.add(2)
    segment.run(10)
    first.lost()
    before = first.counters.sent.copy()
    first.announce(node(1), segment.now)
    segment.run(30)
    assert first.counters.sent == before
    segment.hosts.remove(second)
    segment.run(2 * TIMEOUT)
    assert first.ids() == ["host-2"]
    first.joined(segment.now)
    segment.run(TIMEOUT - 1)
    assert first.ids() == ["host-2"]
    segment.run(1)
    assert first.ids() == []


def test_one_who_only_listens_learns_all_and_nobody_learns_of_it() -> None:
    segment = Segment()
    first, second = segment.add(1), segment.add(2)
    segment.run(100)
    versions = first.version, second.version
    silent = segment.add(3, announce=False)
    beside = segment.add(1, announce=False)  # a dry run beside the agent of host 1
    segment.run(0.5)
    assert silent.ids() == ["host-1", "host-2"]
    assert beside.ids() == ["host-2"]
    segment.run(60)
    for host in (silent, beside):
        segment.leave(host)
        assert set(host.counters.sent) == {"QUERY"}
        assert not host.known().problems
    assert (first.version, second.version) == versions
    assert len(segment.said("QUERY")) == 6


def test_a_thousand_questions_make_few_answers() -> None:
    segment = Segment()
    host = segment.add(1)
    segment.run(100)
    before = host.counters.sent["HELLO"]
    for step in range(1000):
        query = encode_query(f"host-{step}", address(2), Stamp(f"i{step}", 1, 1))
        host.receive(query, address(2), segment.now)
        segment.run(0.001)
    assert host.counters.received["QUERY"] == 1000
    assert 3 <= host.counters.sent["HELLO"] - before <= 5


def test_the_older_query_is_answered_in_both_forms() -> None:
    segment = Segment()
    host = segment.add(1)
    segment.run(10)
    before = len(segment.carried)
    query = {"type": "QUERY", "version": 1, "stack_id": "old", "host_ip": "192.0.2.9", "vni": 1000, "timestamp": 1}
    segment.carry(json.dumps(query).encode(), address(9))
    segment.run(0.2)
    kinds = [json.loads(datagram)["type"] for _, _, datagram in segment.carried[before:]]
    assert kinds == ["QUERY", "HELLO", "RESPONSE"]
    assert json.loads(segment.said("RESPONSE")[0])["timestamp"] == int(segment.carried[-1][0])
    assert not host.known().problems


def test_a_query_from_elsewhere_than_it_says_is_not_answered() -> None:
    segment = Segment()
    host = segment.add(1)
    segment.run(10)
    sent = host.counters.sent["HELLO"]
    query = {"type": "QUERY", "version": 1, "stack_id": "old", "host_ip": "192.0.2.9", "vni": 1000}
    segment.carry(json.dumps(query).encode(), address(8))
    segment.run(0.5)
    assert host.counters.sent["HELLO"] == sent
    assert host.counters.refused == {Refused.SPOOFED: 1}


@pytest.mark.parametrize("key", [None, b"secret"])
def test_two_hundred_networks_arrive_in_parts(key: bytes | None) -> None:
    segment = Segment()
    first, second = segment.add(1, key=key), segment.add(2, key=key)
    many = node(1, *(f"10.{number}.0.0/16" for number in range(200)))
    first.announce(many, segment.now)
    segment.run(0.5)
    assert second.known().items == (many,)
    hellos = segment.said("HELLO")
    assert max(map(len, hellos)) <= LIMIT
    assert len(hellos) > 10


def test_a_set_that_can_not_be_told_is_a_problem_and_the_next_one_clears_it() -> None:
    segment = Segment()
    first = segment.add(1)
    segment.run(10)
    first.announce(replace(node(1), id="a b\nc"), segment.now)
    segment.run(1)
    assert "can't be announced" in first.texts()
    first.announce(node(1), segment.now)
    segment.run(0.1)
    assert not first.known().problems


# Keys. --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "reason", "text"),
    [
        (b"a", None, Refused.UNSEALED, "192.0.2.2 sends without a key, and this host has one"),
        (None, b"a", Refused.SEALED, "192.0.2.2 seals its datagrams, and this host has no key"),
        (b"a", b"b", Refused.WRONG_KEY, "a datagram from 192.0.2.2 is sealed with another key"),
    ],
)
def test_who_lacks_the_key_is_said(mine: bytes | None, theirs: bytes | None, reason: Refused, text: str) -> None:
    segment = Segment()
    first, second = segment.add(1, key=mine), segment.add(2, key=theirs)
    segment.run(200)
    assert first.ids() == second.ids() == []
    assert set(first.counters.refused) == {reason}
    assert first.counters.refused[reason] == second.counters.sent["HELLO"]
    assert len(first.known().problems) == 1
    assert f"192.0.2.2: {text}" in first.texts()
    segment.leave(second)
    segment.run(TIMEOUT)
    assert not first.known().problems


def test_with_a_key_everything_recorded_is_worthless_to_who_was_listening() -> None:
    """Play back all that was ever said, in any order and after goodbyes and restarts: nothing changes."""
    segment = Segment()
    first, second = segment.add(1, key=b"a"), segment.add(2, key=b"a")
    segment.run(100)
    second.announce(node(2), segment.now)
    segment.run(10)
    segment.leave(second)
    second = segment.add(2, key=b"a")
    segment.run(100)
    known, record = first.known(), list(segment.carried)
    Random(7).shuffle(record)
    for _, source, datagram in record:
        first.receive(datagram, source, segment.now)
    assert first.known().items == known.items
    assert first.counters.refused[Refused.REPLAYED] > 5
    segment.leave(second)
    segment.run(HOLD)
    for _, source, datagram in record:
        first.receive(datagram, source, segment.now + 5)
    assert first.ids() == []


def test_a_sealed_message_without_a_stamp_is_malformed() -> None:
    host = Host(1, 0.0, key=b"a")
    plain = b'{"type":"HELLO","version":1,"peer_id":"b","host_ip":"192.0.2.2","vni":1}'
    host.receive(seal(plain, derive_key(b"a")), address(2), 0.0)
    assert host.counters.refused == {Refused.MALFORMED: 1}
    assert not host.known().problems


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_rubbish_is_counted_and_nothing_else(rubbish: list[bytes]) -> None:
    host = Host(1, 0.0)
    for datagram in rubbish:
        host.receive(datagram, address(2), 0.0)
    assert host.counters.refused[Refused.MALFORMED] == len(rubbish)
    assert host.known() == Known()


# Loss, deafness, the same id. ---------------------------------------------------------------------------------------


def test_a_third_of_all_datagrams_may_get_lost() -> None:
    segment = Segment()
    random = Random(3)
    segment.lose = lambda: random.random() < 0.33
    for number in range(1, 9):
        segment.add(number)
    segment.run(10)
    for host in segment.hosts:
        assert len(host.ids()) == 7


def test_who_can_not_hear_itself_says_so_and_deletes_nobody() -> None:
    segment = Segment()
    first, second = segment.add(1), segment.add(2)
    segment.run(100)
    assert first.known().complete
    segment.hosts.remove(first)
    for second_number in range(100):  # a firewall at the first host drops what comes in
        now = segment.now + second_number
        first.due(now, LIMIT, now)
    assert first.deaf
    assert not first.known().complete
    assert "eth0: what this host sends to 239.1.1.1 port 4790 does not come back to it" in first.texts()
    segment.now += 100
    segment.hosts.append(first)
    segment.run(35)
    assert not first.deaf
    assert not first.known().problems
    assert first.ids() == ["host-2"]
    assert not first.known().complete
    segment.run(TIMEOUT)
    assert first.known().complete
    assert second.ids() == ["host-1"]


def test_what_was_counted_is_told_flat() -> None:
    host = Host(1, 0.0)
    assert host.counters.flat() == {"received.own": 0}
    host.announce(node(1), 0.0)
    for datagram in host.due(0.0, LIMIT, 0.0):
        host.receive(datagram, host.address, 0.1)
    host.receive(b"rubbish", address(2), 0.1)
    host.receive(encode_query("b", address(2), Stamp("b", 1, 1)), address(2), 0.1)
    expected = {"received.QUERY": 1, "received.own": 1, "refused.malformed": 1, "sent.HELLO": 1}
    assert host.counters.flat() == expected
    assert list(host.counters.flat()) == sorted(expected)


def test_one_lost_echo_is_nothing() -> None:
    host = Host(1, 0.0)
    host.announce(node(1), 0.0)
    sent = host.due(0.0, LIMIT, 0.0)
    host.due(1.0, LIMIT, 1.0)
    assert not host.deaf
    host.receive(sent[0], host.address, 1.5)
    host.due(2.5, LIMIT, 2.5)
    assert not host.deaf
    assert host.counters.own == 1


def test_two_hosts_with_one_id_report_each_other_and_their_peers_keep_the_first() -> None:
    segment = Segment()
    first, watcher = segment.add(1), segment.add(3)
    segment.run(10)
    second = Host(2, segment.now, name="host-1")
    second.announce(replace(node(2, "10.2.0.0/16"), id="host-1"), segment.now)
    segment.hosts.append(second)
    segment.run(10)
    assert watcher.known().items == (node(1, "10.1.0.0/16"),)
    assert "one at 192.0.2.1, which was first, and one at 192.0.2.2" in watcher.texts()
    assert "it is at 192.0.2.2, this one at 192.0.2.1" in first.texts()
    assert "it is at 192.0.2.1, this one at 192.0.2.2" in second.texts()


def test_a_second_conversation_of_one_program_is_believed() -> None:
    """The daemon makes a new one when the uplink changes, with the same instance text."""
    segment = Segment()
    watcher = segment.add(3, key=b"a")
    first = Host(1, segment.now, key=b"a")
    first.announce(node(1), segment.now)
    segment.hosts.append(first)
    segment.run(40)
    segment.leave(first)
    again = Host(1, segment.now, key=b"a")
    again.announce(node(1, "10.7.0.0/16"), segment.now)
    segment.hosts.append(again)
    segment.run(1)
    assert watcher.known().items == (node(1, "10.7.0.0/16"),)
    assert not watcher.known().problems


def test_a_hello_costs_no_more_than_it_may() -> None:
    """50 µs for one that changes nothing is the aim; the bound leaves room for a busy machine."""
    host = Host(1, 0.0, key=b"a")
    key = derive_key(b"a")
    hellos = [seal(encode_hello(node(2, "10.2.0.0/16"), Stamp("i", 9, seq), LIMIT)[0], key) for seq in range(1, 2001)]
    taken = []
    for start in range(0, 2000, 200):
        begun = time.process_time()
        for datagram in hellos[start : start + 200]:
            host.receive(datagram, address(2), 1.0)
        taken.append((time.process_time() - begun) / 200)
    assert host.ids() == ["host-2"]
    assert host.counters.received["HELLO"] == 2000
    assert min(taken) < 0.002


@pytest.mark.parametrize("key", [None, b"secret"])
def test_what_somebody_tells_of_others_is_counted_and_not_believed(key: bytes | None) -> None:
    segment = Segment()
    first = segment.add(1, key=key)
    peers = [{"stack_id": "b", "host_ip": "192.0.2.2", "vni": 4096, "vxlan_endpoint": "192.0.2.2:4789"}]
    said = {"type": "TABLE_SYNC", "version": 1, "peer_id": "b", "sequence": 1, "peers": peers, "routes": []}
    version = first.version
    first.receive(seal(json.dumps(said).encode(), derive_key(key) if key else None), address(2), segment.now)
    assert first.counters.flat()["received.TABLE_SYNC"] == 1
    assert not first.counters.refused
    assert first.version == version
