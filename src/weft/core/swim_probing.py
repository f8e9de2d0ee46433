"""Whom one member probes, when, and what comes of it; and the probes that it makes for others. A part of
`core/swim.py`'s Swim, in a file of its own.

A probe is a Ping. Unanswered after `direct` seconds, some others are asked to try; unanswered after `patience`, the
member is suspected. Who was asked and can't reach it either says so (Nack). That nobody at all says a word tells of our
own ill health; that some don't, of a network that is torn, where half of the cluster is to be found dead in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.core.swim_table import Member
from weft.core.swim_values import NEVER, RELAYS, Ack, Address, Indirect, Nack, Ping

if TYPE_CHECKING:
    from weft.core.swim import Swim

_RELAYED = 256
"""Probes for others at a time; more are not made."""


@dataclass(slots=True)
class _Probe:
    member: Member
    seq: int
    ask_at: float
    fail_at: float
    nacks: int = 0


@dataclass(slots=True)
class _Relayed:
    """A probe for somebody else: its seq and address, and when it is told that there is no answer."""

    seq: int
    asker: Address
    nack_at: float


class Prober:
    def __init__(self, swim: Swim) -> None:
        self._swim = swim
        self._pace = swim.pace
        self._probe: _Probe | None = None
        self._probe_at = NEVER
        self._on_ring = False
        self._look: Member | None = None
        self._relayed: dict[int, _Relayed] = {}
        self._seq = swim.chance.getrandbits(32)

    @property
    def next_event(self) -> float:
        at = self._probe_at
        if self._probe is not None:
            at = min(at, self._probe.fail_at, self._probe.ask_at)
        for relayed in self._relayed.values():
            at = min(at, relayed.nack_at)
        return at

    def next_seq(self) -> int:
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        return self._seq

    def start(self, now: float) -> None:
        self._probe_at = now + self._pace.interval * self._swim.chance.random()

    def hurry(self, now: float) -> None:
        self._probe_at = min(self._probe_at, now)

    def look_at(self, member: Member, now: float) -> None:
        """Somebody is suspected: probe it next, at once if no other probe is under way."""
        self._look = member
        if self._probe is None:
            self.hurry(now)

    def put_off(self, seconds: float) -> None:
        """Time that does not count."""
        if self._probe is not None:
            self._probe.ask_at += seconds
            self._probe.fail_at += seconds

    def due(self, now: float) -> None:
        probe = self._probe
        if probe is not None and now >= probe.fail_at:
            self._failed(probe, now)
        elif probe is not None and now >= probe.ask_at:
            self._ask_others(probe)
        if now >= self._probe_at:
            self._begin(now)
        if self._relayed:
            for seq, relayed in [item for item in self._relayed.items() if item[1].nack_at <= now]:
                del self._relayed[seq]
                self._swim.outbox.append((relayed.asker, Nack(relayed.seq)))

    def _begin(self, now: float) -> None:
        swim, pace = self._swim, self._pace
        factor = swim.health.factor
        self._probe_at = now + pace.interval * factor * (0.9 + 0.2 * swim.chance.random())
        member = self._target()
        if self._probe is not None or member is None:
            return
        self._probe = _Probe(member, self.next_seq(), now + pace.direct * factor, now + pace.patience * factor)
        swim.outbox.append((member.address, self._ping(self._probe.seq, member)))

    def _ping(self, seq: int, member: Member) -> Ping:
        return Ping(seq, member.check, self._swim.table.hash, self._swim.load(member))

    def _target(self) -> Member | None:
        look, self._look = self._look, None
        if look is not None and look.live:
            return look
        self._on_ring = not self._on_ring
        table = self._swim.table
        return (table.successor() if self._on_ring else None) or table.in_turn()

    def _ask_others(self, probe: _Probe) -> None:
        probe.ask_at = NEVER
        for other in self._swim.table.some(RELAYS, probe.member):
            ask = Indirect(probe.seq, probe.member.address, probe.member.check, self._swim.load(other))
            self._swim.outbox.append((other.address, ask))

    def _failed(self, probe: _Probe, now: float) -> None:
        self._probe = None
        if not probe.nacks:
            self._swim.health.change(+1)
        if probe.member.live:
            self._swim.accuse(probe.member, now)

    # What is heard. -------------------------------------------------------------------------------------------

    def acked(self, seq: int, now: float) -> None:
        relayed = self._relayed.pop(seq, None)
        if relayed is not None:
            self._swim.outbox.append((relayed.asker, Ack(relayed.seq)))
        elif self._probe is not None and seq == self._probe.seq:
            self._probe = None
            self._swim.health.change(-1)

    def nacked(self, seq: int) -> None:
        if self._probe is not None and seq == self._probe.seq:
            self._probe.nacks += 1

    def relay(self, ask: Indirect, asker: Address, now: float) -> None:
        """Probe that one for somebody else, if it is one whom we know too."""
        member = self._swim.table.at.get(ask.address)
        if member is None or member.check != ask.check or len(self._relayed) >= _RELAYED:
            return
        seq = self.next_seq()
        wait = 0.6 * (self._pace.patience - self._pace.direct)
        self._relayed[seq] = _Relayed(ask.seq, asker, now + wait)
        self._swim.outbox.append((member.address, self._ping(seq, member)))
