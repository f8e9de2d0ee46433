"""A host that ran flanneld: what it left in the kernel is taken over, and no packet's way is ever interrupted.

flannel's state is built with `ip` and `bridge`, as FORMATS.md has it ("What a flannel peer has in its kernel"), and
what became of it is looked at with them too.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import pytest

from tests.build import network, node, uplink, view
from tests.contract.targets import HOP, WHY, KernelPlace, add, done, held, inside, kernel_place, refused, remove
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.core.diff import Facts, diff
from weft.core.layered import Layered
from weft.core.plan import Plan, Wanted, plan
from weft.model import Host, Mac, Node, Profile, mac_text, parse_mac
from weft.objects import Chain, Jump, NextHop, Object, Op, Route, Sysctl
from weft.targets.kernel.target import KernelTarget

pytestmark = needs_root

MAC = parse_mac("82:3d:cd:46:bc:78")
OWNER = "weft:flanneld:/coreos.com/network:me"
INSIDE = inside("10.5.0.0/16", "fc00:5::/48")
PEERS = ("10.5.20.0/24", "192.0.2.2", "2e:00:00:00:00:02"), ("10.5.21.0/24", "192.0.2.3", "2e:00:00:00:00:03")
PEERS6 = (
    ("fc00:5:0:20::/64", "2001:db8::2", "2e:00:00:00:06:02"),
    ("fc00:5:0:21::/64", "2001:db8::3", "2e:00:00:00:06:03"),
)
DEAD = ("10.5.66.0/24", "192.0.2.66", "2e:00:00:00:00:66")
DEAD6 = ("fc00:5:0:66::/64", "2001:db8::66", "2e:00:00:00:06:66")
Peer = tuple[str, str, str]


def flannel_has(place: KernelPlace, version: int, *peers: Peer) -> str:
    """Build flannel's device, address and peers for one IP version; returns the device's name."""
    device = "flannel.1" if version == 4 else "flannel-v6.1"
    local, mtu = ("192.0.2.1", 1450) if version == 4 else ("2001:db8::1", 1430)
    own = "10.5.10.0/32" if version == 4 else "fc00:5:0:10::/128"
    kind = f"vxlan id 1 local {local} dev up0 dstport 8472 nolearning"
    place.ns.ip(f"link add {device} address {mac_text(MAC)} mtu {mtu} type {kind}")
    place.ns.ip(f"address add {own} dev {device}")
    place.ns.ip(f"link set {device} up")
    for subnet, endpoint, mac in peers:
        gateway = ip_network(subnet).network_address
        place.ns.ip(f"neigh add {gateway} lladdr {mac} dev {device} nud permanent")
        place.ns.bridge(f"fdb add {mac} dev {device} dst {endpoint} self permanent")
        place.ns.ip(f"route add {subnet} via {gateway} dev {device} onlink")
    return device


def lease(subnet: str, endpoint: str, mac: str) -> Node:
    octets = Mac(bytes(int(part, 16) for part in mac.split(":")))
    there = node(subnet, endpoint, subnet, vni=1, mac=octets)
    return replace(there, overlay=(ip_network(subnet).network_address,))


def wanted(version: int, *peers: Peer, nexthop_objects: bool = True) -> Plan:
    """What weft wants of the kernel with these leases; the firewall and sysctls are no matter here."""
    me = replace(
        node("me", "192.0.2.1" if version == 4 else "2001:db8::1", vni=1, mac=MAC),
        port=8472,
        overlay=(ip_address("10.5.10.0" if version == 4 else "fc00:5:0:10::"),),
    )
    device = "flannel.1" if version == 4 else "flannel-v6.1"
    profile = Profile("flanneld", "/coreos.com/network:me", underlay=version, device=device, gateway="overlay")
    made = plan(
        view(
            *[lease(*peer) for peer in peers],
            me=me,
            networks=(network("lease", "10.5.10.0/24" if version == 4 else "fc00:5:0:10::/64"),),
            host=Host((uplink("up0", "192.0.2.1/24"),), nexthop_objects=nexthop_objects),
            profile=profile,
        )
    )
    kernels = {k: want for k, want in made.wanted.items() if not isinstance(want.object, Sysctl | Chain | Jump)}
    return replace(made, wanted=Layered(kernels))


@pytest.fixture
def place() -> Iterator[KernelPlace]:
    with kernel_place() as kernel:
        yield kernel


@contextlib.contextmanager
def monitored(place: KernelPlace, log: Path) -> Iterator[list[str]]:
    """What `ip monitor` tells meanwhile; complete once the `with` is left."""
    lines: list[str] = []
    command = ["ip", "-n", place.ns.name, "monitor", "link", "address", "route", "neigh"]
    with log.open("w") as file, subprocess.Popen(command, stdout=file) as monitor:
        try:
            until(lambda: _marks(place, log, "mark0"), "the monitor to listen")
            yield lines
            until(lambda: _marks(place, log, "mark1"), "the monitor to have told everything")
        finally:
            monitor.terminate()
    told = log.read_text()
    lines += told[told.rindex("mark0") : told.index("mark1")].splitlines()[1:]


def _marks(place: KernelPlace, log: Path, name: str) -> bool:
    """Make a link and take it away again; whether the monitor has told of one so far."""
    place.ns.ip(f"link add {name} type bridge")
    place.ns.ip(f"link del {name}")
    return name in log.read_text()


async def target_of(place: KernelPlace, version: int) -> KernelTarget:
    device = "flannel.1" if version == 4 else "flannel-v6.1"
    target = KernelTarget(OWNER, MAC, str(place.ns.path), device, INSIDE)
    place.targets.append(target)
    return target


def said(ops: tuple[Op, ...]) -> set[tuple[str, str]]:
    return {(op.action, type(op.object).__name__) for op in ops}


@pytest.mark.parametrize("nexthop_objects", [True, False])
@pytest.mark.parametrize(
    ("version", "peers", "dead"), [(4, PEERS, DEAD), (6, PEERS6, DEAD6)], ids=["flannel.1", "flannel-v6.1"]
)
async def test_what_flanneld_left_is_taken_over_without_a_gap(
    place: KernelPlace, version: int, peers: tuple[Peer, ...], dead: Peer, nexthop_objects: bool, tmp_path: Path
) -> None:
    device = flannel_has(place, version, *peers, dead)
    target = await target_of(place, version)
    asked = wanted(version, *peers, nexthop_objects=nexthop_objects)
    with monitored(place, tmp_path / "monitor") as told:
        changes = diff(asked.wanted, Facts(await held(target)))
        adds = said(tuple(op for op in changes.ops if op.action == "add"))
        assert adds == ({("add", "NextHop"), ("add", "Route")} if nexthop_objects else {("add", "Route")})
        assert [type(op.object).__name__ for op in changes.ops if op.action == "change"] == ["Link"]  # our mark
        gone = [op.object for op in changes.ops if op.action == "remove"]
        assert sorted(type(thing).__name__ for thing in gone) == ["Fdb", "Neighbour", "Route", "Route", "Route"]
        await done(target, changes.ops)
    assert diff(asked.wanted, Facts(await held(target, full=False))).ops == ()
    assert await held(target) == {key: want.object for key, want in asked.wanted.items()}
    flag = "-6 " if version == 6 else ""
    routes = [r for r in place.ns.ip_json(f"{flag}route show dev {device}") if r["protocol"] != "kernel"]
    assert {(r["dst"], r["protocol"]) for r in routes} == {(subnet, "76") for subnet, _, _ in peers}
    macs = {entry["mac"] for entry in place.ns.bridge_json(f"fdb show dev {device}") if "dst" in entry}
    assert macs == {mac_text(lease(*peer).mac) for peer in peers}
    deleted = [line for line in told if line.startswith("Deleted")]
    for subnet, _, mac in peers:
        gateway = str(ip_network(subnet).network_address)
        order = [line for line in told if f"{subnet} " in line]
        assert len(order) == 2, order  # ours stands before flannel's goes
        assert "proto 76" in order[0]
        assert order[1].startswith("Deleted")
        assert not any(mac in line or f"{gateway} lladdr" in line for line in deleted)
    assert not any(f"{device}:" in line for line in deleted)
    assert any(f"{dead[0]} " in line for line in deleted)


async def test_with_flannels_own_metric_its_routes_become_ours_in_place(place: KernelPlace) -> None:
    device = flannel_has(place, 4, *PEERS)
    target = await target_of(place, 4)
    found = await held(target)
    (subnet, _, _) = PEERS[0]
    ours = Route(ip_network(subnet), device, via=ip_network(subnet).network_address, onlink=True)
    theirs = found[ours.key]
    assert theirs == msgspec.structs.replace(ours, protocol=3)
    await done(target, [Op("change", ours, next(iter(wanted(4).wanted.values())).why, theirs)])
    assert (await held(target))[ours.key] == ours
    (shown,) = place.ns.ip_json(f"route show {subnet}")
    assert shown["protocol"] == "76"


ODD = (
    "10.9.0.0/24 via 10.9.0.0 dev flannel.1 onlink",
    "10.5.30.0/24 via 10.5.20.0 dev flannel.1 onlink",
    "10.5.31.0/24 dev flannel.1",
    "10.5.32.0/24 via 10.5.32.0 dev flannel.1 onlink table 9",
    "10.5.33.0/24 via 10.5.33.0 dev flannel.1 onlink proto 186",
    "10.5.34.0/24 via 10.5.34.0 dev up0 onlink",
    "10.5.35.0/24 via 192.0.2.9 dev up0",
    "10.5.36.0/24 via 10.5.36.0 dev flannel.1",
)


@pytest.mark.parametrize("odd", ODD)
async def test_a_route_of_another_form_is_left_alone(place: KernelPlace, odd: str) -> None:
    flannel_has(place, 4, *PEERS)
    target = await target_of(place, 4)
    place.ns.ip("route add 10.5.36.0/32 dev flannel.1 scope link")
    place.ns.ip(f"route add {odd}")
    await target.read()
    place.ns.ip(f"route replace {odd} mtu 1400")  # only so is the route announced to us
    assert (await target.read()).touched == frozenset()
    await done(target, diff({}, Facts({k: o for k, o in (await held(target)).items() if isinstance(o, Route)})).ops)
    shown = place.ns.ip_json("route show table all")
    assert {r["dst"] for r in shown if "flannel.1" in str(r) and r["dst"] == PEERS[0][0]} == set()
    assert odd.split()[0] in {r["dst"] for r in shown}


async def test_a_daemon_that_looks_after_no_network_takes_nothing_over(place: KernelPlace) -> None:
    flannel_has(place, 4, *PEERS)
    target = KernelTarget(OWNER, MAC, str(place.ns.path), "flannel.1")
    place.targets.append(target)
    assert not any(isinstance(thing, Route) for thing in (await held(target)).values())


async def test_flannels_route_stays_until_ours_stands(place: KernelPlace) -> None:
    """Ours can't be made: somebody's own stands in its place. Flannel's goes on carrying the packets."""
    device = flannel_has(place, 4, *PEERS)
    target = await target_of(place, 4)
    asked = wanted(4, *PEERS)
    ours = next(want.object for want in asked.wanted.values() if isinstance(want.object, Route))
    place.ns.ip(f"route add {ours.dst} dev up0 metric {ours.metric} proto static")
    changes = diff(asked.wanted, Facts(await held(target)))
    answers = dict(zip([(op.action, op.object) for op in changes.ops], await target.apply(changes.ops), strict=True))
    theirs = Route(ours.dst, device, via=ours.dst.network_address, onlink=True, protocol=3)
    (failure,) = [a for (action, thing), a in answers.items() if (action, thing.key) == ("add", ours.key)]
    assert failure is not None
    assert failure.conflict
    assert "does not stand yet" in refused(answers["remove", theirs])
    assert sum(answer is not None for answer in answers.values()) == 2
    place.ns.ip(f"route del {ours.dst} metric {ours.metric} proto static")
    for _ in range(2):
        await done(target, diff(asked.wanted, Facts(await held(target))).ops)
    assert await held(target) == {key: want.object for key, want in asked.wanted.items()}


@pytest.mark.parametrize("version", [4, 6])
async def test_what_flannels_host_gw_left_is_taken_over_where_a_lease_says_so(place: KernelPlace, version: int) -> None:
    peers = PEERS if version == 4 else PEERS6
    leases = {(ip_network(subnet), ip_address(endpoint)) for subnet, endpoint, _ in peers}
    target = KernelTarget(OWNER, netns=str(place.ns.path))
    place.targets.append(target)
    target.share(INSIDE, lambda route: (route.dst, route.via) in leases)
    for subnet, endpoint, _ in (*peers, DEAD if version == 4 else DEAD6):
        place.ns.ip(f"route add {subnet} via {endpoint} dev up0")
    admins = f"{peers[0][0]} via {peers[0][1]} dev up0 proto static metric 9"
    place.ns.ip(f"route add {admins}")
    ours = [Route(dst, "up0", via=via, metric=7600) for dst, via in leases]
    asked = {thing.key: Wanted(thing, WHY) for thing in ours}
    changes = diff(asked, Facts(await held(target)))
    assert [op.action for op in changes.ops] == ["add"] * 2 + ["remove"] * 2
    place.ns.ip(f"route add {ours[0].dst} dev lo metric 7600")
    answers = await target.apply(changes.ops)
    stays = [op.object for op, answer in zip(changes.ops, answers, strict=True) if answer is not None]
    assert [thing.key[1] for thing in stays] == [ours[0].dst.network_address.packed] * 2
    place.ns.ip(f"route del {ours[0].dst} dev lo metric 7600")
    for _ in range(2):
        await done(target, diff(asked, Facts(await held(target))).ops)
    flag = "-6 " if version == 6 else ""
    shown = [(r["dst"], r["protocol"]) for r in place.ns.ip_json(f"{flag}route show dev up0") if "gateway" in r]
    dead = (DEAD if version == 4 else DEAD6)[0]
    assert sorted(shown) == sorted([(peers[0][0], "static"), (dead, "boot"), *((str(dst), "76") for dst, _ in leases)])


async def test_a_route_of_flannels_form_is_never_made(place: KernelPlace) -> None:
    flannel_has(place, 4, *PEERS)
    target = await target_of(place, 4)
    things: tuple[Object, ...] = (
        Route(ip_network("10.5.40.0/24"), "flannel.1", via=ip_address("10.5.40.0"), onlink=True, protocol=3),
        NextHop(HOP, "flannel.1", ip_address("10.5.41.0")),
        Route(ip_network("10.5.41.0/24"), "flannel.1", nexthop=HOP, protocol=4),
    )
    answers = await target.apply(add(*things))
    assert [answer is None for answer in answers] == [False, True, False]
    assert "protocol 3 aren't weft's" in refused(answers[0])


async def test_of_two_routes_of_flannels_only_the_one_that_is_named_is_removed(place: KernelPlace) -> None:
    """A request to remove a route of metric 0 is one for any metric; protocol, device and gateway are named too."""
    device = flannel_has(place, 4, *PEERS)
    target = await target_of(place, 4)
    subnet = PEERS[0][0]
    place.ns.ip(f"route add {subnet} dev {device} metric 5")
    theirs = [thing for thing in (await held(target)).values() if isinstance(thing, Route) and thing.protocol == 3]
    await done(target, remove(*theirs, *theirs))
    assert [r["metric"] for r in place.ns.ip_json(f"route show {subnet}")] == [5]
