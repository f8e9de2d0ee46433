"""`weft route-manager` where it is to end: -once, -dry-run and -delete-all-routes. Called by `route_manager.py`.

It ends when nothing is left to try, and also when nothing happens any more: etcd or the cloud may be away for ever, and
another manager may write. Cycles alone are nothing: the loop makes them for ever, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from weft.agent.contender import is_dead
from weft.agent.election import leader_of
from weft.agent.route_manager import TABLES
from weft.daemons.process import run_until_signalled
from weft.errors import StoreError
from weft.model import Problem
from weft.targets.cloud.stdout import Telling

if TYPE_CHECKING:
    from weft.daemons.route_manager import RouteManager

log = logging.getLogger("weft")

PATIENCE = 60.0
"""Seconds that a source, the election and the tables are waited for while nothing happens."""
WORK = 300.0
"""The same once all of those are there: a provider may take so long for one change."""
GLANCE = 2.0
"""Seconds for a look at who else is at work."""


async def delete_all(manager: RouteManager) -> int:
    """-delete-all-routes. 1: not all of it was done, and what wasn't was told."""
    log.info("deleting all routes")
    await _warn_of_another(manager)
    if manager.settings.dry_run:
        return await once(manager)
    return await _settle(manager)


async def once(manager: RouteManager) -> int:
    """-once, and -dry-run, which tells what would be done."""
    code = await _settle(manager)
    if not manager.settings.dry_run or code:
        return code
    changes = await manager.loop.preview()
    if changes is not None:
        try:
            Telling(manager.tables.called, manager.settings.output).plan(changes.ops, manager.tables.lines)
        except OSError as error:
            log.error("the plan can't be told: stdout: %s", error.strerror or error)
            return 1
    return 0


async def _settle(manager: RouteManager) -> int:
    """Run the loop until there is nothing left to try. 1: something is not as it should be, and was told."""
    manager.start()
    running = asyncio.ensure_future(run_until_signalled(manager.loop))
    now = asyncio.get_running_loop().time
    mark, since = _mark(manager), now()
    try:
        while not manager.settled:
            if _mark(manager) != mark:
                mark, since = _mark(manager), now()
            left = since + _patience(manager) - now()
            if left <= 0:
                log.error("not done: waited for %s in vain", ", ".join(_awaited(manager)))
                return 1
            manager.stirred.clear()
            stirred = asyncio.ensure_future(manager.stirred.wait())
            await asyncio.wait({running, stirred}, timeout=left, return_when="FIRST_COMPLETED")
            stirred.cancel()
            if running.done():
                running.result()
                log.error("interrupted")
                return 1
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return _outcome(manager)


def _mark(manager: RouteManager) -> tuple[object, ...]:
    """Another one each time that something happens. Calls of the provider are something as long as it alone is what is
    waited for."""
    waiting = manager.world.waiting()
    calls = sum(manager.tables.calls.values()) if set(waiting) <= {TABLES} else 0
    return (*waiting, manager.leader, calls)


def _patience(manager: RouteManager) -> float:
    """Who stands by while another leads has nothing to wait for."""
    if manager.leader:
        return GLANCE
    return PATIENCE if manager.world.waiting() else WORK


def _awaited(manager: RouteManager) -> list[str]:
    if manager.leader:
        return [f"the table to be left to this one ({manager.leader} writes)"]
    return manager.world.waiting() or [manager.tables.name]


def _outcome(manager: RouteManager) -> int:
    statuses = manager.loop.reconciler.account.statuses
    if manager.settings.dry_run:
        statuses = {key: status for key, status in statuses.items() if key[0] == "target"}
    if statuses:
        key, status = next(iter(statuses.items()))
        first = f"{manager.loop.reconciler.name(key)}: {status.message}"
        log.error("not done: %d; the first is %s", len(statuses), first)
    wrong = next(_wrong(manager), None)
    if wrong is not None and not statuses:
        log.error("not all that was asked for could be done: %s", wrong.message)
    return int(bool(statuses) or wrong is not None)


def _wrong(manager: RouteManager) -> Iterator[Problem]:
    """What was asked for and isn't done, without being an object's failure. What the tables themselves were said to be
    like is of before, and about other things than routes (an instance that doesn't forward)."""
    if manager.settings.dry_run or manager.settings.delete_all_routes:
        return
    contents = manager.target.contents
    beside = contents.problems if contents is not None else ()
    yield from (problem for problem in manager.world.problems() if problem.wrong and problem not in beside)


async def _warn_of_another(manager: RouteManager) -> None:
    """A manager that runs would write them again. Where etcd can't be asked, that isn't known."""
    with contextlib.suppress(StoreError, TimeoutError):
        async with asyncio.timeout(GLANCE):
            leader = leader_of(await manager.store.get(manager.key))
            if leader is not None and not leader.resigned and not is_dead(leader):
                log.warning("%s runs and will insert them again: stop it first", leader.name)
