"""The table of peers: who is believed, who is alive, and who is refused and why. Sans I/O; time is an argument.

`discovery/conversation.py` feeds it with decoded messages, whose seals were judged before. The rules:

    source address      must be one of the endpoints that the message claims
    same instance       its `seq` only ever rises; a new endpoint is an address change
    another instance    from the same endpoint: a restart, believed at once (with a key: if its epoch is newer);
                        from elsewhere: the same program at another uplink, if it is one with a newer epoch; else a
                        second host with that id, refused until the first falls silent or leaves
    another id          at an endpoint that a node has: takes its place if its epoch is newer, else it is refused until
                        that one falls silent or leaves (`discovery/places.py`); `crowded`: both are there
    no stamp            `plain`: who speaks the document's plain form is a peer too (`discovery/plain.py`)
    silence             after `timeout` seconds a peer is gone; what it said stays unrepeatable for MEMORY seconds more
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace

from weft.discovery.assembly import Assembler
from weft.discovery.options import MulticastSettings
from weft.discovery.places import Place, Places
from weft.discovery.plain import NO_STAMP, Form, Stacks, form_of
from weft.discovery.tally import Complaints, Counters, Refused
from weft.errors import WireError
from weft.model import IPAddress, Node
from weft.wire.hello import Goodbye, Hello, Stamp, plain_node
from weft.wire.router import SOURCE

MEMORY = 3600.0
"""Seconds for which a peer that left is remembered, so that its old datagrams are not believed again."""
REORDER = 2.0
"""An old datagram that comes this soon after a newer one has only been overtaken: dropped, and nothing to report."""
_FORMER = 4


@dataclass(slots=True)
class _Past:
    """What one node id has said so far. `former`: instances before this one, latest last. `departed`: the last
    thing was goodbye."""

    stamp: Stamp
    at: float
    former: tuple[str, ...] = ()
    departed: bool = False


@dataclass(slots=True)
class _Peer:
    node: Node
    source: IPAddress
    heard: float
    size: int
    past: _Past
    form: Form
    direct: bool = False
    told: int = 0
    """The highest seq of which any part was heard."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    """Where from, how many octets, when, and whether past the group."""

    source: IPAddress
    size: int
    now: float
    direct: bool


class PeerTable:
    """Holds the peers, sorted by id. `keyed`: datagrams are sealed, so their stamps can be trusted."""

    def __init__(self, settings: MulticastSettings, counters: Counters, complaints: Complaints) -> None:
        self._me = settings.node
        self.source = settings.source
        """Where this node is."""
        self._timeout = settings.peer_timeout
        self._hold = settings.goodbye_hold
        self._limits = settings.limits
        self._keyed = settings.key is not None
        self._plain_too = settings.plain
        self._crowded = settings.crowded
        self._name = "PEER_ID" if settings.crowded else "`node`"
        self._counters = counters
        self._complaints = complaints
        self._assembler = Assembler(settings.limits.assembly_octets)
        self._alive: dict[str, _Peer] = {}  # in the order in which they were last heard
        self._leaving: dict[str, float] = {}  # who said goodbye, and when it is let go
        self._gone: dict[str, _Past] = {}  # in the order in which they went
        self._places = Places(settings.peer_timeout)
        self._stacks = Stacks()
        self._ids: list[str] = []
        self._nodes: list[Node] = []
        self._octets = 0
        self.version = 0
        """Differs from before whenever `nodes` does."""
        self.stack = ""
        """What this node is a router of."""
        self.announcing = False
        """This node tells others about itself: somebody else with its id is a problem."""
        self.listening_since = float("inf")
        """Since when the group can be heard without a break; infinity while it can't: silence means nothing then."""

    # What it knows. -------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All peers, sorted by id."""
        return tuple(self._nodes)

    def __len__(self) -> int:
        return len(self._alive)

    def heard(self) -> Iterator[tuple[str, float]]:
        """Node id and when it was last heard."""
        return ((node_id, peer.heard) for node_id, peer in self._alive.items())

    def departed(self) -> frozenset[str]:
        """Who said goodbye, as long as that is remembered."""
        return frozenset(name for name, past in self._gone.items() if past.departed)

    def direct(self) -> Iterator[IPAddress]:
        """Where the peers are that spoke to us alone, past the group: they may not hear the group either."""
        return (peer.source for peer in self._alive.values() if peer.direct)

    @property
    def next_expiry(self) -> float:
        """Nobody falls silent for too long before this."""
        return min(self._next_silence, min(self._leaving.values(), default=float("inf")))

    @property
    def _next_silence(self) -> float:
        first = next(iter(self._alive.values()), None)
        return max(first.heard, self.listening_since) + self._timeout if first else float("inf")

    # What it hears. -------------------------------------------------------------------------------------------

    def hello(self, hello: Hello, source: IPAddress, size: int, now: float, direct: bool = False) -> bool:
        """Take a HELLO, or a part of one, of `size` octets; False if it deserves no answer."""
        if not self.comes_from(hello.peer_id, hello.endpoints, source, now):
            return False
        if form_of(hello) is Form.ANNOUNCED and self._is_told_by_another(hello.peer_id, source):
            return True
        if hello.peer_id == self._me:
            return self._own_id(hello, source, now)
        if hello.stamp is None:
            return self._plain(hello, _Arrival(source, size, now, direct))
        if not self._believable(hello.peer_id, hello.stamp, source, now):
            return False
        if hello.node is None or not self._may_be_there(hello.node, hello.stamp, source, now):
            return False
        peer = self._alive.get(hello.peer_id)
        if peer and peer.past.stamp.instance == hello.stamp.instance and peer.told < hello.stamp.seq:
            self._touch(hello.peer_id, peer, hello.stamp.seq, now)
        try:
            whole = self._assembler.add(hello, hello.stamp, size, now)
        except WireError:
            self._counters.refused[Refused.MALFORMED] += 1
            return False
        return whole is None or self._admit(whole[0], hello.stamp, _Arrival(source, whole[1], now, direct))

    def goodbye(self, goodbye: Goodbye, source: IPAddress, now: float) -> None:
        """A peer leaves. Only its own running instance can say so, and only from where it is. It is held for a moment:
        if it only restarts, nobody's packets are to be lost meanwhile."""
        peer = self._alive.get(goodbye.peer_id)
        if not self.comes_from(goodbye.peer_id, goodbye.endpoints, source, now) or peer is None or not goodbye.stamp:
            return
        if goodbye.stamp.instance in peer.past.former:
            return  # the end of a former run, or of the uplink that it has left
        if source not in peer.node.endpoints:
            text = f"{source} says goodbye for {peer.node.id}, which is at {peer.source}: not believed"
            self._refuse(Refused.SPOOFED, str(source), text, now)
        elif goodbye.stamp.instance == peer.past.stamp.instance and self._believable(
            goodbye.peer_id, goodbye.stamp, source, now
        ):
            peer.past = _Past(goodbye.stamp, now, peer.past.former)
            self._leaving.setdefault(goodbye.peer_id, now + self._hold)

    def expire(self, now: float) -> None:
        """Let go who said goodbye and did not come back, and who was silent for too long while the group could be
        heard."""
        for peer_id in [peer_id for peer_id, at in self._leaving.items() if at <= now]:
            self._leave(peer_id, now)
        while self._next_silence <= now:
            self._leave(next(iter(self._alive)), now)
        while self._gone and next(iter(self._gone.values())).at + MEMORY <= now:
            del self._gone[next(iter(self._gone))]

    # The rules. -----------------------------------------------------------------------------------------------

    def comes_from(self, peer_id: str, endpoints: tuple[IPAddress, ...], source: IPAddress, now: float) -> bool:
        """Whether the sender is where it says it is; reported if not."""
        if source in endpoints:
            return True
        claimed = " and ".join(map(str, endpoints))
        text = (
            f"a datagram from {source} claims to come from {peer_id} at {claimed}: refused; somebody pretends to be "
            f"that host, or there is address translation between it and this one"
        )
        self._refuse(Refused.SPOOFED, str(source), text, now)
        return False

    def _own_id(self, hello: Hello, source: IPAddress, now: float) -> bool:
        if source == self.source and (hello.stamp is None or not self.announcing):
            return False  # our own RESPONSE; or the agent of this very host, heard by a dry run beside it
        who = "another host" if source != self.source else "another weft on this host"
        text = (
            f"{who} uses this host's node id {self._me!r}: it is at {source}, this one at {self.source}; "
            f"set another {self._name} on one of them"
        )
        self._refuse(Refused.DUPLICATE, self._me, text, now)
        return True  # if it asks, it gets its answer: so it learns of the clash as well

    def _plain(self, hello: Hello, arrival: _Arrival) -> bool:
        """Somebody who is no weft. Whatever was said in more words holds."""
        source, now = arrival.source, arrival.now
        peer = self._alive.get(hello.peer_id)
        if not self._plain_too:
            if peer is None:
                text = (
                    f"{hello.peer_id} at {source} speaks the docker-router {hello.kind} without the MAC address of its "
                    f"tunnel end: listed, and not routed to; run weft there"
                )
                self._complaints.report("plain", hello.peer_id, text, now + self._timeout)
            return True
        if peer and source not in peer.node.endpoints:
            text = (
                f"two hosts use the id {hello.peer_id!r}: one at {peer.source}, which was first, and one at {source}, "
                f"which is refused until the first is silent for {self._timeout:g} s"
            )
            return self._refuse(Refused.DUPLICATE, hello.peer_id, text, now)
        form = form_of(hello)
        if peer and peer.form > form:
            if peer.form is Form.PLAIN:
                self._touch(hello.peer_id, peer, peer.told, now)
            return True
        told = replace(hello, node=plain_node(hello, SOURCE))
        assert told.node is not None
        return self._may_be_there(told.node, NO_STAMP, source, now) and self._admit(told, NO_STAMP, arrival)

    def _is_told_by_another(self, stack: str, source: IPAddress) -> bool:
        """Whether a router of this stack, there, has said more than that it exists: this one for instance."""
        peer = self._alive.get(stack)
        if peer and peer.source == source:
            return False
        return self._stacks.has(stack, source) or (source == self.source and stack == self.stack)

    def _believable(self, peer_id: str, stamp: Stamp, source: IPAddress, now: float) -> bool:
        """Whether this stamp may follow what that id said before; reported if not."""
        peer = self._alive.get(peer_id)
        past = peer.past if peer else self._gone.get(peer_id)
        if past is None:
            return True
        if stamp.instance == past.stamp.instance:
            # Parts of the latest set all carry its seq: `_Peer` moves on to it only when the set is whole.
            return stamp.seq > past.stamp.seq or self._overtaken(peer_id, past, source, now)
        is_elsewhere = peer and source not in peer.node.endpoints and peer_id not in self._leaving
        if peer and is_elsewhere and not stamp.moves(past.stamp):
            text = (
                f"two hosts use the node id {peer_id!r}: one at {peer.source}, which was first, and one at {source}, "
                f"which is refused until the first is silent for {self._timeout:g} s or leaves; "
                f"set another {self._name} on one of them"
            )
            return self._refuse(Refused.DUPLICATE, peer_id, text, now)
        if self._keyed and stamp.epoch <= past.stamp.epoch:
            text = (
                f"a datagram of {peer_id} from {source} is older than others of that host: refused as a replay. If the "
                f"host was restarted and its clock went back, set its clock, restart weft there, or wait {MEMORY:g} s"
            )
            return self._refuse(Refused.REPLAYED, peer_id, text, now)
        if peer and stamp.instance in past.former:
            text = (
                f"two programs on {source} use the node id {peer_id!r} in turn: "
                f"stop one, or set another {self._name} there"
            )
            return self._refuse(Refused.DUPLICATE, peer_id, text, now)
        return True

    def _may_be_there(self, node: Node, stamp: Stamp, source: IPAddress, now: float) -> bool:
        """Whether no other node is at this endpoint, or this one may take its place; reported if not."""
        place = Place.of(node, source)
        other = self._places.node_at(place)
        if other in (None, node.id, self._shadow(node, source)) or other in self._leaving or self._crowded:
            return True
        assert other is not None
        if stamp.epoch > self._alive[other].past.stamp.epoch and self._places.may_change(place, now):
            return True
        text = (
            f"{other} and {node.id} are both at {source}, and {node.id} is refused until {other} is silent for "
            f"{self._timeout:g} s or leaves; if both run there, stop one of them or set another `vni` for it"
        )
        return self._refuse(Refused.DUPLICATE, node.id, text, now)

    def _shadow(self, node: Node, source: IPAddress) -> str | None:
        """Its stack, if that was only announced so far: no other node, now that this one has said who it is."""
        peer = self._alive.get(node.stack)
        is_one = peer and peer.form is Form.ANNOUNCED and peer.source == source and node.id != node.stack
        return node.stack if is_one else None

    def _overtaken(self, peer_id: str, past: _Past, source: IPAddress, now: float) -> bool:
        """An old datagram: a replay, unless it was only overtaken or came twice, by the group and directly."""
        if now - past.at <= REORDER:
            self._counters.refused[Refused.REPEATED] += 1
            return False
        text = f"an old datagram of {peer_id} was heard again, from {source}: refused as a replay"
        return self._refuse(Refused.REPLAYED, peer_id, text, now)

    def _refuse(self, why: Refused, subject: str, text: str, now: float) -> bool:
        self._counters.refused[why] += 1
        self._complaints.report(why, subject, text, now + self._timeout)
        return False

    # The table. -----------------------------------------------------------------------------------------------

    def _admit(self, hello: Hello, stamp: Stamp, arrival: _Arrival) -> bool:
        """Write a whole, believable HELLO into the table, if there is room for it."""
        node, old = hello.node, self._alive.get(hello.peer_id)
        if node is None:
            return False
        place = Place.of(node, arrival.source)
        other = None if self._crowded else self._places.node_at(place)
        replaced = [self._alive[name] for name in {node.id, other} if name in self._alive]
        if not self._room_for(hello, replaced, arrival):
            return False
        if shadow := self._shadow(node, arrival.source):
            self._leave(shadow, arrival.now)
            other = other if other != shadow else None
        past = old.past if old else self._gone.pop(hello.peer_id, None)
        former = past.former if past else ()
        if past and past.stamp.instance != stamp.instance:
            former = (*former, past.stamp.instance)[-_FORMER:]
        self._octets += arrival.size - (old.size if old else 0)
        self._alive.pop(node.id, None)
        self._leaving.pop(node.id, None)
        form = form_of(hello)
        self._alive[node.id] = _Peer(
            node=node,
            source=arrival.source,
            heard=arrival.now,
            size=arrival.size,
            past=_Past(stamp, arrival.now, former),
            form=form,
            told=stamp.seq,
            direct=arrival.direct or (old is not None and old.direct and old.source == arrival.source),
        )
        self._complaints.clear("plain", node.id)
        if other is not None and other != node.id:
            self._replace(other, node.id, place, arrival.now)
        self._places.settle(node.id, place)
        self._stacks.settle(node, arrival.source, form)
        if old is None or old.node != node:
            self._list(node)
        return True

    def _replace(self, old: str, new: str, place: Place, now: float) -> None:
        """Who was at this place before can't be there any more."""
        if old not in self._leaving:
            self._places.changes(place, now)
            text = f"{old} at {place.source} is now {new}"
            self._complaints.report("renamed", new, text, now + self._timeout, wrong=False)
        self._places.settle(new, place)
        self._leave(old, now)

    def _room_for(self, hello: Hello, replaced: list[_Peer], arrival: _Arrival) -> bool:
        limits = self._limits
        if len(hello.subnets) > limits.subnets:
            text = f"{hello.peer_id} announces {len(hello.subnets)} subnets, and {limits.subnets} is the limit: refused"
            return self._refuse(Refused.LIMIT, hello.peer_id, text, arrival.now)
        if len(self._alive) - len(replaced) >= limits.peers:
            text = f"there are {limits.peers} peers, which is the limit: more are refused"
            return self._refuse(Refused.LIMIT, "multicast", text, arrival.now)
        if self._octets + arrival.size - sum(peer.size for peer in replaced) > limits.octets:
            text = f"the peers' announcements take {limits.octets} octets, which is the limit: more are refused"
            return self._refuse(Refused.LIMIT, "multicast", text, arrival.now)
        return True

    def _touch(self, peer_id: str, peer: _Peer, seq: int, now: float) -> None:
        """It lives, even if the rest of this set gets lost: the last place in the order of silence."""
        del self._alive[peer_id]
        self._alive[peer_id] = peer
        peer.heard, peer.told = now, seq

    def _leave(self, peer_id: str, now: float) -> None:
        peer = self._alive.pop(peer_id)
        peer.past.departed = self._leaving.pop(peer_id, None) is not None
        self._places.leave(peer_id)
        self._stacks.leave(peer_id)
        peer.past.at = now
        self._gone[peer_id] = peer.past
        if len(self._gone) > self._limits.peers:
            del self._gone[next(iter(self._gone))]
        self._octets -= peer.size
        at = bisect_left(self._ids, peer_id)
        del self._ids[at], self._nodes[at]
        self.version += 1

    def _list(self, node: Node) -> None:
        at = bisect_left(self._ids, node.id)
        if at < len(self._ids) and self._ids[at] == node.id:
            self._nodes[at] = node
        else:
            self._ids.insert(at, node.id)
            self._nodes.insert(at, node)
        self.version += 1
