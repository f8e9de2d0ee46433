"""Random partial meshes, host by host: everybody arrives, nothing goes round, both directions agree; also while some
hosts know old news, and while edges come and go."""

from __future__ import annotations

from itertools import combinations, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.hosts import TTL, Cluster

NAMES = "abcdefgh"


@st.composite
def meshes(draw: st.DrawFn, silent: bool = False) -> Cluster:
    names = NAMES[: draw(st.integers(2, len(NAMES)))]
    pairs = [frozenset(pair) for pair in combinations(names, 2)]
    edges = [pair for pair in pairs if draw(st.booleans())]
    weak = [name for name in names if draw(st.integers(0, 5)) == 0]
    quiet = [name for name in names if silent and draw(st.integers(0, 4)) == 0]
    return Cluster.of(names, edges, silent=quiet, weak=weak)


@st.composite
def maps(draw: st.DrawFn, cluster: Cluster) -> dict[str, str]:
    """Any map on any host: it names relays of which nothing else is sure."""
    drawn: dict[str, str] = {}
    for name in cluster.places:
        entries = []
        for goal in cluster.places:
            relay = draw(st.sampled_from(sorted(cluster.places)))
            if draw(st.integers(0, 3)) == 0 and len({name, goal, relay}) == 3:
                ends = cluster.places[goal].endpoints[0], cluster.places[relay].endpoints[0]
                entries.append(f"{ends[0]}:{ends[1]}")
        drawn[name] = ",".join(entries)
    return drawn


@given(meshes())
@settings(max_examples=150, deadline=None)
def test_every_pair_that_is_connected_gets_a_way(cluster: Cluster) -> None:
    cluster.settle()
    for start, goal in permutations(cluster.places, 2):
        walk = cluster.walk(start, goal)
        assert len(walk) == len(set(walk)), "a packet goes round"
        if cluster.connected(start, goal):
            assert walk[-1] == goal, walk
        else:
            assert cluster.charts[start].courses[goal].kind == "none"
            assert cluster.charts[start].courses[goal].problem


@given(meshes())
@settings(max_examples=100, deadline=None)
def test_both_directions_of_a_way_of_two_hops_take_the_same_relay(cluster: Cluster) -> None:
    cluster.settle()
    for start, goal in combinations(cluster.places, 2):
        there, back = cluster.walk(start, goal), cluster.walk(goal, start)
        if len(there) == 3 and there[-1] == goal:
            assert back == there[::-1]


@given(st.data(), meshes(silent=True))
@settings(max_examples=100, deadline=None)
def test_no_map_and_no_host_of_plain_flannel_makes_a_packet_go_round(data: st.DataObject, cluster: Cluster) -> None:
    cluster.maps = data.draw(maps(cluster))
    cluster.settle()
    for start, goal in permutations(cluster.places, 2):
        walk = cluster.walk(start, goal)
        assert len(walk) == len(set(walk)), walk


@given(st.data(), meshes())
@settings(max_examples=100, deadline=None)
def test_a_map_overrides_what_is_detected(data: st.DataObject, cluster: Cluster) -> None:
    cluster.maps = data.draw(maps(cluster))
    cluster.settle()
    for name, text in cluster.maps.items():
        courses = cluster.charts[name].courses
        for entry in filter(None, text.split(",")):
            goal = next(p.id for p in cluster.places.values() if entry.startswith(f"{p.endpoints[0]}:"))
            assert "map entry" in courses[goal].rule
            assert entry in courses[goal].rule
            assert courses[goal].kind == "relay" or courses[goal].problem


@given(st.data(), meshes())
@settings(max_examples=100, deadline=None)
def test_a_map_on_one_host_is_answered_by_the_same_relay(data: st.DataObject, cluster: Cluster) -> None:
    names = sorted(cluster.places)
    if len(names) < 3:
        return
    one, relay, two = data.draw(st.permutations(names))[:3]
    ends = [str(cluster.places[name].endpoints[0]) for name in (two, relay)]
    cluster.maps = {one: ":".join(ends)}
    cluster.settle()
    carries = cluster.places[relay].carries == "all"
    if carries and frozenset((relay, two)) not in cluster.down:
        assert cluster.charts[one].courses[two].relay == relay
        assert cluster.charts[two].courses[one].relay == relay
        if frozenset((relay, one)) not in cluster.down:
            assert cluster.walk(one, two) == cluster.walk(two, one)[::-1] == [one, relay, two]


@given(st.data(), meshes(silent=True))
@settings(max_examples=100, deadline=None)
def test_old_news_may_cost_packets_and_no_longer_than_they_are_old(data: st.DataObject, cluster: Cluster) -> None:
    """Some hosts decide from what was published before others changed their minds. Whatever happens then, once all
    have read the same again, nothing goes round."""
    cluster.settle()
    pairs = [frozenset(pair) for pair in combinations(cluster.places, 2)]
    for _ in range(data.draw(st.integers(1, 4))):
        one, two = sorted(data.draw(st.sampled_from(pairs)))
        cluster.set(one, two, data.draw(st.booleans()))
        for name in data.draw(st.permutations(sorted(cluster.places)))[: data.draw(st.integers(0, len(NAMES)))]:
            cluster.look(name)
            if data.draw(st.booleans()):
                cluster.publish(name)
        cluster.now += data.draw(st.sampled_from([0.1, 1.0, 3.0]))
        for start, goal in permutations(cluster.places, 2):
            assert len(cluster.walk(start, goal)) <= TTL + 1
    cluster.settle()
    for start, goal in permutations(cluster.places, 2):
        walk = cluster.walk(start, goal)
        assert len(walk) == len(set(walk)), walk
        if cluster.connected(start, goal) and all(p.reaches is not None for p in cluster.places.values()):
            assert walk[-1] == goal
