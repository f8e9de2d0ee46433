"""Routes that the kernel would not have: what may make it have them, and what must wait for that. Kept by the mirror.

A route that could not be made (its link is down, its gateway isn't reachable yet, another's stands in its place) is
retried by the loop's clock, at last every 30 s. What happens to its link, or to the other's route, makes another
attempt worth it at once: the route is `due`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from weft.objects import PROTOCOL, Failure, Key, Op, Route

STALE = 60.0
"""Seconds after which nobody wants a route any more that was not tried again: twice the loop's longest pause."""


class Refusal(NamedTuple):
    """The link that a route was to go out of, when (monotonic clock) that was refused, and whether because somebody
    else's stands in its place."""

    link: str
    at: float
    conflict: bool


class Refusals:
    """`due`: routes that are worth another attempt, to be taken by who tells of them."""

    def __init__(self) -> None:
        self._refused: dict[Key, Refusal] = {}
        self.due: set[Key] = set()

    def add(self, op: Op, failure: Failure, link: str) -> None:
        """This could not be carried out."""
        if op.action != "remove":
            self._refused[op.object.key] = Refusal(link, time.monotonic(), failure.conflict)

    def over(self, ops: Iterable[Op]) -> None:
        """These were carried out."""
        if self._refused:
            for op in ops:
                self._refused.pop(op.object.key, None)

    def retry(self, link: str) -> None:
        """Something happened to this link."""
        self.due.update([key for key, refusal in self._refused.items() if refusal.link == link])

    def freed(self, key: Key) -> None:
        """Somebody else's route at this key is gone."""
        if key in self._refused:
            self.due.add(key)

    def swept(self) -> None:
        """A link or an address went, and others' routes with it, without a word."""
        self.due.update([key for key, refusal in self._refused.items() if refusal.conflict])

    @property
    def conflicting(self) -> bool:
        """Some route waits for somebody else's to go."""
        self._forget()
        return any(refusal.conflict for refusal in self._refused.values())

    def destinations(self) -> set[tuple[object, ...]]:
        """Where routes are wanted to and don't lead, as their keys have it."""
        self._forget()
        return {destination(key) for key in self._refused}

    def _forget(self) -> None:
        if self._refused:
            since = time.monotonic() - STALE
            self._refused = {key: refusal for key, refusal in self._refused.items() if refusal.at > since}


def destination(key: Key) -> tuple[object, ...]:
    """Of a route's key, the part that is its destination (`objects.route_key`)."""
    return key[1:3]


def waits(op: Op, missing: set[tuple[object, ...]]) -> bool:
    """Whether this removes flannel's route to where one of ours is wanted and doesn't stand yet."""
    thing = op.object
    if op.action != "remove" or not isinstance(thing, Route) or thing.protocol == PROTOCOL:
        return False
    return destination(thing.key) in missing
