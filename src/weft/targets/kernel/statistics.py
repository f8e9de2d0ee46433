"""What went through a link, as the kernel counts it. Asked by `web/router.py`, for /metrics.

One message there and back for each link by its name: a host may have thousands of others.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from weft.errors import KernelError
from weft.targets.kernel.codec import attributes, decoding, text, u32
from weft.targets.kernel.constants import IFLA_EXT_MASK, IFLA_IFNAME, RTM_GETLINK
from weft.targets.kernel.links import IFINFO
from weft.targets.kernel.socket import ANSWER_BUFFER, NetlinkSocket

IFLA_STATS64 = 23
_STATS = struct.Struct("=8Q")
"""The first fields of rtnl_link_stats64 (linux/if_link.h)."""


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Since the link was made. Errors and drops are packets."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


class Statistics:
    """`netns`: path of a network namespace, None for the current one. Raises TargetError without NET_ADMIN."""

    def __init__(self, netns: str | None = None) -> None:
        self._socket = NetlinkSocket(netns, ANSWER_BUFFER)

    def of(self, names: Iterable[str]) -> dict[str, LinkStatistics]:
        """By name; those that are not there are left out."""
        found: dict[str, LinkStatistics] = {}
        for name in names:
            with contextlib.suppress(KernelError):  # it went, or is not there yet
                found[name] = self._ask(name)
        return found

    def close(self) -> None:
        self._socket.close()

    def _ask(self, name: str) -> LinkStatistics:
        body = IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name) + u32(IFLA_EXT_MASK, 0)
        answer = self._socket.ask(RTM_GETLINK, body)
        with decoding("a link's statistics"):
            return LinkStatistics(*_STATS.unpack_from(attributes(answer.body, IFINFO.size)[IFLA_STATS64]))
