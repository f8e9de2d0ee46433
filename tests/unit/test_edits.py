"""What differs between two full sets: whatever changed, the runs lead from one to the other, and none is overlooked."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core import edits as edits_module
from weft.core.edits import altered, edits


@dataclass(frozen=True)
class Item:
    value: int


ITEMS = tuple(Item(value) for value in range(12))
picks = st.lists(st.sampled_from(ITEMS), unique_by=id, max_size=12).map(tuple)


def applied(old: tuple[Item, ...], new: tuple[Item, ...]) -> tuple[Item, ...]:
    items = list(old)
    for there, here in reversed(edits(old, new)):
        items[there] = new[here]
    return tuple(items)


@given(st.lists(st.sampled_from(ITEMS)).map(tuple), st.lists(st.sampled_from(ITEMS)).map(tuple), st.integers(1, 4))
def test_the_runs_lead_from_one_to_the_other(old: tuple[Item, ...], new: tuple[Item, ...], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edits_module, "CHUNK", chunk)
        assert applied(old, new) == new


@given(picks, picks)
def test_exactly_what_went_and_what_came_is_told(old: tuple[Item, ...], new: tuple[Item, ...]) -> None:
    gone, came = altered(old, new)
    assert gone == [item for item in old if item not in new]
    assert came == [item for item in new if item not in old]


def test_one_of_many_is_one_run() -> None:
    many = tuple(Item(value) for value in range(1000))
    other = Item(-1)
    assert edits(many, many) == []
    assert edits(many, (*many[:700], other, *many[701:])) == [(slice(700, 701), slice(700, 701))]
    assert edits(many, (*many[:700], other, *many[700:])) == [(slice(700, 700), slice(700, 701))]
    assert edits(many, (*many[:700], *many[702:])) == [(slice(700, 702), slice(700, 700))]
    assert edits(many[:1] * 3, many[:1] * 2) == [(slice(2, 3), slice(2, 2))], "the head counts first, then the tail"
    assert altered(many, (*many[:700], other, *many[701:])) == ([many[700]], [other])


def test_an_equal_item_is_no_change_or_told_as_one_but_nothing_else_is_lost() -> None:
    twins = tuple(Item(item.value) for item in ITEMS)
    assert altered(ITEMS, twins) == ([], [])
    gone, came = altered(ITEMS, (*twins[:-1], Item(-1)))
    assert ITEMS[-1] in gone
    assert Item(-1) in came
