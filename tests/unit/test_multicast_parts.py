"""The small machines of multicast discovery: when to speak, what to complain about, how parts wait, what fits."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from random import Random

import pytest

from weft.discovery.assembly import PATIENCE, Assembler
from weft.discovery.options import GROUP_V4, GROUP_V6, NO_KEY_WARNING, MulticastSettings, default_group
from weft.discovery.schedule import ANSWER_GAP, CHANGE_GAP, INFINITY, REPEAT, Schedule
from weft.discovery.tally import Complaints
from weft.errors import DiscoveryError
from weft.model import Mac, Node
from weft.wire.hello import Hello, Stamp


def schedule() -> Schedule:
    return Schedule(30.0, Random(1))


def spoken(times: Schedule, until: float) -> list[tuple[float, bool]]:
    """All HELLOs until then: when, and whether they ask."""
    out = []
    while times.next <= until:
        now = times.next
        speaks, asks = times.due(now)
        assert speaks
        out.append((now, asks))
    return out


def test_nothing_is_due_before_anything_happened() -> None:
    times = schedule()
    assert times.next == INFINITY
    assert times.due(1e9) == (False, False)


def test_at_start_it_asks_three_times_and_then_announces_each_interval_with_jitter() -> None:
    times = schedule()
    times.joined(100.0)
    said = spoken(times, 400.0)
    assert said[:3] == [(100.0, True), (101.0, True), (103.0, True)]
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(said[2:])]
    assert all(27.0 <= gap <= 33.0 for gap in gaps)
    assert len(set(gaps)) == len(gaps) == 9
    assert not any(asks for _, asks in said[3:])


def test_a_change_is_told_at_once_and_again_a_second_later() -> None:
    times = schedule()
    times.changed(10.0)
    assert spoken(times, 20.0) == [(10.0, False), (10.0 + REPEAT, False)]


def test_changes_that_come_in_a_burst_are_told_together() -> None:
    times = schedule()
    times.changed(10.0)
    times.due(10.0)
    for step in range(10):
        times.changed(10.0 + step * CHANGE_GAP / 20)
    assert times.next == 10.0 + CHANGE_GAP


def test_many_questions_get_few_answers() -> None:
    times = schedule()
    said = []
    for step in range(1000):
        now = step * 0.001
        times.asked(now, peers=10)
        speaks, asks = times.due(now)
        said += [now] if speaks else []
        assert not asks
    assert 3 <= len(said) <= 5
    assert all(later - earlier >= ANSWER_GAP for earlier, later in pairwise(said))


def test_answers_of_many_hosts_are_spread() -> None:
    waits = []
    for seed in range(50):
        times = Schedule(30.0, Random(seed))
        times.asked(0.0, peers=10_000)
        waits.append(times.next)
    assert 0.0 <= min(waits) < 0.2
    assert 0.8 < max(waits) <= 1.0


def test_what_is_lost_says_nothing() -> None:
    times = schedule()
    times.joined(0.0)
    times.changed(0.0)
    times.lost()
    assert times.next == INFINITY


# Complaints. --------------------------------------------------------------------------------------------------------


def test_a_repetition_is_no_news_and_puts_off_the_end() -> None:
    complaints = Complaints(10)
    complaints.report("kind", "host", "first", 10.0)
    version = complaints.version
    complaints.report("kind", "host", "second", 20.0)
    complaints.expire(10.0)
    assert [p.message for p in complaints.problems] == ["first"]
    assert complaints.version == version
    complaints.expire(20.0)
    assert not complaints.problems
    assert complaints.version != version
    assert complaints.next_expiry == INFINITY


def test_what_stands_until_cleared_has_the_latest_wording() -> None:
    complaints = Complaints(10)
    complaints.report("link", "eth0", "is down")
    version = complaints.version
    complaints.report("link", "eth0", "is down")
    assert complaints.version == version
    complaints.report("link", "eth0", "has no carrier")
    assert [p.message for p in complaints.problems] == ["has no carrier"]
    complaints.expire(1e9)
    assert len(complaints.problems) == 1
    complaints.clear("link", "eth0")
    complaints.clear("link", "eth0")
    assert not complaints.problems


def test_complaints_are_bounded_and_sorted() -> None:
    complaints = Complaints(3)
    for name in "dcba":
        complaints.report("kind", name, "text", 10.0)
    assert [p.subject for p in complaints.problems] == ["b", "c", "d"]


# Parts. -------------------------------------------------------------------------------------------------------------


def part(peer: str, number: int, of: int, seq: int = 1) -> tuple[Hello, Stamp]:
    at, stamp = IPv4Address("192.0.2.2"), Stamp("i", 1, seq)
    node = Node(peer, (at,), 4789, 4096, Mac(bytes((2, 0, 0, 0, 0, 1))), 1500)
    return Hello(peer, (at,), 4096, stamp=stamp, node=node, part=number, parts=of), stamp


def test_waiting_parts_take_bounded_memory_and_the_oldest_give_way() -> None:
    assembler = Assembler(limit=10_000)
    for number in range(1000):
        assert assembler.add(*part(f"n{number}", 1, 2), size=1400, now=0.0) is None
        assert assembler.octets <= 10_000
    assert assembler.add(*part("n0", 2, 2), size=1400, now=0.0) is None
    whole = assembler.add(*part("n999", 2, 2), size=1400, now=0.0)
    assert whole is not None
    assert whole[1] == 2800


def test_parts_that_wait_too_long_are_given_up() -> None:
    assembler = Assembler(limit=10_000)
    assembler.add(*part("a", 1, 2), size=1400, now=0.0)
    assembler.add(*part("b", 1, 2), size=1400, now=PATIENCE)
    assert assembler.octets == 1400
    assert assembler.add(*part("a", 2, 2), size=1400, now=PATIENCE) is None


def test_a_new_set_and_a_new_division_begin_anew() -> None:
    assembler = Assembler(limit=10_000)
    assembler.add(*part("a", 1, 2, seq=1), size=1400, now=0.0)
    assert assembler.add(*part("a", 2, 3, seq=1), size=1400, now=0.0) is None
    assert assembler.add(*part("a", 2, 2, seq=2), size=1400, now=0.0) is None
    assert assembler.octets == 1400
    whole = assembler.add(*part("a", 1, 2, seq=2), size=1400, now=0.0)
    assert whole is not None
    assert assembler.octets == 0


# Options. -----------------------------------------------------------------------------------------------------------


SETTINGS = MulticastSettings("a", "eth0", IPv4Address("192.0.2.1"), "i")


def test_the_defaults_are_the_documents() -> None:
    assert (str(SETTINGS.group), SETTINGS.port, SETTINGS.ttl) == ("239.1.1.1", 4790, 1)
    assert (SETTINGS.announce_interval, SETTINGS.peer_timeout, SETTINGS.key) == (30.0, 90.0, None)
    assert default_group(IPv4Address("192.0.2.1")) == GROUP_V4
    assert default_group(IPv6Address("2001:db8::1")) == GROUP_V6
    said = NO_KEY_WARNING.format(port=4790, key="KEY")
    assert "4790" in said
    assert "the same KEY (or KEY_FILE)" in said


def test_the_key_is_not_printed() -> None:
    assert "swordfish" not in repr(replace(SETTINGS, key=b"swordfish"))


def test_families_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(DiscoveryError, match="other IP version"):
        replace(SETTINGS, group=GROUP_V6)
    with pytest.raises(DiscoveryError, match="other IP version"):
        replace(SETTINGS, direct=(IPv6Address("2001:db8::1"),))
    with pytest.raises(DiscoveryError, match=r"not a multicast group; e\.g\. 239\.1\.1\.1"):
        replace(SETTINGS, group=IPv4Address("192.0.2.9"))
