"""Backends turn one peer into the kernel objects that reach it. Pure; called by `core/plan.py` alone.

`BACKENDS` is the table: the name that a node announces → how it is reached.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from weft.backends import alloc, extension, hostgw, lease, vxlan, wireguard
from weft.backends.tunnel import Tunnel
from weft.model import Node, View
from weft.objects import Object, Why


class Backend(Protocol):
    """Functions of a module; the module is the plug-in."""

    def here(self, view: View) -> Iterable[tuple[Object, Why]]:
        """This host's own end. Raises ValueError if this host has no endpoint of the underlay's family."""
        ...

    def reach(self, node: Node, tunnel: Tunnel, slot: int) -> Iterable[tuple[Object, Why]]:
        """The objects that reach `node` and its networks. `slot`: a number that no other node of the plan has, below
        `tunnel.SLOTS`, from which next-hop ids are made."""
        ...


BACKENDS: dict[str, Backend] = {
    "vxlan": vxlan,
    "host-gw": hostgw,
    "wireguard": wireguard,
    "extension": extension,
    "alloc": alloc,
    "lease": lease,
}
"""lease: no node announces it; the registrar's Views have it."""
