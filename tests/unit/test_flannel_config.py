"""flannel's config: its rules and its words, one by one; what is written reads back the same."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from weft.errors import WireError
from weft.wire.flannel import (
    AllocBackend,
    Backend,
    Config,
    ExtensionBackend,
    HostGwBackend,
    Pool4,
    Pool6,
    VxlanBackend,
    WireguardBackend,
)
from weft.wire.flannel_config import config_text, parse_config

PSK = "u/Yc+vpSYmqsWZ7Fp5BdVVRfXbzOJ9XvUyDbQmCqhQ0="
DOCUMENT = """{
       "Network": "172.16.0.0/16",
       "SubnetLen": 24,
       "SubnetMin": "172.16.10.0",
       "SubnetMax": "172.16.99.0",
       "Backend": {
               "Type": "vxlan",
               "Port": 8472
       }
}"""


def config(backend: str = '{"Type":"vxlan"}', /, **members: object) -> Config:
    """A config of these members; the network is 10.5.0.0/16 if they name none."""
    return parse_config(json.dumps({"Network": "10.5.0.0/16", **members, "Backend": json.loads(backend)}))


def pool4(network: str, length: int, first: str, last: str) -> Pool4:
    return Pool4(IPv4Network(network), length, IPv4Address(first), IPv4Address(last))


def pool6(network: str, length: int, first: str, last: str) -> Pool6:
    return Pool6(IPv6Network(network), length, IPv6Address(first), IPv6Address(last))


def test_the_document_s_config() -> None:
    """shared/seeds/deploying-flannel-vxlan.md."""
    assert parse_config(DOCUMENT) == Config(
        pool4("172.16.0.0/16", 24, "172.16.10.0", "172.16.99.0"), None, VxlanBackend(vni=1, port=8472)
    )
    assert parse_config(DOCUMENT.encode()) == parse_config(DOCUMENT)


@pytest.mark.parametrize(
    ("members", "pool"),
    [
        ({}, pool4("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")),
        ({"Network": "10.5.7.9/16"}, pool4("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")),
        ({"Network": "10.0.0.0/22"}, pool4("10.0.0.0/22", 24, "10.0.1.0", "10.0.3.0")),
        ({"Network": "10.0.0.0/23"}, pool4("10.0.0.0/23", 25, "10.0.0.128", "10.0.1.128")),
        ({"Network": "10.0.0.0/28"}, pool4("10.0.0.0/28", 30, "10.0.0.4", "10.0.0.12")),
        ({"Network": "0.0.0.0/1"}, pool4("0.0.0.0/1", 24, "0.0.1.0", "127.255.255.0")),
        ({"Network": "128.0.0.0/1"}, pool4("128.0.0.0/1", 24, "128.0.1.0", "255.255.255.0")),
        ({"SubnetLen": 0}, pool4("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")),
        ({"SubnetLen": None}, pool4("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")),
        ({"SubnetLen": 18}, pool4("10.5.0.0/16", 18, "10.5.64.0", "10.5.192.0")),
        ({"SubnetLen": 30}, pool4("10.5.0.0/16", 30, "10.5.0.4", "10.5.255.252")),
        ({"SubnetMin": "10.5.0.0"}, pool4("10.5.0.0/16", 24, "10.5.0.0", "10.5.255.0")),
        ({"SubnetMin": "0.0.0.0", "SubnetMax": "0.0.0.0"}, pool4("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")),
        ({"SubnetMin": "10.5.9.0", "SubnetMax": "10.5.9.0"}, pool4("10.5.0.0/16", 24, "10.5.9.0", "10.5.9.0")),
    ],
)
def test_what_is_not_said_of_ipv4(members: dict[str, object], pool: Pool4) -> None:
    assert config(**members) == Config(pool, None)


@pytest.mark.parametrize(
    ("members", "pool"),
    [
        ({}, pool6("fc00:5::/48", 64, "fc00:5:0:1::", "fc00:5:0:ffff::")),
        ({"IPv6SubnetMin": None, "IPv6SubnetMax": None}, pool6("fc00:5::/48", 64, "fc00:5:0:1::", "fc00:5:0:ffff::")),
        ({"IPv6SubnetMin": "::"}, pool6("fc00:5::/48", 64, "fc00:5:0:1::", "fc00:5:0:ffff::")),
        ({"IPv6Network": "fc00:5::1/48"}, pool6("fc00:5::/48", 64, "fc00:5:0:1::", "fc00:5:0:ffff::")),
        ({"IPv6Network": "fc00::/62"}, pool6("fc00::/62", 64, "fc00:0:0:1::", "fc00:0:0:3::")),
        ({"IPv6Network": "fc00::/63"}, pool6("fc00::/63", 65, "fc00::8000:0:0:0", "fc00:0:0:1:8000::")),
        ({"IPv6Network": "fc00::/124"}, pool6("fc00::/124", 126, "fc00::4", "fc00::c")),
        ({"IPv6Network": "8000::/1"}, pool6("8000::/1", 64, "8000:0:0:1::", "ffff:ffff:ffff:ffff::")),
        ({"IPv6SubnetLen": 126}, pool6("fc00:5::/48", 126, "fc00:5::4", "fc00:5:0:ffff:ffff:ffff:ffff:fffc")),
        (
            {"IPv6SubnetLen": 80, "IPv6SubnetMin": "fc00:5:0:1:2::", "IPv6SubnetMax": "fc00:5:0:1:9::"},
            pool6("fc00:5::/48", 80, "fc00:5:0:1:2::", "fc00:5:0:1:9::"),
        ),
    ],
)
def test_what_is_not_said_of_ipv6(members: dict[str, object], pool: Pool6) -> None:
    dual = config(**({"EnableIPv6": True, "IPv6Network": "fc00:5::/48"} | members))
    assert dual == Config(pool4("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"), pool)
    alone = config(**({"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fc00:5::/48", "Network": ""} | members))
    assert alone == Config(None, pool)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"Network": "0.0.0.0/0"}, "please define a correct Network parameter in the flannel config"),
        ({"SubnetLen": 31}, "SubnetLen must be less than /31"),
        ({"SubnetLen": 17}, "network must be able to accommodate at least four subnets"),
        ({"SubnetLen": 8}, "network must be able to accommodate at least four subnets"),
        ({"Network": "10.5.0.0/29"}, "network is too small. Minimum useful network prefix is /28"),
        ({"SubnetMin": "10.6.0.0"}, "SubnetMin is not in the range of the Network"),
        ({"SubnetMin": "10.4.255.0"}, "SubnetMin is not in the range of the Network"),
        ({"SubnetMax": "10.6.0.0"}, "SubnetMax is not in the range of the Network"),
        ({"SubnetMin": "10.5.1.7"}, "SubnetMin is not on a SubnetLen boundary: 10.5.1.7; the /24 .* at 10.5.1.0"),
        ({"SubnetMin": "10.5.1.128"}, "SubnetMin is not on a SubnetLen boundary: 10.5.1.128"),
        ({"SubnetMax": "10.5.255.255"}, "SubnetMax is not on a SubnetLen boundary: 10.5.255.255"),
        ({"SubnetMin": "10.5.9.0", "SubnetMax": "10.5.8.0"}, "SubnetMin 10.5.9.0 comes after SubnetMax 10.5.8.0"),
        ({"SubnetMin": "10.5.0.1", "SubnetMax": "10.6.0.0"}, "SubnetMax is not in the range"),
        ({"Network": "10.5.0.0"}, "Network: invalid CIDR address: 10.5.0.0; write it as"),
        ({"Network": "10.5.0.0/255.255.0.0"}, "invalid CIDR address: 10.5.0.0/255.255.0.0"),
        ({"Network": "10.5.0.0/33"}, "invalid CIDR address: 10.5.0.0/33"),
        ({"Network": "10.05.0.0/16"}, "invalid CIDR address"),
        ({"Network": ""}, "invalid CIDR address"),
        ({"Network": "fc00::/48"}, "Network: invalid CIDR address: fc00::/48"),
        ({"Network": None}, "Network: invalid CIDR address: null; leave it out"),
        ({"Network": 5}, "Network must be a string; found 5"),
        ({"SubnetMin": None}, "SubnetMin: invalid IP address format: null"),
        ({"SubnetMin": ""}, "SubnetMin: invalid IP address format"),
        ({"SubnetMax": "fc00::"}, "SubnetMax: invalid IP address format: fc00::"),
        ({"SubnetLen": "24"}, 'SubnetLen must be a whole number from 0 to 4294967295; found "24"'),
        ({"SubnetLen": 24.0}, "SubnetLen must be a whole number"),
        ({"SubnetLen": -1}, "SubnetLen must be a whole number"),
        ({"SubnetLen": True}, "SubnetLen must be a whole number"),
        ({"EnableIPv4": 1}, "EnableIPv4 must be true or false; found 1"),
        ({"EnableIPv4": False}, "EnableIPv4 and EnableIPv6 are both false"),
        ({"EnableIPv6": True}, "please define a correct IPv6Network parameter in the flannel config"),
        ({"EnableNFTables": "no"}, "EnableNFTables must be true or false"),
    ],
)
def test_a_config_is_refused_in_flannels_words(members: dict[str, object], words: str) -> None:
    with pytest.raises(WireError, match=words):
        config(**members)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"IPv6Network": "::/0"}, "please define a correct IPv6Network parameter in the flannel config"),
        ({"IPv6Network": "fc00::/125"}, "IPv6Network is too small. Minimum useful network prefix is /124"),
        ({"IPv6SubnetLen": 127}, "SubnetLen must be less than /127: IPv6SubnetLen is 127"),
        ({"IPv6SubnetLen": 49}, "network must be able to accommodate at least four subnets"),
        ({"IPv6SubnetMin": "fc00:6::"}, "IPv6SubnetMin is not in the range of the IPv6Network"),
        ({"IPv6SubnetMax": "fc00:6::"}, "IPv6SubnetMax is not in the range of the IPv6Network"),
        ({"IPv6SubnetMin": "fc00:5:0:1::1"}, "IPv6SubnetMin is not on a SubnetLen boundary: fc00:5:0:1::1"),
        ({"IPv6SubnetMax": "fc00:5:0:1::1"}, "IPv6SubnetMax is not on a SubnetLen boundary: fc00:5:0:1::1"),
        ({"IPv6SubnetMin": "10.5.0.0"}, "IPv6SubnetMin: invalid IP address format: 10.5.0.0"),
        ({"IPv6SubnetMin": "fc00:5::%1"}, "IPv6SubnetMin: invalid IP address format"),
        ({"IPv6Network": "fc00:5::%1/48"}, "invalid CIDR address: fc00:5::%1/48"),
        ({"IPv6Network": None}, "IPv6Network: invalid CIDR address: null"),
    ],
)
def test_an_ipv6_config_is_refused_in_flannels_words(members: dict[str, object], words: str) -> None:
    with pytest.raises(WireError, match=words):
        config(**({"EnableIPv6": True, "IPv6Network": "fc00:5::/48"} | members))


def test_ipv6_bounds_are_passed_over_where_ipv6_is_off() -> None:
    assert config(IPv6Network="nonsense", IPv6SubnetLen=127).ipv6 is None


def test_names_match_in_any_case_nulls_keep_the_default_and_unknown_members_are_left_alone() -> None:
    given_ = (
        '{"network":"172.16.0.0/16","SUBNETLEN":24,"subnetMin":"172.16.10.0","SubnetMAX":"172.16.99.0","Comment":[1],'
        ' "EnableIPv4":null,"EnableIPv6":null,"backend":{"type":"VXLAN","vni":null,"port":0,"x":{}}}'
    )
    assert parse_config(given_) == parse_config(DOCUMENT)


def test_of_two_members_whose_names_differ_in_case_the_later_holds() -> None:
    assert config(network="10.6.0.0/16").ipv4 == config(Network="10.6.0.0/16").ipv4


@pytest.mark.parametrize(
    "value", ["", "[]", "5", '"x"', "{", '{"Network":"10.5.0.0/16"}}', "\ufeff{}", "{'a':1}", "{}//"]
)
def test_what_is_no_object_says_so(value: str) -> None:
    with pytest.raises(WireError, match="the flannel config is not a JSON object"):
        parse_config(value)


@pytest.mark.parametrize("value", ["null", "{}"])
def test_nothing_is_a_config_without_a_network(value: str) -> None:
    with pytest.raises(WireError, match="please define a correct Network parameter"):
        parse_config(value)


# --- backends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "value"),
    [
        ('{"Type":"vxlan"}', VxlanBackend(1, 8472, 0, False, False, False, "")),
        ('{"Type":"vxlan","Port":0,"VNI":0}', VxlanBackend(vni=0, port=8472)),
        (
            '{"Type":"vxlan","VNI":4096,"Port":4789,"MTU":9000,"GBP":true,"Learning":true,"DirectRouting":true,'
            '"MacPrefix":"0E-2A"}',
            VxlanBackend(4096, 4789, 9000, True, True, True, "0E-2A"),
        ),
        ('{"Type":"host-gw"}', HostGwBackend()),
        ('{"Type":"alloc"}', AllocBackend()),
        ('{"Type":"wireguard"}', WireguardBackend(51820, 51821, 0, "", 0, "separate")),
        ('{"Type":"wireguard","Mode":null,"PSK":null}', WireguardBackend()),
        (
            '{"Type":"wireguard","ListenPort":1,"ListenPortV6":2,"MTU":1400,"PersistentKeepaliveInterval":25,'
            f'"Mode":"ipv6","PSK":"{PSK}"}}',
            WireguardBackend(1, 2, 1400, PSK, 25, "ipv6"),
        ),
        ('{"Type":"extension"}', ExtensionBackend()),
        (
            '{"Type":"extension","PreStartupCommand":"a","PostStartupCommand":"b","SubnetAddCommand":"c",'
            '"SubnetRemoveCommand":"d"}',
            ExtensionBackend("a", "b", "c", "d"),
        ),
    ],
)
def test_a_backend_is_read_and_written(backend: str, value: Backend) -> None:
    assert config(backend).backend == value
    assert parse_config(config_text(config(backend))) == config(backend)


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ('{"Type":"vxlan","VNI":"1"}', 'Backend of the flannel config: VNI must be a whole number .*; found "1"'),
        ('{"Type":"vxlan","VNI":16777216}', "VNI must be a whole number from 0 to 16777215"),
        ('{"Type":"vxlan","Port":65536}', "Port must be a whole number from 0 to 65535"),
        ('{"Type":"vxlan","MTU":-1}', "MTU must be"),
        ('{"Type":"vxlan","GBP":1}', "GBP must be true or false"),
        ('{"Type":"vxlan","Learning":"true"}', "Learning must be true or false"),
        ('{"Type":"vxlan","DirectRouting":0}', "DirectRouting must be true or false"),
        ('{"Type":"vxlan","MacPrefix":0}', "MacPrefix must be a string"),
        ('{"Type":"vxlan","MacPrefix":"0E2A"}', "MacPrefix must be two octets, the first one even, such as 0E-2A"),
        ('{"Type":"vxlan","MacPrefix":"0F-2A"}', "MacPrefix must be two octets, the first one even"),
        (
            '{"Type":"wireguard","Mode":"both"}',
            "no valid Mode configured: 'both'; there are separate, auto, ipv4, ipv6",
        ),
        ('{"Type":"wireguard","Mode":""}', "no valid Mode configured: ''"),
        ('{"Type":"wireguard","PSK":"secret"}', "PSK must be a WireGuard key, 32 octets in base64"),
        ('{"Type":"wireguard","PSK":5}', "PSK must be a string"),
        ('{"Type":"wireguard","PersistentKeepaliveInterval":"25s"}', "PersistentKeepaliveInterval must be"),
        ('{"Type":"extension","SubnetAddCommand":["ip"]}', "SubnetAddCommand must be a string"),
        ('{"Type":7}', "Type must be a string"),
        ("[]", "Backend must be an object"),
        ("null", "unknown or unsupported backend: none .*Backend has no Type"),
        ("{}", "unknown or unsupported backend: none"),
    ],
)
def test_a_wrong_backend_member_is_named(backend: str, words: str) -> None:
    with pytest.raises(WireError, match=words):
        config(backend)


def test_a_wrong_psk_is_not_told() -> None:
    with pytest.raises(WireError) as told:
        config('{"Type":"wireguard","PSK":"hunter2"}')
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        ("udp", "vxlan"),
        ("ipip", "vxlan .*DirectRouting.* host-gw"),
        ("ipsec", "wireguard"),
        ("aws-vpc", "vxlan, host-gw .* or wireguard"),
    ],
)
def test_a_backend_that_is_not_there_says_what_is(kind: str, instead: str) -> None:
    found = f"^unknown or unsupported backend: {kind} .*unknown backend type: {kind}.*Use {instead}"
    with pytest.raises(WireError, match=found):
        config(f'{{"Type":"{kind}"}}')


def test_no_backend_is_udp() -> None:
    with pytest.raises(WireError, match=r"^unknown or unsupported backend: udp .*without Backend.*Use vxlan"):
        parse_config('{"Network":"10.5.0.0/16"}')


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_config_is_written_with_every_default_spelt_out() -> None:
    written = config_text(config(EnableIPv6=True, IPv6Network="fc00:5::/48", EnableNFTables=True))
    assert (
        written
        == """{
  "Network": "10.5.0.0/16",
  "SubnetLen": 24,
  "SubnetMin": "10.5.1.0",
  "SubnetMax": "10.5.255.0",
  "EnableIPv6": true,
  "IPv6Network": "fc00:5::/48",
  "IPv6SubnetLen": 64,
  "IPv6SubnetMin": "fc00:5:0:1::",
  "IPv6SubnetMax": "fc00:5:0:ffff::",
  "EnableNFTables": true,
  "Backend": {
    "Type": "vxlan",
    "VNI": 1,
    "Port": 8472
  }
}
"""
    )


def test_ipv6_alone_is_written_so() -> None:
    alone = config(EnableIPv4=False, EnableIPv6=True, IPv6Network="fc00:5::/48")
    assert config_text(alone).startswith('{\n  "EnableIPv4": false,\n  "EnableIPv6": true,')
    assert parse_config(config_text(alone)) == alone


@st.composite
def bounded(draw: st.DrawFn, bits: int, longest: int) -> tuple[int, int, int, int, int]:
    """Network, its length, a lease's length, the first and the last lease; the first one is never address 0."""
    prefix = draw(st.integers(1, longest - 2))
    length = draw(st.integers(prefix + 2, longest))
    size = 1 << bits - length
    network = draw(st.integers(0, (1 << prefix) - 1)) << bits - prefix
    first = draw(st.integers(0, (1 << length - prefix) - 1))
    last = draw(st.integers(first, (1 << length - prefix) - 1))
    assume(network + first * size)
    return network, prefix, length, network + first * size, network + last * size


pools4 = bounded(32, 30).map(lambda b: Pool4(IPv4Network((b[0], b[1])), b[2], IPv4Address(b[3]), IPv4Address(b[4])))
pools6 = bounded(128, 126).map(lambda b: Pool6(IPv6Network((b[0], b[1])), b[2], IPv6Address(b[3]), IPv6Address(b[4])))
ports = st.integers(1, 0xFFFF)
mtus = st.integers(0, 0xFFFF)
backends = st.one_of(
    st.builds(
        VxlanBackend,
        st.integers(0, 0xFFFFFF),
        ports,
        mtus,
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["", "0E-2A"]),
    ),
    st.just(HostGwBackend()),
    st.just(AllocBackend()),
    st.builds(
        WireguardBackend,
        ports,
        ports,
        mtus,
        st.sampled_from(["", PSK]),
        mtus,
        st.sampled_from(["separate", "auto", "ipv4", "ipv6"]),
    ),
    st.builds(ExtensionBackend, st.text(), st.text(), st.text(), st.text()),
)
pairs = st.tuples(pools4, st.none() | pools6) | st.tuples(st.none(), pools6)


@given(pairs, backends, st.booleans())
def test_what_is_written_is_read(pools: tuple[Pool4 | None, Pool6 | None], backend: Backend, nftables: bool) -> None:
    value = Config(*pools, backend, nftables)
    assert parse_config(config_text(value)) == value


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
plausible = st.sampled_from(["10.5.0.0/16", "10.5.0.0", "fc00::/48", "fc00::", "vxlan", "udp", 24, 30, 64, True, False])
names = st.sampled_from(
    [f"{family}{name}" for family in ("", "IPv6") for name in ("Network", "SubnetLen", "SubnetMin", "SubnetMax")]
    + ["EnableIPv4", "EnableIPv6", "EnableNFTables", "Backend", "backend", "Type", "VNI", "Port"]
)
backend_objects = st.dictionaries(names, plausible | values).map(lambda members: members | {"Type": "vxlan"})


@given(st.dictionaries(names, plausible | values), st.none() | backend_objects)
def test_any_object_is_a_config_or_a_wire_error(members: dict[str, object], backend: dict[str, object] | None) -> None:
    if backend is not None:
        members = {"Network": "10.5.0.0/16", **members, "Backend": backend}
    try:
        value = parse_config(json.dumps(members))
    except WireError:
        return
    assert value.ipv4 is not None or value.ipv6 is not None
    assert parse_config(config_text(value)) == value


@given(st.binary() | st.text())
def test_any_octets_are_refused_with_a_wire_error(value: bytes | str) -> None:
    with pytest.raises(WireError):
        parse_config(value)
