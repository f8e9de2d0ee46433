"""What DESIGN.md and docs/performance.md claim about speed, one module per group; run by `scripts/bench`.

A module has BENCHMARKS: name → a function that measures and returns one Result. They compare side by side in one run
where a figure is a ratio, and need root: they work in network namespaces of their own.
"""

from __future__ import annotations

from collections.abc import Callable
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


Benchmark = Callable[[], Result]
