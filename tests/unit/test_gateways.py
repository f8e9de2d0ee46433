"""HOST_GATEWAY_MAP and FLANNEL_ROUTES_EXTRA: the guide's examples, IPv6, and entries that can't be used, which cost no
others."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.settings.gateways import ExtraRoute, MapEntry, parse_extra_routes, parse_gateway_map


def entry(prefix: str, gateway: str, text: str = "") -> MapEntry:
    return MapEntry(ip_network(prefix), ip_address(gateway), text or f"{prefix}:{gateway}")


def route(dst: str, gateway: str, interface: str, text: str) -> ExtraRoute:
    return ExtraRoute(ip_network(dst), ip_address(gateway), interface, text)


def test_the_guides_maps() -> None:
    assert parse_gateway_map("172.24.90.1:172.24.90.6") == (
        (entry("172.24.90.1", "172.24.90.6"),),
        (),
    )
    several, problems = parse_gateway_map("172.24.90.1:172.24.90.6,172.24.90.2:172.24.90.6,10.8.0.0/24:192.168.1.1")
    assert not problems
    assert [(str(e.prefix), str(e.gateway)) for e in several] == [
        ("172.24.90.1/32", "172.24.90.6"),
        ("172.24.90.2/32", "172.24.90.6"),
        ("10.8.0.0/24", "192.168.1.1"),
    ]


def test_the_guides_extra_routes() -> None:
    text = "10.5.8.0/24:192.168.4.1:enp7s0,10.5.30.0/24:192.168.4.99:eth0,10.5.31.0/24:192.168.4.99"
    first, second, third = text.split(",")
    assert parse_extra_routes(text) == (
        (
            route("10.5.8.0/24", "192.168.4.1", "enp7s0", first),
            route("10.5.30.0/24", "192.168.4.99", "eth0", second),
            route("10.5.31.0/24", "192.168.4.99", "", third),
        ),
        (),
    )


@pytest.mark.parametrize("text", ["", "  ", ",", " , ,\n", '""', "''"])
def test_nothing_is_nothing(text: str) -> None:
    assert parse_gateway_map(text) == ((), ())
    assert parse_extra_routes(text) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        " 1.1.1.1 : 2.2.2.2 ,, 3.3.3.3:4.4.4.4, ",
        "1.1.1.1:2.2.2.2\n3.3.3.3:4.4.4.4\n",
        "1.1.1.1:2.2.2.2 3.3.3.3:4.4.4.4",
        "1.1.1.1:2.2.2.2; 3.3.3.3:4.4.4.4",
        '"1.1.1.1:2.2.2.2,3.3.3.3:4.4.4.4"',
        "1.1.1.1=2.2.2.2,[3.3.3.3]:[4.4.4.4]",
        "1.1.1.1:2.2.2.2,1.1.1.1:2.2.2.2,3.3.3.3:4.4.4.4",
    ],
)
def test_how_people_write_lists(text: str) -> None:
    entries, problems = parse_gateway_map(text)
    assert [(str(e.prefix), str(e.gateway)) for e in entries] == [("1.1.1.1/32", "2.2.2.2"), ("3.3.3.3/32", "4.4.4.4")]
    assert not problems


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("[fd00::1]:[fd00:9::6]", "fd00::1/128"),
        ("fd00::1=fd00:9::6", "fd00::1/128"),
        ("[fd00::1]=[fd00:9::6]", "fd00::1/128"),
        ("[fd00:5::]/64:[fd00:9::6]", "fd00:5::/64"),
        ("[fd00:5::/64]:[fd00:9::6]", "fd00:5::/64"),
        ("[fd00:5::7]/64=fd00:9::6", "fd00:5::/64"),
        ("fd00:5::7/64=fd00:9::6", "fd00:5::/64"),
    ],
)
def test_ipv6_in_a_map(text: str, prefix: str) -> None:
    assert parse_gateway_map(text) == ((entry(prefix, "fd00:9::6", text),), ())


@pytest.mark.parametrize(
    ("text", "interface"),
    [
        ("[fd00:8::]/64:[fd00::6]", ""),
        ("[fd00:8::]/64:[fd00::6]:eth0", "eth0"),
        ("fd00:8::/64=fd00::6", ""),
        ("fd00:8::/64=fd00::6@eth0", "eth0"),
        ("[fd00:8::]/64=[fd00::6]@eth0", "eth0"),
    ],
)
def test_ipv6_in_extra_routes(text: str, interface: str) -> None:
    assert parse_extra_routes(text) == ((route("fd00:8::/64", "fd00::6", interface, text),), ())


def test_host_bits_of_a_subnet_are_masked() -> None:
    assert parse_gateway_map("10.8.0.77/24:192.168.1.1")[0][0].prefix == ip_network("10.8.0.0/24")
    assert parse_extra_routes("10.8.0.77/24:192.168.1.1")[0][0].dst == ip_network("10.8.0.0/24")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("1.1.1.1", "it has 1 parts; written is host:gateway"),
        ("1.1.1.1:2.2.2.2:eth0", "it has 3 parts"),
        ("1.1.1.1=2.2.2.2=3.3.3.3", "it has 3 parts"),
        ("fd00::1:fd00::6", "too many colons to tell its parts; written is host:gateway"),
        ("[fd00::1:fd00::6", "brackets don't fit together"),
        ("fd00::1]:1.1.1.1", "brackets don't fit together"),
        (":2.2.2.2", "names nothing to route"),
        ("1.1.1.1:", "names no gateway"),
        ("culvert:2.2.2.2", "'culvert' is neither an address nor a subnet"),
        ("1.1.1.1:lavash", "'lavash' is no IP address; host names are not looked up"),
        ("1.1.1.300:2.2.2.2", "'1.1.1.300' is neither"),
        ("1.1.1.0/33:2.2.2.2", "'1.1.1.0/33' is neither"),
        ("0.0.0.0/0:2.2.2.2", "the default route"),
        ("1.1.1.1:1.1.1.1", "its own gateway"),
        ("127.0.0.1:2.2.2.2", "a loopback address"),
        ("1.1.1.1:127.0.0.1", "a loopback address"),
        ("0.0.0.0:2.2.2.2", "the unspecified address"),
        ("224.0.0.5:2.2.2.2", "a multicast address"),
        ("1.1.1.1:255.255.255.255", "a broadcast address"),
        ("1.1.1.1=fd00::6", "is IPv4, its gateway fd00::6 is not"),
        ("fd00::1=fe80::6", "another host's on each link"),
        ("fd00::1=fe80::6%eth0", "holds an interface"),
    ],
)
def test_a_bad_entry_of_a_map_says_why_and_costs_no_other(bad: str, says: str) -> None:
    entries, problems = parse_gateway_map(f"9.9.9.9:8.8.8.8,{bad},7.7.7.7:8.8.8.8")
    assert [str(e.prefix) for e in entries] == ["9.9.9.9/32", "7.7.7.7/32"]
    assert len(problems) == 1
    assert problems[0].subject == "HOST_GATEWAY_MAP"
    assert says in problems[0].message
    assert repr(bad) in problems[0].message


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("10.5.8.0/24", "it has 1 parts; written is subnet:gateway[:interface]"),
        ("10.5.8.0/24:1.1.1.1:eth0:9", "too many colons"),
        ("[fd00:8::]/64:[fd00::6]:eth0:9", "it has 4 parts"),
        ("10.5.8.0/24:1.1.1.1:", "'' is no interface's name"),
        ("10.5.8.0/24=1.1.1.1@", "'' is no interface's name"),
        ("10.5.8.0/24:1.1.1.1:a-name-of-16-octets", "is no interface's name; write one that `ip link` shows"),
        ("10.5.8.0/24=1.1.1.1@..", "'..' is no interface's name"),
        ("10.5.8.0/24:10.5.8.1", "lies inside of 10.5.8.0/24 itself"),
        ("10.5.8.0/24=fd00::6", "is IPv4, its gateway fd00::6 is not"),
        ("fd00:8::/64=fe80::6", "name the interface behind it"),
        ("0.0.0.0/0:1.1.1.1:eth0", "the default route"),
    ],
)
def test_a_bad_extra_route_says_why_and_costs_no_other(bad: str, says: str) -> None:
    routes, problems = parse_extra_routes(f"10.5.1.0/24:1.1.1.1,{bad},10.5.2.0/24:1.1.1.1")
    assert [str(r.dst) for r in routes] == ["10.5.1.0/24", "10.5.2.0/24"]
    assert [p.subject for p in problems] == ["FLANNEL_ROUTES_EXTRA"]
    assert says in problems[0].message
    assert bad in problems[0].message


def test_a_link_local_gateway_is_fine_where_its_link_is_named() -> None:
    routes, problems = parse_extra_routes("fd00:8::/64=fe80::6@eth0")
    assert (routes[0].interface, problems) == ("eth0", ())


def test_two_gateways_for_one_prefix_are_said_and_the_first_holds() -> None:
    entries, problems = parse_gateway_map("10.8.0.0/24:1.1.1.1,10.8.0.9/24:2.2.2.2")
    assert entries == (entry("10.8.0.0/24", "1.1.1.1"),)
    assert "'10.8.0.0/24:1.1.1.1' names another gateway for 10.8.0.0/24 and comes first" in problems[0].message
    routes, problems = parse_extra_routes("10.8.0.0/24:1.1.1.1:eth0,10.8.0.0/24:1.1.1.1:eth1")
    assert [r.interface for r in routes] == ["eth0"]
    assert len(problems) == 1


@given(st.text(alphabet="0123456789abcdef.:/=@[],; \nx%", max_size=60))
def test_whatever_is_written_is_an_entry_or_a_problem(text: str) -> None:
    for parse in (parse_gateway_map, parse_extra_routes):
        entries, problems = parse(text)
        assert all(problem.message and problem.wrong for problem in problems)
        if text.strip(",; \n"):
            assert entries or problems


@given(st.lists(st.tuples(st.ip_addresses(), st.ip_addresses()), max_size=6))
def test_what_is_read_reads_the_same_in_every_form(pairs: list[tuple[object, object]]) -> None:
    equals = ",".join(f"{host}={gateway}" for host, gateway in pairs)
    brackets = ",".join(f"[{host}]:[{gateway}]" for host, gateway in pairs)
    one, two = parse_gateway_map(equals), parse_gateway_map(brackets)
    assert [(e.prefix, e.gateway) for e in one[0]] == [(e.prefix, e.gateway) for e in two[0]]
    assert len(one[1]) == len(two[1])
