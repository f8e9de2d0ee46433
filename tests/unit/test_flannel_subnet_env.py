"""subnet.env: written as flannel does, read however it was left."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.wire.flannel import Lease
from weft.wire.flannel_config import parse_config
from weft.wire.subnet_env import SubnetEnv, assignments, parse_subnet_env, subnet_env, subnet_env_of

BOTH = """\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.10.1/24
FLANNEL_IPV6_NETWORK=fc00:5::/48
FLANNEL_IPV6_SUBNET=fc00:5:0:42::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""
DUAL = SubnetEnv(
    IPv4Network("10.5.0.0/16"),
    IPv4Network("10.5.10.0/24"),
    IPv6Network("fc00:5::/48"),
    IPv6Network("fc00:5:0:42::/64"),
    1450,
    True,
)


def test_the_file_is_written_as_flannel_does() -> None:
    config = parse_config(
        '{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"vxlan"}}'
    )
    lease = Lease(IPv4Network("10.5.10.0/24"), IPv6Network("fc00:5:0:42::/64"))
    assert subnet_env_of(config, lease, 1450, True) == DUAL
    assert subnet_env(DUAL) == BOTH
    assert parse_subnet_env(BOTH) == DUAL


def test_ipv6_lines_are_there_only_where_ipv6_is() -> None:
    config = parse_config('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')
    lease = Lease(IPv4Network("10.5.10.0/24"), IPv6Network("fc00:5:0:42::/64"))
    assert subnet_env(subnet_env_of(config, lease, 8951, False)) == (
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.10.1/24\nFLANNEL_MTU=8951\nFLANNEL_IPMASQ=false\n"
    )


def test_ipv4_lines_are_there_only_where_ipv4_is() -> None:
    config = parse_config(
        '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"vxlan"}}'
    )
    lease = Lease(None, IPv6Network("fc00:5:0:42::/64"))
    assert subnet_env(subnet_env_of(config, lease, 1430, True)) == (
        "FLANNEL_IPV6_NETWORK=fc00:5::/48\nFLANNEL_IPV6_SUBNET=fc00:5:0:42::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        BOTH.replace("\n", "\r\n"),
        BOTH.replace("=", ' = "').replace("\n", '"  # by flanneld\n'),
        BOTH.replace("=", "='").replace("\n", "'\n"),
        "# a comment\n\nnonsense\n" + "".join(f"export {line}\n" for line in reversed(BOTH.splitlines())),
        "FLANNEL_SUBNET=10.9.9.1/24\n" + BOTH,
        BOTH.replace("\n", " # note\n"),
        BOTH.encode(),
        b"\xff\xfe\x00\n" + BOTH.encode(),
    ],
)
def test_a_file_is_read_however_it_was_edited(text: str | bytes) -> None:
    assert parse_subnet_env(text) == DUAL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FLANNEL_SUBNET=",
        "FLANNEL_SUBNET=10.5.10.1",
        "FLANNEL_SUBNET=10.5.10.1/32",
        "FLANNEL_SUBNET=10.5.10.1/24,10.5.11.1/24",
        "FLANNEL_IPV6_SUBNET=fe80::1%eth0/64",
        "FLANNEL_IPV6_SUBNET=fe80::1/128",
        "FLANNEL_IPV6_SUBNET=10.5.10.1/24",
        "FLANNEL_MTU=-1\nFLANNEL_IPMASQ=yes",
        "FLANNEL_MTU=٣",
        "FLANNEL_MTU=999999",
        "FLANNEL_MTU=0",
        "1=2\n=3\n",
    ],
)
def test_what_cannot_be_read_is_not_there(text: str) -> None:
    assert parse_subnet_env(text) == SubnetEnv()


def test_an_unclosed_quote_ends_with_its_line() -> None:
    assert assignments("A=\"1\nB='2' 3") == {"A": "1", "B": "2"}


fours = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 31)
)
sixes = st.builds(
    lambda address, length: IPv6Network((address, length), strict=False),
    st.integers(0, 2**128 - 1),
    st.integers(0, 127),
)


@given(
    st.builds(
        SubnetEnv,
        st.none() | fours,
        st.none() | fours,
        st.none() | sixes,
        st.none() | sixes,
        st.none() | st.integers(1, 65535),
        st.none() | st.booleans(),
    )
)
def test_what_is_written_is_read(env: SubnetEnv) -> None:
    assert parse_subnet_env(subnet_env(env)) == env


@given(st.binary() | st.text())
def test_nothing_crashes_the_reader(text: bytes | str) -> None:
    env = parse_subnet_env(text)
    assert parse_subnet_env(subnet_env(env)) == env
