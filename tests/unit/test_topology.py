"""The course to a node, case by case, on the guide's hosts: detection, announced relays, what a person is told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.build import uplink
from tests.support.hosts import State, place, reach, sight
from weft.core.sight import Chart, Place, Sight
from weft.core.topology import chart
from weft.model import Reach

ALL = ("babka", "pita", "lavash", "culvert")


def hosts(*cut: str, misses: bool = True) -> dict[str, Place]:
    """The guide's hosts, everybody reaching everybody but for the pairs in `cut` ("babka-culvert")."""
    pairs = {frozenset(pair.split("-")) for pair in cut}
    ends = ("192.168.4.88", "192.168.4.99", "172.24.90.6", "172.24.90.1")
    made = {}
    for number, (name, endpoint) in enumerate(zip(ALL, ends, strict=True)):
        lost = {other for other in ALL if frozenset((name, other)) in pairs}
        made[name] = place(
            name,
            endpoint,
            f"10.5.{number}.0/24",
            reaches=set(ALL) - lost - {name},
            misses=lost if misses else (),
        )
    return made


def seen(places: dict[str, Place], me: str, *found: Reach, now: float = 0.0) -> Sight:
    others = tuple(p for name, p in places.items() if name != me)
    return sight(places[me], *others, reaches=found, now=now, uplinks=(uplink("eth0", "192.168.4.88/24"),))


def look(places: dict[str, Place], me: str, *found: Reach) -> Chart:
    return chart(seen(places, me, *found))


# directly


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        ((), "directly: whether its tunnel answers is not known yet"),
        ((reach("culvert", "unknown"),), "directly: whether its tunnel answers is not known yet"),
        ((reach("culvert", "up"),), "directly: its tunnel answers"),
    ],
)
def test_what_is_not_known_to_be_down_is_reached_directly(found: tuple[Reach, ...], rule: str) -> None:
    course = look(hosts(), "babka", *found).courses["culvert"]
    assert (course.kind, course.rule, course.problem) == ("direct", rule, "")


def test_a_host_that_publishes_nothing_is_reached_directly_whatever_probing_it_came_to() -> None:
    places = hosts() | {"culvert": place("culvert", "172.24.90.1", carries="flannel", reaches=None)}
    made = look(places, "babka", reach("culvert", "down"))
    assert made.courses["culvert"].kind == "direct"
    assert "it publishes nothing (plain flannel, or an older registrar)" in made.courses["culvert"].rule
    assert made.reaches == {"pita", "lavash"}
    assert not made.misses


def test_small_packets_only_is_said_with_what_to_do() -> None:
    places = hosts()
    course = look(places, "babka", reach("culvert", "up", full=False, reason="no answer to 1450 octets")).courses[
        "culvert"
    ]
    assert course.kind == "direct"
    assert "packets of 1450 octets don't get through (no answer to 1450 octets): lower the MTU (FLANNEL_MTU)" in (
        course.problem
    )
    assert not look(places, "babka", reach("culvert", "up", full=True)).problems
    bare = look(places, "babka", reach("culvert", "up", full=False)).courses["culvert"]
    assert "don't get through: lower" in bare.problem


def test_of_two_tunnels_the_one_that_answers_counts() -> None:
    for found in (
        (reach("culvert", "down"), reach("culvert", "up")),
        (reach("culvert", "up"), reach("culvert", "down")),
    ):
        assert look(hosts(), "babka", *found).courses["culvert"].kind == "direct"


# a relay by detection


def test_a_tunnel_that_is_down_turns_to_a_host_that_both_reach() -> None:
    places = hosts("babka-culvert", "pita-culvert")
    made = look(places, "babka", reach("culvert", "down", reason="no BFD packet since 0.3 s"))
    course = made.courses["culvert"]
    assert (course.kind, course.relay, course.problem) == ("relay", "lavash", "")
    assert course.rule == ("detection: its tunnel does not answer (no BFD packet since 0.3 s), and lavash reaches it")
    assert made.reaches == {"pita", "lavash"}
    assert made.misses == {"culvert"}
    assert not made.via
    back = look(places, "culvert", reach("babka", "down"), reach("pita", "down"))
    assert back.courses["babka"].relay == back.courses["pita"].relay == "lavash"


def test_of_several_relays_the_first_by_id_is_taken_on_both_sides() -> None:
    places = hosts("babka-culvert")
    assert look(places, "babka", reach("culvert", "down")).courses["culvert"].relay == "lavash"
    assert look(places, "culvert", reach("babka", "down")).courses["babka"].relay == "lavash"
    weak = places | {"lavash": replace(places["lavash"], carries="none")}
    assert look(weak, "babka", reach("culvert", "down")).courses["culvert"].relay == "pita"


def test_one_end_alone_makes_no_edge() -> None:
    """lavash says that it reaches culvert, culvert doesn't say so of lavash."""
    places = hosts("babka-culvert", "pita-culvert")
    places["culvert"] = replace(places["culvert"], reaches=frozenset())
    assert look(places, "babka", reach("culvert", "down")).courses["culvert"].kind == "none"


def test_a_closed_port_is_told_from_a_dead_host() -> None:
    places = hosts("babka-culvert", "pita-culvert")
    rule = look(places, "babka", reach("culvert", "down"), reach("culvert", "up", "underlay")).courses["culvert"].rule
    assert "its tunnel does not answer, its address does: UDP 8472 is dropped on the way, and lavash" in rule
    rule = look(places, "babka", reach("culvert", "down"), reach("culvert", "down", "underlay")).courses["culvert"].rule
    assert "neither its tunnel nor its address answers" in rule
    found = reach("culvert", "down"), reach("culvert", "unknown", "underlay")
    assert "its tunnel does not answer, and lavash" in look(places, "babka", *found).courses["culvert"].rule


def test_a_way_of_three_hops_starts_at_the_next_host() -> None:
    places = hosts("babka-culvert", "babka-lavash", "pita-culvert")
    made = look(places, "babka", reach("culvert", "down"), reach("lavash", "down"))
    assert made.courses["culvert"].relay == made.courses["lavash"].relay == "pita"


def test_nothing_left_says_so_and_what_to_do() -> None:
    everything = [f"{name}-culvert" for name in ALL[:3]]
    made = look(hosts(*everything), "babka", reach("culvert", "down"))
    course = made.courses["culvert"]
    assert (course.kind, course.rule) == (
        "none",
        "detection: its tunnel does not answer, and no node that relays reaches it",
    )
    assert course.problem == (
        "culvert is not reached: its tunnel does not answer, and no node that relays reaches it. See that 172.24.90.1 "
        "can be reached from 192.168.4.88, or name a gateway: HOST_GATEWAY_MAP=172.24.90.1:<gateway>"
    )
    assert [p.subject for p in made.problems] == ["culvert"]
    blocked = look(hosts(*everything), "babka", reach("culvert", "down"), reach("culvert", "up", "underlay"))
    assert blocked.courses["culvert"].problem.endswith(
        "UDP 8472 is dropped on the way. Let UDP 8472 through between 192.168.4.88 and 172.24.90.1, both ways"
    )


def test_nodes_without_an_endpoint_are_spoken_of_all_the_same() -> None:
    me, other = place("me", ""), place("other", "")
    problem = chart(sight(me, other, reaches=(reach("other", "down"),))).courses["other"].problem
    assert "See that its endpoint can be reached from this host" in problem


# plain flannel as the last resort


def flannel(places: dict[str, Place], name: str) -> dict[str, Place]:
    return places | {name: replace(places[name], carries="flannel", reaches=None, misses=frozenset())}


def test_a_host_of_plain_flannel_relays_where_no_other_way_is_left() -> None:
    places = flannel(hosts("babka-culvert", "pita-culvert"), "lavash")
    course = look(places, "babka", reach("culvert", "down")).courses["culvert"]
    assert (course.kind, course.relay, course.problem) == ("relay", "lavash", "")
    assert "nothing is known against the way through lavash, nor for it" in course.rule
    assert look(hosts("babka-culvert"), "babka", reach("culvert", "down")).courses["culvert"].relay == "lavash"
    docker = places | {"culvert": replace(places["culvert"], subnets=(ip_network("10.9.1.0/24"),))}
    problem = look(docker, "babka", reach("culvert", "down")).courses["culvert"].problem
    assert "lavash runs plain flannel, which carries only networks inside of 10.5.0.0/16; not 10.9.1.0/24" in problem


def test_not_a_host_that_the_other_end_misses() -> None:
    places = flannel(hosts("babka-culvert", "pita-culvert"), "lavash")
    places["culvert"] = replace(places["culvert"], misses=frozenset({"babka", "pita", "lavash"}))
    assert look(places, "babka", reach("culvert", "down")).courses["culvert"].kind == "none"


def test_plain_flannel_goes_straight_so_no_second_relay_is_behind_it() -> None:
    places = flannel(hosts("babka-culvert", "pita-culvert", "babka-pita", "pita-lavash"), "lavash")
    places["culvert"] = replace(places["culvert"], misses=frozenset({"babka", "pita", "lavash"}))
    assert look(places, "babka", reach("culvert", "down"), reach("pita", "down")).courses["culvert"].kind == "none"


# start, restart, hysteresis


def test_no_relay_for_lack_of_news() -> None:
    """This host is new: nobody has published a word of it."""
    places = hosts()
    for name in ("pita", "lavash", "culvert"):
        places[name] = replace(places[name], reaches=(places[name].reaches or frozenset()) - {"babka"})
    made = look(places, "babka")
    assert {course.kind for course in made.courses.values()} == {"direct"}
    assert made.reaches == {"pita", "lavash", "culvert"}


def test_after_a_restart_the_others_word_keeps_the_relay() -> None:
    """babka has forgotten that culvert doesn't answer; culvert says so."""
    made = look(hosts("babka-culvert"), "babka")
    assert made.courses["culvert"].relay == "lavash"
    assert "culvert says that it does not reach this host, and lavash reaches it" in made.courses["culvert"].rule
    assert "culvert" not in made.reaches | made.misses
    assert look(hosts("babka-culvert"), "babka", reach("culvert", "up")).courses["culvert"].kind == "direct"


def test_after_a_long_absence_that_everybody_noticed_all_are_reached_directly() -> None:
    made = look(hosts("babka-culvert", "babka-lavash", "babka-pita"), "babka")
    assert {course.kind for course in made.courses.values()} == {"direct"}


def test_a_tunnel_that_comes_back_is_used_after_its_hold() -> None:
    places = hosts("babka-culvert")

    def at(now: float, state: State, since: float, before: Chart | None = None) -> Chart:
        found = reach("culvert", state, since=since)
        return chart(seen(places, "babka", found, now=now), before.past if before is not None else None)

    down = at(100.0, "down", 1.0, at(99.0, "up", 0.5))
    held = at(101.0, "up", 2.0, down)
    assert held.courses["culvert"].relay == "lavash"
    assert "its tunnel answers again and has to hold for a while" in held.courses["culvert"].rule
    assert held.again == 103.0
    assert "culvert" in held.misses
    back = at(103.0, "up", 2.0, held)
    assert back.courses["culvert"].kind == "direct"
    assert "culvert" in back.reaches
    assert back.again is None


def test_the_first_of_several_holds_is_when_to_look_again() -> None:
    def at(now: float, *found: Reach, before: Chart | None = None) -> Chart:
        return chart(seen(hosts(), "babka", *found, now=now), before.past if before is not None else None)

    up = at(0.5, reach("culvert", "up", since=0.5), reach("pita", "up", since=0.5))
    down = at(1.0, reach("culvert", "down", since=1.0), reach("pita", "down", since=1.0), before=up)
    one = at(2.0, reach("culvert", "up", since=2.0), reach("pita", "down", since=1.0), before=down)
    both = at(3.0, reach("culvert", "up", since=2.0), reach("pita", "up", since=3.0), before=one)
    assert (one.again, both.again) == (4.0, 4.0)


def test_without_a_relay_what_comes_back_is_used_at_once() -> None:
    places = hosts(*(f"{name}-culvert" for name in ALL[:3]))
    down = chart(seen(places, "babka", reach("culvert", "down", since=1.0), now=1.0))
    up = chart(seen(places, "babka", reach("culvert", "up", since=2.0), now=2.0), down.past)
    assert up.courses["culvert"].kind == "direct"


def test_a_gap_of_liveness_changes_nothing() -> None:
    places = hosts("babka-culvert")
    first = chart(seen(places, "babka", reach("culvert", "down", since=1.0), now=1.0))
    assert chart(seen(places, "babka", now=2.0), first.past).courses["culvert"].relay == "lavash"
    places["culvert"] = replace(places["culvert"], misses=frozenset())
    rule = chart(seen(places, "babka", now=3.0), first.past).courses["culvert"].rule
    assert rule == "detection: its tunnel did not answer when that was last known, and lavash reaches it"


def test_a_host_whose_registrar_went_is_relayed_to_as_before() -> None:
    places = hosts("babka-culvert")
    first = chart(seen(places, "babka", reach("culvert", "down", since=1.0), now=1.0))
    silent = flannel(places, "culvert")
    silent["lavash"] = replace(silent["lavash"], reaches=frozenset({"babka", "pita"}))
    made = chart(seen(silent, "babka", now=2.0), first.past)
    assert made.courses["culvert"].relay == "lavash"
    assert "did not answer when that was last known; nothing is known against the way through lavash" in (
        made.courses["culvert"].rule
    )
    assert made.misses == {"culvert"}
    alone = {name: silent[name] for name in ("babka", "culvert")}
    assert chart(seen(alone, "babka", now=3.0), made.past).courses["culvert"].kind == "direct"
    assert not chart(seen(alone, "babka", now=3.0), made.past).past.detours
    back = chart(seen(silent, "babka", reach("culvert", "up", since=4.0), now=4.0), made.past)
    assert (
        chart(seen(silent, "babka", reach("culvert", "up", since=4.0), now=6.0), back.past)
        .courses["culvert"]
        .rule.startswith("directly: it publishes nothing")
    )


# announced relays


def test_a_relay_that_the_far_side_announces_is_used_for_the_way_back() -> None:
    places = hosts()
    places["babka"] = replace(places["babka"], via={"culvert": "lavash"})
    made = look(places, "culvert", *(reach(name, "up") for name in ALL[:3]))
    assert made.courses["babka"].relay == "lavash"
    assert made.courses["babka"].rule == "node babka announces that it comes through lavash"
    assert made.courses["pita"].kind == "direct"
    assert not made.via, "an answer is not announced: it would keep itself alive"


@pytest.mark.parametrize("relay", ["culvert", "babka", "gone", ""])
def test_an_announcement_of_no_relay_is_none(relay: str) -> None:
    places = hosts()
    places["babka"] = replace(places["babka"], via={"culvert": relay})
    assert look(places, "culvert").courses["babka"].kind == "direct"


def test_an_announced_relay_that_is_down_or_relays_for_nobody_is_not_taken() -> None:
    places = hosts()
    places["babka"] = replace(places["babka"], via={"culvert": "lavash"})
    assert look(places, "culvert", reach("lavash", "down")).courses["babka"].kind == "direct"
    places["lavash"] = replace(places["lavash"], carries="none")
    assert look(places, "culvert").courses["babka"].kind == "direct"


def test_announcements_that_contradict_each_other_are_not_followed() -> None:
    places = hosts()
    places["babka"] = replace(places["babka"], via={"culvert": "lavash", "lavash": "culvert"})
    assert look(places, "culvert").courses["babka"].kind == "direct"
    assert look(places, "lavash").courses["babka"].kind == "direct"


def test_the_others_reckon_with_a_map() -> None:
    """pita's map leads to culvert through lavash, so pita is no help where lavash doesn't reach culvert."""
    cut = hosts("babka-culvert", "lavash-culvert")
    found = reach("culvert", "down")
    assert look(cut, "babka", found).courses["culvert"].relay == "pita"
    mapped = cut | {"pita": replace(cut["pita"], via={"culvert": "lavash"})}
    assert look(mapped, "babka", found).courses["culvert"].kind == "none"
    direct = cut | {"pita": replace(cut["pita"], via={"culvert": "culvert"})}
    assert look(direct, "babka", found).courses["culvert"].relay == "pita"


def test_who_answers_an_announcement_through_this_host_is_no_help_to_it() -> None:
    """culvert's map leads to pita through babka, so pita sends to babka what is for culvert."""
    cut = hosts("babka-culvert", "lavash-culvert")
    found = reach("culvert", "down"), reach("pita", "up")
    assert look(cut, "babka", *found).courses["culvert"].relay == "pita"
    announcing = cut | {"culvert": replace(cut["culvert"], via={"pita": "babka"})}
    assert look(announcing, "babka", *found).courses["culvert"].kind == "none"


# speed


def test_half_of_fifty_nodes_are_relayed_to() -> None:
    names = [f"host-{number:02}" for number in range(50)]
    near, far = set(names[:25]), set(names[25:])
    places = []
    for number, name in enumerate(names):
        lost = far if name == names[0] else {names[0]} & (near if name in far else set())
        places.append(
            place(
                name, f"10.7.0.{number + 1}", reaches=set(names) - lost - {name}, misses=lost, segments=("10.7.0.1/16",)
            )
        )
    found = tuple(reach(name, "down" if name in far else "up") for name in names[1:])
    full = sight(places[0], *places[1:], reaches=found, uplinks=(uplink("eth0", "10.7.0.1/16"),))
    made = chart(full)
    assert sum(course.kind == "relay" for course in made.courses.values()) == 25
