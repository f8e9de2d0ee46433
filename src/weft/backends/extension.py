"""extension: what reaches a peer is done by commands of the operator's (flannel's backend of that name)."""

from __future__ import annotations

from collections.abc import Iterator

from weft.backends.tunnel import Tunnel
from weft.model import Node, View
from weft.objects import Object, Why
from weft.objects.outside import Hook


def here(view: View) -> Iterator[tuple[Object, Why]]:
    """Nothing: this host's own end is the operator's PreStartupCommand's."""
    yield from ()


def reach(node: Node, tunnel: Tunnel, slot: int) -> Iterator[tuple[Object, Why]]:
    """One word to SubnetAddCommand, and to SubnetRemoveCommand when the node goes."""
    subnets = {subnet.version: subnet for network in node.networks for subnet in network.subnets}
    told = Why(node.source, node.id, f"lease of node {node.id}")
    yield Hook(subnets.get(4), subnets.get(6), node.endpoint(4), node.endpoint(6), node.key), told
