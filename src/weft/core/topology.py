"""How each node is reached: directly, through a relay, through a gateway of the underlay. Pure; called by
`agent/registrar.py`, once per view: `chart(sight, past)`.

In this order: an entry of this host's gateway map (`gateway_map.py`); the relay that the node announces to come
through; the tunnel itself while it answers; the next node of a shortest way of edges that both ends confirm
(`mesh.py`); a gateway that may be on the way (`detours.py`), and meanwhile a way through nodes that publish nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_network

from weft.core import detours
from weft.core.detours import Search
from weft.core.findings import Findings, find
from weft.core.gateway_map import GatewayMap, Match
from weft.core.mesh import Mesh
from weft.core.sight import Chart, Course, Detour, Past, Place, Sight
from weft.model import DETECTION, IPNetwork, Problem, StaticRoute
from weft.settings.gateways import MAP


def chart(sight: Sight, past: Past | None = None) -> Chart:
    """A course for each of the sight's places, and what this host is to publish, route and ask for, so that it works.
    `past`: of the chart before, None at the start."""
    past = past or Past()
    found = find(sight, past)
    gateways = GatewayMap.of(sight)
    matches = {place.id: match for place in sight.places if (match := gateways.match(place)) is not None}
    via = {name: match.course.relay or name for name, match in matches.items()}
    mesh = Mesh.of(replace(sight.me, via=via), sight.places, found.up, found.doubted)
    search = Search.of(sight, past.detours)
    charting = _Charting(sight, found, mesh, search, {place.id: place for place in sight.places})
    courses: dict[str, Course] = {}
    searched: dict[str, Detour] = {}
    routes = [match.route() for match in matches.values()]
    for place in sight.places:
        if place.id in matches:
            courses[place.id] = charting.mapped(place, matches[place.id])
            continue
        courses[place.id], detour = charting.detected(place, past.detours.get(place.id))
        if detour is not None:
            searched[place.id] = detour
            routes.append(_route(place, detour))
    ends = [end for end in (found.again, detours.again(searched)) if end is not None]
    return Chart(
        courses=courses,
        routes=tuple(route for route in routes if route is not None),
        ask=frozenset(gateways.asked | search.asked),
        unanswered=frozenset(gateways.asked) - sight.answered,
        reaches=frozenset(found.edges) & found.up - found.doubted,
        misses=frozenset(found.edges) - found.up,
        via=via,
        problems=(*_problems(courses), *gateways.idle()),
        again=min(ends, default=None),
        past=Past(found.edges, searched),
    )


def recall(places: Iterable[Place], routes: Iterable[StaticRoute]) -> Past:
    """What a host that starts anew can know of its own past: host routes to nodes' endpoints that an earlier run left
    in the kernel had been found to help, and are kept while the tunnels through them answer."""
    left = {route.dst: route for route in routes}
    held: dict[str, Detour] = {}
    for place in places:
        for endpoint in place.endpoints[:1]:
            route = left.get(ip_network(endpoint))
            if route is not None:
                held[place.id] = Detour(0.0, route.via, route.dev, route.rule, held=True)
    return Past({}, held)


@dataclass(frozen=True, slots=True)
class _Charting:
    sight: Sight
    found: Findings
    mesh: Mesh
    search: Search
    places: dict[str, Place]

    def mapped(self, place: Place, match: Match) -> Course:
        """The map's course, with what is known against it. It holds all the same: whoever wrote it knows more."""
        course = replace(match.course, asked=True)
        if course.kind != "relay" or course.problem:
            return course
        relay = self.places[course.relay]
        circle = self._circle(place.id, relay.id)
        if circle:
            path = " → ".join(circle)
            why = f"the hosts' maps lead in a circle: {path}. Remove one of their entries for {place.id}"
            return Course("none", course.rule, problem=f"{MAP}: {match.entry.text} can't work: {why}")
        why = self._against(place, relay)
        if why:
            return replace(course, problem=f"{MAP}: {match.entry.text}: {why}")
        return course

    def detected(self, place: Place, before: Detour | None) -> tuple[Course, Detour | None]:
        """By what was found out, and the search for a gateway to it, if there is one."""
        announced = self._announced(place)
        if announced is not None:
            return announced, None
        state = self.found.state(place.id)
        up = place.id in self.found.up
        relay = "" if up and place.id not in self.found.doubted else self.mesh.next(place.id)
        outside = place.id in self.found.underlays and self.found.underlays[place.id].state == "up"
        trying = before is not None and before.gateway is not None
        lost = not (up or relay or state == "up") and (trying or not outside) and place.reaches is not None
        detour = self.search.step(place, before, state, lost)
        if relay:
            return self._relayed(place, relay, f"detection: {self._silence(place)}, and {relay} reaches it"), detour
        if up or state == "up":
            return self._direct(place, detour), detour
        guess = self.mesh.next(place.id, likely=True)
        if guess:
            rule = f"detection: {self._silence(place)}; nothing is known against the way through {guess}, nor for it"
            return self._relayed(place, guess, rule), detour
        if place.reaches is None:
            return self._direct(place, detour), detour
        return self._lost(place, detour), detour

    def _announced(self, place: Place) -> Course | None:
        name = self.mesh.announced(self.mesh.me, place) if place.via else ""
        if not name:
            return None
        course = self._relayed(place, name, f"node {place.id} announces that it comes through {name}")
        return replace(course, asked=True)

    def _relayed(self, place: Place, name: str, rule: str) -> Course:
        return Course("relay", rule, name, problem=self._uncarried(place, self.places[name]))

    def _direct(self, place: Place, detour: Detour | None) -> Course:
        problem = ""
        reach = self.found.tunnels.get(place.id)
        if place.reaches is None:
            rule = "directly: it publishes nothing (plain flannel, or an older registrar), so it is not probed"
        elif reach is None or reach.state == "unknown":
            rule = "directly: whether its tunnel answers is not known yet"
        else:
            rule = "directly: its tunnel answers"
            if reach.full is False:
                problem = (
                    f"the tunnel to {place.id} answers, but packets of {reach.path.mtu} octets don't get through"
                    f"{f' ({reach.reason})' if reach.reason else ''}: lower the MTU (FLANNEL_MTU), or let ICMP "
                    f"'fragmentation needed' and UDP fragments through on the way"
                )
        if detour is not None and detour.gateway is not None:
            rule = f"detection: its tunnel answers since {detour.gateway} is its gateway ({detour.why})"
            return Course("underlay", rule, gateway=detour.gateway, dev=detour.dev, problem=problem)
        return Course("direct", rule, problem=problem)

    def _lost(self, place: Place, detour: Detour | None) -> Course:
        silence = self._silence(place)
        if detour is not None and detour.gateway is not None:
            rule = f"detection: {silence} and no node reaches it; {detour.gateway} is tried ({detour.why})"
            return Course("underlay", rule, gateway=detour.gateway, dev=detour.dev, problem=self._remedy(place))
        return Course("none", f"detection: {silence}, and no node that relays reaches it", problem=self._remedy(place))

    def _remedy(self, place: Place) -> str:
        silence = f"{place.id} is not reached: {self._silence(place)}"
        outside = self.found.underlays.get(place.id)
        endpoint = place.endpoints[0] if place.endpoints else "its endpoint"
        if outside is not None and outside.state == "up":
            return f"{silence}. Let UDP {self.sight.port} through between {self._own()} and {endpoint}, both ways"
        return (
            f"{silence}, and no node that relays reaches it. See that {endpoint} can be reached from {self._own()}, or "
            f"name a gateway: {MAP}={endpoint}:<gateway>"
        )

    def _silence(self, place: Place) -> str:
        """In what way a tunnel is down."""
        reach = self.found.tunnels.get(place.id)
        outside = self.found.underlays.get(place.id)
        if reach is None or reach.state == "unknown":
            if self.sight.me.id in place.misses:
                return f"{place.id} says that it does not reach this host"
            return "its tunnel did not answer when that was last known"
        if reach.state == "up":
            return "its tunnel answers again and has to hold for a while"
        reason = f" ({reach.reason})" if reach.reason else ""
        if outside is None or outside.state == "unknown":
            return f"its tunnel does not answer{reason}"
        if outside.state == "up":
            return f"its tunnel does not answer{reason}, its address does: UDP {self.sight.port} is dropped on the way"
        return f"neither its tunnel nor its address answers{reason}"

    def _against(self, place: Place, relay: Place) -> str:
        """What is known against a relay that the map names."""
        if relay.id not in self.found.up and self.found.state(relay.id) != "up":
            return f"the relay {relay.id} is not reached directly ({self._silence(relay)}). Name a gateway that is"
        missed = place.id in relay.misses or relay.id in place.misses
        if missed and not self.mesh.next(place.id, likely=True, start=relay.id):
            return (
                f"the relay {relay.id} and {place.id} don't reach each other, as one of the two says. "
                f"`weft explain {place.id}` on {relay.id} tells more"
            )
        return self._uncarried(place, relay)

    def _circle(self, goal: str, relay: str) -> tuple[str, ...]:
        """The nodes on the way, if the maps that they publish lead back to one of them."""
        passed = [self.sight.me.id]
        while relay in self.places and relay != goal:
            passed.append(relay)
            relay = self.mesh.bound(self.mesh.numbers[relay], goal)
            if relay in passed:
                return (*passed, relay)
        return ()

    def _uncarried(self, place: Place, relay: Place) -> str:
        """Plain flannel knows nothing of networks outside of its own."""
        if relay.carries == "all":
            return ""
        span = self.sight.span
        outside = [s for s in (*place.subnets, *self.sight.me.subnets) if not any(_inside(s, n) for n in span)]
        if not outside:
            return ""
        named = ", ".join(str(subnet) for subnet in outside[:4]) + (", …" if len(outside) > 4 else "")
        return (
            f"the relay {relay.id} runs plain flannel, which carries only networks inside of "
            f"{', '.join(map(str, span)) or 'its own'}; not {named}. Run weft registrar on {relay.id}"
        )

    def _own(self) -> str:
        return str(self.sight.me.endpoints[0]) if self.sight.me.endpoints else "this host"


def _route(place: Place, detour: Detour) -> StaticRoute | None:
    if detour.gateway is None:
        return None
    return StaticRoute(ip_network(place.endpoints[0]), detour.gateway, detour.dev, DETECTION, detour.why)


def _problems(courses: dict[str, Course]) -> Iterable[Problem]:
    """An entry for a subnet may be wrong in the same way for many nodes: that is one problem."""
    messages: dict[str, str] = {}
    for name, course in courses.items():
        if course.problem:
            messages.setdefault(course.problem, name)
    return (Problem(name, message) for message, name in messages.items())


def _inside(subnet: IPNetwork, network: IPNetwork) -> bool:
    return subnet.version == network.version and subnet.subnet_of(network)  # type: ignore[arg-type]
