"""What a cloud's route tables are to hold. Pure; called by `agent/route_manager.py` for each View.

Wanted is a route per table and subnet (with -aggregate, fewer). What the tables hold beside that goes, but:

- what covers a wanted destination, or is covered by one, goes only once a reading has what takes its place: additions
  come before removals, and one that fails must not leave a hole;
- what would leave a destination without a route goes only as far as the guard lets it (`table_routes_guard.py`), and
  of what nobody asked for since the start, nothing while that is to be spared: which leases ran out just now, and are
  due a time of grace, only who was there knows.

What has to stay is in the plan, with the reason, so nobody else needs to know of either rule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Protocol

from weft.core.ground import point
from weft.core.table_routes_guard import MaxDelete, Past, Place
from weft.core.table_routes_hosts import Destination
from weft.core.table_routes_index import Index, collapsed
from weft.model import IPAddress, IPNetwork, Problem, TableRoute
from weft.objects.cloud import CloudRoute

SUBJECT = "routes"
TABLE = "the table"
"""Source of routes that stay although nobody asks for them."""
SPARED = "nobody has asked for it since the start; it is kept for -grace"
NAMED = 5
"""How many routes a sentence names."""


class Space(Protocol):
    """A quota (`targets.cloud.Room`)."""

    @property
    def what(self) -> str: ...

    @property
    def limit(self) -> int: ...

    @property
    def free(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Table:
    """One table as it was read last. `held`: ours. `foreign`: where somebody else's routes lead to. `room`: its quota,
    where one was read."""

    name: str
    held: Mapping[IPNetwork, CloudRoute] = field(default_factory=dict)
    foreign: Collection[IPNetwork] = frozenset()
    room: Space | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator set, whether every source has spoken (`synced`), and whether what nobody has asked for yet is
    spared (`sparing`)."""

    aggregate: bool = False
    max_delete: MaxDelete = field(default_factory=MaxDelete)
    synced: bool = True
    sparing: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """`routes`: for the View, by table. `problems`: what a person should know. `past`: for the next decision.
    `unfinished`: some of the routes are there only until others are in their place."""

    routes: tuple[TableRoute, ...] = ()
    problems: tuple[Problem, ...] = ()
    past: Past = field(default_factory=Past)
    unfinished: bool = False


def decide(asked: Sequence[Destination], tables: Sequence[Table], terms: Terms, past: Past, now: float) -> Decision:
    """`past`: of the decision before. `now`: seconds, of a clock that never jumps."""
    drafts = [_draft(asked, table, terms) for table in tables]
    past = _look_back(past, drafts, now)
    if terms.sparing:
        past = replace(past, asked=past.asked.union((d.table.name, dst) for d in drafts for dst in d.wanted))
    spared = _spared(drafts, past, terms)
    lost = [(draft.table.name, dst) for draft in drafts for dst in draft.lost if (draft.table.name, dst) not in spared]
    held = sum(len(table.held) for table in tables) + len(past.deleted)
    most = terms.max_delete.of(held)
    guarded = len(lost) + len(past.deleted) > most
    problems = [problem for draft in drafts for problem in _lacking_room(draft, asked, terms)]
    if guarded and lost and terms.synced:
        problems.insert(0, _guarded(lost, past, terms, f"{most} of {held}"))
    if spared and terms.synced:
        problems.append(_spare(spared))
    routes: list[TableRoute] = []
    going: set[Place] = set()
    for draft in drafts:
        kept = dict(draft.until)
        rule = f"nobody asks for it, and -max-delete={terms.max_delete} lets it not go"
        for dst in draft.lost:
            is_spared = (draft.table.name, dst) in spared
            if dst not in kept and (guarded or is_spared):
                kept[dst] = _kept(draft, dst, SPARED if is_spared else rule)
        going.update((draft.table.name, dst) for dst in draft.lost if dst not in kept)
        routes.extend(sorted((*draft.wanted.values(), *kept.values()), key=_by_destination))
    unfinished = any(draft.until for draft in drafts)
    return Decision(tuple(routes), tuple(problems), replace(past, going=frozenset(going)), unfinished)


@dataclass(frozen=True, slots=True)
class _Draft:
    """One table. `until`: held and not wanted, and to stay until another one is in the table. `lost`: held, and nothing
    that is wanted takes the whole of its place; the guard has to say."""

    table: Table
    wanted: Mapping[IPNetwork, TableRoute]
    index: Index
    until: Mapping[IPNetwork, TableRoute]
    lost: tuple[IPNetwork, ...]


def _draft(asked: Sequence[Destination], table: Table, terms: Terms) -> _Draft:
    wanted = _wanted(asked, table, terms.aggregate)
    index = Index(wanted)
    # One that leads nowhere known serves nobody, so it needs no care.
    over = {dst: held.via for dst, held in table.held.items() if held.via is not None and dst not in wanted}
    until = {}
    for dst, via in over.items():
        stays = _stays(dst, via, wanted, index, table)
        if stays is not None:
            until[dst] = stays
    lost = tuple(sorted((dst for dst in over if not index.serves(dst)), key=_place))
    if not terms.synced:
        wanted = _only_needed(wanted, table)
    return _Draft(table, wanted, index, until, lost)


def _wanted(asked: Sequence[Destination], table: Table, aggregate: bool) -> dict[IPNetwork, TableRoute]:
    """By destination; of two for one, the first: acceptance leaves no two."""
    wanted: dict[IPNetwork, TableRoute] = {}
    for one in asked:
        wanted.setdefault(one.dst, TableRoute(table.name, one.dst, one.via, one.source, one.peer, one.rule))
    return _aggregated(wanted, table.foreign) if aggregate else wanted


def _aggregated(wanted: Mapping[IPNetwork, TableRoute], foreign: Collection[IPNetwork]) -> dict[IPNetwork, TableRoute]:
    """The same with fewer routes: those of one next hop, as far as they make up larger networks."""
    hops: dict[IPAddress, list[IPNetwork]] = {}
    for route in wanted.values():
        hops.setdefault(route.via, []).append(route.dst)
    fewer: dict[IPNetwork, TableRoute] = {}
    for subnets in hops.values():
        index = Index(subnets)
        for dst in collapsed(subnets, foreign):
            inside = list(index.inside(dst))
            fewer[dst] = _together(dst, [wanted[one] for one in inside]) if dst not in wanted else wanted[dst]
    return fewer


def _together(dst: IPNetwork, routes: Sequence[TableRoute]) -> TableRoute:
    sources, peers = (dict.fromkeys(words) for words in zip(*((r.source, r.peer) for r in routes), strict=True))
    rule = f"{_listed([str(route.dst) for route in routes])} together"
    return replace(routes[0], dst=dst, source=" and ".join(sources), peer=" and ".join(peers), rule=rule)


def _stays(
    dst: IPNetwork, via: IPAddress, wanted: Mapping[IPNetwork, TableRoute], index: Index, table: Table
) -> TableRoute | None:
    """The route to `dst` as it is to stay for now, None: nothing that is wanted depends on it. Where a larger one is to
    take its place, it leads already where that will."""
    around = index.around(dst)
    if around is not None:
        waits_for = [around] if not _in_place(around, wanted, table) else []
        via = wanted[around].via
    else:
        waits_for = [one for one in index.inside(dst) if not _in_place(one, wanted, table)]
    if not waits_for:
        return None
    rule = (
        f"stays until {_listed([str(one) for one in waits_for])} {'is' if len(waits_for) == 1 else 'are'} in the table"
    )
    return TableRoute(table.name, dst, via, TABLE, wanted[waits_for[0]].peer, rule)


def _in_place(dst: IPNetwork, wanted: Mapping[IPNetwork, TableRoute], table: Table) -> bool:
    held = table.held.get(dst)
    return held is not None and held.via == wanted[dst].via


def _only_needed(wanted: dict[IPNetwork, TableRoute], table: Table) -> dict[IPNetwork, TableRoute]:
    """Without what the table's own routes do already: before every source has spoken, what is known now may be a part
    of what an earlier run knew, and aggregates fall apart for no reason."""
    index = Index(table.held)
    kept = {}
    for dst, route in wanted.items():
        around = index.around(dst) if dst not in table.held else None
        if around is None or table.held[around].via != route.via:
            kept[dst] = route
    return kept


def _spared(drafts: Sequence[_Draft], past: Past, terms: Terms) -> Collection[Place]:
    if not terms.sparing:
        return ()
    places = ((draft.table.name, dst) for draft in drafts for dst in draft.lost)
    return frozenset(place for place in places if place not in past.asked)


def _spare(spared: Collection[Place]) -> Problem:
    names = _listed(sorted(str(dst) for _, dst in spared))
    text = f"{names}: nobody has asked for {'it' if len(spared) == 1 else 'these'} since the start; kept for -grace"
    return Problem(SUBJECT, text, wrong=False)


def _kept(draft: _Draft, dst: IPNetwork, rule: str) -> TableRoute:
    via = draft.table.held[dst].via
    assert via is not None
    return TableRoute(draft.table.name, dst, via, TABLE, str(via), rule)


def _look_back(past: Past, drafts: Sequence[_Draft], now: float) -> Past:
    by_name = {draft.table.name: draft for draft in drafts}
    gone = frozenset((name, dst) for name, dst in past.going if name in by_name and dst not in by_name[name].table.held)
    places = gone.union(place for place, _ in past.deleted)
    again = frozenset((name, dst) for name, dst in places if name in by_name and by_name[name].index.serves(dst))
    return past.after(gone, again, now)


def _guarded(lost: Sequence[Place], past: Past, terms: Terms, most: str) -> Problem:
    names = _listed([str(dst) for _, dst in lost])
    tables = " and ".join(name for name, _ in groupby(name for name, _ in lost))
    before = f", and {len(past.deleted)} went in the last ten minutes" if past.deleted else ""
    allowed = len(lost) + len(past.deleted)
    text = (
        f"{len(lost)} routes of table {tables} would be deleted ({names}){before};"
        f" -max-delete={terms.max_delete} allows {most} within ten minutes, so they stay. If the leases are gone for"
        f" good, start it with -max-delete={allowed} or -max-delete=all; otherwise see why the store lacks them"
    )
    return Problem(SUBJECT, text)


def _lacking_room(draft: _Draft, asked: Sequence[Destination], terms: Terms) -> Iterator[Problem]:
    table, room = draft.table, draft.table.room
    if room is None:
        return
    more = sum(1 for dst in draft.wanted if dst not in table.held and dst not in table.foreign)
    if more <= room.free:
        return
    number = len(draft.wanted)
    routes = "route does" if number == 1 else "routes do"
    text = f"{number} {routes} not fit into {room.what} ({room.limit} in all; {room.free} free, {more} to be added)"
    fewer = number if terms.aggregate else len(_wanted(asked, table, True))
    if number <= room.free + len(table.held):
        advice = (
            "there is room once what they replace is gone, which stays until then: a little more for a while will do"
        )
    elif fewer < number:
        advice = f"-aggregate would make it {fewer}"
    else:
        advice = "no two of them can be made one: ask for a larger quota"
    yield Problem(table.name, f"{text}; {advice}")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    if more > 0:
        return f"{', '.join(names[:NAMED])} and {more} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _place(dst: IPNetwork) -> tuple[int, int]:
    return point(dst.network_address), dst.prefixlen


def _by_destination(route: TableRoute) -> tuple[int, int]:
    return _place(route.dst)
