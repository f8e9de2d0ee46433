"""Hosts named in `peers`: that they can't be told, or don't answer, is said, once, and until it is over."""

from __future__ import annotations

from ipaddress import IPv4Address
from random import Random

from weft.discovery.conversation import Conversation
from weft.discovery.options import MulticastSettings
from weft.model import Mac, Node
from weft.wire.hello import Stamp
from weft.wire.router import encode_hello

HERE, NAMED, OTHER = (IPv4Address(f"192.0.2.{number}") for number in (1, 2, 3))
TIMEOUT = 90.0
WALL = 1_800_000_000.0
LIMIT = 1400


def node(name: str, at: IPv4Address) -> Node:
    return Node(name, (at,), 4789, 4096, Mac(bytes((2, 0, *at.packed))), 1500)


class Host(Conversation):
    """A host that names two others, on which time passes as its test says."""

    def __init__(self, announce: bool = True) -> None:
        settings = MulticastSettings("a", "eth0", HERE, "i", peer_timeout=TIMEOUT, direct=(NAMED, OTHER))
        super().__init__(settings, 1, Random(1))
        self.now = 0.0
        self.why_not = {NAMED: "", OTHER: ""}
        self.joined(0.0)
        if announce:
            self.announce(node("a", HERE), 0.0)

    def run(self, seconds: float) -> None:
        """Let that much time pass; what is due goes to both, and the group gives it back."""
        end = self.now + seconds
        while self.next_event <= end:
            self.now = max(self.now, self.next_event)
            datagrams = self.due(self.now, LIMIT, WALL + self.now)
            for datagram in datagrams:
                self.receive(datagram, HERE, self.now)
            if datagrams:
                for host, why_not in self.why_not.items():
                    self.told(host, why_not, self.now)
        self.now = end

    def hear(self, source: IPv4Address) -> None:
        self.receive(encode_hello(node("b", source), Stamp("ib", 1, int(self.now) + 1), LIMIT)[0], source, self.now)

    def said(self) -> list[str]:
        return [f"{problem.subject}: {problem.message}" for problem in self.known().problems]


def test_who_can_not_be_told_is_named_with_the_last_reason_until_it_can() -> None:
    host = Host()
    host.why_not[NAMED] = "No route to host"
    host.run(1)
    assert host.said() == [
        "192.0.2.2: host 192.0.2.2, named in `peers`, can't be told about this one: No route to host"
    ]
    before = host.version
    host.run(60)
    host.hear(OTHER)
    assert host.version[1] == before[1], "said once"
    host.why_not[NAMED] = "Operation not permitted"
    host.run(60)
    assert [text.rpartition(": ")[2] for text in host.said()] == ["Operation not permitted"]
    host.why_not[NAMED] = ""
    host.run(30)
    host.hear(OTHER)
    host.hear(NAMED)
    host.run(30)
    assert host.said() == []


def test_who_does_not_answer_for_a_peer_timeout_is_named_until_it_is_heard() -> None:
    host = Host()
    host.run(50)
    host.hear(OTHER)
    host.run(TIMEOUT - 51)
    assert host.said() == []
    host.run(1)
    (text,) = host.said()
    assert text.startswith("192.0.2.2: host 192.0.2.2, named in `peers`, has not answered since 2027-01-15 08:00:00Z: ")
    before = host.version
    host.run(49)
    assert host.version[1] == before[1], "said once"
    host.run(2)
    assert "192.0.2.3, named in `peers`, has not answered since 2027-01-15 08:00:50Z" in host.said()[1]
    host.hear(NAMED)
    assert [text.partition(":")[0] for text in host.said()] == ["192.0.2.3"]
    host.hear(OTHER)
    assert host.said() == []
    host.run(TIMEOUT + 1)
    assert len(host.said()) == 2


def test_an_unreadable_answer_is_an_answer() -> None:
    """That it is sealed with another key is said in its own words."""
    host = Host()
    for _ in range(12):
        host.run(10)
        host.receive(b"rubbish", NAMED, host.now)
        host.hear(OTHER)
    assert host.said() == []


def test_silence_means_nothing_while_the_group_can_not_be_heard_or_nothing_was_told() -> None:
    host, asking = Host(), Host(announce=False)
    host.run(10)
    host.lost()
    host.run(2 * TIMEOUT)
    host.joined(host.now)
    host.run(TIMEOUT - 1)
    assert host.said() == []
    host.run(1)
    assert len(host.said()) == 2
    asking.run(3 * TIMEOUT)
    assert asking.said() == []
