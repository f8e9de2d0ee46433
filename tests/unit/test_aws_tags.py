"""The tags that say which routes of an AWS table are ours: what is written is read back, and fits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import TargetError, WireError
from weft.model import IPNetwork
from weft.wire.aws_tags import (
    LONGEST_VALUE,
    MOST_NEW,
    MOST_SETTLED,
    TAGS_AT_ALL,
    Claims,
    claims_of,
    mark,
    owner_key,
    portions,
    tags_of,
)

OWNER = owner_key("/coreos.com/network")
ALLOWED = re.compile(r"[A-Za-z0-9 +\-=.:/@_]*")

fours = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda n: IPv4Network(n, strict=False))
sixes = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda n: IPv6Network(n, strict=False))
close = st.integers(0, 2000).map(lambda n: IPv4Network((10 << 24 | n << 8, 24)))
networks: st.SearchStrategy[IPNetwork] = st.one_of(close, fours, sixes)
marks = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)


def settled(*texts: str) -> Claims:
    return Claims(frozenset(map(ip_network, texts)))


def values(claims: Claims) -> list[str]:
    return list(tags_of(OWNER, claims).values())


@given(st.frozensets(networks, max_size=60), st.dictionaries(networks, marks, max_size=20))
def test_what_is_written_is_read_back(listed: frozenset[IPNetwork], new: dict[IPNetwork, str]) -> None:
    claims = Claims(listed, {dst: kept for dst, kept in new.items() if dst not in listed})
    tags = tags_of(OWNER, claims)
    assert claims_of(OWNER, tags) == claims
    assert len(claims) == len(set(claims))
    for key, value in tags.items():
        assert ALLOWED.fullmatch(key)
        assert ALLOWED.fullmatch(value)
        assert len(key) <= 128
        assert len(value) <= LONGEST_VALUE
        assert value == value.strip()


def test_it_can_be_read_by_people() -> None:
    runs = [f"10.5.{n}.0/24" for n in (3, 4, 5, 12)]
    assert values(settled(*runs, "10.6.0.0/24", "fd00:5:0:301::/64")) == [
        "10.5.0.0/24=3-5.12 10.6.0.0/24 fd00:5:0:301::/64"
    ]
    new = Claims(new={ip_network("10.5.40.0/24"): "0a1b2c3d"})
    assert tags_of(OWNER, new) == {f"{OWNER}new:0": "10.5.40.0/24@0a1b2c3d"}
    assert OWNER == "weft-routes:/coreos.com/network:a87dabce:"


def test_no_claims_are_no_tags() -> None:
    assert tags_of(OWNER, Claims()) == {}
    assert claims_of(OWNER, {"Name": "main", "team": "10.0.0.0/8"}) == Claims()


@pytest.mark.parametrize(
    "networks",
    [
        [IPv4Network((10 << 24 | n << 8, 24)) for n in range(1000)],
        [IPv4Network((10 << 24 | (n * 7919 % 65536) << 8, 24)) for n in range(1000)],
        [IPv4Network((10 << 24 | 5 << 16 | n * 64, 26)) for n in range(1024)],
        [IPv6Network(((0xFD000005 << 96) | (n * 7919 % 65536) << 64, 64)) for n in range(1000)],
    ],
    ids=["in a row", "strewn over 10.0.0.0/8", "one /16 in /26", "strewn over a /48"],
)
def test_a_thousand_fit_beside_what_is_new(networks: Iterable[IPNetwork]) -> None:
    assert len(tags_of(OWNER, Claims(frozenset(networks)))) <= MOST_SETTLED
    assert MOST_SETTLED + MOST_NEW < TAGS_AT_ALL


def test_every_second_block_of_many_is_split_where_a_value_is_full() -> None:
    claims = Claims(frozenset(IPv4Network((10 << 24 | n << 8, 24)) for n in range(0, 256, 2)))
    assert len(values(claims)) == 2
    assert claims_of(OWNER, tags_of(OWNER, claims)) == claims


def test_too_many_are_refused_with_figures() -> None:
    strewn = frozenset(IPv6Network((n * 0x1234567890ABCDEF1234567, 128)) for n in range(1, 800))
    with pytest.raises(TargetError, match=r"the list of 799 destinations needs \d+ \+ 0 tags of 256"):
        tags_of(OWNER, Claims(strewn))
    new: dict[IPNetwork, str] = {IPv4Network((n, 32)): "00000000" for n in range(200)}
    with pytest.raises(TargetError, match=r"needs 0 \+ \d+ tags"):
        tags_of(OWNER, Claims(new=new))


@pytest.mark.parametrize(
    "value",
    [
        "10.5.0.0/24=",
        "10.5.0.0/24=3-",
        "10.5.0.0/24=9-3",
        "10.5.0.0/24=0-99999999999",
        "10.5.0.0/24=70000000",
        "10.5.0.0/24=3,4",
        "10.5.0.1/24",
        "nonsense",
        "0.0.0.0/0=1",
    ],
)
def test_a_value_that_cannot_be_read_is_an_error_that_names_its_tag(value: str) -> None:
    with pytest.raises(WireError, match=re.escape(f"{OWNER}0 with the value '{value}'")):
        claims_of(OWNER, {f"{OWNER}0": value})


@pytest.mark.parametrize("value", ["10.5.0.0/24", "10.5.0.0/24@", "10.5.0.0/24@a b", "@0a1b2c3d", "10.5.0.0/24@A!"])
def test_a_new_one_without_network_or_mark_is_an_error(value: str) -> None:
    with pytest.raises(WireError, match="new:0"):
        claims_of(OWNER, {f"{OWNER}new:0": value})


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for key in (f"{OWNER}0", f"{OWNER}new:0"):
        try:
            claims_of(OWNER, {key: text})
        except WireError:
            continue


def test_ranges_that_would_fill_the_memory_are_refused() -> None:
    with pytest.raises(WireError, match="more than"):
        claims_of(OWNER, {f"{OWNER}{n}": f"{n}.0.0.0/32=0-15000" for n in range(10, 14)})


def test_what_is_in_both_is_settled() -> None:
    """A write of tags may have been carried out by half: CreateTags, and not yet DeleteTags."""
    tags = {f"{OWNER}0": "10.5.1.0/24", f"{OWNER}new:0": "10.5.1.0/24@0a1b2c3d 10.5.2.0/24@0a1b2c3d"}
    claims = claims_of(OWNER, tags)
    assert claims == Claims(frozenset({ip_network("10.5.1.0/24")}), {ip_network("10.5.2.0/24"): "0a1b2c3d"})
    assert ip_network("10.5.2.0/24") in claims
    assert ip_network("10.5.3.0/24") not in claims


def test_managers_with_different_prefixes_have_different_keys() -> None:
    assert owner_key("/coreos.com/network/") == owner_key("coreos.com/network")
    other = owner_key("/other/network")
    assert other != OWNER
    assert claims_of(other, tags_of(OWNER, settled("10.5.1.0/24"))) == Claims()
    long, strange = owner_key("/a" * 200), owner_key("/ä,*\\")
    assert len(long) <= 110
    assert ALLOWED.fullmatch(strange)
    assert owner_key("/ä,*\\") != owner_key("/ö,*\\")


def test_a_mark_is_the_end_of_an_interface() -> None:
    assert mark("eni-0123456789ABCDEF0") == "9abcdef0"
    assert mark("eni-12") == "12"
    assert mark("") == "none"


@given(st.lists(networks, max_size=300, unique=True))
def test_portions_fit_and_lose_nothing(items: list[IPNetwork]) -> None:
    parts = portions((dst, dst) for dst in items)
    assert [dst for part in parts for dst in part] == items
    for part in parts:
        assert part
        tags_of(OWNER, Claims(new=dict.fromkeys(part, "00000000")))


def test_portions_are_large() -> None:
    """A write of tags for each is one call too many if they are small."""
    items = [IPv4Network((10 << 24 | n << 8, 24)) for n in range(1000)]
    assert len(portions((dst, dst) for dst in items)) <= 17
