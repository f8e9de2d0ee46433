"""describe: which uplink, endpoint, MTU and overlay address this host takes, and what it says if there is none."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tests.build import network, uplink
from weft.agent.stacks import NAMES
from weft.agent.world import World
from weft.core.identity import Identity, describe
from weft.model import DefaultRoute, Host, Known, Profile, Uplink

ME = Identity("a", 4096, 4789, "1.0")
LAN = uplink("eth0", "192.0.2.1/24", "192.0.2.7/24", "fe80::1/64", "2001:db8::1/64", default=(4, 6))
WG = uplink("wg0", "172.24.90.1/24", mtu=1420, default=())
BRIDGE = uplink("br-home", "10.1.0.1/24", "fd00:1::1/64", default=())
HOST = Host((BRIDGE, LAN, WG))


def with_(**changes: object) -> Identity:
    return Identity(**{**{f: getattr(ME, f) for f in ME.__slots__}, **changes})


def test_the_default_routes_interface_is_the_uplink() -> None:
    here = describe(ME, HOST, [])
    assert here.node is not None
    assert (here.uplink, here.underlay, here.node.mtu) == ("eth0", 4, 1500)
    assert here.node.endpoints == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))


def test_a_named_interface_wins_and_brings_its_mtu() -> None:
    here = describe(with_(interface="wg0"), HOST, [])
    assert here.node is not None
    assert (here.uplink, here.node.mtu, here.node.endpoints) == ("wg0", 1420, (ip_address("172.24.90.1"),))


def test_a_named_endpoint_chooses_the_interface_that_has_it() -> None:
    here = describe(with_(endpoints=(ip_address("172.24.90.1"),)), HOST, [])
    assert here.node is not None
    assert (here.uplink, here.node.mtu) == ("wg0", 1420)
    nat = describe(with_(endpoints=(ip_address("203.0.113.9"),), interface="eth0"), HOST, [])
    assert nat.node is not None
    assert nat.node.endpoints == (ip_address("203.0.113.9"),)
    floating = describe(with_(endpoints=(ip_address("203.0.113.9"),)), HOST, [])
    assert floating.node is not None
    assert (floating.uplink, floating.node.mtu) == ("", 1500)


def test_ipv6_only_and_asked_for_ipv6() -> None:
    only = Host((uplink("eth0", "2001:db8::1/64", default=(6,)),))
    assert describe(ME, only, []).underlay == 6
    assert describe(with_(underlay=6), HOST, []).underlay == 6
    assert describe(with_(mtu=9000), HOST, []).node.mtu == 9000  # type: ignore[union-attr]


ROUTES = (DefaultRoute(4, 100, ip_address("192.0.2.7")), DefaultRoute(6, 1024))


def endpoints(*uplinks: Uplink, current: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """The uplink and the endpoints that a host with these takes."""
    here = describe(ME, Host(uplinks), [], tuple(ip_address(a) for a in current))
    assert here.node is not None
    return here.uplink, [str(a) for a in here.node.endpoints]


def test_of_several_default_routes_the_one_with_the_lowest_metric_is_taken() -> None:
    first = uplink("eth0", "198.51.100.1/24", default=(DefaultRoute(4, 600), DefaultRoute(6, 100)))
    second = uplink("eth1", "192.0.2.1/24", default=(DefaultRoute(4, 700), DefaultRoute(4, 100)))
    assert endpoints(first, second) == ("eth1", ["192.0.2.1"])


def test_the_endpoint_is_the_source_that_the_default_route_prefers() -> None:
    lan = uplink("eth0", "192.0.2.1/24", "192.0.2.7/24", "2001:db8::1/64", default=ROUTES)
    assert endpoints(lan) == ("eth0", ["192.0.2.7", "2001:db8::1"])
    elsewhere = uplink("eth0", "192.0.2.1/24", default=ROUTES)
    assert endpoints(elsewhere) == ("eth0", ["192.0.2.1"])
    routed_to = uplink("lo", "192.0.2.7/32", default=())
    assert endpoints(elsewhere, routed_to) == ("eth0", ["192.0.2.7"])


def test_an_address_without_a_subnet_is_an_endpoint_only_where_there_is_no_other() -> None:
    virtual = uplink("eth1", "192.0.2.5/32", "192.0.2.20/24", "2001:db8::5/128", "2001:db8::20/64")
    assert endpoints(virtual) == ("eth1", ["192.0.2.20", "2001:db8::20"])
    assert endpoints(uplink("eth1", "192.0.2.5/32", "192.0.2.4/32")) == ("eth1", ["192.0.2.5"])


def test_the_endpoint_stays_while_the_uplink_has_it() -> None:
    both = uplink("eth1", "192.0.2.5/24", "192.0.2.20/24", "2001:db8::1/64", default=ROUTES)
    assert endpoints(both, current=("192.0.2.20",)) == ("eth1", ["192.0.2.20", "2001:db8::1"])
    assert endpoints(both, current=("192.0.2.9",)) == ("eth1", ["192.0.2.5", "2001:db8::1"])
    other = uplink("eth2", "198.51.100.1/24")
    assert endpoints(other, current=("192.0.2.20",)) == ("eth2", ["198.51.100.1"])


def test_the_world_keeps_the_endpoint_that_it_told_first() -> None:
    world = World(ME, Profile(), (), engine=Known((), complete=True))
    for addresses in (["192.0.2.20/24"], ["192.0.2.5/24", "192.0.2.20/24"]):
        world.host = Host((uplink("eth1", *addresses),))
        here = world.me()
        assert here is not None
        assert here.node is not None
        assert here.node.endpoints == (ip_address("192.0.2.20"),)


def test_an_ipv4_address_that_is_gone_for_a_moment_does_not_move_the_tunnels_to_ipv6() -> None:
    had = (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    without = Host((BRIDGE, uplink("eth0", "2001:db8::1/64", default=(6,))))
    here = describe(ME, without, [], had)
    assert here.node is None
    assert here.problem is not None
    assert here.problem.message.startswith("this host has lost its address 192.0.2.1, where its tunnels end")
    for identity, current in ((with_(underlay=6), had), (ME, had[1:]), (ME, ())):
        found = describe(identity, without, [], current)
        assert found.node is not None
        assert (found.underlay, found.node.endpoints) == (6, had[1:])
    renewed = describe(ME, Host((BRIDGE, uplink("eth0", "192.0.2.9/24"))), [], had)
    assert renewed.node is not None
    assert renewed.node.endpoints == (ip_address("192.0.2.9"),)


def test_a_default_route_that_goes_takes_no_uplink_along() -> None:
    had = (ip_address("192.0.2.1"),)
    without = Host((BRIDGE, uplink("eth0", "192.0.2.1/24", default=()), WG))
    here = describe(ME, without, [], had)
    assert here.node is not None
    assert (here.uplink, here.node.endpoints) == ("eth0", had)
    assert describe(ME, without, []).node is None, "nothing was known before"
    gone = describe(ME, Host((BRIDGE, WG)), [], had)
    assert gone.node is None
    assert gone.problem is not None
    assert "no default route" in gone.problem.message


def test_the_overlay_address_is_this_hosts_own_in_its_oldest_exposed_network() -> None:
    networks = [
        network("young", "10.5.0.0/24", since=9.0),
        network("home", "10.1.0.0/24", "fd00:1::/64", since=5.0),
        network("hidden", "10.1.0.0/16", since=1.0, exposed=False),
        network("elsewhere", "10.6.0.0/24", since=0.0),
    ]
    here = describe(ME, HOST, networks)
    assert here.node is not None
    assert here.node.overlay == (ip_address("10.1.0.1"), ip_address("fd00:1::1"))
    assert [n.name for n in here.node.networks] == ["young", "home", "elsewhere"]
    assert describe(ME, Host((LAN,)), networks).node.overlay == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("identity", "host", "said"),
    [
        (
            ME,
            Host(),
            "no default route, so no uplink could be chosen; set `interface` or `endpoint` (interfaces: none)",
        ),
        (ME, Host((WG,)), "no default route, so no uplink could be chosen; set `interface` or `endpoint`"),
        (with_(interface="eth9"), HOST, "there is no interface eth9 (setting `interface`); found: br-home, eth0, wg0"),
        (
            with_(interface="wg0", underlay=6),
            HOST,
            "no IPv6 endpoint on the chosen uplink; set `endpoint` or `underlay`",
        ),
        (with_(names=NAMES), Host(), "no default route, so no uplink could be chosen; set INTERFACE or HOST_IP (int"),
        (with_(names=NAMES, interface="eth9"), HOST, "there is no interface eth9 (setting INTERFACE); found: br-home"),
        (
            with_(names=NAMES, interface="eth0"),
            Host((Uplink("eth0", 1500),)),
            "no IPv6 endpoint on the chosen uplink; set HOST_IP",
        ),
        (ME, Host((Uplink("eth0", 1500, (), (DefaultRoute(4),)),)), "no default route"),
    ],
)
def test_no_uplink_is_a_problem_that_says_what_to_set(identity: Identity, host: Host, said: str) -> None:
    here = describe(identity, host, [])
    assert here.node is None
    assert here.problem is not None
    assert here.problem.message.startswith(said)
