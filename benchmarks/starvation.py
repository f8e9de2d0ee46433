"""`python -m benchmarks.starvation [--minutes 30]`: no false alarms while every core is busy.

Two hosts probe each other over a whole path at 200 ms × 3, with two busy loops per core beside them. Any Reach that
leaves "up" is an alarm, and a false one. Ends with 1 if there was one. A short run of it is a test.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.liveness import HERE, THERE, cable, wait
from benchmarks.prober import sets, start

LOOPS_PER_CORE = 2
REPORT = 60.0


@contextmanager
def busy_loops() -> Iterator[int]:
    """That many processes that never rest."""
    count = LOOPS_PER_CORE * (os.cpu_count() or 1)
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield count
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def starve(seconds: float, report: bool = False) -> list[str]:
    """The alarms of both ends within that time."""
    with tempfile.TemporaryDirectory() as folder, cable(1) as namespaces:
        outs = [Path(folder, "one"), Path(folder, "other")]
        paths = [f"n1,eth0,{HERE},{THERE + 1},1500", f"n1,eth0,{THERE + 1},{HERE},1500"]
        ends = [start(netns, 120, [path], out) for netns, path, out in zip(namespaces, paths, outs, strict=True)]
        try:
            wait(lambda: all(sets(out) and sets(out)[-1][1]["n1"][0] == "up" for out in outs), "both ends to be up")
            known = [len(sets(out)) for out in outs]
            with busy_loops() as count:
                _pass(seconds, f"{count} busy loops" if report else "")
            ended = [end.poll() for end in ends]
        finally:
            for end in ends:
                end.kill()
                end.wait()
        if ended != [None, None]:
            raise RuntimeError(f"an end has ended by itself: {ended}")
        told = [(at, *states["n1"]) for out, first in zip(outs, known, strict=True) for at, states in sets(out)[first:]]
    return [f"{at:.3f}: {state}: {reason}" for at, state, reason in told if state != "up"]


def _pass(seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if what:
            print(f"starvation: {what}, {left / 60:.1f} min to go", flush=True)
        time.sleep(min(left, REPORT))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.starvation", description="No false alarms on busy cores."
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: 30)")
    alarms = starve(60 * parser.parse_args().minutes, report=True)
    print("\n".join(alarms) if alarms else "starvation: no alarm")
    return int(bool(alarms))


if __name__ == "__main__":
    sys.exit(main())
