"""A path that is narrower than its ends: the sender is told, and TCP finds its size."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.lab.harness import do, example, failing, lab_up, on, settle
from tests.support.needs import needs_root
from weft.lab import netns
from weft.lab.lab import Lab

pytestmark = needs_root

MEGABYTES = 10
PORT = 8000
PATIENCE = 30.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(example("two-segments"), "segments") as found:
        settle(found)
        yield found


def test_hosts_on_both_sides_of_a_router_find_each_other_without_multicast(lab: Lab) -> None:
    assert failing(lab) == []


def test_a_jumbo_ping_that_must_not_be_fragmented_is_answered_with_frag_needed(lab: Lab) -> None:
    """1400 of the right-hand segment less 50 of VXLAN: said by the sender's own host, at the first packet."""
    said = on(lab, "a/web1", "ping -c1 -W2 -M do -s 1400 10.2.1.2", check=False)
    assert "From 10.1.1.1" in said
    assert "Frag needed and DF set (mtu = 1350)" in said
    assert " 0% packet loss" in on(lab, "a/web1", "ping -c1 -W2 -M do -s 1322 10.2.1.2")  # 1350 with its headers


def test_towards_the_wide_side_the_narrow_hosts_own_device_is_the_limit(lab: Lab) -> None:
    said = on(lab, "b/web1", "ping -c1 -W2 -M do -s 1400 10.1.1.2", check=False)
    assert "Frag needed and DF set (mtu = 1350)" in said


def test_a_large_ping_that_may_be_fragmented_arrives(lab: Lab) -> None:
    assert " 0% packet loss" in on(lab, "a/web1", "ping -c2 -i0.1 -W2 -M dont -s 4000 10.2.1.2")


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("b", "a")])
def test_tcp_moves_ten_megabytes_over_the_narrow_segment(lab: Lab, source: str, target: str) -> None:
    received = transfer(lab, source, target, os.urandom(1 << 20), MEGABYTES)
    assert received == MEGABYTES << 20


def transfer(lab: Lab, source: str, target: str, block: bytes, blocks: int) -> int:
    """Send blocks from one host's container to another's over TCP; octets that arrived, each compared."""
    host = lab.host(target)
    _, container = next(host.host.containers())
    address = container.addresses[0].ip
    with stream(lab, target) as listener, stream(lab, source) as sender:
        listener.bind((str(address), PORT))
        listener.listen(1)
        arrived: list[int] = []
        receiver = threading.Thread(target=lambda: arrived.append(receive(listener, block)))
        receiver.start()
        try:
            sender.connect((str(address), PORT))
            for _ in range(blocks):
                sender.sendall(block)
        finally:
            sender.close()
            receiver.join(PATIENCE)
    return sum(arrived)


def stream(lab: Lab, host: str) -> socket.socket:
    """A TCP socket in the host's first container."""
    _, container = next(lab.host(host).host.containers())
    space = do(lab.container_namespace(lab.host(host), container))
    sock = netns.socket_in(space, socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE)
    return sock


def receive(listener: socket.socket, block: bytes) -> int:
    """Octets that one connection brings until it ends; none if they are not the block, over and over."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(PATIENCE)
        total = 0
        while data := connection.recv(1 << 16):
            at = total % len(block)
            if data != (block + block)[at : at + len(data)]:
                return 0
            total += len(data)
        return total
