"""The host facts, in namespaces: which interfaces are uplinks, and that a change is told."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address, ip_interface

import pytest

from tests.support.namespace import Namespace, namespace
from tests.support.needs import needs_root
from weft.errors import KernelError
from weft.model import DefaultRoute, Host, Uplink
from weft.targets.kernel.codec import u32
from weft.targets.kernel.constants import AF_INET, RTA_TABLE, RTM_GETROUTE
from weft.targets.kernel.hops import RTMSG
from weft.targets.kernel.host import PAUSE, HostFacts, read_host
from weft.targets.kernel.socket import NetlinkSocket

pytestmark = needs_root
WAIT = 60.0


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace() as ns:
        ns.ip("link add up0 mtu 1400 type veth peer name far")
        ns.ip("link set up0 up")
        ns.ip("link set far up")
        ns.ip("address add 192.0.2.1/24 dev up0")
        yield ns


def read(ns: Namespace) -> Host:
    return asyncio.run(read_host(str(ns.path)))


def uplink(ns: Namespace, name: str = "up0") -> Uplink | None:
    return next((u for u in read(ns).uplinks if u.name == name), None)


def test_an_interface_with_its_mtu_and_addresses(ns: Namespace) -> None:
    ns.ip("address add 192.0.2.9/24 dev up0")
    ns.ip("address add 2001:db8::1/64 dev up0 nodad")
    addresses = tuple(ip_interface(a) for a in ("192.0.2.1/24", "192.0.2.9/24", "2001:db8::1/64"))
    assert read(ns) == Host((Uplink("up0", 1400, addresses, accepts_ra=True),), nexthop_objects=True)


def test_a_namespace_as_it_is_born() -> None:
    """Its main routing table does not exist yet, and the kernel says so at the end of the dump."""
    with namespace("born") as bare:
        bare.ip("link set lo down")
        bare.ip("route flush table main")
        with contextlib.closing(NetlinkSocket(str(bare.path), 1 << 16)) as socket:
            body = RTMSG.pack(AF_INET, 0, 0, 0, 0, 0, 0, 0, 0) + u32(RTA_TABLE, 4711)
            with pytest.raises(KernelError, match=r"ENOENT.*FIB table does not exist"):
                list(socket.buffers(RTM_GETROUTE, body))
        assert read(bare) == Host()


def test_default_routes(ns: Namespace) -> None:
    ns.ip("route add default via 192.0.2.254")
    ns.ip("address add 2001:db8::1/64 dev up0 nodad")
    ns.ip("route add default via 2001:db8::ff")
    ns.ip("route add unreachable default metric 4000")
    ns.ip("route add default dev far table 100")
    found = uplink(ns)
    assert found is not None
    assert found.defaults == (DefaultRoute(4), DefaultRoute(6, 1024))
    assert uplink(ns, "far") is None


def test_default_routes_with_metrics_and_a_preferred_source(ns: Namespace) -> None:
    ns.ip("route add default via 192.0.2.254 metric 200")
    ns.ip("address add 192.0.2.9/24 dev up0")
    ns.ip("route add default via 192.0.2.253 metric 100 src 192.0.2.9")
    found = uplink(ns)
    assert found is not None
    assert found.defaults == (DefaultRoute(4, 100, ip_address("192.0.2.9")), DefaultRoute(4, 200))


def test_addresses_are_in_the_kernels_order(ns: Namespace) -> None:
    """A keepalived address with a lower number does not come before the one that was there first."""
    ns.ip("address flush dev up0")
    for added in ("192.0.2.20/24", "192.0.2.30/24", "192.0.2.5/32", "198.51.100.1/24"):
        ns.ip(f"address add {added} dev up0")
    found = uplink(ns)
    assert found is not None
    assert [str(a) for a in found.addresses] == ["192.0.2.20/24", "192.0.2.5/32", "198.51.100.1/24", "192.0.2.30/24"]


def test_a_default_route_over_several_paths(ns: Namespace) -> None:
    ns.ip("address add 198.51.100.1/24 dev far")
    ns.ip("route add default nexthop via 192.0.2.254 dev up0 nexthop via 198.51.100.254 dev far")
    assert {u.name for u in read(ns).uplinks if u.defaults == (DefaultRoute(4),)} == {"up0", "far"}


def test_a_bridge_is_one_and_its_ports_are_not(ns: Namespace) -> None:
    ns.ip("link add br0 type bridge")
    ns.ip("link set up0 master br0")
    ns.ip("address add 172.18.0.1/16 dev br0")
    assert [u.name for u in read(ns).uplinks] == ["br0"]


def test_our_own_devices_are_none(ns: Namespace) -> None:
    ns.ip("link add vxlan100 type vxlan id 100 local 192.0.2.1 dstport 4789")
    ns.ip("link set vxlan100 alias weft:agent:me up")
    ns.ip("address add 10.0.0.1/32 dev vxlan100")
    assert [u.name for u in read(ns).uplinks] == ["up0"]


def test_ipv6_addresses_that_do_not_last_are_left_out(ns: Namespace) -> None:
    ns.ip("address add 2001:db8::5/64 dev up0 nodad preferred_lft 0")
    found = uplink(ns)
    assert found is not None
    assert found.addresses == (ip_interface("192.0.2.1/24"),)


@pytest.mark.parametrize(("accept", "forwarding", "takes"), [(0, 0, False), (1, 0, True), (1, 1, False), (2, 1, True)])
def test_router_advertisements(ns: Namespace, accept: int, forwarding: int, takes: bool) -> None:
    ns.run("sysctl", "-qw", f"net.ipv6.conf.up0.forwarding={forwarding}")
    ns.run("sysctl", "-qw", f"net.ipv6.conf.up0.accept_ra={accept}")
    found = uplink(ns)
    assert found is not None
    assert found.accepts_ra is takes


def test_a_host_without_ipv6(ns: Namespace) -> None:
    ns.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    found = read(ns)
    assert found.uplinks == (Uplink("up0", 1400, (ip_interface("192.0.2.1/24"),), accepts_ra=True),)
    assert not found.ipv6


def test_whether_a_new_device_would_have_ipv6(ns: Namespace) -> None:
    assert read(ns).ipv6
    ns.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    ns.ip("link add new0 type bridge")
    assert ns.run("sysctl", "-n", "net.ipv6.conf.new0.disable_ipv6").strip() == "1"
    assert not read(ns).ipv6


SEALED = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "
LOOK = """
import asyncio
from weft.targets.kernel.host import read_host
host = asyncio.run(read_host())
print(host.sysctls, host.strict)
"""


@pytest.mark.parametrize(
    ("every", "default", "of_device", "strict"),
    [(0, 0, None, False), (0, 1, None, True), (1, 2, None, False), (1, 0, 2, False), (0, 0, 1, True)],
)
def test_whether_settings_can_be_written(
    ns: Namespace, every: int, default: int, of_device: int | None, strict: bool
) -> None:
    """Docker mounts /proc/sys read-only. Of two rp_filters, the greater holds: 1 is strict, 2 isn't."""
    ns.run("sysctl", "-qw", f"net.ipv4.conf.all.rp_filter={every}", f"net.ipv4.conf.default.rp_filter={default}")
    if of_device is not None:
        ns.ip("link add vxlan7600 type vxlan id 7600 dstport 8472")
        ns.ip("link set vxlan7600 alias weft:registrar:a")
        ns.run("sysctl", "-qw", f"net.ipv4.conf.vxlan7600.rp_filter={of_device}")
    assert (read(ns).sysctls, read(ns).strict) == (True, False), "it is set then"
    look = shlex.join((sys.executable, "-c", LOOK))
    assert ns.run("unshare", "--mount", "sh", "-c", SEALED + look).split() == ["False", str(strict)]
    as_weft = ("setpriv", "--reuid=7600", "--regid=7600", "--clear-groups")
    able = (*as_weft, "--inh-caps=+net_admin", "--ambient-caps=+net_admin", sys.executable, "-c", LOOK)
    assert ns.run(*able).split() == ["True", "False"], "with NET_ADMIN alone, as in our image"


async def test_the_event_loop_runs_while_a_large_table_is_read(ns: Namespace) -> None:
    """And routes that lead somewhere in particular are passed over."""
    lines = [f"route add 10.{n // 256}.{n % 256}.0/24 via 192.0.2.254" for n in range(20_000)]
    ns.ip("route add default via 192.0.2.254 metric 7")
    ns.run("ip", "-batch", "-", stdin="\n".join(lines))
    reading = asyncio.ensure_future(read_host(str(ns.path)))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    assert (await reading).uplinks[0].defaults == (DefaultRoute(4, 7),)
    assert turns > 20_000 // 1000


async def test_a_flood_of_changes_makes_few_readings(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    readings: list[Host] = []

    async def counted(netns: str | None) -> Host:
        readings.append(await read_host(netns))
        return readings[-1]

    monkeypatch.setattr("weft.targets.kernel.host.read_host", counted)
    hosts = HostFacts(str(ns.path)).hosts()
    await anext(hosts)
    following_mtu = asyncio.ensure_future(until_mtu(hosts, 1300))
    started = asyncio.get_running_loop().time()
    for mtu in range(1340, 1299, -1):
        await asyncio.to_thread(ns.ip, f"link set up0 mtu {mtu}")
    await asyncio.wait_for(following_mtu, WAIT)
    assert len(readings) <= 3 + (asyncio.get_running_loop().time() - started) / PAUSE
    await hosts.aclose()


async def until_mtu(hosts: AsyncIterator[Host], mtu: int) -> None:
    async for host in hosts:
        if host.uplinks[0].mtu == mtu:
            return


async def following(hosts: AsyncIterator[Host], done: str) -> Host:
    """The first host that has `done`, an address, somewhere."""
    async for host in hosts:
        if any(str(a) == done for u in host.uplinks for a in u.addresses):
            return host
    raise AssertionError("the facts ended")


async def test_changes_are_told(ns: Namespace) -> None:
    hosts = HostFacts(str(ns.path)).hosts()
    assert await anext(hosts) == await read_host(str(ns.path))
    ns.ip("address add 192.0.2.7/24 dev up0")
    await asyncio.wait_for(following(hosts, "192.0.2.7/24"), WAIT)
    ns.ip("route add default via 192.0.2.254")
    told = await asyncio.wait_for(anext(hosts), WAIT)
    assert told.uplinks[0].defaults == (DefaultRoute(4),)
    ns.ip("link set up0 mtu 1300")
    told = await asyncio.wait_for(anext(hosts), WAIT)
    assert told.uplinks[0].mtu == 1300
    ns.ip("link add br0 type bridge")
    ns.ip("address add 172.18.0.1/16 dev br0")
    told = await asyncio.wait_for(following(hosts, "172.18.0.1/16"), WAIT)
    assert [u.name for u in told.uplinks] == ["br0", "up0"]
    await hosts.aclose()
