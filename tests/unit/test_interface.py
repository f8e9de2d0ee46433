"""Which interface flannel's tunnels use."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from weft.core.interface import Choice, External, pick
from weft.model import DefaultRoute, Host, Uplink

LO = Uplink("lo", 65536, (ip_interface("127.0.0.1/8"), ip_interface("198.51.100.9/32")))
ETH0 = Uplink(
    "eth0",
    1500,
    (ip_interface("169.254.3.3/16"), ip_interface("192.0.2.1/24"), ip_interface("192.0.2.77/24")),
    (DefaultRoute(4, 100),),
)
ETH1 = Uplink("eth1", 1400, (ip_interface("203.0.113.1/24"), ip_interface("fd00:99::1/64")), (DefaultRoute(6, 5),))
HOST = Host((LO, ETH0, ETH1))


def chosen(choice: Choice, host: Host = HOST) -> str:
    return pick(host, choice).name


def test_the_default_routes_interface_unless_told_otherwise() -> None:
    assert pick(HOST, Choice()) == External("eth0", 1500, ip_address("192.0.2.1"), None, ip_address("192.0.2.1"))  # type: ignore[arg-type]
    assert chosen(Choice(versions=(6,))) == "eth1"


def test_of_two_default_routes_the_lower_metric_and_ipv4_before_ipv6() -> None:
    second = Uplink("wg0", 1420, (ip_interface("10.9.0.1/24"), ip_interface("fd00:9::1/64")), (DefaultRoute(4, 50),))
    assert chosen(Choice(), Host((ETH0, second))) == "wg0"
    assert chosen(Choice(versions=(4, 6)), Host((ETH1, second))) == "wg0"


def test_the_source_that_the_default_route_prefers() -> None:
    uplink = Uplink("eth0", 1500, ETH0.addresses, (DefaultRoute(4, 0, ip_address("192.0.2.77")),))
    assert pick(Host((uplink,)), Choice()).ip == ip_address("192.0.2.77")
    elsewhere = Uplink("eth0", 1500, ETH0.addresses, (DefaultRoute(4, 0, ip_address("198.51.100.9")),))
    assert pick(Host((uplink, elsewhere)), Choice(names=("eth0",))).ip == ip_address("192.0.2.77")
    assert pick(Host((elsewhere,)), Choice()).ip == ip_address("192.0.2.1")


def test_a_name_or_an_address_the_first_that_is_there() -> None:
    assert chosen(Choice(names=("nope", "eth1"))) == "eth1"
    assert pick(HOST, Choice(names=("192.0.2.77",))).ip == ip_address("192.0.2.77")


def test_an_expression_finds_addresses_before_names() -> None:
    assert chosen(Choice(patterns=(r"^203\.",))) == "eth1"
    assert chosen(Choice(patterns=("nope", "th0$"))) == "eth0"
    assert pick(HOST, Choice(patterns=("77$",))).ip == ip_address("192.0.2.77")


def test_the_one_by_which_an_address_is_reached() -> None:
    assert chosen(Choice(reached_by="eth1")) == "eth1"
    with pytest.raises(ValueError, match="no way to the address of -iface-can-reach"):
        pick(HOST, Choice(reached_by=""))


def test_a_running_overlay_stays_where_it_is_for_as_long_as_its_address_is_there() -> None:
    current = pick(Host((ETH0,)), Choice())
    vpn = Uplink("tun0", 1400, (ip_interface("10.8.0.2/24"),), (DefaultRoute(4, 1),))
    assert pick(Host((ETH0, vpn)), Choice()).name == "tun0"
    assert pick(Host((ETH0, vpn)), Choice(), current).name == "eth0"
    assert pick(Host((ETH0, vpn)), Choice(names=("tun0",)), current).name == "tun0", "as named"
    smaller = Uplink("eth0", 1400, ETH0.addresses, ETH0.defaults)
    assert pick(Host((smaller, vpn)), Choice(), current).mtu == 1400
    renumbered = Uplink("eth0", 1500, (ip_interface("192.0.2.9/24"),), ETH0.defaults)
    assert pick(Host((renumbered, vpn)), Choice(), current).name == "tun0"
    assert pick(Host((vpn,)), Choice(), current).name == "tun0"


def test_names_go_before_can_reach() -> None:
    assert chosen(Choice(names=("eth0",), reached_by="eth1")) == "eth0"


def test_the_public_address_is_as_set() -> None:
    found = pick(HOST, Choice(names=("eth1",), versions=(4, 6), public_ip=ip_address("198.51.100.7")))  # type: ignore[arg-type]
    assert (found.ip, found.public_ip) == (ip_address("203.0.113.1"), ip_address("198.51.100.7"))
    assert (found.ip6, found.public_ip6) == (ip_address("fd00:99::1"), ip_address("fd00:99::1"))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="interface eth0 has no IPv6 address; the network config asks for one"):
        pick(HOST, Choice(names=("eth0",), versions=(4, 6)))
    with pytest.raises(ValueError, match=r"no interface fits -iface=a, -iface-regex=b; there are: lo 127\.0\.0\.1"):
        pick(HOST, Choice(names=("a",), patterns=("b",)))
    with pytest.raises(ValueError, match=r"could be chosen; set -iface \(there are: none\)"):
        pick(Host(), Choice())
