"""The stacks of this host and what a discovery says of the others → one overlay per VNI: this host's end, whom to reach
and by which of their addresses, and which subnets lie behind whom. Pure; called by `agent/router.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.model import IPNetwork, Multipath, Network, Node, Peer

STATIC, DISCOVERED = "static-config", "discovery"
"""Where a route comes from, in the document's words. A network's `note` says it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator allows. `allowed`: where networks of others may lie. `dynamic`: stacks that routing.yaml doesn't
    list are routed to as they announce it. `max_networks`: of one peer; who announces more is not believed at all.
    `multipath`: a subnet behind several routers of one stack is shared among them. `flood`: peers are found by ARP, so
    only those with an overlay address can be reached."""

    allowed: tuple[IPNetwork, ...]
    dynamic: bool = True
    max_networks: int = 256
    multipath: bool = True
    flood: bool = False


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one peer. `node`: the id of the node that it is part of, "" if nothing is routed to it; `reason`:
    why not, or what is not as it was announced."""

    peer: Peer
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """One VNI. `me`: this host's end; `spaces`: subnets of the overlay's own addresses; `networks`: of this host's
    stacks; `nodes`: accepted, sorted by id."""

    me: Node
    spaces: tuple[IPNetwork, ...]
    networks: tuple[Network, ...]
    nodes: tuple[Node, ...]
    multipath: tuple[Multipath, ...]
