"""`scripts/bench`: which benchmarks it runs, and how figures are taken. The figures themselves are not for tests."""

from __future__ import annotations

import json
import sys
from functools import partial
from types import ModuleType

import pytest

import benchmarks.__main__ as command
from benchmarks import Benchmark, Result, in_turns, shown


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the benchmarks that ran, of `one.quick`, `one.slow` and `two.quick`, which misses its bar."""
    names: list[str] = []

    def run(name: str, value: float) -> Result:
        names.append(name)
        return Result(name, value, "s", 1.0, "lower", "detail")

    module = ModuleType("benchmarks.fake")
    module.BENCHMARKS = {  # type: ignore[attr-defined]
        "one.quick": Benchmark(partial(run, "one.quick", 0.5), "one thing"),
        "one.slow": Benchmark(partial(run, "one.slow", 0.5), "another", slow=True),
        "two.quick": Benchmark(partial(run, "two.quick", 2.0), "too much"),
    }
    monkeypatch.setitem(sys.modules, "benchmarks.fake", module)
    monkeypatch.setattr(command, "MODULES", ("fake",))
    monkeypatch.setattr(command, "wait_for_quiet", lambda: None)
    return names


def bench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    return command.main()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ["one.quick", "two.quick"]),
        (("--all",), ["one.quick", "one.slow", "two.quick"]),
        (("one",), ["one.quick", "one.slow"]),
        (("one.slow", "two.quick"), ["one.slow", "two.quick"]),
    ],
)
def test_without_names_the_quick_ones_run_and_by_name_any(
    monkeypatch: pytest.MonkeyPatch, ran: list[str], arguments: tuple[str, ...], expected: list[str]
) -> None:
    assert bench(monkeypatch, *arguments) == int("two.quick" in expected)
    assert ran == expected


def test_the_list_says_which_are_slow_and_what_each_measures(
    monkeypatch: pytest.MonkeyPatch, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(monkeypatch, "--list") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["one.quick", "one", "thing"], ["one.slow", "slow", "another"], ["two.quick", "too", "much"]]
    assert ran == []


def test_json_tells_bar_and_verdict(
    monkeypatch: pytest.MonkeyPatch, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(monkeypatch, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["value"], row["bar"], row["ok"]) for row in told] == [
        ("one.quick", 0.5, 1.0, True),
        ("two.quick", 2.0, 1.0, False),
    ]


def test_an_unknown_name_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench(monkeypatch, "three")
    assert ended.value.code == 2
    assert "no benchmark three; known are: one.quick, one.slow, two.quick" in capsys.readouterr().err
    assert ran == []


def test_sides_take_turns_and_every_second_round_goes_the_other_way() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    assert in_turns(3, partial(side, "a"), partial(side, "b")) == [[1.0, 4.0, 5.0], [2.0, 3.0, 6.0]]
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_a_figure_is_shown_with_every_round_that_it_is_the_median_of() -> None:
    assert shown([3.0, 1.0, 20.0], 1) == "3.0 (3.0 1.0 20.0)"
