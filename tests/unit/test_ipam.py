"""Which subnet a host gets: flannel's order, against a slow and plain reading of it; nothing that is taken, ever."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.ipam import choose, exhausted, fits
from weft.wire.flannel import Pool4, Pool6

POOL = Pool4(IPv4Network("10.5.0.0/16"), 24, IPv4Address("10.5.1.0"), IPv4Address("10.5.255.0"))
POOL6 = Pool6(IPv6Network("fc00:5::/48"), 64, IPv6Address("fc00:5:0:1::"), IPv6Address("fc00:5:0:ffff::"))
SMALL = Pool4(IPv4Network("10.5.0.0/26"), 28, IPv4Address("10.5.0.16"), IPv4Address("10.5.0.48"))


def nets(*texts: str) -> list[IPv4Network]:
    return [IPv4Network(text) for text in texts]


def test_one_of_the_first_hundred_is_taken() -> None:
    assert choose(POOL, [], 0.0) == IPv4Network("10.5.1.0/24")
    assert choose(POOL, [], 0.5) == IPv4Network("10.5.51.0/24")
    assert choose(POOL, [], 0.999) == IPv4Network("10.5.100.0/24")
    assert choose(POOL6, [], 0.999) == IPv6Network("fc00:5:0:64::/64")


def test_what_is_taken_is_jumped_over_whatever_its_length() -> None:
    taken = nets("10.5.1.0/24", "10.5.2.128/25", "10.5.3.4/30", "10.5.4.0/22", "10.0.0.0/16", "10.6.0.0/24")
    assert choose(POOL, taken, 0.0) == IPv4Network("10.5.8.0/24")
    assert choose(POOL, [*taken, *nets("10.5.0.0/17")], 0.0) == IPv4Network("10.5.128.0/24")
    assert choose(POOL, nets("10.5.4.0/22", "10.5.0.0/22"), 0.0) == IPv4Network("10.5.8.0/24")
    assert choose(POOL6, [IPv6Network("fc00:5::/56"), IPv6Network("fc00:5:0:100::8/126")], 0.0) == IPv6Network(
        "fc00:5:0:101::/64"
    )


def test_a_lease_that_covers_the_network_leaves_nothing() -> None:
    assert choose(POOL, nets("10.0.0.0/8"), 0.0) is None


def test_the_last_one_is_found_and_then_there_is_none() -> None:
    taken = nets("10.5.0.16/28", "10.5.0.32/28")
    assert choose(SMALL, taken, 0.999) == IPv4Network("10.5.0.48/28")
    assert choose(SMALL, [*taken, *nets("10.5.0.48/29")], 0.5) is None


def test_a_pool_at_the_end_of_all_addresses() -> None:
    pool = Pool4(IPv4Network("255.255.255.0/24"), 26, IPv4Address("255.255.255.64"), IPv4Address("255.255.255.192"))
    assert choose(pool, nets("255.255.255.64/26", "255.255.255.128/26"), 0.0) == IPv4Network("255.255.255.192/26")


def test_the_former_subnet_comes_back_if_it_is_free() -> None:
    former = IPv4Network("10.5.77.0/24")
    assert choose(POOL, nets("10.5.76.0/24", "10.5.78.0/23"), 0.0, former) == former
    assert choose(POOL6, [], 0.0, IPv6Network("fc00:5:0:42::/64")) == IPv6Network("fc00:5:0:42::/64")


@pytest.mark.parametrize("former", ["10.5.76.0/24", "10.5.77.0/24"])
@pytest.mark.parametrize(
    "taken", [("10.5.76.0/24", "10.5.77.0/24"), ("10.5.76.0/30", "10.5.77.128/30"), ("10.5.76.0/23",)]
)
def test_the_former_subnet_is_let_go_if_somebody_has_it(former: str, taken: tuple[str, ...]) -> None:
    assert choose(POOL, nets(*taken), 0.0, IPv4Network(former)) == IPv4Network("10.5.1.0/24")


@pytest.mark.parametrize("former", ["10.5.77.0/25", "10.6.77.0/24", "10.5.0.0/24"])
def test_the_former_subnet_is_let_go_if_the_config_would_not_give_it_out(former: str) -> None:
    assert choose(POOL, [], 0.0, IPv4Network(former)) == IPv4Network("10.5.1.0/24")


@pytest.mark.parametrize(
    ("subnet", "verdict"),
    [
        ("10.5.1.0/24", True),
        ("10.5.255.0/24", True),
        ("10.5.0.0/24", False),
        ("10.6.0.0/24", False),
        ("10.5.1.0/25", False),
        ("10.5.2.0/23", False),
        ("fc00:5:0:1::/64", False),
    ],
)
def test_what_fits(subnet: str, verdict: bool) -> None:
    assert fits(ip_network(subnet), POOL) is verdict


def test_what_fits_ipv6() -> None:
    assert fits(IPv6Network("fc00:5:0:ffff::/64"), POOL6)
    assert not fits(IPv6Network("fc00:5::/64"), POOL6)
    assert not fits(IPv4Network("10.5.1.0/24"), POOL6)


def test_a_pool_without_room_says_who_holds_it_and_what_to_do() -> None:
    taken = nets("10.5.0.16/28", "10.5.0.32/28", "10.5.0.48/29", "10.5.0.56/29", "10.6.0.0/28", "10.5.0.0/28")
    assert str(exhausted(SMALL, taken)) == (
        "out of subnets: 4 leases hold all of 3 subnets of /28 from 10.5.0.16 to 10.5.0.48; `weft leases` shows them, "
        "`weft leases release SUBNET` frees a dead host's, and a wider Network or SubnetMax in the config makes room"
    )
    assert "1 leases hold all of 65535 subnets of /64" in str(exhausted(POOL6, [IPv6Network("fc00::/16")]))


# --- against a plain reading ------------------------------------------------------------------------------------------


def plainly(pool: Pool4, taken: Sequence[IPv4Network], random: float) -> IPv4Network | None:
    """flannel's walk, as its words say it."""
    free: list[IPv4Network] = []
    for subnet in pool.network.subnets(new_prefix=pool.length):
        inside = pool.first <= subnet.network_address <= pool.last
        if inside and len(free) < 100 and not any(subnet.overlaps(t) for t in taken):
            free.append(subnet)
    return free[int(random * len(free))] if free else None


@st.composite
def pools(draw: st.DrawFn) -> Pool4:
    length = draw(st.integers(20, 30))
    network = IPv4Network((draw(st.integers(0, 0xFFFF)) << 16, max(16, length - draw(st.integers(2, 9)))), strict=False)
    count = 1 << length - network.prefixlen
    first = draw(st.integers(0, count - 1))
    last = draw(st.integers(first, count - 1))
    size = 1 << 32 - length
    return Pool4(network, length, network[first * size], network[last * size])


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Pool4, list[IPv4Network]]:
    pool = draw(pools())
    inside = st.integers(int(pool.network[0]), int(pool.network[-1]))
    lengths = st.integers(pool.network.prefixlen - 1, 31)
    near = st.builds(lambda address, length: IPv4Network((address, length), strict=False), inside, lengths)
    usual = st.builds(lambda address: IPv4Network((address, pool.length), strict=False), inside)
    return pool, draw(st.lists(st.one_of(usual, usual, near), max_size=60))


@given(crowds(), st.floats(0, 1, exclude_max=True))
def test_it_is_the_one_that_flannel_would_take(crowd: tuple[Pool4, list[IPv4Network]], random: float) -> None:
    pool, taken = crowd
    chosen = choose(pool, taken, random)
    assert chosen == plainly(pool, taken, random)
    assert chosen is None or (fits(chosen, pool) and not any(chosen.overlaps(t) for t in taken))


@given(crowds(), st.data())
def test_a_former_subnet_is_taken_exactly_if_it_fits_and_is_free(
    crowd: tuple[Pool4, list[IPv4Network]], data: st.DataObject
) -> None:
    pool, taken = crowd
    former = data.draw(st.sampled_from([*taken, IPv4Network((int(pool.last), pool.length))]))
    welcome = fits(former, pool) and not any(former.overlaps(t) for t in taken)
    assert (choose(pool, taken, 0.0, former) == former) is (welcome or plainly(pool, taken, 0.0) == former)


def test_a_pool_fills_up_to_the_last_subnet() -> None:
    taken: list[IPv4Network] = []
    while (subnet := choose(POOL, taken, 0.7)) is not None:
        taken.append(subnet)
    assert len(set(taken)) == 255


def timed(pool: Pool4, taken: Iterable[IPv4Network]) -> float:
    started = time.perf_counter()
    assert choose(pool, taken, 0.5) is not None
    return time.perf_counter() - started


def test_many_leases_in_a_large_pool_take_no_time() -> None:
    """16 ms on the machine that this was written on; a comparison of each subnet with each lease takes an hour."""
    pool = Pool4(IPv4Network("10.0.0.0/8"), 30, IPv4Address("10.0.0.4"), IPv4Address("10.255.255.252"))
    taken = [IPv4Network((int(pool.first) + 4 * index, 30)) for index in range(60_000)]
    assert min(timed(pool, taken) for _ in range(3)) < 10


def test_a_pool_beyond_counting_is_never_walked() -> None:
    pool = Pool6(IPv6Network("fc00::/7"), 126, IPv6Address("fc00::4"), IPv6Address(2**128 - (1 << 121) - 4))
    taken = [IPv6Network("fc00::/8"), IPv6Network("fd00::/16")]
    assert choose(pool, taken, 0.0) == IPv6Network("fd01::/126")
