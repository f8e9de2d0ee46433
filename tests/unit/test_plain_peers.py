"""Peers that speak the document's plain form, and several nodes at one place: what `plain` and `crowded` let in, and
what a stranger can't do with them. Virtual time."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.unit.test_peer_table import AT_B, AT_C, HERE, ME, SETTINGS, TIMEOUT, Table, goodbye, hello, node
from weft.discovery.options import Limits
from weft.discovery.tally import Refused
from weft.model import IPAddress
from weft.wire.hello import Goodbye, Hello, Stamp, plain_node

PLAIN = replace(SETTINGS, plain=True)
CROWDED = replace(SETTINGS, plain=True, crowded=True)
GATEWAY = IPv4Address("192.168.100.2")


def plain(name: str = "b-router-1", at: IPAddress = AT_B, stack: str = "stack-b", *networks: str) -> Hello:
    subnets = node(name, at, *networks).networks
    return Hello(name, (at,), 4096, stack, GATEWAY, tuple(s for n in subnets for s in n.subnets))


def announced(stack: str = "stack-b", at: IPAddress = AT_B, kind: str = "ANNOUNCE") -> Hello:
    return Hello(stack, (at,), 4096, kind=kind)


def ids(table: Table) -> list[str]:
    return [one.id for one in table.nodes]


def test_a_plain_hello_is_a_peer_until_it_falls_silent() -> None:
    table = Table(PLAIN)
    said = plain("b-router-1", AT_B, "stack-b", "172.21.0.0/16")
    assert table.hear(said, 0)
    version = table.version
    assert table.hear(said, 60)
    assert (table.nodes, table.version) == ((plain_node(said, "multicast"),), version)
    table.expire(60 + TIMEOUT - 1)
    assert ids(table) == ["b-router-1"]
    table.expire(60 + TIMEOUT)
    assert ids(table) == []
    assert table.departed() == frozenset()
    assert table.hear(said, 200)
    assert ids(table) == ["b-router-1"]
    assert not table.refused()


def test_without_the_setting_it_is_listed_among_the_problems_alone() -> None:
    table = Table()
    assert table.hear(plain(), 0)
    assert ids(table) == []
    assert "run weft there" in table.texts()


@pytest.mark.parametrize("kind", ["ANNOUNCE", "RESPONSE"])
def test_an_announced_stack_is_a_peer_and_a_change_of_its_vni_is_seen(kind: str) -> None:
    table = Table(PLAIN)
    table.hear(announced(kind=kind), 0)
    (known,) = table.nodes
    assert (known.id, known.stack, known.mac, known.networks, known.overlay) == ("stack-b", "stack-b", bytes(6), (), ())
    table.hear(replace(announced(kind=kind), vni=5000), 30)
    assert table.nodes[0].vni == 5000


def test_who_says_more_is_believed_more_whatever_the_order() -> None:
    router = replace(node("b-router-1"), stack="stack-b")
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]):
        table = Table(PLAIN)
        words = [announced(), plain(), hello(router)]
        for step, which in enumerate(order):
            assert table.hear(words[which], step)
        assert table.nodes == (router,), order
        assert not table.refused()


def test_a_plain_hello_under_the_stack_s_own_name_is_not_undone_by_its_announcement() -> None:
    """And the announcement keeps it alive: a program may say HELLO once, and ANNOUNCE from then on."""
    table = Table(PLAIN)
    said = plain("stack-b")
    table.hear(said, 0)
    table.hear(announced(), 60)
    table.expire(60 + TIMEOUT - 1)
    assert table.nodes == (plain_node(said, "multicast"),)
    table.hear(announced(at=AT_C), 70)
    assert table.refused() == {Refused.DUPLICATE: 1}


def test_the_announcement_of_a_stack_is_no_peer_where_one_of_its_routers_is() -> None:
    table = Table(PLAIN)
    for name, at in (("b1", AT_B), ("b2", AT_C)):
        table.hear(replace(hello(replace(node(name, at), stack="stack-b"))), 0)
    for at in (AT_B, AT_C):
        assert table.hear(announced(at=at), 1)
    assert ids(table) == ["b1", "b2"]
    table.leave(goodbye(node("b1"), 2), 2)
    table.hear(announced(), 3)
    assert ids(table) == ["b2", "stack-b"], "nobody else speaks for it there any more"


def test_this_node_s_own_announcement_is_no_peer() -> None:
    table = Table(PLAIN)
    table.stack = "stack-a"
    assert table.hear(announced("stack-a", HERE, "RESPONSE"), 0)
    assert not table.hear(announced(ME, HERE, "RESPONSE"), 0)
    assert ids(table) == []
    assert not table.complaints.problems


def test_another_router_of_this_stack_does_not_clash_with_a_node_named_like_the_stack() -> None:
    table = Table(PLAIN)
    table.hear(hello(replace(node("router-2"), stack=ME)), 0)
    assert table.hear(announced(ME), 1)
    assert not table.complaints.problems


# What strangers can't do. -------------------------------------------------------------------------------------------


def test_a_plain_word_changes_nothing_of_a_node_that_runs_weft() -> None:
    table = Table(PLAIN)
    table.hear(hello(node()), 0)
    version = table.version
    table.hear(plain("host-b", AT_B, "host-b", "10.66.0.0/16"), 1)
    assert table.refused() == {}
    table.hear(plain("host-b", AT_C, "host-b", "10.66.0.0/16"), 2)
    table.hear(announced("host-b", AT_C), 3)
    assert table.refused() == {Refused.DUPLICATE: 2}
    assert "one at 192.0.2.2, which was first, and one at 192.0.2.3" in table.texts()
    assert (table.nodes, table.version) == ((node(),), version)
    table.expire(TIMEOUT)
    assert not table.nodes, "nor does it keep the node alive"


def test_a_forged_host_ip_is_refused() -> None:
    table = Table(CROWDED)
    for forged in (plain(), announced(), hello(node())):
        assert not table.hear(forged, 0, source=AT_C)
    assert table.refused() == {Refused.SPOOFED: 3}
    assert not table.nodes


def test_nobody_says_goodbye_for_a_plain_peer() -> None:
    table = Table(CROWDED)
    table.hear(plain(), 0)
    for source in (AT_B, AT_C):
        table.leave(Goodbye("b-router-1", (AT_B,), Stamp("any", 1, 1)), 1, source=source)
    table.leave(Goodbye("b-router-1", (AT_B,), None), 1)
    assert ids(table) == ["b-router-1"]
    assert table.refused() == {Refused.SPOOFED: 1}


def test_a_goodbye_for_one_of_several_nodes_at_a_place_needs_its_instance() -> None:
    table = Table(CROWDED)
    table.hear(hello(node("b1"), instance="i1"), 0)
    table.hear(hello(node("b2"), instance="i2"), 0)
    table.leave(goodbye(node("b1"), 9, instance="i2"), 1)
    assert ids(table) == ["b1", "b2"]
    table.leave(goodbye(node("b1"), 9, instance="i1"), 2)
    assert ids(table) == ["b2"]


def test_limits_hold_for_plain_words_too() -> None:
    table = Table(replace(CROWDED, limits=Limits(peers=2, subnets=3)))
    many = tuple(f"10.{number}.0.0/16" for number in range(4))
    assert not table.hear(plain("b", AT_B, "b", *many), 0)
    assert "announces 4 subnets, and 3 is the limit" in table.texts()
    for number in range(4):
        table.hear(plain(f"b{number}"), 1)
    assert ids(table) == ["b0", "b1"]
    assert table.refused() == {Refused.LIMIT: 3}


# Several nodes at one place. ----------------------------------------------------------------------------------------


def test_two_plain_peers_at_one_place_are_one_too_many_unless_it_is_crowded() -> None:
    for settings, expected in ((PLAIN, ["b-router-1"]), (CROWDED, ["b-router-1", "c-router-1"])):
        table = Table(settings)
        table.hear(plain(), 0)
        table.hear(plain("c-router-1", AT_B, "stack-c"), 1)
        assert ids(table) == expected


def test_weft_takes_the_place_of_a_plain_peer_under_another_name() -> None:
    table = Table(PLAIN)
    table.hear(plain(), 0)
    assert table.hear(hello(node("other")), 1)
    assert ids(table) == ["other"]


def test_in_a_crowd_nobody_takes_a_place() -> None:
    table = Table(CROWDED)
    for seq in range(1, 6):
        for number, name in enumerate(("b1", "b2", "b3")):
            assert table.hear(hello(node(name), seq, instance=f"i{number}", epoch=number), seq)
    assert ids(table) == ["b1", "b2", "b3"]
    assert not table.complaints.problems
    table.leave(goodbye(node("b2"), 9, instance="i1", epoch=1), 10)
    assert ids(table) == ["b1", "b3"]
    table.expire(5 + TIMEOUT)
    assert ids(table) == []


# Who went of its own accord. ----------------------------------------------------------------------------------------


def test_who_said_goodbye_is_remembered_as_departed_and_who_fell_silent_is_not() -> None:
    table = Table()
    table.hear(hello(node("b", AT_B), instance="b"), 0)
    table.hear(hello(node("c", AT_C), instance="c"), 0)
    assert table.departed() == frozenset()
    table.leave(goodbye(node("b", AT_B), 2, instance="b"), 1)
    table.expire(TIMEOUT)
    assert ids(table) == []
    assert table.departed() == {"b"}
    table.hear(hello(node("b", AT_B), 3, instance="b"), TIMEOUT + 1)
    assert table.departed() == frozenset()
    table.expire(1e6)
    assert table.departed() == frozenset(), "it fell silent this time"
