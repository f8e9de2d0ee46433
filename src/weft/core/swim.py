"""One member of a gossiping cluster: SWIM with Lifeguard's refinements. Sans I/O: messages and times in, messages out.

`discovery/gossip.py` owns one: it hands over what it hears (`receive`), calls `due` when `next_event` has come, sends
what is in `outbox` and compares tables over TCP with who is in `wanted` (`core/swim_sync.py`). What holds:

    incarnation     only the member itself raises its own: whatever is said of it that is not true, it raises it and
                    says ALIVE. Of one incarnation, LEFT holds over DEAD over SUSPECT over ALIVE
    probes          in turn to the successor on the ring of ids and to a member picked round robin: every member is
                    probed within two intervals, however many there are
    our own sleep   time in which this program did not run is not counted against anybody
    isolation       who hears nobody declares nobody dead (it may be its own cable)
    the dead        are probed now and then for MEMORY seconds: two halves of a cluster find each other again
    news            goes at once to FANOUT members, and again each `gossip` seconds and with each probe, until it was
                    told often enough
"""

from __future__ import annotations

from weft.core.swim_probing import Prober
from weft.core.swim_rumours import Rumours, transmissions
from weft.core.swim_suspects import Absent, Suspects
from weft.core.swim_suspicion import LocalHealth
from weft.core.swim_table import Member, Table
from weft.core.swim_values import (
    FANOUT,
    NEVER,
    Ack,
    Address,
    Chance,
    Indirect,
    Message,
    Nack,
    Ping,
    Rumour,
    Shape,
    State,
    Tally,
    Update,
    check_of,
    digest_of,
)

MEMORY = 3600.0
"""Seconds for which a member that is gone is remembered; a dead one is probed so long."""
OPINIONS = 8
"""Members that look for themselves at once, of all who hear of a suspicion."""
INLINE = 600
"""Octets of a payload that goes along with the news of it; a larger one is fetched."""
FAREWELLS = 8
_COMPARE = (10.0, 300.0)
"""Seconds between comparisons of tables, at least: the first, and after many that brought nothing."""
_LAST = 2**63 - 1
_AT_ONCE = 4
"""Claims in one datagram: ids may be long."""


class Swim:
    """`incarnation`: higher than in any life before, as far as the clock is right (ms since 1970): if it isn't, the
    others tell. `version` differs from before whenever members, payloads or `isolated` do."""

    def __init__(self, shape: Shape, address: Address, incarnation: int, chance: Chance) -> None:
        self.shape, self.pace, self.address = shape, shape.pace, address
        self._former: Address | None = None
        self.incarnation = incarnation
        self.check = check_of(shape.id)
        self.digest, self.payload = b"", b""
        self.table = Table(shape.id, chance)
        self.chance = chance
        self.rumours = Rumours(shape.size)
        self.health = LocalHealth()
        self.tally = Tally()
        self.outbox: list[tuple[Address, Message]] = []
        self.wanted: list[Address] = []
        """Whose tables are to be compared with ours."""
        self.fetches: list[tuple[str, Address]] = []
        """Whose payload is to be fetched, and where."""
        self.version = 0
        self.changed_at = float("-inf")
        self.isolated = False
        self.left = False
        self.speaking = False
        self.heard = NEVER
        """When anybody was heard last."""
        self.octets = 0
        """Of all payloads."""
        self._limit = transmissions(1)
        self._round_at, self._last_round = NEVER, float("-inf")
        self._suspects = Suspects(self.pace)
        self._revive_at = NEVER
        self._compare_at, self._compare_gap = 0.0, _COMPARE[0]
        self._absent = Absent()
        self.prober = Prober(self)

    # What its owner does. -------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """From now on others are probed. Before, it can only be told."""
        self.speaking = True
        self.heard = now
        self.prober.start(now)
        self.table.settle_me(self.incarnation, self.digest)

    def announce(self, payload: bytes, now: float) -> None:
        """From now on this is what the others are to know of us."""
        self.payload, self.digest = payload, digest_of(payload)
        self._say_alive(now, self.incarnation + 1, self._inline())

    def moved(self, address: Address, now: float) -> None:
        """We are somewhere else now."""
        self._former, self.address = self.address, address
        self._say_alive(now, self.incarnation + 1, None)

    def leave(self) -> None:
        """Say goodbye to some; they tell the rest."""
        self.left = True
        gone = Update(State.LEFT, self.shape.id, self.incarnation)
        for member in self.table.some(FAREWELLS):
            self.outbox.append((member.address, Rumour((gone,))))

    def me(self, payload: bool = False) -> Update:
        inline = self.payload if payload else None
        return Update(State.ALIVE, self.shape.id, self.incarnation, "", self.address, self.digest, inline)

    @property
    def next_event(self) -> float:
        """Nothing is due before this."""
        return min(
            self.prober.next_event,
            self._suspects.next_event,
            self._absent.next_event,
            self._revive_at,
            self._round_at,
        )

    def members(self) -> int:
        """Those who are alive or suspected, and this one."""
        return len(self.table.live) + 1

    def receive(self, message: Message, source: Address, now: float) -> bool:
        """Take what was heard from there; False if it was refused, for no member is there."""
        if self.left:
            return True
        member = self.table.at.get(source) or self._introduced(message, source, now)
        if member is None:
            self.tally.strangers += 1
            if isinstance(message, Ping) and message.check == self.check:
                self.outbox.append((source, Ack(message.seq)))  # it may know us before we know it
            return not message.updates
        member.heard = self.heard = now
        if self.isolated:
            self._found_again(now)
        for update in message.updates:
            self.apply(update, source, now)
        if isinstance(message, Ping):
            self._pinged(message, member, now)
        elif isinstance(message, Ack):
            self.prober.acked(message.seq, now)
        elif isinstance(message, Indirect):
            self.prober.relay(message, source, now)
        elif isinstance(message, Nack):
            self.prober.nacked(message.seq)
        if not member.live and not isinstance(message, Ping):
            self.outbox.append((source, Rumour((member.as_update(),))))
        return True

    def due(self, now: float) -> None:
        """Do what its time has come for."""
        late = now - self.next_event
        if late > self.pace.direct:
            self._overslept(late)
        self._check_isolation(now)
        self.prober.due(now)
        if now >= self._suspects.next_event:
            self._bury(now)
        if now >= self._absent.next_event:
            self.fetches += [(name, self.table.members[name].address) for name in self._absent.due(now)]
        if now >= self._revive_at:
            self._revive(now)
        if now >= self._round_at:
            self._tell_round(now)

    # What is heard. -------------------------------------------------------------------------------------------

    def _introduced(self, message: Message, source: Address, now: float) -> Member | None:
        """Somebody new: it has to say itself that it is where it speaks from."""
        for update in message.updates:
            if update.state is State.ALIVE and update.address == source and update.id != self.shape.id:
                self.apply(update, source, now)
                return self.table.at.get(source)
        return None

    def _pinged(self, ping: Ping, member: Member, now: float) -> None:
        if ping.check != self.check:
            return  # it means somebody who was here before us
        self.outbox.append((member.address, Ack(ping.seq, self.load(member))))
        if ping.table != self.table.hash and member.live and self.speaking:
            self._differs(member.address, now)

    def _differs(self, other: Address, now: float) -> None:
        """It believes something else than we do: news may still be on its way, else the tables are compared."""
        if now - self.changed_at > self.pace.quiet and now >= self._compare_at:
            self._compare_at = now + self._compare_gap * (1 + self.chance.random())
            self._compare_gap = min(2 * self._compare_gap, _COMPARE[1])
            self.wanted.append(other)

    def apply(self, update: Update, teller: Address, now: float, spread: bool = True) -> None:
        """Believe it, if it is news, and pass it on."""
        if update.id == self.shape.id:
            self._about_me(update, teller, now)
            return
        member = self.table.members.get(update.id)
        if update.state is State.ALIVE:
            self._alive(update, member, teller, now, spread)
        elif member is None:
            return
        elif update.incarnation < member.incarnation:
            if member.live and update.state is not State.LEFT:
                self.outbox.append((teller, Rumour((member.as_update(),))))  # its answer passed by the teller
        elif update.state is State.SUSPECT:
            self._suspected(update, member, now)
        elif update.state > member.state:
            member.incarnation = update.incarnation
            self._gone(member, update.state, now)
            self.spread(update, now)

    def _about_me(self, update: Update, teller: Address, now: float) -> None:
        if update.state is State.ALIVE and update.address != self.address:
            if update.address is not None and update.address != self._former:
                self.tally.twins[update.id] = (update.address, self.address)
            return
        same = (update.incarnation, update.digest) == (self.incarnation, self.digest)
        if update.incarnation < self.incarnation or (update.state is State.ALIVE and same):
            return
        if update.state is not State.ALIVE:
            self.health.change(+1)
            self.tally.refuted += 1
            self.tally.farewells += update.state is State.LEFT
        former_life = update.state is State.ALIVE
        self._say_alive(now, min(update.incarnation + 1, _LAST), self._inline() if former_life else None)
        self.outbox.append((teller, Rumour((self.me(),))))

    def _inline(self) -> bytes | None:
        return self.payload if len(self.payload) <= INLINE else None

    def _say_alive(self, now: float, incarnation: int, payload: bytes | None) -> None:
        self.incarnation = incarnation
        self.table.settle_me(incarnation, self.digest)
        self.spread(self.me(payload is not None), now)

    def _alive(self, update: Update, member: Member | None, teller: Address, now: float, spread: bool) -> None:
        if update.address is None:
            return
        if member is None:
            if len(self.table.members) >= self.shape.limit:
                self.tally.full += 1
                return
            member = Member(update.id, update.address, update.incarnation, now)
            self._settle(member, update, teller, now)
            self.table.add(member)
        elif update.incarnation <= member.incarnation:
            if update.incarnation == member.incarnation and update.payload and member.missing:
                self.supply(update.id, update.payload, now)
            return
        elif update.address != member.address and member.state is State.ALIVE:
            self.tally.twins[update.id] = (member.address, update.address)
            return
        else:
            if update.address != member.address:
                self.table.move(member, update.address)
            self._settle(member, update, teller, now)
            self.table.settle(member)
        self._changed(now)
        if spread and not member.missing:
            self.spread(update, now)

    def _settle(self, member: Member, update: Update, teller: Address, now: float) -> None:
        """Write down what it says of itself; fetch its payload if that is not known."""
        if member.state is not State.ALIVE:
            member.state, member.since = State.ALIVE, now
            self._suspects.clear(member)
        member.incarnation, member.digest = update.incarnation, update.digest
        if update.payload is not None:
            self._keep(member, update.payload)
        if member.missing:
            self.fetches.append((member.id, teller))
            self._absent.add(member.id, now)
        else:
            self._absent.drop(member.id)

    def supply(self, member_id: str, payload: bytes, now: float) -> None:
        """A payload was fetched. It is taken if it is the one that the member has."""
        member = self.table.members.get(member_id)
        if member is not None and member.missing and self._keep(member, payload):
            self._absent.drop(member_id)
            self._changed(now)
            self.spread(member.as_update(), now)

    def _keep(self, member: Member, payload: bytes) -> bool:
        """Take a payload, if it is the one that the member has and there is room for it."""
        octets = self.octets + len(payload) - len(member.payload)
        if digest_of(payload) != member.digest:
            return False
        if octets > self.shape.octets:
            self.tally.full += 1
            return False
        self.octets, member.payload, member.has = octets, payload, member.digest
        return True

    def _suspected(self, update: Update, member: Member, now: float) -> None:
        if member.suspicion is not None:
            member.incarnation = update.incarnation
            if self._suspects.confirm(member, update.by):
                self.spread(update, now)
        elif member.live:
            self.suspect(member, update, now)
            if self.chance.random() * len(self.table.live) < OPINIONS:
                self.prober.look_at(member, now)

    def suspect(self, member: Member, update: Update, now: float) -> None:
        """It begins now, by what this says."""
        self.tally.suspicions += 1
        member.state, member.since, member.incarnation = State.SUSPECT, now, update.incarnation
        self._suspects.begin(member, now, self.members(), update.by)
        self.table.settle(member)
        self.spread(update, now)

    def accuse(self, member: Member, now: float) -> None:
        """It did not answer us."""
        claim = Update(State.SUSPECT, member.id, member.incarnation, self.shape.id)
        if member.suspicion is None:
            self.suspect(member, claim, now)
            self.outbox.append((member.address, Rumour((claim,))))
        else:
            self._suspected(claim, member, now)

    def _gone(self, member: Member, state: State, now: float) -> None:
        self.tally.deaths += state is State.DEAD
        member.state, member.since = state, now
        self._suspects.clear(member)
        self._absent.drop(member.id)
        self.table.settle(member)
        self._revive_at = min(self._revive_at, now + self.pace.revival)
        self._changed(now)

    def _changed(self, now: float) -> None:
        self.version += 1
        self.changed_at = now
        self._compare_gap = _COMPARE[0]
        self._limit = transmissions(self.members())

    # What is told. --------------------------------------------------------------------------------------------

    def spread(self, update: Update, now: float) -> None:
        self.rumours.add(update)
        if self.speaking:
            self._round_at = min(self._round_at, max(now + self.pace.soon, self._last_round + self.pace.gap))

    def load(self, to: Member | None = None) -> tuple[Update, ...]:
        """What goes along with a message to that member: what is held against it first, so that it can answer."""
        if to is not None and to.state is not State.ALIVE:
            claim = to.as_update()
            return (claim, *self.rumours.take(self.shape.room - self.shape.size(claim), self._limit))
        return self.rumours.take(self.shape.room, self._limit) if self.rumours else ()

    def _tell_round(self, now: float) -> None:
        self._round_at, self._last_round = NEVER, now
        for member in self.table.some(FANOUT):
            news = self.rumours.take(self.shape.room, self._limit)
            if news:
                self.outbox.append((member.address, Rumour(news)))
        if self.rumours and self.table.live:
            self._round_at = now + (self.pace.gap if self.rumours.fresh else self.pace.gossip)

    # What time brings. ----------------------------------------------------------------------------------------

    def _overslept(self, seconds: float) -> None:
        """Nobody could be heard meanwhile: it does not count."""
        self.prober.put_off(seconds)
        self._suspects.put_off(seconds)
        self.heard += seconds

    def _check_isolation(self, now: float) -> None:
        alone = len(self.table.live) >= 2 and now - self.heard > self.pace.silence
        if alone and not self.isolated:
            self.isolated = True
            self.version += 1

    def _found_again(self, now: float) -> None:
        """Others can be heard again: they get all the time there is to contradict."""
        self.isolated = False
        self.version += 1
        self.health.score = 0
        self._suspects.begin_anew(now)
        self.prober.hurry(now)

    def _bury(self, now: float) -> None:
        if self.isolated:
            self._suspects.hold(now)
            return
        called, dead = self._suspects.due(now)
        for member in dead:
            self._gone(member, State.DEAD, now)
            self.spread(Update(State.DEAD, member.id, member.incarnation, self.shape.id), now)
        claims = [member.as_update() for member in called]
        self.outbox += [(member.address, Rumour((claim,))) for member, claim in zip(called, claims, strict=True)]
        for start in range(0, len(claims), _AT_ONCE):  # whoever has heard of its answer says so (`apply`)
            some = Rumour(tuple(claims[start : start + _AT_ONCE]))
            self.outbox += [(other.address, some) for other in self.table.some(FANOUT)]
        self._suspects.settle()

    def _revive(self, now: float) -> None:
        """One who is dead may only have been cut off: it is told what is said of it, and who we are."""
        for member in [m for m in self.table.members.values() if not m.live and now - m.since > MEMORY]:
            self.table.forget(member)
            self.octets -= len(member.payload)
        dead = self.table.dead()
        if dead:
            member = dead[int(self.chance.random() * len(dead))]
            ping = Ping(self.prober.next_seq(), member.check, self.table.hash, (member.as_update(), self.me()))
            self.outbox.append((member.address, ping))
        gone = len(self.table.members) > len(self.table.live)
        self._revive_at = now + self.pace.revival if gone else NEVER
