"""WireGuard's part of a plan: the device, a peer and its routes, as flannel lays them out."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import node, view
from weft.backends.tunnel import Tunnel
from weft.backends.wireguard import device, in_order, is_key, reach
from weft.model import Node, Profile, WireguardEnd
from weft.objects import Object, Route
from weft.objects.wireguard import Secret, WireguardDevice, WireguardPeer

Mode = Literal["separate", "auto", "ipv4", "ipv6"]
MINE = b64encode(b"m" * 32).decode()
THEIRS = b64encode(b"t" * 32).decode()
PROFILE = Profile(role="flanneld", mark="net", device="flannel-wg", metric=0, gateway="overlay")
VIEW = view(profile=PROFILE)
TUNNEL = Tunnel.of(VIEW)
END = WireguardEnd(MINE)


def peer(endpoint: str = "192.0.2.2", *subnets: str, port: int = 51820, key: str = THEIRS, mtu: int = 0) -> Node:
    return replace(node("b", endpoint, *(subnets or ("10.5.20.0/24",)), mtu=mtu), port=port, key=key)


def things(of: Node, end: WireguardEnd = END, tunnel: Tunnel = TUNNEL) -> list[Object]:
    return [thing for thing, _ in reach(of, replace(tunnel, wireguard=end), 0)]


def the_peer(of: Node, end: WireguardEnd = END, tunnel: Tunnel = TUNNEL) -> WireguardPeer:
    (found,) = (thing for thing in things(of, end, tunnel) if isinstance(thing, WireguardPeer))
    return found


def test_the_device_has_this_hosts_own_overlay_addresses() -> None:
    me = replace(VIEW.me, overlay=(ip_address("fd00:5::"), ip_address("10.5.10.0")))
    assert device(replace(VIEW, me=me), replace(END, fwmark=7)) == WireguardDevice(
        name="flannel-wg",
        public_key=MINE,
        listen_port=51820,
        mtu=1420,
        alias="weft:flanneld:net",
        addresses=(ip_interface("10.5.10.0/32"), ip_interface("fd00:5::/128")),
        fwmark=7,
    )
    assert device(view(), END).alias == "weft:agent:a"


def test_a_peer_and_a_route_per_subnet() -> None:
    end = replace(END, psk="s", keepalive=25)
    assert things(peer("192.0.2.2", "fd00:5::/64", "10.5.20.0/24", port=4711), end) == [
        WireguardPeer(
            dev="flannel-wg",
            public_key=THEIRS,
            endpoint=(ip_address("192.0.2.2"), 4711),
            allowed_ips=(ip_network("10.5.20.0/24"), ip_network("fd00:5::/64")),
            keepalive=25,
            psk=Secret("s"),
        ),
        Route(ip_network("fd00:5::/64"), "flannel-wg"),
        Route(ip_network("10.5.20.0/24"), "flannel-wg"),
    ]


def test_every_object_names_the_peer_and_the_rule() -> None:
    whys = [why for _, why in reach(peer(), replace(TUNNEL, wireguard=END), 0)]
    assert [str(why) for why in whys] == [
        "tunnel to node b (b, told by multicast)",
        "network web of node b (b, told by multicast)",
    ]


def test_a_peer_that_told_no_port_listens_where_we_do() -> None:
    assert the_peer(peer(port=0), replace(END, port=5000)).endpoint == (ip_address("192.0.2.2"), 5000)


@pytest.mark.parametrize(
    ("mode", "underlay", "endpoints", "used"),
    [
        ("separate", 4, "192.0.2.2,2001:db8::2", "192.0.2.2"),
        ("separate", 6, "192.0.2.2,2001:db8::2", "2001:db8::2"),
        ("auto", 6, "2001:db8::2,192.0.2.2", "192.0.2.2"),
        ("auto", 4, "2001:db8::2", "2001:db8::2"),
        ("ipv4", 6, "192.0.2.2,2001:db8::2", "192.0.2.2"),
        ("ipv6", 4, "192.0.2.2,2001:db8::2", "2001:db8::2"),
    ],
)
def test_the_mode_chooses_the_endpoint(mode: Mode, underlay: int, endpoints: str, used: str) -> None:
    end = replace(END, mode=mode)
    assert the_peer(peer(endpoints), end, replace(TUNNEL, underlay=underlay)).endpoint == (ip_address(used), 51820)


def test_a_peer_that_has_no_endpoint_of_the_family_may_come_to_us() -> None:
    assert the_peer(peer("2001:db8::2"), replace(END, mode="ipv4")).endpoint is None


@pytest.mark.parametrize("key", ["", "short", "ä" * 44, b64encode(b"x" * 31).decode(), THEIRS + "\n", MINE])
def test_a_node_whose_key_is_none_or_our_own_is_no_peer(key: str) -> None:
    assert things(peer(key=key)) == []


def test_a_peer_with_a_smaller_uplink_gets_a_smaller_route() -> None:
    routes = [thing for thing in things(peer(mtu=1400)) if isinstance(thing, Route)]
    assert [route.mtu for route in routes] == [1320]
    assert [thing.mtu for thing in things(peer(mtu=9000)) if isinstance(thing, Route)] == [0]


def test_routes_prefer_the_source_that_the_tunnel_names() -> None:
    tunnel = replace(TUNNEL, sources=(ip_address("10.1.0.1"),))
    assert [t.src for t in things(peer(), tunnel=tunnel) if isinstance(t, Route)] == [ip_address("10.1.0.1")]


@given(st.binary(min_size=32, max_size=32))
def test_every_key_of_the_right_length_is_one(octets: bytes) -> None:
    assert is_key(b64encode(octets).decode())


@given(st.lists(st.sampled_from(["10.0.0.0/8", "10.0.0.0/16", "10.1.0.0/16", "fd00::/8", "::/0", "0.0.0.0/0"])))
def test_equal_sets_of_allowed_ips_are_equal_values(texts: list[str]) -> None:
    networks = [ip_network(text) for text in texts]
    assert in_order(networks) == in_order(reversed(networks)) == in_order(set(networks))


def test_a_secret_is_never_printed() -> None:
    end = replace(END, psk="hush")
    made = the_peer(peer(), end)
    assert made.psk == Secret("hush")
    shown = f"{end!r} {end} {made.psk} {made.psk!r} {made!r} {made}"
    assert "hush" not in shown
    assert shown.count("(secret)") == 4
