"""A network namespace for one benchmark, gone afterwards: really gone, with the work that its end is for the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PROBE = "link add probe0 type veth peer name probe1\nlink delete probe0\n"
AT_EASE = 0.05
"""Seconds that the probe takes on a kernel with nothing else to do: 16 to 20 ms, most of it RCU's grace periods."""
IN_A_ROW = 8
PATIENCE = 60.0


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
        wait_for_quiet()


def wait_for_quiet() -> None:
    """Return when the kernel has taken down what was deleted before.

    `ip netns del` returns at once, and the kernel goes on for seconds if there were 50,000 routes: it holds the lock
    that every change of a link or route needs (rtnl), and frees what is left in RCU callbacks. Deleting a link waits
    for both. That it is quick several times in a row tells that no other part of the work is about to begin. On a
    machine that is never at ease it is said so, and the figures are what they are."""
    probe = f"weft-bench-probe-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", probe], check=True)
    try:
        until = time.monotonic() + PATIENCE
        quick = 0
        while quick < IN_A_ROW:
            started = time.monotonic()
            subprocess.run(["ip", "-n", probe, "-batch", "-"], input=PROBE.encode(), check=True)
            quick = quick + 1 if time.monotonic() - started < AT_EASE else 0
            if time.monotonic() > until:
                print(f"bench: the kernel has been busy with links for {PATIENCE:g} s; go on anyway", file=sys.stderr)
                return
    finally:
        subprocess.run(["ip", "netns", "del", probe], check=True)
