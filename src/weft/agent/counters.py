"""What went through a device, and whether it is up: for the health (`core/health.py`) and /metrics. `vitals.py` asks.

/proc/self/net/dev, since it is that of this process's network namespace; /sys may be another's.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from pathlib import Path

from weft.core.health import Counters

TABLE = Path("/proc/self/net/dev")
RX_BYTES, RX_PACKETS, TX_BYTES, TX_PACKETS = 0, 1, 8, 9
"""Columns behind the name (net/core/net-procfs.c)."""
SIOCGIFFLAGS, IFF_UP = 0x8913, 1
"""linux/sockios.h, linux/if.h."""


def read_counters(device: str, at: float, table: Path = TABLE) -> Counters | None:
    """None if there is no such device. `at`: seconds since 1970."""
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines[2:]:
        name, colon, rest = line.partition(":")
        if colon and name.strip() == device:
            row = [int(text) for text in rest.split()]
            return Counters(at, row[RX_PACKETS], row[TX_PACKETS], row[RX_BYTES], row[TX_BYTES])
    return None


def is_up(device: str) -> bool:
    """Whether there is such a device in this network namespace, and somebody has set it up."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, SIOCGIFFLAGS, struct.pack("16sH14x", device.encode()[:15], 0))
        return bool(struct.unpack_from("H", answer, 16)[0] & IFF_UP)
    return False
