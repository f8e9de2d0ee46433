"""The pace of calls to a provider's API: token bucket, backoff, Retry-After, and many ops side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network

import pytest

from tests.support.virtual import virtually
from weft.errors import ProviderBusy, TargetError
from weft.objects import Failure, Op, Why
from weft.objects.cloud import CloudRoute
from weft.targets.cloud.pace import ATTEMPTS, LONGEST_WAIT, Pace, backoff, each

WHY = Why("etcd", "a", "its lease")


def op(number: int, action: str = "add") -> Op:
    route = CloudRoute("t", ip_network(f"10.0.{number}.0/24"), ip_address("192.0.2.1"))
    return Op(action, route, WHY)  # type: ignore[arg-type]


def now() -> float:
    return asyncio.get_running_loop().time()


def pace(per_second: float = 10.0, burst: int = 20) -> Pace:
    return Pace(per_second, burst, jitter=lambda: 1.0)


def answers(*outcomes: object) -> Callable[[], asyncio.Future[object]]:
    """A call that answers or raises these, one after the other, and the last one for ever."""
    left = list(outcomes)

    async def once() -> object:
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return once  # type: ignore[return-value]


def test_a_burst_then_so_many_a_second() -> None:
    async def scenario() -> list[float]:
        paced, moments = pace(), []
        for _ in range(40):
            await paced.turn()
            moments.append(now())
        return moments

    moments = virtually(scenario())
    assert moments[19] == 0.0
    assert moments[39] == pytest.approx(2.0, abs=0.05)


def test_after_a_pause_there_is_a_burst_again_and_no_more() -> None:
    async def scenario() -> float:
        paced = pace(burst=5)
        for _ in range(5):
            await paced.turn()
        await asyncio.sleep(1000)
        began = now()
        for _ in range(6):
            await paced.turn()
        return now() - began

    assert virtually(scenario()) == pytest.approx(0.1, abs=0.02)


def test_turns_are_first_come_first_served_and_the_cancelled_take_none_away() -> None:
    async def scenario() -> list[int]:
        paced, came = pace(burst=1), []

        async def one(number: int) -> None:
            await paced.turn()
            came.append(number)

        tasks = [asyncio.create_task(one(n)) for n in range(6)]
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return came

    assert virtually(scenario()) == [0, 2, 4, 5]


def test_what_is_busy_is_asked_again_with_growing_pauses() -> None:
    async def scenario() -> tuple[object, float]:
        busy = ProviderBusy("503")
        return await pace().call(answers(busy, busy, "done")), now()

    answer, took = virtually(scenario())
    assert answer == "done"
    assert took == pytest.approx(0.5 + 1.0, abs=0.05)


def test_it_is_not_asked_for_ever() -> None:
    made = 0

    async def once() -> None:
        nonlocal made
        made += 1
        raise ProviderBusy("503: the backend is down")

    async def scenario() -> None:
        await pace().call(once)

    with pytest.raises(ProviderBusy, match="the backend is down"):
        virtually(scenario())
    assert made == ATTEMPTS


def test_what_is_not_busy_is_not_asked_again() -> None:
    async def scenario() -> float:
        with pytest.raises(TargetError, match="403"):
            await pace().call(answers(TargetError("403: no permission"), "never"))
        return now()

    assert virtually(scenario()) == 0.0


def test_retry_after_is_honoured_by_everybody_and_no_burst_follows() -> None:
    async def scenario() -> list[float]:
        paced, moments = pace(), []
        throttled = ProviderBusy("429", after=5.0, throttled=True)

        async def other() -> None:
            await asyncio.sleep(1.0)
            await paced.turn()
            moments.append(now())

        task = asyncio.gather(*(other() for _ in range(10)))
        assert await paced.call(answers(throttled, "done")) == "done"
        await task
        return moments

    moments = virtually(scenario())
    assert min(moments) >= 5.0
    assert max(moments) - min(moments) >= 0.8  # at the pace of 10 a second, not all at once


def test_a_long_pause_fails_at_once_and_says_when() -> None:
    async def scenario() -> float:
        paced = pace()
        with pytest.raises(ProviderBusy, match="quota"):
            await paced.call(answers(ProviderBusy("quota", after=120.0, throttled=True)), attempts=1)
        with pytest.raises(ProviderBusy, match="asked again in 120 s"):
            await paced.turn()
        took = now()
        await asyncio.sleep(121)
        await paced.turn()
        return took

    assert virtually(scenario()) == 0.0


def test_a_pause_that_is_asked_for_one_call_alone_is_not_slept_through_either() -> None:
    async def scenario() -> float:
        with pytest.raises(ProviderBusy):
            await pace().call(answers(ProviderBusy("503", after=LONGEST_WAIT + 1), "never"))
        return now()

    assert virtually(scenario()) == 0.0


def test_backoff_has_jitter_and_an_end_and_never_undercuts_what_was_asked() -> None:
    assert [backoff(n, None, 1.0) for n in (1, 2, 3, 9, 9999)] == [0.5, 1.0, 2.0, 8.0, 8.0]
    assert backoff(3, None, 0.0) == 1.0
    assert backoff(1, 7.0, 0.0) == 7.0
    assert backoff(1, 7.0, 1.0) > 7.0


def run_each(ops: Sequence[Op], one: Callable[[Op], object], at_once: int = 4) -> list[Failure | None]:
    return virtually(each(ops, one, at_once))  # type: ignore[arg-type]


def test_each_bounds_what_is_under_way_and_answers_in_order() -> None:
    under_way, most = 0, 0

    async def one(which: Op) -> Failure | None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        third = which.object.key[2]
        assert isinstance(third, bytes)
        await asyncio.sleep(1.0 / (1 + third[2]))
        under_way -= 1
        return Failure("odd") if third[2] % 2 else None

    found = run_each([op(n) for n in range(20)], one)
    assert most == 4
    assert [answer is None for answer in found] == [n % 2 == 0 for n in range(20)]


def test_each_makes_before_it_breaks() -> None:
    log: list[str] = []

    async def one(which: Op) -> Failure | None:
        log.append(f"{which.action} begins")
        await asyncio.sleep(1.0)
        log.append(f"{which.action} ends")
        return None

    run_each([op(1, "remove"), op(2), op(3, "remove"), op(4, "change")], one)
    assert log[:2] == ["change begins", "add begins"]
    assert log.index("remove begins") > max(log.index("change ends"), log.index("add ends"))


def test_a_fault_of_one_never_stops_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    async def one(which: Op) -> Failure | None:
        await asyncio.sleep(0.1)
        if which == op(1):
            raise TargetError("403: forbidden")
        if which == op(2):
            raise KeyError("a slip of ours")
        return None

    found = run_each([op(n) for n in range(6)], one)
    assert found[1] == Failure("403: forbidden")
    assert found[2] is not None
    assert "a fault in weft itself: KeyError" in found[2].message
    assert [found[n] for n in (0, 3, 4, 5)] == [None] * 4
    assert "please report it" in caplog.text


def test_once_nothing_is_answered_any_more_the_rest_is_not_tried() -> None:
    tried = 0

    async def one(which: Op) -> Failure | None:
        nonlocal tried
        tried += 1
        await asyncio.sleep(0.1)
        raise ProviderBusy("503: unavailable")

    found = run_each([op(n) for n in range(100)], one)
    assert 4 <= tried <= 8
    assert all(answer is not None for answer in found)
    assert found[99] == Failure("not tried, after others failed: 503: unavailable")


def test_single_failures_never_add_up_to_giving_up() -> None:
    tried = 0

    async def one(which: Op) -> Failure | None:
        nonlocal tried
        tried += 1
        if tried % 3:
            raise ProviderBusy("503: unavailable")
        return None

    run_each([op(n) for n in range(60)], one)
    assert tried == 60


def test_cancelled_it_ends_what_is_under_way_first() -> None:
    ended: list[Op] = []

    async def one(which: Op) -> Failure | None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(which)
        return None

    async def scenario() -> None:
        task = asyncio.create_task(each([op(n) for n in range(10)], one, 4))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(ended) == 4

    virtually(scenario())


def test_nothing_to_do_is_nothing_done() -> None:
    async def one(which: Op) -> Failure | None:
        raise AssertionError("never called")

    assert run_each([], one) == []
