"""Who is in DNS, and who of them is alive: what rounds of queries come to. Sans I/O; time is an argument.

`discovery/dns_look.py` makes the rounds. The rules:

    SRV record          who has none is no peer; weft's TXT record describes it, another program's SRV record is a
                        plain peer (if those are wanted), which does not age
    refreshed           its TXT record changed since the last round: heard now, by our clock. No clocks are compared
    not refreshed       for three of its intervals, and at least our peer timeout: gone; its records stay, and are told
    there at our start  alive if its own time says so, give or take one timeout; else nobody knows (it crashed long
                        ago, or its clock is an hour off): no peer until it is refreshed, and the set is not complete
    vanished            it took its records out: gone, unless it is back (a restart) before the hold is over
    server silent       nothing is known: everything stays as it is, and nobody ages
    we vanished         the server has lost its zone, or is behind: who vanished with us is kept until it is silent
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from weft.discovery.dns_claim import silence
from weft.discovery.dns_options import DnsSettings, utc
from weft.discovery.tally import Complaints
from weft.model import Known, Node
from weft.wire.dns import Entry, Name

NEVER = float("inf")
MEMORY = 3600.0
"""Seconds for which it is remembered that a peer took its records out."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of queries found. `began`: by our monotonic clock; `wall`: seconds since 1970. `entries`: weft's,
    with an SRV record, this node's own among them; `unreadable`: id → why, of such that can't be read; `plain`: other
    programs' nodes. `unanswered`: names whose query failed, so that who is not found may be there. `cached`: not the
    zone's own server answered."""

    began: float
    wall: float
    entries: tuple[Entry, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    plain: tuple[Node, ...] = ()
    odd: Mapping[str, str] = field(default_factory=dict)
    """Name → why an SRV record of another program makes no peer."""
    unanswered: frozenset[Name] = frozenset()
    cached: bool = False


@dataclass(slots=True)
class _Peer:
    """`doubtful`: not refreshed since we look, and old by its own time. `silent`: for too long. `lost`: it vanished
    together with us. `leaves`: it took its records out, and is let go then."""

    entry: Entry
    heard: float
    seen: float
    doubtful: bool = False
    silent: bool = False
    lost: bool = False
    leaves: float = NEVER

    @property
    def listed(self) -> bool:
        return not self.doubtful and not self.silent


class Book:
    """Holds the peers. `own`: this node's id."""

    def __init__(self, settings: DnsSettings, complaints: Complaints) -> None:
        self._settings = settings
        self._complaints = complaints
        self._peers: dict[str, _Peer] = {}
        self._plain: dict[str, Node] = {}
        self._plain_seen = 0.0
        self._departed: dict[str, float] = {}
        self._complained: set[tuple[str, str]] = set()
        self._answering = NEVER
        """Since when the server has answered each round."""
        self._whole = False
        self.rounds = 0
        """Answered or not."""
        self.cached = False
        self.registered_since = NEVER
        """Rounds that began after this must find our own records."""

    # What is known. -------------------------------------------------------------------------------------------

    def known(self) -> Known[Node]:
        nodes = {**self._plain, **{name: peer.entry.node for name, peer in self._peers.items() if peer.listed}}
        waiting = any(peer.lost or (peer.doubtful and not peer.silent) for peer in self._peers.values())
        items = tuple(nodes[name] for name in sorted(nodes))
        return Known(items, self._whole and not waiting, self._complaints.problems)

    def last_seen(self) -> dict[str, float]:
        plain = dict.fromkeys(self._plain, self._plain_seen)
        return {**plain, **{name: peer.seen for name, peer in self._peers.items() if peer.listed}}

    def departed(self) -> Collection[str]:
        return self._departed.keys()

    @property
    def next_expiry(self) -> float:
        """Somebody has been silent for too long then, if the next round does not find it refreshed."""
        if self._answering == NEVER:
            return NEVER
        times = (min(self._deadline(peer), peer.leaves) for peer in self._peers.values() if not peer.silent)
        return min(times, default=NEVER)

    def _deadline(self, peer: _Peer) -> float:
        return max(peer.heard, self._answering) + silence(peer.entry, self._settings.peer_timeout, self.cached)

    # What happens. --------------------------------------------------------------------------------------------

    def failed(self) -> None:
        """A round could not be made: nothing is known, nobody ages."""
        self.rounds += 1
        self._answering = NEVER
        self._whole = False

    def shaken(self) -> None:
        """Our own records had vanished: who is not found now may have lost its own in the same way."""
        for peer in self._peers.values():
            peer.lost = True

    def take(self, found: Round) -> bool:
        """A round was made. Returns whether our own records were where they should be."""
        self.rounds += 1
        watched = self._answering != NEVER
        if not watched:
            self._answering = found.began
        self.cached = found.cached
        entries = _newest(found.entries)
        missed = found.began > self.registered_since and self._settings.node not in entries
        entries.pop(self._settings.node, None)
        for name, entry in entries.items():
            self._hear(name, entry, found, watched)
        gone = self._peers.keys() - entries.keys() - found.unreadable.keys()
        for name in gone:
            self._miss(name, found, missed)
        self._whole = not missed and not found.unanswered
        self._take_plain({node.id: node for node in found.plain if node.id not in entries}, found)
        self._expire(found.began)
        self._departed = {n: at for n, at in self._departed.items() if found.began - at < MEMORY}
        self._complain(found)
        return not missed

    def _hear(self, name: str, entry: Entry, found: Round, watched: bool) -> None:
        self._departed.pop(name, None)
        old = self._peers.get(name)
        if old is not None and old.entry.stamp == entry.stamp:
            old.entry, old.lost, old.leaves = entry, False, NEVER
            return
        peer = _Peer(entry, found.began, found.wall)
        age = found.wall - entry.last_seen
        if old is None and not watched:
            limit = silence(entry, self._settings.peer_timeout, found.cached)
            if abs(age) < limit:
                peer.heard -= max(age, 0.0)
                peer.seen -= max(age, 0.0)
            else:
                peer.doubtful = True
        self._peers[name] = peer

    def _miss(self, name: str, found: Round, missed: bool) -> None:
        peer = self._peers[name]
        if found.unanswered:
            peer.heard = max(peer.heard, found.began)  # it may have been refreshed, and nobody could tell
            return
        peer.lost = peer.lost or missed
        if not peer.listed:
            del self._peers[name]
        elif not peer.lost:
            peer.leaves = min(peer.leaves, found.began + self._settings.goodbye_hold)

    def _take_plain(self, nodes: dict[str, Node], found: Round) -> None:
        if not self._whole:
            self._plain.update(nodes)
            return
        self._departed.update(dict.fromkeys(self._plain.keys() - nodes.keys(), found.began))
        self._departed = {name: at for name, at in self._departed.items() if name not in nodes}
        self._plain, self._plain_seen = nodes, found.wall

    def _expire(self, now: float) -> None:
        for name, peer in list(self._peers.items()):
            if peer.leaves <= now:
                del self._peers[name]
                self._departed[name] = now
            elif not peer.silent and self._deadline(peer) <= now:
                peer.silent = True
                if peer.lost or peer.leaves != NEVER:
                    del self._peers[name]

    # What is to be said. --------------------------------------------------------------------------------------

    def _complain(self, found: Round) -> None:
        said: set[tuple[str, str]] = set()
        for name, peer in self._peers.items():
            if not peer.listed:
                said.add(self._report("old", name, _old(peer), wrong=False))
        for name, why in found.unreadable.items():
            said.add(self._report("unreadable", name, f"{why}; what it said before holds until it is silent"))
        for name, why in found.odd.items():
            said.add(self._report("odd", name, why, wrong=False))
        for kind, name in self._complained - said:
            self._complaints.clear(kind, name)
        self._complained = said

    def _report(self, kind: str, name: str, text: str, wrong: bool = True) -> tuple[str, str]:
        self._complaints.report(kind, name, text, wrong=wrong)
        return kind, name


def _newest(entries: Collection[Entry]) -> dict[str, Entry]:
    """By id, and of several of one id (it moved to another stack, and crashed before) the one told last."""
    newest: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda one: (one.stamp.epoch, one.stamp.seq, one.stamp.instance)):
        newest[entry.node.id] = entry
    return newest


def _old(peer: _Peer) -> str:
    node, when = peer.entry.node, utc(peer.entry.last_seen)
    where = f"{node.id} ({node.endpoints[0]}) was last refreshed at {when} by its own clock"
    if peer.silent:
        return f"the DNS record of {where}: it is gone, and its records stay until it is back or somebody removes them"
    return f"the DNS record of {where}, long ago by this host's: not believed before it is refreshed"
