"""Members of gossip without sockets: `gossip_talk.Talk`s whose datagrams and tables go from one to the other at once,
in virtual time. Datagrams can be recorded, dropped and forged."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random
from typing import TypeVar

from weft.core.swim_values import Address
from weft.discovery.gossip_options import GossipSettings
from weft.discovery.gossip_talk import Talk
from weft.model import Mac, Network, Node

T = TypeVar("T")
EPOCH = 1_700_000_000_000


def address(number: int) -> Address:
    return Address(bytes((10, 9, 0, number)), 4790)


def router(number: int, *subnets: str, at: str = "") -> Node:
    """Peer `host-<number>` at 10.9.0.<number>."""
    networks = tuple(Network(text, (ip_network(text),), since=1.0) for text in subnets)
    endpoint = ip_address(at or f"10.9.0.{number}")
    mac = Mac(bytes((2, 0, 0, 0, 0, number)))
    return Node(f"host-{number}", (endpoint,), 4789, 1000, mac, 1500, networks, source="gossip", stack=f"s{number}")


class Net:
    """`cut`: members that nobody reaches. `recorded`: datagrams as (from, to, octets)."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.talks: dict[Address, Talk] = {}
        self.cut: set[Address] = set()
        self.recorded: list[tuple[Address, Address, bytes]] = []

    def add(self, number: int, announce: Node | None = None, *, epoch: int = EPOCH, **changes: object) -> Talk:
        settings = GossipSettings(f"host-{number}", ip_address(f"10.9.0.{number}"), f"i{number}", keys=(b"key",))
        settings = replace(settings, **changes)  # type: ignore[arg-type]
        talk = Talk(settings, epoch, Random(f"{number} {epoch}"))
        talk.announce(announce or router(number, f"10.{number}.0.0/16"), self.now)
        talk.start(self.now)
        self.talks[address(number)] = talk
        return talk

    def join(self, talk: Talk, to: Talk) -> None:
        """They compare their tables."""
        asked = talk.ask()
        answer, more = to.asked(asked, talk.swim.address.ip, self.now)
        last = talk.answered(asked, answer, to.swim.address.ip, self.now)
        assert more == (last is not None)
        if last is not None:
            to.given(asked, last, talk.swim.address.ip, self.now)
        talk.join(self.now)
        to.join(self.now)

    def members(self, count: int, **changes: object) -> list[Talk]:
        """So many who know each other, and whose sets are complete."""
        talks = [self.add(number + 1, **changes) for number in range(count)]  # type: ignore[arg-type]
        for talk in talks[1:]:
            self.join(talk, talks[0])
        self.run(5)
        return talks

    def deliver(self, source: Address, to: Address, datagram: bytes) -> None:
        if to in self.talks and not self.cut & {source, to}:
            self.talks[to].receive(datagram, source, self.now)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while True:
            self._exchange()
            at = min(talk.next_event for talk in self.talks.values())
            if at > end:
                break
            self.now = max(self.now, at)
        self.now = end

    def _exchange(self) -> None:
        again = True
        while again:
            again = False
            for source, talk in list(self.talks.items()):
                for to, datagram in talk.due(self.now):
                    again = True
                    self.recorded.append((source, to, datagram))
                    self.deliver(source, to, datagram)
                for other in _taken(talk.swim.wanted):
                    if other in self.talks and not self.cut & {source, other}:
                        self.join(talk, self.talks[other])
                for member, other in _taken(talk.swim.fetches):
                    self._fetch(talk, member, other)

    def _fetch(self, talk: Talk, member: str, other: Address) -> None:
        if other not in self.talks or self.cut & {talk.swim.address, other}:
            return
        asked = talk.fetch(member)
        answer, more = self.talks[other].asked(asked, talk.swim.address.ip, self.now)
        assert not more
        assert talk.answered(asked, answer, other.ip, self.now) is None


def _taken(items: list[T]) -> list[T]:
    taken = list(items)
    items.clear()
    return taken


def ids(talk: Talk) -> list[str]:
    return [node.id for node in talk.known().items]


def texts(talk: Talk) -> str:
    return "\n".join(f"{problem.subject}: {problem.message}" for problem in talk.known().problems)


def refused(talk: Talk, why: str) -> int:
    return talk.counters.flat().get(f"refused.{why}", 0)
