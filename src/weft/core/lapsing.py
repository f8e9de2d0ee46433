"""Leases that are gone from a store: those that ran out are kept for a grace time, those that somebody took away go at
once. Pure; called by `agent/route_sources.py`, which asks the store what became of the leases that it misses.

    its etcd lease is gone too    it ran out: its host is dead, or could not reach etcd. Kept for the grace time
    that lives, or it had none    somebody deleted it, or its host gave it up: it goes at once
    the history became shorter    etcd was restored: it may never have been told. Kept for a day, as flannel's hosts
                                  renew their leases within one
    nobody could be asked yet     it stays

A live lease wins at once: whatever of a kept one it overlaps goes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import TypeAlias

from weft.core.edits import altered, resorted
from weft.core.ground import span
from weft.model import Network, Node, Problem

DAY = 86400.0
NEVER = float("inf")
Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody has in the store. `key`: unique among the claims of one source, and sorts them. `lease`: the etcd
    lease that it hangs on, 0 for none. `noun`: what people call it, with its name: "lease 10.5.1.0/24"."""

    key: str
    lease: int
    node: Node
    noun: str
    spans: tuple[Span, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        spans = tuple(span(subnet) for network in self.node.networks for subnet in network.subnets)
        object.__setattr__(self, "spans", spans)

    @property
    def called(self) -> str:
        """For a sentence: what, and whose."""
        return f"{self.noun} ({', '.join(map(str, self.node.endpoints)) or 'no address'})"


@dataclass(frozen=True, slots=True)
class Moment:
    """`now`: seconds of a clock that never goes back; `wall`: seconds since 1970."""

    now: float
    wall: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A claim whose lease ran out, or that a restored store does not know (`forgotten`). `until`: by `Moment.now`;
    `wall`: the same, in seconds since 1970."""

    claim: Claim
    until: float
    wall: float
    forgotten: bool = False


@dataclass(frozen=True, slots=True)
class Lapsing:
    """`grace`: seconds. `live`: the claims that are in the store, sorted by key. `missed`: gone, and the store was not
    asked yet why. `kept`: gone, and yet to be routed to."""

    grace: float
    live: tuple[Claim, ...] = ()
    missed: tuple[Claim, ...] = ()
    kept: tuple[Kept, ...] = ()

    def after(
        self, live: tuple[Claim, ...], moment: Moment, forgetful: bool = False, departed: Collection[str] = ()
    ) -> Lapsing:
        """These are in the store now. `forgetful`: its history is shorter than it was. `departed`: keys whose owners
        said that they leave."""
        gone, came = altered(self.live, live)
        new, present = _Line(came), {claim.key for claim in came}
        kept = [_trimmed(one, new) for one in self.kept if one.claim.key not in present]
        missed = [_without(claim, new) for claim in self.missed if claim.key not in present]
        missing = [c for c in gone if c.key not in present and c.key not in departed and (c.lease or forgetful)]
        if missing:
            everybody = _Line(live)
            missed.extend(_without(claim, everybody) for claim in missing)
        missed = [claim for claim in missed if claim.spans]
        kept = [one for one in kept if one.claim.spans]
        if not forgetful:
            return Lapsing(self.grace, live, tuple(missed), tuple(kept))
        until = max(DAY, self.grace)
        lost = (Kept(claim, moment.now + until, moment.wall + until, forgotten=True) for claim in missed)
        return Lapsing(self.grace, live, (), (*kept, *lost))

    def hanging(self, leases: Mapping[str, int]) -> Lapsing:
        """The same where claims, by key, hang on other etcd leases than they told."""
        if not leases:
            return self
        live = tuple(replace(c, lease=leases[c.key]) if c.key in leases else c for c in self.live)
        return replace(self, live=live)

    def judged(self, ran_out: Mapping[str, bool], moment: Moment) -> Lapsing:
        """What the store says of missed claims, by key: whether the etcd lease of each is gone too. The others stay
        missed."""
        missed = tuple(claim for claim in self.missed if claim.key not in ran_out)
        over = (claim for claim in self.missed if ran_out.get(claim.key, False) and self.grace > 0)
        kept = (Kept(claim, moment.now + self.grace, moment.wall + self.grace) for claim in over)
        return replace(self, missed=missed, kept=(*self.kept, *kept))

    def ended(self, now: float) -> Lapsing:
        """Without those whose time is over."""
        if now < self.next_end:
            return self
        return replace(self, kept=tuple(one for one in self.kept if now < one.until))

    @property
    def next_end(self) -> float:
        """When the first of the kept ones ends; infinity: none does."""
        return min((one.until for one in self.kept), default=NEVER)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All that is to be routed to, sorted by key."""
        beside = {claim.key: claim for claim in (*self.missed, *(one.claim for one in self.kept))}
        return resorted(self.live, beside, _key) if beside else self.live

    @property
    def problems(self) -> tuple[Problem, ...]:
        """One for each that ran out, one for all that a restored store does not know."""
        said = [
            Problem(one.claim.node.id, _ran_out(one, self.grace), wrong=False) for one in self.kept if not one.forgotten
        ]
        forgotten = [one for one in self.kept if one.forgotten]
        if forgotten:
            said.append(Problem("etcd", _forgotten(forgotten)))
        return tuple(said)


def _key(claim: Claim) -> str:
    return claim.key


class _Line:
    """Where claims lie: `starts` sorted, and how far whatever starts up to there reaches."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        spans = sorted(one for claim in claims for one in claim.spans)
        self.starts = [first for first, _ in spans]
        self.reach = list(accumulate((last for _, last in spans), max))

    def meets(self, one: Span) -> bool:
        at = bisect_right(self.starts, one[1])
        return at > 0 and self.reach[at - 1] >= one[0]


def _trimmed(kept: Kept, live: _Line) -> Kept:
    claim = _without(kept.claim, live)
    return kept if claim is kept.claim else replace(kept, claim=claim)


def _without(claim: Claim, live: _Line) -> Claim:
    """A claim that is gone, without what live ones have of it."""
    if not any(map(live.meets, claim.spans)):
        return claim
    networks = tuple(network for network in (_left(n, live) for n in claim.node.networks) if network.subnets)
    return replace(claim, node=replace(claim.node, networks=networks))


def _left(network: Network, live: _Line) -> Network:
    return replace(network, subnets=tuple(s for s in network.subnets if not live.meets(span(s))))


def _ran_out(one: Kept, grace: float) -> str:
    return (
        f"{one.claim.called} ran out in etcd: its routes are kept for {grace:g} s, until {_time(one.wall)},"
        " should its host take it again"
    )


def _forgotten(kept: Sequence[Kept]) -> str:
    last = max(kept, key=lambda one: one.until)
    more = f" and {len(kept) - 1} more" if len(kept) > 1 else ""
    return (
        "the store's history is shorter than it was (restored from a backup, or set up anew), and it does not know"
        f" {kept[0].claim.called}{more}: their routes are kept until {_time(last.wall)}, in which time their hosts"
        " write them again; a restart of this daemon lets go of them"
    )


def _time(wall: float) -> str:
    return f"{datetime.fromtimestamp(int(wall), UTC):%Y-%m-%d %H:%M:%S} UTC"
