"""What the keys in etcd tell of the peers: who is there, who left, which entries can't be read. Sans I/O; time is an
argument. `discovery/etcd.py` feeds it with full sets. The rules:

    a peer              whoever has host_ip and vni, and a lease that lives; without `weft` only if `plain`
    no lease            with a last_seen, it must change within one peer timeout; without, it stays until it is removed
    malformed           is a Problem of that entry, and what it said before holds for as long as it is there
    incomplete          the same after GRACE seconds: other programs write their keys one by one
    gone                goes at once; but after an outage of etcd it is kept for `lease_ttl`: it may not have been able
                        to register again yet
    etcd can't be asked nobody goes, and nobody is silent: all times begin anew when it answers
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from weft.discovery.options import EtcdSettings
from weft.discovery.tally import Complaints, Counters, Refused
from weft.errors import WireError
from weft.model import Node
from weft.stores import Entries, Entry
from weft.wire.discovery_keys import NAMES, IncompleteError, Registration, folder, peer_of, read

GRACE = 5.0
MEMORY = 3600.0
"""Seconds for which it is remembered that a peer left of its own accord."""
INFINITY = float("inf")


@dataclass(slots=True)
class _Peer:
    """One folder. `rows`: sorted by key. `silent_at`: when it counts as silent if none of them changes."""

    rows: list[Entry] = field(default_factory=list)
    id: str = ""
    node: Node | None = None
    heard: float = 0.0
    departing: bool = False
    incomplete_at: float = INFINITY
    silent_at: float = INFINITY
    gone_at: float = INFINITY

    @property
    def ends(self) -> tuple[float, float]:
        """When it is not a peer any more, unless something is heard."""
        return self.silent_at, self.gone_at


class Directory:
    """`version` differs from before whenever `nodes` does."""

    def __init__(self, settings: EtcdSettings, counters: Counters, complaints: Complaints) -> None:
        self._settings = settings
        self._own = folder(settings.prefix, settings.node)
        self._counters = counters
        self._complaints = complaints
        self._peers: dict[str, _Peer] = {}
        self._departed: dict[str, float] = {}
        self._lost = False
        self.version = 0
        self.nodes: tuple[Node, ...] = ()
        """Sorted by id, without this one."""
        self.own: dict[str, Entry] = {}
        """The keys in this node's own folder, by name."""

    def departed(self) -> frozenset[str]:
        """Who left of its own accord, as far as that is remembered."""
        return frozenset(self._departed)

    def last_seen(self) -> Iterator[tuple[str, float]]:
        """Node id and seconds since 1970, by this host's clock."""
        return ((peer.node.id, peer.heard) for peer in self._peers.values() if peer.node is not None)

    @property
    def next_event(self) -> float:
        """Nothing changes by itself before this."""
        dates = [p.incomplete_at if self._lost else min(p.incomplete_at, *p.ends) for p in self._peers.values()]
        return min([*dates, *(at + MEMORY for at in self._departed.values())], default=INFINITY)

    def lost(self) -> None:
        """etcd can't be asked: what is known holds."""
        self._lost = True

    def take(self, entries: Entries, now: float, wall: float) -> None:
        """This is there now; `wall`: seconds since 1970."""
        self._counters.received["set"] += 1
        folders = self._folders(entries)
        own = folders.pop(self._own, [])
        self.own = {_name(row): row for row in own}
        for name, rows in folders.items():
            peer = self._peers.get(name)
            if peer is None or peer.rows != rows:
                self._read(name, rows, now, wall)
            else:
                peer.gone_at = INFINITY
                if self._lost and peer.silent_at != INFINITY:
                    peer.silent_at = now + self._settings.peer_timeout
        for name in [name for name in self._peers if name not in folders]:
            self._miss(name, now)
        self._lost = False
        self._list()

    def expire(self, now: float) -> None:
        """Let go who was silent for too long while etcd could be asked, and say what stays incomplete."""
        for name, peer in list(self._peers.items()):
            if peer.incomplete_at <= now:
                peer.incomplete_at = INFINITY
                self._refuse(name, "some of its keys are missing: host_ip and vni must be there")
            if self._lost:
                continue
            if peer.silent_at <= now:
                peer.silent_at, peer.node = INFINITY, None
                text = (
                    f"its keys hang on no lease, and last_seen has not changed for {self._settings.peer_timeout:g} s: "
                    f"it counts as gone; remove {name} if it is"
                )
                self._complaints.report("silent", name, text, wrong=False)
            if peer.gone_at <= now:
                self._remove(name, now)
        for name in [name for name, at in self._departed.items() if at + MEMORY <= now]:
            del self._departed[name]
        self._list()

    def _folders(self, entries: Entries) -> dict[str, list[Entry]]:
        """Rows are sorted by key, so each folder's are together."""
        start = len(self._settings.prefix) + 1
        folders: dict[str, list[Entry]] = {}
        for row in entries.rows:
            at = row.key.find("/", start)
            if at > 0 and row.key[at + 1 :] in NAMES:
                folders.setdefault(row.key[: at + 1], []).append(row)
        return folders

    def _read(self, name: str, rows: list[Entry], now: float, wall: float) -> None:
        is_new = name not in self._peers
        peer = self._peers.setdefault(name, _Peer())
        peer.rows, peer.gone_at = rows, INFINITY
        self._counters.received["change"] += 1
        try:
            peer_id = peer_of(name[len(self._settings.prefix) + 1 : -1])
            told = read(peer_id, {_name(row): row.value for row in rows})
            subnets = sum(len(network.subnets) for network in told.node.networks)
            if subnets > self._settings.limits.subnets:
                raise WireError(f"it has {subnets} subnets, and {self._settings.limits.subnets} is the limit")
        except IncompleteError:
            peer.incomplete_at = min(peer.incomplete_at, now + GRACE)
            return
        except WireError as error:
            self._refuse(name, f"{error}; what it said before holds")
            return
        peer.incomplete_at = INFINITY
        for kind in ("malformed", "silent"):
            self._complaints.clear(kind, name)
        self._departed.pop(peer_id, None)
        leased = any(row.lease for row in rows)
        peer.id = peer_id
        peer.heard = self._first_heard(told, leased, wall) if is_new else wall
        peer.silent_at = now + self._settings.peer_timeout if told.seen is not None and not leased else INFINITY
        peer.departing = told.departed
        peer.node = told.node if self._is_peer(told) else None

    def _first_heard(self, told: Registration, leased: bool, wall: float) -> float:
        """Its own word, as far as that can be: clocks differ, and who has a lease renewed it within its time."""
        earliest = wall - self._settings.lease_ttl if leased else 0.0
        return min(max(told.seen if told.seen is not None else wall, earliest), wall)

    def _is_peer(self, told: Registration) -> bool:
        name = told.node.id
        if told.stamp is not None or self._settings.plain:
            self._complaints.clear("plain", name)
            return True
        text = (
            f"{name} is registered without the MAC address of its tunnel end: listed, and not routed to; run weft there"
        )
        self._complaints.report("plain", name, text)
        return False

    def _refuse(self, name: str, text: str) -> None:
        self._counters.refused[Refused.MALFORMED] += 1
        self._complaints.report("malformed", name, f"{name}: {text}")

    def _miss(self, name: str, now: float) -> None:
        """It is not there (any more)."""
        peer = self._peers[name]
        was_there = peer.node is not None and not peer.departing
        if self._lost and was_there:
            peer.rows, peer.gone_at = [], now + self._settings.lease_ttl
        elif not was_there or peer.gone_at == INFINITY or peer.gone_at <= now:
            self._remove(name, now)

    def _remove(self, name: str, now: float) -> None:
        peer = self._peers.pop(name)
        for kind in ("malformed", "silent"):
            self._complaints.clear(kind, name)
        self._complaints.clear("plain", peer.id)
        if peer.departing:
            self._departed[peer.id] = now

    def _list(self) -> None:
        nodes = sorted((peer.node for peer in self._peers.values() if peer.node is not None), key=lambda node: node.id)
        pairs = zip(nodes, self.nodes, strict=False)
        if len(nodes) != len(self.nodes) or any(new is not old and new != old for new, old in pairs):
            self.nodes = tuple(nodes)
            self.version += 1


def _name(row: Entry) -> str:
    return row.key.rpartition("/")[2]
