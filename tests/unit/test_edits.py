"""What differs between two full sets: whatever changed, the runs lead from one to the other, and none is overlooked."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from weft.core.edits import Kept, altered, edited, edits, resorted


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


@given(st.lists(st.sampled_from(ITEMS)).map(tuple), st.lists(st.sampled_from(ITEMS)).map(tuple))
def test_the_runs_lead_from_one_to_the_other(old: tuple[Item, ...], new: tuple[Item, ...]) -> None:
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


def test_an_equal_item_is_told_as_another_for_equality_may_leave_something_out() -> None:
    twins = tuple(Item(item.value) for item in ITEMS)
    assert altered(ITEMS, twins) == (list(ITEMS), list(twins))
    gone, came = altered(ITEMS, (*ITEMS[:-1], twins[-1]))
    assert gone[0] is ITEMS[-1]
    assert came[0] is twins[-1]


@given(picks, st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2), picks), max_size=3), max_size=4))
def test_a_set_that_knows_where_it_differs_knows_it_right(
    first: tuple[Item, ...], steps: list[list[tuple[int, int, tuple[Item, ...]]]]
) -> None:
    sets = [edited(first, [])]
    for drawn in steps:
        end, changes = 0, []
        for start, length, came in sorted(drawn, key=lambda one: one[0]):
            there = slice(min(max(start, end), len(sets[-1])), min(max(start, end) + length, len(sets[-1])))
            end = there.stop
            changes.append((there, came))
        sets.append(edited(sets[-1], changes))
        expected = list(sets[-2])
        for there, came in reversed(changes):
            expected[there] = came
        assert sets[-1] == tuple(expected)
    for old in sets:
        for new in sets:  # also those that were not made from each other
            assert applied(old, new) == new
            assert applied(tuple(old), new) == new
            assert applied(old, tuple(new)) == new
    if len(sets) > 1:
        assert edits(sets[-2], sets[-1]) is sets[-1].runs


named = st.dictionaries(st.sampled_from("abcdefgh"), st.one_of(st.none(), st.integers(0, 3)), max_size=6)


@given(named, named)
def test_what_is_sorted_stays_sorted(first: dict[str, int | None], changes: dict[str, int | None]) -> None:
    there = {name: value for name, value in sorted(first.items()) if value is not None}
    after = {name: (name, value) if value is not None else None for name, value in changes.items()}
    new = resorted(tuple(there.items()), after, lambda pair: pair[0])
    assert new == tuple((name, value) for name, value in sorted((first | changes).items()) if value is not None)


@given(st.lists(picks, max_size=4), st.lists(st.integers(0, 11), unique=True, max_size=3).map(sorted))
def test_what_is_kept_is_what_would_be_made(steps: list[tuple[Item, ...]], again: list[int]) -> None:
    def make(item: Item) -> int | None:
        asked.append(item)
        return item.value if item.value % 3 else None

    asked: list[Item] = []
    kept: Kept[Item, int] = Kept()
    for items in steps:
        asked = []
        kept = kept.after(items, make)
        assert kept.made == tuple(item.value for item in items if item.value % 3)
        fresh: Kept[Item, int] = Kept()
        assert kept == fresh.after(items, make)
    places = [at for at in again if at < len(kept.items)]
    other = kept.anew(places, lambda item: -item.value if item.value % 2 else None)
    parts = [(2, -1) if at in places else (3, 1) for at in range(len(kept.items))]
    expected = [(item.value, *part) for item, part in zip(kept.items, parts, strict=True)]
    assert other.made == tuple(value * sign for value, divisor, sign in expected if value % divisor)


def test_only_what_is_new_is_made() -> None:
    many = edited(ITEMS, [])
    asked: list[Item] = []
    kept: Kept[Item, Item] = Kept()
    kept = kept.after(many, lambda item: item)
    kept = kept.after(edited(many, [(slice(3, 4), (Item(99),)), (slice(7, 7), (Item(98),))]), asked.append)
    assert asked == [Item(98), Item(99)], "the last run first"
    assert kept.made == (*ITEMS[:3], *ITEMS[4:])
