"""Ports for servers that tests start.

A port that was free a moment ago may be somebody's a moment later: the kernel gives those of its own range to whoever
connects, and another worker's tests connect all the time. So ours are from below that range, and each process of tests
begins somewhere else and goes on from there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

from tests.support.namespace import Namespace

FIRST, LAST = 10_000, 30_000
"""/proc/sys/net/ipv4/ip_local_port_range begins at 32768."""
_ports = itertools.cycle(range(FIRST, LAST))
_begun: set[int] = set()


def free_ports(count: int, address: str = "127.0.0.1", namespace: Namespace | None = None) -> list[int]:
    """Ports of this address that nobody has, of TCP and of UDP, each once."""
    found: list[int] = []
    while len(found) < count:
        port = _next()
        if _is_free(address, port, namespace):
            found.append(port)
    return found


def free_port(address: str = "127.0.0.1", namespace: Namespace | None = None) -> int:
    """One of them."""
    return free_ports(1, address, namespace)[0]


def _next() -> int:
    if os.getpid() not in _begun:  # workers are numbered one after the other
        _begun.add(os.getpid())
        for _ in range(os.getpid() * 997 % (LAST - FIRST)):
            next(_ports)
    return next(_ports)


def _is_free(address: str, port: int, namespace: Namespace | None) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.entered() if namespace else contextlib.nullcontext():
        tcp, udp = socket.socket(family), socket.socket(family, socket.SOCK_DGRAM)
    with tcp, udp:
        try:
            tcp.bind((address, port))
            udp.bind((address, port))
        except OSError:
            return False
    return True
