"""What the rules do to packets: two hosts, a cable that is named as the VXLAN device would be, containers behind them.

    blue 172.18.0.2 ─ br-blue ┐                    ┌ br-red ─ red 172.20.0.2
                              ├ east ─ vxlan4096 ─ west
    grey 172.19.0.2 ─ br-grey ┘  (not exposed)

`east` is the host under test, with Docker's rules; `west` has no rules at all, and hands out whatever it gets.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root
from tests.support.rulesets import DOCKER_20, DOCKER_28, FIREWALLD, UFW
from weft.core.firewall import Site, wanted
from weft.objects import Op, Why
from weft.targets.firewall import FirewallTarget

DEV = "vxlan4096"
BLUE, GREY, RED = "172.18.0.2", "172.19.0.2", "172.20.0.2"
EXPOSED = [ip_network("172.18.0.0/16"), ip_network("fd18::/64")]
WHY = Why("engine", "east", "the exposed networks of this host")
PORT = 7777
GREY_RULES = """*filter
-I FORWARD 2 -i br-grey ! -o br-grey -j ACCEPT
COMMIT
*nat
-I POSTROUTING -s 172.19.0.0/16 ! -o br-grey -j MASQUERADE
COMMIT
"""
"""What Docker has for the network that isn't exposed."""
NO_WAY_IN = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"

pytestmark = needs_root


@dataclass(frozen=True)
class Wire:
    east: Namespace
    west: Namespace
    blue: Namespace
    grey: Namespace
    red: Namespace


def container(host: Namespace, bridge: str, guest: Namespace, addresses: tuple[str, str]) -> None:
    """`guest` behind a veth of `host` that is named like the bridge; .1 is the host, .2 the guest."""
    veth(host, bridge, guest, "eth0")
    for address in addresses:
        prefix, length = address.split("/")
        host.ip(f"address add {prefix}1/{length} dev {bridge}")
        guest.ip(f"address add {prefix}2/{length} dev eth0")
        guest.ip(f"{'-6 ' if ':' in prefix else ''}route add default via {prefix}1")


@pytest.fixture
def wire() -> Iterator[Wire]:
    with contextlib.ExitStack() as stack:
        made = Wire(*(stack.enter_context(namespace(name)) for name in ("east", "west", "blue", "grey", "red")))
        for ns in (made.east, made.west, made.blue, made.grey, made.red):
            # Without duplicate address detection, link-local addresses can be used at once.
            ns.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        for host in (made.east, made.west):
            host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        veth(made.east, DEV, made.west, DEV)
        made.east.ip(f"address add 192.0.2.1/24 dev {DEV}")
        made.west.ip(f"address add 192.0.2.2/24 dev {DEV}")
        made.east.ip(f"address add fd00::1/64 dev {DEV}")
        made.west.ip(f"address add fd00::2/64 dev {DEV}")
        container(made.east, "br-blue", made.blue, ("172.18.0./16", "fd18::/64"))
        container(made.east, "br-grey", made.grey, ("172.19.0./16", "fd19::/64"))
        container(made.west, "br-red", made.red, ("172.20.0./16", "fd20::/64"))
        made.east.ip("route add 172.20.0.0/16 via 192.0.2.2")
        made.east.ip("-6 route add fd20::/64 via fd00::2")
        for there in ("172.18.0.0/16", "172.19.0.0/16"):
            made.west.ip(f"route add {there} via 192.0.2.1")
        for there in ("fd18::/64", "fd19::/64"):
            made.west.ip(f"-6 route add {there} via fd00::1")
        yield made


@pytest.fixture(params=["nft", "legacy"])
def load(request: pytest.FixtureRequest, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """`east` is a host whose plain `iptables` is this implementation."""
    plain = shutil.which(f"iptables-{request.param}")
    if plain is None or not wire.east.run(plain, "-t", "nat", "-S", check=False):
        pytest.skip(f"iptables-{request.param} does not work here")
    (tmp_path / "iptables").symlink_to(plain)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Loader(wire.east, request.param)


class Loader:
    """Puts somebody's rules on the host under test."""

    def __init__(self, ns: Namespace, backend: str) -> None:
        self.ns = ns
        self.backend = backend

    def __call__(self, text: str, family: int = 4) -> None:
        tool = f"ip{'6' if family == 6 else ''}tables-{self.backend}-restore"
        self.ns.run(tool, "--noflush", "--wait", stdin=text)


async def install(wire: Wire) -> None:
    """What the agent on `east` does: again and again until nothing is left to do."""
    target = FirewallTarget(str(wire.east.path), DEV.__eq__)
    have = (await target.read()).objects
    things = wanted(Site(DEV, tuple(EXPOSED), target.chains))
    ops = [Op("change" if thing.key in have else "add", thing, WHY) for thing in things]
    assert await target.apply(ops) == [None] * len(ops)
    assert (await target.read(full=True)).objects == {thing.key: thing for thing in things}
    target.close()


def reaches(source: Namespace, address: str) -> bool:
    """One ping comes back."""
    return ", 0% packet loss" in source.run("ping", "-c1", "-W1", address, check=False)


def seen_as(source: Namespace, sink: Namespace, address: str) -> str:
    """The source address under which one datagram from `source` arrives in `sink`; empty if it doesn't."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with sink.entered():
        receiver = socket.socket(family, socket.SOCK_DGRAM)
    with source.entered():
        sender = socket.socket(family, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.settimeout(0.5)
        receiver.bind((address, PORT))
        sender.sendto(b"hello", (address, PORT))
        try:
            return str(receiver.recvfrom(100)[1][0])
        except TimeoutError:
            return ""


DOCKERS = {"docker20": DOCKER_20, "docker28": DOCKER_28}


@pytest.mark.parametrize("docker", DOCKERS.values(), ids=DOCKERS)
async def test_a_docker_host(wire: Wire, load: Loader, docker: str) -> None:
    load(docker)
    load(GREY_RULES)
    assert not reaches(wire.red, BLUE), "Docker lets nobody in: without this the test proves nothing"
    assert seen_as(wire.blue, wire.red, RED) == "192.0.2.1", "Docker masquerades"
    await install(wire)
    assert reaches(wire.red, BLUE)
    assert reaches(wire.blue, RED)
    assert seen_as(wire.blue, wire.red, RED) == BLUE
    assert seen_as(wire.red, wire.blue, BLUE) == RED
    assert not reaches(wire.red, GREY)
    assert seen_as(wire.grey, wire.red, RED) == ""
    assert "Packet filtered" in wire.grey.run("ping", "-c1", "-W1", RED, check=False)


async def test_a_new_docker_network_masquerades_first_and_is_mended(wire: Wire, load: Loader) -> None:
    load(DOCKER_20)
    await install(wire)
    load("*nat\n-I POSTROUTING 1 -s 172.18.0.0/15 ! -o br-new -j MASQUERADE\nCOMMIT\n")
    assert seen_as(wire.blue, wire.red, RED) == "192.0.2.1"
    await install(wire)
    assert seen_as(wire.blue, wire.red, RED) == BLUE


@pytest.mark.parametrize("text", [UFW, FIREWALLD], ids=["ufw", "firewalld"])
async def test_a_firewall_that_denies_by_default(wire: Wire, load: Loader, text: str) -> None:
    load(text)
    assert seen_as(wire.red, wire.blue, BLUE) == ""
    await install(wire)
    assert seen_as(wire.red, wire.blue, BLUE) == RED
    assert seen_as(wire.red, wire.grey, GREY) == ""
    load("*filter\n-I FORWARD 1 -s 172.20.0.0/16 -j DROP\nCOMMIT\n")
    await install(wire)
    assert seen_as(wire.red, wire.blue, BLUE) == "", "what the administrator forbids stays forbidden"


async def test_a_private_network_stays_private_where_everything_is_forwarded(wire: Wire, load: Loader) -> None:
    load(NO_WAY_IN)
    assert seen_as(wire.red, wire.grey, GREY) == RED
    assert seen_as(wire.red, wire.grey, "fd19::2") == "fd20::2"
    await install(wire)
    assert seen_as(wire.red, wire.grey, GREY) == ""
    assert seen_as(wire.red, wire.grey, "fd19::2") == ""
    assert seen_as(wire.red, wire.blue, BLUE) == RED
    assert seen_as(wire.red, wire.blue, "fd18::2") == "fd20::2"
    assert seen_as(wire.blue, wire.grey, GREY) == BLUE, "what does not cross the overlay is not our business"


async def test_ipv6_is_not_masqueraded_either(wire: Wire, load: Loader) -> None:
    load("*nat\n-A POSTROUTING -s fd18::/64 ! -o br-blue -j MASQUERADE\nCOMMIT\n", 6)
    assert seen_as(wire.blue, wire.red, "fd20::2") == "fd00::1"
    await install(wire)
    assert seen_as(wire.blue, wire.red, "fd20::2") == "fd18::2"


async def test_an_administrators_drop_in_docker_user_wins(wire: Wire, load: Loader) -> None:
    load(DOCKER_20)
    load("*filter\n-I DOCKER-USER -s 172.20.0.0/16 -j DROP\nCOMMIT\n")
    await install(wire)
    assert seen_as(wire.red, wire.blue, BLUE) == ""


async def test_others_use_the_overlay_by_an_administrators_leave(wire: Wire, load: Loader) -> None:
    """The example of docs/firewall.md, with the network that isn't exposed in the place of VPN clients."""
    load(DOCKER_28)
    await install(wire)
    load(
        f"*filter\n-I DOCKER-USER -i br-grey -o {DEV} -j ACCEPT\n-I DOCKER-USER -i {DEV} -o br-grey -j ACCEPT\nCOMMIT\n"
    )
    load(f"*nat\n-I POSTROUTING -s 172.19.0.0/16 -o {DEV} -j SNAT --to-source 172.18.0.1\nCOMMIT\n")
    await install(wire)
    assert seen_as(wire.grey, wire.red, RED) == "172.18.0.1"
    assert reaches(wire.grey, RED)
    assert seen_as(wire.blue, wire.red, RED) == BLUE


async def test_our_chain_serves_while_docker_user_is_cut_off(wire: Wire, load: Loader) -> None:
    """Engine 20.10 takes the jump to DOCKER-USER out and in again each time that it makes a network."""
    load(DOCKER_20)
    await install(wire)
    load("*filter\n-D FORWARD -j DOCKER-USER\nCOMMIT\n")
    assert seen_as(wire.red, wire.blue, BLUE) == RED


async def test_segment_sizes_are_clamped_to_the_path(wire: Wire, load: Loader) -> None:
    """The container believes in 1500 octets, the overlay takes 1400."""
    load(DOCKER_20)
    for host in (wire.east, wire.west):
        host.ip(f"link set {DEV} mtu 1400")
    await install(wire)
    assert segment_size(wire.blue, wire.red, RED) == 1400 - 40 - TIMESTAMPS
    assert segment_size(wire.red, wire.blue, BLUE) == 1400 - 40 - TIMESTAMPS


TIMESTAMPS = 12
"""Octets of the TCP option that every segment carries (RFC 7323)."""


def segment_size(source: Namespace, sink: Namespace, address: str) -> int:
    """TCP_MAXSEG of a connection, as the side that was called has it."""
    with sink.entered():
        listener = socket.create_server((address, PORT))
    with source.entered():
        caller = socket.socket()
    with listener, caller:
        listener.settimeout(5)
        calling = threading.Thread(target=caller.connect, args=((address, PORT),))
        calling.start()
        accepted, _ = listener.accept()
        calling.join()
        with accepted:
            return accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
