"""Which VNIs of this host a router looks after: two routers of one VNI would undo each other's work. Held by
`daemons/router.py` as long as it runs, and changed with its routing.yaml.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

from weft.backends.tunnel import device_name
from weft.daemons.process import claim
from weft.errors import WeftError

ROLE = "router"


class Vnis:
    """What is held goes with the process."""

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    @property
    def devices(self) -> frozenset[str]:
        """Devices that no other router here looks after now: whatever name they bear, they are an earlier run's."""
        return frozenset(map(device_name, self._held))

    def hold(self, vnis: Iterable[int]) -> Mapping[int, str]:
        """These and no others. Returns which can't be had, and why."""
        wanted = set(vnis)
        for vni in self._held.keys() - wanted:
            self._held.pop(vni).close()
        refused: dict[int, str] = {}
        for vni in sorted(wanted - self._held.keys()):
            try:
                self._held[vni] = claim(f"{ROLE}-{vni}")
            except WeftError as error:
                hint = "one router serves several stacks of a host: list them under `stacks:` in its routing.yaml"
                refused[vni] = f"{error}; {hint}"
        return refused

    def close(self) -> None:
        """Leave all of them to others."""
        self.hold(())


def claim_name(name: str) -> socket.socket:
    """What a router makes bears its name, and so it is known after a restart. Raises WeftError if another router here
    has the same."""
    try:
        return claim(f"{ROLE} {name}")
    except WeftError as error:
        raise WeftError(f"{error}, or give each router of a host a STACK_ID or PEER_ID of its own") from error
