"""What DESIGN.md and docs/performance.md claim about speed, one module per group; run by `scripts/bench`.

A module has BENCHMARKS: name → Benchmark. Figures are medians of several rounds. What is compared takes turns in one
run, so that what else the machine does hits both sides. Root is needed: they work in network namespaces of their own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple


class Result(NamedTuple):
    """One figure. `bar`: what it is to reach; `better`: which side of it is good; `detail`: how it came about."""

    name: str
    value: float
    unit: str
    bar: float
    better: Literal["lower", "higher"]
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.value <= self.bar if self.better == "lower" else self.value >= self.bar


class Benchmark(NamedTuple):
    """`run` measures; `measures` says what, in a line. A slow one takes over 20 s, and runs only when asked for."""

    run: Callable[[], Result]
    measures: str
    slow: bool = False


def in_turns(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """The figures of each side. Every round has one of each, every second round the other way round: what a side leaves
    behind for the next one (warm caches, a busy kernel) then is no side's advantage."""
    figures: list[list[float]] = [[] for _ in sides]
    for number in range(rounds):
        numbered = list(enumerate(sides))
        for at, side in reversed(numbered) if number % 2 else numbered:
            figures[at].append(side())
    return figures


def shown(figures: Sequence[float], digits: int = 3) -> str:
    """`0.412 (0.398 0.412 0.530)`: the median, and every round in the order in which they were taken."""
    rounds = " ".join(f"{figure:.{digits}f}" for figure in figures)
    return f"{statistics.median(figures):.{digits}f} ({rounds})"
