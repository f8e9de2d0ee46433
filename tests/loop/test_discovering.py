"""What `weft discovery` makes of what it hears: the file, who is stale, and how often it is written."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from tests.build import known, node, uplink
from weft.agent.discovering import MODE, REFRESH, Clocks, DiscoveryWorld, Member
from weft.agent.loop import Loop
from weft.agent.reconcile import Reconciler
from weft.core.identity import Identity, Self
from weft.core.plan import plan
from weft.daemons.discovery import DiscoveryDaemon
from weft.discovery.multicast import Multicast
from weft.model import DiscoveryData, Host, Known, Network, Node, Peer, Problem
from weft.objects.outside import File
from weft.settings.discovery import load
from weft.targets.memory import MemoryTarget
from weft.wire.discovery_data import decode
from weft.wire.routing import StackConfig

HOST = Host((uplink("eth0", "192.0.2.1/24"),))
SHOP = StackConfig("shop", 1000, (), (ip_address("192.168.100.1"),))
B, C = (replace(node(name, f"192.0.2.{n}", f"10.{n}.0.0/24"), vni=1000, stack=name) for n, name in ((2, "b"), (3, "c")))


@dataclass
class Voice:
    """What an announcer tells beside the peers."""

    seen: dict[str, float] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def last_seen(self) -> dict[str, float]:
        return self.seen

    def departed(self) -> set[str]:
        return self.gone


@dataclass
class Scene:
    """A world whose clocks stand still until they are moved."""

    world: DiscoveryWorld
    voice: Voice
    now: list[float]
    told: list[tuple[Peer, ...]]

    def hears(self, *nodes: Node, complete: bool = True) -> None:
        self.world.members["shop"].known = known(*nodes, complete=complete)

    def file(self) -> tuple[str, DiscoveryData]:
        (text,) = self.world.view().files
        assert text.mode == MODE == 0o640
        assert text.path == "/data/discovery.json"
        return text.text, decode(text.text.encode())

    def states(self) -> dict[str, str]:
        return {peer.node.id: peer.status for peer in self.file()[1].peers}


def scene(*stacks: StackConfig) -> Scene:
    voice, now = Voice(), [1000.0]
    told: list[tuple[Peer, ...]] = []
    members = {
        stack.stack_id: Member(stack, Identity(stack.stack_id, 1000, 4789, "1"), voice)  # type: ignore[arg-type]
        for stack in stacks or (SHOP,)
    }
    clocks = Clocks(lambda: now[0], lambda: 1_700_000_000.0 + now[0])
    world = DiscoveryWorld("shop", "multicast", Path("/data"), 90.0, members, clocks, told.append, HOST)
    return Scene(world, voice, now, told)


def test_before_anything_is_heard_the_file_says_so() -> None:
    one = scene()
    one.world.host = None
    assert one.world.waiting() == ["host", "discovery"]
    data = one.file()[1]
    assert (data.complete, data.peers, data.here) == (False, (), ())


def test_the_plan_is_the_file_and_nothing_of_the_kernels() -> None:
    one = scene()
    one.hears(B)
    assert [type(want.object) for want in plan(one.world.view()).wanted.values()] == [File]


def test_peers_and_this_host_stand_in_the_file() -> None:
    one = scene()
    one.hears(B, C)
    one.voice.seen = {"b": 1_700_000_900.0}
    data = one.file()[1]
    assert data.complete
    assert [(peer.node.id, peer.last_seen) for peer in data.peers] == [("b", 1_700_000_900.0), ("c", 0.0)]
    (own,) = data.here
    assert (own.node.id, own.node.stack, own.node.overlay) == ("shop", "shop", SHOP.local_vxlan_ips)
    assert one.world.waiting() == []


def test_who_falls_silent_is_stale_and_then_gone() -> None:
    one = scene()
    one.hears(B, C)
    assert one.states() == {"b": "active", "c": "active"}
    one.hears(C)
    assert one.states() == {"b": "stale", "c": "active"}
    assert one.world.next_change == one.now[0] + 90
    one.now[0] += 89
    assert one.states()["b"] == "stale"
    one.now[0] += 2
    assert one.states() == {"c": "active"}
    assert [[(p.node.id, p.status) for p in told] for told in one.told] == [
        [("b", "active"), ("c", "active")],
        [("b", "stale"), ("c", "active")],
        [("c", "active")],
    ]


def test_who_said_goodbye_is_gone_at_once() -> None:
    one = scene()
    one.hears(B, C)
    one.states()
    one.hears(C)
    one.voice.gone = {"b"}
    assert one.states() == {"c": "active"}


def test_the_file_is_written_when_something_changed_and_every_so_often() -> None:
    one = scene()
    one.hears(B)
    one.voice.seen = {"b": 1_700_001_000.0}
    first = one.file()[0]
    one.now[0] += REFRESH - 0.1
    one.voice.seen = {"b": 1_700_001_004.0}
    assert one.file()[0] == first, "nothing but the time went on"
    one.now[0] += 0.2
    assert one.file()[1].peers[0].last_seen == 1_700_001_004.0
    before = one.file()[0]
    one.world.report("disk", "full")
    assert one.file()[0] != before
    assert [problem.message for problem in one.file()[1].problems] == ["full"]
    one.world.report("disk", "")
    assert one.file()[1].problems == ()


def test_several_stacks_are_told_by_one_file_and_are_not_their_own_peers() -> None:
    blog = StackConfig("blog", 1001, (), (ip_address("192.168.101.1"),))
    one = scene(SHOP, blog)
    own = replace(B, id="blog", stack="blog", endpoints=(ip_address("192.0.2.1"),))
    one.world.members["shop"].known = known(B, own)
    assert one.world.waiting() == ["discovery"]
    one.world.members["blog"].known = Known((C,), True, (Problem("x", "odd"),))
    data = one.file()[1]
    assert [peer.node.id for peer in data.peers] == ["b", "c"]
    assert [peer.node.id for peer in data.here] == ["blog", "shop"]
    assert [problem.message for problem in data.problems] == ["odd"]
    assert one.world.waiting() == []


def test_of_several_stacks_the_one_that_heard_a_peer_last_tells_when() -> None:
    one = scene(SHOP, StackConfig("blog", 1000))
    for member in one.world.members.values():
        member.known = known(B)
    early, late = Voice({"b": 1e9}), Voice({"b": 1e9 + 5})
    for order in ((early, late), (late, early)):
        for member, voice in zip(one.world.members.values(), order, strict=True):
            member.announcer = voice  # type: ignore[assignment]
        one.now[0] += REFRESH
        assert [peer.last_seen for peer in one.file()[1].peers] == [1e9 + 5]


def test_a_host_without_uplink_says_why_it_announces_nothing() -> None:
    one = scene()
    one.world.host = Host()
    data = one.file()[1]
    assert data.here == ()
    assert "no default route" in data.problems[0].message


def test_its_address_is_kept_while_the_host_has_it() -> None:
    one = scene()
    one.file()
    one.world.host = Host((uplink("eth0", "192.0.2.9/24", "192.0.2.1/24"),))
    assert [str(peer.node.endpoints[0]) for peer in one.file()[1].here] == ["192.0.2.1"]
    one.world.host = Host((uplink("eth0", "2001:db8::1/64", default=(6,)),))
    data = one.file()[1]
    assert data.here == ()
    assert "lost its address 192.0.2.1" in data.problems[0].message


def test_its_networks_are_those_of_its_stacks() -> None:
    web = Network("web", (), since=0.0)
    one = scene(replace(SHOP, networks=(web,)))
    assert one.world.engine.items == (web,)
    assert one.world.device == ""


def test_a_host_of_both_versions_speaks_to_a_group_of_either(tmp_path: Path) -> None:
    here = Self(node("shop", "192.0.2.1,fd00::1"), 4, "eth0")
    for group, source in (("ff12::4790", "fd00::1"), ("239.1.1.1", "192.0.2.1")):
        settings, _ = load({"STACK_ID": "shop", "VNI": "1000", "MULTICAST_GROUP": group, "DATA_DIR": str(tmp_path)})
        made = DiscoveryDaemon(settings, (SHOP,)).world.members["shop"].announcer._make(here)
        assert isinstance(made, Multicast)
        assert (str(made._settings.source), str(made._settings.group)) == (source, group)


async def test_a_file_that_is_written_again_and_again_is_not_kept_again_and_again() -> None:
    one = scene()
    one.hears(*(replace(B, id=f"b{number}", stack=f"b{number}") for number in range(200)))
    files = MemoryTarget((File,), "files")
    loop = Loop(one.world, Reconciler((files,)), 3600.0)

    async def write(times: int) -> int:
        """Octets that are held afterwards."""
        for _ in range(times):
            one.now[0] += REFRESH
            report = await loop.step()
            assert report is not None
            assert len(report.done) == 1
            files.applied.clear()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = await write(5)
        grown = await write(50) - before
    finally:
        tracemalloc.stop()
    assert grown < 3 * len(one.file()[0]), "the account of what was done holds no contents"
    assert [event.what for event in loop.reconciler.account.events] == ["file /data/discovery.json"] * 55
