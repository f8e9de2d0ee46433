"""How long a person waits for the command line."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import Benchmark, Result, shown

RUNS = 20


def help_page() -> Result:
    weft = Path(sys.executable).with_name("weft")
    environment = {key: text for key, text in os.environ.items() if not key.startswith("PYTHON")}
    taken = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([weft, "--help"], check=True, stdout=subprocess.DEVNULL, env=environment)
        taken.append(time.perf_counter() - started)
    detail = f"ms {shown([1e3 * seconds for seconds in taken], 0)}"
    return Result("startup.help", statistics.median(taken) * 1e3, "ms", 60.0, "lower", detail)


BENCHMARKS: dict[str, Benchmark] = {
    "startup.help": Benchmark(help_page, "`weft --help`, the process from start to end")
}
