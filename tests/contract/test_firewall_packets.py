"""What the rules do to packets: two hosts, a cable that is named as the VXLAN device would be, containers behind them.
The hosts are those of `support/firewall_wire.py`; `grey` isn't exposed.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.support.firewall_wire import BLUE, DEV, GREY, PORT, RED, Loader, Wire, lost, reaches, seen_as, settle, wired
from tests.support.namespace import Namespace
from tests.support.needs import needs_root
from tests.support.rulesets import DOCKER_20, DOCKER_28, FIREWALLD, UFW
from weft.core.firewall import Site, wanted
from weft.targets.firewall import FirewallTarget

EXPOSED = [ip_network("172.18.0.0/16"), ip_network("fd18::/64")]
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


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as made:
        yield made


@pytest.fixture(params=["nft", "legacy"])
def load(request: pytest.FixtureRequest, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """`east` is a host whose plain `iptables` is this implementation."""
    loader = Loader(wire.east, request.param, tmp_path)
    if not loader.works:
        pytest.skip(f"iptables-{request.param} does not work here")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return loader


async def install(wire: Wire) -> None:
    """What the agent on `east` does: again and again until nothing is left to do."""
    target = FirewallTarget(str(wire.east.path), DEV.__eq__)
    await target.read()
    await settle(target, wanted(Site(DEV, tuple(EXPOSED), target.chains, target.refused)))
    target.close()


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
    assert lost(wire.grey, wire.red, RED)
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
    assert lost(wire.red, wire.blue, BLUE)
    await install(wire)
    assert seen_as(wire.red, wire.blue, BLUE) == RED
    assert lost(wire.red, wire.grey, GREY)
    load("*filter\n-I FORWARD 1 -s 172.20.0.0/16 -j DROP\nCOMMIT\n")
    await install(wire)
    assert lost(wire.red, wire.blue, BLUE), "what the administrator forbids stays forbidden"


async def test_a_private_network_stays_private_where_everything_is_forwarded(wire: Wire, load: Loader) -> None:
    load(NO_WAY_IN)
    assert seen_as(wire.red, wire.grey, GREY) == RED
    assert seen_as(wire.red, wire.grey, "fd19::2") == "fd20::2"
    await install(wire)
    assert lost(wire.red, wire.grey, GREY)
    assert lost(wire.red, wire.grey, "fd19::2")
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
    assert lost(wire.red, wire.blue, BLUE)


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
