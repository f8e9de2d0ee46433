"""What went through a device: its counters, for the health (`core/health.py`) and /metrics. Read by `weft registrar`.

/proc/self/net/dev, since it is that of this process's network namespace; /sys may be another's.
"""

from __future__ import annotations

from pathlib import Path

from weft.core.health import Counters

TABLE = Path("/proc/self/net/dev")
RX_BYTES, RX_PACKETS, TX_BYTES, TX_PACKETS = 0, 1, 8, 9
"""Columns behind the name (net/core/net-procfs.c)."""


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
