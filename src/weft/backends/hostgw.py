"""host-gw: routes straight to the other hosts, without a tunnel. Its peers are on the same segment as this host.

Also what the VXLAN backend does for such a peer where that is asked for (flannel's DirectRouting).
"""

from __future__ import annotations

from collections.abc import Iterator

from weft.backends.tunnel import Tunnel, spread
from weft.model import Node, View
from weft.objects import Object, Route, Why


def here(view: View) -> Iterator[tuple[Object, Why]]:
    """Nothing: packets leave by the uplink."""
    yield from ()


def reach(node: Node, tunnel: Tunnel, slot: int) -> Iterator[tuple[Object, Why]]:
    """A route per subnet, through the peer's endpoint of the subnet's family, out of the uplink that it is on."""
    for network in node.networks:
        asked = Why(node.source, node.id, f"network {network.name} of node {node.id}, on the same segment")
        for subnet in network.subnets:
            endpoint = node.endpoint(subnet.version)
            if endpoint is not None and node.direct:
                yield Route(subnet, node.direct, via=endpoint, metric=spread(tunnel.metric, subnet)), asked
