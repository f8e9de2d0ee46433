"""A cloud's routes on their way through the core: plan, diff, text, explain."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.build import node
from weft.core.commands import lines, text
from weft.core.diff import Facts, Leave, diff
from weft.core.explain import explain
from weft.core.plan import HERE, plan
from weft.core.table_routes_hosts import nobody
from weft.model import Problem, Profile, TableRoute, TextFile, View
from weft.objects import Op
from weft.objects.cloud import CloudRoute, cloud_key
from weft.objects.outside import File

LEASE = "lease 10.244.72.0/24 of 192.0.2.2"


def asked(dst: str, via: str, table: str = "default", peer: str = "b", rule: str = LEASE) -> TableRoute:
    return TableRoute(table, ip_network(dst), ip_address(via), "flannel", peer, rule)


def view(*routes: TableRoute, synced: bool = True) -> View:
    return View(nobody("m"), profile=Profile("route-manager", plane=False), table_routes=routes, synced=synced)


def route(dst: str, via: str | None, table: str = "default", flaw: str = "") -> CloudRoute:
    return CloudRoute(table, ip_network(dst), ip_address(via) if via is not None else None, flaw)


HOST = node("b", "192.0.2.2", "10.244.72.0/24")
ONE = view(asked("10.244.72.0/24", "192.0.2.2"))


def test_the_plan_of_a_manager_is_the_tables_alone() -> None:
    made = plan(replace(ONE, nodes=(HOST,), files=(TextFile("/run/x", ""),)))
    assert [type(want.object) for want in made.wanted.values()] == [File, CloudRoute]
    want = made.wanted[cloud_key("default", ip_network("10.244.72.0/24"))]
    assert want.object == route("10.244.72.0/24", "192.0.2.2")
    assert str(want.why) == f"{LEASE} (b, told by flannel)"
    assert list(made.parts) == [HERE]


def test_a_plan_follows_the_tables() -> None:
    first = plan(ONE)
    assert plan(ONE, first).moved == frozenset()
    second = plan(view(asked("10.244.73.0/24", "192.0.2.2")), first)
    assert {key[2] for key in second.moved} == {bytes([10, 244, 72, 0]), bytes([10, 244, 73, 0])}
    assert [want.object for want in second.wanted.values()] == [route("10.244.73.0/24", "192.0.2.2")]


def test_a_route_in_words() -> None:
    assert text(route("10.244.72.0/24", "192.0.2.2")) == "cloud route 10.244.72.0/24 via 192.0.2.2 in table default"
    flawed = route("fd00::/64", None, "rtb-1", "blackhole")
    assert text(flawed) == "cloud route fd00::/64 via an instance that is not known in table rtb-1 (blackhole)"
    with pytest.raises(TypeError, match="CloudRoute"):
        lines(Op("add", flawed, next(iter(plan(ONE).wanted.values())).why))


@pytest.mark.parametrize(
    ("held", "ops", "waits"),
    [
        (route("10.244.72.0/24", "192.0.2.2"), [], []),
        (route("10.244.72.0/24", "192.0.2.9"), [], ["change"]),
        (route("10.244.72.0/24", None), ["change"], []),
        (route("10.244.72.0/24", "192.0.2.2", flaw="it is there twice"), ["change"], []),
        (route("10.244.99.0/24", "192.0.2.2"), ["add"], ["remove"]),
    ],
)
def test_before_every_source_has_spoken_nothing_goes_or_leads_elsewhere(
    held: CloudRoute, ops: list[str], waits: list[str]
) -> None:
    """The older claim may be one of a source that is still silent."""
    wanted = plan(ONE).wanted
    changes = diff(wanted, Facts({held.key: held}), Leave(False))
    assert ([op.action for op in changes.ops], [op.action for op in changes.held]) == (ops, waits)
    everything = diff(wanted, Facts({held.key: held}))
    assert ([op.action for op in everything.ops], everything.held) == ([*ops, *waits], ())


BOTH = view(
    asked("10.244.0.0/16", "192.0.2.1", peer="a", rule="10.244.0.0/17 and 10.244.128.0/17 together"),
    asked("10.244.72.0/24", "192.0.2.2"),
    asked("10.244.72.0/24", "192.0.2.2", "rtb-2"),
)


def told(what: str, view_: View = BOTH) -> tuple[bool, list[str]]:
    found, said = explain(what, view_, plan(view_), (HOST, node("far", "192.0.2.7", "10.9.0.0/24")))
    return found, [line.text for line in said]


def test_explain_says_which_route_in_each_table() -> None:
    both = [f"cloud route 10.244.72.0/24 via 192.0.2.2 in table {table}" for table in ("default", "rtb-2")]
    assert told("10.244.72.5") == (True, both)
    assert told("10.244.73.5") == (True, ["cloud route 10.244.0.0/16 via 192.0.2.1 in table default"])
    assert told("b") == (True, both)
    _, said = explain("10.244.72.5", BOTH, plan(BOTH))
    assert said[0].why == f"{LEASE} (b, told by flannel)"
    assert said[0].key in plan(BOTH).wanted


def test_explain_says_why_there_is_none() -> None:
    assert told("10.8.0.1") == (
        False,
        ["no node announces a network that holds 10.8.0.1; routed to: 10.244.0.0/16, 10.244.72.0/24"],
    )
    refused = replace(BOTH, problems=(Problem("far", "node far's network web 10.9.0.0/24 is refused: it is so"),))
    assert told("10.9.0.1", refused) == (False, ["node far's network web 10.9.0.0/24 is refused: it is so"])
    assert told("far") == (False, ["node far is known, but not routed to"])
