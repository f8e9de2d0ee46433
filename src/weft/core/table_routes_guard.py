"""How many of a cloud's routes may go: the guard of `-max-delete`. Pure; called by `table_routes.py`.

A store that comes back empty after a restore looks like a thousand hosts that left. So what would go is taken as one:
if it is more than the guard allows, all of it stays, and a person is told. What went in the last ten minutes counts
with it, so that a thousand hosts that leave one by one are seen, too. What is wanted again by now counts no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from weft.errors import SettingsError
from weft.model import IPNetwork

WINDOW = 600.0
"""Seconds."""
LEAST = 3
"""Routes that a part always comes to: of four hosts, one may leave."""
Place: TypeAlias = tuple[str, IPNetwork]
"""A route: its table, and where it leads to."""


@dataclass(frozen=True, slots=True)
class MaxDelete:
    """`number`: of routes; None: `percent` of what the tables hold (100 at the most), at least LEAST."""

    number: int | None = None
    percent: int = 25

    def of(self, held: int) -> int:
        """How many of so many may go within WINDOW."""
        if self.number is not None:
            return self.number
        return held if self.percent == 100 else max(LEAST, held * self.percent // 100)

    def __str__(self) -> str:
        return f"{self.percent}%" if self.number is None else str(self.number)


ALL = MaxDelete(percent=100)


def parse_max_delete(text: str) -> MaxDelete:
    """Read `25%`, `12` or `all`. SettingsError for anything else."""
    asked = text.strip().lower()
    if asked == "all":
        return ALL
    digits = asked.removesuffix("%").rstrip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
        raise SettingsError(f"-max-delete={text!r}: it must be a number of routes, a part like 25%, or all")
    if digits == asked:
        return MaxDelete(int(digits))
    if not 1 <= int(digits) <= 100:
        raise SettingsError(f"-max-delete={text!r}: a part is from 1% to 100%; for none at all, say 0")
    return MaxDelete(percent=int(digits))


@dataclass(frozen=True, slots=True)
class Past:
    """What the guard remembers. `deleted`: what is gone for good, and when. `going`: what was to go at the last look,
    and was still there. `asked`: what was asked for at any time since the start."""

    deleted: tuple[tuple[Place, float], ...] = ()
    going: frozenset[Place] = field(default_factory=frozenset)
    asked: frozenset[Place] = field(default_factory=frozenset)

    def after(self, gone: frozenset[Place], again: frozenset[Place], now: float) -> Past:
        """`gone`: of what was going, what is not there any more; `again`: of all that went, what is wanted."""
        kept = {place: at for place, at in self.deleted if at > now - WINDOW and place not in again}
        kept.update(dict.fromkeys(gone - again, now))
        return Past(tuple(kept.items()), asked=self.asked)
