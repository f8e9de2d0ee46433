"""Leases as flannel keeps them in etcd: every line of the format as a golden, round trips, flannel's own odd cases."""

from __future__ import annotations

import json
import string
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import WireError
from weft.model import Mac, parse_mac
from weft.wire.flannel import (
    BackendData,
    ExtensionData,
    Lease,
    Vtep,
    WireguardPeer,
    lease_key,
    lease_value,
    parse_key,
    parse_lease,
)

KEY = "10.5.98.0-24"
DUAL_KEY = "10.5.10.0-24&fc00:5:0:42::-64"
FOUR, SIX = IPv4Network("10.5.98.0/24"), IPv6Network("fc00:5:0:42::/64")
ME, ME6 = IPv4Address("192.0.2.2"), IPv6Address("fd00:99::1")
MAC, MAC6 = parse_mac("82:3d:cd:46:bc:78"), parse_mac("0a:00:00:00:00:06")
WG_KEY = "u/Yc+vpSYmqsWZ7Fp5BdVVRfXbzOJ9XvUyDbQmCqhQ0="

GOLDENS = {
    "vxlan": (
        Lease(FOUR, public_ip=ME, backend="vxlan", data=Vtep(1, MAC)),
        '{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"82:3d:cd:46:bc:78"}}',
    ),
    "vxlan, both families": (
        Lease(FOUR, SIX, ME, ME6, "vxlan", Vtep(1, MAC), Vtep(1, MAC6)),
        '{"PublicIP":"192.0.2.2","PublicIPv6":"fd00:99::1","BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"82:3d:cd:46:bc:78"},"BackendV6Data":{"VNI":1,"VtepMAC":"0a:00:00:00:00:06"}}',
    ),
    "vxlan, IPv6 alone": (
        Lease(None, SIX, None, ME6, "vxlan", None, Vtep(1, MAC6)),
        '{"PublicIP":"0.0.0.0","PublicIPv6":"fd00:99::1","BackendType":"vxlan",'
        '"BackendV6Data":{"VNI":1,"VtepMAC":"0a:00:00:00:00:06"}}',
    ),
    "host-gw": (
        Lease(FOUR, public_ip=ME, backend="host-gw"),
        '{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"host-gw"}',
    ),
    "wireguard": (
        Lease(FOUR, public_ip=ME, backend="wireguard", data=WireguardPeer(WG_KEY, 51820)),
        '{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"wireguard",'
        f'"BackendData":{{"PublicKey":"{WG_KEY}","Port":51820}}}}',
    ),
    "wireguard, as older flannel wrote it": (
        Lease(FOUR, public_ip=ME, backend="wireguard", data=WireguardPeer(WG_KEY)),
        '{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"wireguard",'
        f'"BackendData":{{"PublicKey":"{WG_KEY}"}}}}',
    ),
    "udp and alloc": (Lease(FOUR, public_ip=ME), '{"PublicIP":"192.0.2.2","PublicIPv6":null}'),
    "extension": (
        Lease(FOUR, public_ip=ME, backend="extension", data=ExtensionData("a key\nof its own")),
        '{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"extension","BackendData":"a key\\nof its own"}',
    ),
}


@pytest.mark.parametrize(("lease", "value"), GOLDENS.values(), ids=GOLDENS.keys())
def test_a_lease_is_written_octet_for_octet_as_flannel_does(lease: Lease, value: str) -> None:
    assert lease_value(lease) == value.encode()
    assert parse_lease(f"/coreos.com/network/subnets/{lease_key(lease)}", value.encode()) == lease


@pytest.mark.parametrize(
    ("lease", "key"),
    [
        (Lease(FOUR), KEY),
        (Lease(IPv4Network("10.5.10.0/24"), SIX), DUAL_KEY),
        (Lease(None, SIX), "0.0.0.0-0&fc00:5:0:42::-64"),
    ],
)
def test_a_key_is_written_as_flannel_does(lease: Lease, key: str) -> None:
    assert lease_key(lease) == key
    assert parse_key(key) == (lease.subnet, lease.subnet6)
    assert parse_key(f"/coreos.com/network/subnets/{key}") == (lease.subnet, lease.subnet6)


@pytest.mark.parametrize("key", ["x10.5.98.0-24", "10.5.98.0-024", "1.2.10.5.98.0-24", "10.5.98.0-24&::-0"])
def test_flannels_pattern_is_not_tied_to_the_keys_beginning(key: str) -> None:
    assert parse_key(key) == (FOUR, None)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "config",
        "10.5.98.0",
        "10.5.98.0/24",
        "10.5.98.0-24 ",
        "10.5.98.0-24\n",
        "10.5.98.0-24x",
        "10.5.98-24",
        "10x5.98.0-24",
        "10.5.98x0-24",
        "10.5.998.0-24",
        "10.5.098.0-24",
        "10.5.98.0-32",
        "10.5.98.0-99999999999999999999",
        "10.5.98.7-24",
        "10.5.98.0-24&fc00:5:0:42::-128",
        "10.5.98.0-24&fc00:5:0:42::1-64",
        "10.5.98.0-24&FC00::-64",
        "10.5.98.0-24&:::-64",
        "10.5.98.0-24&fc00::1.2.3.4-64",
        "0.0.0.0-0",
        "0.0.0.0-0&::-0",
        "٣.5.98.0-24",
        "10.5.98.0-٢٤",
        pytest.param("1" * 500_000 + ".1.1.1-24", id="half a million digits"),
    ],
)
def test_what_is_no_key_says_so(key: str) -> None:
    with pytest.raises(WireError, match="key of"):
        parse_key(key)


def test_names_match_in_any_case_and_unknown_members_are_left_alone() -> None:
    value = (
        b'{"publicip": "192.0.2.2", "PUBLICIPV6": null, "backendType": "vxlan", "Since": 3,'
        b' "backenddata": {"vni": 1, "vtepmac": "82-3D-CD-46-BC-78", "port": 8472}}'
    )
    assert parse_lease(KEY, value) == GOLDENS["vxlan"][0]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"PublicIP":"192.0.2.2"} x', "not a JSON object"),
        ("null", "PublicIP is missing"),
        ("{}", "PublicIP is missing"),
        ('{"PublicIP":"0.0.0.0"}', "PublicIP is 0.0.0.0"),
        ('{"PublicIP":"0.0.0.0","PublicIPv6":"::"}', "there is no PublicIPv6"),
        ('{"PublicIP":null}', "PublicIP must be an IPv4 address"),
        ('{"PublicIP":null,"PublicIPv6":"fd00:99::1"}', "PublicIP must be an IPv4 address"),
        ('{"PublicIP":""}', "PublicIP must be an IPv4 address"),
        ('{"PublicIP":"node-1"}', "PublicIP must be an IPv4 address"),
        ('{"PublicIP":"fd00::1"}', "PublicIP must be an IPv4 address"),
        ('{"PublicIP":5}', "PublicIP must be a string; found 5"),
        ('{"PublicIP":"192.0.2.2","PublicIPv6":"192.0.2.2"}', "PublicIPv6 must be null or an IPv6 address"),
        ('{"PublicIP":"192.0.2.2","PublicIPv6":"fe80::1%eth0"}', "PublicIPv6 must be null or an IPv6 address"),
        ('{"PublicIP":"192.0.2.2","BackendType":1}', "BackendType must be a string"),
    ],
)
def test_what_flannel_ignores_is_an_error_that_says_so(value: str, why: str) -> None:
    with pytest.raises(WireError, match=f"{KEY}.*{why}.*this entry is ignored"):
        parse_lease(KEY, value.encode())


def test_a_bad_key_is_ignored_too() -> None:
    with pytest.raises(WireError, match=r"config.*this entry is ignored"):
        parse_lease("config", b'{"PublicIP":"192.0.2.2"}')


def test_an_error_is_text_whatever_the_key_is() -> None:
    key = b"/p/\xff\x80/10.5.1.0-24".decode(errors="surrogateescape")
    with pytest.raises(WireError) as caught:
        parse_lease(key, b"x")
    assert "10.5.1.0-24" in str(caught.value).encode().decode()


def test_an_empty_public_ipv6_is_none_when_read_and_null_when_written() -> None:
    lease = parse_lease(KEY, b'{"PublicIP":"192.0.2.2","PublicIPv6":""}')
    assert lease == Lease(FOUR, public_ip=ME)
    assert b'"PublicIPv6":null' in lease_value(lease)


def test_ipv6_alone_needs_no_public_ip() -> None:
    lease = parse_lease("0.0.0.0-0&fc00:5:0:42::-64", b'{"PublicIPv6":"fd00:99::1"}')
    assert lease == Lease(None, SIX, None, ME6)


@pytest.mark.parametrize(
    ("backend", "data", "flaw"),
    [
        ("vxlan", "5", "BackendData must be an object"),
        ("vxlan", "{}", "VtepMAC"),
        ("vxlan", '{"VNI":1,"VtepMAC":"82:3d:cd:46:bc"}', "VtepMAC: '82:3d:cd:46:bc' is not an Ethernet address"),
        ("vxlan", '{"VNI":1,"VtepMAC":"zz:3d:cd:46:bc:78"}', "VtepMAC"),
        ("vxlan", '{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}', "not the address of one device"),
        ("vxlan", '{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}', "not the address of one device"),
        ("vxlan", '{"VNI":"1","VtepMAC":"82:3d:cd:46:bc:78"}', "VNI must be a whole number"),
        ("vxlan", '{"VNI":1.0,"VtepMAC":"82:3d:cd:46:bc:78"}', "VNI must be a whole number"),
        ("vxlan", '{"VNI":true,"VtepMAC":"82:3d:cd:46:bc:78"}', "VNI must be a whole number"),
        ("vxlan", '{"VNI":-1,"VtepMAC":"82:3d:cd:46:bc:78"}', "VNI must be a whole number"),
        ("wireguard", "{}", "PublicKey must be a WireGuard key"),
        ("wireguard", '{"PublicKey":"short"}', "PublicKey must be a WireGuard key"),
        ("wireguard", '{"PublicKey":"é"}', "PublicKey must be a WireGuard key"),
        ("wireguard", f'{{"PublicKey":"{WG_KEY}="}}', "PublicKey must be a WireGuard key"),
        ("wireguard", f'{{"PublicKey":"{WG_KEY} "}}', "PublicKey must be a WireGuard key"),
        ("wireguard", f'{{"PublicKey":"{WG_KEY}","Port":65536}}', "Port must be a whole number from 0 to 65535"),
        ("extension", "{}", "BackendData must be a string"),
    ],
)
def test_data_that_cannot_be_read_is_a_flaw_and_the_subnet_is_held_all_the_same(
    backend: str, data: str, flaw: str
) -> None:
    value = f'{{"PublicIP":"192.0.2.2","BackendType":"{backend}","BackendData":{data}}}'
    lease = parse_lease(KEY, value.encode())
    assert (lease.subnet, lease.public_ip, lease.backend, lease.data) == (FOUR, ME, backend, None)
    assert flaw in lease.flaw
    sixth = parse_lease(KEY, value.replace("BackendData", "BackendV6Data").encode())
    assert sixth.flaw == lease.flaw.replace("BackendData", "BackendV6Data")


@pytest.mark.parametrize("backend", ["vxlan", "ipsec", "udp", "", "VXLAN"])
def test_data_that_is_not_there_or_not_for_us_is_no_flaw(backend: str) -> None:
    data = "null" if backend == "vxlan" else '{"PubKey":"x"}'
    lease = parse_lease(KEY, f'{{"PublicIP":"192.0.2.2","BackendType":"{backend}","BackendData":{data}}}'.encode())
    assert lease == Lease(FOUR, public_ip=ME, backend=backend)


def test_a_long_value_is_cut_in_the_flaw() -> None:
    value = f'{{"PublicIP":"192.0.2.2","BackendType":"extension","BackendData":[{"1," * 500}1]}}'
    assert len(parse_lease(KEY, value.encode()).flaw) < 160


# --- properties -------------------------------------------------------------------------------------------------------

fours = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(1 << 25, 2**32 - 1),
    st.integers(7, 30),
)
sixes = st.builds(
    lambda address, length: IPv6Network((address, length), strict=False),
    st.integers(2**120, 2**128 - 1),
    st.integers(8, 126),
)
macs = st.binary(min_size=6, max_size=6).map(lambda octets: Mac(bytes([octets[0] & 0xFE | 2]) + octets[1:]))
vteps = st.builds(Vtep, st.integers(0, 0xFFFFFF), macs)
peers = st.builds(WireguardPeer, st.just(WG_KEY), st.integers(0, 0xFFFF))
texts = st.builds(ExtensionData, st.text())


@st.composite
def leases(draw: st.DrawFn) -> Lease:
    subnet, subnet6 = draw(st.one_of(fours, st.none())), draw(st.one_of(sixes, st.none()))
    if subnet is None and subnet6 is None:
        subnet = FOUR
    public_ip = draw(st.integers(1, 2**32 - 1).map(IPv4Address) | st.none())
    public_ip6 = draw(st.integers(1, 2**128 - 1).map(IPv6Address) | st.none()) if public_ip else ME6
    kinds: dict[str, st.SearchStrategy[BackendData]] = {"vxlan": vteps, "wireguard": peers, "extension": texts}
    backend = draw(st.sampled_from(["vxlan", "wireguard", "extension", "host-gw", ""]))
    data = st.none() if backend not in kinds else st.one_of(kinds[backend], st.none())
    return Lease(subnet, subnet6, public_ip, public_ip6, backend, draw(data), draw(data))


@given(leases())
def test_what_is_written_is_read(lease: Lease) -> None:
    assert parse_lease(lease_key(lease), lease_value(lease)) == lease


@given(st.text() | st.text(string.printable) | st.from_regex(r"\A(\d{1,3}\.){2,4}\d+-\d+(&[\d:a-f]{2,20}-\d+)?\Z"))
def test_any_text_is_a_key_or_a_wire_error(text: str) -> None:
    try:
        subnet, subnet6 = parse_key(text)
    except WireError:
        return
    assert parse_key(lease_key(Lease(subnet, subnet6))) == (subnet, subnet6)


@given(st.binary())
def test_any_octets_are_a_lease_or_a_wire_error(value: bytes) -> None:
    with pytest.raises(WireError):
        parse_lease(KEY, value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data", "publicip", "VNI"])


@given(st.dictionaries(names | st.text(), values | st.sampled_from(["192.0.2.2", "fd00::1", "vxlan", "wireguard"])))
def test_any_object_is_a_lease_or_a_wire_error(members: dict[str, object]) -> None:
    try:
        lease = parse_lease(KEY, json.dumps(members).encode())
    except WireError:
        return
    assert lease.public_ip is not None or lease.public_ip6 is not None
    assert parse_lease(KEY, lease_value(lease)).public_ip == lease.public_ip


def test_nesting_without_end_is_a_wire_error() -> None:
    with pytest.raises(WireError):
        parse_lease(KEY, b'{"PublicIP":' + b"[" * 200_000)
