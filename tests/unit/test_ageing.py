"""Who falls silent is stale for one more timeout; who says goodbye is gone."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from weft.core.ageing import Aged, Heard, age
from weft.model import Known, Mac, Node, Peer

TIMEOUT = 90.0
NAMES = ("a", "b", "c")


def node(name: str, last: int = 1) -> Node:
    return Node(name, (ip_address(f"192.0.2.{last}"),), 4789, 1000, Mac(bytes(6)), 1500, stack=name)


def known(*names: str, complete: bool = True) -> Known[Node]:
    return Known(tuple(map(node, names)), complete)


def told(aged: Aged) -> dict[str, str]:
    return {peer.node.id: peer.status for peer in aged.peers}


def test_who_vanishes_is_stale_for_one_more_timeout() -> None:
    first = age(Aged(), known("b", "a"), Heard({"a": 1000.0, "b": 1001.0}), TIMEOUT, 5.0)
    assert first == Aged((Peer(node("a"), 1000.0), Peer(node("b"), 1001.0)))
    stale = age(first, known("b"), Heard({"b": 1100.0}), TIMEOUT, 95.0)
    assert stale.peers == (Peer(node("a"), 1000.0, "stale"), Peer(node("b"), 1100.0))
    assert stale.next_change == 185.0
    still = age(stale, known("b"), Heard(), TIMEOUT, 184.9)
    assert told(still) == {"a": "stale", "b": "active"}
    assert still.next_change == 185.0, "it is counted from when it was first missed"
    gone = age(still, known("b"), Heard(), TIMEOUT, 185.0)
    assert (told(gone), gone.vanished, gone.next_change) == ({"b": "active"}, {}, None)


def test_a_stale_one_that_comes_back_is_active_and_starts_anew() -> None:
    first = age(Aged(), known("a"), Heard(), TIMEOUT, 0.0)
    stale = age(first, known(), Heard(), TIMEOUT, 10.0)
    moved = Known((node("a", 9),), True)
    back = age(stale, moved, Heard({"a": 7.0}), TIMEOUT, 20.0)
    assert back == Aged((Peer(node("a", 9), 7.0),))
    again = age(back, known(), Heard(), TIMEOUT, 99.0)
    assert (told(again), again.next_change) == ({"a": "stale"}, 189.0)
    assert again.peers[0].node == node("a", 9), "as it was last"


def test_who_says_goodbye_is_gone_at_once() -> None:
    first = age(Aged(), known("a", "b"), Heard(), TIMEOUT, 0.0)
    stale = age(first, known(), Heard(departed=("a",)), TIMEOUT, 1.0)
    assert told(stale) == {"b": "stale"}
    assert told(age(stale, known(), Heard(departed=("a", "b")), TIMEOUT, 2.0)) == {}, "also when it is stale already"
    back = age(stale, known("a"), Heard(departed=("a",)), TIMEOUT, 3.0)
    assert told(back) == {"a": "active", "b": "stale"}, "a goodbye of before its return"


def test_a_discovery_that_does_not_vouch_makes_nobody_forgotten() -> None:
    first = age(Aged(), known("a"), Heard(), TIMEOUT, 0.0)
    away = age(first, known(complete=False), Heard(), TIMEOUT, 10.0)
    assert (told(away), away.next_change) == ({"a": "stale"}, None)
    long_after = age(away, known(complete=False), Heard(), TIMEOUT, 1000.0)
    assert told(long_after) == {"a": "stale"}
    assert told(age(long_after, known(complete=False), Heard(departed=("a",)), TIMEOUT, 1001.0)) == {}
    assert told(age(long_after, known(), Heard(), TIMEOUT, 1001.0)) == {}, "now it vouches"


def test_several_are_due_one_after_the_other() -> None:
    aged = age(Aged(), known(*NAMES), Heard(), TIMEOUT, 0.0)
    aged = age(aged, known("b", "c"), Heard(), TIMEOUT, 10.0)
    aged = age(aged, known("c"), Heard(), TIMEOUT, 20.0)
    assert aged.next_change == 100.0
    aged = age(aged, known("c"), Heard(), TIMEOUT, 100.0)
    assert (told(aged), aged.next_change) == ({"b": "stale", "c": "active"}, 110.0)


@given(
    st.lists(
        st.tuples(
            st.frozensets(st.sampled_from(NAMES)), st.booleans(), st.frozensets(st.sampled_from(NAMES), max_size=1)
        )
    )
)
def test_whatever_happens(steps: list[tuple[frozenset[str], bool, frozenset[str]]]) -> None:
    """Who is known is active; who was known within the last two timeouts and said no goodbye is there."""
    aged, last_known, gone = Aged(), dict[str, float](), set[str]()
    for number, (names, complete, departed) in enumerate(steps):
        now = number * TIMEOUT / 2
        aged = age(aged, known(*sorted(names), complete=complete), Heard({}, departed), TIMEOUT, now)
        gone = (gone | departed) - names
        last_known.update(dict.fromkeys(names, now))
        status = told(aged)
        assert list(status) == sorted(status)
        assert {name for name in status if status[name] == "active"} == names
        assert not {name for name in departed - names if name in status}
        for name, when in last_known.items():
            if name not in gone and now - when <= TIMEOUT:
                assert name in status
        assert aged.next_change is None or aged.next_change > now
