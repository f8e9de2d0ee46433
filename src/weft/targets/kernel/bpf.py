"""The filter of the listening socket: a classic BPF program that the kernel runs before it queues a notification.

It drops the echoes of our own requests and other people's routes, neighbours and FDB entries, so that neither ten
thousand routes of ours nor somebody's BGP table make this process busy. FRR's zebra does the same with its own echoes.
What passes is looked at again in `mirror.py`: the filter spares work, nothing depends on it.

BPF reads words as big-endian; netlink is in the machine's order. So every constant is swapped as the machine would.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from weft.targets.kernel.constants import (
    NLM_F_REPLACE,
    PROTOCOL,
    RTM_DELNEIGH,
    RTM_DELNEXTHOP,
    RTM_DELROUTE,
    RTM_NEWNEIGH,
    RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
)

# linux/filter.h, linux/bpf_common.h
_WORD, _HALF, _BYTE = 0x20, 0x28, 0x30
_EQUAL, _BITS = 0x15, 0x45
_RETURN = 0x06
_INSTRUCTION = struct.Struct("=HBBI")
"""sock_filter: code, jump if true, jump if false, operand."""

# Where things stand in a message: nlmsghdr, then rtmsg's prefix length and protocol, nhmsg's protocol, ndmsg's index.
_TYPE, _FLAGS, _PORT = 4, 6, 12
_RT_LENGTH, _RT_PROTOCOL, _NH_PROTOCOL, _ND_INDEX = 16 + 1, 16 + 5, 16 + 2, 16 + 4

Line = tuple[int, int, str]
"""Code, operand, and the label to go to if a comparison holds ("" for none)."""


def listening_filter(port: int, ifindexes: Iterable[int], deletions: bool = False) -> tuple[bytes, int]:
    """The program and its number of instructions. `port`: of the socket whose echoes are dropped; `ifindexes`: of the
    links whose neighbours and FDB entries are heard. `deletions`: hear of every route that goes, too."""
    lines: list[Line | str] = [
        (_WORD, _PORT, ""),
        (_EQUAL, _swap32(port), "drop"),
        (_HALF, _TYPE, ""),
        (_EQUAL, _swap16(RTM_NEWROUTE), "new route"),
        (_EQUAL, _swap16(RTM_DELROUTE), "accept" if deletions else "route"),
        (_EQUAL, _swap16(RTM_NEWNEIGH), "entry"),
        (_EQUAL, _swap16(RTM_DELNEIGH), "entry"),
        (_RETURN, 0xFFFFFFFF, ""),
        "new route",  # a route that somebody puts in the place of ours is announced with this flag, and only so
        (_HALF, _FLAGS, ""),
        (_BITS, _swap16(NLM_F_REPLACE), "accept"),
        "route",
        (_BYTE, _RT_PROTOCOL, ""),
        (_EQUAL, PROTOCOL, "accept"),
        (_RETURN, 0, ""),
        "entry",
        (_WORD, _ND_INDEX, ""),
        *((_EQUAL, _swap32(ifindex), "accept") for ifindex in ifindexes),
        "drop",
        (_RETURN, 0, ""),
        "accept",
        (_RETURN, 0xFFFFFFFF, ""),
    ]
    return assemble(lines)


def facts_filter() -> tuple[bytes, int]:
    """For the host facts: of routes, default routes only."""
    lines: list[Line | str] = [
        (_HALF, _TYPE, ""),
        (_EQUAL, _swap16(RTM_NEWROUTE), "route"),
        (_EQUAL, _swap16(RTM_DELROUTE), "route"),
        (_RETURN, 0xFFFFFFFF, ""),
        "route",
        (_BYTE, _RT_LENGTH, ""),
        (_EQUAL, 0, "zero"),
        (_RETURN, 0, ""),
        "zero",
        (_RETURN, 0xFFFFFFFF, ""),
    ]
    return assemble(lines)


def underlay_filter() -> tuple[bytes, int]:
    """For what the ways of packets depend on: no routes and next hops of ours."""
    lines: list[Line | str] = [
        (_HALF, _TYPE, ""),
        (_EQUAL, _swap16(RTM_NEWROUTE), "route"),
        (_EQUAL, _swap16(RTM_DELROUTE), "route"),
        (_EQUAL, _swap16(RTM_NEWNEXTHOP), "hop"),
        (_EQUAL, _swap16(RTM_DELNEXTHOP), "hop"),
        (_RETURN, 0xFFFFFFFF, ""),
        "route",
        (_BYTE, _RT_PROTOCOL, ""),
        (_EQUAL, PROTOCOL, "drop"),
        (_RETURN, 0xFFFFFFFF, ""),
        "hop",
        (_BYTE, _NH_PROTOCOL, ""),
        (_EQUAL, PROTOCOL, "drop"),
        (_RETURN, 0xFFFFFFFF, ""),
        "drop",
        (_RETURN, 0, ""),
    ]
    return assemble(lines)


def assemble(lines: list[Line | str]) -> tuple[bytes, int]:
    """Instructions and labels (a text before the line that it marks) → the program and its number of instructions.
    Jumps go forward, and no further than 255 instructions."""
    labels: dict[str, int] = {}
    code: list[Line] = []
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(code)
        else:
            code.append(line)
    program = b"".join(
        _INSTRUCTION.pack(operation, labels[label] - at - 1 if label else 0, 0, operand)
        for at, (operation, operand, label) in enumerate(code)
    )
    return program, len(code)


def _swap32(value: int) -> int:
    return int.from_bytes(struct.pack("=I", value), "big")


def _swap16(value: int) -> int:
    return int.from_bytes(struct.pack("=H", value), "big")
