"""diff(wanted, reading) → Changes: what to change in a target, in which order. Pure; called by `agent/reconcile.py`.

Additions and changes come first, by rank (a link before the routes over it); removals last, by rank backwards: make
before break. A change of what the kernel can't change in place is a removal and an addition, and everything that the
kernel takes along with the removed object counts as absent, so that one pass brings it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from weft.core.plan import Wanted
from weft.objects import Key, Object, Op, Route, Sysctl, Why
from weft.objects.cloud import CloudRoute

NOBODY_ASKS = "nothing asks for it any more"
UNWANTED = Why("kernel", "this host", NOBODY_ASKS)


@dataclass(frozen=True, slots=True)
class Changes:
    """`ops`: to be carried out in this order. `conflicts`: of the keys that were looked at, those that are wanted and
    can't be had because somebody else's object is there, or where they would stand, with a phrase that names it.
    `held`: what waits until every source has spoken: removals, and routes that would change from a peer that was not
    heard yet to another."""

    ops: tuple[Op, ...] = ()
    conflicts: Mapping[Key, str] = field(default_factory=dict)
    held: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a target holds, for the diff: our objects, and the keys that others' objects occupy."""

    actual: Mapping[Key, Object]
    foreign: Mapping[Key, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leave:
    """What may be removed or led elsewhere: everything once all sources have spoken (`synced`); before that only
    `settled` keys, which this run has brought about or found right: a source asked for them and took them back."""

    synced: bool = True
    settled: Set[Key] = frozenset()

    def covers(self, key: Key) -> bool:
        return self.synced or key in self.settled


ALL = Leave()


def diff(wanted: Mapping[Key, Wanted], facts: Facts, leave: Leave = ALL, only: Iterable[Key] | None = None) -> Changes:
    """What turns `facts` into `wanted`. `only`: look at these keys alone (the caller knows that no other differs)."""
    keys = _differing(wanted, facts) if only is None else list(dict.fromkeys(only))
    remade = {key for key in keys if _must_be_remade(wanted.get(key), facts.actual.get(key))}
    if remade and only is not None:
        return diff(wanted, facts, leave)
    lost = _dependants(facts.actual, remade)
    if lost:
        keys = [*wanted, *(key for key in keys if key not in wanted)]
    conflicts = _conflicts(keys, lost, wanted, facts)
    additions: list[Op] = []
    removals: list[Op] = []
    waiting: list[Op] = []
    for key in keys:
        want, have = wanted.get(key), facts.actual.get(key)
        if want is None:
            if have is not None and key not in lost and not isinstance(have, Sysctl):  # set, never reverted
                removals.append(Op("remove", have, _unwanted(have)))
        elif key in conflicts:
            continue
        elif have is None or key in lost:
            additions.append(Op("add", want.object, want.why))
        elif have != want.object and not (leave.covers(key) or _known(have, wanted)) and _moves(have, want.object):
            waiting.append(Op("change", want.object, want.why, have))
        elif have != want.object:
            additions.extend(_change(want, have))
    additions.sort(key=_rank)
    removals.sort(key=_rank, reverse=True)
    allowed = [op for op in removals if leave.covers(op.object.key)]
    held = [op for op in removals if not leave.covers(op.object.key)] if len(allowed) < len(removals) else []
    return Changes((*additions, *allowed), conflicts, (*waiting, *held))


def _unwanted(have: Object) -> Why:
    return Why("every source", have.table, NOBODY_ASKS) if isinstance(have, CloudRoute) else UNWANTED


def _differing(wanted: Mapping[Key, Wanted], facts: Facts) -> list[Key]:
    """Wanted keys that are absent or different, in the plan's order, then keys that only the target has."""
    actual = facts.actual
    keys = [key for key, want in wanted.items() if actual.get(key) != want.object]
    keys.extend(key for key in actual if key not in wanted)
    return keys


def _conflicts(keys: list[Key], lost: set[Key], wanted: Mapping[Key, Wanted], facts: Facts) -> dict[Key, str]:
    """Of `keys`, those that are wanted and not there, and can't be had."""
    if len(keys) > len(facts.foreign) and not any(key in wanted for key in facts.foreign):
        return {}
    absent = (key for key in keys if key in wanted and (key in lost or facts.actual.get(key) != wanted[key].object))
    found = ((key, _conflict(key, wanted, facts.foreign)) for key in absent)
    return {key: who for key, who in found if who is not None}


def _conflict(key: Key, wanted: Mapping[Key, Wanted], foreign: Mapping[Key, str]) -> str | None:
    """Who stands where a wanted object is to be, or where something is to be that it needs or belongs to."""
    if key in foreign:
        return foreign[key]
    thing = wanted[key].object
    needs = (need for need in (*thing.needs, *thing.beside) if need in wanted)
    if any(_conflict(need, wanted, foreign) is not None for need in needs):
        return "it stands on an object that is somebody else's"
    return None


def _moves(have: Object, want: Object) -> bool:
    """Whether a change would lead a route to another peer."""
    if isinstance(have, CloudRoute) and isinstance(want, CloudRoute):
        return have.via not in (None, want.via)  # what leads nowhere is nobody's
    return isinstance(have, Route) and _gateway(have) != _gateway(want)


def _known(have: Object, wanted: Mapping[Key, Wanted]) -> bool:
    """Whether the peer that a route of an earlier run leads to was heard in this one. If not, it may be the rightful
    owner: the route waits, so that a restart disturbs nothing that was right."""
    return _gateway(have) in wanted


def _gateway(thing: Object) -> Key:
    if not isinstance(thing, Route):
        return ()
    if thing.nexthop or thing.via is None:
        return ("nexthop", thing.nexthop)
    return ("neighbour", thing.dev, thing.via.packed)


def _must_be_remade(want: Wanted | None, have: Object | None) -> bool:
    return want is not None and have is not None and want.object.fixed != have.fixed


def _change(want: Wanted, have: Object) -> Iterator[Op]:
    if want.object.fixed != have.fixed:
        yield Op("remove", have, want.why)
        yield Op("add", want.object, want.why)
    else:
        yield Op("change", want.object, want.why, have)


def _dependants(objects: Mapping[Key, Object], roots: set[Key]) -> set[Key]:
    """The keys that go with `roots` when those go, directly or through others; without the roots themselves."""
    found = set(roots)
    grew = bool(roots)
    while grew:
        more = {k for k, o in objects.items() if k not in found and any(need in found for need in o.needs)}
        found |= more
        grew = bool(more)
    return found - roots


def _rank(op: Op) -> int:
    return op.object.rank
