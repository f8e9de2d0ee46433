"""Who is in DNS and who of them is alive: rounds of queries as values, time as an argument."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.dns_hosts import router
from weft.discovery.dns_book import MEMORY, NEVER, Book, Round
from weft.discovery.dns_options import DnsSettings
from weft.discovery.tally import Complaints
from weft.model import Node
from weft.wire.dns import Entry
from weft.wire.hello import Stamp

WALL = 1_700_000_000.0
"""What our wall clock says at 0 of the other one."""
DAY = 86400.0


class Zone:
    """A book, and what the rounds find: `entries` by id."""

    def __init__(self, hold: float = 0.0) -> None:
        self.complaints = Complaints(16)
        self.book = Book(DnsSettings("me", "i", "example.com", goodbye_hold=hold), self.complaints)
        self.entries: dict[str, Entry] = {}

    def put(self, name: str, seq: int, at: float, off: float = 0.0, every: float = 30.0, ttl: int = 60) -> None:
        """Its owner refreshed it at that time of our clock; its own is off by so much."""
        node = router(name, 2 if name != "me" else 1)
        self.entries[name] = Entry(node, Stamp(f"{name}.1", 1, seq), WALL + at + off, every, ttl, (10, 5, 4790))

    def look(self, at: float, **changes: object) -> list[str]:
        found = Round(at, WALL + at, tuple(self.entries.values()))
        self.book.take(replace(found, **changes))  # type: ignore[arg-type]
        return self.ids

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.book.known().items]

    @property
    def complete(self) -> bool:
        return self.book.known().complete

    @property
    def said(self) -> str:
        return "\n".join(one.message for one in self.complaints.problems)


def test_nothing_is_known_before_the_first_round() -> None:
    zone = Zone()
    assert (zone.ids, zone.complete, zone.book.next_expiry) == ([], False, NEVER)
    assert zone.look(0) == []
    assert zone.complete


def test_who_is_refreshed_stays_and_who_is_not_goes_after_the_timeout() -> None:
    zone = Zone()
    zone.put("b", 1, 0)
    zone.put("c", 1, 0)
    assert zone.look(0) == ["b", "c"]
    for seq in (2, 3, 4):
        zone.put("b", seq, seq * 30.0)
        zone.look(seq * 30.0)
    assert zone.ids == ["b"]
    assert zone.look(121) == ["b"]
    assert zone.complete
    assert "c (192.0.2.2) was last refreshed at 2023-11-14 22:13:20Z" in zone.said
    assert zone.book.last_seen() == {"b": WALL + 120}
    zone.put("c", 2, 200)
    assert zone.look(200) == ["b", "c"]
    assert zone.said == ""


def test_the_timeout_is_the_owners_if_it_refreshes_rarely_and_longer_behind_a_cache() -> None:
    zone = Zone()
    zone.put("b", 1, 0, every=100)
    zone.look(0)
    assert zone.book.next_expiry == 300
    zone.look(1, cached=True)
    assert zone.book.next_expiry == 360


def test_last_seen_is_when_it_was_heard_and_at_the_start_its_own_word() -> None:
    zone = Zone()
    zone.put("b", 1, -20)
    zone.look(0)
    assert zone.book.last_seen() == {"b": WALL - 20}
    assert zone.book.next_expiry == pytest.approx(90)  # it is given its time from when we began to look
    zone.look(30)
    assert zone.book.last_seen() == {"b": WALL - 20}


@pytest.mark.parametrize("off", [-DAY, -3600.0, 3600.0])
def test_a_clock_that_is_off_costs_one_interval_at_our_start(off: float) -> None:
    zone = Zone()
    zone.put("b", 1, -1, off)
    assert zone.look(0) == []
    assert not zone.complete
    assert "not believed before it is refreshed" in zone.said
    zone.put("b", 2, 29, off)
    assert zone.look(30) == ["b"]
    assert (zone.complete, zone.said) == (True, "")
    assert zone.book.last_seen() == {"b": WALL + 30}


def test_who_comes_while_we_look_is_believed_whatever_its_clock() -> None:
    zone = Zone()
    zone.look(0)
    zone.put("b", 1, 20, -DAY)
    assert zone.look(30) == ["b"]
    assert zone.complete


def test_a_record_of_a_dead_host_never_is_a_peer_and_hinders_for_one_timeout() -> None:
    zone = Zone()
    zone.put("b", 1, -DAY)
    for at in (0, 30, 60, 89):
        assert zone.look(at) == []
        assert not zone.complete
    assert zone.look(90) == []
    assert zone.complete
    assert "it is gone, and its records stay" in zone.said
    del zone.entries["b"]
    zone.look(120)
    assert (zone.said, list(zone.book.departed())) == ("", [])


def test_a_server_that_is_silent_ages_nobody() -> None:
    zone = Zone()
    zone.put("b", 1, 0)
    zone.look(0)
    zone.book.failed()
    assert (zone.ids, zone.complete, zone.book.next_expiry) == (["b"], False, NEVER)
    assert zone.look(5000) == ["b"]
    assert zone.complete
    assert zone.book.next_expiry == 5090
    assert zone.look(5090) == []


def test_a_name_that_cant_be_asked_for_ages_nobody_behind_it() -> None:
    zone = Zone()
    zone.put("b", 1, 0)
    zone.look(0)
    gone = zone.entries.pop("b")
    assert zone.look(80, unanswered=frozenset({(b"b", b"example", b"com")})) == ["b"]
    assert not zone.complete
    zone.entries["b"] = gone
    assert zone.look(160) == ["b"]
    assert zone.complete


def test_who_takes_its_records_out_is_gone_after_the_hold() -> None:
    zone = Zone(hold=30)
    zone.put("b", 1, 0)
    zone.look(0)
    zone.entries.clear()
    assert zone.look(10) == ["b"]
    assert zone.complete
    assert zone.book.next_expiry == 40
    assert zone.book.departed() == set()
    assert zone.look(40) == []
    assert set(zone.book.departed()) == {"b"}
    zone.put("b", 2, 50)
    assert zone.look(50) == ["b"]
    assert set(zone.book.departed()) == set()


def test_who_is_back_within_the_hold_stays() -> None:
    zone = Zone(hold=30)
    zone.put("b", 1, 0)
    zone.look(0)
    entry = zone.entries.pop("b")
    zone.look(10)
    zone.entries["b"] = entry
    zone.look(20)
    assert zone.look(80) == ["b"]


def test_who_left_is_remembered_for_an_hour() -> None:
    zone = Zone()
    zone.put("b", 1, 0)
    zone.look(0)
    zone.entries.clear()
    zone.look(10)
    zone.look(10 + MEMORY - 1)
    assert set(zone.book.departed()) == {"b"}
    zone.look(10 + MEMORY)
    assert set(zone.book.departed()) == set()


def test_who_vanishes_together_with_us_is_kept_until_it_is_silent() -> None:
    zone = Zone()
    for name in ("b", "c", "me"):
        zone.put(name, 1, 0)
    zone.look(0)
    zone.book.registered_since = 0.0
    zone.look(10)
    zone.entries.clear()
    assert not zone.book.take(Round(30, WALL + 30))
    assert (zone.ids, zone.complete) == (["b", "c"], False)
    zone.put("me", 2, 31)
    zone.put("b", 2, 40)
    assert zone.look(60) == ["b", "c"]
    assert not zone.complete
    assert zone.look(91) == ["b"]
    assert (zone.complete, zone.said, set(zone.book.departed())) == (True, "", set())


def test_when_our_own_records_had_to_be_put_back_who_is_missing_may_follow() -> None:
    zone = Zone()
    zone.put("b", 1, 0)
    zone.look(0)
    zone.book.shaken()
    zone.entries.clear()
    assert zone.look(1) == ["b"]
    assert not zone.complete
    zone.put("b", 2, 2)
    zone.look(3)
    assert zone.complete


def test_of_two_entries_of_one_id_the_newer_holds() -> None:
    zone = Zone()
    zone.put("b", 1, 0)
    old = zone.entries["b"]
    new = replace(old, node=router("b", 2, stack="moved"), stamp=Stamp("b.2", 2, 1))
    zone.look(0, entries=(new, old))
    assert zone.book.known().items[0].stack == "moved"


def test_a_record_that_cant_be_read_loses_nothing_until_it_is_silent() -> None:
    zone = Zone()
    zone.put("b", 1, 0)
    zone.look(0)
    zone.entries.clear()
    assert zone.look(30, unreadable={"b": "the TXT record of b can't be read"}) == ["b"]
    assert "what it said before holds until it is silent" in zone.said
    assert zone.look(90, unreadable={"b": "the TXT record of b can't be read"}) == []


def test_plain_nodes_come_and_go_with_their_records() -> None:
    zone = Zone()
    plain: tuple[Node, ...] = (router("p", 7),)
    assert zone.look(0, plain=plain, odd={"q": "q has no address"}) == ["p"]
    assert (zone.book.last_seen(), zone.said) == ({"p": WALL}, "q has no address")
    zone.look(5000, plain=plain)
    assert zone.book.last_seen() == {"p": WALL + 5000}
    assert zone.look(5010, unanswered=frozenset({(b"x",)})) == ["p"]
    assert zone.look(5020) == []
    assert set(zone.book.departed()) == {"p"}
    zone.look(5030, plain=plain)
    assert set(zone.book.departed()) == set()
