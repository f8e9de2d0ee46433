"""The ladder: which step is next where probes fail although the state is right, and why none is."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from weft.core.ladder import HOUR, RUNGS, Attempt, Decision, LadderOptions, Rung, Step, Symptoms, decide, kept

NOW = 1_800_000_000.0
BEGAN = NOW - 60
FREE = LadderOptions(restart="container flannel")
SILENT = Symptoms("flannel.1", lost={"b": BEGAN, "c": BEGAN + 1}, beside=frozenset({"b"}))


def tried(rung: Rung, ago: float, device: str = "flannel.1") -> Attempt:
    return Attempt(rung, device, NOW - ago)


def rung(decision: Decision) -> str:
    """The rung that is taken, or the one sentence why none is."""
    return decision.steps[0].rung if decision.steps else "; ".join(problem.message for problem in decision.held)


def test_nothing_is_done_while_nobody_is_lost_or_the_plan_is_not_carried_out() -> None:
    assert decide(Symptoms("flannel.1", frozenset("b")), (), NOW, FREE) == Decision()
    assert decide(replace(SILENT, pending=True), (), NOW, FREE) == Decision()
    assert decide(replace(SILENT, pending=True, stopped="it ended"), (), NOW, FREE) == Decision()
    assert decide(Symptoms("flannel.1", frozenset("b"), {"b": BEGAN}), (), NOW, FREE) == Decision()


def test_a_loss_must_last() -> None:
    assert decide(SILENT, (), BEGAN + 9, FREE) == Decision(look=BEGAN + 10)
    assert rung(decide(SILENT, (), BEGAN + 10, FREE)) == "cycle"


def test_an_entry_that_contradicts_the_leases_is_corrected_first_even_where_others_answer() -> None:
    symptoms = replace(SILENT, stale=("02:00:00:00:00:01 goes to 10.0.0.9, the lease says 10.0.0.2",))
    assert decide(symptoms, (), NOW, FREE).steps == (Step("fdb", "flannel.1", symptoms.stale[0]),)
    two = replace(symptoms, reached=frozenset("d"), stale=(*symptoms.stale, "another"))
    assert decide(two, (), NOW, FREE).steps[0].reason == f"{symptoms.stale[0]}, and 1 more"


def test_a_device_that_carries_somebody_is_not_cycled() -> None:
    decision = decide(replace(SILENT, reached=frozenset("d")), (), NOW, FREE)
    assert not decision.steps
    assert rung(decision) == (
        "b, c do not answer through flannel.1 and other peers do: the fault is at the far end or on the way there"
    )
    one = Symptoms("flannel.1", frozenset("d"), {"b": BEGAN}, frozenset("b"))
    assert rung(decide(one, (), NOW, FREE)).startswith("b does not answer through flannel.1 and other peers do")


def test_a_device_that_is_down_is_set_up_before_its_entries_are_looked_at() -> None:
    down = Symptoms("flannel.1", lost={"b": BEGAN}, stale=("10.5.2.0 is missing",), down=True)
    assert decide(down, (), NOW, FREE).steps == (Step("cycle", "flannel.1", "flannel.1 is set down"),)


def test_a_dead_underlay_is_not_the_devices_fault() -> None:
    assert rung(decide(replace(SILENT, beside=frozenset()), (), NOW, FREE)) == (
        "b, c answer neither through flannel.1 nor beside it: the underlay, or a firewall on it, is at fault, not this"
        " device"
    )
    one = Symptoms("flannel.1", lost={"b": BEGAN}, beside=frozenset("z"))
    assert rung(decide(one, (), NOW, FREE)).startswith("b answers neither")


def test_the_rungs_come_in_order_and_each_gets_time_to_show_its_effect() -> None:
    assert decide(SILENT, (tried("fdb", 5),), NOW, FREE) == Decision(look=NOW + 5)
    first = decide(SILENT, (tried("fdb", 20),), NOW, FREE)
    assert first.steps == (
        Step(
            "cycle",
            "flannel.1",
            "nobody answers through flannel.1, b can be reached beside it, and no entry of it is wrong",
        ),
    )
    assert rung(decide(SILENT, (tried("fdb", 50), tried("cycle", 20)), NOW, FREE)) == "restart"
    assert rung(decide(SILENT, (tried("cycle", 20, "flannel.2"),), NOW, FREE)) == "cycle"


def test_a_cycle_that_is_not_allowed_is_passed_over() -> None:
    assert rung(decide(SILENT, (), NOW, replace(FREE, cycle=False))) == "restart"
    said = rung(decide(SILENT, (), NOW, LadderOptions(cycle=False)))
    assert said.endswith("RESTART_FLANNEL names nothing that may be restarted: do that by hand")


def test_a_flannel_that_does_not_run_is_restarted_only_where_that_was_allowed() -> None:
    stopped = Symptoms("flannel.1", stopped="the container flannel is exited")
    assert decide(stopped, (), NOW, FREE).steps == (Step("restart", "flannel.1", stopped.stopped),)
    assert rung(decide(stopped, (), NOW, LadderOptions())).startswith("the container flannel is exited; RESTART_FLAN")
    cooling = decide(stopped, (tried("restart", 100),), NOW, FREE)
    assert cooling.look == NOW + 800
    assert rung(cooling).startswith("to restart container flannel waits for its turn: done 1 times within an ho")
    later = decide(stopped, (tried("restart", 100),), NOW + 2, FREE)
    assert rung(later) == rung(cooling), "one word about it, not another one each time"


def test_a_rung_cools_down_and_is_taken_so_often_an_hour() -> None:
    cycled = (tried("cycle", 200),)
    decision = decide(SILENT, cycled, NOW, LadderOptions())
    assert not decision.steps
    assert decision.look == NOW + 100
    often = tuple(tried("cycle", ago) for ago in (3500, 2000, 1500, 900))
    assert decide(SILENT, often, NOW, LadderOptions()).look == NOW + 100
    assert rung(decide(SILENT, (tried("cycle", 3700), *often[1:]), NOW, LadderOptions())) == "cycle"


def test_what_did_not_help_is_not_done_for_ever() -> None:
    old = Symptoms("flannel.1", lost={"b": NOW - 9000}, beside=frozenset("b"))
    done = (tried("cycle", 5000), tried("cycle", 8000))
    said = rung(decide(old, done, NOW, LadderOptions()))
    assert said.startswith("to take flannel.1 down and up has not helped (2 times since the loss began) and is not")
    assert rung(decide(old, done[1:], NOW, LadderOptions())) == "cycle"


def test_attempts_of_yesterday_and_of_tomorrow_are_forgotten() -> None:
    good = tried("cycle", 100)
    assert kept((tried("cycle", 25 * HOUR), good, tried("fdb", -100)), NOW) == (good,)
    assert rung(decide(SILENT, (tried("cycle", -100),), NOW, FREE)) == "cycle"


peers = st.sets(st.sampled_from("bcde"))
moments = st.floats(NOW - 2 * HOUR, NOW)
attempts = st.lists(st.builds(Attempt, st.sampled_from(RUNGS), st.sampled_from(("flannel.1", "other")), moments))


@given(peers, peers, peers, moments, attempts, st.booleans(), st.sampled_from(("", "container flannel")))
def test_no_decision_ever_breaks_the_rules(
    reached: set[str], lost: set[str], beside: set[str], began: float, done: list[Attempt], cycle: bool, restart: str
) -> None:
    symptoms = Symptoms("flannel.1", frozenset(reached), dict.fromkeys(lost, began), frozenset(beside))
    options = LadderOptions(cycle, restart)
    decision = decide(symptoms, tuple(done), NOW, options)
    assert len(decision.steps) <= 1
    for step in decision.steps:
        assert not reached
        assert beside & lost
        assert NOW - began >= options.patience
        mine = [one for one in done if one.rung == step.rung and one.device == step.device]
        assert all(NOW - one.at >= options.cooldown[step.rung] for one in mine)
        assert sum(NOW - one.at < HOUR for one in mine) < options.limit[step.rung]
        assert step.rung != "cycle" or cycle
        assert step.rung != "restart" or restart
    assert decision.look is None or decision.look > NOW
