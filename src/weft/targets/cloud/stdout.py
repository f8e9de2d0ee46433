"""Changes of a route table, told on stdout: by `-backend=stdout`, whose table is nowhere else, and by `-dry-run`, which
reads a real one. One change is one line, as text or as a JSON document.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Literal

import msgspec

from weft.core.cloud_names import route_name
from weft.errors import TargetError
from weft.objects import Failure, Key, Op
from weft.objects.cloud import CloudRoute
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import Contents, Room

Output = Literal["text", "json"]
Write = Callable[[str], None]

Action = Literal["add", "change", "remove"]

ORDER: tuple[Action, ...] = ("change", "add", "remove")
SIGNS = {"add": "+", "change": "~", "remove": "-"}


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change as `-output json` tells it. `via`: the address that packets to `destination` go to; `was`: the one that
    they go to until then, for a change that moves them. `why`: who asked for it, in words."""

    action: Action
    table: str
    destination: str
    name: str
    why: str
    via: str = ""
    was: str = ""


class PlanLine(msgspec.Struct, frozen=True):
    """What `-dry-run -output json` tells each time when the plan is another: all of it, [] if nothing is to be done."""

    plan: list[Line]


def write(text: str) -> None:
    """To stdout, at once: it may be a pipe. Raises OSError if it takes nothing."""
    if sys.stdout is None:  # a process that was begun with `>&-`
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError:
        _forget_at_exit()
        raise


@cache
def _forget_at_exit() -> None:
    """Python flushes at its end what was not taken, and would complain of it."""
    atexit.register(lambda: setattr(sys, "stdout", None))


class Telling:
    """Tells changes. `called`: what people know a route by."""

    def __init__(self, called: Callable[[CloudRoute], str], output: Output = "text", write: Write = write) -> None:
        self._called = called
        self._output = output
        self._write = write
        self._told: list[Line] | None = None

    def change(self, op: Op) -> None:
        """One change, as it happens."""
        self._write(self._text(self._line(op)))

    def plan(self, ops: Iterable[Op], commands: Callable[[Sequence[Op]], list[str]] | None = None) -> bool:
        """All that would be changed, if that is not what was told last. `commands`: the provider's own command lines
        for it, told too in text. Whether there was anything new."""
        sorted_ops = sorted(ops, key=_place)
        lines = [self._line(op) for op in sorted_ops]
        if lines == self._told:
            return False
        self._told = lines
        if self._output == "json":
            self._write(_json(PlanLine(lines)))
            return True
        counts = Counter(line.action for line in lines)
        said = ", ".join(f"{action} {counts[action]}" for action in ORDER if counts[action])
        self._write(f"plan: {said}" if said else "plan: nothing is to be done")
        for line in lines:
            self._write(f"  {self._text(line)}")
        for command in commands(sorted_ops) if commands is not None else ():
            self._write(f"  {command}")
        return True

    def _line(self, op: Op) -> Line:
        route, old = op.object, op.old
        if not isinstance(route, CloudRoute):
            raise TypeError(f"{type(route).__name__} is no route of a cloud's")
        was = str(old.via or "") if isinstance(old, CloudRoute) and old.via != route.via else ""
        via = str(route.via or "")
        return Line(op.action, route.table, str(route.dst), self._called(route), str(op.why), via, was)

    def _text(self, line: Line) -> str:
        if self._output == "json":
            return _json(line)
        was = f", was via {line.was}" if line.was else ""
        via = f" via {line.via}" if line.via else ""
        return f"{SIGNS[line.action]} {line.name}: {line.destination}{via} in {line.table}{was} # {line.why}"


class StdoutRoutes:
    """A route table that is told and is nowhere: it begins empty, and holds what was told."""

    def __init__(self, table: str = "default", output: Output = "text", write: Write = write) -> None:
        self._table = table
        self._routes: dict[Key, CloudRoute] = {}
        self._calls: Counter[tuple[str, str]] = Counter()
        self._telling = Telling(self.called, output, write)

    @classmethod
    def of(cls, settings: RouteManagerSettings) -> StdoutRoutes:
        """One table, with the name of -google-network, so that routes are called as they would be there."""
        return cls(settings.google_network or "default", settings.output)

    @property
    def name(self) -> str:
        return "stdout"

    @property
    def tables(self) -> tuple[str, ...]:
        return (self._table,)

    @property
    def room(self) -> Mapping[str, Room]:
        return {}

    @property
    def calls(self) -> Mapping[tuple[str, str], int]:
        return self._calls

    async def read(self) -> Contents:
        return Contents(dict(self._routes))

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Tell each op. Raises TargetError if nobody reads stdout any more."""
        for op in sorted(ops, key=_place):
            route = op.object
            if not isinstance(route, CloudRoute):
                raise TypeError(f"{type(route).__name__} is no route of a cloud's")
            if op.action == "remove" and route.key not in self._routes:
                continue
            try:
                self._telling.change(op)
            except OSError as error:
                self._calls[op.action, "error"] += 1
                raise TargetError(
                    f"stdout can't be written: {error.strerror or error}; whoever read it is gone"
                ) from error
            self._calls[op.action, "ok"] += 1
            if op.action == "remove":
                del self._routes[route.key]
            else:
                self._routes[route.key] = route
        return [None] * len(ops)

    def lines(self, ops: Sequence[Op]) -> list[str]:
        """There is no command that does the same."""
        return []

    def called(self, route: CloudRoute) -> str:
        return route_name(route.table, route.dst)

    async def close(self) -> None:
        """There is nothing to give up."""


def _place(op: Op) -> tuple[int, str, int, bytes, int]:
    """Changes, additions, removals, each by table and destination."""
    route = op.object
    if not isinstance(route, CloudRoute):
        raise TypeError(f"{type(route).__name__} is no route of a cloud's")
    dst = route.dst
    return ORDER.index(op.action), route.table, dst.version, dst.network_address.packed, dst.prefixlen


def _json(what: msgspec.Struct) -> str:
    return msgspec.json.encode(what).decode()
