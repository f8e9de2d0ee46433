"""Hears that somebody changed netfilter's rules (nf_tables only; iptables-legacy tells nobody). Used by
`targets/firewall.py`.

The kernel multicasts every committed change, object by object, and at its end the new generation with the process that
made it (linux/netfilter/nf_tables.h, NFNLGRP_NFTABLES).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from weft.core.ruleset import FAMILIES, Family
from weft.targets.kernel.netns import inside

NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_DELRULE = 8
NFT_MSG_NEWGEN = 15
NFTA_GEN_PROC_PID = 2
FAMILY_OF: dict[int, Family] = {socket.AF_INET: 4, socket.AF_INET6: 6}
HEADER = struct.Struct("=IHHII")
BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class Changed:
    """A table, chain or rule of this family was made, changed or removed."""

    family: Family


@dataclass(frozen=True, slots=True)
class Committed:
    """The transaction that the changes before belong to is complete. `pid`: whose it was, 0 if not told."""

    pid: int


def decode(datagram: bytes) -> Iterator[Changed | Committed]:
    """The events of one datagram; ValueError if it isn't a row of netlink messages."""
    at = 0
    while at < len(datagram):
        if len(datagram) - at < HEADER.size + 4:
            raise ValueError("a netfilter message is cut off")
        length, kind, _, _, _ = HEADER.unpack_from(datagram, at)
        if not HEADER.size + 4 <= length <= len(datagram) - at:
            raise ValueError(f"a netfilter message says that it is {length} bytes long")
        message = kind & 0xFF
        if kind >> 8 == NFNL_SUBSYS_NFTABLES:
            family = FAMILY_OF.get(datagram[at + HEADER.size])
            if message == NFT_MSG_NEWGEN:
                yield Committed(_pid(datagram[at + HEADER.size + 4 : at + length]))
            elif message <= NFT_MSG_DELRULE and family is not None:
                yield Changed(family)
        at += (length + 3) & ~3


def _pid(attributes: bytes) -> int:
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if length < 4:
            break
        if kind == NFTA_GEN_PROC_PID and length == 8 and at + 8 <= len(attributes):
            return int.from_bytes(attributes[at + 4 : at + 8], "big")
        at += (length + 3) & ~3
    return 0


class Watch:
    """Calls `heard` with the families that somebody changed whose process is not in `own`; with all of them if
    notifications were lost. Runs on the running event loop until `close`. `netns`: a path, None for the current one.
    Raises OSError or TargetError if there is no such namespace or no netfilter socket."""

    def __init__(self, netns: str | None, own: Collection[int], heard: Callable[[frozenset[Family]], None]) -> None:
        self._own = own
        self._heard = heard
        self._pending: set[Family] = set()
        self._socket = inside(netns, _listening)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    def close(self) -> None:
        """Stop listening."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        try:
            events = list(decode(self._socket.recv(BUFFER)))
        except BlockingIOError:
            return
        except (OSError, ValueError):
            # ENOBUFS (notifications were lost) or nothing that we can read: anything may have changed.
            self._pending = set()
            self._heard(frozenset(FAMILIES))
            return
        for event in events:
            if isinstance(event, Changed):
                self._pending.add(event.family)
                continue
            changed, self._pending = frozenset(self._pending), set()
            if changed and event.pid not in self._own:
                self._heard(changed)


def _listening() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
    sock.bind((0, 0))
    sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
    return sock
