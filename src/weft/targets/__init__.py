"""Targets are what a plan is carried out on. This module holds their one Protocol and their table.

The reconciler (`agent/reconcile.py`) is the only caller: read, diff, apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from weft.objects import Failure, Key, Object, Op


@dataclass(frozen=True, slots=True)
class Reading:
    """What a target holds now.

    `objects`: ours, by key: live, the target's own dict, to be read before the next call and not to be written.
    `foreign`: keys that somebody else's object occupies, with a phrase that names it ("a bridge of somebody else's").
    `touched`: keys that something other than our own ops changed since the last reading; None = anything may have.
    `takes`: how many ops it wants in this cycle (of removals, fewer); the rest wait for the next, which comes at once;
    None: all. 0: none for now, and it calls its `wake` when that is over. `resting`: why it takes none until something
    else changes (a dry run, another manager leads), "" if it doesn't rest; what failed until then is history.
    """

    objects: Mapping[Key, Object]
    foreign: Mapping[Key, str] = field(default_factory=dict)
    touched: frozenset[Key] | None = None
    takes: int | None = None
    resting: str = ""


class Target(Protocol):
    """A place where objects live: a kernel, a firewall, a cloud's route table, a fake in memory."""

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> tuple[type[Object], ...]:
        """The classes of objects that this target takes; no two targets of one agent share a class."""
        ...

    async def read(self, full: bool = False) -> Reading:
        """Everything of ours. A target may keep a mirror that the other side's own notifications maintain; `full`
        reads it anew. Raises TargetError if it can't be read."""
        ...

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Carry out ops in this order; one answer each, None for success. One failure never stops the rest; deleting
        what is gone is success; adding where somebody else's object stands is Failure(conflict=True)."""
        ...

    def lines(self, ops: Sequence[Op]) -> list[str]:
        """The shell lines that would do the same to what the last reading found, for `weft plan`."""
        ...

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` on the running event loop whenever something other than our own ops may have changed."""
        ...

    def close(self) -> None:
        """Give up sockets and watches; what was applied stays."""
        ...
