"""RouterWorld in the loop, over a kernel in memory and a real folder: what is planned when, what a new discovery.json
or routing.yaml changes and what it leaves alone, and the golden texts of the document's example."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.build import CHAINS, PRIVATE
from tests.support.stacks import NO_MAC, config, data, host, listing, peer, remote, stack, thousand, world
from weft.agent.loop import Loop
from weft.agent.reconcile import Reconciler
from weft.agent.router import RouterWorld
from weft.backends.tunnel import vtep_mac
from weft.core.commands import script
from weft.core.plan import plan
from weft.core.stacks import Options
from weft.discovery.file import DiscoveryFile
from weft.model import DiscoveryData, Host, Problem, View
from weft.objects import Chain, Fdb, Jump, Link, NextHopGroup, Op, Route
from weft.objects.outside import File
from weft.targets.files import FileTarget
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget
from weft.wire.routing import StackConfig

B = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16")
C = peer("stack-c", "10.0.0.3", "192.168.100.3", "172.22.0.0/16")
FLOOD = Options(PRIVATE, flood=True)


class Router:
    """One router: its world, its loop, the kernel that it writes."""

    def __init__(self, folder: Path, *stacks: StackConfig, kernel: MemoryTarget | None = None) -> None:
        self.path = folder / "routes.json"
        self.world = world(*stacks)
        self.world.wishes = replace(self.world.wishes, routes_file=str(self.path))
        self.kernel = kernel if kernel is not None else MemoryTarget((*KERNEL_KINDS, *FIREWALL_KINDS))
        self.loop = Loop(self.world, Reconciler([self.kernel, FileTarget((str(self.path),))]), 60.0)

    async def takes(self, found: DiscoveryData | None) -> list[str]:
        """One cycle with this discovery.json; what it did to the kernel, in short."""
        self.world.data = found
        return await self.step()

    async def step(self) -> list[str]:
        before = len(self.kernel.applied)
        report = await self.loop.step()
        assert report is None or not report.failed
        return [f"{op.action} {op.object.key[0]}" for op in self.kernel.applied[before:]]

    async def has(self, *kinds: type) -> list[str]:
        reading = await self.kernel.read(full=True)
        found = [thing for thing in reading.objects.values() if isinstance(thing, kinds)]
        return sorted(str(thing.dst) if isinstance(thing, Route) else str(thing.key[1]) for thing in found)

    def routes(self) -> list[tuple[str, str, str, str]]:
        """routes.json as it is on the disk."""
        rows = json.loads(self.path.read_text())["routes"]
        return [(row["destination"], row["next_hop"], row["interface"], row["source"]) for row in rows]


async def test_before_there_is_a_discovery_json_this_hosts_end_is_set_up_and_nothing_is_removed(tmp_path: Path) -> None:
    former = Router(tmp_path)
    await former.takes(data(B, C))
    again = Router(tmp_path, kernel=former.kernel)
    assert again.world.waiting() == ["discovery"]
    assert await again.step() == []
    assert await again.has(Route) == ["172.21.0.0/16", "172.22.0.0/16", "192.168.100.0/24"]
    assert len(again.routes()) == 2
    missing = DiscoveryFile(str(tmp_path / "discovery.json")).data
    assert await again.takes(missing) == []
    assert len(again.routes()) == 2, "as many as the kernel still has"
    assert await again.takes(data(B, complete=False)) == []
    assert again.world.waiting() == ["discovery"]
    assert "remove route" in await again.takes(data(B))
    assert await again.has(Route) == ["172.21.0.0/16", "192.168.100.0/24"]
    assert len(again.routes()) == 1
    assert again.world.waiting() == []
    fresh = Router(tmp_path)
    fresh.world.chains = lambda: CHAINS
    assert "add link" in await fresh.step()
    assert await fresh.has(Route) == ["192.168.100.0/24"]
    assert await fresh.has(Chain)


async def test_a_new_discovery_json_touches_what_changed_and_nothing_else(tmp_path: Path) -> None:
    router = Router(tmp_path, stack())
    await router.takes(data(B))
    assert await router.takes(data(B, C)) == ["add neighbour", "add fdb", "add nexthop", "add route"]
    assert router.routes() == [
        ("172.21.0.0/16", "192.168.100.2", "vxlan1000", "discovery"),
        ("172.22.0.0/16", "192.168.100.3", "vxlan1000", "discovery"),
    ]
    assert await router.takes(data(replace(B, last_seen=2e9, status="stale"), C)) == []
    assert await router.takes(data(C)) == ["remove route", "remove nexthop", "remove fdb", "remove neighbour"]
    assert [row[0] for row in router.routes()] == ["172.22.0.0/16"]


async def test_a_file_that_breaks_keeps_what_is_and_says_so(tmp_path: Path) -> None:
    router = Router(tmp_path)
    await router.takes(data(B))
    router.world.report("discovery.json", "discovery.json is no JSON; what it said before holds")
    assert await router.step() == []
    assert Problem("discovery.json", "discovery.json is no JSON; what it said before holds") in router.world.problems()
    router.world.report("discovery.json", "")
    assert not list(router.world.problems())
    odd = Problem("discovery.json", "peers[3] can't be read")
    await router.takes(replace(data(B), problems=(odd,)))
    assert list(router.world.problems()) == [odd]


async def test_a_new_routing_yaml_holds_at_once(tmp_path: Path) -> None:
    router = Router(tmp_path)
    await router.takes(data(B))
    router.world.stacks = (listing(remote("stack-b", "192.168.100.7", "172.30.0.0/16")),)
    done = await router.step()
    assert done.count("add route") == done.count("remove route") == 1
    assert router.routes() == [("172.30.0.0/16", "192.168.100.7", "vxlan1000", "static-config")]
    router.world.stacks = ()  # a file that can't be used, at the start
    assert await router.step() == []
    assert router.loop.view is None


async def test_of_several_addresses_tunnels_end_at_the_one_that_discovery_announces(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.world.host = host("10.0.0.1/16", "10.0.0.9/16")
    ends = [vtep_mac(f"10.0.0.{number}", 1000) for number in (1, 9)]
    for number, mac in ((1, ends[0]), (9, ends[1]), (9, ends[1]), (1, ends[0]), (77, ends[0])):
        here = peer("stack-a", f"10.0.0.{number}", "192.168.100.1", "172.20.0.0/16")
        await router.takes(replace(data(B), here=(here,)))
        assert router.loop.view is not None
        assert router.loop.view.me.mac == mac
        assert bool(list(router.world.problems())) == (number == 77), "an address that isn't this host's"
    await router.takes(data(B))
    assert router.loop.view is not None
    assert router.loop.view.me.mac == ends[0], "the one that it had"


async def test_a_lost_ipv4_address_is_waited_for(tmp_path: Path) -> None:
    """While a host has one of IPv6, too: its tunnels are not made over that, and made anew a moment later."""
    router = Router(tmp_path)
    router.world.host = host("10.0.0.1/16", "2001:db8::1/64")
    await router.takes(data(B))
    router.world.host = host("2001:db8::1/64")
    assert await router.step() == []
    assert router.loop.view is None
    (problem,) = router.world.problems()
    assert problem.message.startswith("this host has lost its address 10.0.0.1, where its tunnels end")
    router.world.host = host("10.0.0.1/16", "2001:db8::1/64")
    assert await router.step() == []
    assert not list(router.world.problems())
    router.world.host = host("10.0.0.7/16", "2001:db8::1/64")
    assert "add link" in await router.step(), "another one is another matter"
    started = Router(tmp_path)
    started.world.host = host("2001:db8::1/64")
    await started.takes(data(B))
    assert started.loop.view is not None
    assert started.loop.view.profile.underlay == 6


async def test_an_end_that_goes_leaves_the_route_to_the_others(tmp_path: Path) -> None:
    ends = [peer("stack-b", f"10.0.0.1{n}", f"192.168.100.1{n}", "172.21.0.0/16", id=f"b{n}") for n in range(1, 4)]
    router = Router(tmp_path)
    await router.takes(data(*ends))
    assert len(await router.has(NextHopGroup)) == 1
    assert [row[:2] for row in router.routes()] == [("172.21.0.0/16", f"192.168.100.1{n}") for n in range(1, 4)]
    done = await router.takes(data(*ends[:2], replace(ends[2], status="stale")))
    assert "change nexthop" in done
    assert not [what for what in done if "route" in what]
    assert [row[1] for row in router.routes()] == ["192.168.100.11", "192.168.100.12"]
    assert [row.stack for row in router.world.routes()] == ["stack-b", "stack-b"]


async def test_two_vnis_are_two_devices_and_one_of_them_may_go(tmp_path: Path) -> None:
    two = config("stack-y", 1001, "192.168.101.0/24", "192.168.101.1", "172.19.0.0/16")
    far = peer("far", "10.0.0.9", "192.168.101.9", "172.29.0.0/16", vni=1001)
    router = Router(tmp_path, stack(), two)
    await router.takes(data(B, far))
    assert await router.has(Link) == ["vxlan1000", "vxlan1001"]
    rows = [(row.interface, row.node) for row in router.world.routes()]
    assert rows == [("vxlan1000", "stack-b"), ("vxlan1001", "far")]
    assert router.world.device == "vxlan1000, vxlan1001"
    assert router.world.name == "stack-a+stack-y"
    kept = {op.object.key for op in router.kernel.applied if op.object.key[:2] == ("link", "vxlan1000")}
    router.world.stacks = (stack(),)
    assert "remove link" in await router.step()
    assert await router.has(Link) == ["vxlan1000"]
    assert kept
    assert [fate.reason for fate in router.world.fates()] == [
        "",
        "stack far is not routed to: its VNI is 1001, this host's is 1000",
    ]


def test_an_uplink_that_went_takes_no_answer_with_it() -> None:
    """/health asks for the routes, whatever this host has just lost."""
    one = world()
    one.data = data(B)
    one.view()
    assert [row.stack for row in one.routes()] == ["stack-b"]
    one.host = Host(())
    assert (one.view(), one.routes(), one.fates()) == (None, (), ())


def test_without_an_uplink_nothing_is_planned_and_that_is_said() -> None:
    one = world(facts=Host())
    assert one.view() is None
    assert [problem.subject for problem in one.problems()] == ["stack-a"]
    assert "no default route" in next(one.problems()).message
    assert one.fates() == ()
    assert one.routes() == ()
    one.host = host()
    assert one.view() is not None
    assert not list(one.problems())


def test_an_address_that_was_taken_is_kept_while_the_host_has_it() -> None:
    one = world(facts=host("10.0.0.1/16"))
    one.view()
    one.host = host("10.0.0.200/16", "10.0.0.1/16")
    view = one.view()
    assert view is not None
    assert view.me.endpoints == (ip_address("10.0.0.1"),)


def test_what_is_not_known_yet() -> None:
    blank = RouterWorld(world().wishes)
    assert (blank.view(), blank.engine, blank.peers, blank.name, blank.device) == (None, None, None, "", "")
    assert blank.waiting() == ["host", "routing", "discovery"]
    known = world()
    known.data = data(B)
    assert known.peers is not None
    assert known.peers.items == (B.node,)
    assert known.engine is not None
    assert [network.name for network in known.engine.items] == ["internal"]
    known.wishes = replace(known.wishes, routes_file="")  # as where no folder can be written
    view = known.view()
    assert view is not None
    assert view.files == ()


def test_a_view_is_made_anew_only_if_something_changed() -> None:
    one = world()
    one.data = data(B)
    first, second = one.view(), one.view()
    assert first is not None
    assert second is not None
    assert second.nodes is first.nodes
    one.chains = lambda: CHAINS
    third = one.view()
    assert third is not None
    assert third.host.chains == CHAINS
    assert third.nodes is first.nodes
    one.data = data(B, C)
    fourth = one.view()
    assert fourth is not None
    assert fourth.nodes[0] is first.nodes[0]


# -- golden texts ------------------------------------------------------------------------------------------------------


def shown(view: View | None) -> list[str]:
    assert view is not None
    wanted = [w for w in plan(view).wanted.values() if not isinstance(w.object, Chain | Jump | File)]
    return script(Op("add", w.object, w.why) for w in sorted(wanted, key=lambda w: w.object.rank))


DEVICE = [
    "sysctl -w net.ipv4.ip_forward=1",
    "ip link add vxlan1000 address 0e:79:00:c0:5f:33 mtu 1450"
    " type vxlan id 1000 dstport 4789 local 10.0.0.1 {learning}",
    "ip link set dev vxlan1000 alias weft:router:stack-a up",
    "ip address add 192.168.100.1/24 dev vxlan1000 noprefixroute",
]


def device(learning: str) -> list[str]:
    return [line.format(learning=learning) for line in DEVICE]


def test_the_document_s_stacks_with_static_entries() -> None:
    other = remote("stack-c", "192.168.100.3", "172.22.0.0/16")
    one = world(listing(remote("stack-b", "192.168.100.2", "172.21.0.0/16"), other))
    one.data = data(B, C)
    mac = vtep_mac("10.0.0.2", 1000).hex(":")
    assert shown(one.view()) == [
        *device("nolearning"),
        f"ip neigh add 192.168.100.2 lladdr {mac} dev vxlan1000 nud permanent",
        f"ip neigh add 192.168.100.3 lladdr {vtep_mac('10.0.0.3', 1000).hex(':')} dev vxlan1000 nud permanent",
        f"bridge fdb add {mac} dev vxlan1000 dst 10.0.0.2 self permanent",
        f"bridge fdb add {vtep_mac('10.0.0.3', 1000).hex(':')} dev vxlan1000 dst 10.0.0.3 self permanent",
        "ip nexthop add id 1903475284 via 192.168.100.2 dev vxlan1000 onlink proto 76",
        "ip nexthop add id 2138758008 via 192.168.100.3 dev vxlan1000 onlink proto 76",
        "ip route add 192.168.100.0/24 dev vxlan1000 proto 76 metric 7600",
        "ip route add 172.21.0.0/16 nhid 1903475284 proto 76 metric 7600",
        "ip route add 172.22.0.0/16 nhid 2138758008 proto 76 metric 7600",
    ]


def test_the_document_s_stacks_as_it_says_by_flooding() -> None:
    one = world(options=FLOOD)
    one.data = data(B, replace(C, node=replace(C.node, mac=NO_MAC)))
    lines = shown(one.view())
    assert lines[:4] == device("learning")
    assert [line for line in lines[4:] if "nexthop" not in line] == [
        "bridge fdb append 00:00:00:00:00:00 dev vxlan1000 dst 10.0.0.2 self permanent",
        "bridge fdb append 00:00:00:00:00:00 dev vxlan1000 dst 10.0.0.3 self permanent",
        "ip route add 192.168.100.0/24 dev vxlan1000 proto 76 metric 7600",
        "ip route add 172.21.0.0/16 nhid 1903475284 proto 76 metric 7600",
        "ip route add 172.22.0.0/16 nhid 2138758008 proto 76 metric 7600",
    ]


def test_a_stack_is_known_by_its_address_even_if_nothing_is_routed_to_it() -> None:
    """So that somebody can ping it: nothing asks who has an address where nothing is flooded."""
    one = world(options=Options(PRIVATE, dynamic=False))
    one.data = data(B)
    assert [line.split()[3] for line in shown(one.view()) if "neigh" in line] == ["192.168.100.2"]


def test_ipv6_underlay_and_overlay() -> None:
    space = config("stack-a", 1000, "fd00:100::/64", "fd00:100::1", "fd00:20::/64")
    one = world(space, facts=host("2001:db8::1/64"))
    one.data = data(peer("stack-b", "2001:db8::2", "fd00:100::2", "fd00:21::/64"))
    lines = shown(one.view())
    assert "ip address add fd00:100::1/64 dev vxlan1000 nodad noprefixroute" in lines
    assert any("local 2001:db8::1" in line and "mtu 1430" in line for line in lines)
    assert any(line.startswith("ip neigh add fd00:100::2 ") for line in lines)
    assert [row.next_hop for row in one.routes()] == [ip_address("fd00:100::2")]


def test_a_thousand_peers_from_data_to_plan() -> None:
    wide = stack(vxlan_subnets=(ip_network("172.31.0.0/16"),), local_vxlan_ips=(ip_address("172.31.0.1"),))
    peers = thousand()
    one = world(wide)
    one.data = data(*peers)
    began = time.process_time()
    view = one.view()
    took = time.process_time() - began
    assert view is not None
    assert took < 5
    made = plan(view)
    assert sum(isinstance(want.object, Fdb) for want in made.wanted.values()) == 1000
    one.data = data(*peers[:500], *peers[501:])
    later = one.view()
    assert later is not None
    assert len(plan(later, made).moved) < 10


@pytest.mark.parametrize("end", ["10.0.0.2", "10.0.0.9"])
def test_a_peer_without_a_way_for_ipv6_has_no_row(end: str) -> None:
    one = world(options=FLOOD)
    one.data = data(peer("stack-b", end, "192.168.100.2", "172.21.0.0/16,fd00:21::/64", mac=NO_MAC))
    assert [str(row.destination) for row in one.routes()] == ["172.21.0.0/16"]
