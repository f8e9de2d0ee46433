"""When an edge that comes back counts again."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.damper import Damper
from weft.core.sight import Edge

State = Literal["unknown", "up", "down"]
DAMPER = Damper(hold=2.0, longest=60.0, calm=60.0)


class Line:
    """An edge under a damper, its clock and its findings."""

    def __init__(self, state: State = "up") -> None:
        self.now = 0.0
        self.state: State = state
        self.edge: Edge = DAMPER.step(None, state, 0.0)
        self.turns = 0

    def look(self, after: float = 0.0) -> bool:
        self.now += after
        before, self.edge = self.edge.up, DAMPER.step(self.edge, self.state, self.now)
        self.turns += before != self.edge.up
        return self.edge.up

    def turn(self, state: State, after: float = 0.0) -> bool:
        self.now += after
        self.state = state
        return self.look()


@pytest.mark.parametrize(("state", "up"), [("unknown", True), ("up", True), ("down", False)])
def test_what_is_not_known_counts_as_up(state: State, up: bool) -> None:
    assert Line(state).edge.up is up


def test_down_counts_at_once_and_up_after_a_hold() -> None:
    line = Line()
    assert not line.turn("down", after=5.0)
    assert not line.turn("up", after=1.0)
    assert line.edge.back == 8.0
    assert not line.look(after=1.9)
    assert line.look(after=0.1)
    assert line.edge.back is None


@pytest.mark.parametrize("first", ["unknown", "down"])
def test_the_first_answer_of_all_counts_at_once(first: State) -> None:
    """At the start, the hosts come one after the other: no good way is to be left alone for that."""
    line = Line(first)
    assert not line.turn("down", after=1.0)
    assert line.turn("up", after=1.0)
    assert not line.turn("down", after=1.0)
    assert line.edge.hold == 2.0
    assert not line.turn("up", after=1.0)
    assert line.look(after=2.0)


def test_a_lack_of_news_changes_nothing_and_ends_a_hold() -> None:
    line = Line()
    assert line.turn("unknown", after=1.0)
    assert line.turn("up", after=1.0)
    line.turn("down", after=1.0)
    line.turn("up", after=1.0)
    assert not line.turn("unknown", after=1.0)
    assert not line.look(after=100.0)
    assert not line.turn("down", after=1.0)
    line.turn("up", after=1.0)
    assert line.edge.hold == 2.0, "what fell without having been up fell once"
    assert line.look(after=2.0)


def test_each_fall_doubles_the_hold_up_to_the_longest() -> None:
    line = Line()
    holds = []
    for _ in range(8):
        line.turn("down", after=1.0)
        holds.append(line.edge.hold)
        line.turn("up", after=1.0)
        line.look(after=line.edge.hold)
    assert holds == [2, 4, 8, 16, 32, 60, 60, 60]


def test_quiet_time_makes_up_for_it() -> None:
    line = Line()
    for _ in range(4):
        line.turn("down", after=1.0)
        line.turn("up", after=1.0)
        line.look(after=20.0)
    assert line.edge.hold == 16
    line.turn("down", after=121.0)
    assert line.edge.hold == 8
    line.turn("up")
    line.look(after=8.0)
    line.turn("down", after=1e9)
    assert line.edge.hold == 2


def test_what_stays_up_stays_up_whatever_else_is_found() -> None:
    """That full-size packets get through, say, is another finding of the same state."""
    line = Line()
    assert line.turn("up", after=1.0)
    assert line.edge.hold == 0


def test_a_clock_that_is_set_back_does_no_harm() -> None:
    line = Line()
    line.turn("down", after=100.0)
    line.turn("up", after=-50.0)
    assert line.look(after=2.0)
    line.turn("down", after=-10.0)
    assert line.edge.hold == 4


@given(st.lists(st.floats(0.01, 50.0), min_size=2, max_size=200))
def test_an_edge_that_flaps_comes_to_rest(pauses: list[float]) -> None:
    """Never up for a minute: whatever the rhythm, it is taken back at most once per doubling of the hold, and then
    never."""
    line = Line()
    for number, pause in enumerate(pauses):
        for part in range(4):
            line.look(after=pause / 4 if part else 0.0)
        line.turn("up" if number % 2 else "down", after=pause / 4)
    assert line.turns <= 2 * 6, "each of 2, 4, 8, 16, 32 and 60 s is passed once"


@given(st.lists(st.tuples(st.floats(0.01, 30.0), st.sampled_from(["unknown", "up", "down"])), max_size=50))
def test_what_stays_up_counts_in_the_end_and_what_is_down_never(findings: list[tuple[float, State]]) -> None:
    line = Line()
    for pause, state in findings:
        line.turn(state, after=pause)
        assert not (state == "down" and line.edge.up)
    line.turn("up", after=1.0)
    assert line.look(after=60.0)
