"""A dict in two layers is a dict: whatever is laid over it, it reads like one, and the one before stays what it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core import layered
from weft.core.layered import Layered

keys = st.sampled_from("abcdefgh")
dicts = st.dictionaries(keys, st.integers(0, 3), max_size=6)


@given(dicts, st.lists(st.tuples(st.lists(keys, max_size=4), dicts), max_size=6), st.integers(0, 9))
def test_it_reads_like_a_dict(base: dict[str, int], steps: list[tuple[list[str], dict[str, int]]], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layered, "MOST", most)
        plain, layers = dict(base), Layered(base)
        for gone, came in steps:
            before, was = layers, dict(plain)
            layers = layers.after(gone, came)
            plain = {key: value for key, value in plain.items() if key not in gone} | came
            assert layers == plain == layers.flat()
            assert len(layers) == len(list(layers)) == len(plain)
            assert [layers.get(key) for key in "abcdefgh"] == [plain.get(key) for key in "abcdefgh"]
            assert [key in layers for key in "abcdefgh"] == [key in plain for key in "abcdefgh"]
            assert eval(repr(layers)) == plain
            assert before == was, "the one before has changed"


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="'a'"):
        Layered({"a": 1}).after(["a"], {})["a"]
