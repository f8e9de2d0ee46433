"""Route tables of an AWS VPC (`-backend=aws`). Called through `targets/cloud/__init__.py`; operators read what
it does and needs in docs/cloud-routes-aws.md.

A route leads to a network interface, its host is known by one of that interface's addresses. One call reads all tables;
interfaces are asked for only where the mirror of them may be wrong, so at rest a reading is one call.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.core.cloud_names import route_name
from weft.errors import SettingsError, TargetError
from weft.model import IPAddress, Problem
from weft.objects import Failure, Key, Op
from weft.objects.cloud import CloudRoute
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import Contents, Room
from weft.targets.cloud.aws_interfaces import Interfaces
from weft.targets.cloud.aws_lines import lines
from weft.targets.cloud.aws_tables import Part, Table, checked, part_of
from weft.targets.cloud.aws_writing import Writer
from weft.targets.cloud.pace import Pace
from weft.wire.aws_tags import owner_key

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

    from weft.targets.cloud.aws_api import Ec2
    from weft.targets.cloud.aws_shapes import TableSeen

log = logging.getLogger("weft")

INTERFACES_EVERY = 20
"""Readings after which all interfaces are asked for again: an address may have moved while its old one lives on."""
PROBLEMS_EVERY = 4
"""The same while there is a source/destination check to complain about: people look whether the complaint goes."""
INSTALL = "-backend=aws needs boto3: pip install 'weft[aws]' (or boto3 itself, into the same environment)"
_TABLE = re.compile(r"rtb-[0-9a-z]+")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which tables are meant. `tags`: key and value. Neither ids nor tags: the main table of the VPC. `vpc`: "" is this
    instance's."""

    ids: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    vpc: str = ""

    @staticmethod
    def of(settings: RouteManagerSettings) -> Chosen:
        """Raises SettingsError for what is neither rtb-… nor tag:Key=Value."""
        ids, tags = [], []
        for text in settings.aws_route_table:
            key, equals, value = text.removeprefix("tag:").partition("=")
            if _TABLE.fullmatch(text):
                ids.append(text)
            elif text.startswith("tag:") and key and equals:
                tags.append((key, value))
            else:
                raise SettingsError(f"-aws-route-table={text}: a table's id (rtb-…) or tag:Key=Value is meant")
        return Chosen(tuple(dict.fromkeys(ids)), tuple(dict.fromkeys(tags)), settings.aws_vpc)


class AwsRoutes:
    """The chosen tables. `connect` gives a client of EC2; it may block, and is called once, by the first reading."""

    def __init__(self, settings: RouteManagerSettings, connect: Callable[[], EC2Client]) -> None:
        self._chosen = Chosen.of(settings)
        self._owner = owner_key(settings.etcd_prefix)
        self._mend_checks = settings.aws_disable_source_dest_check
        self._pace = Pace(settings.requests_per_second)
        self._connect = connect
        self._api: Ec2 | None = None
        self._calls: Counter[tuple[str, str]] = Counter()
        self._vpc = self._chosen.vpc
        self._tables: dict[str, Table] = {}
        self._interfaces = Interfaces()
        self._hints: dict[Key, IPAddress] = {}
        self._left_behind: dict[str, int] = {}
        self._readings = 0
        self._complained = False

    @classmethod
    def of(cls, settings: RouteManagerSettings) -> AwsRoutes:
        """Raises SettingsError if boto3 is missing, or a table is named in a way that can't be. Sends nothing yet."""
        try:
            from weft.targets.cloud.aws_identity import connect
        except ImportError as error:
            raise SettingsError(f"{INSTALL}: {error}") from error
        return cls(settings, lambda: connect(settings))

    @property
    def name(self) -> str:
        return "aws"

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(self._tables)

    @property
    def room(self) -> Mapping[str, Room]:
        """Of tables that took no more: AWS tells its limit by refusing."""
        now = asyncio.get_running_loop().time()
        return {name: room for name, table in self._tables.items() if (room := table.room(now)) is not None}

    @property
    def calls(self) -> Mapping[tuple[str, str], int]:
        return self._calls

    async def read(self) -> Contents:
        api = await self._connected()
        before = sum(self._calls.values())
        problems = await self._read_tables(api)
        await self._renew(api)
        parts = [part_of(table, self._interfaces, self._hints, self._mend_checks) for table in self._tables.values()]
        problems += [problem for part in parts for problem in part.problems]
        problems += self._complaints()
        self._readings += 1
        return _contents(parts, problems, sum(self._calls.values()) - before)

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Table by table, side by side: what one refuses does not stop the other."""
        api = await self._connected()
        answers: dict[Key, Failure | None] = {}
        by_table: dict[str, list[Op]] = {}
        for op in ops:
            by_table.setdefault(_table(op), []).append(op)
        if not self._tables and ops:
            await self._read_tables(api)
        async with asyncio.TaskGroup() as group:
            for name, some in by_table.items():
                group.create_task(self._apply(api, name, some, answers))
        for op in ops:
            route = op.object
            if answers[route.key] is None and isinstance(route, CloudRoute):
                self._hints.pop(route.key, None)
                if op.action != "remove" and route.via is not None:
                    self._hints[route.key] = route.via
        return [answers[op.object.key] for op in ops]

    def lines(self, ops: Sequence[Op]) -> list[str]:
        return lines(ops, self._tables, self._interfaces)

    def called(self, route: CloudRoute) -> str:
        return route_name(route.table, route.dst)

    async def close(self) -> None:
        if self._api is not None:
            self._api.close()
            self._api = None

    async def _connected(self) -> Ec2:
        if self._api is None:
            from weft.targets.cloud.aws_api import Ec2

            self._api = Ec2(await asyncio.to_thread(self._connect), self._pace, self._calls)
        return self._api

    async def _read_tables(self, api: Ec2) -> list[Problem]:
        """Raises TargetError if there is none of those that are meant."""
        found: dict[str, TableSeen] = {}
        for filters in await self._questions():
            found.update({table.id: table for table in await api.tables(filters)})
        missing = [name for name in self._chosen.ids if name not in found]
        if not found:
            raise TargetError(
                f"no such route table in {api.region}: {self._meant()}: check -aws-route-table and -aws-region"
            )
        now = asyncio.get_running_loop().time()
        self._leave(set(self._tables) - set(found) - set(missing))
        self._tables = {
            name: self._tables.get(name) or Table(name, found[name].vpc, self._owner) for name in sorted(found)
        }
        for name, table in self._tables.items():
            table.take(found[name], now)
            self._left_behind.pop(name, None)
        return [
            *(
                Problem(name, f"there is no route table {name} in {api.region}; the others are kept")
                for name in missing
            ),
            *(Problem(name, _left(name, count)) for name, count in self._left_behind.items()),
        ]

    async def _questions(self) -> list[dict[str, Sequence[str]]]:
        """Filters that together find the tables. Where that takes several calls, only now and then: in between, the
        tables that were found are asked for by their ids, in one."""
        chosen = self._chosen
        if chosen.tags or not chosen.ids:
            vpc = {"vpc-id": [await self._own_vpc()]}
        questions: list[dict[str, Sequence[str]]] = [{"route-table-id": chosen.ids}] if chosen.ids else []
        for key in dict.fromkeys(key for key, _ in chosen.tags):
            questions.append({f"tag:{key}": [value for one, value in chosen.tags if one == key], **vpc})
        if not questions:
            questions.append({"association.main": ["true"], **vpc})
        if len(questions) > 1 and self._readings % INTERFACES_EVERY:
            return [{"route-table-id": sorted({*self._tables, *chosen.ids})}]
        return questions

    async def _own_vpc(self) -> str:
        if not self._vpc:
            from weft.targets.cloud.aws_identity import own_vpc

            self._vpc = await asyncio.to_thread(own_vpc)
        return self._vpc

    def _meant(self) -> str:
        tags = [f"tag:{key}={value}" for key, value in self._chosen.tags]
        words = [*self._chosen.ids, *tags] or ["the main table"]
        return ", ".join(words) + (f" in {self._vpc}" if self._vpc else "")

    def _leave(self, names: Iterable[str]) -> None:
        """Tables that aren't meant any more: a tag was taken away, or another one is the main one."""
        for name in names:
            count = sum(self._tables[name].ours(dst) is not None for dst in self._tables[name].routes)
            if count:
                self._left_behind[name] = count

    def _led_to(self) -> dict[str, bool]:
        """Interfaces that our routes lead to, and whether any of those routes is a blackhole."""
        led: dict[str, bool] = {}
        for table in self._tables.values():
            for dst in table.routes:
                route = table.ours(dst)
                if route is not None and route.interface:
                    led[route.interface] = led.get(route.interface, False) or route.blackhole
        return led

    async def _renew(self, api: Ec2) -> None:
        led = self._led_to()
        every = PROBLEMS_EVERY if self._complained else INTERFACES_EVERY
        whole = self._readings % every == 0
        await self._interfaces.renew(
            api, [name for name, dead in led.items() if whole or dead or self._interfaces.get(name) is None]
        )
        if whole:
            self._interfaces.keep_only(led)

    def _complaints(self) -> list[Problem]:
        led = [self._interfaces.get(name) for name in sorted(self._led_to())]
        complaints = [checked(one) for one in led if one is not None and one.check]
        self._complained = bool(complaints)
        return [] if self._mend_checks else complaints

    async def _apply(self, api: Ec2, name: str, ops: Sequence[Op], answers: dict[Key, Failure | None]) -> None:
        table = self._tables.get(name)
        said = ", ".join(self._tables) or "none was read yet"
        failure: Failure | None = Failure(f"there is no route table {name}; there is: {said}")
        done: dict[Key, Failure | None] = {}
        if table is not None:
            writer = Writer(api, self._interfaces, table, self._mend_checks)
            done = writer.answers
            try:
                await self._find_hops(api, table, ops)
                await writer.apply(ops)
            except TargetError as error:
                failure = Failure(str(error))
            except Exception as error:  # a fault of weft's own in one table must not stop the others
                log.exception("%s: a fault in weft itself; please report it", name)
                failure = Failure(f"a fault in weft itself: {error!r}")
        answers.update({op.object.key: done.get(op.object.key, failure) for op in ops})

    async def _find_hops(self, api: Ec2, table: Table, ops: Sequence[Op]) -> None:
        """Ask for interfaces that no route of ours leads to yet. Those that one leads to, the readings look after."""
        led = self._led_to()
        unsure = set()
        for op in ops:
            route = op.object
            if op.action != "remove" and isinstance(route, CloudRoute) and route.via is not None:
                known = self._interfaces.at(table.vpc, route.via)
                if known is None or known.id not in led:
                    unsure.add(route.via)
        await self._interfaces.look_up(api, table.vpc, unsure)


def _table(op: Op) -> str:
    return op.object.table if isinstance(op.object, CloudRoute) else ""


def _left(name: str, count: int) -> str:
    return (
        f"{name} was ours to keep and isn't meant any more; it still has {count} routes of ours: remove them with "
        f"-delete-all-routes -aws-route-table={name}"
    )


def _contents(parts: Iterable[Part], problems: Sequence[Problem], calls: int) -> Contents:
    routes: dict[Key, CloudRoute] = {}
    foreign: dict[Key, str] = {}
    for part in parts:
        routes.update(part.routes)
        foreign.update(part.foreign)
    return Contents(routes, foreign, tuple(problems), calls)
