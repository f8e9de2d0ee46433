"""A tunnel whose own packets go to a gateway in place of their endpoint (HOST_GATEWAY_MODE=fdb beside flannel): on the
real kernel, with a real VXLAN device that is not ours.

    east 192.0.2.1 ── .2 gateway .2 ── 198.51.100.3 far

The gateway hands UDP 8472 on to `far`, and what comes back to `east`: it translates both ways, as the guide's does.
East has a route to far's address, but no packet may go by it: the gateway drops what it doesn't translate.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.firewall_wire import Loader, settle
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root
from weft.core.firewall import Diversion, Site, wanted_for
from weft.core.ruleset import SHARED
from weft.targets.firewall import FirewallTarget

pytestmark = needs_root
PORT = 8472


@dataclass(frozen=True)
class Underlay:
    """Addresses of one IP version."""

    tool: str
    east: str
    gateway: str
    outside: str
    far: str
    length: int


V4 = Underlay("iptables", "192.0.2.1", "192.0.2.2", "198.51.100.2", "198.51.100.3", 24)
V6 = Underlay("ip6tables", "fd00:a::1", "fd00:a::2", "fd00:b::2", "fd00:b::3", 64)


@dataclass(frozen=True)
class Hosts:
    east: Namespace
    gateway: Namespace
    far: Namespace
    under: Underlay

    def tunnel(self, host: Namespace, number: int, local: str, remote: str) -> None:
        """flannel's device: a permanent neighbour and an FDB entry that names the endpoint."""
        other = 3 - number
        host.ip(f"link add flannel.1 type vxlan id 1 dstport {PORT} local {local} nolearning")
        host.ip(f"link set flannel.1 address 02:00:00:00:00:0{number} mtu 1400 up")
        host.ip(f"address add 10.5.{number}0.0/32 dev flannel.1")
        host.ip(f"route add 10.5.{other}0.0/32 dev flannel.1 src 10.5.{number}0.0")
        host.ip(f"neigh add 10.5.{other}0.0 lladdr 02:00:00:00:00:0{other} dev flannel.1 nud permanent")
        host.bridge(f"fdb add 02:00:00:00:00:0{other} dev flannel.1 dst {remote}")


@pytest.fixture(params=[V4, V6], ids=["v4", "v6"])
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    with contextlib.ExitStack() as stack:
        east, gateway, far = (stack.enter_context(namespace(name)) for name in ("east", "gate", "far"))
        under: Underlay = request.param
        made = Hosts(east, gateway, far, under)
        for ns in (east, gateway, far):
            ns.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        gateway.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        veth(east, "eth0", gateway, "eth0")
        veth(far, "eth0", gateway, "eth1")
        for ns, dev, address in (
            (east, "eth0", under.east),
            (gateway, "eth0", under.gateway),
            (gateway, "eth1", under.outside),
            (far, "eth0", under.far),
        ):
            ns.ip(f"address add {address}/{under.length} dev {dev}")
        six = "-6 " if ":" in under.far else ""
        east.ip(f"{six}route add default via {under.gateway}")
        made.tunnel(east, 1, under.east, under.far)
        made.tunnel(far, 2, under.far, under.outside)
        tunnels = f"-p udp --dport {PORT} -j DNAT --to-destination"
        for rule in (
            f"-t nat -A PREROUTING -i eth0 -d {under.gateway} {tunnels} {under.far}",
            f"-t nat -A PREROUTING -i eth1 -d {under.outside} {tunnels} {under.east}",
            "-A FORWARD -m conntrack ! --ctstate DNAT -j DROP",
        ):
            gateway.run(under.tool, "--wait", *rule.split())
        yield made


@pytest.fixture(params=["nft", "legacy"])
def tables(request: pytest.FixtureRequest, hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    loader = Loader(hosts.east, request.param, tmp_path)
    if not loader.works:
        pytest.skip(f"iptables-{request.param} does not work here")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return loader


@pytest_asyncio.fixture
async def target(hosts: Hosts, tables: Loader) -> AsyncIterator[FirewallTarget]:
    made = FirewallTarget(str(hosts.east.path), lambda label: label.startswith(SHARED))
    yield made
    made.close()


def talks(hosts: Hosts) -> bool:
    return ", 0% packet loss" in hosts.east.run("ping", "-c1", "-W1", "10.5.20.0", check=False)


async def divert(hosts: Hosts, target: FirewallTarget, gateway: str) -> None:
    await target.read()
    site = Site("flannel.1", chains=target.chains, label="reg-flannel.1")
    asked = [Diversion(ip_address(hosts.under.far), ip_address(gateway), PORT)] if gateway else []
    await settle(target, wanted_for(asked, site))


async def test_the_tunnels_own_packets_go_to_the_gateway(hosts: Hosts, tables: Loader, target: FirewallTarget) -> None:
    """Although the flow was there before, to the endpoint: and so it is when it ends, and with a wrong gateway."""
    family = 6 if ":" in hosts.under.far else 4
    # Somebody tracks connections: the flow to the endpoint is known, and each packet keeps it alive.
    tables.iptables("-A OUTPUT -m conntrack --ctstate INVALID -j DROP", family)
    assert not talks(hosts), "the gateway hands on what it translates alone"
    await divert(hosts, target, hosts.under.gateway)
    assert talks(hosts)
    await divert(hosts, target, hosts.under.east[:-1] + "9")
    assert not talks(hosts), "the flow to the former gateway is not gone on with"
    await divert(hosts, target, hosts.under.gateway)
    assert talks(hosts)
    await divert(hosts, target, "")
    assert not talks(hosts)
    assert "WEFT" not in tables.save(4) + tables.save(6)
