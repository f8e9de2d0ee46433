"""Who came, changed, fell silent, came back and went: for the events log and /metrics. `weft discovery` has it see each
set of peers that it makes, `weft router` each that it reads.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Literal, Protocol, get_args

from weft.model import Node, Peer, mac_text

Kind = Literal["came", "changed", "stale", "back", "gone"]
KINDS: tuple[Kind, ...] = get_args(Kind)
log = logging.getLogger("weft")

MOST = 50
"""Events of one set that are noted one by one."""


class Notes(Protocol):
    """`agent.journal.Journal`. Never waits, never raises."""

    def note(self, kind: str, subject: str, done: str, reason: str) -> None: ...


class Aloud:
    """`notes`, and the log beside it: `docker logs discovery` is where people look first."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def note(self, kind: str, subject: str, done: str, reason: str) -> None:
        """As Notes."""
        self._notes.note(kind, subject, done, reason)
        log.info("%s", " ".join(filter(None, (kind, subject, f"{done}: {reason}"))))


class PeerEvents:
    """Called with each set of peers. `counts`: events since the start, all kinds there are. `departed`: asks who said
    goodbye, as far as anybody knows."""

    def __init__(self, notes: Notes, departed: Callable[[], Collection[str]] = tuple) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._notes = notes
        self._departed = departed
        self._peers: dict[str, Peer] = {}

    def __call__(self, peers: tuple[Peer, ...]) -> None:
        """This set holds now. Who is in it twice is taken as it stands there last."""
        now = {peer.node.id: peer for peer in peers}
        before, self._peers = self._peers, now
        if before == now:
            return
        events = list(_events(before, now, self._departed))
        self.counts.update(kind for kind, _, _ in events)
        for kind, name, reason in events[:MOST]:
            self._notes.note("peer", name, kind, reason)
        if len(events) > MOST:
            left = Counter(kind for kind, _, _ in events[MOST:])
            said = ", ".join(f"{number} {kind}" for kind, number in sorted(left.items()))
            self._notes.note("peer", "", f"{len(events) - MOST} more: {said}", "too many to be listed")


def _events(
    before: dict[str, Peer], now: dict[str, Peer], departed: Callable[[], Collection[str]]
) -> Iterator[tuple[Kind, str, str]]:
    for name, peer in now.items():
        former = before.get(name)
        if former is None:
            yield "came", name, describe(peer.node)
            if peer.status == "stale":
                yield "stale", name, "it was silent already"
            continue
        if former.node != peer.node:
            yield "changed", name, "; ".join(_changes(former.node, peer.node))
        if former.status != peer.status:
            yield _turned(peer)
    lost = before.keys() - now.keys()
    said_goodbye = departed() if lost else ()
    for name in sorted(lost):
        if name in said_goodbye:
            yield "gone", name, "it said goodbye"
        elif before[name].status == "stale":
            yield "gone", name, "it was silent for as long again"
        else:
            yield "gone", name, "it is no longer listed"


def _turned(peer: Peer) -> tuple[Kind, str, str]:
    if peer.status == "stale":
        return "stale", peer.node.id, "it fell silent; it is routed to for one more timeout"
    return "back", peer.node.id, "it is heard again"


def describe(node: Node) -> str:
    """`stack-b at 10.0.2.6, VNI 1000, 192.168.100.2: 172.21.0.0/16 (multicast)`."""
    where = f"{node.stack or node.id} at {_listed(node.endpoints)}, VNI {node.vni}"
    inside = f", {_listed(node.overlay)}" if node.overlay else ""
    return f"{where}{inside}: {_networks(node)}" + (f" ({node.source})" if node.source else "")


def _changes(old: Node, new: Node) -> Iterator[str]:
    words = {
        "stack": (old.stack, new.stack),
        "endpoint": (_listed(old.endpoints), _listed(new.endpoints)),
        "port": (str(old.port), str(new.port)),
        "VNI": (str(old.vni), str(new.vni)),
        "MAC": (mac_text(old.mac), mac_text(new.mac)),
        "VXLAN address": (_listed(old.overlay), _listed(new.overlay)),
        "networks": (_networks(old), _networks(new)),
        "MTU": (str(old.mtu), str(new.mtu)),
        "version": (old.version, new.version),
    }
    told = [f"{what} {was or 'none'} → {is_ or 'none'}" for what, (was, is_) in words.items() if was != is_]
    yield from told or ["something that isn't shown"]


def _networks(node: Node) -> str:
    subnets = [str(subnet) for network in node.networks for subnet in network.subnets]
    shown = ", ".join(subnets[:5]) or "no network"
    return shown + (f" and {len(subnets) - 5} more" if len(subnets) > 5 else "")


def _listed(things: Collection[object]) -> str:
    return ", ".join(map(str, things))
