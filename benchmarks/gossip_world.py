"""A cluster of gossiping members in virtual time: loss, partitions, stalls, churn. Used by `benchmarks/gossip.py` and
by `tests/unit/test_swim_world.py`.

Everything is decided by one seed. A second of a member costs some 0.1 ms of ours: messages are handed over as values,
and their octets counted (`wire.gossip.size`), not made.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, Literal

from weft.core import swim_sync
from weft.core.swim import Swim
from weft.core.swim_values import LAN, Address, Message, Pace, Shape, State
from weft.wire import gossip

HEADERS = 28
"""Octets of the IPv4 and UDP headers."""
PAYLOAD = 220
"""Octets of a HELLO with two networks, packed."""
_Kind = Literal["message", "wake", "sync", "fetch", "call"]


@dataclass(slots=True, eq=False)
class Sim:
    """One member. `asleep`: until when its program does not run; what comes meanwhile waits in its socket."""

    number: int
    swim: Swim
    up: bool = True
    asleep: float = 0.0
    mail: list[tuple[float, int, _Kind, Sim, Any]] = field(default_factory=list)
    planned: float = float("inf")
    sent: int = 0
    datagrams: int = 0
    side: int = 0

    @property
    def id(self) -> str:
        return self.swim.shape.id


class World:
    """`loss`: share of datagrams that vanish. `latency`: seconds, from, to. Tables go by connections: none is lost."""

    def __init__(self, pace: Pace = LAN, seed: int = 1, loss: float = 0.0, sized: bool = False) -> None:
        self.pace, self.loss, self.sized = pace, loss, sized
        self.random = Random(seed)
        self.now = 0.0
        self.latency = (0.0002, 0.002)
        self.sims: dict[Address, Sim] = {}
        self.watch: Callable[[Sim], None] | None = None
        self._queue: list[tuple[float, int, _Kind, Sim, Any]] = []
        self._number = count()
        self.events = 0
        self.syncs = 0

    # Members. -------------------------------------------------------------------------------------------------

    def add(self, seed: Sim | None = None, number: int | None = None) -> Sim:
        """A new member that joins by `seed`."""
        number = len(self.sims) if number is None else number
        address = Address((0x0A000000 + number + 1).to_bytes(4, "big"), 4790)
        shape = Shape(f"host-{number:05}", self.pace, gossip.update_size, gossip.ROOM)
        swim = Swim(shape, address, 1_700_000_000_000 + int(self.now * 1000), Random(self.random.getrandbits(64)))
        sim = Sim(number, swim)
        self.sims[address] = sim
        swim.announce(self.payload(number), self.now)
        swim.start(self.now)
        if seed is not None:
            self._sync(sim, seed.swim.address)
        self._after(sim)
        return sim

    def cluster(self, size: int) -> list[Sim]:
        """So many members who know each other already, and have nothing more to tell."""
        sims = [self.add() for _ in range(size)]
        known = [sim.swim.me(payload=True) for sim in sims]
        for sim in sims:
            for update in known:
                sim.swim.apply(update, sim.swim.address, self.now, spread=False)
            for update in known:
                sim.swim.rumours.drop(update.id)
            self._after(sim)
        return sims

    def payload(self, number: int) -> bytes:
        return number.to_bytes(4, "big") + self.random.randbytes(PAYLOAD - 4)

    def change(self, sim: Sim, octets: int = PAYLOAD) -> bytes:
        """It has something new to tell."""
        payload = self.random.randbytes(octets)
        sim.swim.announce(payload, self.now)
        self._after(sim)
        return payload

    def kill(self, sim: Sim) -> None:
        sim.up = False

    def leave(self, sim: Sim) -> None:
        sim.swim.leave()
        self._after(sim)
        sim.up = False

    def stall(self, sim: Sim, seconds: float) -> None:
        """Its program does not run."""
        if sim.asleep <= self.now:
            sim.asleep = self.now + seconds
            self._push(sim.asleep, "wake", sim, None)

    def call(self, after: float, what: Callable[[], None]) -> None:
        self._push(self.now + after, "call", next(iter(self.sims.values())), what)

    def up(self) -> Iterator[Sim]:
        return (sim for sim in self.sims.values() if sim.up)

    # Time. ----------------------------------------------------------------------------------------------------

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let so much time pass, or less if `until` is true before; whether it was."""
        end = self.now + seconds
        queue = self._queue
        while queue and queue[0][0] <= end:
            if until is not None and until():
                return True
            item = heapq.heappop(queue)
            self.now = item[0]
            self.events += 1
            self._happen(item)
        if until is not None and until():
            return True
        self.now = end
        return False

    def _push(self, at: float, kind: _Kind, sim: Sim, what: Any) -> None:
        heapq.heappush(self._queue, (at, next(self._number), kind, sim, what))

    def _happen(self, item: tuple[float, int, _Kind, Sim, Any]) -> None:
        _, _, kind, sim, what = item
        if kind == "call":
            what()
            return
        if not sim.up:
            return
        if sim.asleep > self.now and kind != "wake":
            sim.mail.append(item)
            return
        if kind == "message":
            message, source = what
            sim.swim.receive(message, source, self.now)
        elif kind == "sync":
            self._answer(sim, what)
        elif kind == "fetch":
            self._give(sim, what)
        elif sim.asleep > self.now:
            return
        else:
            if sim.planned <= self.now:
                sim.planned = float("inf")
            if sim.swim.next_event <= self.now:
                sim.swim.due(self.now)
            if sim.mail:
                mail, sim.mail = sim.mail, []
                for waiting in mail:
                    self._happen(waiting)
        self._after(sim)

    def _after(self, sim: Sim) -> None:
        """Send what it wants to send, and wake it when it wants to be woken."""
        swim = sim.swim
        if swim.outbox:
            sent, swim.outbox = swim.outbox, []
            for address, message in sent:
                self._send(sim, address, message)
        while swim.wanted:
            self._sync(sim, swim.wanted.pop())
        while swim.fetches:
            member_id, address = swim.fetches.pop()
            self._connect(sim, address, "fetch", (sim, member_id))
        at = swim.next_event
        if at < sim.planned:
            sim.planned = at
            self._push(max(at, self.now), "wake", sim, None)
        if self.watch is not None:
            self.watch(sim)

    # The network. ---------------------------------------------------------------------------------------------

    def _send(self, sim: Sim, address: Address, message: Message) -> None:
        if self.sized:
            sim.sent += gossip.size(message) + HEADERS
            sim.datagrams += 1
        other = self.sims.get(address)
        if other is None or not other.up or other.side != sim.side:
            return
        if self.loss and self.random.random() < self.loss:
            return
        low, high = self.latency
        at = self.now + low + (high - low) * self.random.random()
        self._push(at, "message", other, (message, sim.swim.address))

    def _connect(self, sim: Sim, address: Address, kind: _Kind, what: Any) -> None:
        other = self.sims.get(address)
        if other is not None and other.up and other.side == sim.side:
            self._push(self.now + 4 * self.latency[1], kind, other, what)

    def _sync(self, sim: Sim, address: Address) -> None:
        self.syncs += 1
        self._connect(sim, address, "sync", sim)

    def _answer(self, sim: Sim, asker: Sim) -> None:
        """Both ends of a comparison of tables, as if it took no time."""
        if not asker.up or asker.asleep > self.now:
            return
        told, wanted = swim_sync.answer(sim.swim, swim_sync.brief(asker.swim), asker.swim.address, self.now)
        more = swim_sync.merge(asker.swim, told, sim.swim.address, self.now)
        swim_sync.take_payloads(sim.swim, swim_sync.payloads(asker.swim, wanted), self.now)
        swim_sync.take_payloads(asker.swim, swim_sync.payloads(sim.swim, more), self.now)
        self._after(asker)

    def _give(self, sim: Sim, what: tuple[Sim, str]) -> None:
        asker, member_id = what
        if asker.up:
            swim_sync.take_payloads(asker.swim, swim_sync.payloads(sim.swim, [member_id]), self.now)
            self._after(asker)

    # What they believe. ---------------------------------------------------------------------------------------

    def agree(self) -> bool:
        """All who are up believe that exactly those who are up are alive, and have their payloads."""
        ups = list(self.up())
        hashes = {sim.swim.table.hash for sim in ups}
        return len(hashes) == 1 and all(
            len(sim.swim.table.live) == len(ups) - 1
            and not any(m.missing or m.state is not State.ALIVE for m in sim.swim.table.live)
            for sim in ups
        )
