"""Several discovery processes on one host, and hosts that speak the plain form, on real sockets: what the kernel does
with a port that several listen on, and what a stranger can't do with what `plain` and `crowded` let in."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.contract.test_discovery_multicast import PORT, Cable, Host, node, pair, segment, send_from
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.discovery.multicast import Multicast
from weft.discovery.options import default_group
from weft.discovery.tally import Refused
from weft.model import IPAddress, Node
from weft.wire.hello import Stamp
from weft.wire.router import encode_goodbye, encode_hello

__all__ = ["pair"]  # the fixture
pytestmark = needs_root
OPEN = {"plain": True, "crowded": True}
ADDRESS, SHARED = socket.SO_REUSEADDR, socket.SO_REUSEPORT
WAYS: dict[str, list[tuple[int, ...]]] = {
    "SO_REUSEADDR": [(ADDRESS,)] * 3,
    "SO_REUSEPORT": [(SHARED,)] * 3,
    "both": [(ADDRESS, SHARED)] * 3,
    "ours beside either": [(ADDRESS,), (ADDRESS, SHARED), (ADDRESS, SHARED)],
}
SENDERS = 24


def stack(name: str, cable: Cable, *subnets: str) -> Node:
    """A router of a stack on this cable's host: all have one VNI."""
    return replace(node(cable.number, *subnets), id=name, stack=name)


def crowd(cable: Cable, name: str, *subnets: str, **changes: object) -> Host:
    settings = cable.settings(node=name, **OPEN, **changes)
    return Host(cable, stack(name, cable, *subnets), settings)


@contextlib.contextmanager
def listener(cable: Cable, options: tuple[int, ...], at: str) -> Iterator[socket.socket]:
    with cable.ns.entered():
        ears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ears:
        for option in options:
            ears.setsockopt(socket.SOL_SOCKET, option, 1)
        ears.bind((at, PORT))
        if at != f"192.0.2.{cable.number}":
            member = struct.pack("=4s4s", socket.inet_aton("239.1.1.1"), socket.inet_aton(f"192.0.2.{cable.number}"))
            ears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        ears.setblocking(False)
        yield ears


def heard(ears: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while ears.recv(65535) != b"end":
            count += 1
    return count


@pytest.mark.parametrize("way", sorted(WAYS))
def test_what_linux_does_with_a_port_that_several_listen_on(pair: list[Cable], way: str) -> None:
    """docs/discovery-multicast.md says this: a group's datagrams reach all, and one host's own reach one of them."""
    for at, to, copies in (("239.1.1.1", "239.1.1.1", 3), ("", "239.1.1.1", 3), ("192.0.2.1", "192.0.2.1", 1)):
        with contextlib.ExitStack() as cleanup:
            ears = [cleanup.enter_context(listener(pair[0], options, at)) for options in WAYS[way]]
            for _ in range(SENDERS):  # each from a port of its own, which SO_REUSEPORT's choice goes by
                send_from(pair[1], b"hello", to=to)
            counts = [0, 0, 0]

            def all_came(ears: list[socket.socket] = ears, counts: list[int] = counts, sum_of: int = copies) -> bool:
                for number, one in enumerate(ears):
                    counts[number] += heard(one)
                return sum(counts) == sum_of * SENDERS

            until(all_came, f"all copies of what was sent to {to}: {counts}")
            if copies == 3:
                assert counts == [SENDERS] * 3
            elif way == "SO_REUSEADDR":
                assert counts == [0, 0, SENDERS], "the last one to bind has all of it"
            else:
                assert max(counts) < SENDERS, "shared out by the sender's address and port"


def test_three_stacks_of_one_host_and_one_of_another_all_hear_each_other(pair: list[Cable]) -> None:
    names = ["stack-a", "stack-b", "stack-c", "stack-d"]
    with contextlib.ExitStack() as cleanup:
        hosts = [cleanup.enter_context(crowd(pair[0 if name != "stack-d" else 1], name)) for name in names]
        for name, host in zip(names, hosts, strict=True):
            host.until_ids(*(other for other in names if other != name))
            assert not host.last.problems
            assert not any(counted.startswith("refused.") for counted in host.discovery.counters())
        hosts[1].close()
        hosts[3].until_ids("stack-a", "stack-c")
        assert hosts[3].discovery.departed() == {"stack-b"}
        assert hosts[0].count("sent.HELLO")
        assert hosts[3].count("received.HELLO")


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_told_to_the_host_alone_reaches_all_its_stacks(pair: list[Cable], version: int) -> None:
    """No multicast between the two hosts: the one names the other, where the kernel gives each datagram to one."""

    def settings(cable: Cable, **changes: object) -> dict[str, object]:
        source: IPAddress = ip_address(f"192.0.2.{cable.number}" if version == 4 else f"fd00::{cable.number}")
        return {"source": source, "group": default_group(source), **changes}

    far_group = ip_address("239.9.9.9" if version == 4 else "ff12::9999")
    far = settings(pair[1], group=far_group, direct=(settings(pair[0])["source"],))
    names = ["stack-a", "stack-b", "stack-c"]

    def host(cable: Cable, name: str, told: dict[str, object]) -> Host:
        me = replace(stack(name, cable), endpoints=(told["source"],))  # type: ignore[arg-type]
        return Host(cable, me, cable.settings(node=name, **OPEN, **told))

    with contextlib.ExitStack() as cleanup:
        wire = cleanup.enter_context(listener(pair[1], (ADDRESS, SHARED), "239.1.1.1"))
        near = [cleanup.enter_context(host(pair[0], name, settings(pair[0]))) for name in names]
        for number, one in enumerate(near):
            one.until_ids(*(name for name in names if name != names[number]))
        other = cleanup.enter_context(host(pair[1], "stack-d", far))
        other.until_ids(*names)
        for number, one in enumerate(near):
            one.until_ids(*(name for name in names if name != names[number]), "stack-d")
            assert not one.last.problems
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(wire.recv(65535)[:10])
        assert (version == 6) == (not said)
        assert b"weft-relay" not in said, "what is handed on stays on its host"


def test_a_plain_program_beside_ours_hears_and_is_heard(pair: list[Cable]) -> None:
    """It binds the port as docker-router does: any address, SO_REUSEPORT alone."""
    hello = {"type": "HELLO", "version": 1, "peer_id": "b-1", "host_ip": "192.0.2.1", "vxlan_ip": "192.168.100.2"}
    body = json.dumps({**hello, "vni": 4096, "stack_name": "stack-b", "networks": ["172.21.0.0/16"]}).encode()
    query = {"type": "QUERY", "version": 1, "stack_id": "b", "host_ip": "192.0.2.1", "vni": 4096, "timestamp": 0}
    with crowd(pair[0], "stack-a") as first, crowd(pair[1], "stack-d") as other:
        first.until_ids("stack-d")
        with listener(pair[0], (ADDRESS, SHARED), "") as plain:
            send_from(pair[0], body)
            first.until_ids("b-1", "stack-d")
            other.until_ids("b-1", "stack-a")
            assert (other.last.items[0].stack, other.last.items[0].mac) == ("stack-b", bytes(6))
            send_from(pair[0], json.dumps(query).encode())
            kinds: set[tuple[str, str]] = set()

            def answered() -> bool:
                with contextlib.suppress(BlockingIOError):
                    said = json.loads(plain.recv(65535))
                    kinds.add((said["type"], said.get("stack_name", said.get("stack_id"))))
                return {(kind, name) for kind in ("HELLO", "RESPONSE") for name in ("stack-a", "stack-d")} <= kinds

            until(answered, f"both to answer: {kinds}")
        assert first.ids() == ["b-1", "stack-d"], "an answer of the older form makes no second peer"


def test_two_of_one_program_made_at_once_are_two(pair: list[Cable]) -> None:
    settings = pair[0].settings(**OPEN)
    first, second = Multicast(settings), Multicast(settings)
    assert first._settings.instance != second._settings.instance
    assert first._talk._stamp.program == second._talk._stamp.program == settings.instance, "it may move"


# Enemies. -----------------------------------------------------------------------------------------------------------


def test_a_hostile_host_changes_nothing_and_is_reported() -> None:
    """Forged addresses, a spoofed goodbye, a thousand networks, an oversized set, hearsay, and a forged hand-on."""
    with segment(3) as cables, crowd(cables[0], "stack-a") as first, crowd(cables[1], "stack-b") as second:
        first.until_ids("stack-b")
        known = first.last.items
        victim = stack("stack-b", cables[1], "10.66.0.0/16")
        stamp = Stamp("evil", 1 << 50, 1)
        plain = {"type": "HELLO", "version": 1, "peer_id": "stack-b", "host_ip": "192.0.2.2", "vni": 4096}
        forged = encode_hello(victim, stamp, 1400)[0]
        mine = {**plain, "host_ip": "192.0.2.3", "networks": ["0.0.0.0/0"]}
        sync = {"type": "TABLE_SYNC", "version": 1, "peer_id": "x", "sequence": 1, "peers": [mine], "routes": []}
        many = stack("stack-x", cables[2], *(f"10.{n // 256}.{n % 256}.0/24" for n in range(11_000)))
        for datagram in (
            forged,
            json.dumps(plain).encode(),
            encode_goodbye(victim, stamp),
            json.dumps({**plain, "type": "ANNOUNCE", "stack_id": "stack-b"}).encode(),
        ):
            send_from(cables[2], datagram)
        until(lambda: first.refused(Refused.SPOOFED) == 4, "four to be refused")
        for datagram in (
            json.dumps(mine).encode(),  # stack-b's id from an address that is its own
            encode_goodbye(replace(victim, endpoints=(ip_address("192.0.2.3"),)), stamp),
            b"weft-relay 1 evil 192.0.2.2\n" + forged,
            json.dumps(sync).encode(),
            b"x" * 60_000,
            *encode_hello(many, Stamp("evil", 1, 2), 30_000),
        ):
            send_from(cables[2], datagram)
        until(lambda: first.refused(Refused.LIMIT), "the networks to be too many")
        until(lambda: first.refused(Refused.MALFORMED) == 2, "the rubbish to be counted")
        assert first.refused(Refused.DUPLICATE) == 1
        assert first.count("received.TABLE_SYNC") == 1
        first.until(lambda last: len(last.problems) == 3, "three problems")
        assert first.last.items == known
        texts = first.texts()
        assert "claims to come from stack-b at 192.0.2.2" in texts
        assert "two hosts use the id 'stack-b': one at 192.0.2.2, which was first, and one at 192.0.2.3" in texts
        assert first.refused(Refused.SPOOFED) == 5, "the goodbye from its own address too; one problem for one sender"
        assert "announces 11000 subnets, and 10000 is the limit" in texts
        assert not second.discovery.departed()


def test_a_datagram_that_is_too_long_to_be_handed_on_does_not_silence_us(pair: list[Cable]) -> None:
    """Whoever can send to this host alone could else make it leave the group, again and again."""
    longest = 65535 - 28
    with crowd(pair[0], "stack-a") as first, crowd(pair[1], "stack-b") as second:
        first.until_ids("stack-b")
        send_from(pair[1], b"x" * longest, to="192.0.2.1")
        until(lambda: first.refused(Refused.MALFORMED), f"the rubbish to be counted: {first.discovery.counters()}")
        second.close()
        first.until_ids()
        assert not first.last.problems


def test_with_a_key_nobody_plain_gets_in_and_a_recording_changes_nothing() -> None:
    key = {"key": b"secret"}
    with segment(3) as cables, crowd(cables[0], "stack-a", **key) as first:
        plain = {"type": "HELLO", "version": 1, "peer_id": "stack-x", "host_ip": "192.0.2.3", "vni": 4096}
        with listener(cables[2], (ADDRESS, SHARED), "") as ears:
            with crowd(cables[1], "stack-b", **key):
                first.until_ids("stack-b")
                recorded = until(lambda: _heard_of(ears, b'"stack-b"'), "a recording")
            first.until_ids()
            send_from(cables[2], json.dumps(plain).encode())
            send_from(cables[2], json.dumps({**plain, "type": "ANNOUNCE", "stack_id": "stack-x"}).encode())
            until(lambda: first.refused(Refused.UNSEALED) == 2, "both to be refused")
            cables[2].ns.ip("address add 192.0.2.2/32 dev eth0")
            send_from(cables[2], recorded, source="192.0.2.2")
            until(lambda: first.refused(Refused.REPEATED) + first.refused(Refused.REPLAYED), "it to be refused")
        with crowd(cables[2], "stack-c", key=b"wrong"):
            until(lambda: first.refused(Refused.WRONG_KEY), "the wrong key to be refused")
        first.until(lambda last: "sealed with another key" in str(last.problems), "the problem")
        assert first.ids() == []
        assert "192.0.2.3 sends without a key" in first.texts()


def _heard_of(ears: socket.socket, text: bytes) -> bytes:
    with contextlib.suppress(BlockingIOError):
        datagram = ears.recv(65535)
        return datagram if text in datagram and b"HELLO" in datagram else b""
    return b""
