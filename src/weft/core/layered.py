"""A dict of thousands of items, and one like it but for a few: without copying it. Pure; used by `plan.py` and
`acceptance.py`, where one peer of thousands changes at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TypeVar, cast

K = TypeVar("K")
V = TypeVar("V")

MOST = 400
"""Keys that may differ from the dict beneath before a new one is made: copying so few takes 3 µs, a new one of 12,000
takes 300."""


class Layered(Mapping[K, V]):
    """`base`, which nobody changes any more, with what changed since in a small dict above it. Never changed itself."""

    __slots__ = ("_base", "_over", "_size")

    def __init__(self, base: dict[K, V] | None = None) -> None:
        self._base: dict[K, V] = {} if base is None else base
        self._over: dict[K, V | object] = {}
        self._size = len(self._base)

    def after(self, gone: Iterable[K], came: Mapping[K, V]) -> Layered[K, V]:
        """This without `gone`, then with `came`; keys that are not there may go."""
        changes: dict[K, V | object] = {**dict.fromkeys(gone, _GONE), **came}
        new: Layered[K, V] = Layered(self._base)
        new._over = self._over | changes
        new._size = self._size + sum((it is not _GONE) - (key in self) for key, it in changes.items())
        return new if len(new._over) <= MOST else Layered(new._merged())

    def flat(self) -> dict[K, V]:
        """A plain dict of the same, to be looked at only: quicker where all of it is."""
        return self._merged() if self._over else self._base

    def _merged(self) -> dict[K, V]:
        merged = cast("dict[K, V | object]", self._base | self._over)
        for key in [key for key, value in self._over.items() if value is _GONE]:
            del merged[key]
        return cast("dict[K, V]", merged)

    def __getitem__(self, key: K) -> V:
        found = self._over.get(key, _BENEATH)
        if found is _BENEATH:
            return self._base[key]
        if found is _GONE:
            raise KeyError(key)
        return cast("V", found)

    def __iter__(self) -> Iterator[K]:
        if not self._over:
            return iter(self._base)
        kept = (key for key in self._base if self._over.get(key) is not _GONE)
        return chain(kept, (key for key, it in self._over.items() if key not in self._base and it is not _GONE))

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return repr(self.flat())


_GONE = object()
_BENEATH = object()
