"""The search for a gateway: which are proposed, for how long, and when none is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from tests.build import uplink
from tests.support.hosts import State, place, reach, sight
from weft.core.detours import REST, TRIAL
from weft.core.sight import Chart, Course, Past, Place
from weft.core.topology import chart, recall
from weft.model import Reach, StaticRoute, Uplink, Way

BABKA = place("babka", "192.168.4.88")
CULVERT = place("culvert", "172.24.90.1", misses={"babka", "gate"})
GATE = place("gate", "192.168.4.6", misses={"culvert"}, segments=("192.168.4.6/24", "172.24.90.6/24"))
OTHER = place("other", "172.24.90.9", misses={"culvert"})
ROUTER = ip_address("192.168.4.1")
USUAL = {"172.24.90.1": Way("eth0", ROUTER)}
HINT = {"172.24.90.9": Way("eth0", ip_address("192.168.4.7"))}


@dataclass
class Babka:
    """One host that looks again and again at a culvert that doesn't answer."""

    places: tuple[Place, ...] = (CULVERT, GATE)
    ways: Mapping[str, Way | None] = field(default_factory=lambda: dict(USUAL))
    uplinks: tuple[Uplink, ...] = (uplink("eth0", "192.168.4.88/24"),)
    gateways: str = ""
    now: float = 1000.0
    state: State = "down"
    since: float = 0.0
    outside: State | None = None
    past: Past = field(default_factory=Past)

    def look(self, after: float = 0.0) -> Course:
        return self.chart(after).courses["culvert"]

    def chart(self, after: float = 0.0) -> Chart:
        self.now += after
        found: tuple[Reach, ...] = (reach("culvert", self.state, since=self.since),)
        if self.outside is not None:
            found = (*found, reach("culvert", self.outside, "underlay"))
        seen = sight(
            BABKA,
            *self.places,
            reaches=found,
            uplinks=self.uplinks,
            ways=self.ways,
            gateways=self.gateways,
            now=self.now,
        )
        made = chart(seen, self.past)
        self.past = made.past
        return made

    def turn(self, state: State, after: float = 0.0) -> Course:
        self.now += after
        self.state, self.since = state, self.now
        return self.look()


def test_a_neighbour_on_both_segments_is_tried_and_kept_once_the_tunnel_answers() -> None:
    babka = Babka()
    made = babka.chart()
    course = made.courses["culvert"]
    assert (course.kind, course.gateway, course.dev) == ("underlay", ip_address("192.168.4.6"), "eth0")
    assert course.rule == (
        "detection: its tunnel does not answer and no node reaches it; 192.168.4.6 is tried (gate is on the segment "
        "172.24.90.0/24, too)"
    )
    assert course.problem
    assert made.routes == (
        StaticRoute(
            ip_network("172.24.90.1/32"),
            ip_address("192.168.4.6"),
            "eth0",
            "detection",
            "gate is on the segment 172.24.90.0/24, too",
        ),
    )
    assert made.again == 1000.0 + TRIAL
    course = babka.turn("up", after=3.0)
    assert course.kind == "underlay"
    assert "its tunnel answers since 192.168.4.6 is its gateway" in course.rule
    assert not course.problem
    made = babka.chart(after=10_000.0)
    assert made.routes
    assert made.again is None
    babka.places = (CULVERT,)
    assert babka.look().kind == "underlay", "what works needs no reason to go on"
    assert babka.turn("unknown").kind == "underlay"


def test_what_does_not_help_in_time_is_withdrawn_for_the_next_one() -> None:
    babka = Babka(places=(CULVERT, GATE, OTHER), ways=USUAL | HINT)
    assert babka.look().gateway == ip_address("192.168.4.6")
    assert babka.look(after=TRIAL - 0.1).gateway == ip_address("192.168.4.6")
    second = babka.chart(after=0.1)
    assert second.courses["culvert"].gateway == ip_address("192.168.4.7")
    assert "this host reaches 172.24.90.9 through it" in second.courses["culvert"].rule
    assert len(second.routes) == 1
    last = babka.chart(after=TRIAL)
    assert last.courses["culvert"].kind == "none"
    assert not last.routes
    assert last.again == babka.now + REST
    assert babka.look(after=REST - 1).kind == "none"
    assert babka.look(after=1.0).gateway == ip_address("192.168.4.6"), "after the rest, once more"


def test_a_new_candidate_is_tried_during_the_rest() -> None:
    babka = Babka()
    babka.look()
    assert babka.look(after=TRIAL).kind == "none"
    babka.places, babka.ways = (CULVERT, GATE, OTHER), USUAL | HINT
    assert babka.look(after=1.0).gateway == ip_address("192.168.4.7")
    made = babka.chart(after=TRIAL)
    assert made.courses["culvert"].kind == "none"
    assert made.again == babka.now + REST


def test_what_is_found_no_longer_is_withdrawn_at_once() -> None:
    babka = Babka()
    assert babka.look().kind == "underlay"
    babka.places = (CULVERT,)
    assert babka.look(after=1.0).kind == "none"


def test_what_helped_and_fails_has_its_time_to_come_back() -> None:
    babka = Babka()
    babka.look()
    babka.turn("up", after=1.0)
    assert babka.turn("down", after=100.0).gateway == ip_address("192.168.4.6")
    assert babka.look(after=TRIAL - 0.1).kind == "underlay"
    assert babka.turn("up", after=0.05).kind == "underlay"
    babka.turn("down", after=100.0)
    assert babka.look(after=TRIAL).kind == "none"


def test_the_gateway_that_is_used_anyway_is_no_news() -> None:
    babka = Babka(ways={"172.24.90.1": Way("eth0", ip_address("192.168.4.6"))})
    assert babka.look().kind == "none"


def test_what_the_proposal_itself_made_of_the_way_is_not_the_usual_way() -> None:
    babka = Babka()
    babka.look()
    babka.ways = {"172.24.90.1": Way("eth0", ip_address("192.168.4.6"))}
    assert babka.look(after=1.0).kind == "underlay"


def test_nothing_is_proposed_before_the_kernel_has_told_the_usual_way() -> None:
    babka = Babka(ways={})
    made = babka.chart()
    assert made.courses["culvert"].kind == "none"
    assert ip_address("172.24.90.1") in made.ask
    assert not made.unanswered, "no course waits for it"
    babka.ways = {"172.24.90.1": None}
    assert babka.look().kind == "underlay", "no way at all is a reason, too"


def test_the_neighbourhood_is_asked_for_the_maps_gateways_with_it() -> None:
    babka = Babka(places=(CULVERT, GATE, OTHER, place("far", "10.0.0.1")), gateways="10.77.0.0/16:172.24.90.8")
    asked = babka.chart().ask
    assert asked == {ip_address(a) for a in ("172.24.90.1", "172.24.90.6", "172.24.90.8", "172.24.90.9")}


def test_in_ipv6_a_neighbourhood_is_a_64() -> None:
    far = replace(CULVERT, endpoints=(ip_address("fd00:90::1"),))
    near, other = place("near", "fd00:90::9", misses={"culvert"}), place("not", "fd00:90:0:1::9", misses={"culvert"})
    ways = {
        "fd00:90::1": Way("eth0", ip_address("fd00:4::1")),
        "fd00:90::9": Way("eth0", ip_address("fd00:4::6")),
        "fd00:90:0:1::9": Way("eth0", ip_address("fd00:4::7")),
    }
    babka = Babka(places=(far, near, other), ways=ways, uplinks=(uplink("eth0", "fd00:4::88/64"),))
    assert babka.look().gateway == ip_address("fd00:4::6")
    assert babka.look(after=TRIAL).kind == "none"


def test_a_segment_of_this_hosts_own_needs_no_gateway() -> None:
    """Such as a WireGuard interface's, or a route out of one."""
    wg = uplink("wg0", "172.24.90.88/24", default=())
    assert Babka(uplinks=(uplink("eth0", "192.168.4.88/24"), wg)).look().kind == "none"
    assert Babka(ways={"172.24.90.1": Way("wg0")}).look().kind == "none"


def test_an_address_of_this_hosts_that_another_claims_is_no_gateway() -> None:
    liar = place("liar", "192.168.4.6", misses={"culvert"}, segments=("192.168.4.88/24", "172.24.90.6/24"))
    assert Babka(places=(CULVERT, liar)).look().kind == "none"


def test_a_node_is_not_its_own_gateway() -> None:
    own = replace(CULVERT, segments=(*GATE.segments,))
    assert Babka(places=(own,)).look().kind == "none"


def test_never_while_the_node_is_reached_or_relayed_to_or_its_port_is_closed() -> None:
    assert Babka(state="up").look().kind == "direct"
    assert Babka(state="unknown").look().kind == "direct"
    relaying = replace(GATE, reaches=frozenset({"babka", "culvert"}), misses=frozenset())
    reached = replace(CULVERT, reaches=frozenset({"gate"}), misses=frozenset({"babka"}))
    babka = Babka(places=(reached, relaying))
    assert babka.look().kind == "relay"
    assert not babka.past.detours
    closed = Babka(outside="up")
    assert closed.look().kind == "none"
    assert not closed.past.detours
    assert Babka(outside="down").look().kind == "underlay"


def test_an_address_that_answers_by_the_proposal_does_not_end_it() -> None:
    babka = Babka()
    babka.look()
    babka.outside = "up"
    course = babka.look(after=1.0)
    assert course.kind == "underlay"
    assert "Let UDP 8472 through" in course.problem


def test_a_relay_that_comes_ends_the_search() -> None:
    babka = Babka()
    babka.look()
    relaying = replace(GATE, reaches=frozenset({"babka", "culvert"}), misses=frozenset())
    reached = replace(CULVERT, reaches=frozenset({"gate"}), misses=frozenset({"babka"}))
    babka.places = (reached, relaying)
    made = babka.chart(after=1.0)
    assert made.courses["culvert"].kind == "relay"
    assert not made.routes
    assert not babka.past.detours


def test_plain_flannel_relays_meanwhile() -> None:
    silent = place("silent", "192.168.4.77", carries="flannel", reaches=None)
    babka = Babka(places=(CULVERT, GATE, silent))
    made = babka.chart()
    assert made.courses["culvert"].relay == "silent"
    assert [str(r.via) for r in made.routes] == ["192.168.4.6"], "and the gateway is tried beside that"


def test_no_hint_follows_from_what_is_only_tried_and_one_does_from_what_helped() -> None:
    """Two nodes in one neighbourhood: while a gateway to the one is on trial, its way is of our own making."""
    twin = place("twin", "172.24.90.2", misses={"babka", "gate", "culvert"})
    babka = Babka()
    babka.look()
    ways = {"172.24.90.1": Way("eth0", ip_address("192.168.4.6")), "172.24.90.2": Way("eth0", ROUTER)}

    def of_twin(state: State) -> Course:
        found = reach("culvert", state), reach("twin", "down")
        both = sight(BABKA, CULVERT, twin, reaches=found, uplinks=babka.uplinks, ways=ways, now=babka.now)
        return chart(both, babka.past).courses["twin"]

    assert of_twin("down").kind == "none"
    babka.turn("up", after=1.0)
    assert of_twin("up").gateway == ip_address("192.168.4.6")


def test_a_node_without_an_endpoint_is_not_searched_for() -> None:
    assert Babka(places=(replace(CULVERT, endpoints=()), GATE)).look().kind == "none"


def test_a_restart_keeps_what_the_last_run_found() -> None:
    left = StaticRoute(ip_network("172.24.90.1/32"), ip_address("192.168.4.6"), "eth0", "detection", "found before")
    bare = place("bare", "")
    babka = Babka(state="unknown", past=recall((CULVERT, GATE, bare), (left,)))
    assert set(babka.past.detours) == {"culvert"}
    made = babka.chart()
    assert (made.courses["culvert"].kind, len(made.routes)) == ("underlay", 1)
    assert babka.turn("up", after=1.0).kind == "underlay"
    babka.turn("down", after=1.0)
    babka.places = (CULVERT,)
    assert babka.look(after=TRIAL).kind == "none", "and lets it go when it fails"
