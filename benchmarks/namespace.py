"""A network namespace for one benchmark, gone afterwards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """Yield the path of a new namespace with loopback up."""
    full = f"weft-bench-{name}-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", full], check=True)
    try:
        subprocess.run(["ip", "-n", full, "link", "set", "lo", "up"], check=True)
        yield f"/run/netns/{full}"
    finally:
        subprocess.run(["ip", "netns", "del", full], check=True)
