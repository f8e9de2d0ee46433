"""Two hosts and a cable, WireGuard between them: pings go through, and what breaks is mended by the same cycle."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from itertools import groupby
from pathlib import Path

import pytest

from tests.build import node, view
from tests.support.eventually import patience, soon, until
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root, needs_wireguard
from weft.backends.tunnel import Tunnel
from weft.backends.wireguard import device, reach
from weft.core.diff import Facts, diff
from weft.core.plan import Wanted
from weft.model import IPNetwork, Node, Profile, WireguardEnd
from weft.objects import Key, Op, Why
from weft.targets import Target
from weft.targets.kernel.target import KernelTarget
from weft.targets.wireguard import WireguardTarget
from weft.targets.wireguard_tools import HostKey, Tools, host_key

pytestmark = [needs_root, needs_wireguard]

PSK = "c" * 42 + "c="
NETWORKS = (ip_network("10.5.0.0/16"), ip_network("fd00:5::/48"))


def inside(subnet: IPNetwork) -> bool:
    return any(subnet.version == n.version and subnet.subnet_of(n) for n in NETWORKS)  # type: ignore[arg-type]


@dataclass
class Host:
    """Host number n: 192.0.2.n in the underlay, 10.5.n.0/24 and fd00:5:0:n::/64 in the overlay, and a bridge with the
    first address of each."""

    ns: Namespace
    number: int
    key: HostKey
    peers: list[Node] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    @property
    def node(self) -> Node:
        subnets = (f"10.5.{self.number}.0/24", f"fd00:5:0:{self.number:x}::/64")
        made = node(f"h{self.number}", f"192.0.2.{self.number}", *subnets)
        overlay = tuple(ip_network(subnet).network_address for subnet in subnets)
        return replace(made, key=self.key.public, port=51820, overlay=overlay)

    def wanted(self) -> dict[Key, Wanted]:
        end = WireguardEnd(self.key.public, psk=PSK)
        profile = Profile(role="flanneld", device="flannel-wg", metric=100, gateway="overlay", wireguard=end)
        seen = replace(view(me=self.node, profile=profile), networks=self.node.networks)
        asked = [(device(seen, end), Why("settings", seen.me.id, "this host's end"))]
        asked += [pair for peer in self.peers for pair in reach(peer, Tunnel.of(seen), 0)]  # type: ignore[misc]
        return {thing.key: Wanted(thing, why) for thing, why in asked}

    def start(self, wake: asyncio.Event | None = None) -> None:
        """A daemon's targets, without memory."""
        path = str(self.ns.path)
        self.targets = [
            KernelTarget("weft:flanneld:me", netns=path, shared=inside),
            WireguardTarget(f"weft:flanneld:h{self.number}", self.key, ["flannel-wg"], path),
        ]
        for target in self.targets:
            if wake is not None:
                target.watch(wake.set)

    def stop(self) -> None:
        """The daemon ends; what it made stays."""
        for target in self.targets:
            target.close()
        self.targets = []

    async def cycle(self) -> tuple[Op, ...]:
        """What the reconciler does: read, diff, apply."""
        readings = [await target.read() for target in self.targets]
        actual = {key: thing for reading in readings for key, thing in reading.objects.items()}
        foreign = {key: who for reading in readings for key, who in reading.foreign.items()}
        changes = diff(self.wanted(), Facts(actual, foreign))
        target_of = {kind: target for target in self.targets for kind in target.kinds}
        for target, run in groupby(changes.ops, key=lambda op: target_of[type(op.object)]):
            failures = [answer for answer in await target.apply(list(run)) if answer is not None]
            assert failures == []
        assert not changes.conflicts
        return changes.ops

    def process(self) -> int:
        """The pid of this namespace's wireguard-go."""
        there = os.stat(self.ns.path).st_ino
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ends while we look
                if (folder / "comm").read_text() == "wireguard-go\n" and (folder / "ns/net").stat().st_ino == there:
                    return int(folder.name)
        return 0

    def close(self) -> None:
        self.stop()
        with contextlib.suppress(AssertionError):  # a test may have removed it
            self.ns.ip("link del flannel-wg")
        until(lambda: not self.process(), "wireguard-go to end")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    with namespace("wga") as a, namespace("wgb") as b:
        veth(a, "eth0", b, "eth0")
        made = []
        for number, ns in enumerate((a, b), 1):
            ns.ip(f"address add 192.0.2.{number}/24 dev eth0")
            ns.ip("link add br0 type bridge")
            ns.ip("link set br0 up")
            ns.ip(f"address add 10.5.{number}.1/24 dev br0")
            ns.ip(f"address add fd00:5:0:{number:x}::1/64 dev br0 nodad")
            made.append(Host(ns, number, asyncio.run(host_key(str(tmp_path / f"key{number}")))))
        made[0].peers, made[1].peers = [made[1].node], [made[0].node]
        try:
            yield made[0], made[1]
        finally:
            for host in made:
                host.close()


def answers(host: Host, address: str, *options: str) -> bool:
    words = host.ns.command("ping", "-c1", "-W1", *options, address)
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@contextlib.asynccontextmanager
async def pinged(host: Host, address: str) -> AsyncIterator[list[int]]:
    """A ping at 100 Hz around what is done inside; at its end the list holds how many were sent and how many lost."""
    words = host.ns.command("ping", "-n", "-i", "0.01", address)
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    counts: list[int] = []
    try:
        yield counts
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = await process.communicate()
        found = re.search(rb"(\d+) packets transmitted, (\d+) received", said)
        assert found, said
        counts += [int(found[1]), int(found[1]) - int(found[2])]


async def up(*hosts: Host) -> None:
    for host in hosts:
        host.start()
        await host.cycle()


async def test_pings_go_through_in_both_families(hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    await up(a, b)
    await soon(lambda: answers(a, "10.5.2.1"), "an answer over WireGuard")
    assert answers(b, "10.5.1.1")
    assert answers(a, "fd00:5:0:2::1")
    assert answers(a, "10.5.2.1", "-M", "do", "-s", str(1420 - 28)), "the MTU fits"
    assert not answers(a, "10.5.2.1", "-M", "do", "-s", str(1420 - 27))
    assert answers(a, "10.5.2.1", "-I", "10.5.1.1"), "from a container's network"
    assert await a.cycle() == await b.cycle() == ()
    dump = await Tools(str(a.ns.path)).dump("flannel-wg")
    assert dump is not None
    assert dump.handshakes[b.key.public] > 0
    (route,) = a.ns.ip_json("route show 10.5.2.0/24")
    assert (route["dev"], route["scope"], route["protocol"]) == ("flannel-wg", "link", "76")


async def test_a_peer_that_goes_and_comes_back(hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    await up(a, b)
    await soon(lambda: answers(a, "10.5.2.1"), "an answer over WireGuard")
    a.peers = []
    assert sorted(op.action for op in await a.cycle()) == ["remove"] * 3
    assert not answers(a, "10.5.2.1")
    a.peers = [b.node]
    assert sorted(op.action for op in await a.cycle()) == ["add"] * 3
    await soon(lambda: answers(a, "10.5.2.1"), "an answer over WireGuard")


async def test_another_psk_lets_nothing_through(hosts: tuple[Host, Host]) -> None:
    """So it is the key that makes the pings go, and not a way around the tunnel."""
    a, b = hosts
    await up(a, b)
    await soon(lambda: answers(a, "10.5.2.1"), "an answer over WireGuard")
    process = a.process()
    other = Tools(str(a.ns.path))
    await other.set("flannel-wg", ["peer", b.key.public, "remove"])
    assert not answers(a, "10.5.2.1")
    await a.targets[1].read(full=True)
    assert [op.action for op in await a.cycle()] == ["add"]
    await soon(lambda: answers(a, "10.5.2.1"), "an answer over WireGuard")
    assert a.process() == process


async def test_a_restart_under_ping_loses_nothing(hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    await up(a, b)
    await soon(lambda: answers(a, "10.5.2.1"), "an answer over WireGuard")
    process = a.process()
    async with pinged(a, "10.5.2.1") as counts:
        for _ in range(20):
            a.stop()
            a.start()
            assert await a.cycle() == ()
    sent, lost = counts
    assert sent > 5
    assert lost <= 1, "the last may have been under way"
    assert a.process() == process


async def test_a_killed_wireguard_go_is_mended(hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    woken = asyncio.Event()
    a.start(woken)
    await a.cycle()
    await up(b)
    await soon(lambda: answers(a, "10.5.2.1"), "an answer over WireGuard")
    while await a.cycle():
        continue
    for _ in range(3):
        woken.clear()
        os.kill(process := a.process(), signal.SIGKILL)
        begin = asyncio.get_running_loop().time()
        await asyncio.wait_for(woken.wait(), 60)
        ops = await a.cycle()
        while await a.cycle():
            continue
        mended = asyncio.get_running_loop().time() - begin
        assert [op.action for op in ops] == ["add"] * len(ops)
        assert a.process() not in (0, process)
        await soon(lambda: answers(a, "10.5.2.1"), "an answer over WireGuard")
        print(f"mended in {1000 * mended:.0f} ms")
        assert mended < patience(2.0)
    assert await a.cycle() == ()


async def test_a_peer_that_moved_is_where_it_is(hosts: tuple[Host, Host]) -> None:
    """Its last authentic packet came from another address than its lease says: that is no difference to be mended,
    neither for the one who asked for the other address nor after a restart."""
    a, b = hosts
    await up(a, b)
    await soon(lambda: answers(a, "10.5.2.1"), "an answer over WireGuard")
    b.ns.ip("address add 192.0.2.22/24 dev eth0")
    b.ns.ip("address del 192.0.2.2/24 dev eth0")
    a.ns.ip("neigh flush dev eth0")
    tools = Tools(str(a.ns.path))
    await tools.set("flannel-wg", ["peer", b.key.public, "endpoint", "192.0.2.22:51820"])

    async def endpoint() -> str:
        dump = await tools.dump("flannel-wg")
        assert dump is not None
        assert dump.peers[0].endpoint is not None
        return str(dump.peers[0].endpoint[0])

    await a.targets[1].read(full=True)
    assert await a.cycle() == ()
    a.stop()
    a.start()
    assert [op.action for op in await a.cycle()] == ["change"]
    assert await endpoint() == "192.0.2.22"
    assert await a.cycle() == ()
    moved = replace(b.node, endpoints=(ip_address("192.0.2.33"),))
    a.peers = [moved]
    await a.cycle()
    assert await endpoint() == "192.0.2.33", "a lease that changed is followed at once"
