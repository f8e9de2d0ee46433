"""Whose links are here: the marks of all weft daemons in a namespace. For a cleanup, which knows no daemon."""

from __future__ import annotations

import contextlib

from weft.targets.kernel.constants import RTM_GETLINK
from weft.targets.kernel.links import ALL_LINKS, LinkState, decode_link
from weft.targets.kernel.socket import DUMP_BUFFER, NetlinkSocket, complete

MARK = "weft:"


async def owners(netns: str | None = None) -> list[str]:
    """Every `weft:<role>:<node>` that a VXLAN device carries as its ifalias, sorted. Raises TargetError."""
    return sorted({link.alias for link in await _marked(netns) if link.vxlan is not None})


async def wireguard_devices(netns: str | None = None) -> dict[str, list[str]]:
    """Names of the other devices that carry such a mark, by mark: WireGuard's. Raises TargetError."""
    found: dict[str, list[str]] = {}
    for link in await _marked(netns):
        if link.kind in ("wireguard", "tun"):
            found.setdefault(link.alias, []).append(link.name)
    return found


async def _marked(netns: str | None) -> list[LinkState]:
    with contextlib.closing(NetlinkSocket(netns, DUMP_BUFFER)) as socket:
        buffers = await socket.dump(RTM_GETLINK, ALL_LINKS)
    links = [decode_link(message) for buffer in buffers if buffer for message in complete(buffer)]
    return [link for link in links if link.alias.startswith(MARK)]
