"""Ops carried out on one AWS route table: tags, routes, tags. Called by `aws.py`, table by table.

In this order, so that a crash between any two calls leaves nothing that isn't understood (`aws_tables.py`):

    changes     ReplaceRoute: at no moment the destination is without a route. Their destinations are settled first.
    additions   CreateTags lists them with their interfaces, CreateRoute
    removals    CreateTags lists them with their interfaces, DeleteRoute, CreateTags or DeleteTags takes them off

What has been made is settled by the next write of tags, whenever that is: an addition costs one write of tags for a
whole portion, not one before and one after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from weft.errors import TargetError
from weft.model import IPNetwork
from weft.objects import Failure, Key, Op
from weft.objects.cloud import CloudRoute
from weft.targets.cloud.aws_interfaces import Interfaces
from weft.targets.cloud.aws_shapes import THREADS, AwsRefused, Interface, RouteSeen
from weft.targets.cloud.aws_tables import Table, phrase
from weft.targets.cloud.pace import each
from weft.wire.aws_tags import TAGS_AT_ALL, mark, portions, tags_of

if TYPE_CHECKING:
    from weft.targets.cloud.aws_api import Ec2

RECENT = 5.0
"""Seconds for which a reading is taken as it is. Before something that stands is replaced or deleted, an older one is
made anew: the route may be somebody else's by now."""
ALREADY_THERE = "RouteAlreadyExists"
NO_ROOM = "RouteLimitExceeded"
NO_TAGS_LEFT = "TagLimitExceeded"
NO_ROUTE = "InvalidRoute.NotFound"
NO_INTERFACE = frozenset({"InvalidNetworkInterfaceID.NotFound", "InvalidNetworkInterfaceId.NotFound"})
NO_TABLE = "InvalidRouteTableID.NotFound"

Kind = Literal["keep", "replace", "create", "delete", "give back"]


@dataclass(slots=True)
class _Task:
    """What an op comes to. `hop`: where the route is to lead; `leads_to`: id of the interface that it leads to now."""

    op: Op
    dst: IPNetwork
    kind: Kind
    hop: Interface | None = None
    leads_to: str = ""


@dataclass(slots=True)
class Writer:
    """One batch on one table. `mend_checks`: switch off the source/destination check of interfaces that it leads to."""

    api: Ec2
    interfaces: Interfaces
    table: Table
    mend_checks: bool
    answers: dict[Key, Failure | None] = field(default_factory=dict)
    _give_back: set[IPNetwork] = field(default_factory=set)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _checking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def apply(self, ops: Sequence[Op]) -> dict[Key, Failure | None]:
        """One answer for every op, by the key of its object. Raises TargetError if nothing can be done at all."""
        if self.table.trouble:
            raise TargetError(self.table.trouble)
        tasks = [task for op in ops if (task := self._task(op)) is not None]
        if any(task.kind != "create" for task in tasks) and self._now() - self.table.read_at > RECENT:
            await self._look()
            tasks = [task for op in ops if (task := self._task(op)) is not None]
        await self._carry_out([task for task in tasks if task.kind in ("keep", "replace")])
        for kinds in (("create",), ("delete", "give back")):
            for portion in portions((task, task.dst) for task in tasks if task.kind in kinds):
                await self._carry_out(portion)
        await self._take_off()
        return self.answers

    # What is to be done.

    def _task(self, op: Op) -> _Task | None:
        """None: there is an answer without doing anything."""
        route = op.object
        if not isinstance(route, CloudRoute):
            raise TypeError(f"{op.action} {route.key}: not a route of a cloud")
        held = self.table.ours(route.dst)
        if op.action != "remove":
            return self._making(op, route, held)
        leads_to = held.interface if held is not None else self.table.unseen(route.dst)
        if held is not None or leads_to:
            return _Task(op, route.dst, "delete", leads_to=leads_to)
        if route.dst in self.table.claims:
            return _Task(op, route.dst, "give back")
        self.answers[route.key] = None
        return None

    def _making(self, op: Op, route: CloudRoute, held: RouteSeen | None) -> _Task | None:
        hop = self.interfaces.at(self.table.vpc, route.via) if route.via is not None else None
        somebodys = self.table.somebodys(route.dst)
        if hop is None:
            self.answers[route.key] = Failure(_nobody(route, self.table.vpc))
        elif somebodys is not None:
            self.answers[route.key] = Failure(f"{phrase(somebodys, self.table.id)} was left alone", conflict=True)
        elif held is not None:
            return _Task(op, route.dst, "keep" if held.interface == hop.id else "replace", hop, held.interface)
        elif (full := self._full(route.dst)) is not None:
            self.answers[route.key] = full
        else:
            return _Task(op, route.dst, "create", hop)
        return None

    def _full(self, dst: IPNetwork) -> Failure | None:
        room = self.table.room(self._now(), dst.version)
        return Failure(self._no_room(dst)) if room is not None and room.free == 0 else None

    def _no_room(self, dst: IPNetwork) -> str:
        return (
            f"{self.table.id} takes no more IPv{dst.version} routes: it has {self.table.count(dst.version)}, without "
            "the propagated ones: raise the quota (Service Quotas: VPC: Routes per route table), or use -aggregate"
        )

    # Doing it.

    async def _carry_out(self, tasks: Sequence[_Task]) -> None:
        """Tags first, where any are needed, then the routes, several at once."""
        if not tasks:
            return
        try:
            await self._open(tasks)
        except TargetError as error:
            self.answers.update({task.op.object.key: Failure(str(error)) for task in tasks})
            return
        by_key = {task.op.object.key: task for task in tasks}
        ops = [task.op for task in tasks]
        answers = await each(ops, lambda op: self._one(by_key[op.object.key]), THREADS)
        self.answers.update(zip(by_key, answers, strict=True))

    async def _open(self, tasks: Iterable[_Task]) -> None:
        """List what is about to be made or deleted, with its interface; settle what is about to be led elsewhere."""
        new: dict[IPNetwork, str] = {}
        settle = False
        for task in tasks:
            if task.kind == "create" and task.hop is not None:
                new[task.dst] = mark(task.hop.id)
            elif task.kind == "delete":
                new[task.dst] = mark(task.leads_to)
            settle = settle or (task.kind == "replace" and task.dst in self.table.claims.new)
        if settle or any(self.table.claims.new.get(dst) != kept for dst, kept in new.items()):
            await self._tag(new)

    async def _one(self, task: _Task) -> Failure | None:
        if task.kind in ("replace", "delete"):
            now = await self._as_it_is_now(task)
            if now is None:
                return self.answers[task.op.object.key]
            task = now
        match task.kind:
            case "delete":
                return await self._delete(task.dst)
            case "give back":
                self._give_back.add(task.dst)
                return None
        assert task.hop is not None
        unchecked = await self._uncheck(task.hop)
        done = None
        if task.kind == "create":
            done = await self._create(task.dst, task.hop)
        elif task.kind == "replace":
            done = await self._replace(task.dst, task.hop)
        return done if done is not None else unchecked

    async def _as_it_is_now(self, task: _Task) -> _Task | None:
        """A batch of hundreds takes minutes where AWS throttles. None: there is an answer by now."""
        async with self._looking:
            if self._now() - self.table.read_at <= RECENT:
                return task
            await self._look()
        now = self._task(task.op)
        if now is not None and now.kind == "create":
            self.answers[task.op.object.key] = Failure(f"{task.dst} in {self.table.id} is gone; it is made anew")
            return None
        return now

    async def _create(self, dst: IPNetwork, hop: Interface) -> Failure | None:
        try:
            await self.api.create_route(self.table.id, dst, hop.id)
        except AwsRefused as refused:
            if refused.code == ALREADY_THERE:
                return await self._there_already(dst, hop)
            if not refused.again:
                self._give_back.add(dst)
            return self._refused(dst, hop, refused)
        self.table.put(dst, hop, self._now())
        return None

    async def _there_already(self, dst: IPNetwork, hop: Interface) -> Failure | None:
        """Either the answer to an earlier attempt was lost, or somebody was quicker."""
        async with self._looking:
            await self._look()
        somebodys = self.table.somebodys(dst)
        if somebodys is not None:
            self._give_back.add(dst)
            return Failure(f"{phrase(somebodys, self.table.id)} was left alone", conflict=True)
        if self.table.ours(dst) is None:
            return Failure(f"{self.table.id} has a route to {dst} that AWS doesn't show yet; it is looked at again")
        return None

    async def _replace(self, dst: IPNetwork, hop: Interface) -> Failure | None:
        try:
            await self.api.replace_route(self.table.id, dst, hop.id)
        except AwsRefused as refused:
            return self._refused(dst, hop, refused)
        self.table.put(dst, hop, self._now())
        return None

    async def _delete(self, dst: IPNetwork) -> Failure | None:
        try:
            await self.api.delete_route(self.table.id, dst)
        except AwsRefused as refused:
            if refused.code != NO_ROUTE:
                return Failure(f"{refused} ({dst} in {self.table.id})")
        self.table.drop(dst)
        self._give_back.add(dst)
        return None

    async def _uncheck(self, hop: Interface) -> Failure | None:
        """A route is of use to others even if this fails: its host may be behind another one."""
        if not self.mend_checks:
            return None
        async with self._checking:
            now = self.interfaces.get(hop.id)
            if now is None or not now.check:
                return None
            try:
                await self.api.disable_check(hop.id)
            except TargetError as error:
                return Failure(f"the source/destination check of {hop} can't be switched off: {error}")
            self.interfaces.unchecked(now)
        return None

    def _refused(self, dst: IPNetwork, hop: Interface, refused: AwsRefused) -> Failure:
        if refused.code == NO_ROOM:
            self.table.full(dst.version, self._now())
            return Failure(self._no_room(dst))
        if refused.code in NO_INTERFACE:
            self.interfaces.forget(hop.id)
        return Failure(f"{refused} ({dst} to {hop} in {self.table.id})")

    # Tags.

    async def _take_off(self) -> None:
        """What is gone, or wasn't made after all, is listed no longer. If that fails, the removals have failed: what is
        listed and not there is found by the next reading, and asked to be removed."""
        if not any(dst in self.table.claims for dst in self._give_back):
            return
        try:
            await self._tag({}, self._give_back)
        except TargetError as error:
            gone = [key for key, answer in self.answers.items() if answer is None and self._given_back(key)]
            self.answers.update(dict.fromkeys(gone, Failure(f"it is gone, and still listed in the tags: {error}")))

    def _given_back(self, key: Key) -> bool:
        return any(key[2:] == (dst.network_address.packed, dst.prefixlen) for dst in self._give_back)

    async def _tag(self, new: Mapping[IPNetwork, str], given_back: Collection[IPNetwork] = ()) -> None:
        """Write what has changed, then delete what is too many: meanwhile too much is listed, never too little."""
        table = self.table
        tags = tags_of(table.owner, table.planned(new, given_back))
        changed = {key: value for key, value in tags.items() if table.tried or table.tags.get(key) != value}
        surplus = [key for key in {*table.own_keys(), *table.tried} if key not in tags]
        tried = {*changed, *surplus, *table.tried}
        try:
            if changed:
                await self.api.set_tags(table.id, changed)
                table.tagged(changed, (), self._now())
            if surplus:
                await self.api.drop_tags(table.id, sorted(surplus))
                table.tagged({}, surplus, self._now())
        except BaseException as error:
            if not isinstance(error, AwsRefused) or error.again:
                table.tags_unsure(tried, self._now())
            if isinstance(error, AwsRefused) and error.code == NO_TAGS_LEFT:
                raise TargetError(self._no_tags_left(len(tags))) from error
            raise
        table.tried.clear()

    def _no_tags_left(self, needed: int) -> str:
        return (
            f"{self.table.id} has no room for the list of our routes: it needs {needed} tags, others have "
            f"{self.table.tags_of_others()}, and AWS takes {TAGS_AT_ALL}: remove some, or use -aggregate"
        )

    async def _look(self) -> None:
        found = await self.api.tables({"route-table-id": [self.table.id]})
        if not found:
            raise TargetError(f"route table {self.table.id} isn't there any more")
        self.table.take(found[0], self._now())
        if self.table.trouble:
            raise TargetError(self.table.trouble)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _nobody(route: CloudRoute, vpc: str) -> str:
    return (
        f"no network interface in {vpc} has the address {route.via}, where {route.dst} is to lead: flannel must know "
        "that host by its private address in this VPC (flanneld -public-ip, -iface)"
    )
