"""The loop's body over the memory target in virtual time: every op made to fail once, and healed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import CHAINS, network, node, uplink, view
from weft.agent.reconcile import Clock, Reconciler
from weft.agent.status import FIRST_RETRY, LAST_RETRY, Report, Status, next_status
from weft.errors import TargetError
from weft.model import Host, View
from weft.objects import Failure, Key, Object, Op, Sysctl, Why, route_key
from weft.targets import Reading
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget

HOST = Host((uplink(),), chains=CHAINS)
VIEW = view(
    node("b", "192.0.2.2", "10.2.0.0/24", "fd00:2::/64"),
    node("c", "192.0.2.3", "10.3.0.0/24", mtu=1400),
    networks=(network("home", "10.1.0.0/24"),),
    host=HOST,
)
UNSYNCED = view(networks=(network("home", "10.1.0.0/24"),), host=HOST, synced=False)
EMPTY = view(networks=(network("home", "10.1.0.0/24"),), host=HOST)


@dataclass
class Rig:
    """A reconciler over a fake kernel and a fake firewall, and a clock that only we move."""

    kernel: MemoryTarget = field(default_factory=lambda: MemoryTarget(KERNEL_KINDS, "kernel"))
    firewall: MemoryTarget = field(default_factory=lambda: MemoryTarget(FIREWALL_KINDS, "firewall"))
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.reconciler = Reconciler((self.kernel, self.firewall), Clock(lambda: self.now, lambda: self.now))

    async def cycle(self, view_: View = VIEW, full: bool = False) -> Report:
        await self.reconciler.read(full)
        return await self.reconciler.mend(view_)

    async def heal(self, view_: View = VIEW, rounds: int = 12) -> None:
        """Cycles at the moments when a retry is due."""
        for _ in range(rounds):
            await self.cycle(view_)
            due = self.reconciler.next_retry()
            if due is None:
                return
            self.now = max(self.now, due)

    async def held(self) -> dict[Key, Object]:
        readings = [await t.read(full=True) for t in (self.kernel, self.firewall)]
        return {k: o for r in readings for k, o in r.objects.items()}

    def wanted(self) -> dict[Key, Object]:
        return {k: w.object for k, w in self.reconciler.plan.wanted.items()}


async def test_one_cycle_makes_everything_and_a_second_one_has_nothing_to_do() -> None:
    rig = Rig()
    report = await rig.cycle()
    assert await rig.held() == rig.wanted()
    assert len(report.done) == len(rig.wanted())
    again = await rig.cycle()
    assert not again
    assert (await rig.cycle(full=True)).done == ()
    assert rig.reconciler.account.cycles == 3


def _ops_of_a_cold_start() -> int:
    rig = Rig()
    return len(asyncio.run(rig.cycle()).done)


@pytest.mark.parametrize("number", range(1, _ops_of_a_cold_start() + 1))
async def test_any_op_may_fail_and_the_rest_goes_on_and_it_heals(number: int) -> None:
    rig = Rig()
    kernel_ops = sum(1 for w in (await _dry(rig)) if isinstance(w, KERNEL_KINDS))
    failing = rig.kernel if number <= kernel_ops else rig.firewall
    failing.faults.fail_at(number if failing is rig.kernel else number - kernel_ops)
    first = await rig.cycle()
    assert failing.faults.outstanding == 0, "the injected failure was not met"
    (broken,) = failing.faults.consumed
    status = rig.reconciler.account.statuses[broken.object.key]
    assert (status.state, status.attempts) == ("error", 1)
    assert not first.failed, "one more attempt mends it: no line in the log"
    missing = rig.wanted().keys() - (await rig.held()).keys()
    assert missing <= rig.reconciler.account.statuses.keys()
    await rig.heal()
    assert await rig.held() == rig.wanted()
    assert rig.reconciler.account.statuses == {}


async def _dry(rig: Rig) -> list[Object]:
    dry = Reconciler((rig.kernel, rig.firewall))
    await dry.read(full=True)
    return [op.object for op in dry.preview(VIEW).ops]


ROUTE = route_key(ip_network("10.2.0.0/24"), 254, 7600)


async def _drain(rig: Rig) -> None:
    """Everything is right and nothing is due."""
    await rig.heal()
    assert rig.reconciler.account.statuses == {}


async def _drain_of(rig: Rig, view_: View) -> None:
    await rig.heal(view_)
    assert rig.reconciler.account.statuses == {}


async def test_what_one_more_attempt_mends_is_mended_at_once_and_not_told() -> None:
    rig = Rig()
    await _drain(rig)
    rig.kernel.tamper_delete(ROUTE)
    rig.kernel.faults.fail_next(1)
    assert not await rig.cycle()
    assert rig.reconciler.next_retry() == rig.now
    second = await rig.cycle()
    assert [op.object.key for op in second.done] == [ROUTE]
    assert not second.recovered


async def test_a_repair_is_of_what_was_right_before() -> None:
    """Not an attempt more at something new, nor what a former run left, nor a change that was asked for."""
    rig = Rig()
    rig.kernel.faults.fail_at(3)
    assert (await rig.cycle(UNSYNCED)).repaired == ()
    await _drain_of(rig, UNSYNCED)
    rig.kernel.faults.fail_at(rig.kernel.faults.ops_seen + 2)
    for _ in range(4):
        assert (await rig.cycle(VIEW)).repaired == ()
        rig.now += LAST_RETRY
    await _drain(rig)
    rig.kernel.tamper_delete(ROUTE)
    rig.kernel.faults.fail_next(1)
    assert (await rig.cycle()).repaired == ()
    assert [op.object.key for op in (await rig.cycle()).repaired] == [ROUTE], "also if it takes a second attempt"
    rig.kernel.tamper_delete(ROUTE)
    both = await rig.cycle(replace(VIEW, nodes=(*VIEW.nodes, node("d", "192.0.2.4", "10.4.0.0/24"))))
    assert [op.object.key for op in both.repaired] == [ROUTE], "beside a change"
    assert len(both.done) > 1


async def test_what_a_former_run_left_is_no_repair() -> None:
    rig = Rig()
    await rig.cycle()
    rig.reconciler = Reconciler((rig.kernel, rig.firewall), Clock(lambda: rig.now, lambda: rig.now))
    assert (await rig.cycle(UNSYNCED)).held
    gone = await rig.cycle(EMPTY)
    assert gone.done
    assert gone.repaired == ()
    await rig.cycle()
    rig.reconciler = Reconciler((rig.kernel, rig.firewall), Clock(lambda: rig.now, lambda: rig.now))
    gone = await rig.cycle(EMPTY)
    assert any(op.action == "remove" for op in gone.done)
    assert gone.repaired == ()


async def test_a_failure_is_told_once_and_its_recovery_once() -> None:
    rig = Rig()
    await rig.cycle(EMPTY)
    await _drain(rig)
    rig.kernel.tamper_delete(ROUTE)
    rig.kernel.faults.fail_next(3)
    assert not (await rig.cycle()).failed
    assert ROUTE in (await rig.cycle()).failed
    rig.now += FIRST_RETRY
    again = await rig.cycle()
    assert not again.failed
    assert rig.reconciler.account.statuses[ROUTE].attempts == 3
    rig.now += 2 * FIRST_RETRY
    assert (await rig.cycle()).recovered == (ROUTE,)
    assert rig.kernel.faults.outstanding == 0


async def test_no_retry_before_it_is_due() -> None:
    rig = Rig()
    await _drain(rig)
    rig.kernel.tamper_delete(ROUTE)
    rig.kernel.faults.fail_next(2)
    await rig.cycle()
    await rig.cycle()
    seen = rig.kernel.faults.ops_seen
    await rig.cycle()
    await rig.cycle(full=True)
    assert rig.kernel.faults.ops_seen == seen
    assert rig.reconciler.next_retry() == pytest.approx(rig.now + FIRST_RETRY)


def test_backoff_doubles_up_to_half_a_minute_and_keeps_since() -> None:
    status: Status | None = None
    delays = []
    for attempt in range(40):
        status = next_status(status, Failure("no"), wall=float(attempt), now=0.0)
        delays.append(status.retry_at)
        assert (status.since, status.attempts) == (0.0, attempt + 1)
    assert delays[:4] == [0.0, 0.1, 0.2, 0.4]
    assert delays[-1] == LAST_RETRY
    turned = next_status(status, Failure("theirs", conflict=True), 99.0, 0.0)
    assert (turned.state, turned.since) == ("conflict", 99.0)
    assert next_status(turned, None, 100.0, 0.0).state == "done"


async def test_a_tampered_object_is_repaired_from_the_notification_alone() -> None:
    rig = Rig()
    await rig.cycle()
    for key in [k for k in rig.wanted() if k[0] in ("route", "fdb", "neighbour")]:
        rig.kernel.tamper_delete(key)
        report = await rig.cycle()
        assert [op.object.key for op in report.done] == [key]
    assert await rig.held() == rig.wanted()


async def test_a_lost_device_comes_back_with_everything_on_it_in_one_cycle() -> None:
    rig = Rig()
    await rig.cycle()
    rig.kernel.tamper_delete(("link", "vxlan4096"))
    await rig.cycle()
    assert await rig.held() == rig.wanted()


async def test_lost_notifications_end_in_a_full_comparison() -> None:
    rig = Rig()
    await rig.cycle()
    route = next(k for k in rig.wanted() if k[0] == "route")
    rig.kernel.tamper_delete(route)
    rig.kernel.lose_track()
    report = await rig.cycle()
    assert [op.object.key for op in report.done] == [route]


async def test_leftovers_wait_until_every_source_has_spoken() -> None:
    rig = Rig()
    await rig.cycle()
    before = await rig.held()
    restarted = Rig(rig.kernel, rig.firewall)
    report = await restarted.cycle(UNSYNCED)
    assert report.held > 0
    assert await rig.held() == before
    await restarted.cycle(EMPTY)
    assert await rig.held() == restarted.wanted()
    assert len(restarted.wanted()) < len(before)


async def test_what_a_source_took_back_itself_goes_at_once() -> None:
    rig = Rig()
    await rig.cycle(replace(VIEW, synced=False))
    assert not (await rig.cycle(UNSYNCED)).held
    assert await rig.held() == rig.wanted()
    await rig.cycle(replace(VIEW, synced=False))
    assert await rig.held() == rig.wanted()


async def test_a_restart_does_not_take_a_disputed_route_from_its_rightful_owner() -> None:
    b = node("b", "192.0.2.2", networks=(network("old", "10.2.0.0/24", since=1.0),))
    c = node("c", "192.0.2.3", networks=(network("new", "10.2.0.0/24", since=2.0),))
    rig = Rig()
    await rig.cycle(view(b, networks=VIEW.networks, host=HOST))
    before = (await rig.held())[ROUTE]
    restarted = Rig(rig.kernel, rig.firewall)
    await restarted.cycle(view(c, networks=VIEW.networks, host=HOST, synced=False))
    assert (await rig.held())[ROUTE] == before
    await restarted.cycle(view(b, networks=VIEW.networks, host=HOST, synced=False))
    assert (await rig.held())[ROUTE] == before


async def test_tampering_before_every_source_has_spoken_is_repaired() -> None:
    rig = Rig()
    early = replace(VIEW, synced=False)
    await rig.cycle(early)
    right = (await rig.held())[ROUTE]
    rig.kernel.tamper_put(msgspec.structs.replace(right, nexthop=0, via=ip_address("192.0.2.77"), onlink=True))
    await rig.cycle(early)
    assert (await rig.held())[ROUTE] == right
    restarted = Rig(rig.kernel, rig.firewall)
    await restarted.cycle(early)
    rig.kernel.tamper_put(msgspec.structs.replace(right, nexthop=0, via=ip_address("192.0.2.77"), onlink=True))
    await restarted.cycle(early)
    assert (await rig.held())[ROUTE] == right


async def test_a_target_that_stays_unreadable_is_asked_when_it_is_due_and_not_in_a_loop() -> None:
    rig = Rig()
    await rig.cycle(EMPTY)
    rig.firewall.faults.fail_next(1)
    rig.firewall.tamper_delete(next(k for k in rig.wanted() if k[0] == "jump"))
    await rig.cycle(EMPTY)
    rig.firewall.faults.fail_reads(1000)
    asked = 0
    until = rig.now + 10
    while rig.now < until:
        await rig.cycle(EMPTY)
        asked += 1
        due = rig.reconciler.next_retry()
        assert due is not None
        rig.now = max(rig.now + 0.001, due)
    assert asked < 12
    assert rig.firewall.faults.reads_failed < 12


async def test_a_fault_of_our_own_in_a_target_is_a_failure_of_its_ops() -> None:
    class Faulty(MemoryTarget):
        async def apply(self, ops: object) -> list[Failure | None]:
            raise ZeroDivisionError("oops")

    faulty = Reconciler((Faulty(KERNEL_KINDS), MemoryTarget(FIREWALL_KINDS, "firewall")))
    await _cycle(faulty)
    report = await _cycle(faulty)
    assert set(report.failed.values()) == {"a fault in weft itself: ZeroDivisionError('oops')"}
    assert any(isinstance(thing, FIREWALL_KINDS) for thing in faulty.actual())


async def test_what_stands_on_a_device_is_tried_as_soon_as_that_is_back() -> None:
    rig = Rig()
    rig.kernel.faults.fail_at(2)
    link = ("link", "vxlan4096")
    await rig.cycle()
    for _ in range(6):
        rig.kernel.faults.fail_next(20)
        await rig.cycle()
        rig.now += 60
    rig.kernel.faults.fail_next(0)
    rig.kernel.faults = type(rig.kernel.faults)()
    rig.now -= 59.9
    rig.kernel.tamper_put(rig.wanted()[link])
    await rig.cycle()
    await rig.heal(rounds=3)
    assert await rig.held() == rig.wanted()


async def test_a_conflict_that_is_cleared_is_mended_at_once() -> None:
    rig = Rig()
    await rig.cycle(EMPTY)
    rig.kernel.put_foreign(ROUTE, "a route of protocol static")
    for _ in range(8):
        await rig.cycle()
        rig.now += 20
    rig.kernel.remove_foreign(ROUTE)
    report = await rig.cycle()
    assert [op.object.key for op in report.done] == [ROUTE]


async def test_a_foreign_object_is_a_conflict_until_it_goes() -> None:
    rig = Rig()
    route = next(k for k in (await _wanted()) if k[0] == "route")
    rig.kernel.put_foreign(route, "a route of protocol static")
    first = await rig.cycle()
    assert rig.reconciler.account.statuses[route].state == "conflict"
    assert "a route of protocol static" in first.failed[route]
    rig.now += 60
    assert not (await rig.cycle()).failed
    rig.kernel.remove_foreign(route)
    await rig.heal()
    assert await rig.held() == rig.wanted()
    assert rig.reconciler.account.statuses == {}


async def _wanted() -> dict[Key, Object]:
    rig = Rig()
    await rig.cycle()
    return rig.wanted()


async def test_a_target_that_cannot_be_read_does_not_stop_the_other() -> None:
    rig = Rig()
    rig.firewall.faults.fail_reads(1)
    await rig.cycle()
    assert rig.firewall.faults.reads_failed == 1
    assert "it can't be read" in rig.reconciler.account.statuses[("target", "firewall")].message
    kernel = (await rig.kernel.read(full=True)).objects
    assert set(kernel) == {k for k, o in rig.wanted().items() if isinstance(o, KERNEL_KINDS)}
    assert (await rig.firewall.read(full=True)).objects == {}
    await rig.heal()
    assert await rig.held() == rig.wanted()


class _Broken(MemoryTarget):
    async def apply(self, ops: object) -> list[Failure | None]:
        raise TargetError("the socket is gone")

    async def read(self, full: bool = False) -> Reading:
        return Reading({})


async def _cycle(reconciler: Reconciler) -> Report:
    await reconciler.read()
    return await reconciler.mend(VIEW)


async def test_a_target_that_breaks_while_it_is_written_is_a_failure_of_its_ops() -> None:
    broken = Reconciler((_Broken(KERNEL_KINDS + FIREWALL_KINDS),))
    await _cycle(broken)
    report = await _cycle(broken)
    assert not report.done
    assert set(report.failed.values()) == {"the socket is gone"}


async def test_an_object_that_is_asked_for_differently_is_tried_at_once() -> None:
    rig = Rig()
    await rig.cycle(EMPTY)
    rig.kernel.faults.fail_next(99)
    await rig.cycle()
    rig.kernel.faults.__init__()  # type: ignore[misc]
    moved = view(node("b", "192.0.2.9", "10.2.0.0/24"), networks=VIEW.networks, host=HOST)
    report = await rig.cycle(moved)
    assert {op.object.key[0] for op in report.done} >= {"fdb"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 25), st.sampled_from(["op", "read", "delete", "lose"])), max_size=8))
def test_it_heals_after_any_finite_run_of_failures(faults: list[tuple[int, str]]) -> None:
    async def run() -> None:
        rig = Rig()
        for number, kind in faults:
            if kind == "op":
                rig.kernel.faults.fail_next(number)
            elif kind == "read":
                rig.kernel.faults.fail_reads(min(number, 3))
            elif kind == "lose":
                rig.kernel.lose_track()
            else:
                keys = list((await rig.firewall.read()).objects) if number % 2 else []
                if keys:
                    rig.firewall.tamper_delete(keys[number % len(keys)])
            await rig.cycle(VIEW if number % 3 else EMPTY)
            rig.now += 0.05
        await rig.heal(rounds=60)
        while rig.kernel.faults.outstanding:  # failures that no op has met yet: give them some
            rig.kernel.tamper_delete(("link", "vxlan4096"))
            await rig.heal(rounds=60)
        assert await rig.held() == rig.wanted()
        assert rig.reconciler.account.statuses == {}

    asyncio.run(run())


async def test_a_device_that_changes_for_good_is_remade_with_all_that_is_on_it_in_one_cycle() -> None:
    rig = Rig()
    await _drain(rig)
    await rig.cycle(replace(VIEW, me=replace(VIEW.me, port=8472)))
    assert await rig.held() == rig.wanted()
    assert rig.reconciler.account.statuses == {}


async def test_the_sentence_counts_and_gives_reasons() -> None:
    rig = Rig()
    report = await rig.cycle()
    sentence = report.sentence()
    assert "add 1 link" in sentence
    assert "add 3 route" in sentence
    assert "this host's end of the overlay" in sentence
    assert sentence.endswith("(0.0 ms)")
    op = Op("add", Sysctl("a", "1"), Why("s", "p", "r"))
    full = Report((op,), {("x",): "no"}, (("y",),), held=2)
    assert full.sentence() == (
        "add 1 sysctl: r (p, told by s); 1 failed; 1 recovered; 2 removals wait until every source has spoken (0.0 ms)"
    )


async def test_events_are_kept_with_their_reason() -> None:
    rig = Rig()
    rig.kernel.faults.fail_next(1)
    await rig.cycle()
    events = rig.reconciler.account.events
    assert events[0].failure is not None
    assert all(e.at == rig.now for e in events)
    assert set(rig.reconciler.actual()) == set((await rig.held()).values())
