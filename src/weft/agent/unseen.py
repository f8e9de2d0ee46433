"""Nodes that are known by what a store holds, and that nobody speaks with: what there is to tell of that, which is
nothing. Base of the worlds whose nodes are leases (`flannel.py`, `route_manager.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from weft.model import Reach


class Unseen:
    """`web.api.Voice`."""

    __slots__ = ()

    def last_seen(self) -> Mapping[str, float]:
        """Leases don't tell when their hosts were seen last."""
        return {}

    def within(self) -> Mapping[str, str]:
        """None: every node is planned under its own name."""
        return {}

    def rules(self) -> Mapping[str, str]:
        """None: there is no choice of ways."""
        return {}

    def probed(self) -> Mapping[str, Reach]:
        """None: nobody is probed."""
        return {}

    def counters(self) -> Mapping[str, int]:
        """None: no message is sent."""
        return {}
