"""The registry and flannel's leases → who takes part, and this host's Views."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Any

from tests import build
from weft.backends.lease import LEASE
from weft.core import registrar
from weft.core import scene as scenes
from weft.core.plan import plan
from weft.core.registrar import Options, Party
from weft.core.registry import Registered, Registry
from weft.core.scene import Scene
from weft.core.sight import Chart, Course
from weft.model import DefaultRoute, Host, IPAddress, Network, Relay, Uplink, View, Way, parse_mac
from weft.objects import Route
from weft.wire.flannel import ExtensionData, Lease, Vtep
from weft.wire.flannel_config import parse_config
from weft.wire.registrar import Note, Status

A, B, C = (ip_address(f"192.0.2.{n}") for n in (1, 2, 3))
ETCD = ip_address("192.0.2.9")


def lease(subnet: str, owner: IPAddress, created: int = 1, **more: Any) -> Lease:
    assert isinstance(owner, IPv4Address)
    vtep = Vtep(1, parse_mac(f"02:00:00:00:00:{int(owner) & 0xFF:02x}"))
    values: dict[str, Any] = {"backend": "vxlan", "data": vtep, **more}
    return Lease(build.net4(subnet), public_ip=owner, created=created, **values)


def dual(subnet: str, subnet6: str, owner: IPAddress) -> Lease:
    base = lease(subnet, owner)
    return Lease(
        base.subnet, build.net6(subnet6), base.public_ip, IPv6Address("fd00::1"), "vxlan", base.data, base.data
    )


def host(name: str, address: IPAddress | None, *networks: Network, note: Note | None = None) -> Registered:
    status = Status(name, public_ip=address) if address is not None else None
    return Registered(name, networks, status, note)


def note(address: IPAddress, **more: Any) -> Note:
    mac = parse_mac(f"06:00:00:00:00:{int(address) & 0xFF:02x}")
    values: dict[str, Any] = {"mac": mac, "vni": 7600, "port": 8472, "mtu": 1500, **more}
    return Note(endpoints=(address,), **values)


def here(address: str = "192.0.2.1/24", *more: Uplink) -> Host:
    return Host((Uplink("eth0", 1500, (ip_interface(address),), (DefaultRoute(4),)), *more))


def scene(
    registry: Registry,
    *own: Network,
    courses: dict[str, Course] | None = None,
    options: Options | None = None,
) -> Scene:
    options = options or Options("a")
    home = registrar.home(options, A, own, here(), registry)
    cast = registrar.cast(registry, "a", A)
    nodes = tuple(registrar.node(party) for _, party in sorted(cast.parties.items()))
    return Scene(options, home, cast, nodes, own, courses or {})


def views(*arguments: Any, **more: Any) -> list[View]:
    return scenes.views(scene(*arguments, **more))


# ---- this host's address ----


def test_the_address_that_reaches_etcd() -> None:
    ways = {ETCD: Way("eth0", source=A)}
    assert registrar.public_address(None, here(), (ETCD,), ways, ()) == A
    assert registrar.public_address(C, here(), (ETCD,), ways, ()) == C


def test_etcd_on_this_very_host() -> None:
    assert registrar.public_address(None, here(), (A,), {}, ()) == A


def test_without_a_way_to_etcd_flannels_own_word_then_the_default_route() -> None:
    other = Uplink("eth1", 1500, (ip_interface("198.51.100.1/24"),))
    assert registrar.public_address(None, here("192.0.2.1/24", other), (ETCD,), {}, ()) == A
    leased = lease("10.5.1.0/24", ip_address("198.51.100.1"))
    assert registrar.public_address(None, here("192.0.2.1/24", other), (), {}, (leased,)) == other.addresses[0].ip


def test_no_default_route_is_no_fault() -> None:
    """flannel-registrar stopped there."""
    only = Host((Uplink("eth0", 1500, (ip_interface("192.0.2.1/24"),)),))
    loopback = {ETCD: Way("lo", source=ip_address("127.0.0.1"))}
    assert registrar.public_address(None, only, (ETCD,), {ETCD: Way("eth0", source=A)}, ()) == A
    assert registrar.public_address(None, only, (ETCD,), loopback, ()) is None
    assert registrar.public_address(None, only, (ETCD,), {ETCD: Way("eth0")}, ()) is None


def test_behind_nat_the_uplink_is_that_of_the_default_route() -> None:
    found = registrar.uplink_of(ip_address("203.0.113.7"), here())
    assert found is not None
    assert found.name == "eth0"
    assert registrar.uplink_of(ip_address("2001:db8::1"), here()) is None


# ---- who takes part ----


def test_hosts_with_and_without_flannel() -> None:
    web = build.network("web", "10.9.2.0/24")
    registry = Registry(
        hosts=(host("a", A), host("b", B, web, note=note(B)), host("c", C, note=note(C, mac=None))),
        leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B)),
    )
    cast = registrar.cast(registry, "a", A)
    assert sorted(cast.parties) == ["b", "c"]
    assert cast.parties["b"].lease == registry.leases[1]
    assert cast.parties["c"].lease is None
    assert cast.parties["c"].mac == registrar.NO_MAC


def test_a_host_that_runs_flannel_alone_takes_part_by_its_lease() -> None:
    registry = Registry(leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B), lease("10.5.3.0/24", B, 2)))
    cast = registrar.cast(registry, "a", A)
    (party,) = cast.parties.values()
    assert (party.id, party.lease, party.registered) == (f"flannel host {B}", registry.leases[1], False)


def test_leases_that_lead_nowhere_through_a_vxlan_device() -> None:
    others = (
        lease("10.5.2.0/24", B, backend="host-gw", data=None),
        lease("10.5.3.0/24", C, data=ExtensionData("x")),
        Lease(build.net4("10.5.4.0/24")),
    )
    assert registrar.cast(Registry(leases=others), "a", A).parties == {}


def test_an_entry_for_a_docker_network_is_not_the_lease() -> None:
    """Older registrars wrote them without an etcd lease of their own."""
    web = build.network("web", "10.5.2.0/24")
    registry = Registry(
        hosts=(host("b", B, web),), leases=(lease("10.5.2.0/24", B, created=1), lease("10.5.7.0/24", B, created=9))
    )
    assert registrar.cast(registry, "a", A).parties["b"].lease == registry.leases[1]


def test_a_docker_network_that_is_made_of_the_lease() -> None:
    web = build.network("flannel", "10.5.2.0/24")
    registry = Registry(hosts=(host("b", B, web),), leases=(lease("10.5.2.0/24", B),))
    assert registrar.cast(registry, "a", A).parties["b"].lease == registry.leases[0]


def test_who_tells_no_address_or_no_way_is_named() -> None:
    web = build.network("web", "10.9.2.0/24")
    registry = Registry(hosts=(host("old", None, web), host("lost", B, web), host("new", None, web, note=note(C))))
    cast = registrar.cast(registry, "a", A)
    assert list(cast.parties) == ["new"]
    assert [p.subject for p in cast.problems] == ["old", "lost"]
    assert "not its public address" in cast.problems[0].message
    assert "start flannel on it" in cast.problems[1].message


# ---- own networks ----


def test_a_network_that_overlaps_the_underlay_is_told_to_nobody() -> None:
    bad = Network("bad", (ip_network("192.0.2.0/25"),), bridge="br-bad")
    good = Network("good", (ip_network("10.9.1.0/24"),), bridge="br-good")
    private = Network("private", (ip_network("192.0.2.0/24"),), exposed=False)
    uplinks = (*here().uplinks, Uplink("br-good", 1500, (ip_interface("10.9.1.1/24"),)))
    found = list(registrar.without_own((bad, good, private), uplinks))
    assert found == [(bad, "192.0.2.0/25 overlaps 192.0.2.0/24 on eth0, this host's underlay")]


def test_of_a_static_network_the_bridge_is_known_by_its_subnet() -> None:
    static = Network("web", (ip_network("10.9.1.0/24"),))
    bridge = Uplink("br0", 1500, (ip_interface("10.9.1.1/24"),))
    wider = Uplink("br0", 1500, (ip_interface("10.9.0.1/16"),))
    assert list(registrar.without_own((static,), (bridge,))) == []
    assert [n for n, _ in registrar.without_own((static,), (wider,))] == [static]


# ---- Views ----


def test_beside_flannel() -> None:
    web, more = build.network("web", "10.9.2.0/24"), build.network("more", "10.9.1.0/24")
    registry = Registry(
        hosts=(host("b", B, web, note=note(B, mtu=1400)),),
        leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B)),
    )
    (view,) = views(registry, more)
    assert view.profile.device == "flannel.1"
    assert view.profile.shared
    assert view.me.overlay == (ip_address("10.5.1.0"),)
    (b,) = view.nodes
    assert b.backend == "lease"
    assert b.overlay == (ip_address("10.5.2.0"),)
    assert [n.name for n in b.networks] == ["web", LEASE]
    (path,) = scenes.paths(scene(registry, more))
    assert (path.device, str(path.local), str(path.remote), path.mtu) == ("flannel.1", "10.5.1.0", "10.5.2.0", 1350)


def test_without_flannel_on_wefts_own_device() -> None:
    web = build.network("web", "10.9.2.0/24")
    registry = Registry(hosts=(host("b", B, web, note=note(B)),))
    (view,) = views(registry, build.network("more", "10.9.1.0/24"))
    assert (view.profile.device, view.profile.shared, view.me.vni, view.me.backend) == (
        "vxlan7600",
        False,
        7600,
        "vxlan",
    )
    (b,) = view.nodes
    assert (b.backend, b.mac, b.port) == ("vxlan", note(B).mac, 8472)
    (path,) = scenes.paths(scene(registry))
    assert (path.device, path.local, path.remote) == ("vxlan7600", A, B)


def test_a_mixed_cluster_has_both_devices() -> None:
    web, shop = build.network("web", "10.9.2.0/24"), build.network("shop", "10.9.3.0/24")
    registry = Registry(
        hosts=(host("b", B, web, note=note(B)), host("c", C, shop, note=note(C))),
        leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B)),
    )
    flannel, own = views(registry)
    assert [n.id for n in flannel.nodes] == ["b"]
    assert [n.id for n in own.nodes] == ["c"]


def test_ipv6_goes_by_flannels_other_device() -> None:
    web = build.network("web", "10.9.2.0/24", "fd00:9:2::/64")
    six_only = build.network("six", "fd00:9:3::/64")
    registry = Registry(
        hosts=(host("b", B, web, six_only, note=note(B)),),
        leases=(dual("10.5.1.0/24", "fd00:5:1::/64", A), dual("10.5.2.0/24", "fd00:5:2::/64", B)),
    )
    four, six = views(registry)
    assert (four.profile.device, six.profile.device) == ("flannel.1", "flannel-v6.1")
    assert [str(s) for n in four.nodes[0].networks for s in n.subnets] == ["10.9.2.0/24", "10.5.2.0/24"]
    assert [str(s) for n in six.nodes[0].networks for s in n.subnets] == [
        "fd00:9:2::/64",
        "fd00:9:3::/64",
        "fd00:5:2::/64",
    ]
    assert six.nodes[0].overlay == (ip_address("fd00:5:2::"),)


def test_where_flannel_needs_no_tunnel() -> None:
    """DirectRouting: it keeps no entries for such hosts on its device."""
    registry = Registry(
        hosts=(
            host("b", B, build.network("web", "10.9.2.0/24"), note=note(B)),
            host("c", C, build.network("one", "10.9.3.7/32"), note=note(C)),
        ),
        leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B), lease("10.5.3.0/24", C)),
    )
    near = replace(scene(registry, courses={"c": Course("relay", "b reaches it", "b")}), direct={B: "eth0"})
    (view,) = scenes.views(near)
    b, c = view.nodes
    assert (b.direct, c.direct) == ("eth0", "")
    assert c.relay is not None
    assert c.relay.direct == "eth0"
    paths = {p.node: p for p in scenes.paths(near)}
    assert (paths["b"].device, paths["b"].mtu, paths["c"].device, paths["c"].mtu) == ("", 1500, "flannel.1", 1450)
    routes = {
        str(w.object.dst): (w.object.via, w.object.dev)
        for w in plan(view).wanted.values()
        if isinstance(w.object, Route)
    }
    assert routes["10.9.2.0/24"] == routes["10.5.2.0/32"] == (B, "eth0")
    assert routes["10.5.3.0/25"] == (B, "eth0")
    assert routes["10.5.3.0/32"] == (ip_address("10.5.3.0"), "flannel.1")


def test_over_ipv6_the_tunnel_is_probed_at_link_local_addresses() -> None:
    six = ip_address("2001:db8::2")
    registry = Registry(hosts=(host("b", six, note=note(six)),))
    home = registrar.home(Options("a"), ip_address("2001:db8::1"), (), Host(), registry)
    played = replace(scene(registry), home=home)
    (path,) = scenes.paths(played)
    assert path.local.is_link_local
    assert path.remote.is_link_local


def test_who_runs_nothing_of_weft_is_not_probed() -> None:
    registry = Registry(
        hosts=(host("b", B),), leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B), lease("10.5.3.0/24", C))
    )
    assert list(scenes.paths(scene(registry))) == []


def test_a_lease_of_another_ip_version_has_no_path() -> None:
    six = Lease(None, build.net6("fd00:5:2::/64"), public_ip6=None, public_ip=IPv4Address(str(B)), backend="vxlan")
    six = Lease(None, six.subnet6, six.public_ip, None, "vxlan", None, Vtep(1, parse_mac("02:00:00:00:00:02")))
    registry = Registry(hosts=(host("b", B, note=note(B)),), leases=(lease("10.5.1.0/24", A), six))
    assert list(scenes.paths(scene(registry))) == []
    assert scenes.device_of(Lease(build.net4("10.5.1.0/24")), 4) == "flannel.1"


def test_courses_beside_flannel() -> None:
    registry = Registry(
        hosts=(host("b", B, note=note(B)), host("c", C, note=note(C))),
        leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B), lease("10.5.3.0/24", C)),
    )
    courses = {"c": Course("relay", "b reaches it", "b"), "b": Course("direct", "directly")}
    (view,) = views(registry, courses=courses)
    b, c = view.nodes
    assert b.relay is None
    assert c.relay == Relay("b", (B,), parse_mac("02:00:00:00:00:02"), (ip_address("10.5.2.0"),))


def test_through_a_relay_the_host_itself_speaks_from_among_its_containers() -> None:
    """Its flannel device's address is answered by the direct way."""
    registry = Registry(
        hosts=(host("b", B, note=note(B)), host("c", C, build.network("web", "10.9.3.0/24"), note=note(C))),
        leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B), lease("10.5.3.0/24", C)),
    )
    docker0 = Uplink("docker0", 1450, (ip_interface("10.5.1.1/24"),))
    flannel = Uplink("flannel.1", 1450, (ip_interface("10.5.1.0/32"),))
    home = registrar.home(Options("a"), A, (), here("192.0.2.1/24", flannel, docker0), registry)
    courses = {"c": Course("relay", "b reaches it", "b")}
    (view,) = scenes.views(replace(scene(registry, courses=courses), home=home))
    wanted = (want.object for want in plan(view).wanted.values())
    sources = {str(one.dst): one.src for one in wanted if isinstance(one, Route)}
    assert sources["10.9.3.0/24"] == sources["10.5.3.0/25"] == ip_address("10.5.1.1")
    assert sources["10.5.3.0/32"] is sources["10.5.2.0/32"] is None


def test_courses_on_wefts_own_device() -> None:
    registry = Registry(hosts=(host("b", B, note=note(B)), host("c", C, note=note(C))))
    courses = {"c": Course("relay", "b reaches it", "b"), "b": Course("fdb", "map", gateway=ETCD)}
    (view,) = views(registry, courses=courses)
    b, c = view.nodes
    assert b.outer == ETCD
    assert c.relay is not None
    assert c.relay.mac == note(B).mac
    assert c.outer is None


def test_a_relay_on_the_other_device_is_none() -> None:
    registry = Registry(
        hosts=(host("b", B, note=note(B)), host("c", C, note=note(C))),
        leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B)),
    )
    _, own = views(registry, courses={"c": Course("relay", "b reaches it", "b")})
    assert own.nodes[0].relay is None


def test_wefts_own_device_always_has_an_address() -> None:
    """One without drops everything where rp_filter is on."""
    (bare,) = views(Registry())
    assert bare.me.overlay == (A,)
    web = build.network("web", "10.9.1.0/24")
    bridge = Uplink("br-web", 1500, (ip_interface("10.9.1.1/24"),))
    home = registrar.home(Options("a"), A, (web,), here("192.0.2.1/24", bridge), Registry())
    assert home.overlay == (ip_address("10.9.1.1"),)


def test_the_tunnels_mtu_may_be_set() -> None:
    (view,) = views(Registry(), options=Options("a", mtu=1300))
    assert view.me.mtu == 1350
    home = registrar.home(Options("a"), ip_address("2001:db8::1"), (), Host(), Registry())
    assert home.party.mtu == 1500


def test_what_flannels_config_says_of_its_device_holds_for_the_probes() -> None:
    """Else every full-sized probe would be a fault."""
    config = parse_config(b'{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "MTU": 1400, "Port": 4789}}')
    both = (lease("10.5.1.0/24", A), lease("10.5.2.0/24", B))
    registry = Registry(hosts=(host("b", B, note=note(B)),), leases=both, config=config)
    (path,) = scenes.paths(scene(registry))
    assert path.mtu == 1350
    (view,) = views(registry)
    assert (view.me.mtu, view.me.port) == (1400, 4789)
    alone = registrar.home(Options("a"), A, (), here(), replace(registry, leases=()))
    assert (alone.party.mtu, alone.port) == (1500, 8472), "weft's own device is not flannel's"


def test_a_relay_behind_the_other_device_is_told_and_not_taken() -> None:
    registry = Registry(
        hosts=(host("b", B, note=note(B)), host("c", C, note=note(C))),
        leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B)),
    )
    mixed = scene(registry)
    relayed = Chart({"b": Course("relay", "c reaches it", "c"), "c": Course("direct", "directly")})
    found = scenes.passable(mixed, relayed)
    assert (found.courses["b"].kind, found.courses["c"].kind) == ("none", "direct")
    (problem,) = found.problems
    assert "b is behind flannel's device, its relay c behind weft's own" in problem.message
    (other,) = scenes.passable(mixed, Chart({"c": Course("relay", "", "b")})).problems
    assert "c is behind weft's own, its relay b behind flannel's device" in other.message
    alike = scene(replace(registry, leases=()))
    assert scenes.passable(alike, relayed) is relayed


# ---- isolation ----


def test_groups_by_label_and_by_setting() -> None:
    own = Network("shop", (ip_network("10.9.1.0/24"),), group="shop")
    free = Network("free", (ip_network("10.9.5.0/24"),))
    same = Network("shop", (ip_network("10.9.2.0/24"),), group="shop")
    other = Network("lab", (ip_network("10.9.3.0/24"), ip_network("fd00:3::/64")))
    registry = Registry(hosts=(host("b", B, same, other, note=note(B)),))
    options = Options("a", groups=(("lab", (ip_network("10.9.3.0/24"), ip_network("fd00:3::/64"))),))
    (view,) = views(registry, own, free, options=options)
    assert view.apart == ((ip_network("10.9.1.0/24"), ip_network("10.9.3.0/24")),)


def test_two_groups_on_one_host() -> None:
    one = Network("one", (ip_network("10.9.1.0/24"),), group="one")
    two = Network("two", (ip_network("10.9.2.0/24"),), group="two")
    (view,) = views(Registry(), one, two)
    assert view.apart == ((ip_network("10.9.1.0/24"), ip_network("10.9.2.0/24")),)


# ---- for the ladder ----


def test_the_entries_that_flannels_device_must_hold() -> None:
    six = Lease(
        None,
        build.net6("fd00:5:3::/64"),
        IPv4Address(str(C)),
        None,
        "vxlan",
        None,
        Vtep(1, parse_mac("02:00:00:00:00:03")),
    )
    registry = Registry(
        hosts=(host("b", B, note=note(B)), host("c", C, note=note(C))),
        leases=(lease("10.5.1.0/24", A), lease("10.5.2.0/24", B), six),
    )
    wanted = scenes.leased_entries(scene(registry), frozenset("b"))
    vtep = parse_mac("02:00:00:00:00:02")
    assert (wanted.device, wanted.fdb, wanted.neighbours) == ("flannel.1", {vtep: B}, {ip_address("10.5.2.0"): vtep})
    assert wanted.routes == {ip_network("10.5.2.0/24"): ip_address("10.5.2.0")}
    assert wanted.lost == {B}


def test_on_wefts_own_device_the_loop_itself_holds_the_entries() -> None:
    wanted = scenes.leased_entries(scene(Registry(hosts=(host("b", B, note=note(B)),))), frozenset())
    assert (wanted.device, wanted.fdb) == ("vxlan7600", {})


# ---- for the topology ----


def test_places() -> None:
    registry = Registry(
        hosts=(host("b", B, note=note(B, reaches=("a",), misses=("c",), via=(("c", "b"),))), host("c", C)),
        leases=(lease("10.5.3.0/24", C),),
    )
    cast = registrar.cast(registry, "a", A)
    b, c = (scenes.place(registrar.node(cast.parties[name]), cast.parties[name]) for name in "bc")
    assert (b.carries, b.reaches, b.misses) == ("all", frozenset("a"), frozenset("c"))
    assert b.via == {"c": "b"}
    assert (c.carries, c.reaches, c.segments) == ("flannel", None, ())
    nobody = Party("x", C)
    assert scenes.place(registrar.node(nobody), nobody).carries == "none"


def test_this_hosts_own_segments() -> None:
    single = Uplink("lo0", 1500, (ip_interface("203.0.113.1/32"), ip_interface("fe80::1/64")))
    bridge = Uplink("br-web", 1500, (ip_interface("10.9.1.1/24"),))
    web = build.network("web", "10.9.1.0/24")
    place = scenes.own_place(Party("a", A), here("192.0.2.1/24", single, bridge), (web,))
    assert place.segments == (ip_interface("192.0.2.1/24"),)


def test_the_underlay_is_probed_at_the_endpoint() -> None:
    registry = Registry(hosts=(host("b", B, note=note(B)),))
    played = scene(registry)
    path = scenes.underlay_path(played.nodes[0], played.home.party)
    assert (path.kind, path.local, path.remote, path.device) == ("underlay", A, B, "")


def test_a_relay_that_was_not_accepted_is_none() -> None:
    registry = Registry(hosts=(host("b", B, build.network("web", "10.9.2.0/24"), note=note(B)),))
    (view,) = views(registry, courses={"b": Course("relay", "", relay="gone")})
    assert [one.relay for one in view.nodes] == [None]


def test_a_renamed_host_goes_by_its_newest_name() -> None:
    def named(name: str, machine: str, at: int) -> Registered:
        return Registered(name, (), Status(name, public_ip=B, timestamp=at), note(B, machine=machine))

    old, new = named("a-old", "m", 10), named("new", "m", 20)
    for hosts in ((old, new), (new, old)):
        assert list(registrar.cast(Registry(hosts=hosts), "a", A).parties) == ["new"]
    other = named("new", "n", 20)
    assert sorted(registrar.cast(Registry(hosts=(old, other)), "a", A).parties) == ["a-old", "new"], "a dispute"
    nameless = (named("x", "", 10), named("y", "", 20))
    assert len(registrar.cast(Registry(hosts=nameless), "a", A).parties) == 2


def test_a_group_of_less_than_a_network_keeps_nothing_apart_and_that_is_told() -> None:
    web, shop = build.network("web", "10.9.1.0/24"), build.network("shop", "10.9.2.0/24")
    registry = Registry(hosts=(host("b", B, shop, note=note(B)),))
    groups = (("x", (ip_network("10.9.1.0/25"),)), ("y", (ip_network("10.9.2.0/23"), ip_network("10.9.2.0/25"))))
    (problem,) = scenes.half_apart(scene(registry, web, options=Options("a", groups=groups)))
    assert problem.message == (
        "ISOLATE: group x has 10.9.1.0/25, a part of network web 10.9.1.0/24, which is in no group: write x=10.9.1.0/24"
    )
    assert not list(scenes.half_apart(scene(registry, web)))
    labelled = replace(web, group="z")
    assert not list(scenes.half_apart(scene(registry, labelled, options=Options("a", groups=groups))))


# ---- behind NAT, and hosts to which no device leads ----


def test_behind_nat_the_device_sends_from_an_address_that_this_host_has() -> None:
    public = ip_address("203.0.113.7")
    home = registrar.home(Options("a"), public, (), here(), Registry())
    assert (home.local, home.overlay) == (A, (public,))
    web = Network("web", (build.net4("10.9.1.0/24"),), "br-web")
    bridge = Uplink("br-web", 1500, (ip_interface("10.9.1.1/24"),))
    routed = registrar.home(Options("a"), public, (web,), here("192.0.2.1/24", bridge), Registry())
    assert routed.overlay == (ip_address("10.9.1.1"), public), "peers probe it at the address that it tells"
    cast = registrar.cast(Registry(), "a", public)
    (view,) = scenes.views(Scene(Options("a"), routed, cast, (), (), {}))
    assert view.me.endpoints == (A,)
    six = registrar.home(Options("a"), ip_address("2001:db8::7"), (), here(), Registry())
    assert six.local == ip_address("2001:db8::7"), "nothing better is known"
    assert registrar.home(Options("a"), A, (), here(), Registry()).local == A


def test_hosts_to_which_no_device_leads() -> None:
    me = registrar.home(Options("a"), A, (), here(), Registry()).party
    leased = replace(me, lease=lease("10.5.1.0/24", A))
    flannel = Party("b", B, lease=lease("10.5.2.0/24", B))
    assert "tells no VTEP of weft's, and flannel has no lease for this host" in registrar.no_way(flannel, me)
    assert registrar.no_way(flannel, leased) == ""
    fits = Party("c", C, mac=parse_mac("06:00:00:00:00:03"), vni=7600, port=8472)
    assert registrar.no_way(fits, me) == registrar.no_way(fits, leased) == ""
    assert "no VTEP" in registrar.no_way(replace(fits, mac=parse_mac("01:00:5e:00:00:01")), me)
    assert "this host's own VTEP" in registrar.no_way(replace(fits, mac=me.mac), me)
    for other in (replace(fits, vni=1), replace(fits, port=4789)):
        assert "give both the same WEFT_VNI" in registrar.no_way(other, me)


def test_the_other_family_of_a_lease_is_no_host_of_its_own() -> None:
    """flannel has both families; the registrar was told the IPv6 address."""
    far, own = IPv6Address("2001:db8::2"), IPv6Address("2001:db8::1")
    registry = Registry(
        hosts=(host("b", far),),
        leases=(
            replace(dual("10.5.1.0/24", "fd00:5:1::/64", A), public_ip6=own),
            replace(dual("10.5.2.0/24", "fd00:5:2::/64", B), public_ip6=far),
        ),
    )
    assert list(registrar.cast(registry, "a", own).parties) == ["b"]
