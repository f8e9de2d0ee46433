"""An operation: accepted, then running, then done, each at a time that is known from the start. Made and carried out by
`engine`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from weft.lab.compute.resources import ROOT, Operation, OperationError, Route, Warn, number_of, route_path
from weft.lab.compute.table import Table

HTTP = {
    "QUOTA_EXCEEDED": (403, "FORBIDDEN"),
    "RESOURCE_NOT_FOUND": (404, "NOT FOUND"),
    "RESOURCE_ALREADY_EXISTS": (409, "CONFLICT"),
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": (400, "BAD REQUEST"),
    "RESOURCE_NOT_READY": (400, "BAD REQUEST"),
    "RATE_LIMIT_EXCEEDED": (403, "FORBIDDEN"),
    "INTERNAL_ERROR": (503, "SERVICE UNAVAILABLE"),
}


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: how long an operation is pending, how long it runs; `spread`: by chance, up to so much longer; `wait`:
    how long globalOperations.wait waits at most (Google: 120); `delay`: of every answer."""

    pending: float = 0.05
    running: float = 0.1
    spread: float = 0.0
    wait: float = 120.0
    delay: float = 0.0


DEFAULT_TIMING = Timing()


@dataclass(slots=True, eq=False)
class Work:
    """What an operation is about. `accepted`, `starts`, `ends`: the engine's clock. An insertion takes effect as it
    ends, a deletion as it starts: whoever doesn't wait for the one before he asks for the other is found out."""

    number: int
    verb: str
    route: Route
    accepted: float
    starts: float
    ends: float
    user: str
    request_id: str = ""
    error: OperationError | None = None
    done_anyway: bool = False
    warnings: tuple[Warn, ...] = ()
    name: str = field(init=False)
    _final: Operation | None = None

    def __post_init__(self) -> None:
        self.name = f"operation-{1_000_000_000_000 + self.number}-{int(number_of(self.verb, str(self.number))):016x}"

    @property
    def takes_effect(self) -> float:
        return self.starts if self.verb == "delete" else self.ends

    def document(self, table: Table, now: float, stamp: Callable[[float], str]) -> Operation:
        """As the API shows it at `now`; `stamp` makes a date of a time. Once done, it changes no more."""
        if self._final is not None:
            return self._final
        found = self._made(table, now, stamp)
        self._final = found if now >= self.ends else None
        return found

    def _made(self, table: Table, now: float, stamp: Callable[[float], str]) -> Operation:
        status = "DONE" if now >= self.ends else "RUNNING" if now >= self.starts else "PENDING"
        path = f"projects/{table.project}/global/operations/{self.name}"
        span = self.ends - self.starts
        operation = Operation(
            kind="compute#operation",
            id=number_of(table.project, self.name),
            name=self.name,
            operation_type=self.verb,
            target_link=ROOT + route_path(table, self.route.name),
            target_id=self.route.id,
            status=status,
            user=self.user,
            client_operation_id=self.request_id,
            progress=_progress(status, (now - self.starts) / span if span > 0 else 1.0),
            insert_time=stamp(self.accepted),
            start_time="" if status == "PENDING" else stamp(self.starts),
            end_time=stamp(self.ends) if status == "DONE" else "",
            self_link=ROOT + path,
            warnings=self.warnings if status == "DONE" else (),
        )
        if status == "DONE" and self.error:
            code, words = HTTP.get(self.error.code, (400, "BAD REQUEST"))
            operation = msgspec.structs.replace(
                operation,
                http_error_status_code=code,
                http_error_message=words,
                error={"errors": [msgspec.to_builtins(self.error)]},
            )
        return operation


def _progress(status: str, part: float) -> int:
    if status == "RUNNING":
        return min(99, max(1, int(part * 100)))
    return 100 if status == "DONE" else 0
