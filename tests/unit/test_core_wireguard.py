"""What `wg` prints and takes, as values and back. The real tools: `contract/test_target_wireguard.py`."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.commands import text
from weft.core.wireguard import NO_PSK, Dump, conf, link_lines, parse_dump, settings, typed
from weft.errors import DecodeError
from weft.objects import Op, Why
from weft.objects.outside import File, Hook
from weft.objects.wireguard import Secret, WireguardDevice, WireguardPeer

WHY = Why("test", "b", "a test")
KEY, PSK = "p" * 42 + "p=", "s" * 42 + "s="
DEVICE = WireguardDevice("wg", KEY, 51820, 1420, "weft:x:y", (ip_interface("10.5.1.0/32"), ip_interface("fd00::/128")))
BARE = WireguardPeer("wg", KEY, None, ())
FULL = WireguardPeer(
    "wg", KEY, (ip_address("2001:db8::2"), 7), (ip_network("10.5.2.0/24"), ip_network("fd00::/64")), 25, Secret(PSK)
)
OWN = "private\tpublic\t51820\toff\n"


def test_a_dump_is_read() -> None:
    told = OWN + f"{KEY}\t{PSK}\t[2001:db8::2]:7\tfd00::/64,10.5.2.0/24\t1700000000\t1\t2\t25\n"
    assert parse_dump("wg", told) == Dump("public", 51820, 0, (FULL,), {KEY: 1700000000})
    told = f"(none)\t(none)\t0\t0x20\n{KEY}\t(none)\t(none)\t(none)\t0\t0\t0\toff\n"
    assert parse_dump("wg", told) == Dump("", 0, 32, (BARE,), {KEY: 0})


@pytest.mark.parametrize(
    "told", ["", "one\n", "hush\tpublic\tport\toff\n", OWN + "short\n", OWN + f"{KEY}\t\t\t\t\t\t\t\n"]
)
def test_what_is_no_dump_is_refused_without_a_word_of_it(told: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_dump("wg", told)
    assert str(caught.value) == "`wg show wg dump` printed what is not a dump; see wg --version"
    assert caught.value.__suppress_context__


@given(st.text())
def test_no_text_breaks_the_reading(told: str) -> None:
    try:
        parse_dump("wg", told)
    except DecodeError:
        return


def test_what_addconf_is_told() -> None:
    assert conf([FULL, BARE]).splitlines() == [
        "[Peer]",
        f"PublicKey = {KEY}",
        f"PresharedKey = {PSK}",
        "PersistentKeepalive = 25",
        "AllowedIPs = 10.5.2.0/24, fd00::/64",
        "Endpoint = [2001:db8::2]:7",
        "[Peer]",
        f"PublicKey = {KEY}",
        f"PresharedKey = {NO_PSK}",
        "PersistentKeepalive = 0",
    ]
    assert "Endpoint" not in conf([FULL], frozenset({KEY}))


def test_a_peer_that_is_greeted_has_a_keepalive_switched_on_and_off_again() -> None:
    quiet = WireguardPeer(FULL.dev, KEY, FULL.endpoint, FULL.allowed_ips, 0, FULL.psk)
    assert conf([quiet], greeted=frozenset({KEY})).splitlines() == [
        "[Peer]",
        f"PublicKey = {KEY}",
        f"PresharedKey = {PSK}",
        "PersistentKeepalive = 1",
        "Endpoint = [2001:db8::2]:7",
        *conf([quiet]).splitlines(),
    ]
    assert conf([quiet]).splitlines()[3] == "PersistentKeepalive = 0"
    for peer in (FULL, BARE):  # one with keepalives of its own, one that nobody can reach
        assert conf([peer], greeted=frozenset({KEY})) == conf([peer])


def test_a_new_device() -> None:
    assert link_lines(DEVICE, None) == [
        "link set dev wg alias weft:x:y mtu 1420 up",
        "address add 10.5.1.0/32 dev wg",
        "address add fd00::/128 dev wg nodad",
    ]
    assert settings(DEVICE, None, "/key") == ["private-key", "/key", "listen-port", "51820"]
    assert typed(Op("add", DEVICE, WHY), "/a key") == [
        "ip link add dev wg type wireguard || wireguard-go wg",
        "ip link set dev wg alias weft:x:y mtu 1420 up",
        "ip address add 10.5.1.0/32 dev wg",
        "ip address add fd00::/128 dev wg nodad",
        "wg set wg private-key '/a key' listen-port 51820",
    ]


def test_only_what_differs_is_changed() -> None:
    new = WireguardDevice("wg", "other", 4000, 1380, "weft:x:z", (ip_interface("10.5.9.0/32"),), 7, up=False)
    assert typed(Op("change", new, WHY, DEVICE), "/key") == [
        "ip link set dev wg alias weft:x:z mtu 1380 down",
        "ip address del 10.5.1.0/32 dev wg",
        "ip address del fd00::/128 dev wg",
        "ip address add 10.5.9.0/32 dev wg",
        "wg set wg private-key /key listen-port 4000 fwmark 7",
    ]
    assert typed(Op("change", DEVICE, WHY, DEVICE), "/key") == []
    assert typed(Op("remove", DEVICE, WHY), "/key") == ["ip link del dev wg"]


def test_peers_as_they_are_typed() -> None:
    assert typed(Op("add", FULL, WHY), "") == [
        f"wg set wg peer {KEY} preshared-key PSK_FILE endpoint [2001:db8::2]:7 persistent-keepalive 25 "
        "allowed-ips 10.5.2.0/24,fd00::/64"
    ]
    bare = f"wg set wg peer {KEY} persistent-keepalive 0 allowed-ips ''"
    assert typed(Op("add", BARE, WHY), "") == typed(Op("change", BARE, WHY, BARE), "") == [bare]
    without_psk = bare.replace(" persistent", " preshared-key /dev/null persistent")
    assert typed(Op("change", BARE, WHY, FULL), "") == [without_psk]
    assert typed(Op("remove", FULL, WHY), "") == [f"wg set wg peer {KEY} remove"]
    with pytest.raises(TypeError, match="known for a File"):
        typed(Op("add", File("/x", ""), WHY), "")


def test_objects_in_a_persons_words() -> None:
    assert text(DEVICE) == f"link wg type wireguard port 51820 mtu 1420 key {KEY}"
    assert text(FULL) == f"wireguard peer {KEY} dev wg endpoint [2001:db8::2]:7"
    assert text(BARE) == f"wireguard peer {KEY} dev wg endpoint (none)"
    v4 = WireguardPeer("wg", KEY, (ip_address("192.0.2.2"), 7), ())
    assert text(v4) == f"wireguard peer {KEY} dev wg endpoint 192.0.2.2:7"
    assert text(Hook(ip_network("10.5.2.0/24"), ip_network("fd00::/64"))) == "hook 10.5.2.0/24 fd00::/64"
    assert text(Hook(None, ip_network("fd00::/64"))) == "hook fd00::/64"
    assert text(File("/run/flannel/subnet.env", "x")) == "file /run/flannel/subnet.env"
