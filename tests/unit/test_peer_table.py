"""The table of peers: who is believed, who is refused, what a hostile sender can and can't do. Virtual time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from weft.discovery.options import Limits, MulticastSettings
from weft.discovery.peers import MEMORY, PeerTable
from weft.discovery.tally import Complaints, Counters, Refused
from weft.model import IPAddress, Mac, Network, Node
from weft.wire.hello import Goodbye, Hello, Stamp

ME, HERE = "host-a", IPv4Address("192.0.2.1")
AT_B, AT_C = IPv4Address("192.0.2.2"), IPv4Address("192.0.2.3")
TIMEOUT = 90.0
SETTINGS = MulticastSettings(ME, "eth0", HERE, "mine", peer_timeout=TIMEOUT, goodbye_hold=0.0)
HOLD = 10.0
HOLDING = replace(SETTINGS, goodbye_hold=HOLD)
LATER = 10.0
"""Late enough that an old datagram is no longer one that was merely overtaken."""


def node(name: str = "host-b", at: IPAddress = AT_B, *networks: str, **changes: object) -> Node:
    subnets = tuple(Network(text, (IPv4Network(text),), since=1.0) for text in networks)
    plain = Node(name, (at,), 4789, 4096, Mac(bytes((2, *at.packed[-4:], 0))), 1500, subnets)
    return replace(plain, **changes)  # type: ignore[arg-type]


def hello(who: Node, seq: int = 1, instance: str = "i1", epoch: int = 1000, part: int = 1, parts: int = 1) -> Hello:
    subnets = tuple(subnet for network in who.networks for subnet in network.subnets)
    stamp = Stamp(instance, epoch, seq)
    return Hello(who.id, who.endpoints, who.vni, subnets=subnets, stamp=stamp, node=who, part=part, parts=parts)


def goodbye(who: Node, seq: int, instance: str = "i1", epoch: int = 1000) -> Goodbye:
    return Goodbye(who.id, who.endpoints[:1], Stamp(instance, epoch, seq))


class Table(PeerTable):
    """A table with its counters and complaints at hand."""

    def __init__(self, settings: MulticastSettings = SETTINGS) -> None:
        self.counters = Counters()
        self.complaints = Complaints(settings.limits.problems)
        super().__init__(settings, self.counters, self.complaints)
        self.announcing = True
        self.listening_since = 0.0

    def hear(self, message: Hello, now: float, source: IPAddress | None = None) -> bool:
        return self.hello(message, source or message.endpoints[0], 500, now)

    def leave(self, message: Goodbye, now: float, source: IPAddress | None = None) -> None:
        self.goodbye(message, source or message.endpoints[0], now)
        self.expire(now)

    def refused(self) -> dict[Refused, int]:
        return dict(self.counters.refused)

    def texts(self) -> str:
        return "\n".join(f"{p.subject}: {p.message}" for p in self.complaints.problems)


def keyed() -> Table:
    return Table(replace(SETTINGS, key=b"secret"))


def test_peers_are_listed_sorted_by_id() -> None:
    table = Table()
    for name, at in (("c", AT_C), ("b", AT_B), ("d", IPv4Address("192.0.2.4"))):
        table.hear(hello(node(name, at)), 0)
    assert [n.id for n in table.nodes] == ["b", "c", "d"]
    assert dict(table.heard()) == {"b": 0, "c": 0, "d": 0}


def test_a_hello_that_changes_nothing_changes_no_version_and_keeps_the_peer_alive() -> None:
    table = Table()
    assert table.hear(hello(node(), 1), 0)
    version = table.version
    assert table.hear(hello(node(), 2), 60)
    assert table.version == version
    table.expire(60 + TIMEOUT - 1)
    assert table.nodes == (node(),)
    table.expire(60 + TIMEOUT)
    assert not table.nodes
    assert table.version != version


def test_a_changed_hello_replaces_the_set() -> None:
    table = Table()
    table.hear(hello(node("host-b", AT_B, "172.20.0.0/16"), 1), 0)
    table.hear(hello(node("host-b", AT_B, "172.21.0.0/16"), 2), 1)
    assert table.nodes == (node("host-b", AT_B, "172.21.0.0/16"),)


def test_the_one_that_was_silent_longest_goes_first() -> None:
    table = Table()
    table.hear(hello(node("b", AT_B), 1), 0)
    table.hear(hello(node("c", AT_C), 1), 10)
    table.hear(hello(node("b", AT_B), 2), 20)
    assert table.next_expiry == 10 + TIMEOUT
    table.expire(10 + TIMEOUT)
    assert [n.id for n in table.nodes] == ["b"]


def test_goodbye_removes_at_once_and_a_late_hello_does_not_bring_it_back() -> None:
    table = Table()
    table.hear(hello(node(), 1), 0)
    table.leave(goodbye(node(), 3), LATER)
    assert table.nodes == ()
    assert not table.hear(hello(node(), 2), LATER + 0.1)
    assert table.nodes == ()
    assert table.refused() == {Refused.REPEATED: 1}
    assert not table.hear(hello(node(), 2), 2 * LATER)
    assert table.refused()[Refused.REPLAYED] == 1
    assert table.hear(hello(node(), 4), 2 * LATER)


def test_a_goodbye_from_elsewhere_or_of_another_instance_is_not_believed() -> None:
    table = Table()
    table.hear(hello(node(), 1), 0)
    table.leave(goodbye(node(), 2), LATER, source=AT_C)
    table.leave(goodbye(node(at=AT_C), 2), LATER)
    table.leave(goodbye(node(), 2, instance="other"), LATER)
    table.leave(goodbye(node(), 1), LATER)
    table.leave(replace(goodbye(node(), 2), stamp=None), LATER)
    assert table.nodes == (node(),)
    assert table.refused() == {Refused.SPOOFED: 2, Refused.REPLAYED: 1}
    assert "192.0.2.3: a datagram from 192.0.2.3 claims to come from host-b at 192.0.2.2" in table.texts()


def test_a_goodbye_for_somebody_else_is_reported() -> None:
    table = Table()
    table.hear(hello(node(), 1), 0)
    table.leave(goodbye(node(at=AT_C), 2), 1)
    assert "192.0.2.3 says goodbye for host-b, which is at 192.0.2.2: not believed" in table.texts()


def test_a_goodbye_of_somebody_unknown_is_nothing() -> None:
    table = Table()
    table.leave(goodbye(node(), 1), 0)
    assert table.refused() == {}


def test_a_spoofed_source_is_refused_and_reported() -> None:
    table = Table()
    assert not table.hear(hello(node()), 0, source=AT_C)
    assert table.nodes == ()
    assert table.refused() == {Refused.SPOOFED: 1}
    assert "from 192.0.2.3 claims to come from host-b at 192.0.2.2" in table.texts()


def test_either_endpoint_is_a_good_source() -> None:
    both = node(endpoints=(AT_B, IPv6Address("fd00::2")))
    assert Table().hear(hello(both), 0, source=IPv6Address("fd00::2"))


def test_a_replay_is_refused_reported_and_keeps_nobody_alive() -> None:
    table = Table()
    table.hear(hello(node(), 1), 0)
    table.hear(hello(node(), 2), 1)
    for second in range(10, 120):
        assert not table.hear(hello(node(), 2), second)
    assert table.counters.refused[Refused.REPLAYED] == 110
    assert len(table.complaints.problems) == 1
    assert "host-b: an old datagram of host-b was heard again, from 192.0.2.2" in table.texts()
    table.expire(1 + TIMEOUT)
    assert table.nodes == ()
    assert not table.hear(hello(node(), 2), 121)
    assert table.nodes == ()


def test_the_copy_that_comes_directly_as_well_is_no_replay() -> None:
    table = Table()
    table.hear(hello(node(), 1), 0)
    assert not table.hello(hello(node(), 1), AT_B, 500, 0.5, direct=True)
    assert table.refused() == {Refused.REPEATED: 1}
    assert table.complaints.problems == ()


def test_who_spoke_directly_is_remembered_until_it_leaves() -> None:
    table = Table()
    table.hello(hello(node(), 1), AT_B, 500, 0, direct=True)
    table.hear(hello(node("c", AT_C), 1), 0)
    assert list(table.direct()) == [AT_B]
    table.hear(hello(node(), 2), 1)
    assert list(table.direct()) == [AT_B]
    table.leave(goodbye(node(), 3), 2)
    assert list(table.direct()) == []


@pytest.mark.parametrize("make", [Table, keyed])
def test_a_restart_at_the_same_endpoint_is_believed_at_once(make: type[Table]) -> None:
    table = make()
    table.hear(hello(node(), 50, "i1", 1000), 0)
    changed = node("host-b", AT_B, "172.20.0.0/16")
    assert table.hear(hello(changed, 1, "i2", 2000), 1)
    assert table.nodes == (changed,)


def test_with_a_key_an_older_instance_is_a_replay_and_without_one_it_may_be_a_clock_that_went_back() -> None:
    table, plain = keyed(), Table()
    for each in (table, plain):
        each.hear(hello(node(), 1, "i2", 2000), 0)
    assert not table.hear(hello(node(), 9, "i1", 1000), LATER)
    assert table.refused() == {Refused.REPLAYED: 1}
    assert "its clock went back" in table.texts()
    assert plain.hear(hello(node(), 9, "i1", 1000), LATER)


def test_with_a_key_what_is_gone_can_not_be_replayed_until_it_is_forgotten() -> None:
    table = keyed()
    table.hear(hello(node(), 1, "i1", 1000), 0)
    table.hear(hello(node(), 1, "i2", 2000), 1)
    table.leave(goodbye(node(), 2, "i2", 2000), 2)
    assert not table.hear(hello(node(), 1, "i1", 1000), 100)
    assert not table.hear(hello(node(), 1, "i2", 2000), 100)
    assert table.nodes == ()
    assert table.refused() == {Refused.REPLAYED: 2}
    table.expire(2 + MEMORY)
    assert table.hear(hello(node(), 1, "i2", 2000), 2 + MEMORY)


def test_an_address_change_of_the_same_instance_is_believed() -> None:
    table = Table()
    table.hear(hello(node(), 1), 0)
    assert table.hear(hello(node(at=AT_C), 2), 1)
    assert table.nodes == (node(at=AT_C),)
    assert table.complaints.problems == ()


@pytest.mark.parametrize("make", [Table, keyed])
def test_a_program_that_moved_to_another_uplink_is_believed_at_once_and_its_old_end_may_leave(
    make: type[Table],
) -> None:
    """The new end is another instance of the same program; the old one's uplink may be dead, or say goodbye late."""
    table = make()
    table.hear(hello(node(), 9, "start.0.3e8", 1000), 0)
    assert table.hear(hello(node(at=AT_C), 1, "start.1.7d0", 2000), 1)
    table.leave(goodbye(node(), 10, "start.0.3e8", 1000), 2)
    assert table.nodes == (node(at=AT_C),)
    assert table.complaints.problems == ()
    assert not table.hear(hello(node(), 11, "start.0.3e8", 1000), LATER), "what is older moves nobody back"
    assert not table.hear(hello(node(), 1, "other.1.bb8", 3000), LATER), "another program is another host"
    assert table.nodes == (node(at=AT_C),)


def test_a_second_host_with_the_same_id_is_refused_until_the_first_falls_silent() -> None:
    table = Table()
    first, second = node(at=AT_B), node(at=AT_C)
    table.hear(hello(first, 1), 0)
    assert not table.hear(hello(second, 1, "i2", 2000), 30)
    assert table.nodes == (first,)
    assert (
        "two hosts use the node id 'host-b': one at 192.0.2.2, which was first, and one at 192.0.2.3" in table.texts()
    )
    table.expire(TIMEOUT)
    assert table.hear(hello(second, 2, "i2", 2000), TIMEOUT)
    assert table.nodes == (second,)


@pytest.mark.parametrize("settings", [SETTINGS, HOLDING])
def test_a_second_host_with_the_same_id_is_believed_once_the_first_says_goodbye(settings: MulticastSettings) -> None:
    table = Table(settings)
    table.hear(hello(node(at=AT_B), 1), 0)
    table.leave(goodbye(node(at=AT_B), 2), 1)
    assert table.hear(hello(node(at=AT_C), 1, "i2", 2000), 2)
    table.expire(1 + HOLD)
    assert [n.endpoints for n in table.nodes] == [(AT_C,)]


def test_who_says_goodbye_is_held_for_a_moment_and_a_restart_changes_nothing() -> None:
    table = Table(HOLDING)
    table.hear(hello(node(), 1), 0)
    version = table.version
    table.leave(goodbye(node(), 2), 1)
    table.leave(goodbye(node(), 3), 5)
    assert table.next_expiry == 1 + HOLD
    assert table.hear(hello(node(), 1, "i2", 2000), 6)
    table.expire(6 + HOLD)
    assert table.version == version
    table.leave(goodbye(node(), 2, "i2", 2000), 20)
    table.expire(20 + HOLD - 0.1)
    assert len(table) == 1
    table.expire(20 + HOLD)
    assert len(table) == 0


def test_two_programs_at_one_endpoint_do_not_take_turns() -> None:
    table = Table()
    table.hear(hello(node(), 1, "i1", 1000), 0)
    table.hear(hello(node(), 1, "i2", 2000), 1)
    assert not table.hear(hello(node(), 2, "i1", 1000), 2)
    assert table.refused() == {Refused.DUPLICATE: 1}
    assert "two programs on 192.0.2.2 use the node id 'host-b' in turn" in table.texts()


def test_somebody_else_with_my_id_is_a_problem_that_names_both() -> None:
    table = Table()
    assert table.hear(hello(node(ME, AT_B)), 0)
    assert table.nodes == ()
    assert table.refused() == {Refused.DUPLICATE: 1}
    assert "another host uses this host's node id 'host-a': it is at 192.0.2.2, this one at 192.0.2.1" in table.texts()


def test_another_program_of_this_host_with_my_id_is_one_too_unless_this_one_only_listens() -> None:
    table = Table()
    table.hear(hello(node(ME, HERE)), 0)
    assert "another weft on this host" in table.texts()
    silent = Table()
    silent.announcing = False
    silent.hear(hello(node(ME, HERE)), 0)
    assert silent.nodes == ()
    assert silent.complaints.problems == ()


def test_my_own_older_form_answer_is_no_second_host() -> None:
    table = Table()
    assert not table.hear(Hello(ME, (HERE,), 4096, kind="RESPONSE"), 0)
    assert table.complaints.problems == ()


def test_a_plain_hello_is_listed_and_not_routed_to() -> None:
    table = Table()
    table.hear(Hello("stack-a", (AT_B,), 1000, subnets=(IPv4Network("172.20.0.0/16"),)), 0)
    assert table.nodes == ()
    assert "stack-a: stack-a at 192.0.2.2 speaks the docker-router HELLO without the MAC" in table.texts()
    assert table.refused() == {}
    table.hear(hello(node("stack-a", AT_B)), 1)
    assert table.complaints.problems == ()
    table.hear(Hello("stack-a", (AT_B,), 1000), 2)
    assert table.complaints.problems == ()


# Another id at the same endpoint. -----------------------------------------------------------------------------------


def ids(table: PeerTable) -> list[str]:
    return [peer.id for peer in table.nodes]


ALPHA, ZETA = node("alpha"), node("zeta")


@pytest.mark.parametrize(("first", "second"), [(ALPHA, ZETA), (ZETA, ALPHA)])
@pytest.mark.parametrize("make", [Table, keyed])
def test_a_host_that_comes_back_under_another_name_is_believed_at_once(
    make: type[Table], first: Node, second: Node
) -> None:
    table = make()
    table.hear(hello(first, 50, "i1", 1000), 0)
    assert table.hear(hello(second, 1, "i2", 2000), 1)
    assert table.nodes == (second,)
    (note,) = table.complaints.problems
    assert (note.message, note.wrong) == (f"{first.id} at 192.0.2.2 is now {second.id}", False)
    for seq in range(2, 5):
        assert table.hear(hello(second, seq, "i2", 2000), seq * LATER)
    assert len(table.complaints.problems) == 1
    table.complaints.expire(1 + TIMEOUT)
    assert not table.complaints.problems


def test_a_former_name_is_not_believed_again_and_does_not_flap() -> None:
    """Two programs that run at one time: each host comes to the same verdict, in whatever order it hears them."""
    one, other = Table(), Table()
    one.hear(hello(ALPHA, 1, "i1", 1000), 0)
    other.hear(hello(ZETA, 1, "i2", 2000), 0)
    for seq in range(2, 20):
        for table in (one, other):
            table.hear(hello(ZETA, seq, "i2", 2000), seq * LATER)
            assert not table.hear(hello(ALPHA, seq, "i1", 1000), seq * LATER + 5)
            assert ids(table) == ["zeta"]
            table.expire(seq * LATER)
    assert "alpha: zeta and alpha are both at 192.0.2.2, and alpha is refused until zeta is silent" in one.texts()
    one.expire(190 + TIMEOUT)
    assert one.hear(hello(ALPHA, 30, "i1", 1000), 190 + TIMEOUT)
    assert ids(one) == ["alpha"]


def test_two_programs_that_are_restarted_in_turn_take_the_place_twice_and_no_more() -> None:
    table = Table()
    turns = [(ALPHA, ZETA)[turn % 2] for turn in range(8)]
    believed = [table.hear(hello(who, 1, f"i{turn}", 1000 + turn), turn) for turn, who in enumerate(turns)]
    assert believed == [True, True, True, False, True, False, True, False]
    assert ids(table) == ["alpha"]
    assert table.counters.refused[Refused.DUPLICATE] == 3
    assert "alpha and zeta are both at 192.0.2.2, and zeta is refused" in table.texts()
    assert not table.hear(hello(ZETA, 1, "i9", 2000), TIMEOUT)
    assert table.hear(hello(ZETA, 2, "i9", 2000), TIMEOUT + 1), "the first change of hands is a peer timeout ago"


def test_after_a_goodbye_the_place_is_free_whatever_the_clock_says() -> None:
    table = Table(HOLDING)
    table.hear(hello(ALPHA, 1, "i1", 2000), 0)
    table.leave(goodbye(ALPHA, 2, "i1", 2000), 1)
    assert ids(table) == ["alpha"]
    assert table.hear(hello(ZETA, 1, "i2", 1000), 2)
    assert ids(table) == ["zeta"]
    assert table.complaints.problems == ()


def test_tunnels_of_two_vnis_may_end_at_one_endpoint() -> None:
    table = Table()
    table.hear(hello(ALPHA, 1, "i1", 1000), 0)
    table.hear(hello(replace(ZETA, vni=5000), 1, "i2", 2000), 0)
    table.hear(hello(replace(node("beta"), port=8472), 1, "i3", 3000), 0)
    assert ids(table) == ["alpha", "beta", "zeta"]
    assert table.complaints.problems == ()


def test_who_moves_frees_its_place_and_may_not_move_to_a_taken_one() -> None:
    table = Table()
    moved = replace(ALPHA, endpoints=(AT_C,))
    table.hear(hello(ALPHA, 1, "i1", 1000), 0)
    table.hear(hello(moved, 2, "i1", 1000), 1)
    assert table.hear(hello(ZETA, 1, "i2", 500), 2)
    assert table.nodes == (moved, ZETA)
    assert not table.hear(hello(replace(ZETA, endpoints=(AT_C,)), 2, "i2", 500), 3)
    assert table.nodes == (moved, ZETA)


def test_a_set_in_parts_takes_the_place_when_it_is_whole() -> None:
    table = Table()
    table.hear(hello(ALPHA, 1, "i1", 1000), 0)
    table.hear(hello(ZETA, 1, "i2", 2000, part=1, parts=2), 1)
    assert ids(table) == ["alpha"]
    table.hear(hello(ZETA, 1, "i2", 2000, part=2, parts=2), 1)
    assert ids(table) == ["zeta"]


def test_a_full_table_has_room_for_who_takes_anothers_place() -> None:
    table = Table(replace(SETTINGS, limits=Limits(peers=1, octets=500)))
    table.hear(hello(ALPHA, 1, "i1", 1000), 0)
    assert table.hear(hello(ZETA, 1, "i2", 2000), 1)
    assert ids(table) == ["zeta"]


def test_who_is_refused_for_want_of_room_takes_nobodys_place() -> None:
    table = Table(replace(SETTINGS, limits=Limits(subnets=1)))
    table.hear(hello(ALPHA, 1, "i1", 1000), 0)
    assert not table.hear(hello(node("zeta", AT_B, "10.1.0.0/16", "10.2.0.0/16"), 1, "i2", 2000), 1)
    assert ids(table) == ["alpha"]
    assert table.hear(hello(ALPHA, 2, "i1", 1000), 2)


# Sets in parts. -----------------------------------------------------------------------------------------------------


def parts(seq: int, *subnets: str) -> Sequence[Hello]:
    return [
        hello(node("host-b", AT_B, text), seq, part=number, parts=len(subnets))
        for number, text in enumerate(subnets, 1)
    ]


def told(table: PeerTable) -> list[str]:
    return [network.name for peer in table.nodes for network in peer.networks]


def test_a_set_in_parts_is_applied_when_it_is_whole_in_any_order() -> None:
    table = Table()
    first, second, third = parts(1, "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16")
    for each in (third, first, third):
        assert not table.nodes
        table.hear(each, 0)
    table.hear(second, 0)
    assert told(table) == ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]


def test_half_a_set_changes_nothing_and_the_next_one_replaces_it() -> None:
    table = Table()
    for each in parts(1, "10.1.0.0/16", "10.2.0.0/16"):
        table.hear(each, 0)
    table.hear(parts(2, "10.3.0.0/16", "10.4.0.0/16")[0], 30)
    assert told(table) == ["10.1.0.0/16", "10.2.0.0/16"]
    old, new = parts(2, "10.3.0.0/16", "10.4.0.0/16")[1], parts(3, "10.5.0.0/16", "10.6.0.0/16")
    table.hear(new[0], 60)
    table.hear(old, 60)
    assert told(table) == ["10.1.0.0/16", "10.2.0.0/16"]
    table.hear(new[1], 60)
    assert told(table) == ["10.5.0.0/16", "10.6.0.0/16"]


def test_a_peer_whose_sets_never_get_whole_is_alive_but_a_replayed_part_keeps_nobody_alive() -> None:
    table = Table()
    for each in parts(1, "10.1.0.0/16", "10.2.0.0/16"):
        table.hear(each, 0)
    lone = parts(2, "10.1.0.0/16", "10.2.0.0/16")[0]
    table.hear(lone, 60)
    assert table.next_expiry == 60 + TIMEOUT
    table.hear(lone, 100)
    assert table.next_expiry == 60 + TIMEOUT


def test_parts_that_contradict_each_other_are_malformed() -> None:
    table = Table()
    first, second = parts(1, "10.1.0.0/16", "10.2.0.0/16")
    table.hear(replace(first, open_ended=True), 0)
    assert not table.hear(second, 0)
    assert table.refused() == {Refused.MALFORMED: 1}
    assert table.nodes == ()


# What a hostile sender can take. ------------------------------------------------------------------------------------


def address(number: int) -> IPv4Address:
    return IPv4Address("10.0.0.0") + number


def test_more_peers_than_the_limit_are_refused_and_those_that_are_known_stay() -> None:
    table = Table(replace(SETTINGS, limits=Limits(peers=100)))
    for number in range(1, 301):
        table.hear(hello(node(f"n{number:04}", address(number))), 0)
    assert len(table.nodes) == len(table) == 100
    assert table.refused() == {Refused.LIMIT: 200}
    assert [p.subject for p in table.complaints.problems] == ["multicast"]
    assert table.hear(hello(node("n0001", address(1), "172.20.0.0/16"), 2), 1)


def test_more_subnets_or_octets_than_the_limit_are_refused() -> None:
    table = Table(replace(SETTINGS, limits=Limits(subnets=1, octets=1200)))
    assert not table.hear(hello(node("host-b", AT_B, "10.1.0.0/16", "10.2.0.0/16")), 0)
    assert "host-b announces 2 subnets, and 1 is the limit" in table.texts()
    for number in (1, 2):
        assert table.hear(hello(node(f"n{number}", address(number))), 0)
    assert not table.hear(hello(node("n3", address(3))), 0)
    assert table.hear(hello(node("n2", address(2)), 2), 0)
    table.leave(goodbye(node("n1", address(1)), 2), 1)
    assert table.hear(hello(node("n3", address(3))), 1)


def test_memory_of_those_who_left_is_bounded() -> None:
    table = Table(replace(SETTINGS, limits=Limits(peers=10)))
    for number in range(1, 200):
        who = node(f"n{number}", address(number))
        table.hear(hello(who), 0)
        table.leave(goodbye(who, 2), 0)
    assert len(table._gone) == 10
    assert table._octets == 0


def test_problems_are_bounded() -> None:
    table = Table()
    for number in range(1, 2000):
        table.hear(hello(node()), 0, source=address(number))
    assert len(table.complaints.problems) == SETTINGS.limits.problems
    assert table.refused() == {Refused.SPOOFED: 1999}
    table.complaints.expire(TIMEOUT)
    assert table.complaints.problems == ()


def test_ten_thousand_peers_are_workable() -> None:
    """Generous bounds, minimum of a few rounds: this is to notice a quadratic cost, not to measure."""
    table = Table()
    peers = [node(f"n{number:05}", address(number), "172.20.0.0/16") for number in range(10_000)]
    for who in peers:
        table.hear(hello(who), 0)
    assert len(table.nodes) == 10_000
    taken = []
    for round_number in range(2, 7):
        changed = hello(replace(peers[5000], mtu=round_number), round_number)
        start = time.perf_counter()
        table.hear(changed, 1)
        _ = table.nodes
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.1
