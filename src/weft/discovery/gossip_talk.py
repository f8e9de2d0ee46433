"""The whole of discovery by gossip without its sockets: datagrams and tables in and out, and what is known. Time is an
argument, so that tests run hours of it in milliseconds.

`discovery/gossip.py` owns one: it hands over what it hears, sends what is `due`, sleeps until `next_event`, and
compares tables with whom `swim.wanted` names.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from weft.core import swim_sync
from weft.core.swim import Swim
from weft.core.swim_values import Address, Shape, State, Update
from weft.discovery.gossip_options import GossipSettings
from weft.discovery.gossip_roster import Roster
from weft.discovery.tally import Complaints, Counters, Refused
from weft.errors import WireError
from weft.model import IPAddress, Known, Node
from weft.wire import gossip, table_sync
from weft.wire.gossip_payload import pack
from weft.wire.gossip_seal import Seal, SealError, Why
from weft.wire.hello import Stamp
from weft.wire.seal import derive_key
from weft.wire.table_sync import Step, Table

INFINITY = float("inf")
PERSISTS = 3.0
"""Seconds for which a sender does what also happens by chance (a datagram that comes twice, a word from one who has
only just joined) until that is a problem."""
_HEAD = 13
"""Octets that no other sealed message begins with."""

_TEXTS = {
    Why.UNSEALED: "{} gossips without a key, and this host has one: set the same KEY there, or remove it here",
    Why.SEALED: "{} encrypts what it sends, and this host has no key: set the same KEY here, or remove it there",
    Why.WRONG_KEY: "a datagram from {} is encrypted with another key than this host's: set the same KEY on both",
    Why.REPLAYED: "datagrams of a member are heard again, from {}: refused as replays",
}
_STRANGER = (
    "{} tells of members and is none that is known here: refused; somebody pretends to be a member, or there is "
    "address translation between it and this host"
)


class Talk:
    """`epoch`: milliseconds since 1970 when this instance started. `random`: `salt` is drawn from it unless given."""

    def __init__(
        self, settings: GossipSettings, epoch: int, random: Random, salt: Callable[[], bytes] | None = None
    ) -> None:
        self._settings = settings
        self._epoch = epoch
        limits = settings.limits
        shape = Shape(settings.node, settings.pace, gossip.update_size, gossip.ROOM, limits.peers, limits.octets)
        salt = salt or (lambda: random.randbytes(8))
        keys = [derive_key(key) for key in settings.keys]
        self._seal = Seal(keys, salt)
        self._table_seal = Seal(keys, salt, window=False)
        self.swim = Swim(shape, Address(settings.source.packed, settings.port), epoch, random)
        self.counters = Counters()
        self.complaints = Complaints(limits.problems)
        self.roster = Roster(settings, self.counters, self.complaints)
        self._me: Node | None = None
        self._seq = 0
        self._tables = 0
        self._looked: tuple[int, float] = (-1, 0.0)
        self._joined_at = INFINITY
        self._complete_at = INFINITY
        self._complete = False
        self._since: dict[tuple[str, Address], float] = {}
        self._farewells = 0

    # What is known. -------------------------------------------------------------------------------------------

    @property
    def version(self) -> tuple[int, int, bool]:
        """Differs from before whenever `known` does."""
        return self.roster.version, self.complaints.version, self._complete

    def known(self) -> Known[Node]:
        """Complete once the tables were compared with a member, and whoever of them is dead had time to be found."""
        return Known(self.roster.nodes, self._complete, self.complaints.problems)

    @property
    def announced(self) -> bool:
        """There is something to tell: this is a member."""
        return self._me is not None

    @property
    def joined(self) -> bool:
        return self._joined_at != INFINITY

    def last_seen(self, now: float) -> dict[str, float]:
        """Node id and when it was last known to be alive: each member is probed all the time, and a death is told."""
        seen = {}
        for node in self.roster.nodes:
            member = self.swim.table.members[node.id]
            fine = member.state is State.ALIVE and not self.swim.isolated
            seen[node.id] = now if fine else max(member.heard, min(member.since, self.swim.heard))
        return seen

    # What happens. --------------------------------------------------------------------------------------------

    def announce(self, me: Node, now: float) -> None:
        """From now on tell this. A node that nobody would believe is a problem, and what was told before holds."""
        if me == self._me:
            return
        self._seq += 1
        try:
            payload = pack(me, Stamp(f"{self._settings.instance}.{self._epoch:x}", self._epoch, self._seq))
        except WireError as error:
            self.complaints.report("announce", self._settings.node, str(error))
            return
        self._me = me
        self.complaints.clear("announce", self._settings.node)
        self.swim.announce(payload, now)

    def move(self, source: IPAddress, now: float) -> None:
        """This host has another address now."""
        self.swim.moved(Address(source.packed, self._settings.port), now)

    def start(self, now: float) -> None:
        """The sockets are there."""
        if not self.swim.speaking:
            self.swim.start(now)

    def join(self, now: float) -> None:
        """The tables were compared with a live member; or there is nobody to compare them with."""
        if not self.joined:
            self._joined_at = now

    def receive(self, datagram: bytes, source: Address, now: float) -> None:
        """A datagram came from there."""
        try:
            message = gossip.decode(self._seal.open(datagram))
        except SealError as error:
            self._refuse(Refused(error.why), source, now)
            return
        except WireError:
            self.counters.refused[Refused.MALFORMED] += 1
            return
        self.counters.received[gossip.name_of(message)] += 1
        if source != self.swim.address and not self.swim.receive(message, source, now):
            self.counters.refused[Refused.SPOOFED] += 1
            if self._persists("stranger", source, now):
                self._report(Refused.SPOOFED, str(source.ip), _STRANGER.format(source), now)

    def _refuse(self, why: Refused, source: Address, now: float) -> None:
        self.counters.refused[why] += 1
        if why is Refused.REPLAYED and not self._persists(why, source, now):
            return
        text = _TEXTS.get(Why(why))
        if text is not None:
            self._report(why, str(source.ip), text.format(source.ip), now)

    def _persists(self, what: str, source: Address, now: float) -> bool:
        """Whether it has gone on for a while. Who only does it now and then begins anew."""
        if len(self._since) >= self._settings.limits.problems:
            self._since = {key: at for key, at in self._since.items() if at + self._settings.fade > now}
            if len(self._since) >= self._settings.limits.problems:
                return True
        since = self._since.setdefault((what, source), now)
        if since + self._settings.fade < now:
            self._since[what, source] = now
            return False
        return now - since >= PERSISTS

    def _report(self, why: Refused, subject: str, text: str, now: float) -> None:
        self.complaints.report(why, subject, text, now + self._settings.fade)

    # What is due. ---------------------------------------------------------------------------------------------

    @property
    def next_event(self) -> float:
        """Nothing is due before this."""
        swim = self.swim.next_event if self.swim.speaking else INFINITY
        return min(swim, self.roster.next_event, self.complaints.next_expiry, self._complete_at)

    def due(self, now: float) -> list[tuple[Address, bytes]]:
        """What has to be sent now, and where. Also looks at what has changed."""
        if self.swim.speaking and self.swim.next_event <= now:
            self.swim.due(now)
        self.complaints.expire(now)
        self._look(now)
        return self.take_out()

    def take_out(self) -> list[tuple[Address, bytes]]:
        """What waits to be sent."""
        sent, self.swim.outbox = self.swim.outbox, []
        for _, message in sent:
            self.counters.sent[gossip.name_of(message)] += 1
        return [(address, self._seal.seal(gossip.encode(message))) for address, message in sent]

    def farewell(self) -> list[tuple[Address, bytes]]:
        """The goodbye."""
        if not self.swim.left:
            self.swim.leave()
        return self.take_out()

    def _look(self, now: float) -> None:
        if self.swim.version != self._looked[0] or now >= self.roster.next_event:
            self._looked = self.swim.version, now
            self.roster.look(self.swim, now)
        self._complain(now)
        self._judge(now)

    def _judge(self, now: float) -> None:
        """Whether nobody can be missing."""
        waits = max(self._joined_at + self._settings.pace.least(self.swim.members()), self.roster.waits_until)
        self._complete = waits <= now and not self.swim.isolated
        self._complete_at = waits if now < waits else INFINITY

    def _complain(self, now: float) -> None:
        tally, node = self.swim.tally, self._settings.node
        while tally.twins:
            member, (first, other) = tally.twins.popitem()
            text = (
                f"two members use the id {member!r}: one at {first}, which is believed, and one at {other}, which is "
                f"refused until the first is dead or leaves; set another PEER_ID on one of them"
            )
            self.counters.refused[Refused.DUPLICATE] += 1
            self._report(Refused.DUPLICATE, member, text, now)
        if tally.full:
            self.counters.refused[Refused.LIMIT] += tally.full
            tally.full = 0
            limits = self._settings.limits
            text = (
                f"{limits.peers} members, or {limits.octets} octets of what they tell, is the limit: no more is taken"
            )
            self._report(Refused.LIMIT, "gossip", text, now)
        if tally.farewells > self._farewells:
            self._farewells = tally.farewells
            text = f"somebody said goodbye for {node}, which is here: contradicted; who holds the key can do that"
            self._report(Refused.SPOOFED, node, text, now)
        if self.swim.isolated:
            text = (
                f"this host hears none of the {len(self.swim.table.live)} others any more: its network is broken, or "
                f"UDP port {self._settings.port} is closed; all of them are kept meanwhile"
            )
            self.complaints.report("isolated", node, text)
        else:
            self.complaints.clear("isolated", node)

    # Tables. --------------------------------------------------------------------------------------------------

    def ask(self) -> bytes:
        """The table to begin with."""
        return self._pack("ask", tuple(swim_sync.brief(self.swim, self.announced)), (), b"")

    def fetch(self, member: str) -> bytes:
        """The table that asks for a payload."""
        return self._pack("payloads", (), (member,), b"")

    def asked(self, octets: bytes, source: IPAddress, now: float) -> tuple[bytes, bool]:
        """A table came, by a connection from there: the one to answer with, and whether one more comes then. WireError
        if it is refused."""
        table = self._unpack(octets, b"", source, now)
        bound = octets[:_HEAD]
        if table.step == "payloads":
            return self._pack("payloads", tuple(swim_sync.payloads(self.swim, table.want)), (), bound), False
        told, want = swim_sync.answer(self.swim, table.updates, table.address, now)
        told = told if self.announced else [update for update in told if update.id != self._settings.node]
        self._look(now)
        return self._pack("answer", tuple(told), tuple(want), bound), bool(want)

    def answered(self, asked: bytes, octets: bytes, source: IPAddress, now: float) -> bytes | None:
        """The answer to what was asked: the last table that has to be sent, None if nothing is wanted."""
        bound = asked[:_HEAD]
        table = self._unpack(octets, bound, source, now)
        if table.step == "answer":
            swim_sync.merge(self.swim, table.updates, table.address, now)
        swim_sync.take_payloads(self.swim, table.updates, now)
        self._look(now)
        if not table.want:
            return None
        return self._pack("payloads", tuple(swim_sync.payloads(self.swim, table.want)), (), bound + b"+")

    def given(self, asked: bytes, octets: bytes, source: IPAddress, now: float) -> None:
        """The last table, of one who asked."""
        table = self._unpack(octets, asked[:_HEAD] + b"+", source, now)
        swim_sync.take_payloads(self.swim, table.updates, now)
        self._look(now)

    def _pack(self, step: Step, updates: tuple[Update, ...], want: tuple[str, ...], bound: bytes) -> bytes:
        self._tables += 1
        table = Table(self._settings.node, self.swim.address, step, self._tables, updates, want)
        self.counters.sent["TABLE_SYNC"] += 1
        return self._table_seal.seal(table_sync.encode(table, self._me), b"table" + bound)

    def _unpack(self, octets: bytes, bound: bytes, source: IPAddress, now: float) -> Table:
        where = Address(source.packed, 0)
        try:
            table = table_sync.decode(self._table_seal.open(octets, b"table" + bound))
        except SealError as error:
            self._refuse(Refused(error.why), where, now)
            raise
        except WireError:
            self.counters.refused[Refused.MALFORMED] += 1
            raise
        if table.address.packed != source.packed:
            text = (
                f"a table from {source} claims to come from {table.sender} at {table.address}: refused; somebody "
                f"pretends to be that host, or there is address translation between it and this one"
            )
            self.counters.refused[Refused.SPOOFED] += 1
            self._report(Refused.SPOOFED, str(source), text, now)
            raise WireError(text)
        self.counters.received["TABLE_SYNC"] += 1
        if any(update.id == table.sender and update.address != table.address for update in table.updates):
            self.counters.refused[Refused.SPOOFED] += 1
            raise WireError(f"{table.sender} at {table.address} says that it is elsewhere")
        return table
