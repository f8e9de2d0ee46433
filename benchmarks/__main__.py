"""`scripts/bench [NAME…] [--all] [--json] [--list]`: run benchmarks, print figures, exit 1 if a bar is missed."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from benchmarks import Benchmark, Result
from benchmarks.namespace import wait_for_quiet

MODULES = (
    "startup",
    "kernel_target",
    "cycle",
    "memory",
    "flanneld",
    "liveness",
    "gossip",
    "lab",
    "registrar",
    "fifty_hosts",
    "docker_router",
    "failover",
    "route_manager",
)
"""In this order: the cheap ones first."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Figures that docs/performance.md claims.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which, or the start of a name (default: all quick ones)"
    )
    parser.add_argument("--all", action="store_true", help="the slow ones too, which take minutes")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of lines")
    parser.add_argument("--list", action="store_true", help="print the names, which are slow, and what each measures")
    options = parser.parse_args()
    known: dict[str, Benchmark] = {}
    for module in MODULES:
        known.update(importlib.import_module(f"benchmarks.{module}").BENCHMARKS)
    unknown = [w for w in options.names if not any(_is_meant(name, w) for name in known)]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; known are: {', '.join(known)}")
    if options.list:
        print("\n".join(f"{name:36} {'slow' if b.slow else '    '} {b.measures}" for name, b in known.items()))
        return 0
    results: list[Result] = []
    for name, benchmark in known.items():
        if any(_is_meant(name, w) for w in options.names) if options.names else options.all or not benchmark.slow:
            wait_for_quiet()
            results.append(benchmark.run())
            if not options.json:
                print(_line(results[-1]), flush=True)
    if options.json:
        print(json.dumps([{**r._asdict(), "ok": r.ok} for r in results], indent=2))
    return int(not all(r.ok for r in results))


def _is_meant(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(wanted + ".")


def _line(result: Result) -> str:
    sign = "≤" if result.better == "lower" else "≥"
    verdict = "ok  " if result.ok else "MISS"
    figure = f"{result.value:.4g} {result.unit}"
    return f"{verdict} {result.name:36} {figure:>14}  ({sign} {result.bar:g})  {result.detail}"


if __name__ == "__main__":
    sys.exit(main())
