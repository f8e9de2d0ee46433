"""What `weft plan` prints can be typed: run in a namespace, the lines make what the targets make, and undo it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.build import network, node, uplink, view
from tests.support.namespace import Namespace, namespace
from weft.backends.tunnel import vtep_mac
from weft.core.commands import lines
from weft.core.diff import Facts, diff
from weft.core.plan import plan
from weft.core.ruleset import HOOKS
from weft.model import Host, Multipath, Profile, Relay, View
from weft.objects import ZERO_MAC, Chain, Jump, Key, Object, Op, Sysctl
from weft.targets.firewall import FirewallTarget
from weft.targets.kernel.target import KernelTarget

CHAINS = frozenset((family, table, chain) for family in (4, 6) for table, chain in HOOKS)
HOST = Host((uplink(),), chains=CHAINS)
OWN = (network("home", "10.1.0.0/24", "fd00:1::/64"),)
PEERS = (node("b", "192.0.2.2", "10.2.0.0/24", "fd00:2::/64"), node("c", "192.0.2.3", "10.3.0.0/24", mtu=1400))
MOVED = (node("b", "192.0.2.9", "10.2.0.0/24", mtu=1400),)


def of(*peers: object, host: Host = HOST) -> View:
    made = view(*peers, networks=OWN, host=host)  # type: ignore[arg-type]
    return replace(made, me=replace(made.me, overlay=(ip_address("10.1.0.1"), ip_address("fd00:1::1"))))


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace("commands") as made:
        yield made


class Rig:
    def __init__(self, ns: Namespace) -> None:
        self._ns = ns
        self.kernel = KernelTarget("weft:agent:a", vtep_mac("a", 4096), str(ns.path))
        self.firewall = FirewallTarget(str(ns.path), lambda dev: dev == "vxlan4096")

    async def held(self) -> dict[Key, Object]:
        found = {**(await self.kernel.read(full=True)).objects, **(await self.firewall.read(full=True)).objects}
        return {key: thing for key, thing in found.items() if not isinstance(thing, Sysctl)}

    def run(self, ops: tuple[Op, ...]) -> None:
        """Type it all, each target's lines as it says them before anything is changed."""
        firewall = [op for op in ops if isinstance(op.object, Chain | Jump)]
        rest = [op for op in ops if op not in firewall]
        for line in [*self.kernel.lines(rest), *self.firewall.lines(firewall)]:
            self._ns.run("sh", "-c", line)

    async def follow(self, target: View | None) -> None:
        """Type what turns the namespace into what this View asks for."""
        wanted = plan(target).wanted if target is not None else {}
        wanted = {key: want for key, want in wanted.items() if not isinstance(want.object, Sysctl)}
        self.run(diff(wanted, Facts(await self.held())).ops)
        assert await self.held() == {key: want.object for key, want in wanted.items()}

    def close(self) -> None:
        self.kernel.close()
        self.firewall.close()


@pytest.mark.parametrize("nexthop_objects", [True, False])
async def test_the_printed_lines_do_what_the_targets_do(ns: Namespace, nexthop_objects: bool) -> None:
    rig = Rig(ns)
    host = replace(HOST, nexthop_objects=nexthop_objects)
    try:
        await rig.follow(of(*PEERS, host=host))
        await rig.follow(of(*MOVED, host=host))
        await rig.follow(None)
    finally:
        rig.close()
    assert "vxlan" not in ns.run("ip", "link")
    assert "WEFT" not in ns.run("iptables-save") + ns.run("ip6tables-save")


async def test_the_printed_lines_of_a_router_do_what_the_targets_do(ns: Namespace) -> None:
    """Groups, flooding, learning, own addresses with their network: there, changed, and gone again."""
    rig = Rig(ns)
    ends = [Relay(n, (ip_address(f"192.0.2.{i}"),), vtep_mac(n, 4096)) for n, i in (("b", 2), ("c", 3), ("d", 4))]
    ways = (Multipath(ip_network("10.9.0.0/16"), tuple(ends), "test", "a test"),)
    peers = [replace(peer, mac=ZERO_MAC, overlay=(ip_address("10.1.0.7"), ip_address("fd00:1::7"))) for peer in PEERS]
    wide = Profile(gateway="overlay", spaces=(ip_network("10.1.0.0/24"), ip_network("fd00:1::/64")))
    first = replace(of(*peers), multipath=ways, profile=wide)
    fewer = (replace(ways[0], ends=ways[0].ends[:2]),)
    try:
        await rig.follow(first)
        await rig.follow(replace(first, multipath=fewer, profile=replace(wide, spaces=(), learning=True)))
        await rig.follow(replace(of(*PEERS), multipath=ways, profile=wide))
        await rig.follow(None)
    finally:
        rig.close()
    assert "vxlan" not in ns.run("ip", "link")


async def test_a_printed_jump_stays_behind_what_the_administrator_dropped(ns: Namespace) -> None:
    ns.run("iptables", "-N", "DOCKER-USER")
    ns.run("iptables", "-A", "DOCKER-USER", "-s", "10.66.0.0/24", "-j", "DROP")
    ns.run("iptables", "-A", "DOCKER-USER", "-j", "RETURN")
    rig = Rig(ns)
    try:
        host = replace(HOST, chains=CHAINS | {(4, "filter", "DOCKER-USER")})
        await rig.follow(of(host=host))
        ns.run("iptables", "-I", "DOCKER-USER", "3", "-s", "10.67.0.0/24", "-j", "DROP")
        ns.run("iptables", "-D", "DOCKER-USER", "-m", "comment", "--comment", "weft", "-j", "WEFT-vxlan4096-FWD")
        ns.run("iptables", "-A", "DOCKER-USER", "-m", "comment", "--comment", "weft", "-j", "WEFT-vxlan4096-FWD")
        await rig.follow(of(host=host))
    finally:
        rig.close()
    rules = [line.split("DOCKER-USER ")[1] for line in ns.run("iptables", "-S", "DOCKER-USER").splitlines()[1:]]
    assert [rule.split()[-1] for rule in rules] == ["DROP", "DROP", "WEFT-vxlan4096-FWD", "RETURN"]


def test_the_sysctl_line_is_one(ns: Namespace) -> None:
    (line,) = lines(Op("add", Sysctl("net/ipv4/ip_forward", "1"), next(iter(plan(of()).wanted.values())).why))
    ns.run("sh", "-c", line)
    assert ns.run("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"
