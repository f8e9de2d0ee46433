"""`scripts/bench [NAME…] [--json] [--list]`: run benchmarks, print figures, exit 1 if a bar is missed."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from benchmarks import Benchmark, Result

MODULES = ("startup", "kernel_target", "cycle", "memory", "lab")
"""In this order: the cheap ones first."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Figures that DESIGN.md and docs/ claim.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which, or the start of a name (default: all)")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of lines")
    parser.add_argument("--list", action="store_true", help="print the names")
    options = parser.parse_args()
    known: dict[str, Benchmark] = {}
    for module in MODULES:
        known.update(importlib.import_module(f"benchmarks.{module}").BENCHMARKS)
    if options.list:
        print("\n".join(known))
        return 0
    wanted = [n for n in known if not options.names or any(n == w or n.startswith(w + ".") for w in options.names)]
    unknown = [w for w in options.names if not any(n == w or n.startswith(w + ".") for n in known)]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; known are: {', '.join(known)}")
    results: list[Result] = []
    for name in wanted:
        results.append(known[name]())
        if not options.json:
            print(_line(results[-1]), flush=True)
    if options.json:
        print(json.dumps([{**r._asdict(), "ok": r.ok} for r in results], indent=2))
    return int(not all(r.ok for r in results))


def _line(result: Result) -> str:
    sign = "≤" if result.better == "lower" else "≥"
    verdict = "ok  " if result.ok else "MISS"
    figure = f"{result.value:.4g} {result.unit}"
    return f"{verdict} {result.name:36} {figure:>14}  ({sign} {result.bar:g})  {result.detail}"


if __name__ == "__main__":
    sys.exit(main())
