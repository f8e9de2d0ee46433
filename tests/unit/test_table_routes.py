"""What a cloud's tables are to hold: routes and next hops, fewer of them, nothing absent, and the guard."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.table_routes import Decision, Table, Terms, decide
from weft.core.table_routes_guard import ALL, LEAST, WINDOW, MaxDelete, Past, parse_max_delete
from weft.core.table_routes_hosts import Destination
from weft.core.table_routes_index import Index, collapsed
from weft.errors import SettingsError
from weft.model import IPNetwork, TableRoute
from weft.objects.cloud import CloudRoute

A, B = "192.0.2.1", "192.0.2.2"
OPEN = Terms(max_delete=ALL)
FEWER = replace(OPEN, aggregate=True)


@dataclass(frozen=True)
class Quota:
    what: str
    limit: int
    free: int


def asks(**hosts: str) -> list[Destination]:
    """`a="10.0.0.0/24 10.0.1.0/24"`: host A takes packets for these."""
    return [
        Destination(ip_network(dst), ip_address({"a": A, "b": B}[name]), "flannel", name, f"lease {dst}")
        for name, subnets in hosts.items()
        for dst in subnets.split()
    ]


def table(held: str = "", name: str = "default", foreign: str = "", room: Quota | None = None) -> Table:
    """`10.0.0.0/24>192.0.2.1`, with spaces; `>?`: it leads to nobody known."""
    routes = {}
    for word in held.split():
        dst, _, via = word.partition(">")
        route = CloudRoute(name, ip_network(dst), None if via == "?" else ip_address(via))
        routes[route.dst] = route
    return Table(name, routes, frozenset(map(ip_network, foreign.split())), room)


def said(routes: tuple[TableRoute, ...]) -> list[str]:
    return [f"{route.dst}>{route.via}" for route in routes]


def wanted(asked: list[Destination], *tables: Table, terms: Terms = OPEN, past: Past | None = None) -> Decision:
    return decide(asked, tables, terms, past or Past(), 1000.0)


def follow(asked: list[Destination], now: Table, terms: Terms) -> list[list[str]]:
    """What the table holds, cycle by cycle, until nothing changes any more."""
    states = []
    for _ in range(6):
        made = wanted(asked, now, terms=terms)
        states.append(said(made.routes))
        held = {route.dst: CloudRoute(now.name, route.dst, route.via) for route in made.routes}
        if held == now.held:
            assert not made.unfinished
            return states[:-1]
        now = replace(now, held=held)
    raise AssertionError(states)


# ---- a route per table and subnet ----


def test_each_subnet_has_a_route_in_each_table() -> None:
    made = wanted(asks(a="10.0.9.0/24 10.0.1.0/24", b="fd00:2::/64"), table(name="one"), table(name="two"))
    there = [f"10.0.1.0/24>{A}", f"10.0.9.0/24>{A}", f"fd00:2::/64>{B}"]
    assert said(made.routes) == there * 2
    assert [route.table for route in made.routes] == ["one"] * 3 + ["two"] * 3
    first = made.routes[0]
    assert (first.source, first.peer, first.rule) == ("flannel", "a", "lease 10.0.1.0/24")
    assert (made.problems, made.unfinished) == ((), False)


def test_without_a_table_nothing_is_wanted() -> None:
    assert wanted(asks(a="10.0.0.0/24")) == Decision()


def test_of_two_that_ask_for_one_destination_the_first_has_it() -> None:
    assert said(wanted(asks(a="10.0.0.0/24", b="10.0.0.0/24"), table()).routes) == [f"10.0.0.0/24>{A}"]


# ---- fewer routes ----


def test_adjacent_subnets_of_one_host_are_one_route() -> None:
    made = wanted(asks(a="10.0.0.0/24 10.0.1.0/24 10.0.3.0/24", b="10.0.2.0/24"), table(), terms=FEWER)
    assert said(made.routes) == [f"10.0.0.0/23>{A}", f"10.0.2.0/24>{B}", f"10.0.3.0/24>{A}"]
    assert made.routes[0].rule == "10.0.0.0/24 and 10.0.1.0/24 together"
    assert (made.routes[0].source, made.routes[0].peer) == ("flannel", "a")
    assert made.routes[1].rule == "lease 10.0.2.0/24"


def test_a_subnet_in_another_of_the_same_host_needs_no_route_of_its_own() -> None:
    made = wanted(asks(a="10.0.0.0/16 10.0.3.0/24 fd00::/65 fd00::8000:0:0:0/65"), table(), terms=FEWER)
    assert said(made.routes) == [f"10.0.0.0/16>{A}", f"fd00::/64>{A}"]


def test_no_aggregate_is_made_where_somebody_elses_route_stands() -> None:
    asked = asks(a="10.0.0.0/24 10.0.1.0/24 10.0.2.0/24 10.0.3.0/24")
    made = wanted(asked, table(foreign="10.0.0.0/22"), terms=FEWER)
    assert said(made.routes) == [f"10.0.0.0/23>{A}", f"10.0.2.0/23>{A}"]
    made = wanted(asked, table(foreign="10.0.0.0/22 10.0.2.0/23 10.0.0.128/25"), terms=FEWER)
    assert said(made.routes) == [f"10.0.0.0/23>{A}", f"10.0.2.0/24>{A}", f"10.0.3.0/24>{A}"]
    made = wanted(asked, table(foreign="10.0.0.0/24"), terms=FEWER)
    assert said(made.routes) == [f"10.0.0.0/24>{A}", f"10.0.1.0/24>{A}", f"10.0.2.0/23>{A}"], "a conflict is not hidden"
    made = wanted(asks(a="10.0.0.0/24 fd00::/65 fd00::8000:0:0:0/65"), table(foreign="10.0.0.0/24"), terms=FEWER)
    assert said(made.routes) == [f"10.0.0.0/24>{A}", f"fd00::/64>{A}"], "it is a conflict, which the diff tells"


# ---- nothing is absent ----


def test_an_aggregate_comes_before_what_it_covers_goes() -> None:
    before = table(f"10.0.0.0/24>{A} 10.0.1.0/24>{A}")
    asked = asks(a="10.0.0.0/24 10.0.1.0/24")
    made = wanted(asked, before, terms=FEWER)
    assert made.unfinished
    assert made.routes[1].rule == "stays until 10.0.0.0/23 is in the table"
    assert follow(asked, before, FEWER) == [
        [f"10.0.0.0/23>{A}", f"10.0.0.0/24>{A}", f"10.0.1.0/24>{A}"],
        [f"10.0.0.0/23>{A}"],
    ]


def test_what_an_aggregate_covered_comes_before_it_goes() -> None:
    before = table(f"10.0.0.0/23>{A}")
    asked = asks(a="10.0.0.0/24 10.0.1.0/24")
    assert follow(asked, before, OPEN) == [
        [f"10.0.0.0/23>{A}", f"10.0.0.0/24>{A}", f"10.0.1.0/24>{A}"],
        [f"10.0.0.0/24>{A}", f"10.0.1.0/24>{A}"],
    ]
    half = table(f"10.0.0.0/23>{A} 10.0.1.0/24>{A}")
    assert wanted(asked, half).routes[0].rule == "stays until 10.0.0.0/24 is in the table"
    both = wanted(asked, before).routes[0]
    assert both.rule == "stays until 10.0.0.0/24 and 10.0.1.0/24 are in the table"


def test_a_replacement_with_the_wrong_hop_is_none() -> None:
    """The aggregate is there, and leads to the host that the subnets left."""
    before = table(f"10.0.0.0/23>{A} 10.0.0.0/24>{B}")
    asked = asks(b="10.0.0.0/24 10.0.1.0/24")
    assert said(wanted(asked, before, terms=FEWER).routes) == [f"10.0.0.0/23>{B}", f"10.0.0.0/24>{B}"]


def test_what_moved_and_is_covered_leads_to_the_new_host_at_once() -> None:
    before = table(f"10.0.0.0/24>{A} 10.0.1.0/24>{B}")
    asked = asks(a="10.0.0.0/24 10.0.1.0/24")
    assert follow(asked, before, FEWER) == [
        [f"10.0.0.0/23>{A}", f"10.0.0.0/24>{A}", f"10.0.1.0/24>{A}"],
        [f"10.0.0.0/23>{A}"],
    ]


def test_a_hop_that_changes_is_one_route_all_the_time() -> None:
    assert follow(asks(b="10.0.0.0/24"), table(f"10.0.0.0/24>{A}"), OPEN) == [[f"10.0.0.0/24>{B}"]]


def test_what_lies_between_two_wanted_ones_goes_when_the_larger_is_there() -> None:
    asked = asks(a="10.0.0.0/16 10.0.0.0/24")
    middle = f"10.0.0.0/20>{A}"
    assert middle in said(wanted(asked, table(f"{middle} 10.0.0.0/24>{A}")).routes)
    assert middle not in said(wanted(asked, table(f"{middle} 10.0.0.0/16>{A}")).routes)


def test_what_leads_nowhere_goes_at_once() -> None:
    strict = replace(OPEN, max_delete=MaxDelete(0))
    made = wanted(asks(a="10.0.0.0/16"), table("10.0.0.0/24>? 10.9.0.0/24>?"), terms=strict)
    assert said(made.routes) == [f"10.0.0.0/16>{A}"]
    assert made.problems == ()


# ---- what nobody has asked for since the start ----


def test_what_nobody_has_asked_for_since_the_start_is_spared_and_told() -> None:
    sparing = replace(OPEN, sparing=True)
    held = table(f"10.0.0.0/24>{A} 10.0.1.0/24>{B} 10.0.2.0/24>?")
    made = wanted(asks(a="10.0.0.0/24"), held, terms=sparing)
    assert said(made.routes) == [f"10.0.0.0/24>{A}", f"10.0.1.0/24>{B}"], "what leads nowhere serves nobody"
    (problem,) = made.problems
    assert not problem.wrong
    assert problem.message == "10.0.1.0/24: nobody has asked for it since the start; kept for -grace"
    later = wanted(asks(a="10.0.0.0/24"), held, past=made.past)
    assert said(later.routes) == [f"10.0.0.0/24>{A}"]


def test_what_was_asked_for_and_is_no_more_goes_at_once_all_the_same() -> None:
    sparing = replace(OPEN, sparing=True)
    held = table(f"10.0.0.0/24>{A} 10.0.1.0/24>{B} 10.0.9.0/24>{B}")
    made = wanted(asks(a="10.0.0.0/24", b="10.0.1.0/24"), held, terms=sparing)
    made = wanted(asks(a="10.0.0.0/24"), held, terms=sparing, past=made.past)
    assert said(made.routes) == [f"10.0.0.0/24>{A}", f"10.0.9.0/24>{B}"], "its source has seen to the grace"


def test_what_is_spared_does_not_count_for_the_guard() -> None:
    held = table(held_by(8) + f" 10.9.0.0/24>{B}")
    few = Terms(max_delete=MaxDelete(1), sparing=True)
    made = wanted(asks(b="10.9.0.0/24"), held, terms=few)
    made = wanted([], held, terms=few, past=made.past)
    assert len(made.routes) == 8
    assert [problem.wrong for problem in made.problems] == [False], "one may go, and one goes"
    early = wanted([], held, terms=replace(few, synced=False))
    assert early.problems == ()


# ---- before every source has spoken ----


def test_an_aggregate_does_not_fall_apart_before_every_source_has_spoken() -> None:
    held = table(f"10.0.0.0/22>{A} 10.0.8.0/24>{A}")
    asked = asks(a="10.0.0.0/24 10.0.8.0/24 10.0.9.0/24")
    early = wanted(asked, held, terms=replace(FEWER, synced=False))
    assert said(early.routes) == [f"10.0.0.0/22>{A}", f"10.0.8.0/23>{A}", f"10.0.8.0/24>{A}"]
    assert wanted(asks(b="10.0.0.0/24"), held, terms=replace(FEWER, synced=False)).routes[1].via == ip_address(B)
    assert f"10.0.0.0/24>{A}" in said(wanted(asked, held, terms=FEWER).routes)


def test_the_guard_says_nothing_before_every_source_has_spoken() -> None:
    held = table(" ".join(f"10.0.{n}.0/24>{A}" for n in range(8)))
    early = wanted([], held, terms=Terms(synced=False))
    assert (early.problems, len(early.routes)) == ((), 8)


# ---- the guard ----


def many(count: int) -> str:
    return " ".join(f"10.0.{n}.0/24" for n in range(count))


def held_by(count: int, host: str = A) -> str:
    return " ".join(f"10.0.{n}.0/24>{host}" for n in range(count))


def test_a_store_that_comes_back_empty_deletes_nothing() -> None:
    made = wanted([], table(held_by(40)), terms=Terms())
    assert len(made.routes) == 40
    assert made.routes[0].rule == "nobody asks for it, and -max-delete=25% lets it not go"
    (problem,) = made.problems
    assert problem.message == (
        "40 routes of table default would be deleted (10.0.0.0/24, 10.0.1.0/24, 10.0.2.0/24, 10.0.3.0/24, 10.0.4.0/24"
        " and 35 more); -max-delete=25% allows 10 of 40 within ten minutes, so they stay. If the leases are gone for"
        " good, start it with -max-delete=40 or -max-delete=all; otherwise see why the store lacks them"
    )
    assert problem.wrong
    assert wanted(asks(a=many(40)), table(held_by(40)), terms=Terms()).problems == ()


@pytest.mark.parametrize(("held", "left", "goes"), [(40, 30, True), (40, 29, False), (4, 1, True), (4, 0, False)])
def test_a_quarter_may_go_and_three_at_least(held: int, left: int, goes: bool) -> None:
    made = wanted(asks(a=many(left)), table(held_by(held)), terms=Terms())
    assert len(made.routes) == (left if goes else held)
    assert bool(made.problems) is not goes
    assert LEAST == 3


def test_all_tables_count_together() -> None:
    tables = table(held_by(8), "one"), table(held_by(8), "two")
    assert len(wanted(asks(a=many(6)), *tables, terms=Terms()).routes) == 12
    made = wanted(asks(a=many(5)), *tables, terms=Terms())
    assert len(made.routes) == 16
    assert "6 routes of table one and two would be deleted" in made.problems[0].message
    assert "(10.0.5.0/24, 10.0.6.0/24, 10.0.7.0/24, 10.0.5.0/24, 10.0.6.0/24 and 1 more)" in made.problems[0].message


def test_what_went_before_counts_until_ten_minutes_have_passed() -> None:
    terms, past, now = Terms(), Past(), 0.0
    left = 12
    for _ in range(3):
        now += 100
        made = decide(asks(a=many(left - 1)), (table(held_by(left)),), terms, past, now)
        assert len(made.routes) == left - 1
        assert made.past.going == {("default", ip_network(f"10.0.{left - 1}.0/24"))}
        past, left = made.past, left - 1
    made = decide(asks(a=many(left - 1)), (table(held_by(left)),), terms, past, now + 1)
    assert len(made.routes) == left
    assert ", and 3 went in the last ten minutes; -max-delete=25% allows 3 of 12 within" in made.problems[0].message
    assert "-max-delete=4 or" in made.problems[0].message
    later = decide(asks(a=many(left - 1)), (table(held_by(left)),), terms, made.past, 200 + WINDOW)
    assert len(later.routes) == left - 1, "the first of the three is history"


def test_what_failed_to_go_is_counted_once_it_went() -> None:
    terms = replace(OPEN, max_delete=MaxDelete(1))
    asked, before = asks(a=many(3)), table(held_by(4))
    first = wanted(asked, before, terms=terms)
    again = wanted(asked, before, terms=terms, past=first.past)
    assert (len(again.routes), again.past.deleted) == (3, ())
    done = wanted(asked, table(held_by(3)), terms=terms, past=again.past)
    assert [place for place, _ in done.past.deleted] == [("default", ip_network("10.0.3.0/24"))]
    assert done.past.going == frozenset()
    assert len(wanted(asks(a=many(2)), table(held_by(3)), terms=terms, past=done.past).routes) == 3


def test_it_opens_again_when_leases_come_back() -> None:
    terms = replace(OPEN, max_delete=MaxDelete(1))
    past = Past(((("default", ip_network("10.0.3.0/24")), 999.0),))
    assert len(wanted(asks(a=many(2)), table(held_by(3)), terms=terms, past=past).routes) == 3
    back = [*asks(a=many(2)), *asks(a="10.0.3.0/24")]
    made = wanted(back, table(held_by(3)), terms=terms, past=past)
    assert said(made.routes) == [f"10.0.0.0/24>{A}", f"10.0.1.0/24>{A}", f"10.0.3.0/24>{A}"]
    assert made.past.deleted == ()
    elsewhere = Past(((("gone", ip_network("10.0.3.0/24")), 999.0),), frozenset({("gone", ip_network("10.0.4.0/24"))}))
    assert wanted(back, table(), terms=terms, past=elsewhere).past.deleted == elsewhere.deleted, "its table is away"


def test_what_moved_or_is_covered_is_no_deletion() -> None:
    none = replace(OPEN, max_delete=MaxDelete(0))
    assert follow(asks(b=many(4)), table(held_by(4)), none) == [[f"10.0.{n}.0/24>{B}" for n in range(4)]]
    assert follow(asks(a=many(4)), table(held_by(4)), replace(none, aggregate=True))[-1] == [f"10.0.0.0/22>{A}"]
    assert follow(asks(a=many(4)), table(f"10.0.0.0/22>{A}"), none)[-1] == [f"10.0.{n}.0/24>{A}" for n in range(4)]


def test_an_aggregate_of_which_a_part_is_gone_is_one() -> None:
    none = replace(OPEN, max_delete=MaxDelete(0))
    asked = asks(a="10.0.0.0/24 10.0.2.0/24 10.0.3.0/24")
    for held in (f"10.0.0.0/22>{A}", f"10.0.0.0/22>{A} 10.0.0.0/24>{A} 10.0.2.0/24>{A} 10.0.3.0/24>{A}"):
        made = wanted(asked, table(held), terms=none)
        assert said(made.routes)[0] == f"10.0.0.0/22>{A}"
        assert made.problems
    assert said(wanted(asked, table(held)).routes)[0] == f"10.0.0.0/24>{A}"


@pytest.mark.parametrize(
    ("text", "meant"),
    [("25%", MaxDelete()), (" 7 ", MaxDelete(7)), ("0", MaxDelete(0)), ("ALL", ALL), ("100 %", ALL)],
)
def test_max_delete_is_read(text: str, meant: MaxDelete) -> None:
    assert parse_max_delete(text) == meant
    assert parse_max_delete(str(meant)) == meant


@pytest.mark.parametrize("text", ["", "-1", "1.5", "most", "%", "٣", "9" * 10])
def test_max_delete_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="it must be a number of routes, a part like 25%, or all"):
        parse_max_delete(text)


@pytest.mark.parametrize("text", ["0%", "101%"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="from 1% to 100%; for none at all, say 0"):
        parse_max_delete(text)


# ---- room ----


def test_what_does_not_fit_is_told_and_fewer_routes_are_offered() -> None:
    tight = table(f"10.0.0.0/24>{A}", room=Quota("quota ROUTES of project p", 250, 6))
    made = wanted(asks(a=many(8)), tight)
    assert [problem.message for problem in made.problems] == [
        "8 routes do not fit into quota ROUTES of project p (250 in all; 6 free, 7 to be added);"
        " -aggregate would make it 1"
    ]
    assert wanted(asks(a=many(7)), tight).problems == ()
    assert wanted(asks(a=many(8)), replace(tight, foreign={ip_network("10.0.3.0/24")})).problems == ()


@pytest.mark.parametrize("terms", [OPEN, FEWER])
def test_where_fewer_are_not_to_be_had_a_larger_quota_is_what_helps(terms: Terms) -> None:
    made = wanted(asks(a="10.0.0.0/24 10.0.2.0/24"), table(room=Quota("table rtb-1", 50, 1)), terms=terms)
    (problem,) = made.problems
    assert problem.subject == "default"
    assert problem.message.endswith("; no two of them can be made one: ask for a larger quota")


# ---- what holds what ----


NETWORKS = st.builds(
    lambda at, length: ip_network((at >> (8 - length) << (8 - length) | 10 << 24, 24 + length)),
    st.integers(0, 255),
    st.integers(0, 8),
)
SIXES = NETWORKS.map(lambda net: ip_network((int(net.network_address) << 96, net.prefixlen)))
SETS = st.frozensets(NETWORKS | SIXES, max_size=12)


def holds(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]


@given(SETS, NETWORKS | SIXES)
def test_the_index_says_what_comparing_all_would(there: frozenset[IPNetwork], asked: IPNetwork) -> None:
    index = Index(there)
    around = [one for one in there if holds(one, asked) and one != asked]
    assert index.around(asked) == max(around, key=lambda one: one.prefixlen, default=None)
    inside = [one for one in there if holds(asked, one) and one != asked]
    assert set(index.inside(asked)) == set(inside)
    count = 2 ** min(asked.max_prefixlen - asked.prefixlen, 8)
    step = asked.num_addresses // count
    points = [asked.network_address + n * step for n in range(count)]
    assert index.serves(asked) == all(any(point in one for one in there) for point in points)


@given(SETS)
def test_collapsing_loses_and_adds_nothing(there: frozenset[IPNetwork]) -> None:
    made = list(collapsed(there, ()))
    assert all(any(holds(large, one) for large in made) for one in there)
    assert all(Index(there).serves(one) for one in made)
    assert len(made) <= len(there)


# ---- random histories ----


CLAIMS = st.dictionaries(st.integers(0, 15), st.sampled_from("ab"), max_size=16)
STEP = st.tuples(CLAIMS, st.booleans(), st.integers(0, 2**32 - 1), st.booleans())


def subnet(number: int) -> str:
    return f"10.0.{number}.0/24"


@settings(max_examples=200)
@given(st.lists(STEP, min_size=2, max_size=10), st.sampled_from([ALL, MaxDelete(), MaxDelete(0)]))
def test_what_was_in_the_table_never_lacks_a_route_while_it_is_wanted(
    steps: list[tuple[dict[int, str], bool, int, bool]], most: MaxDelete
) -> None:
    """Ops of a batch happen in any order, and any of them may fail: after each, every address that was wanted all the
    time and had a route has one still; and where all went well, to the right host."""
    now: dict[IPNetwork, CloudRoute] = {}
    past, before = Past(), {}
    for claims, aggregate, failing, synced in steps:
        asked = asks(a=" ".join(map(subnet, (n for n in claims if claims[n] == "a"))))
        asked += asks(b=" ".join(map(subnet, (n for n in claims if claims[n] == "b"))))
        served = [n for n in claims if n in before and Index(now).serves(ip_network(subnet(n)))]
        for _ in range(3):
            made = decide(asked, (Table("default", dict(now)),), Terms(aggregate, most, synced), past, 0.0)
            past = made.past
            plan = {route.dst: CloudRoute("default", route.dst, route.via) for route in made.routes}
            ops = [dst for dst in {*plan, *now} if plan.get(dst) != now.get(dst)]
            for place, dst in enumerate(sorted(ops, key=lambda dst: crc32(f"{dst} {failing}".encode()))):
                if failing >> (place % 32) & 1:
                    continue
                if dst in plan:
                    now[dst] = plan[dst]
                elif synced:
                    del now[dst]
                for n in served:
                    assert Index(now).serves(ip_network(subnet(n))), f"{subnet(n)} lacks a route"
            failing = 0
        before = claims
        if synced:
            for n, host in claims.items():
                index = Index(now)
                best = ip_network(subnet(n)) if ip_network(subnet(n)) in now else index.around(ip_network(subnet(n)))
                assert best is not None
                assert str(now[best].via) == {"a": A, "b": B}[host], f"{subnet(n)} leads elsewhere"
