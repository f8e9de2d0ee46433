"""What the registrar makes of its sources: when it plans, what it tells and probes, and what it says of the rest."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from tests import build
from weft.agent.registrar import RegistrarWorld, Wishes
from weft.backends.tunnel import spread
from weft.core.plan import plan
from weft.core.registrar import Options
from weft.core.registry import Registered, Registry
from weft.model import DefaultRoute, Host, Known, Network, Path, Reach, Uplink, View, Way, parse_mac
from weft.objects import FOUND_METRIC, REGISTRAR_METRICS, Fdb, Route
from weft.settings.gateways import parse_extra_routes, parse_gateway_map
from weft.wire.flannel import Lease, Vtep
from weft.wire.flannel_config import parse_config
from weft.wire.registrar import Note, Status

A, B, C = (ip_address(f"192.0.2.{n}") for n in (1, 2, 3))
ETCD = ip_address("192.0.2.9")
CONFIG = parse_config(b'{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}')


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def world(clock: Clock | None = None, **wishes: Any) -> RegistrarWorld:
    return RegistrarWorld(Wishes(Options("a"), etcd=(ETCD,), allowed=build.PRIVATE, **wishes), clock or Clock())


def host(*addresses: str) -> Host:
    given = tuple(ip_interface(a) for a in addresses or ("192.0.2.1/24",))
    return Host((Uplink("eth0", 1500, given, (DefaultRoute(4),)),))


def peer(name: str, number: int, subnet: str, **note: Any) -> Registered:
    address = ip_address(f"192.0.2.{number}")
    mac = parse_mac(f"06:00:00:00:00:{number:02x}")
    told = Note(endpoints=(address,), mac=mac, vni=7600, port=8472, mtu=1500, **note)
    return Registered(name, (build.network("web", subnet),), Status(name, public_ip=address), told, leased=True)


def lease(number: int) -> Lease:
    from ipaddress import IPv4Address

    mac = parse_mac(f"02:00:00:00:00:{number:02x}")
    return Lease(
        build.net4(f"10.5.{number}.0/24"), None, IPv4Address(f"192.0.2.{number}"), None, "vxlan", Vtep(1, mac), None
    )


def ready(one: RegistrarWorld, registry: Registry, *networks: Network) -> View:
    """With every source's word."""
    one.host, one.registry = host(), registry
    one.engine = Known(networks, complete=True)
    one.ways, one.answered = {ETCD: Way("eth0", source=A)}, frozenset((ETCD, *one.asked()))
    found = one.view()
    assert found is not None
    return found


def down(node: str, remote: str = "192.0.2.2", state: str = "down") -> dict[tuple[str, str], Reach]:
    path = Path(node, "tunnel", "vxlan7600", A, ip_address(remote))
    return {(node, "tunnel"): Reach(path, state, 1.0, reason="nothing is heard")}  # type: ignore[arg-type]


def routes(view: View) -> dict[str, str]:
    """Destination → gateway."""
    wanted = plan(view).wanted
    found = {}
    for want in wanted.values():
        if isinstance(want.object, Route):
            hop = wanted.get(("nexthop", want.object.nexthop))
            via = getattr(hop.object, "via", None) if hop is not None else want.object.via
            found[str(want.object.dst)] = str(via)
    return found


def test_nothing_is_planned_before_every_source_has_spoken() -> None:
    one = world()
    assert one.view() is None
    assert one.waiting() == ["host", "engine", "etcd"]
    one.host = host()
    assert one.waiting() == ["engine", "etcd"]
    one.engine = Known((), complete=True)
    one.registry = Registry(complete=True)
    assert one.waiting() == ["address"]
    assert one.view() is None, "the way to etcd is not known yet"
    one.ways, one.answered = {ETCD: Way("eth0", source=A)}, frozenset({ETCD})
    assert one.view() is not None
    assert one.waiting() == []


def test_no_docker_networks_is_a_normal_state() -> None:
    one = world()
    ready(one, Registry(complete=True))
    told = one.announcement()
    assert told is not None
    assert told.networks == ()
    assert list(one.problems()) == []


def test_a_restart_keeps_the_way_that_was_found_and_none_that_the_settings_asked_for() -> None:
    """HOST_GATEWAY_MAP, or FLANNEL_ROUTES_EXTRA, is gone by then: so is its route."""
    via, dst = ip_address("192.0.2.254"), ip_network("192.0.2.2/32")
    known = Registry((peer("b", 2, "10.9.2.0/24", reaches=()),), complete=True)
    for metric, kept in ((FOUND_METRIC, [via]), (spread(REGISTRAR_METRICS.start, dst), [])):
        one = world()
        one.standing = lambda metric=metric: [Route(dst, "eth0", via=via, metric=metric)]  # type: ignore[misc]
        found = ready(one, known)
        assert [route.via for route in found.routes] == kept
        assert one.chart.courses["b"].kind == ("underlay" if kept else "direct")


def test_settings_that_cannot_be_written_are_told_once_and_are_wrong_where_the_filter_is_strict() -> None:
    one, known = world(), Registry((peer("b", 2, "10.9.2.0/24"),), complete=True)
    ready(one, known)
    assert list(one.problems()) == []
    for strict in (False, True):
        one.host = replace(host(), sysctls=False, strict=strict)
        one.view()
        (told,) = one.problems()
        assert (told.subject, told.wrong) == ("settings", strict)
        assert "net.ipv4.conf.vxlan7600.rp_filter" in told.message
        assert "security_opt: [systempaths=unconfined]" in told.message
    one.registry = Registry((peer("b", 2, "10.9.2.0/24"),), (lease(1), lease(2)), config=CONFIG, complete=True)
    one.view()
    assert list(one.problems()) == [], "there is no such device"


def test_the_address_stays_for_as_long_as_this_host_has_it() -> None:
    one = world()
    ready(one, Registry(complete=True))
    one.host = host("192.0.2.1/24", "192.0.2.77/24")
    one.ways = {ETCD: Way("eth0", source=ip_address("192.0.2.77"))}
    assert one.address() == A
    one.host = host("192.0.2.77/24")
    assert one.address() == ip_address("192.0.2.77")
    one.host = host("192.0.2.1/24", "192.0.2.77/24")
    assert one.address() == A, "it was gone for a moment"


def test_an_address_of_flannels_lease_is_taken_where_etcd_is_on_this_very_host() -> None:
    """With etcd at 127.0.0.1 no way tells the address; flannel runs with -iface wg0."""
    one = RegistrarWorld(Wishes(Options("a"), allowed=build.PRIVATE), Clock())
    lan = Uplink("eth0", 1500, (ip_interface("198.51.100.7/24"),), (DefaultRoute(4),))
    one.host = Host((lan, Uplink("wg0", 1420, (ip_interface("192.0.2.1/24"),))))
    one.engine = Known((), complete=True)
    assert one.view() is None
    one.registry = Registry((), (lease(1),), config=CONFIG, complete=True)
    assert one.view() is not None
    assert (one.address(), one.device) == (A, "flannel.1")


def test_a_network_in_flannels_lease_is_told_although_flannels_device_has_an_address_of_it() -> None:
    inside = Network("caddy-public-net", (ip_network("10.5.1.0/24"),), "br-caddy", since=1.0)
    one = world()
    one.host = Host(
        (
            Uplink("eth0", 1500, (ip_interface("192.0.2.1/24"),), (DefaultRoute(4),)),
            Uplink("flannel.1", 1450, (ip_interface("10.5.1.0/32"),)),
            Uplink("br-caddy", 1500, (ip_interface("10.5.1.1/24"),)),
        )
    )
    one.registry = Registry((), (lease(1),), config=CONFIG, complete=True)
    one.engine = Known((inside,), complete=True)
    one.ways, one.answered = {ETCD: Way("eth0", source=A)}, frozenset({ETCD})
    assert one.view() is not None
    told = one.announcement()
    assert told is not None
    assert told.networks == (inside,)
    assert list(one.problems()) == []


def test_after_another_address_the_hosts_are_sorted_anew() -> None:
    """The lease of the new address is this host's, and no stranger's."""
    one = world()
    one.host = host("192.0.2.1/24", "192.0.2.7/24")
    ready(one, Registry(leases=(lease(1), lease(7)), config=CONFIG, complete=True))
    assert one.peers is not None
    one.host = host("192.0.2.7/24")
    one.ways = {ETCD: Way("eth0", source=ip_address("192.0.2.7"))}
    assert one.view() is not None
    assert [n.id for n in one.peers.items] == ["flannel host 192.0.2.1"]


def test_the_device_is_flannels_of_the_family_that_it_has() -> None:
    six = lease(1)
    mine = replace(six, subnet=None, subnet6=build.net6("fc00:5:1::/64"), data=None, data6=six.data)
    one = world()
    ready(one, Registry(leases=(mine,), config=CONFIG, complete=True))
    assert one.device == "flannel-v6.1"


def test_without_any_address_it_says_what_to_set() -> None:
    one = world()
    one.host = Host((Uplink("eth0", 1500, (ip_interface("192.0.2.1/24"),)),))
    one.registry, one.answered = Registry(complete=True), frozenset({ETCD})
    assert one.address() is None
    assert "set FLANNELD_PUBLIC_IP" in "".join(p.message for p in one.problems())


def test_what_is_told_is_what_it_routes_by() -> None:
    web = build.network("web", "10.9.1.0/24")
    one = world()
    ready(one, Registry((peer("b", 2, "10.9.2.0/24"),), complete=True), web)
    told = one.announcement()
    assert told is not None
    assert (told.host, told.networks, told.note.reaches) == ("a", (web,), ("b",))
    assert told.status is not None
    assert (told.status.public_ip, told.status.primary_ip) == (A, A)
    assert [str(s) for s in told.note.segments] == ["192.0.2.1/24"]
    assert not one.is_registered()
    mine = Registered("a", (web,), told.status, told.note, leased=True)
    one.registry = Registry((mine, peer("b", 2, "10.9.2.0/24")), complete=True)
    assert one.is_registered()


def test_a_network_inside_flannels_gets_an_entry() -> None:
    inside = build.network("shop", "10.5.40.0/24")
    one = world()
    beside = Registry(leases=(lease(1), lease(2)), config=CONFIG, complete=True, woven=frozenset({A}))
    ready(one, beside, inside)
    told = one.announcement()
    assert told is not None
    (entry,) = told.entries
    assert (str(entry.subnet), entry.data) == ("10.5.40.0/24", lease(1).data)


def test_two_hosts_with_one_subnet_are_named_and_the_older_holds() -> None:
    one = world()
    later = replace(peer("c", 3, "10.9.2.0/24"), networks=(build.network("web", "10.9.2.0/24", since=200.0),))
    view = ready(one, Registry((peer("b", 2, "10.9.2.0/24"), later), complete=True))
    assert routes(view) == {"10.9.2.0/24": "192.0.2.2"}
    (problem,) = one.conflicts()
    assert "b" in problem.message
    assert "c" in problem.message


def test_a_network_of_ours_that_another_host_has_too() -> None:
    one = world()
    view = ready(one, Registry((peer("b", 2, "10.9.1.0/24"),), complete=True), build.network("web", "10.9.1.0/24"))
    assert routes(view) == {}
    (problem,) = one.conflicts()
    assert "node b's network web 10.9.1.0/24 is refused" in problem.message
    assert "this host (a)" in problem.message


def test_a_network_over_the_underlay_is_neither_told_nor_routed() -> None:
    one = world()
    bad = Network("lan", (ip_network("192.0.2.0/25"),), bridge="br-lan")
    ready(one, Registry(complete=True), bad)
    told = one.announcement()
    assert told is not None
    assert told.networks == ()
    assert "is not registered: 192.0.2.0/25 overlaps" in "".join(p.message for p in one.problems())


def test_a_peer_that_is_lost_is_reached_through_another_and_back_after_a_while() -> None:
    clock = Clock()
    one = world(clock)
    both = Registry(
        (peer("b", 2, "10.9.2.0/24", reaches=("c",)), peer("c", 3, "10.9.3.0/24", reaches=("a", "b"))), complete=True
    )
    one.reaches = down("b", state="up") | down("c", "192.0.2.3", "up")
    assert routes(ready(one, both)) == {"10.9.2.0/24": "192.0.2.2", "10.9.3.0/24": "192.0.2.3"}
    one.reaches = down("b") | down("c", "192.0.2.3", "up")
    assert routes(ready(one, both))["10.9.2.0/24"] == "192.0.2.3"
    assert one.rules()["b"].startswith("detection:")
    assert {(p.node, p.kind) for p in one.paths()} == {("b", "tunnel"), ("c", "tunnel"), ("b", "underlay")}
    told = one.announcement()
    assert told is not None
    assert (told.note.reaches, told.note.misses) == (("c",), ("b",))
    back = down("b", state="up")
    one.reaches = {key: replace(reach, since=2.0) for key, reach in back.items()} | down("c", "192.0.2.3", "up")
    assert routes(ready(one, both))["10.9.2.0/24"] == "192.0.2.3", "it must be up for a while first"
    assert one.chart.again is not None
    clock.now = one.chart.again
    ready(one, both)
    clock.now += 1
    healed = Registry((peer("b", 2, "10.9.2.0/24", reaches=("a", "c")), both.hosts[1]), complete=True)
    assert routes(ready(one, healed))["10.9.2.0/24"] == "192.0.2.2"


def test_extra_routes_go_over_the_gateways_interface_and_bad_ones_are_named() -> None:
    extra, _ = parse_extra_routes("10.8.1.0/24:192.0.2.5,10.8.2.0/24:198.51.100.1,10.8.3.0/24:192.0.2.6:eth7")
    one = world(extra=extra)
    one.host = host()
    ready(one, Registry(complete=True))
    one.ways = {
        ETCD: Way("eth0", source=A),
        ip_address("192.0.2.5"): Way("eth0", source=A),
        ip_address("198.51.100.1"): Way("eth0", ip_address("192.0.2.254")),
    }
    one.answered = frozenset(one.asked())
    view = one.view()
    assert view is not None
    assert {str(r.dst): r.dev for r in view.routes} == {"10.8.1.0/24": "eth0", "10.8.3.0/24": "eth7"}
    told = "\n".join(p.message for p in one.problems())
    assert "198.51.100.1 is on no segment of this host's; packets for it go to 192.0.2.254 on eth0" in told
    assert "there is no interface eth7" in told


def test_a_map_entry_is_followed_and_explained() -> None:
    entries, _ = parse_gateway_map("192.0.2.2:192.0.2.3")
    one = world(entries=entries)
    both = Registry((peer("b", 2, "10.9.2.0/24"), peer("c", 3, "10.9.3.0/24")), complete=True)
    assert routes(ready(one, both))["10.9.2.0/24"] == "192.0.2.3"
    assert "192.0.2.2:192.0.2.3" in one.rules()["b"]
    told = one.announcement()
    assert told is not None
    assert told.note.via == (("b", "c"),)


def test_fdb_mode_beside_flannel_diverts_the_tunnels_packets() -> None:
    entries, _ = parse_gateway_map("192.0.2.2:192.0.2.254")
    one = world(entries=entries, mode="fdb")
    registry = Registry((peer("b", 2, "10.9.2.0/24"),), (lease(1), lease(2)), config=CONFIG, complete=True)
    view = ready(one, registry)
    assert view.diverted == ((B, ip_address("192.0.2.254")),)
    assert one.device == "flannel.1"


def test_peers_are_everybody_who_registered() -> None:
    one = world()
    assert one.peers is None
    ready(one, Registry((peer("b", 2, "10.9.2.0/24"),), complete=True))
    assert one.peers is not None
    assert [n.id for n in one.peers.items] == ["b"]
    assert one.others() == {"b"}


def test_nothing_is_removed_before_the_ways_of_extra_routes_and_of_direct_routing_are_known() -> None:
    extra, _ = parse_extra_routes("10.8.1.0/24:192.0.2.5")
    asks = world(extra=extra)
    asks.answered = frozenset({ETCD})
    direct = parse_config(b'{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": true}}')
    known = Registry((peer("b", 2, "10.9.2.0/24"),), (lease(1), lease(2)), config=direct, complete=True)
    for one, registry in ((asks, Registry(complete=True)), (world(), known)):
        one.host, one.registry, one.engine = host(), registry, Known((), complete=True)
        one.ways, one.answered = {ETCD: Way("eth0", source=A)}, frozenset({ETCD})
        early = one.view()
        assert early is not None
        assert not early.synced
        one.answered = one.asked()
        late = one.view()
        assert late is not None
        assert late.synced


def test_what_a_peer_says_of_its_tunnel_is_judged_before_it_is_used() -> None:
    """No MAC would be an entry that floods, and another VNI a route into nothing."""
    mute, other = peer("b", 2, "10.9.2.0/24"), peer("c", 3, "10.9.3.0/24")
    assert mute.note is not None
    assert other.note is not None
    mute, other = replace(mute, note=replace(mute.note, mac=None)), replace(other, note=replace(other.note, vni=7))
    alone = replace(lease(5), subnet=build.net4("10.5.5.0/24"))
    one = world()
    view = ready(one, Registry((mute, other, peer("d", 4, "10.9.4.0/24")), (alone,), config=CONFIG, complete=True))
    assert routes(view) == {"10.9.4.0/24": "192.0.2.4"}
    entries = [want.object for want in plan(view).wanted.values() if isinstance(want.object, Fdb)]
    assert [str(entry.dst) for entry in entries] == ["192.0.2.4"]
    assert one.others() == {"d"}
    assert sorted(p.subject for p in one.problems()) == ["b", "c"]
    assert {p.subject for p in view.problems} == {"b", "c"}


def test_a_public_address_that_this_host_has_not_got_is_told() -> None:
    one = world(address=ip_address("203.0.113.7"))
    ready(one, Registry(complete=True))
    (said,) = one.problems()
    assert "FLANNELD_PUBLIC_IP = 203.0.113.7 is no address of this host's" in said.message
    assert not said.wrong
    mine = world(address=A)
    ready(mine, Registry(complete=True))
    assert list(mine.problems()) == []


def test_explaining_names_who_was_refused() -> None:
    one = world()
    view = ready(one, Registry((peer("b", 2, "10.9.1.0/24"),), complete=True), build.network("web", "10.9.1.0/24"))
    assert one.conflicts()
    assert view.problems == one.conflicts()


def test_nothing_is_removed_before_the_ways_to_the_maps_gateways_are_known() -> None:
    entries, _ = parse_gateway_map("192.0.2.2:198.51.100.6")
    one = world(entries=entries)
    assert not ready(one, Registry((peer("b", 2, "10.9.2.0/24"),), complete=True)).synced
    one.answered = frozenset(one.asked())
    view = one.view()
    assert view is not None
    assert view.synced


def test_another_hosts_address_from_its_file_is_not_taken_for_this_ones() -> None:
    one = world(address=B)
    registry = Registry((peer("b", 2, "10.9.2.0/24"),), (lease(2),), config=CONFIG, complete=True)
    one.host, one.registry, one.engine = host(), registry, Known((), complete=True)
    assert one.view() is None
    assert "is host b's, and no interface here has it" in "".join(p.message for p in one.problems())
