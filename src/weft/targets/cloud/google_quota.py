"""Room for more routes: the project's quota, read before something is added, and not more often than once a minute.
Used by `google.py`. The discovery document has one metric for routes, ROUTES, of the project; limits of a network alone
aren't in it, and come as QUOTA_EXCEEDED of an operation.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import msgspec

from weft.errors import TargetError
from weft.model import Problem
from weft.targets.cloud import Room
from weft.targets.cloud.google_api import ComputeApi, Refusal, Request

BETWEEN = 60.0
"""Seconds for which a reading holds; our own changes are counted in between."""
UNLIMITED = 1_000_000
FULL = frozenset({"quotaExceeded", "QUOTA_EXCEEDED", "LIMIT_EXCEEDED", "limitExceeded"})


class _Quota(msgspec.Struct, frozen=True):
    metric: str = ""
    limit: float = 0.0
    usage: float = 0.0


class _Project(msgspec.Struct, frozen=True):
    quotas: list[_Quota] = []


@dataclass(frozen=True, slots=True)
class Fitting:
    """What there is room for: `joining`, routes that take the place of several; other `additions`; and `gaps`: routes
    that may be there twice at a time, while they are replaced. `message`: to those that don't fit."""

    joining: int
    additions: int
    gaps: int
    message: str = ""


@dataclass(slots=True)
class Quota:
    """The quota of one project."""

    api: ComputeApi
    project: str
    room: Room | None = None
    problems: list[Problem] = field(default_factory=list)
    _read_at: float | None = None

    async def fitting(self, joining: int, additions: int, replacements: int) -> Fitting:
        """Of so many. One place is left free for what replaces others: a table that is full to the last could be
        changed no more without a gap. Raises nothing: without an answer, everything fits, and Google has the last
        word."""
        if joining or additions or replacements:
            await self._read()
        if self.room is None:
            return Fitting(joining, additions, UNLIMITED)
        free = self.room.free
        joins = min(joining, free)
        fit = min(additions, max(free - max(joins, 1), 0))
        message = (
            f"{self.room.what} has room for {joins + fit} of the {joining + additions} routes that are to be added "
            f"({self.room.limit} in all, {self.room.limit - free} in use, one is kept free for routes that are "
            "replaced): ask Google for more (IAM & Admin, Quotas, ROUTES), or try -aggregate, which makes one route of "
            "adjacent subnets of one host"
        )
        return Fitting(joins, fit, max(free - joins - fit, 0), message)

    def changed(self, by: int) -> None:
        """So many routes more, of ours."""
        if self.room is not None:
            self.room = replace(self.room, free=max(self.room.free - by, 0))

    def refused(self, reason: str) -> None:
        """Google refused a route with this reason or code: if there is no room, it is known otherwise than by us."""
        if reason in FULL:
            self._read_at = None

    async def _read(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._read_at is not None and now - self._read_at < BETWEEN:
            return
        self._read_at = now
        request = Request("projects.get", "GET", f"projects/{self.project}", {"fields": "quotas"})
        try:
            quotas = (await self.api.ask(request, _Project)).quotas
        except Refusal as refusal:
            text = f"how many more routes fit can't be said before they are made: {refusal}"
            self.problems = [Problem(f"project {self.project}", text, wrong=False)]
            return
        except TargetError:
            return
        found = next((one for one in quotas if one.metric == "ROUTES"), None)
        self.problems = []
        if found is not None:
            limit, usage = int(found.limit), int(found.usage)
            self.room = Room(f"quota ROUTES of project {self.project}", limit, max(limit - usage, 0))
