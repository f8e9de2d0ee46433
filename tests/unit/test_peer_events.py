"""Who came, changed, fell silent, came back and went."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stacks import peer
from weft.agent.peer_events import KINDS, MOST, Aloud, PeerEvents
from weft.model import Peer

B = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16")
C = peer("stack-c", "10.0.0.3", "192.168.100.3", "172.22.0.0/16,172.23.0.0/16")


class Notes:
    def __init__(self) -> None:
        self.noted: list[tuple[str, str, str, str]] = []

    def note(self, kind: str, subject: str, done: str, reason: str) -> None:
        self.noted.append((kind, subject, done, reason))

    def new(self) -> list[tuple[str, str, str, str]]:
        noted, self.noted = self.noted, []
        return noted


def silent(one: Peer) -> Peer:
    return replace(one, status="stale")


def test_a_peers_life() -> None:
    notes, gone = Notes(), set[str]()
    events = PeerEvents(notes, lambda: gone)
    events((B,))
    said = "stack-b at 10.0.0.2, VNI 1000, 192.168.100.2: 172.21.0.0/16 (multicast)"
    assert notes.new() == [("peer", "stack-b", "came", said)]
    events((replace(B, last_seen=2e9),))
    assert notes.new() == [], "being heard again is no event"
    events((silent(B), C))
    assert [(name, done) for _, name, done, _ in notes.new()] == [("stack-b", "stale"), ("stack-c", "came")]
    events((B, C))
    assert notes.new() == [("peer", "stack-b", "back", "it is heard again")]
    moved = peer("stack-b", "10.0.0.9", "192.168.100.2", "172.21.0.0/16,172.24.0.0/16")
    events((moved, C))
    ((_, _, done, reason),) = notes.new()
    assert done == "changed"
    assert reason.startswith("endpoint 10.0.0.2 → 10.0.0.9; MAC ")
    assert reason.endswith("; networks 172.21.0.0/16 → 172.21.0.0/16, 172.24.0.0/16")
    gone.add("stack-c")
    events((silent(moved),))
    assert [(name, done, reason) for _, name, done, reason in notes.new()] == [
        ("stack-b", "stale", "it fell silent; it is routed to for one more timeout"),
        ("stack-c", "gone", "it said goodbye"),
    ]
    events(())
    assert notes.new() == [("peer", "stack-b", "gone", "it was silent for as long again")]
    assert events.counts == {"came": 2, "changed": 1, "stale": 2, "back": 1, "gone": 2}


def test_who_is_no_longer_listed_and_who_was_silent_from_the_start() -> None:
    notes = Notes()
    events = PeerEvents(notes)
    events((silent(B), C))
    assert [(name, done) for _, name, done, _ in notes.new()] == [
        ("stack-b", "came"),
        ("stack-b", "stale"),
        ("stack-c", "came"),
    ]
    events((silent(B),))
    assert notes.new() == [("peer", "stack-c", "gone", "it is no longer listed")]


def test_thousands_are_counted_and_not_listed() -> None:
    notes = Notes()
    events = PeerEvents(notes)
    events(tuple(peer(f"s{n:04}", "10.0.0.2", "") for n in range(1000)))
    noted = notes.new()
    assert len(noted) == MOST + 1
    assert noted[-1][2] == f"{1000 - MOST} more: {1000 - MOST} came"
    assert events.counts["came"] == 1000


PEERS = st.builds(
    peer,
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["10.0.0.2", "10.0.0.3"]),
    st.just("192.168.100.2"),
    st.sampled_from(["", "172.21.0.0/16"]),
    status=st.sampled_from(["active", "stale"]),
)


@given(st.lists(st.lists(PEERS, max_size=3, unique_by=lambda p: p.node.id).map(tuple), max_size=6))
def test_the_counts_add_up(sets: list[tuple[Peer, ...]]) -> None:
    events = PeerEvents(Notes())
    for each in sets:
        events(each)
    assert set(events.counts) == set(KINDS)
    assert events.counts["came"] - events.counts["gone"] == (len(sets[-1]) if sets else 0)
    stale = sum(one.status == "stale" for one in (sets[-1] if sets else ()))
    assert events.counts["stale"] - events.counts["back"] >= stale


def test_discovery_logs_what_it_notes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "weft")
    notes = Notes()
    events = PeerEvents(Aloud(notes))
    events((C,))
    events(())
    assert [done for _, _, done, _ in notes.noted] == ["came", "gone"]
    assert caplog.messages == [
        "peer stack-c came: stack-c at 10.0.0.3, VNI 1000, 192.168.100.3: 172.22.0.0/16, 172.23.0.0/16 (multicast)",
        "peer stack-c gone: it is no longer listed",
    ]
