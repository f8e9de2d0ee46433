"""Peers that fall silent: stale for one more timeout, then gone. Pure; called by `agent/discovering.py`.

A discovery drops a node when it was silent for the peer timeout, or when it said goodbye. Who said goodbye is gone at
once. Who did not is kept for as long again, as `stale`: routed to on, and shown for what it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from weft.model import Known, Node, Peer


@dataclass(frozen=True, slots=True)
class Heard:
    """What a discovery tells beside its set: when each node was last heard (seconds since 1970), and who said
    goodbye."""

    last_seen: Mapping[str, float] = field(default_factory=dict)
    departed: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Aged:
    """`peers`: sorted by id. `vanished`: when each stale one was first missed, by the clock that `age` was given.
    `next_change`: when to ask again at the latest, by the same clock; None: nothing will change by itself."""

    peers: tuple[Peer, ...] = ()
    vanished: Mapping[str, float] = field(default_factory=dict)
    next_change: float | None = None


def age(before: Aged, known: Known[Node], heard: Heard, timeout: float, now: float) -> Aged:
    """The peers of now. `timeout`: seconds that a stale one is kept. `now`: seconds of a clock that never goes back.

    Nobody is forgotten on the word of a discovery that does not vouch for its set (etcd is away, the program has just
    started); who was missed meanwhile is stale."""
    present = {node.id: node for node in known.items}
    former = {peer.node.id: peer for peer in before.peers}
    peers = [Peer(node, _seen(former.get(name), heard, name)) for name, node in present.items()]
    vanished: dict[str, float] = {}
    for name, peer in former.items():
        if name in present or name in heard.departed:
            continue
        since = before.vanished.get(name, now)
        if known.complete and now >= since + timeout:
            continue
        vanished[name] = since
        peers.append(Peer(peer.node, _seen(peer, heard, name), "stale"))
    due = min(vanished.values(), default=None) if known.complete else None
    peers.sort(key=lambda peer: peer.node.id)
    return Aged(tuple(peers), vanished, None if due is None else due + timeout)


def _seen(former: Peer | None, heard: Heard, name: str) -> float:
    """A discovery that forgot a node forgot when it was heard, too. 0: never."""
    return heard.last_seen.get(name, former.last_seen if former is not None else 0.0)
