"""What a provider refuses again and again waits for a turn."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from weft.objects import Failure, Op, Why
from weft.objects.cloud import CloudRoute
from weft.targets.cloud.refusals import EAGER, FORGOTTEN, TURN, Refusals

NO = Failure("403: compute.routes.create is missing")


def op(number: int, via: str = "192.0.2.1") -> Op:
    route = CloudRoute("default", ip_network(f"10.0.{number}.0/24"), ip_address(via))
    return Op("add", route, Why("flannel", "a", "its lease"))


def refused(*ops: Op, times: int = EAGER) -> Refusals:
    refusals = Refusals()
    for _ in range(times):
        for one in ops:
            refusals.note(one, NO, 0.0)
    return refusals


def test_the_first_few_times_it_is_asked_each_time() -> None:
    refusals = refused(op(1), times=EAGER - 1)
    assert [refusals.answer(op(1), 1.0) for _ in range(5)] == [None] * 5


def test_then_there_is_one_turn_for_all_and_the_last_answer_meanwhile() -> None:
    refusals = refused(op(1), op(2))
    assert refusals.answer(op(1), 10.0) is None
    assert refusals.answer(op(2), 10.0) == NO
    assert refusals.answer(op(1), 10.0 + TURN - 0.01) == NO
    assert refusals.answer(op(2), 10.0 + TURN) is None


def test_another_change_of_the_same_route_is_another_matter() -> None:
    refusals = refused(op(1))
    assert refusals.answer(op(1), 1.0) is None
    assert refusals.answer(op(1), 1.0) == NO
    assert refusals.answer(op(1, via="192.0.2.9"), 1.0) is None
    refusals.note(op(1, via="192.0.2.9"), NO, 1.0)
    assert refusals.answer(op(1, via="192.0.2.9"), 1.0) is None, "it has been refused once"


def test_once_one_is_taken_all_are_asked_for_again() -> None:
    refusals = refused(op(1), op(2), op(3))
    assert refusals.answer(op(1), 1.0) is None
    refusals.note(op(1), None, 1.0)
    assert refusals.answer(op(2), 1.0) is None
    assert refusals.answer(op(3), 1.0) is None


def test_what_was_never_refused_often_says_nothing_about_the_others() -> None:
    refusals = refused(op(1), op(2))
    refusals.note(op(9), None, 1.0)
    assert refusals.answer(op(1), 1.0) is None
    assert refusals.answer(op(2), 1.0) == NO


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    refusals = refused(op(1), op(2))
    assert refusals.answer(op(1), FORGOTTEN - 1) is None
    refusals.forget(FORGOTTEN + 1)
    assert refusals.answer(op(1), FORGOTTEN + 1) is None
    assert refusals.answer(op(1), FORGOTTEN + 1) == NO, "that was asked for"
    assert refusals.answer(op(2), FORGOTTEN + 1) is None, "that was not"
    assert refusals.answer(op(2), FORGOTTEN + 1) is None
