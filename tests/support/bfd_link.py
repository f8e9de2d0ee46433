"""Two ends of a path in virtual time, without a socket: what one says the other hears later, or never.

link = Link()
link.run(1.0)
link.cut["a"] = True        # what a says is lost
link.run(1.0)
assert link.b.probe.verdict.state == "down"
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from ipaddress import ip_address
from itertools import count

from weft.core.bfd import Session
from weft.core.probing import Probe, Track

TICK = 0.05
INTERVAL = 200_000
A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
_NEVER = float("inf")


class End:
    """One end: a Probe and what drives it, a tick each `TICK` seconds. `history`: (time, state, full)."""

    def __init__(self, name: str, session: Session, rng: random.Random, began: float = 0.0) -> None:
        here, there = (A, B) if name == "a" else (B, A)
        self.name = name
        self._rng = rng
        self.probe = Probe(Track("tun0", here, there), session, began)
        self.inbox: list[tuple[bytes, float]] = []
        self.history: list[tuple[float, str, bool | None]] = []
        self.sent: list[tuple[float, bytes]] = []
        self.refusals: list[str] = []
        self.asleep_until = -_NEVER
        self.mtu = 0
        """Octets of the largest IP packet that this host can send; 0: of any."""
        self.answers_small = False
        """It answers polls without padding, as FRR does."""

    @property
    def session(self) -> Session:
        return self.probe.session

    @property
    def state(self) -> str:
        return self.probe.verdict.state

    def tick(self, now: float) -> list[bytes]:
        heard, self.inbox = self.inbox, []
        for datagram, _ in heard:
            if refusal := self.probe.hear(datagram, now):
                self.refusals.append(refusal)
        if self.probe.judge(now):
            self.history.append((now, self.probe.verdict.state, self.probe.verdict.full))
        said = []
        if self.session.answer:
            answer = self.session.compose_answer()
            said.append(answer[: answer[3]] if self.answers_small else answer)
        if self.session.due_at <= now + self._rng.choice((0.0, TICK)) + 1e-9:
            said.append(self.session.compose(now))
        if self.probe.large_due(now):
            self.probe.large_sent(now)
            if self.mtu and self.probe.mtu > self.mtu:
                self.probe.too_large(now, f"{self.probe.mtu} octets don't fit")
            else:
                said.append(self.session.compose_padded(self.probe.payload))
        self.sent += [(now, datagram) for datagram in said]
        return said


class Link:
    """`rng`: of the discriminators, losses and delays. Each direction is named after who says it. `hole`: IP packets of
    more octets than that are lost, 0: of none."""

    def __init__(self, keys: tuple[bytes, bytes] = (b"", b""), interval: int = INTERVAL, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.keys = {"a": keys[0], "b": keys[1]}
        self.interval = interval
        self.cut = {"a": False, "b": False}
        self.loss = {"a": 0.0, "b": 0.0}
        self.hole = {"a": 0, "b": 0}
        self.delay: Callable[[], float] = lambda: 0.001
        self._under_way: list[tuple[float, int, str, bytes]] = []
        self._numbers = count()
        self.a = self._end("a")
        self.b = self._end("b")

    def _end(self, name: str) -> End:
        session = Session(
            self.rng.getrandbits(31) + 1, self.interval, self.keys[name], self.rng.getrandbits(32), multiplier=3
        )
        return End(name, session, self.rng, self.now)

    def restart(self, name: str) -> End:
        """The program at one end begins anew, and remembers nothing."""
        end = self._end(name)
        setattr(self, name, end)
        return end

    def other(self, name: str) -> End:
        return self.b if name == "a" else self.a

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += TICK
            self._deliver()
            for end in (self.a, self.b):
                if self.now >= end.asleep_until:
                    self.say(end.name, end.tick(self.now))

    def say(self, name: str, datagrams: list[bytes]) -> None:
        """One end says this."""
        for datagram in datagrams:
            lost = self.cut[name] or self.rng.random() < self.loss[name]
            if not lost and not (self.hole[name] and len(datagram) + 28 > self.hole[name]):
                heapq.heappush(self._under_way, (self.now + self.delay(), next(self._numbers), name, datagram))

    def _deliver(self) -> None:
        while self._under_way and self._under_way[0][0] <= self.now:
            at, _, name, datagram = heapq.heappop(self._under_way)
            self.other(name).inbox.append((datagram, at))
