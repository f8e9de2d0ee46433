"""flannel's leases → Views → plans: golden text for each backend, and what is refused."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

import pytest

from tests.build import CHAINS, node
from weft.agent.flannel import FlannelWorld
from weft.backends import hostgw, vxlan
from weft.backends.tunnel import Tunnel, link_local, spread
from weft.core import flannel
from weft.core.commands import script
from weft.core.flannel import Options
from weft.core.interface import Choice, External
from weft.core.plan import plan
from weft.core.tenancy import Tenancy
from weft.model import DefaultRoute, Host, Mac, Profile, Uplink, View, parse_mac
from weft.objects import Chain, Jump, NextHop, Op, Route
from weft.objects.outside import File, Hook
from weft.objects.wireguard import WireguardDevice
from weft.objects.wireguard import WireguardPeer as WireguardPeerObject
from weft.wire.flannel import (
    AllocBackend,
    Backend,
    Config,
    ExtensionBackend,
    ExtensionData,
    HostGwBackend,
    Lease,
    Pool4,
    Pool6,
    Vtep,
    VxlanBackend,
    WireguardBackend,
    WireguardPeer,
)
from weft.wire.subnet_env import SubnetEnv

POOL4 = Pool4(IPv4Network("10.5.0.0/16"), 24, ip_address("10.5.1.0"), ip_address("10.5.255.0"))  # type: ignore[arg-type]
POOL6 = Pool6(IPv6Network("fc00:5::/48"), 64, ip_address("fc00:5:0:1::"), ip_address("fc00:5:0:ffff::"))  # type: ignore[arg-type]
SPREAD = spread(7600, IPv4Network("10.5.20.0/24"))
MAC_A, MAC_B = parse_mac("02:00:00:00:00:0a"), parse_mac("02:00:00:00:00:0b")
ETH0 = Uplink("eth0", 1500, (ip_interface("192.0.2.1/24"), ip_interface("fd00:99::1/64")), (DefaultRoute(4),))
HOST = Host((ETH0,), chains=CHAINS)
MINE = Lease(
    IPv4Network("10.5.10.0/24"),
    IPv6Network("fc00:5:0:a::/64"),
    ip_address("192.0.2.1"),  # type: ignore[arg-type]
    ip_address("fd00:99::1"),  # type: ignore[arg-type]
    "vxlan",
    Vtep(1, MAC_A),
    Vtep(1, MAC_A),
)
B = Lease(
    IPv4Network("10.5.20.0/24"),
    IPv6Network("fc00:5:0:14::/64"),
    ip_address("192.0.2.2"),  # type: ignore[arg-type]
    ip_address("fd00:99::2"),  # type: ignore[arg-type]
    "vxlan",
    Vtep(1, MAC_B),
    Vtep(1, MAC_B),
)


def v4(lease: Lease, backend: str = "vxlan") -> Lease:
    data = lease.data if backend == "vxlan" else None
    return replace(lease, subnet6=None, public_ip6=None, data6=None, backend=backend, data=data)


def world(backend: Backend, *others: Lease, dual: bool = False, options: Options | None = None) -> FlannelWorld:
    """A host whose lease is there, among these others."""
    config = Config(POOL4, POOL6 if dual else None, backend)
    kind = {HostGwBackend: "host-gw", AllocBackend: ""}.get(type(backend), "vxlan")
    mine = MINE if dual else v4(MINE, kind)
    found = FlannelWorld(
        options or Options("/coreos.com/network", "a"),
        lambda versions: Choice(versions=versions),
        lambda candidate: mine,
        chains=lambda: HOST.chains,
        host=HOST,
        tenancy=Tenancy(config, mine, others, complete=True),
    )
    assert found.candidate() is not None
    return found


def shown(of: FlannelWorld) -> list[str]:
    view = of.view()
    assert view is not None
    wanted = [w for w in plan(view).wanted.values() if not isinstance(w.object, Chain | Jump | File)]
    return script(Op("add", w.object, w.why) for w in sorted(wanted, key=lambda w: w.object.rank))


def rules(of: FlannelWorld) -> dict[str, tuple[str, ...]]:
    view = of.view()
    assert view is not None
    things = [w.object for w in plan(view).wanted.values()]
    return {f"{t.family} {t.table} {t.name}": t.rules for t in things if isinstance(t, Chain)}


def test_vxlan_is_laid_out_as_flannel_does_it_but_for_the_next_hop_object() -> None:
    assert shown(world(VxlanBackend(), v4(B))) == [
        "sysctl -w net.ipv4.ip_forward=1",
        "ip link add flannel.1 address 02:00:00:00:00:0a mtu 1450"
        " type vxlan id 1 dstport 8472 local 192.0.2.1 nolearning",
        "ip link set dev flannel.1 alias weft:flanneld:/coreos.com/network:a up",
        "ip address add 10.5.10.0/32 dev flannel.1",
        "ip neigh add 10.5.20.0 lladdr 02:00:00:00:00:0b dev flannel.1 nud permanent",
        "bridge fdb add 02:00:00:00:00:0b dev flannel.1 dst 192.0.2.2 self permanent",
        "ip nexthop add id 2014463594 via 10.5.20.0 dev flannel.1 onlink proto 76",
        "ip route add 10.5.20.0/24 nhid 2014463594 proto 76 metric 7600",
    ]


def test_without_next_hop_objects_the_route_is_flannels_own() -> None:
    found = world(VxlanBackend(), v4(B))
    found.host = replace(HOST, nexthop_objects=False)
    assert shown(found)[-1].startswith("ip route add 10.5.20.0/24 via 10.5.20.0 dev flannel.1 onlink proto 76 metric ")


def test_dual_stack_is_two_devices_each_over_its_own_family() -> None:
    lines = shown(world(VxlanBackend(mtu=1400), B, dual=True))
    assert [line for line in lines if "link add" in line] == [
        "ip link add flannel.1 address 02:00:00:00:00:0a mtu 1350"
        " type vxlan id 1 dstport 8472 local 192.0.2.1 nolearning",
        "ip link add flannel-v6.1 address 02:00:00:00:00:0a mtu 1330"
        " type vxlan id 1 dstport 8472 local fd00:99::1 nolearning",
    ]
    assert "ip address add fc00:5:0:a::/128 dev flannel-v6.1 nodad" in lines
    assert "ip neigh add fc00:5:0:14:: lladdr 02:00:00:00:00:0b dev flannel-v6.1 nud permanent" in lines
    assert any(line.startswith("ip -6 route add fc00:5:0:14::/64 nhid") for line in lines)


def test_subnet_env_says_what_docker_needs() -> None:
    found = world(VxlanBackend(), B, dual=True, options=Options("/x", masquerade=True, subnet_file="/run/x/subnet.env"))
    view = found.view()
    assert view is not None
    (file,) = (w.object for w in plan(view).wanted.values() if isinstance(w.object, File))
    assert file == File(
        "/run/x/subnet.env",
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.10.1/24\nFLANNEL_IPV6_NETWORK=fc00:5::/48\n"
        "FLANNEL_IPV6_SUBNET=fc00:5:0:a::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n",
    )


def test_direct_routing_takes_the_segment_where_there_is_one() -> None:
    far = replace(v4(B), subnet=IPv4Network("10.5.30.0/24"), public_ip=ip_address("198.51.100.2"), data=Vtep(1, MAC_A))  # type: ignore[arg-type]
    far = replace(far, data=Vtep(1, Mac(b"\x02\0\0\0\0\x0c")))
    found = world(VxlanBackend(direct_routing=True), v4(B), far)
    found.direct = {ip_address("192.0.2.2"): "eth0"}
    routes = [line for line in shown(found) if "route" in line]
    assert routes[0] == f"ip route add 10.5.20.0/24 via 192.0.2.2 dev eth0 proto 76 metric {SPREAD}"
    assert routes[1].startswith("ip route add 10.5.30.0/24 nhid")
    assert found.asked() == {ip_address("192.0.2.2"), ip_address("198.51.100.2")}
    assert found.asked() is found.asked()
    assert found.view() is not None
    assert not found.view().synced, "who is near was not answered yet"  # type: ignore[union-attr]
    found.answered = frozenset(found.asked())
    assert found.view().synced  # type: ignore[union-attr]


def test_flannels_own_route_to_a_lease_is_known() -> None:
    found = world(HostGwBackend(), v4(B, "host-gw"))
    assert found.is_lease(IPv4Network("10.5.20.0/24"), ip_address("192.0.2.2"))
    assert not found.is_lease(IPv4Network("10.5.20.0/24"), ip_address("192.0.2.3"))


@pytest.mark.parametrize("backend", [ExtensionBackend(), AllocBackend(), VxlanBackend(), WireguardBackend()])
def test_a_route_like_host_gws_is_nobodys_but_who_made_it_where_the_backend_makes_none(backend: Backend) -> None:
    """An extension's script makes the very same."""
    found = world(AllocBackend())
    found.tenancy = Tenancy(Config(POOL4, None, backend), v4(MINE), (v4(B),), complete=True)
    assert not found.is_lease(IPv4Network("10.5.20.0/24"), ip_address("192.0.2.2"))


def test_host_gw_has_routes_alone_and_refuses_who_is_not_on_a_segment() -> None:
    far = replace(v4(B, "host-gw"), subnet=IPv4Network("10.5.30.0/24"), public_ip=ip_address("198.51.100.2"))  # type: ignore[arg-type]
    found = world(HostGwBackend(), v4(B, "host-gw"), far)
    found.direct = {ip_address("192.0.2.2"): "eth0"}
    assert shown(found) == [
        "sysctl -w net.ipv4.ip_forward=1",
        f"ip route add 10.5.20.0/24 via 192.0.2.2 dev eth0 proto 76 metric {SPREAD}",
    ]
    assert not list(found.problems()), "nobody is called far as long as the kernel was not asked"
    found.answered = found.asked()
    assert [p.message for p in found.problems()] == [
        "lease 10.5.30.0/24 is not routed to: 198.51.100.2 is not on a segment of this host's; host-gw needs that,"
        " vxlan does not"
    ]
    assert found.devices() == {}
    assert found.labels() == {"flannel-9b79f732", "flannel-9b79f732-6"}


def test_routes_into_the_network_of_a_former_run_are_this_daemons_too() -> None:
    found = world(HostGwBackend())
    assert found.spans() == (POOL4.network,)
    found.previous = SubnetEnv(network=POOL4.network)
    assert found.spans() == (POOL4.network,)
    found.previous = SubnetEnv(network=IPv4Network("10.6.0.0/16"), network6=POOL6.network)
    assert found.spans() == (POOL4.network, IPv4Network("10.6.0.0/16"), POOL6.network)


def test_alloc_leases_and_writes_the_file_and_no_more() -> None:
    found = world(AllocBackend(), replace(v4(B, ""), backend=""))
    assert shown(found) == ["sysctl -w net.ipv4.ip_forward=1"]
    assert found.asked() == frozenset()


def test_a_lease_of_another_backend_is_named_and_left_out() -> None:
    found = world(VxlanBackend(), v4(B, "host-gw"))
    assert not any("10.5.20.0" in line for line in shown(found))
    assert [p.message for p in found.problems()] == [
        "lease 10.5.20.0/24 is not routed to: its backend is host-gw, this host's is vxlan"
    ]


def test_a_lease_outside_the_network_is_refused() -> None:
    found = world(VxlanBackend(), replace(v4(B), subnet=IPv4Network("10.77.0.0/24")))
    assert not any("10.77" in line for line in shown(found))
    (problem,) = found.problems()
    assert "outside the allowed networks" in problem.message


def test_what_a_registrar_adds_for_a_hosts_docker_networks_is_the_same_host() -> None:
    added = replace(v4(B), subnet=IPv4Network("10.5.15.0/24"), created=9)
    found = world(VxlanBackend(), added, replace(v4(B), created=5))
    assert shown(found)[4:] == [
        "ip neigh add 10.5.20.0 lladdr 02:00:00:00:00:0b dev flannel.1 nud permanent",
        "ip neigh add 10.5.15.0 lladdr 02:00:00:00:00:0b dev flannel.1 nud permanent",
        "bridge fdb add 02:00:00:00:00:0b dev flannel.1 dst 192.0.2.2 self permanent",
        "ip nexthop add id 2014463594 via 10.5.20.0 dev flannel.1 onlink proto 76",
        "ip route add 10.5.20.0/24 nhid 2014463594 proto 76 metric 7600",
        "ip route add 10.5.15.0/24 nhid 2014463594 proto 76 metric 7600",
    ]
    assert not list(found.problems())
    assert found.peers is not None
    assert [node.id for node in found.peers.items] == ["10.5.20.0/24"]


def test_of_such_entries_one_outside_the_network_leaves_nothing_behind() -> None:
    added = replace(v4(B), subnet=IPv4Network("10.77.0.0/24"), created=9)
    found = world(VxlanBackend(), added, replace(v4(B), created=5))
    assert not any("10.77" in line for line in shown(found))
    assert [problem.subject for problem in found.problems()] == ["10.5.20.0/24"]


def test_the_span_is_let_through_and_masqueraded_when_that_is_asked_for() -> None:
    of = rules(world(VxlanBackend(), v4(B), options=Options("/x", masquerade=True)))
    assert of["4 filter WEFT-flannel.1-FWD"] == ("-s 10.5.0.0/16 -j ACCEPT", "-d 10.5.0.0/16 -j ACCEPT")
    assert of["4 nat WEFT-flannel.1-NAT"] == (
        "-s 10.5.0.0/16 -d 10.5.0.0/16 -j ACCEPT",
        "-s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
        "! -s 10.5.0.0/16 -d 10.5.10.0/24 -j RETURN",
        "! -s 10.5.0.0/16 -d 10.5.0.0/16 -j MASQUERADE --random-fully",
    )


def test_what_an_administrator_refuses_stands_before_what_passes() -> None:
    found = world(VxlanBackend(), v4(B))
    found.refused = lambda: ((4, "-s 10.5.10.0/24 -d 10.5.20.0/24 -j DROP"),)
    of = rules(found)
    assert of["4 filter WEFT-flannel.1-ADM"] == ("-s 10.5.10.0/24 -d 10.5.20.0/24 -j DROP",)
    assert of["4 filter WEFT-flannel.1-FWD"][0] == "-s 10.5.0.0/16 -j WEFT-flannel.1-ADM"


def test_without_forward_rules_and_masquerading_little_is_left() -> None:
    of = rules(world(VxlanBackend(), v4(B), options=Options("/x", forward=False)))
    assert "4 filter WEFT-flannel.1-FWD" not in of
    assert of["4 nat WEFT-flannel.1-NAT"] == ("-s 10.5.0.0/16 -d 10.5.0.0/16 -j ACCEPT",)


def test_masquerading_makes_its_own_nat_chain_where_nobody_has_one() -> None:
    found = world(VxlanBackend(), v4(B), options=Options("/x", masquerade=True))
    found.chains = lambda: frozenset({(4, "filter", "FORWARD"), (4, "mangle", "FORWARD")})
    assert "4 nat WEFT-flannel.1-NAT" in rules(found)
    found.chains = frozenset  # no firewall tool here
    assert rules(found) == {}


def test_the_lease_that_etcd_has_gives_the_mac_else_it_follows_from_the_address() -> None:
    found = world(VxlanBackend(mac_prefix="0e-2a"), v4(B))
    assert found.macs == {4: MAC_A}
    found = world(VxlanBackend(mac_prefix="0e-2a"), v4(B))
    found.macs = {}
    found.published = lambda candidate: None
    candidate = found.candidate()
    assert candidate is not None
    assert isinstance(candidate.data, Vtep)
    assert candidate.data.mac[:2] == b"\x0e\x2a"
    assert found.candidate() == candidate
    found.macs = {}
    found.published = lambda candidate: replace(MINE, data=Vtep(1, Mac(bytes(6))))
    assert found.candidate() == candidate, "a MAC of zeros is nobody's"


def test_nothing_is_planned_before_this_host_has_a_lease() -> None:
    found = world(VxlanBackend())
    assert found.tenancy is not None
    found.tenancy = replace(found.tenancy, mine=None)
    assert found.view() is None
    assert found.waiting() == ["lease"]
    assert (found.name, found.engine) == ("", None)
    found.tenancy = Tenancy()
    assert found.view() is None
    assert found.candidate() is None
    assert found.waiting() == ["leases", "config", "lease"]
    assert (found.device, found.peers, found.spans()) == ("", None, ())
    assert (found.labels(), found.asked()) == (frozenset(), frozenset())
    found.host = None
    assert found.waiting()[0] == "host"


def test_an_interface_that_is_not_there_is_a_problem_until_it_is() -> None:
    found = world(VxlanBackend(), v4(B))
    found.host = Host()
    assert found.view() is None
    assert next(found.problems()).message.startswith("no default route, so no uplink could be chosen")
    found.host = HOST
    assert found.view() is not None
    assert list(found.problems()) == []


def test_a_host_without_ipv6_goes_on_with_ipv4() -> None:
    found = world(VxlanBackend(), B, dual=True)
    found.host = replace(HOST, ipv6=False)
    view = found.view()
    assert view is not None
    assert view.beside == ()
    assert [p.subject for p in found.problems()] == ["ipv6"]


def test_ipv6_that_new_devices_would_not_have_takes_nothing_away_that_stands() -> None:
    found = world(VxlanBackend(), B, dual=True)
    before = viewed(found)
    found.host = replace(HOST, ipv6=False)
    after = viewed(found)
    assert [view.nodes for view in after.beside] == [view.nodes for view in before.beside]
    assert list(found.problems()) == []


def test_what_is_shown_of_it() -> None:
    found = world(VxlanBackend(), v4(B))
    assert (found.name, found.device) == ("10.5.10.0/24", "flannel.1")
    assert found.peers is not None
    assert [node.id for node in found.peers.items] == ["10.5.20.0/24"]
    assert found.engine is not None
    assert found.engine.items[0].subnets == (IPv4Network("10.5.10.0/24"),)
    assert (found.last_seen(), found.counters()) == ({}, {})
    assert found.devices() == {"flannel.1": MAC_A}
    assert found.spans() == (ip_network("10.5.0.0/16"),)


def test_an_equal_lease_keeps_its_node() -> None:
    found = world(VxlanBackend(), v4(B))
    one = found.view()
    two = found.view()
    assert one is not None
    assert two is not None
    assert one.nodes[0] is two.nodes[0]


def test_a_lease_without_a_part_in_the_overlay_is_no_node() -> None:
    config = Config(POOL4, POOL6, VxlanBackend())
    assert flannel.node(v4(B), config, (6,)) is None
    assert flannel.node(replace(B, public_ip=None), config, (4,)) is None
    home = flannel.Home(External("eth0", 1500, ip_address("192.0.2.1")), v4(MINE), {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no IPv6 address or lease"):
        flannel.me(config, home, (6,))


def test_the_mtu_of_wireguard_is_not_vxlans() -> None:
    external = External("eth0", 1500)
    assert flannel.mtu(Config(POOL4, None, HostGwBackend()), external) == 1500
    assert flannel.mtu(Config(POOL4, None, WireguardBackend()), external) == 1420


KEY_A, KEY_B = (b64encode(letter * 32).decode() for letter in (b"a", b"b"))


def test_wireguard_is_a_peer_and_a_route_and_in_one_device_where_its_mode_says_so() -> None:
    theirs = replace(B, backend="wireguard", data=WireguardPeer(KEY_B, 51820), data6=None)
    found = world(VxlanBackend(), theirs, dual=True)
    assert found.tenancy is not None
    config = Config(POOL4, POOL6, WireguardBackend(mode="auto"))
    found.tenancy = replace(found.tenancy, config=config)
    assert found.candidate() is None, "the key is not known yet"
    assert found.waiting() == ["backend"]
    found.prepared = WireguardPeer(KEY_A)
    candidate = found.candidate()
    assert candidate is not None
    assert candidate.data == candidate.data6 == WireguardPeer(KEY_A, 51820)
    things = [w.object for w in plan(viewed(found)).wanted.values()]
    (device,) = (thing for thing in things if isinstance(thing, WireguardDevice))
    assert (device.name, device.public_key, device.mtu) == ("flannel-wg", KEY_A, 1420)
    (peer,) = (thing for thing in things if isinstance(thing, WireguardPeerObject))
    assert (peer.public_key, peer.endpoint) == (KEY_B, (ip_address("192.0.2.2"), 51820))
    routes = {str(thing.dst): thing.dev for thing in things if isinstance(thing, Route)}
    assert routes == {"10.5.20.0/24": "flannel-wg", "fc00:5:0:14::/64": "flannel-wg"}
    assert flannel.overlays(replace(config, backend=WireguardBackend(mode="ipv6"))) == ((6, 4),)
    assert flannel.overlays(replace(config, backend=WireguardBackend())) == ((4,), (6,))


def test_a_lease_without_a_wireguard_key_and_a_host_without_one() -> None:
    found = world(VxlanBackend(), replace(v4(B), backend="wireguard", data=None))
    assert found.tenancy is not None
    found.tenancy = replace(found.tenancy, config=Config(POOL4, None, WireguardBackend()))
    found.prepared = WireguardPeer(KEY_A)
    assert viewed(found).nodes == ()
    assert "it tells no WireGuard public key" in next(found.problems()).message
    with pytest.raises(ValueError, match="this host has no WireGuard key"):
        plan(replace(viewed(found), profile=Profile()))


def test_an_extension_is_told_of_each_lease_with_what_its_host_published() -> None:
    theirs = replace(B, backend="extension", data=ExtensionData("hello"), data6=None)
    found = world(VxlanBackend(), theirs, dual=True)
    assert found.tenancy is not None
    found.tenancy = replace(found.tenancy, config=Config(POOL4, POOL6, ExtensionBackend()))
    found.prepared = ExtensionData("")
    assert found.candidate() is not None
    hooks = [w.object for w in plan(viewed(found)).wanted.values() if isinstance(w.object, Hook)]
    assert hooks == [Hook(B.subnet, B.subnet6, B.public_ip, B.public_ip6, "hello")]


def test_a_subnet_without_an_endpoint_or_a_gateway_of_its_family() -> None:
    lonely = replace(node("b", "192.0.2.2", "10.2.0.0/24", "fd00:2::/64"), direct="eth0")
    tunnel = Tunnel("flannel.1", 4, 1500, 7600, (), True, "overlay")
    routes = [thing for thing, _ in hostgw.reach(lonely, tunnel, 1) if isinstance(thing, Route)]
    assert [str(route.dst) for route in routes] == ["10.2.0.0/24"]
    gateways = [t.via for t, _ in vxlan.reach(replace(lonely, direct=""), tunnel, 1) if isinstance(t, NextHop)]
    assert gateways == [ip_address("192.0.2.2"), link_local(lonely.mac)], "as without an overlay address"


def test_what_lies_in_a_network() -> None:
    span = ip_network("10.5.0.0/16")
    assert flannel.inside(ip_network("10.5.20.0/24"), span)
    assert flannel.inside(span, span)
    assert not flannel.inside(ip_network("10.6.0.0/24"), span)
    assert not flannel.inside(ip_network("10.0.0.0/8"), span)
    assert not flannel.inside(ip_network("fc00::/64"), span)


def viewed(of: FlannelWorld) -> View:
    view = of.view()
    assert view is not None
    return view
