"""HOST_GATEWAY_MAP on the guide's hosts: what each mode makes of an entry, what it says where it can't work, and maps
of several levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import uplink
from tests.support.hosts import place, reach, sight
from weft.core.sight import Chart, Course, Mode, Place, Sight
from weft.core.topology import chart
from weft.model import Problem, StaticRoute, Way
from weft.settings.gateways import parse_gateway_map

BABKA = place("babka", "192.168.4.88", "10.5.35.0/24", segments=("192.168.4.88/24",))
PITA = place("pita", "192.168.4.99", "10.5.30.0/24", segments=("192.168.4.99/24",))
LAVASH = place("lavash", "172.24.90.6", "10.5.20.0/24", segments=("172.24.90.6/24", "192.168.4.6/24"))
CULVERT = place("culvert", "172.24.90.1", "10.5.8.0/24", segments=("172.24.90.1/24",))
LAN = (uplink("eth0", "192.168.4.88/24"),)
MAP = "172.24.90.1:172.24.90.6"
BEHIND = {"172.24.90.6": Way("eth0", ip_address("192.168.4.6"))}


def babka(
    *places: Place, gateways: str = MAP, mode: Mode = "auto", ways: Mapping[str, Way | None] | None = None
) -> Chart:
    return chart(sight(BABKA, *places, uplinks=LAN, gateways=gateways, mode=mode, ways=ways))


def course(made: Chart, name: str = "culvert") -> Course:
    return made.courses[name]


def plain(one: Place) -> Place:
    """The same host with plain flannel, which publishes nothing."""
    return replace(one, carries="flannel", reaches=None, segments=())


# auto


def test_the_guides_map_relays_through_the_gateway() -> None:
    made = babka(LAVASH, CULVERT, PITA)
    assert course(made) == Course(
        "relay", "map entry 172.24.90.1:172.24.90.6: 172.24.90.6 is lavash, which relays", "lavash", asked=True
    )
    assert {name: c.kind for name, c in made.courses.items()} == {
        "culvert": "relay",
        "lavash": "direct",
        "pita": "direct",
    }
    assert made.via == {"culvert": "lavash"}
    assert not made.routes
    assert not made.problems


def test_a_gateway_is_known_by_any_address_that_it_publishes() -> None:
    assert course(babka(LAVASH, CULVERT, gateways="172.24.90.1:192.168.4.6")).relay == "lavash"


def test_an_endpoint_is_believed_before_another_hosts_claim_to_have_it() -> None:
    liar = place("a-liar", "192.168.4.66", segments=("172.24.90.6/24",))
    assert course(babka(liar, LAVASH, CULVERT)).relay == "lavash"


def test_plain_flannel_relays_inside_of_its_network_and_says_what_it_leaves_out() -> None:
    assert not course(babka(plain(LAVASH), plain(CULVERT))).problem
    docker = replace(plain(CULVERT), subnets=(*CULVERT.subnets, ip_network("10.9.1.0/24")))
    found = course(babka(plain(LAVASH), docker))
    assert (found.kind, found.relay) == ("relay", "lavash")
    assert "lavash runs plain flannel, which carries only networks inside of 10.5.0.0/16; not 10.9.1.0/24" in (
        found.problem
    )
    assert "Run weft registrar on lavash" in found.problem


def test_a_long_list_of_what_is_left_out_is_cut() -> None:
    many = replace(plain(CULVERT), subnets=tuple(ip_network(f"10.9.{n}.0/24") for n in range(9)))
    assert "10.9.3.0/24, …. Run" in course(babka(plain(LAVASH), many)).problem


def test_a_gateway_on_the_link_that_is_no_node_gets_a_host_route() -> None:
    made = babka(CULVERT, gateways="172.24.90.1:192.168.4.6", ways={"192.168.4.6": Way("eth0")})
    found = course(made)
    assert (found.kind, found.gateway, found.dev) == ("underlay", ip_address("192.168.4.6"), "eth0")
    rule = "map entry 172.24.90.1:192.168.4.6: a host route through 192.168.4.6 on eth0"
    assert found.rule == rule
    assert made.routes == (
        StaticRoute(ip_network("172.24.90.1/32"), ip_address("192.168.4.6"), "eth0", "HOST_GATEWAY_MAP", rule),
    )
    assert made.via == {"culvert": "culvert"}, "it is reached directly, by decision"


def test_a_gateway_behind_a_route_gets_a_host_route_by_the_same_next_hop() -> None:
    made = babka(CULVERT, ways=BEHIND)
    found = course(made)
    assert (found.kind, found.gateway, found.dev) == ("underlay", ip_address("192.168.4.6"), "eth0")
    assert "through 192.168.4.6 on eth0, which leads to 172.24.90.6" in found.rule
    assert made.ask == {ip_address("172.24.90.6")}
    assert not made.unanswered


def test_before_the_kernel_has_answered_nothing_is_claimed_and_that_is_said() -> None:
    made = babka(CULVERT)
    assert course(made) == Course(
        "direct",
        "map entry 172.24.90.1:172.24.90.6: it is not known yet how this host reaches 172.24.90.6",
        asked=True,
    )
    assert made.unanswered == {ip_address("172.24.90.6")}
    assert not made.problems


def test_a_gateway_on_a_segment_needs_no_answer() -> None:
    made = babka(CULVERT, gateways="172.24.90.1:192.168.4.6")
    assert course(made).kind == "underlay"
    assert made.ask == made.unanswered == {ip_address("192.168.4.6")}


def test_a_gateway_that_nothing_leads_to_is_a_problem_with_the_entry_and_a_remedy() -> None:
    made = babka(CULVERT, ways={"172.24.90.6": None})
    found = course(made)
    assert found.kind == "none"
    assert found.problem == (
        "HOST_GATEWAY_MAP: 172.24.90.1:172.24.90.6 can't work: this host has no route to 172.24.90.6, and no known "
        "node that relays has this address. Name the gateway's address on a segment of this host's (192.168.4.0/24 "
        "on eth0), add a route to 172.24.90.6, or run weft registrar on the gateway"
    )
    assert made.problems == (Problem("culvert", found.problem),)
    alone = chart(sight(BABKA, CULVERT, gateways=MAP, ways={"172.24.90.6": None}))
    assert "(it has none)" in course(alone).problem


def test_a_gateway_among_the_containers_is_refused_in_every_mode() -> None:
    inside = "172.24.90.1:10.5.20.1,172.24.90.6:10.9.2.1"
    pita = replace(PITA, subnets=(ip_network("10.9.2.0/24"),))
    ways = {"10.5.20.1": Way("flannel.1"), "10.9.2.1": Way("flannel.1")}
    for mode in ("auto", "underlay", "fdb"):
        made = babka(CULVERT, pita, LAVASH, gateways=inside, ways=ways, mode=mode)
        assert "10.5.20.1 can't work: it is inside of 10.5.0.0/16, which is itself reached" in course(made).problem
        assert "inside of 10.9.2.0/24" in course(made, "lavash").problem
        assert not made.routes


def test_an_entry_that_is_wrong_for_many_is_one_problem() -> None:
    many = [place(f"host-{n}", f"172.24.90.{n}") for n in range(1, 6)]
    made = babka(*many, gateways="172.24.90.0/24:172.31.0.1", ways={"172.31.0.1": None})
    assert [(p.subject, p.wrong) for p in made.problems] == [("host-1", True)]


# which entry


def test_the_longest_prefix_wins() -> None:
    other = place("other", "172.24.90.7")
    gateways = "172.24.0.0/16:192.168.4.1,172.24.90.0/24:172.24.90.7,172.24.90.1:192.168.4.99"
    made = babka(LAVASH, CULVERT, PITA, other, gateways=gateways, ways={"192.168.4.1": Way("eth0")})
    assert course(made).relay == "pita"
    assert course(made, "lavash").relay == "other"
    assert course(made, "other").kind == "underlay", "its own entry names itself as the gateway, so the next one holds"


def test_of_two_endpoints_the_one_with_the_more_specific_entry_counts() -> None:
    both = replace(CULVERT, endpoints=(*CULVERT.endpoints, ip_address("fd00::1")))
    gateways = "172.24.0.0/16:192.168.4.1,fd00::1=fd00::6"
    ways = {"192.168.4.1": Way("eth0"), "fd00::6": Way("eth0")}
    made = babka(both, gateways=gateways, ways=ways)
    assert made.routes[0].dst == ip_network("fd00::1/128")


def test_the_same_map_on_all_hosts_is_normal() -> None:
    """On the gateway itself and on the host that it is about, it says nothing."""
    on_lavash = chart(sight(LAVASH, BABKA, CULVERT, PITA, gateways=MAP))
    on_culvert = chart(sight(CULVERT, BABKA, LAVASH, PITA, gateways=MAP))
    for made in (on_lavash, on_culvert):
        assert {c.kind for c in made.courses.values()} == {"direct"}
        assert not made.via
        assert not made.problems


def test_an_entry_that_matches_nobody_is_worth_a_remark() -> None:
    made = babka(LAVASH, CULVERT, gateways=f"{MAP},10.8.0.0/24:192.168.1.1")
    assert made.problems == (
        Problem(
            "HOST_GATEWAY_MAP",
            "HOST_GATEWAY_MAP: 10.8.0.0/24:192.168.1.1 does nothing: no known node is at 10.8.0.0/24",
            wrong=False,
        ),
    )


def test_a_node_without_an_endpoint_of_that_family_is_not_matched() -> None:
    made = babka(LAVASH, place("six", "fd00::1"), place("bare", ""))
    assert {course(made, name).kind for name in ("six", "bare")} == {"direct"}


# modes


def test_mode_relay_says_why_it_cant() -> None:
    nobody = course(babka(CULVERT, PITA, mode="relay"))
    assert nobody.kind == "none"
    assert "172.24.90.6 is no known node's address, so nobody relays there" in nobody.problem
    assert "(known: culvert (172.24.90.1), pita (192.168.4.99))" in nobody.problem
    assert "Run weft registrar there, or set HOST_GATEWAY_MODE to auto or underlay" in nobody.problem
    weak = course(babka(CULVERT, replace(LAVASH, carries="none"), mode="relay"))
    assert "lavash (172.24.90.6) relays for nobody" in weak.problem
    own = course(babka(LAVASH, gateways="172.24.90.6:192.168.4.6", mode="relay"), "lavash")
    assert "192.168.4.6 is lavash itself, which is no relay to itself" in own.problem
    many = [place(f"host-{n:03}", f"10.7.0.{n}") for n in range(1, 60)]
    assert "(known: 60 others)" in course(babka(CULVERT, *many, mode="relay")).problem


def test_a_node_without_endpoints_is_not_listed() -> None:
    assert "(known: culvert (172.24.90.1))" in course(babka(CULVERT, place("bare", ""), mode="relay")).problem


def test_mode_underlay_takes_no_relay() -> None:
    found = course(babka(LAVASH, CULVERT, mode="underlay", ways=BEHIND))
    assert (found.kind, found.gateway) == ("underlay", ip_address("192.168.4.6"))


def test_auto_takes_the_underlay_where_the_gateway_relays_for_nobody_or_is_the_node_itself() -> None:
    assert course(babka(replace(LAVASH, carries="none"), CULVERT, ways=BEHIND)).kind == "underlay"
    found = course(babka(LAVASH, gateways="172.24.90.6:192.168.4.6", ways={"192.168.4.6": Way("eth0")}), "lavash")
    assert (found.kind, found.gateway) == ("underlay", ip_address("192.168.4.6"))


def test_mode_fdb_sends_to_the_gateway_and_warns() -> None:
    made = babka(CULVERT, mode="fdb")
    assert course(made) == Course(
        "fdb",
        "map entry 172.24.90.1:172.24.90.6, mode fdb: 172.24.90.6 has to forward UDP 8472 itself (DNAT)",
        gateway=ip_address("172.24.90.6"),
        asked=True,
    )
    assert made.via == {"culvert": "culvert"}
    wrong = course(babka(LAVASH, CULVERT, mode="fdb"))
    assert wrong.kind == "fdb", "it was asked for"
    assert "lavash (172.24.90.6) ends tunnels on UDP 8472 itself, and drops frames" in wrong.problem
    assert "HOST_GATEWAY_MODE=relay" in wrong.problem


# several levels


def test_a_gateway_behind_another_relay_is_reached_by_that_ones_first_hop() -> None:
    made = babka(LAVASH, CULVERT, PITA, gateways=f"{MAP},172.24.90.6:192.168.4.99")
    assert course(made).relay == "pita"
    assert course(made, "lavash").relay == "pita"
    assert course(made).rule == (
        "map entry 172.24.90.1:172.24.90.6: 172.24.90.6 is lavash, which relays; 172.24.90.6 in turn: "
        "map entry 172.24.90.6:192.168.4.99: 192.168.4.99 is pita, which relays"
    )
    assert made.via == {"culvert": "pita", "lavash": "pita"}


def test_the_way_to_a_relay_is_the_way_to_its_endpoint_whatever_it_is_called() -> None:
    made = babka(LAVASH, CULVERT, PITA, gateways="172.24.90.1:192.168.4.6,172.24.90.6:192.168.4.99")
    assert course(made).relay == course(made, "lavash").relay == "pita"


def test_a_relay_behind_a_router_is_a_relay_all_the_same() -> None:
    made = babka(LAVASH, CULVERT, gateways=f"{MAP},172.24.90.6:192.168.4.1")
    assert (course(made).kind, course(made).relay) == ("relay", "lavash")
    assert course(made, "lavash").kind == "underlay"
    assert [str(r.dst) for r in made.routes] == ["172.24.90.6/32"]


def test_a_router_behind_a_router_is_reached_by_the_first_one() -> None:
    made = babka(CULVERT, gateways=f"{MAP},172.24.90.6:192.168.4.1")
    assert (course(made).kind, course(made).gateway) == ("underlay", ip_address("192.168.4.1"))
    assert "as 172.24.90.6; 172.24.90.6 in turn: map entry 172.24.90.6:192.168.4.1" in course(made).rule


def test_a_router_behind_a_relay_is_left_to_the_relay() -> None:
    made = babka(CULVERT, PITA, gateways=f"{MAP},172.24.90.6:192.168.4.99")
    assert (course(made).kind, course(made).relay) == ("relay", "pita")


def test_levels_in_mode_fdb() -> None:
    made = babka(CULVERT, gateways=f"{MAP},172.24.90.6:192.168.4.6", mode="fdb")
    assert course(made).gateway == ip_address("192.168.4.6")


def test_what_is_wrong_on_one_level_is_wrong_on_those_above() -> None:
    gateways = f"{MAP},172.24.90.6:10.99.0.1"
    found = course(babka(CULVERT, gateways=gateways, ways={"10.99.0.1": None}))
    assert found.kind == "none"
    assert found.rule == "map entry 172.24.90.1:172.24.90.6; 172.24.90.6 in turn: map entry 172.24.90.6:10.99.0.1"
    assert "172.24.90.6:10.99.0.1 can't work: this host has no route to 10.99.0.1" in found.problem


def test_a_chain_that_ends_at_this_host_ends_there() -> None:
    made = babka(LAVASH, CULVERT, gateways=f"{MAP},172.24.90.6:192.168.4.88")
    assert course(made).relay == "lavash"
    assert course(made, "lavash").kind == "direct"


@pytest.mark.parametrize(
    ("gateways", "circle"),
    [
        (
            "172.24.90.1:10.0.0.1,10.0.0.1:10.0.0.2,10.0.0.2:10.0.0.1",
            "10.0.0.1:10.0.0.2, 10.0.0.2:10.0.0.1",
        ),
        ("172.24.90.1:10.0.0.1,10.0.0.1:172.24.90.1", "172.24.90.1:10.0.0.1, 10.0.0.1:172.24.90.1"),
        ("172.24.0.0/16:10.0.0.1,10.0.0.0/8:172.24.90.9", "172.24.0.0/16:10.0.0.1, 10.0.0.0/8:172.24.90.9"),
    ],
)
def test_a_circle_names_all_of_its_entries(gateways: str, circle: str) -> None:
    found = course(babka(CULVERT, gateways=gateways))
    assert found.kind == "none"
    assert f"these entries lead in a circle: {circle}. Remove or change one of them" in found.problem


def test_levels_have_an_end() -> None:
    def text(levels: int) -> str:
        ends = ["172.24.90.1", *(f"10.7.{n // 200}.{n % 200 + 1}" for n in range(levels - 1)), "192.168.4.6"]
        return ",".join(f"{one}:{two}" for one, two in pairwise(ends))

    assert course(babka(CULVERT, gateways=text(16))).kind == "underlay"
    assert "more than 16 entries lead on from one to the next" in course(babka(CULVERT, gateways=text(17))).problem
    assert "more than 16 entries" in course(babka(CULVERT, gateways=text(2000))).problem


ADDRESSES = [f"10.0.0.{n}" for n in range(1, 8)]


@given(
    st.lists(
        st.tuples(st.sampled_from(ADDRESSES), st.sampled_from([30, 31, 32]), st.sampled_from(ADDRESSES)), max_size=8
    ),
    st.lists(
        st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(["all", "flannel", "none"])), unique_by=lambda p: p[0]
    ),
    st.dictionaries(
        st.sampled_from(ADDRESSES), st.sampled_from([None, Way("eth0"), Way("eth0", ip_address("10.9.9.9"))])
    ),
    st.sampled_from(["auto", "relay", "underlay", "fdb"]),
)
def test_whatever_the_map_is_each_course_holds_what_its_kind_needs(
    drawn: list[tuple[str, int, str]],
    carrying: list[tuple[str, Literal["all", "flannel", "none"]]],
    ways: dict[str, Way | None],
    mode: Mode,
) -> None:
    entries, _ = parse_gateway_map(",".join(f"{host}/{length}:{gateway}" for host, length, gateway in drawn))
    places = tuple(place(f"at-{address}", address, carries=carries) for address, carries in carrying)
    made = chart(replace(sight(BABKA, *places, uplinks=LAN, ways=ways, mode=mode), entries=entries))
    assert set(made.courses) == {p.id for p in places}
    routed = {route.dst.network_address for route in made.routes}
    for one in places:
        found = made.courses[one.id]
        relay = next((p for p in places if p.id == found.relay), None)
        assert (found.kind == "relay") == (relay is not None and relay is not one and relay.carries != "none")
        assert (found.kind in ("underlay", "fdb")) == (found.gateway is not None)
        assert (found.kind == "underlay") == (one.endpoints[0] in routed) == bool(found.dev)
        assert found.kind != "none" or found.problem
        assert found.rule
        assert (one.id in made.via) == ("map entry" in found.rule)


# what is known against a relay that the map names


def test_a_relay_that_is_down_is_said_and_the_map_holds() -> None:
    down = sight(BABKA, LAVASH, CULVERT, uplinks=LAN, gateways=MAP, reaches=(reach("lavash", "down", reason="no BFD"),))
    found = course(chart(down))
    assert (found.kind, found.relay) == ("relay", "lavash")
    assert "the relay lavash is not reached directly (its tunnel does not answer (no BFD))" in found.problem
    assert "HOST_GATEWAY_MAP: 172.24.90.1:172.24.90.6:" in found.problem


def test_a_relay_that_comes_back_is_not_complained_of_while_it_is_held_back() -> None:
    def seen(state: str, now: float) -> Sight:
        found = reach("lavash", "up" if state == "up" else "down", since=now)
        return sight(BABKA, LAVASH, CULVERT, uplinks=LAN, gateways=MAP, reaches=(found,), now=now)

    first = chart(seen("down", 1.0))
    assert first.problems
    assert not chart(seen("up", 2.0), first.past).problems


def test_a_relay_that_does_not_reach_the_node_is_said() -> None:
    blind = replace(LAVASH, misses=frozenset({"culvert"}))
    found = course(babka(blind, CULVERT))
    assert "the relay lavash and culvert don't reach each other, as one of the two says" in found.problem
    deaf = replace(CULVERT, misses=frozenset({"lavash"}))
    assert course(babka(LAVASH, deaf)).problem


def test_a_relay_that_goes_on_over_another_is_fine() -> None:
    blind = replace(LAVASH, misses=frozenset({"culvert"}), reaches=frozenset({"pita", "babka"}))
    pita = replace(PITA, reaches=frozenset({"lavash", "culvert", "babka"}))
    culvert = replace(CULVERT, misses=frozenset({"lavash"}), reaches=frozenset({"pita"}))
    assert not course(babka(blind, culvert, pita)).problem


def test_maps_of_several_hosts_that_lead_in_a_circle_are_said_with_the_hosts() -> None:
    back = replace(LAVASH, via={"culvert": "pita"})
    again = replace(PITA, via={"culvert": "babka"})
    found = course(babka(back, CULVERT, again))
    assert found.kind == "none"
    assert "the hosts' maps lead in a circle: babka → lavash → pita → babka" in found.problem
    assert not course(babka(back, CULVERT, PITA)).problem
    assert not course(babka(replace(LAVASH, via={"culvert": "gone"}), CULVERT)).problem


def test_a_far_sides_announcement_is_no_circle() -> None:
    """culvert comes to lavash through babka, and babka goes to culvert through lavash: lavash goes straight there."""
    culvert = replace(CULVERT, via={"lavash": "babka"})
    assert course(babka(LAVASH, culvert)).problem == ""
    on_lavash = chart(sight(LAVASH, replace(BABKA, via={"culvert": "lavash"}), culvert))
    assert course(on_lavash).kind == "direct"
