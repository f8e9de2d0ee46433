"""Names of routes in a cloud: as flannel-route-manager's, and what Google's discovery document allows."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network

from hypothesis import given
from hypothesis import strategies as st

from weft.core.cloud_names import name_prefix, other_name, route_name
from weft.model import IPNetwork

ALLOWED = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
networks = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
destinations = st.one_of(
    st.builds(lambda n, length: IPv4Network((n, length), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(
        lambda n, length: IPv6Network((n, length), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)
    ),
)


def test_the_readmes_names() -> None:
    assert route_name("default", ip_network("10.0.63.0/24")) == "flannel-default-10-0-63-0-24"
    assert route_name("default", ip_network("fd00:1::/64")) == "flannel-default-fd00-1---64"
    assert name_prefix("default") == "flannel-default-"


def test_another_name_for_the_same_destination_says_both() -> None:
    dst = ip_network("10.0.63.0/24")
    one, two = other_name("default", dst, "10.0.0.1"), other_name("default", dst, "10.0.0.2")
    assert one.startswith("flannel-default-10-0-63-0-24-")
    assert one != two


def test_what_is_too_long_is_shortened_and_stays_different() -> None:
    network = "a-network-of-some-department"
    near = [ip_network(f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n}/128") for n in (1, 2)]
    names = [route_name(network, dst) for dst in near]
    assert names[0] != names[1]
    assert all(len(name) == 63 and name.startswith(f"flannel-{network}-2001-db8") for name in names)


def test_networks_with_long_names_keep_their_prefixes_apart() -> None:
    one, two = ("n" * 62 + end for end in "ab")
    assert name_prefix(one) != name_prefix(two)


@given(networks, destinations, st.text(max_size=20))
def test_every_name_is_allowed_and_has_the_prefix(network: str, dst: IPNetwork, what: str) -> None:
    for name in (route_name(network, dst), other_name(network, dst, what)):
        assert ALLOWED.fullmatch(name), name
        assert name.startswith(name_prefix(network))
    assert route_name(network, dst) != other_name(network, dst, what)


@given(st.sets(destinations, min_size=2, max_size=20), networks)
def test_no_two_destinations_share_a_name(dsts: set[IPNetwork], network: str) -> None:
    assert len({route_name(network, dst) for dst in dsts}) == len(dsts)
