"""Gossip's figures: how fast news and deaths spread, that nobody is declared dead who lives, and what it costs when
nothing happens. Simulated in virtual time (`gossip_world.py`).

    python -m benchmarks.gossip --serf      50 real members in a namespace, side by side with 50 of Debian's serf
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from functools import cache

from benchmarks import Benchmark, Result
from benchmarks.gossip_world import Sim, World
from weft.core.swim import Swim
from weft.core.swim_values import FAST, LAN, PACES, Pace

CHANGES, DEATHS = 100, 100
NODE_SECONDS = 1e6
STALL, STALLS_EVERY = 2.0, 100.0
"""Seconds that a program does not run, and seconds between two stalls of each member, on average."""
LOSS = 0.05
CHURN = 3.0


def share(figures: Sequence[float], part: float) -> float:
    return sorted(figures)[math.ceil(part * len(figures)) - 1]


@cache
def changes(members: int, count: int, loss: float = 0.0) -> list[float]:
    """Seconds from a member's new payload until all others have it."""
    world = World(LAN, seed=members, loss=loss)
    world.cluster(members)
    world.run(CHURN)
    taken = []
    for _ in range(count):
        sim = world.random.choice(list(world.up()))
        payload, began = world.change(sim), world.now
        others = [other.swim for other in world.up() if other is not sim]

        def told(others: list[Swim] = others, member: str = sim.id, payload: bytes = payload) -> bool:
            return all(other.table.members[member].payload == payload for other in others)

        assert world.run(30, told), "a change was not told"
        taken.append(world.now - began)
        world.run(1 + world.random.random())
    return taken


@cache
def deaths(pace: Pace, members: int, count: int, loss: float = 0.0) -> list[float]:
    """Seconds from a kill until it is declared dead by all others. It comes back between two kills."""
    world = World(pace, seed=members + 1, loss=loss)
    world.cluster(members)
    world.run(CHURN)
    taken = []
    for _ in range(count):
        victim = world.random.choice(list(world.up()))
        world.kill(victim)
        began = world.now
        others = [other.swim for other in world.up()]

        def buried(others: list[Swim] = others, member: str = victim.id) -> bool:
            return not any(other.table.members[member].live for other in others)

        assert world.run(60, buried), "a dead member was not found"
        taken.append(world.now - began)
        world.run(world.random.random())
        del world.sims[victim.swim.address]
        world.add(next(world.up()), victim.number)
        assert world.run(30, world.agree), "it did not come back"
    return taken


def false_deaths(node_seconds: float, members: int = 50) -> tuple[int, str]:
    """Deaths of members that live, and what they went through."""
    world = World(LAN, seed=7, loss=LOSS)
    sims = world.cluster(members)
    stalls = 0

    def stall(sim: Sim) -> None:
        nonlocal stalls
        stalls += 1
        world.stall(sim, STALL)
        again(sim)

    def again(sim: Sim) -> None:
        world.call(world.random.expovariate(1 / STALLS_EVERY), lambda: stall(sim))

    for sim in sims:
        again(sim)
    began = time.monotonic()
    world.run(node_seconds / members)
    tallies = [sim.swim.tally for sim in sims]
    detail = (
        f"{members} members, {stalls} stalls of {STALL:g} s, {LOSS:.0%} loss, {sum(t.suspicions for t in tallies)} "
        f"suspicions; simulated in {time.monotonic() - began:.0f} s"
    )
    return sum(tally.deaths for tally in tallies), detail


def idle(pace: Pace, members: int, seconds: float = 60.0) -> tuple[float, str]:
    """Octets per second that a member sends, with IP and UDP headers (as many come in)."""
    world = World(pace, sized=True)
    sims = world.cluster(members)
    world.run(5)
    for sim in sims:
        sim.sent = sim.datagrams = 0
    world.run(seconds)
    datagrams = sum(sim.datagrams for sim in sims) / members / seconds
    return sum(sim.sent for sim in sims) / members / seconds, f"{datagrams:.1f} datagrams/s, IPv4, sealed"


def _spread(name: str, members: int, part: float, bar: float, count: int) -> Result:
    taken = changes(members, count)
    return Result(name, share(taken, part), "s", bar, "lower", f"{count} changes, the slowest {max(taken):.3f} s")


def _found(name: str, pace: Pace, members: int, bar: float, count: int) -> Result:
    taken = deaths(pace, members, count)
    detail = f"p99 of {count} kills; p50 {share(taken, 0.5):.2f} s, the slowest {max(taken):.2f} s"
    return Result(name, share(taken, 0.99), "s", bar, "lower", detail)


def _false(name: str) -> Result:
    count, detail = false_deaths(NODE_SECONDS)
    return Result(name, count, "", 0, "lower", detail)


def _cost(name: str, members: int) -> Result:
    octets, detail = idle(LAN, members)
    return Result(name, octets, "B/s", 300, "lower", detail)


BENCHMARKS: dict[str, Benchmark] = {
    "gossip.change.50.p50": Benchmark(
        lambda: _spread("gossip.change.50.p50", 50, 0.5, 0.5, CHANGES), "a change known to all of 50, simulated"
    ),
    "gossip.change.50.p99": Benchmark(
        lambda: _spread("gossip.change.50.p99", 50, 0.99, 0.5, CHANGES), "the same, the slow end"
    ),
    "gossip.change.1000.p50": Benchmark(
        lambda: _spread("gossip.change.1000.p50", 1000, 0.5, 1, 30), "a change known to all of 1,000", slow=True
    ),
    "gossip.change.1000.p99": Benchmark(
        lambda: _spread("gossip.change.1000.p99", 1000, 0.99, 1, 30), "the same, the slow end", slow=True
    ),
    "gossip.death.lan": Benchmark(
        lambda: _found("gossip.death.lan", LAN, 50, 5, DEATHS), "one of 50 is killed: until all know it is dead"
    ),
    "gossip.death.fast": Benchmark(
        lambda: _found("gossip.death.fast", FAST, 50, 1.5, DEATHS), "the same with the profile fast"
    ),
    "gossip.death.lan.1000": Benchmark(
        lambda: _found("gossip.death.lan.1000", LAN, 1000, 5, 15), "the same of 1,000, defaults", slow=True
    ),
    "gossip.death.fast.1000": Benchmark(
        lambda: _found("gossip.death.fast.1000", FAST, 1000, 1.5, 15), "the same of 1,000, fast", slow=True
    ),
    "gossip.false-deaths": Benchmark(
        lambda: _false("gossip.false-deaths"), "who lives is declared dead, in 1,000,000 node-seconds", slow=True
    ),
    "gossip.idle.50": Benchmark(lambda: _cost("gossip.idle.50", 50), "what one of 50 sends when nothing happens"),
    "gossip.idle.1000": Benchmark(lambda: _cost("gossip.idle.1000", 1000), "the same of 1,000", slow=True),
}


def main() -> int:
    if "--serf" in sys.argv[1:]:
        from benchmarks.gossip_serf import compare

        return compare()
    for name, benchmark in BENCHMARKS.items():
        result = benchmark.run()
        verdict = "ok  " if result.ok else "MISS"
        print(
            f"{verdict} {name:26} {result.value:8.3f} {result.unit:4} (≤ {result.bar:g})  {result.detail}", flush=True
        )
    for profile, pace in PACES.items():
        print(f"idle, {profile}: {idle(pace, 50)[0]:.0f} B/s at 50")
    return 0


if __name__ == "__main__":
    sys.exit(main())
