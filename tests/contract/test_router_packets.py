"""Packets between docker-router's hosts, on real kernels: flooding, several ends of one subnet, an address's length.

Three hosts on one segment. What each has is what `plan` says; nothing here knows how it comes about.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address, ip_network

import pytest

from tests.build import network, uplink
from tests.contract.targets import done
from tests.support.eventually import until
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root
from weft.backends.tunnel import vtep_mac
from weft.core.diff import Facts, diff
from weft.core.plan import Plan, plan
from weft.model import Host, Multipath, Node, Profile, Relay, View
from weft.objects import ZERO_MAC, Op, Route, Sysctl
from weft.targets.kernel.target import KernelTarget

pytestmark = needs_root

VNI = 1000
DEV = f"vxlan{VNI}"
NUMBERS = {"a": 1, "r1": 11, "r2": 12}
SPACES = (ip_network("192.168.100.0/24"), ip_network("fd00:100::/64"))
SHARED = "172.30.0.0/16", "fd00:30::/64"
"""The subnets that both r1 and r2 take packets for."""
PINGS = 250


@dataclass
class Rig:
    """`silent`: nobody told a MAC. `several`: the routers that a knows for `SHARED`."""

    profile: Profile
    silent: bool = False
    spaces: dict[str, Namespace] = field(default_factory=dict)
    targets: dict[str, KernelTarget] = field(default_factory=dict)

    def node(self, name: str) -> Node:
        number = NUMBERS[name]
        endpoint = ip_address(f"192.0.2.{number}" if self.profile.underlay == 4 else f"2001:db8::{number}")
        own = (network("own", "172.20.0.0/16", "fd00:20::/64"),) if name == "a" else ()
        overlay = tuple(ip_address(f"{prefix}{number}") for prefix in ("192.168.100.", "fd00:100::"))
        mac = vtep_mac(str(endpoint), VNI)
        return Node(name, (endpoint,), 4789, VNI, mac, 1500, own, overlay, source="discovery.json")

    def view(self, name: str, ends: tuple[str, ...]) -> View:
        told = {other: self.node(other) for other in NUMBERS if other != name}
        if self.silent:
            told = {other: replace(node, mac=ZERO_MAC) for other, node in told.items()}
        me = self.node(name)
        ways: tuple[Multipath, ...] = ()
        if name == "a" and len(ends) == 1:
            told[ends[0]] = replace(told[ends[0]], networks=(network("shared", *SHARED),))
        elif name == "a":
            relays = tuple(Relay(n.id, n.endpoints, n.mac, n.overlay) for n in map(told.__getitem__, ends))
            ways = tuple(Multipath(ip_network(s), relays, "discovery.json", f"network {s}") for s in SHARED)
        nodes, host = tuple(sorted(told.values(), key=lambda n: n.id)), Host((uplink(),))
        return View(me, me.networks, nodes, host=host, profile=self.profile, synced=True, multipath=ways)

    async def mend(self, *ends: str) -> dict[str, tuple[Op, ...]]:
        """Every host has what its plan says, a with these ends; what that took."""
        made = {}
        for name, target in self.targets.items():
            reading = await target.read(full=True)
            ops = diff(plan(self.view(name, ends)).wanted, Facts(reading.objects, reading.foreign)).ops
            await done(target, ops)
            made[name] = ops
        return made

    def received(self, name: str) -> int:
        """Packets that came out of its tunnel."""
        (link,) = self.spaces[name].ip_json(f"-s link show {DEV}")
        return int(link["stats64"]["rx"]["packets"])

    @contextmanager
    def pinged(self, *targets: str) -> Iterator[None]:
        """Inside, a sends a packet to each of these every few milliseconds; afterwards, every one was answered."""
        sources = {target: "172.20.0.1" if "." in target else "fd00:20::1" for target in targets}
        command = ("ping", "-nq", "-i0.004", f"-c{PINGS}", "-W2")
        running = {
            target: subprocess.Popen(
                self.spaces["a"].command(*command, "-I", source, target), stdout=subprocess.PIPE, text=True
            )
            for target, source in sources.items()
        }
        try:
            yield
            said = {target: process.communicate(timeout=120)[0] for target, process in running.items()}
        finally:
            for process in running.values():
                process.kill()
                process.wait()
        lost = {target: re.search(r"(\d+) received", text) for target, text in said.items()}
        assert {target: int(found[1]) if found else 0 for target, found in lost.items()} == dict.fromkeys(
            targets, PINGS
        )


@contextmanager
def rig(profile: Profile, silent: bool = False) -> Iterator[Rig]:
    with ExitStack() as stack:
        made = Rig(profile, silent)
        switch = stack.enter_context(namespace("switch"))
        switch.ip("link add br0 type bridge")
        switch.ip("link set br0 up")
        for name, number in NUMBERS.items():
            space = made.spaces[name] = stack.enter_context(namespace(name))
            veth(space, "up0", switch, f"port-{name}")
            switch.ip(f"link set port-{name} master br0")
            space.ip(f"address add 192.0.2.{number}/24 dev up0")
            space.ip(f"address add 2001:db8::{number}/64 dev up0 nodad")
            own = [f"172.30.0.{n}/32" for n in range(1, 9)] + [f"fd00:30::{n}/128" for n in range(1, 5)]
            for address in own if name != "a" else ("172.20.0.1/32", "fd00:20::1/128"):
                space.ip(f"address add {address} dev lo")
            made.targets[name] = KernelTarget(f"weft:router:{name}", made.node(name).mac, str(space.path), DEV)
            stack.callback(made.targets[name].close)
        yield made


MANY = (*(f"172.30.0.{n}" for n in range(1, 9)), *(f"fd00:30::{n}" for n in range(1, 5)))


async def test_an_end_goes_and_comes_back_and_no_packet_is_lost() -> None:
    with rig(Profile("router", gateway="overlay", spaces=SPACES)) as hosts:
        await hosts.mend("r1", "r2")
        before = {name: hosts.received(name) for name in ("r1", "r2")}
        with hosts.pinged(*MANY):
            until(lambda: all(hosts.received(r) > before[r] + 50 for r in before), "flows go over both ends")
            ops = await hosts.mend("r1")
            rest = hosts.received("r2")
            await hosts.mend("r1", "r2")
            until(lambda: hosts.received("r2") > rest + 50, "flows go over both ends again")
        assert not any(ops[name] for name in ("r1", "r2"))
        with hosts.pinged(*MANY):
            await hosts.mend("r1")
            hosts.spaces["r2"].ip("link set up0 down")


async def test_an_end_that_goes_touches_no_route() -> None:
    """No route is touched: all of them are on the group, whoever is in it."""
    with rig(Profile("router", gateway="overlay", spaces=SPACES)) as hosts:
        await hosts.mend("r1", "r2")
        view = hosts.view("a", ("r1", "r2"))
        with_one = replace(view, multipath=tuple(replace(way, ends=way.ends[:1]) for way in view.multipath))
        target = hosts.targets["a"]
        with hosts.pinged(*MANY):
            for now in (with_one, view, with_one, view):
                reading = await target.read()
                ops = diff(plan(now).wanted, Facts(reading.objects, reading.foreign)).ops
                assert not any(isinstance(op.object, Route) for op in ops)
                await done(target, ops)


def answered(ping: Callable[[], str]) -> bool:
    return " 0% packet loss" in ping()


@pytest.mark.parametrize(("how", "underlay"), [("silent", 4), ("silent, learning", 6), ("flood", 4)])
async def test_peers_are_reached_by_flooding(how: str, underlay: int) -> None:
    """IPv6 has to wait for the devices' link-local addresses, for 2 s or as long as the machine takes for that; who
    asks for a neighbour before may be told that there is none."""
    learning = "learning" in how or how == "flood"
    profile = Profile("router", underlay=underlay, learning=learning, gateway="overlay", spaces=SPACES)
    with rig(replace(profile, flood=how == "flood"), silent="silent" in how) as hosts:
        await hosts.mend("r1", "r2")
        for target in ("172.30.0.1", "192.168.100.11", "fd00:30::1", "fd00:100::12")[: 2 if underlay == 4 else 4]:
            source = () if "100" in target else ("-I", "172.20.0.1" if "." in target else "fd00:20::1")
            ping = partial(hosts.spaces["a"].run, "ping", "-nc1", "-W5", *source, target, check=":" not in target)
            until(partial(answered, ping), f"an answer of {target}", 20)
        entries = hosts.spaces["a"].bridge_json(f"fdb show dev {DEV}")
        learned = [entry["mac"] for entry in entries if "permanent" not in entry.get("state", "")]
        assert bool(learned) == learning
        assert all(entry["mac"] == "00:00:00:00:00:00" for entry in entries if entry.get("state") == "permanent")
        assert not any((await hosts.mend("r1", "r2")).values()), "what was learned disturbs nothing"


async def test_an_own_address_changes_its_length_under_traffic() -> None:
    wide = Profile("router", gateway="overlay", spaces=SPACES)
    with rig(replace(wide, spaces=())) as hosts:
        await hosts.mend("r1", "r2")
        routes = len(hosts.spaces["a"].ip_json("route show proto 76"))
        with hosts.pinged("172.30.0.1", "172.30.0.2", "fd00:30::1"):
            for profile in (wide, replace(wide, spaces=()), wide):
                hosts.profile = profile
                await hosts.mend("r1", "r2")
        assert len(hosts.spaces["a"].ip_json("route show proto 76")) == routes + 1
        hosts.spaces["a"].run("ping", "-nc1", "-W5", "192.168.100.11")
        hosts.spaces["a"].run("ping", "-nc1", "-W5", "fd00:100::11")


async def test_learning_changes_in_place_under_traffic() -> None:
    static = Profile("router", gateway="overlay", spaces=SPACES)
    with rig(static) as hosts:
        await hosts.mend("r1", "r2")
        (before,) = hosts.spaces["a"].ip_json(f"link show {DEV}")
        with hosts.pinged("172.30.0.1", "fd00:30::1"):
            for learning in (True, False):
                hosts.profile = replace(static, learning=learning)
                ops = await hosts.mend("r1", "r2")
                assert [op.action for op in ops["a"]] == ["change"]
                (link,) = hosts.spaces["a"].ip_json(f"link show {DEV}")
                assert (link["ifindex"], link["linkinfo"]["info_data"]["learning"]) == (before["ifindex"], learning)


async def test_of_two_routers_with_one_vni_the_second_reports_a_conflict() -> None:
    """Both would give the device the same name and MAC, and one of them has."""
    with rig(Profile("router", gateway="overlay", spaces=SPACES)) as hosts:
        await hosts.mend("r1", "r2")
        second = KernelTarget("weft:router:second", hosts.node("a").mac, str(hosts.spaces["a"].path), DEV)
        with closing(second):
            reading = await second.read(full=True)
            view = replace(hosts.view("a", ("r1", "r2")), profile=replace(hosts.profile, mark="second"))
            changes = diff(plan(view).wanted, Facts(reading.objects, reading.foreign))
            assert changes.conflicts["link", DEV] == "a vxlan marked weft:router:a"
            assert not [op for op in changes.ops if not isinstance(op.object, Sysctl)]
            assert second.taken(DEV)
        assert not any((await hosts.mend("r1", "r2")).values())


async def test_routers_with_a_vni_each_do_not_disturb_each_other() -> None:
    with rig(Profile("router", gateway="overlay", spaces=SPACES)) as hosts:
        await hosts.mend("r1", "r2")
        mac = vtep_mac("192.0.2.1", 1001)
        second = KernelTarget("weft:router:second", mac, str(hosts.spaces["a"].path), "vxlan1001")
        with closing(second):
            profile = replace(hosts.profile, mark="second", spaces=(ip_network("192.168.101.0/24"),))
            view = replace(hosts.view("a", ("r1", "r2")), profile=profile, multipath=())
            view = replace(view, me=replace(view.me, vni=1001, mac=mac, overlay=(ip_address("192.168.101.1"),)))
            wanted = plan(view).wanted
            with hosts.pinged("172.30.0.1", "fd00:30::1"):
                for demanded in (wanted, Plan().wanted, wanted):
                    reading = await second.read(full=True)
                    await done(second, diff(demanded, Facts(reading.objects, reading.foreign)).ops)
                    assert not any((await hosts.mend("r1", "r2")).values())
