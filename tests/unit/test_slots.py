"""Numbers for nodes: no two alike, kept while others come and go, and the memory of them only saves time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import node
from weft.core import slots as slots_module
from weft.core.edits import altered
from weft.core.slots import Slots
from weft.model import Node

NODES = [node(f"n{i:02}", f"192.0.2.{i + 2}") for i in range(20)]


def numbers(slots: Slots, nodes: Sequence[Node]) -> dict[str, int]:
    return {one.id: slots.slot(one) for one in nodes}


def test_each_node_has_its_own_and_keeps_it() -> None:
    slots = Slots.of(NODES, "vxlan1")
    assert len(set(numbers(slots, NODES).values())) == len(NODES)
    assert numbers(Slots.of(NODES[::2], "vxlan1"), NODES[::2]).items() <= numbers(slots, NODES).items()
    assert numbers(Slots.of(NODES, "vxlan2"), NODES) != numbers(slots, NODES)


@pytest.mark.parametrize("count", [23, 60, 1000])
@given(picked=st.lists(st.sets(st.sampled_from(range(20)), max_size=20), min_size=1, max_size=5))
def test_memory_never_changes_a_number(count: int, picked: list[set[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots_module, "SLOTS", count)
        before: list[Node] = []
        slots = Slots.of(before, "vxlan1")
        for chosen in picked:
            nodes = [NODES[i] for i in sorted(chosen)]
            fresh = Slots.of(nodes, "vxlan1")
            after = slots.after(*altered(tuple(before), tuple(nodes)))
            assert after is None or after == fresh
            assert len(set(numbers(fresh, nodes).values())) == len(nodes)
            assert all(number < count for number in numbers(fresh, nodes).values())
            before, slots = nodes, fresh


def test_where_numbers_meet_the_memory_is_given_up_and_elsewhere_not(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {"n00": 5, "n01": 5, "n02": 6, "n03": 9}
    monkeypatch.setattr(slots_module, "crc32", lambda data, salt=0: hashes.get(data.decode(), 0))
    slots = Slots.of(NODES[:4], "vxlan1")
    assert numbers(slots, NODES[:4]) == {"n00": 5, "n01": 6, "n02": 7, "n03": 9}
    assert slots.crowd == {"n00", "n01", "n02"}
    assert slots.after([NODES[2]], []) is None
    assert slots.after([NODES[3]], []) == Slots.of(NODES[:3], "vxlan1")
    hashes["n04"] = 7
    assert slots.after([], [NODES[4]]) is None
    hashes["n04"] = 8
    assert slots.after([], [NODES[4]]) == Slots.of(NODES[:5], "vxlan1")
