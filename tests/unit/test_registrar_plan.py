"""What the registrar's Views come to: golden text, beside flanneld (backend `lease`) and on a device of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.build import network, node, uplink, view
from weft.backends.tunnel import REGISTRAR_METRICS, link_local, spread, vtep_mac
from weft.core.commands import script, text
from weft.core.plan import HERE, plan
from weft.model import Host, IPAddress, Network, Node, Profile, Relay, StaticRoute, View
from weft.objects import (
    FOUND_METRIC,
    METRIC_CLASSES,
    Chain,
    Fdb,
    Jump,
    Link,
    Neighbour,
    NextHop,
    Object,
    Op,
    Route,
    Sysctl,
)

BESIDE = Profile(role="registrar", device="flannel.1", shared=True, metric=REGISTRAR_METRICS.start, gateway="overlay")
ALONE = Profile(role="registrar", metric=REGISTRAR_METRICS.start)
KERNEL = (Sysctl, Link, Neighbour, Fdb, NextHop, Route)


def shown(view_: View, *kinds: type[Object]) -> list[str]:
    wanted = [w for w in plan(view_).wanted.values() if not isinstance(w.object, Chain | Jump)]
    chosen = [w for w in wanted if isinstance(w.object, kinds or KERNEL)]
    return script(Op("add", w.object, w.why) for w in sorted(chosen, key=lambda w: w.object.rank))


def reasons(view_: View) -> list[str]:
    return [str(w.why) for w in plan(view_).wanted.values() if isinstance(w.object, Route)]


def leased(name: str, endpoint: str, lease: str, *networks: Network, relay: Node | None = None) -> Node:
    """A host with a flannel lease. `lease`: `10.5.20.0/24`, or with an IPv6 one behind a comma."""
    subnets = lease.split(",")
    return Node(
        id=name,
        endpoints=(ip_address(endpoint),),
        port=8472,
        vni=1,
        mac=vtep_mac(name, 1),
        mtu=0,
        networks=(network("lease", *subnets), *networks),
        overlay=tuple(ip_network(subnet).network_address for subnet in subnets),
        backend="lease",
        source="etcd",
        relay=relay_of(relay) if relay is not None else None,
    )


def relay_of(through: Node) -> Relay:
    return Relay(through.id, through.endpoints, through.mac, through.overlay)


BABKA = leased("babka", "192.168.4.88", "10.5.10.0/24", network("home", "10.9.0.0/24"))
LAVASH = leased("lavash", "192.168.4.1", "10.5.30.0/24")
CULVERT = leased("culvert", "172.24.90.1", "10.5.20.0/24", network("web", "10.9.1.0/24"))


def beside(*nodes: Node) -> View:
    return view(*nodes, me=BABKA, networks=BABKA.networks, profile=BESIDE)


def metric(subnet: str) -> int:
    return spread(8624, ip_network(subnet))


def test_beside_flanneld_networks_are_routed_through_the_lease_and_nothing_else_is_written() -> None:
    assert shown(beside(CULVERT)) == [
        "sysctl -w net.ipv4.ip_forward=1",
        f"ip route add 10.5.20.0/32 via 10.5.20.0 dev flannel.1 onlink proto 76 metric {metric('10.5.20.0/32')}",
        f"ip route add 10.9.1.0/24 via 10.5.20.0 dev flannel.1 onlink proto 76 metric {metric('10.9.1.0/24')}",
    ]
    assert reasons(beside(CULVERT)) == [
        "address at which node culvert is probed directly (culvert, told by etcd)",
        "network web of node culvert (culvert, told by etcd)",
    ]


def test_through_a_relay_all_goes_there_as_two_halves_and_the_probed_address_stays_direct() -> None:
    """Networks too: flanneld routes those for which a registrar has made an entry beside the leases, directly."""
    relayed = beside(replace(CULVERT, relay=relay_of(LAVASH)), LAVASH)
    assert shown(relayed, Route) == [
        f"ip route add 10.5.20.0/32 via 10.5.20.0 dev flannel.1 onlink proto 76 metric {metric('10.5.20.0/32')}",
        f"ip route add 10.5.20.0/25 via 10.5.30.0 dev flannel.1 onlink proto 76 metric {metric('10.5.20.0/25')}",
        f"ip route add 10.5.20.128/25 via 10.5.30.0 dev flannel.1 onlink proto 76 metric {metric('10.5.20.128/25')}",
        f"ip route add 10.9.1.0/24 via 10.5.30.0 dev flannel.1 onlink proto 76 metric {metric('10.9.1.0/24')}",
        f"ip route add 10.9.1.0/25 via 10.5.30.0 dev flannel.1 onlink proto 76 metric {metric('10.9.1.0/25')}",
        f"ip route add 10.9.1.128/25 via 10.5.30.0 dev flannel.1 onlink proto 76 metric {metric('10.9.1.128/25')}",
        f"ip route add 10.5.30.0/32 via 10.5.30.0 dev flannel.1 onlink proto 76 metric {metric('10.5.30.0/32')}",
    ]
    assert reasons(relayed)[1:5] == [
        "half of the lease of node culvert, through node lavash (culvert, told by etcd)",
        "half of the lease of node culvert, through node lavash (culvert, told by etcd)",
        "network web of node culvert, through node lavash (culvert, told by etcd)",
        "half of network web of node culvert, through node lavash (culvert, told by etcd)",
    ]


def test_a_relay_that_comes_changes_routes_and_adds_halves_and_touches_no_probed_address() -> None:
    before = plan(beside(CULVERT, LAVASH))
    after = plan(beside(replace(CULVERT, relay=relay_of(LAVASH)), LAVASH), before)
    assert all(after.wanted[key] == want for key, want in before.wanted.items() if key[2:3] == (32,))
    assert {key[2:3] for key in after.wanted.keys() - before.wanted.keys()} == {(25,)}


def test_beside_flanneld_of_two_ip_versions() -> None:
    both = leased(
        "culvert", "172.24.90.1", "10.5.20.0/24,fc00:5:0:20::/64", network("web", "10.9.1.0/24", "fd00:9::/64")
    )
    via = "via fc00:5:0:20:: dev flannel.1 onlink proto 76 metric"
    assert shown(beside(both), Route)[1:] == [
        f"ip -6 route add fc00:5:0:20::/128 {via} {metric('fc00:5:0:20::/128')}",
        f"ip route add 10.9.1.0/24 via 10.5.20.0 dev flannel.1 onlink proto 76 metric {metric('10.9.1.0/24')}",
        f"ip -6 route add fd00:9::/64 {via} {metric('fd00:9::/64')}",
    ]
    relay = Relay("lavash", (), LAVASH.mac, (ip_address("10.5.30.0"), ip_address("fc00:5:0:30::")))
    lines = shown(beside(replace(both, relay=relay)), Route)
    assert [line.split()[4:7] for line in lines if "fc00:5:0:30::" in line] == [
        ["fc00:5:0:20::/65", "via", "fc00:5:0:30::"],
        ["fc00:5:0:20:8000::/65", "via", "fc00:5:0:30::"],
        ["fd00:9::/64", "via", "fc00:5:0:30::"],
        ["fd00:9::/65", "via", "fc00:5:0:30::"],
        ["fd00:9:0:0:8000::/65", "via", "fc00:5:0:30::"],
    ]


def test_ipv6_of_a_host_without_such_a_lease_is_not_routed() -> None:
    one = leased("culvert", "172.24.90.1", "10.5.20.0/24", network("web", "10.9.1.0/24", "fd00:9::/64"))
    assert [line for line in shown(beside(one), Route) if "fd00" in line] == []


def test_a_relay_without_an_address_of_the_ip_version_carries_none_of_it() -> None:
    both = leased(
        "culvert", "172.24.90.1", "10.5.20.0/24,fc00:5:0:20::/64", network("web", "fd00:9::/64"), relay=LAVASH
    )
    lines = [line for line in shown(beside(both), Route) if "-6" in line]
    assert [line.split()[4:7] for line in lines] == [
        ["fc00:5:0:20::/128", "via", "fc00:5:0:20::"],
        ["fd00:9::/64", "via", "fc00:5:0:20::"],
    ]
    assert "network web of node culvert (culvert, told by etcd)" in reasons(beside(both))


def test_a_host_that_flannel_reaches_without_a_tunnel_is_routed_to_without_one() -> None:
    """With DirectRouting, flannel's device has no entries for it."""
    near = replace(CULVERT, direct="eth0")
    assert shown(beside(near), Route) == [
        f"ip route add {subnet} via 172.24.90.1 dev eth0 proto 76 metric {metric(subnet)}"
        for subnet in ("10.5.20.0/32", "10.9.1.0/24")
    ]
    assert len(shown(beside(replace(near, relay=relay_of(LAVASH))), Route)) == 6


@pytest.mark.parametrize("lease", ["10.5.20.0/31", "10.5.20.0/32"])
def test_a_lease_too_small_for_halves_keeps_the_probed_address(lease: str) -> None:
    small = leased("culvert", "172.24.90.1", lease, relay=LAVASH)
    assert [line.split()[3] for line in shown(beside(small), Route)] == ["10.5.20.0/32"]


def test_every_metric_of_the_registrars_routes_is_in_its_band() -> None:
    peers = [
        leased(f"n{i}", f"192.168.4.{i}", f"10.5.{i}.0/24", network("web", f"10.9.{i}.0/24"), relay=LAVASH)
        for i in range(2, 200)
    ]
    metrics = {w.object.metric for w in plan(beside(*peers)).wanted.values() if isinstance(w.object, Route)}
    assert len(metrics) > 300
    assert all(m in REGISTRAR_METRICS for m in metrics)
    assert spread(Profile().metric, ip_network("10.5.20.0/24")) < REGISTRAR_METRICS.start


def test_its_own_device_lets_probes_in_that_come_by_the_tunnel() -> None:
    lines = shown(view(node("b", "192.0.2.2", "10.2.0.0/24"), profile=ALONE))
    assert lines == [
        "sysctl -w net.ipv4.ip_forward=1",
        "ip link add vxlan4096 address 3e:4c:3f:d8:e8:c5 mtu 1450"
        " type vxlan id 4096 dstport 4789 local 192.0.2.1 nolearning",
        "ip link set dev vxlan4096 alias weft:registrar:a up",
        "sysctl -w net.ipv4.conf.vxlan4096.rp_filter=2",
        "sysctl -w net.ipv4.conf.vxlan4096.send_redirects=0",
        "ip neigh add 192.0.2.2 lladdr 86:dd:f6:c2:3c:41 dev vxlan4096 nud permanent",
        "ip neigh add fe80::84dd:f6ff:fec2:3c41 lladdr 86:dd:f6:c2:3c:41 dev vxlan4096 nud permanent",
        "bridge fdb add 86:dd:f6:c2:3c:41 dev vxlan4096 dst 192.0.2.2 self permanent",
        "ip nexthop add id 2090570276 via 192.0.2.2 dev vxlan4096 onlink proto 76",
        "ip route add 10.2.0.0/24 nhid 2090570276 proto 76 metric 8624 src 10.1.0.1",
    ]


def through(relay: Relay) -> Node:
    return replace(node("b", "192.0.2.2", "10.2.0.0/24", "fd00:2::/64"), relay=relay)


RELAY = Relay("r", (ip_address("192.0.2.9"), ip_address("fd00::9")), vtep_mac("r", 4096))


def test_through_a_relay_the_next_hops_are_its_own_and_the_peers_entries_stay() -> None:
    wanted = plan(view(through(RELAY), profile=ALONE)).wanted
    objects = [w.object for w in wanted.values()]
    ways = {str(o.via): str(w.why) for w in wanted.values() if isinstance(o := w.object, NextHop)}
    said = "tunnel to node b, through node r (b, told by multicast)"
    assert ways == {"192.0.2.9": said, str(link_local(RELAY.mac)): said}
    assert {(str(o.address), o.mac) for o in objects if isinstance(o, Neighbour)} == {
        ("192.0.2.2", vtep_mac("b", 4096)),
        (str(link_local(vtep_mac("b", 4096))), vtep_mac("b", 4096)),
    }
    assert [(o.mac, str(o.dst)) for o in objects if isinstance(o, Fdb)] == [(vtep_mac("b", 4096), "192.0.2.2")]
    direct = plan(view(replace(through(RELAY), relay=None), profile=ALONE)).wanted
    assert wanted.keys() == direct.keys()
    assert {key[0] for key, want in wanted.items() if direct[key].object != want.object} == {"nexthop"}


def test_a_relay_stands_ready_also_without_networks_of_its_own() -> None:
    r = node("r", "192.0.2.9")
    objects = [w.object for w in plan(view(through(relay_of(r)), r, profile=ALONE)).wanted.values()]
    hops = {o.via for o in objects if isinstance(o, NextHop)}
    assert hops <= {o.address for o in objects if isinstance(o, Neighbour) and o.mac == r.mac}


def test_over_ipv6_a_relay_is_the_gateway_by_its_link_local_address() -> None:
    me = node("a", "fd00::1", "10.1.0.0/24")
    peer = replace(node("b", "fd00::2", "10.2.0.0/24"), relay=RELAY)
    six = view(peer, me=me, profile=replace(ALONE, underlay=6))
    assert [w.object.via for w in plan(six).wanted.values() if isinstance(w.object, NextHop)] == [link_local(RELAY.mac)]


def test_a_relay_without_an_endpoint_of_the_underlay_is_the_gateway_by_its_link_local_address() -> None:
    objects = [w.object for w in plan(view(through(replace(RELAY, endpoints=())), profile=ALONE)).wanted.values()]
    assert {o.via for o in objects if isinstance(o, NextHop)} == {link_local(RELAY.mac)}


def test_without_next_hop_objects_the_relay_is_the_gateway_of_each_route() -> None:
    host = Host((uplink(),), nexthop_objects=False)
    lines = shown(view(through(RELAY), host=host, profile=ALONE), Route)
    assert lines == [
        f"ip route add 10.2.0.0/24 via 192.0.2.9 dev vxlan4096 onlink proto 76"
        f" metric {metric('10.2.0.0/24')} src 10.1.0.1",
        f"ip -6 route add fd00:2::/64 via {link_local(RELAY.mac)} dev vxlan4096 onlink proto 76"
        f" metric {metric('fd00:2::/64')}",
    ]


def test_the_tunnels_packets_may_go_to_another_address_than_the_endpoint() -> None:
    gone = replace(node("b", "192.0.2.2", "10.2.0.0/24"), outer=ip_address("192.0.2.9"))
    lines = shown(view(gone, profile=ALONE), Fdb, Neighbour, NextHop)
    assert "bridge fdb add 86:dd:f6:c2:3c:41 dev vxlan4096 dst 192.0.2.9 self permanent" in lines
    assert [line for line in lines if "via 192.0.2.2" in line]


def routed(*routes: StaticRoute) -> View:
    return replace(beside(CULVERT), routes=routes)


def test_other_routes_are_this_hosts_own_part() -> None:
    asked = StaticRoute(
        ip_network("172.24.90.1/32"),
        ip_address("192.168.4.1"),
        "eth0",
        "settings",
        "HOST_GATEWAY_MAP 172.24.90.1:192.168.4.1",
    )
    said = plan(routed(asked))
    (want,) = (w for k, w in said.parts[HERE].wanted.items() if k[0] == "route")
    assert script([Op("add", want.object, want.why)]) == [
        f"ip route add 172.24.90.1/32 via 192.168.4.1 dev eth0 proto 76 metric {metric('172.24.90.1/32')}"
    ]
    assert str(want.why) == "HOST_GATEWAY_MAP 172.24.90.1:192.168.4.1 (babka, told by settings)"


def test_a_route_that_was_found_stands_behind_one_to_the_same_place_that_was_asked_for() -> None:
    """By its metric a restart tells it from what the settings asked for then."""
    asked = StaticRoute(ip_network("172.24.90.1/32"), ip_address("192.168.4.1"), "eth0", "settings", "the map")
    found = replace(asked, via=ip_address("192.168.4.6"), source="detection", rule="found")
    said = [w.object for w in plan(routed(found, asked)).wanted.values()]
    there = {str(o.via): o.metric for o in said if isinstance(o, Route) and o.dst == asked.dst}
    assert there == {"192.168.4.1": metric("172.24.90.1/32"), "192.168.4.6": 9648}
    assert FOUND_METRIC == 9648
    assert FOUND_METRIC in REGISTRAR_METRICS
    assert FOUND_METRIC not in range(REGISTRAR_METRICS.start, REGISTRAR_METRICS.start + METRIC_CLASSES)


def test_of_a_route_that_was_asked_for_and_a_nodes_network_the_first_holds() -> None:
    asked = StaticRoute(
        ip_network("10.9.1.0/24"), ip_address("192.168.4.1"), "eth0", "settings", "FLANNEL_ROUTES_EXTRA"
    )
    said = plan(routed(asked))
    key = ("route", ip_address("10.9.1.0").packed, 24, 254, metric("10.9.1.0/24"))
    assert said.wanted[key].why.rule == "FLANNEL_ROUTES_EXTRA"
    assert key in said.contested
    assert plan(routed(), said).wanted[key].why.rule == "network web of node culvert"


PAIR = (ip_network("10.9.0.0/24"), ip_network("10.9.1.0/24"))
ENDS: tuple[IPAddress, IPAddress] = (ip_address("172.24.90.1"), ip_address("172.24.90.6"))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: replace(v, apart=(PAIR,)),
        lambda v: replace(v, diverted=(ENDS,)),
        lambda v: replace(v, host=replace(v.host, refused=((4, "-s 10.9.0.0/24 -j DROP"),))),
        lambda v: replace(v, routes=(StaticRoute(PAIR[1], ENDS[0], "eth0", "settings", "x"),)),
    ],
)
def test_this_hosts_part_is_made_anew_when_what_it_is_made_of_changes(change: Callable[[View], View]) -> None:
    before = plan(beside(CULVERT))
    after = plan(change(beside(CULVERT)), before)
    assert after.parts[HERE] is not before.parts[HERE]
    assert after.parts["culvert"] is before.parts["culvert"]


def test_settings_of_a_device_that_cannot_be_written_are_not_wanted() -> None:
    sealed = view(profile=ALONE, host=replace(view().host, sysctls=False))
    wanted = [w.object for w in plan(sealed).wanted.values()]
    assert [o.path for o in wanted if isinstance(o, Sysctl)] == ["net/ipv4/ip_forward"], "often it is right already"


def test_settings_of_a_device_come_with_it_and_go_with_it() -> None:
    wanted = [w.object for w in plan(view(profile=ALONE)).wanted.values()]
    (link,) = (o for o in wanted if isinstance(o, Link))
    forward, *of_device = (o for o in wanted if isinstance(o, Sysctl))
    assert len(of_device) == 2
    assert all(o.rank > link.rank > forward.rank for o in of_device)
    assert [o.needs for o in (forward, *of_device)] == [(), (link.key,), (link.key,)]


def test_a_path_with_a_dot_in_a_name_is_shown_with_slashes() -> None:
    assert text(Sysctl("net/ipv6/conf/eth0.100/accept_ra", "2")) == "sysctl net/ipv6/conf/eth0.100/accept_ra = 2"
