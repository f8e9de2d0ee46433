"""Compute Engine's operations, followed to their end: a change that was accepted is not yet done. Used by `google.py`.

A few are waited for one by one: globalOperations.wait answers as soon as its operation is done. After any more, one
filtered list asks for all, the less often the more they are: what a thousand routes need is calls for themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from weft.errors import ProviderBusy, TargetError
from weft.targets.cloud.google_api import ANSWER, ComputeApi, ListWarning, Refusal, Request

FEW = 4
"""Operations that are waited for one by one."""
FIRST_PAUSE, LAST_PAUSE, EACH = 0.1, 2.0, 0.1
"""Seconds between two lists: `EACH` times the operations asked after, within these bounds."""
LONGEST_WAIT = 120.0
"""Seconds after which globalOperations.wait answers at the latest."""
LONGEST = 40.0
"""Seconds that an operation is followed: one that hangs holds up all others for so long. What comes of it later, the
next reading shows."""
LISTED_AT_ONCE = 40
"""Operations asked after in one list: their names are in the URL."""
PAGES = 5
"""Pages of one list; what isn't on them is asked after by its name."""
LOOKED_FOR = 3
"""An operation that so many lists in a row don't have is asked after by its name."""


class OperationError(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct, frozen=True):
    errors: list[OperationError] = []


class Operation(msgspec.Struct, frozen=True, rename="camel"):
    """As far as it is looked at. `target_id`: of the route that it made or deleted."""

    name: str
    status: str = ""
    target_id: str = ""
    operation_type: str = ""
    error: _Errors | None = None

    @property
    def done(self) -> bool:
        return self.status == "DONE"

    @property
    def errors(self) -> list[OperationError]:
        return self.error.errors if self.error is not None else []


_FIELDS = "items(name,status,targetId,operationType,error(errors(code,message))),nextPageToken,warning(code,message)"


class _Operations(msgspec.Struct, frozen=True, rename="camel"):
    items: list[Operation] = []
    next_page_token: str = ""
    warning: ListWarning | None = None


@dataclass(slots=True)
class _Listed:
    end: asyncio.Future[Operation]
    until: float
    missed: int = 0


@dataclass(slots=True)
class Operations:
    """All that are under way in one project. `end_of` may be called any number of times side by side."""

    api: ComputeApi
    project: str
    _waits: int = 0
    _pending: dict[str, _Listed] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    async def end_of(self, operation: Operation) -> Operation:
        """The operation when it is done, with or without errors. Raises TargetError if that can't be found out."""
        if operation.done:
            return operation
        until = asyncio.get_running_loop().time() + LONGEST
        if self._waits >= FEW:
            return await self._in_lists(operation.name, until)
        self._waits += 1
        try:
            return await self._waited(operation.name, until)
        finally:
            self._waits -= 1

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _waited(self, name: str, until: float) -> Operation:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while True:
                    with contextlib.suppress(ProviderBusy):
                        operation = await self._ask("wait", "POST", f"/{name}/wait", LONGEST_WAIT + 15)
                        if operation.done:
                            return operation
                    await asyncio.sleep(FIRST_PAUSE)
        raise _too_late()

    async def _in_lists(self, name: str, until: float) -> Operation:
        listed = self._pending[name] = _Listed(asyncio.get_running_loop().create_future(), until)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow(), name="google operations")
        try:
            return await listed.end
        finally:
            self._pending.pop(name, None)

    async def _follow(self) -> None:
        try:
            while self._pending:
                await asyncio.sleep(min(max(EACH * len(self._pending), FIRST_PAUSE), LAST_PAUSE))
                names = list(self._pending)
                for start in range(0, len(names), LISTED_AT_ONCE):
                    await self._look(names[start : start + LISTED_AT_ONCE])
                now = asyncio.get_running_loop().time()
                self._fail([one for one in self._pending.values() if now >= one.until], _too_late())
        except Exception as error:  # noqa: BLE001 - raised again in whoever waits
            self._fail(self._pending.values(), error)

    async def _look(self, names: list[str]) -> None:
        try:
            seen = {one.name: one for one in await self._list(names)}
        except ProviderBusy:
            return
        except Refusal:
            # A role may leave the list out: each is asked after by itself.
            for name in names:
                await self._get(name)
            return
        for name in names:
            listed = self._pending.get(name)
            if listed is None:
                continue
            listed.missed = 0 if name in seen else listed.missed + 1
            if name in seen:
                self._ended(listed, seen[name])
            elif listed.missed >= LOOKED_FOR:
                await self._get(name)

    async def _list(self, names: list[str]) -> list[Operation]:
        """The newest first, and no page more than it takes: a project remembers the operations of weeks."""
        path = f"projects/{self.project}/global/operations"
        params = {"filter": f"name eq {'|'.join(names)}", "orderBy": "creationTimestamp desc", "fields": _FIELDS}
        found: list[Operation] = []
        pages = 0
        async for page in self.api.pages(Request("globalOperations.list", "GET", path, params), _Operations):
            found.extend(page.items)
            pages += 1
            if len(found) >= len(names) or pages >= PAGES:
                break
        return found

    async def _get(self, name: str) -> None:
        try:
            operation = await self._ask("get", "GET", f"/{name}", ANSWER)
        except ProviderBusy:
            return
        except TargetError as error:
            self._fail([self._pending[name]] if name in self._pending else [], error)
            return
        if name in self._pending:
            self._ended(self._pending[name], operation)

    async def _ask(self, method: str, verb: str, path: str, seconds: float) -> Operation:
        whole = f"projects/{self.project}/global/operations{path}"
        return await self.api.ask(Request(f"globalOperations.{method}", verb, whole, {}, seconds=seconds), Operation)

    def _ended(self, listed: _Listed, operation: Operation) -> None:
        if operation.done and not listed.end.done():
            listed.end.set_result(operation)

    def _fail(self, those: Iterable[_Listed], error: Exception) -> None:
        for listed in list(those):
            if not listed.end.done():
                listed.end.set_exception(error)


def _too_late() -> TargetError:
    return TargetError(f"accepted, and not done after {LONGEST:.0f} s; the next reading shows what came of it")
