"""What differs between a full set and the one before it. Pure; called wherever a source's whole set comes anew although
one item of thousands changed: `acceptance.py`, `plan.py`, `agent/flannel.py`.

Items are compared as pointers, in C: 10,000 that are the same objects take 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress, count
from operator import is_not
from typing import TypeVar

T = TypeVar("T")

CHUNK = 256
"""Items that are compared at once. Comparing tuples stops at the first that differs, so pieces of them are compared."""


def edits(old: tuple[T, ...], new: tuple[T, ...]) -> list[tuple[slice, slice]]:
    """The runs in which `new` differs from `old`, in order: where in `old`, where in `new`. Outside of them, items are
    equal one by one. Few and short if single items were replaced, or neighbouring ones came or went."""
    if len(old) == len(new):
        return [(slice(at, at + 1), slice(at, at + 1)) for at in _replaced(old, new)]
    shorter = min(len(old), len(new))
    head = _alike(old[:shorter], new[:shorter])
    rest = shorter - head
    tail = _alike(old[len(old) - rest :][::-1], new[len(new) - rest :][::-1])
    return [(slice(head, len(old) - tail), slice(head, len(new) - tail))]


def _alike(one: tuple[T, ...], other: tuple[T, ...]) -> int:
    """How many items at the start of two tuples of one length are the same."""
    return next(_replaced(one, other), len(one))


def altered(old: tuple[T, ...], new: tuple[T, ...]) -> tuple[list[T], list[T]]:
    """The items of `old` that went and the items of `new` that came, where each is in its tuple once: one that only
    moved is in neither list, one that was replaced by an equal one may be in both."""
    runs = edits(old, new)
    gone = [item for run, _ in runs for item in old[run]]
    came = [item for _, run in runs for item in new[run]]
    moved = set(map(id, gone)).intersection(map(id, came))
    if not moved:
        return gone, came
    return [item for item in gone if id(item) not in moved], [item for item in came if id(item) not in moved]


def _replaced(old: tuple[T, ...], new: tuple[T, ...]) -> Iterator[int]:
    for start in range(0, len(old), CHUNK):
        before, now = old[start : start + CHUNK], new[start : start + CHUNK]
        if before != now:
            yield from compress(count(start), map(is_not, before, now))
