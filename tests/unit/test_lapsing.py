"""What becomes of claims that are gone from a store."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from weft.core.lapsing import DAY, NEVER, Claim, Lapsing, Moment
from weft.model import Mac, Network, Node

GRACE = 60.0
START = Moment(100.0, 1.8e9)


def claim(*subnets: str, ip: str = "10.0.0.1", lease: int = 7, key: str = "") -> Claim:
    called = " & ".join(subnets)
    networks = (Network("lease", tuple(ip_network(text) for text in subnets)),)
    node = Node(called, (ip_address(ip),), 0, 0, Mac(bytes(6)), 0, networks, backend="cloud")
    return Claim(key or called, lease, node, f"lease {called}")


def at(seconds: float) -> Moment:
    return Moment(START.now + seconds, START.wall + seconds)


def subnets(lapsing: Lapsing) -> list[str]:
    return [str(s) for c in lapsing.claims for n in c.node.networks for s in n.subnets]


ONE, TWO = claim("10.5.1.0/24"), claim("10.5.2.0/24", ip="10.0.0.2", lease=8)


def test_what_is_there_is_there() -> None:
    lapsing = Lapsing(GRACE).after((ONE, TWO), START)
    assert lapsing.claims is lapsing.live
    assert lapsing.next_end == NEVER
    assert not lapsing.problems


def test_what_is_gone_stays_until_somebody_was_asked() -> None:
    lapsing = Lapsing(GRACE).after((ONE, TWO), START).after((TWO,), at(1))
    assert lapsing.missed == (ONE,)
    assert subnets(lapsing) == ["10.5.1.0/24", "10.5.2.0/24"]
    assert lapsing.judged({}, at(2)) == lapsing


def test_a_lease_that_ran_out_is_kept_for_the_grace_time_and_told() -> None:
    lapsing = Lapsing(GRACE).after((ONE, TWO), START).after((TWO,), at(1)).judged({ONE.key: True}, at(2))
    assert subnets(lapsing) == ["10.5.1.0/24", "10.5.2.0/24"]
    assert lapsing.next_end == at(62).now
    (problem,) = lapsing.problems
    assert problem.subject == "10.5.1.0/24"
    assert "lease 10.5.1.0/24 (10.0.0.1) ran out" in problem.message
    assert "for 60 s, until 2027-01-15 08:01:02 UTC" in problem.message
    assert not problem.wrong
    assert lapsing.ended(at(61.9).now) is lapsing
    assert subnets(lapsing.ended(at(62).now)) == ["10.5.2.0/24"]


def test_a_deleted_lease_goes_at_once() -> None:
    missing = Lapsing(GRACE).after((ONE, TWO), START).after((TWO,), at(1))
    assert subnets(missing.judged({ONE.key: False}, at(1))) == ["10.5.2.0/24"]


def test_a_reservation_that_is_deleted_goes_at_once_and_nobody_is_asked() -> None:
    lapsing = Lapsing(GRACE).after((replace(ONE, lease=0), TWO), START).after((TWO,), at(1))
    assert not lapsing.missed
    assert subnets(lapsing) == ["10.5.2.0/24"]


def test_without_a_grace_time_nothing_is_kept() -> None:
    missing = Lapsing(0.0).after((ONE,), START).after((), at(1))
    assert subnets(missing.judged({ONE.key: True}, at(1))) == []


def test_who_said_that_he_leaves_goes_at_once() -> None:
    lapsing = Lapsing(GRACE).after((ONE, TWO), START).after((TWO,), at(1), departed={ONE.key})
    assert subnets(lapsing) == ["10.5.2.0/24"]


def test_a_changed_claim_is_not_gone() -> None:
    changed = claim("10.5.1.0/24", ip="10.0.0.9")
    lapsing = Lapsing(GRACE).after((ONE,), START).after((changed,), at(1))
    assert (lapsing.live, lapsing.missed) == ((changed,), ())


def test_a_live_lease_ends_a_kept_one_at_once() -> None:
    kept = Lapsing(GRACE).after((ONE,), START).after((), at(1)).judged({ONE.key: True}, at(1))
    for other in ("10.5.1.0/24", "10.5.0.0/16", "10.5.1.128/25"):
        lapsing = kept.after((claim(other, ip="10.0.0.9", key="another"),), at(2))
        assert (subnets(lapsing), lapsing.kept, lapsing.problems) == ([other], (), ())


def test_one_whose_key_is_back_is_kept_no_more_whatever_it_says() -> None:
    kept = Lapsing(GRACE).after((ONE,), START).after((), at(1)).judged({ONE.key: True}, at(1))
    assert subnets(kept.after((claim("10.5.77.0/24", key=ONE.key),), at(2))) == ["10.5.77.0/24"]


def test_a_live_lease_ends_one_that_is_being_asked_about() -> None:
    both = Lapsing(GRACE).after((ONE, TWO), START).after((TWO,), at(1))
    lapsing = both.after((TWO, claim("10.5.0.0/23", ip="10.0.0.9", key="a")), at(2))
    assert not lapsing.missed
    assert not lapsing.judged({ONE.key: True}, at(3)).kept
    there = claim("10.5.1.0/24", ip="10.0.0.9", key="a")
    assert not Lapsing(GRACE).after((ONE,), START).after((there,), at(1)).missed


def test_of_a_kept_one_goes_only_what_a_live_one_has() -> None:
    dual = claim("10.5.1.0/24", "fc00:5::/64")
    kept = Lapsing(GRACE).after((dual,), START).after((), at(1)).judged({dual.key: True}, at(1))
    lapsing = kept.after((claim("10.5.1.0/24", ip="10.0.0.9", key="a"),), at(2))
    assert subnets(lapsing) == ["fc00:5::/64", "10.5.1.0/24"]


def test_a_restored_store_is_told_and_what_it_forgot_stays_for_a_day() -> None:
    reserved = replace(TWO, lease=0)
    lapsing = Lapsing(GRACE).after((ONE, reserved), START).after((), at(1), forgetful=True)
    assert not lapsing.missed
    assert subnets(lapsing) == ["10.5.1.0/24", "10.5.2.0/24"]
    assert lapsing.next_end == at(1 + DAY).now
    (problem,) = lapsing.problems
    assert problem.wrong
    assert "lease 10.5.1.0/24 (10.0.0.1) and 1 more" in problem.message
    assert subnets(lapsing.after((claim("10.5.1.0/24", ip="10.0.0.9"),), at(2))) == ["10.5.1.0/24", "10.5.2.0/24"]
    assert subnets(lapsing.ended(at(1 + DAY).now)) == []


def test_one_that_is_forgotten_is_named_alone() -> None:
    lapsing = Lapsing(GRACE).after((ONE,), START).after((), at(1), forgetful=True)
    assert "more" not in lapsing.problems[0].message


def test_the_etcd_lease_at_the_end_is_what_counts() -> None:
    moved = Lapsing(GRACE).after((ONE, TWO), START).hanging({ONE.key: 0}).after((TWO,), at(1))
    assert not moved.missed
    plain = Lapsing(GRACE).after((ONE,), START)
    assert plain.hanging({}) is plain


def test_nothing_to_route_to_is_not_kept() -> None:
    empty = replace(ONE, node=replace(ONE.node, networks=()))
    assert not Lapsing(GRACE).after((empty,), START).after((), at(1)).missed


NETS = st.sampled_from(["10.0.0.0/24", "10.0.0.0/25", "10.0.0.128/25", "10.0.1.0/24", "10.0.0.0/23", "fd00::/64"])
SETS = st.lists(st.tuples(NETS, st.sampled_from("abcd"), st.integers(0, 3)), max_size=4)


@given(st.lists(st.tuples(SETS, st.booleans(), st.booleans(), st.floats(0.0, 50.0)), max_size=8))
def test_whatever_comes_and_goes(steps: list[tuple[list[tuple[str, str, int]], bool, bool, float]]) -> None:
    """Nothing that is live is missing or there twice, nothing kept overlaps it, and all kept ones end."""
    lapsing, now, numbers = Lapsing(GRACE), 0.0, count(1)
    for rows, forgetful, answer, wait in steps:
        now += wait
        live = {key: claim(net, ip=f"10.9.0.{next(numbers) % 250}", lease=lease, key=key) for net, key, lease in rows}
        claims = tuple(live[key] for key in sorted(live))
        lapsing = lapsing.ended(now).after(claims, Moment(now, now), forgetful)
        lapsing = lapsing.judged({c.key: bool(c.lease % 2) for c in lapsing.missed} if answer else {}, Moment(now, now))
        assert lapsing.live == claims
        keys = [c.key for c in lapsing.claims]
        assert keys == sorted(set(keys))
        rest = [s for c in lapsing.claims if c.key not in live for n in c.node.networks for s in n.subnets]
        mine = [s for c in claims for n in c.node.networks for s in n.subnets]
        assert not any(s.version == m.version and s.overlaps(m) for s in rest for m in mine)
        assert all(k.until <= now + (DAY if k.forgotten else GRACE) for k in lapsing.kept)
    assert not lapsing.ended(now + DAY).kept
