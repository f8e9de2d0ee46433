"""The whole of multicast discovery without its sockets: datagrams in, datagrams out, and what is known. Time is an
argument, so that tests run hours of it in milliseconds.

`discovery/multicast.py` owns one: it hands over what it hears, asks for what is `due`, and sleeps until `next_event`.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from weft.discovery.named import NamedHosts
from weft.discovery.options import MulticastSettings
from weft.discovery.peers import PeerTable
from weft.discovery.schedule import INFINITY, Schedule
from weft.discovery.tally import Complaints, Counters, Refused
from weft.errors import WireError
from weft.model import IPAddress, Known, Node
from weft.wire.hello import Goodbye, Hello, Query, Stamp, TableSync
from weft.wire.router import decode, encode_goodbye, encode_hello, encode_query, encode_response
from weft.wire.seal import SEAL_SIZE, Verdict, derive_key, seal, unseal

ECHO_WITHIN = 1.0
"""Seconds in which our own datagram must come back from the group."""
ECHOES_MISSED = 2
"""So many in a row that did not, and nobody else is heard here either."""

_SEALS = {
    Verdict.UNSEALED: (
        Refused.UNSEALED,
        "{} sends without a key, and this host has one: set the same key (KEY, WEFT_KEY) there, or remove it here",
    ),
    Verdict.SEALED: (
        Refused.SEALED,
        "{} seals its datagrams, and this host has no key: set the same one (KEY, WEFT_KEY) here, or remove it there",
    ),
    Verdict.WRONG_KEY: (
        Refused.WRONG_KEY,
        "a datagram from {} is sealed with another key than this host's: set the same key (KEY, WEFT_KEY) on both",
    ),
}


class Conversation:
    """`epoch`: milliseconds since 1970 when this instance started. Call `joined` before anything is due or complete."""

    def __init__(self, settings: MulticastSettings, epoch: int, random: Random) -> None:
        self._settings = settings
        self._stamp = Stamp(f"{settings.instance}.{epoch:x}", epoch, 0)  # a second one in this program counts anew
        self._key = None if settings.key is None else derive_key(settings.key)
        self._schedule = Schedule(settings.announce_interval, random)
        self._me: Node | None = None
        self._respond = False
        self._in_group = False
        self._complete = False
        self._echo_by = INFINITY
        self._missed = 0
        self.counters = Counters()
        self.complaints = Complaints(settings.limits.problems)
        self.table = PeerTable(settings, self.counters, self.complaints)
        self._named = NamedHosts(settings.direct, settings.peer_timeout, self.complaints)

    # What is known. -------------------------------------------------------------------------------------------

    @property
    def version(self) -> tuple[int, int, bool]:
        """Differs from before whenever `known` does."""
        return self.table.version, self.complaints.version, self._complete

    def known(self) -> Known[Node]:
        """Complete once the group was heard for one whole peer timeout: every live peer has announced itself since."""
        return Known(self.table.nodes, self._complete, self.complaints.problems)

    @property
    def deaf(self) -> bool:
        """Not even our own datagrams come back."""
        return self._missed >= ECHOES_MISSED

    # What happens. --------------------------------------------------------------------------------------------

    def announce(self, me: Node, now: float) -> None:
        """From now on tell this."""
        if me == self._me:
            return
        self._me = me
        self.table.announcing, self.table.stack = True, me.stack
        self._schedule.changed(now)

    def joined(self, now: float) -> None:
        """The group can be heard and spoken to from now on."""
        self._in_group = True
        self.table.listening_since = now
        self._schedule.joined(now)
        self._echo_by, self._missed = INFINITY, 0

    def lost(self) -> None:
        """The group can't be heard; whoever falls silent now may just not be heard."""
        self._in_group = self._complete = False
        self.table.listening_since = INFINITY
        self._schedule.lost()
        self._echo_by = INFINITY

    def receive(self, datagram: bytes, source: IPAddress, now: float, direct: bool = False) -> None:
        """A datagram came, to the group or (`direct`) to this host's own address."""
        self._named.heard(source, now)
        verdict, body = unseal(datagram, self._key)
        if verdict is not Verdict.GOOD:
            why, text = _SEALS[verdict]
            self._refuse(why, source, text.format(source), now)
            return
        try:
            message = decode(body)
        except WireError:
            self.counters.refused[Refused.MALFORMED] += 1
            return
        if isinstance(message, TableSync):
            self.counters.received[message.kind] += 1
            return
        if self._key is not None and message.stamp is None:
            self.counters.refused[Refused.MALFORMED] += 1  # a holder of the key who leaves out the stamp
            return
        if message.stamp is not None and message.stamp.instance == self._stamp.instance:
            self._echo(now)
            return
        self.counters.received[message.kind] += 1
        self._take(message, source, len(datagram), now, direct)

    def told(self, host: IPAddress, why_not: str, now: float) -> None:
        """What was due was sent to this one host too, or (`why_not`) could not be."""
        if self._me is not None:  # else it was asked something, and owes an answer to the group alone
            self._named.told(host, why_not, now)

    def _take(self, message: Hello | Goodbye | Query, source: IPAddress, size: int, now: float, direct: bool) -> None:
        if isinstance(message, Hello):
            if self.table.hello(message, source, size, now, direct) and message.query:
                self._schedule.asked(now, len(self.table))
        elif isinstance(message, Goodbye):
            self.table.goodbye(message, source, now)
        elif self.table.comes_from(message.peer_id, message.endpoints, source, now) and self._me is not None:
            self._schedule.asked(now, len(self.table))
            self._respond = self._respond or message.stamp is None

    def _refuse(self, why: Refused, source: IPAddress, text: str, now: float) -> None:
        self.counters.refused[why] += 1
        self.complaints.report(why, str(source), text, now + self._settings.peer_timeout)

    def _echo(self, now: float) -> None:
        """We heard ourselves."""
        self.counters.own += 1
        if self.deaf:
            self.table.listening_since = now if self._in_group else INFINITY
            self.complaints.clear("deaf", self._settings.interface)
        self._echo_by, self._missed = INFINITY, 0

    # What is due. ---------------------------------------------------------------------------------------------

    @property
    def next_event(self) -> float:
        """Nothing is due before this."""
        silence = self._named.next_expiry(self.table.listening_since)
        times = [self.table.next_expiry, self.complaints.next_expiry, self._echo_by, silence]
        if self._in_group:
            times.append(self._schedule.next)
            if not self._complete:
                times.append(self.table.listening_since + self._settings.peer_timeout)
        return min(times)

    def due(self, now: float, limit: int, wall: float) -> list[bytes]:
        """What has to be sent now, in datagrams of at most `limit` octets; `wall` is seconds since 1970.

        Also lets go of silent peers and old problems, and notices when the set is complete.
        """
        self.table.expire(now)
        self.complaints.expire(now)
        self._named.expire(now, wall, self.table.listening_since)
        if now >= self._echo_by:
            self._miss()
        if not self._in_group:
            return []
        self._complete = self._complete or now - self.table.listening_since >= self._settings.peer_timeout
        speaks, asks = self._schedule.due(now)
        return self._speak(now, limit, int(wall), asks) if speaks else []

    def _speak(self, now: float, limit: int, wall: int, asks: bool) -> list[bytes]:
        if self._me is None:
            if not asks:
                return []
            self._echo_by = min(self._echo_by, now + ECHO_WITHIN)
            return self._send("QUERY", [encode_query(self._settings.node, self.table.source, self._next_stamp())])
        room = limit - (SEAL_SIZE if self._key else 0)
        try:
            bodies = encode_hello(self._me, self._next_stamp(), room, asks)
        except WireError as error:
            self.complaints.report("announce", self._settings.node, str(error))
            return []
        self.complaints.clear("announce", self._settings.node)
        self._echo_by = min(self._echo_by, now + ECHO_WITHIN)
        datagrams = self._send("HELLO", bodies)
        if self._respond:
            self._respond = False
            datagrams += self._send("RESPONSE", [encode_response(self._me, wall)])
        return datagrams

    def farewell(self) -> list[bytes]:
        """The goodbye, twice since datagrams get lost; nothing if this node never announced itself."""
        if self._me is None or not self._me.endpoints:
            return []
        return self._send("GOODBYE", [encode_goodbye(self._me, self._next_stamp()) for _ in range(2)])

    def _send(self, kind: str, bodies: list[bytes]) -> list[bytes]:
        self.counters.sent[kind] += len(bodies)
        return [seal(body, self._key) for body in bodies]

    def _next_stamp(self) -> Stamp:
        self._stamp = replace(self._stamp, seq=self._stamp.seq + 1)
        return self._stamp

    def _miss(self) -> None:
        """We were not heard by ourselves. If that goes on, others are not heard either: their silence means nothing."""
        self._echo_by = INFINITY
        self._missed += 1
        if self.deaf and self._in_group:
            where = self._settings
            text = (
                f"what this host sends to {where.group} port {where.port} does not come back to it, so it can't hear "
                f"the others either: a firewall here drops UDP port {where.port}, or {where.interface} lost the group"
            )
            self.complaints.report("deaf", where.interface, text)
            self.table.listening_since, self._complete = INFINITY, False
