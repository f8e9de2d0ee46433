"""/health and /metrics of docker-router's two daemons, from real worlds and loops; read by Prometheus' own parser."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.namespace import namespace
from tests.support.needs import needs_root
from tests.support.stacks import data, peer, world
from tests.unit.test_peer_events import Notes
from weft.agent.cycles import BOUNDS, Cycles
from weft.agent.loop import Loop
from weft.agent.peer_events import PeerEvents
from weft.agent.reconcile import Reconciler
from weft.agent.router import RouterWorld
from weft.model import DiscoveryData, Known, Node, Peer, Profile, TextFile, View
from weft.targets.files import FileTarget
from weft.targets.kernel.statistics import LinkStatistics, Statistics
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget
from weft.web.discovery import DiscoveryPages
from weft.web.looping import Looping
from weft.web.metrics import Histogram, Metric, exposition
from weft.web.router import RouterPages

B = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16")
C = peer("stack-c", "10.0.0.3", "192.168.100.3", "172.22.0.0/16", status="stale")
OTHER = peer("stack-d", "10.0.0.4", "192.168.100.4", "172.23.0.0/16", vni=1001)
B2 = peer("stack-b", "10.0.0.5", "192.168.100.5", "172.21.0.0/16", id="stack-b-2")
NOW = 1_700_000_000.0


@dataclass
class Traces:
    sent: int = 3
    dropped: int = 1


def read(metrics: Iterable[Metric | Histogram]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus understands it."""
    text = exposition(metrics)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Router:
    """A router over a kernel in memory, with its pages."""

    def __init__(self, folder: Path) -> None:
        self.world = world()
        self.world.wishes = replace(self.world.wishes, routes_file=str(folder / "routes.json"))
        self.kernel = MemoryTarget((*KERNEL_KINDS, *FIREWALL_KINDS))
        self.loop: Loop[RouterWorld] = Loop(
            self.world, Reconciler([self.kernel, FileTarget((str(folder / "routes.json"),))]), 60.0
        )
        self.cycles = Cycles()
        self.events = PeerEvents(Notes())
        self.wall = [NOW]
        looping = Looping("router", self.loop, self.events, self.cycles, Traces(), lambda: self.wall[0])
        self.pages = RouterPages(looping, self.world, self.statistics)

    def statistics(self, names: Iterable[str]) -> dict[str, LinkStatistics]:
        return {name: LinkStatistics(1, 2, 3, 4, 5, 6, 7, 8) for name in names}

    async def takes(self, found: DiscoveryData) -> None:
        self.world.data = replace(found, last_update=NOW)
        self.events(found.peers)
        await self.loop.step()
        self.cycles.observe(self.loop)


async def test_health_of_a_router_begins_as_documented(tmp_path: Path) -> None:
    router = Router(tmp_path)
    page = router.pages.page()
    assert (page.status, page.message) == ("starting", "waiting for discovery")
    await router.takes(data(B, C, OTHER))
    answer = json.loads(msgspec.json.encode(router.pages.page()))
    assert list(answer)[:4] == ["status", "peer_count", "route_count", "uptime"]
    assert isinstance(answer["uptime"], int)
    assert (answer["status"], answer["peer_count"], answer["route_count"]) == ("healthy", 3, 2)
    assert (answer["peers"], answer["routed"]) == ({"active": 2, "stale": 1}, 2)
    assert (answer["routes"], answer["devices"]) == ({"static-config": 0, "discovery": 2}, ["vxlan1000"])
    assert (answer["waiting_for"], answer["problems"], answer["discovery_age"]) == ([], [], 0.0)


async def test_an_old_discovery_json_and_other_problems_are_told(tmp_path: Path) -> None:
    router = Router(tmp_path)
    await router.takes(data(B))
    router.wall[0] += 200
    page = router.pages.page()
    assert page.status == "degraded"
    assert page.message.startswith("discovery.json was last renewed 200 s ago")
    router.world.report("discovery.json", "discovery.json can't be read")
    page = router.pages.page()
    assert (page.status, page.message, page.problems) == ("degraded", "discovery.json can't be read", [page.message])


async def test_a_router_without_its_device_is_critical(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.kernel.put_foreign(("link", "vxlan1000"), "somebody's bridge")
    await router.takes(data(B))
    page = router.pages.page()
    assert page.status == "critical"
    assert page.message.endswith(": left alone: somebody's bridge")


async def test_metrics_of_a_router(tmp_path: Path) -> None:
    router = Router(tmp_path)
    await router.takes(data(B, B2, C, OTHER))
    await router.takes(data(B, B2, OTHER))
    await router.takes(data(B, OTHER))
    found = read(router.pages.metrics())
    tunnel = ("device", "vxlan1000")
    assert found["weft_health_status", (("status", "healthy"),)] == 1
    assert found["weft_peers", (("routed", "true"), ("status", "active"))] == 1
    assert found["weft_peers", (("routed", "false"), ("status", "active"))] == 1
    assert found["weft_routes", (("source", "discovery"),)] == 1
    assert found["weft_peer_events_total", (("event", "came"),)] == 4
    assert found["weft_peer_events_total", (("event", "gone"),)] == 2
    assert found["weft_route_changes_total", (("action", "add"),)] >= 2
    assert found["weft_route_changes_total", (("action", "remove"),)] >= 1
    for number, name in enumerate(("packets", "bytes", "errors", "drops")):
        for offset, direction in enumerate(("receive", "transmit")):
            key = f"weft_tunnel_{name}_total", (tunnel, ("direction", direction))
            assert found[key] == 2 * number + offset + 1, key
    assert found["weft_discovery_file_age_seconds", ()] == 0
    assert found["weft_cycle_seconds_count", ()] == 3
    assert found["weft_cycle_seconds_bucket", (("le", "+Inf"),)] == 3
    assert found["weft_cycle_seconds_sum", ()] == pytest.approx(router.cycles.seconds)
    buckets = [found["weft_cycle_seconds_bucket", (("le", repr(bound)),)] for bound in BOUNDS]
    assert buckets == sorted(buckets)
    assert found["weft_traces_total", (("outcome", "dropped"),)] == 1


async def test_several_ways_to_one_subnet_are_counted(tmp_path: Path) -> None:
    router = Router(tmp_path)
    await router.takes(data(B, B2))
    assert read(router.pages.metrics())["weft_nexthop_groups", (("device", "vxlan1000"),)] == 1


# Discovery. -----------------------------------------------------------------------------------------------------------


class Hears:
    """A discovery's world with one file to write."""

    name, mode, device, engine = "stack-a", "multicast", "", None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: tuple[Peer, ...] = ()
        self.broken: list[str] = []
        self.vouches = True

    @property
    def peers(self) -> Known[Node]:
        return Known(tuple(one.node for one in self.data), self.vouches)

    def view(self) -> View:
        files = (TextFile(str(self.path), str([one.node.id for one in self.data]), 0o640),)
        me = peer("stack-a", "10.0.0.1", "").node
        return View(replace(me, backend="alloc"), profile=Profile("discovery", plane=False), synced=True, files=files)

    def report(self, source: str, message: str) -> None:
        self.broken = [message] if message else []

    def problems(self) -> Iterable[object]:
        return iter(())

    def waiting(self) -> list[str]:
        return [] if self.vouches else ["discovery"]


async def test_health_and_metrics_of_a_discovery(tmp_path: Path) -> None:
    hears = Hears(tmp_path / "data" / "discovery.json")
    loop = Loop(hears, Reconciler([FileTarget((str(hears.path),))]), 5.0)  # type: ignore[type-var]
    counters = {"sent.HELLO": 7, "received.HELLO": 9, "received.own": 3, "refused.spoofed": 2, "updated.NOERROR": 4}
    cycles, events, ahead = Cycles(), PeerEvents(Notes()), [0.0]
    looping = Looping("discovery", loop, events, cycles, None, lambda: time.time() + ahead[0])
    pages = DiscoveryPages(looping, hears, lambda: counters)
    assert pages.page().status == "starting"

    async def hear(*peers: Peer) -> None:
        hears.data = peers
        events(peers)
        await loop.step()
        cycles.observe(loop)

    await hear(B, C)
    answer = json.loads(msgspec.json.encode(pages.page()))
    assert list(answer)[:4] == ["status", "peer_count", "route_count", "uptime"]
    assert (answer["status"], answer["peer_count"], answer["route_count"]) == ("healthy", 2, 2)
    assert (answer["peers"], answer["mode"], answer["complete"]) == ({"active": 1, "stale": 1}, "multicast", True)
    await hear(B)
    found = read(pages.metrics())
    assert found["weft_messages_total", (("direction", "received"), ("type", "HELLO"))] == 9
    assert found["weft_refused_total", (("reason", "spoofed"),)] == 2
    assert found["weft_discovery_total", (("what", "updated.NOERROR"),)] == 4
    assert found["weft_peer_events_total", (("event", "gone"),)] == 1
    assert (found["weft_file_writes_total", ()], found["weft_file_failures_total", ()]) == (2, 0)
    assert found["weft_discovery_mode", (("mode", "multicast"),)] == 1
    hears.path.unlink()
    hears.path.parent.rmdir()
    hears.path.parent.write_text("no folder")
    for _ in range(3):
        await hear(B, C)
    ahead[0] = 10.0
    page = pages.page()
    assert page.status == "critical"
    assert "discovery.json" in page.message
    assert read(pages.metrics())["weft_file_failures_total", ()] >= 2


# The kernel's counters. -----------------------------------------------------------------------------------------------


@needs_root
def test_the_kernel_counts_what_goes_through_a_link() -> None:
    with namespace("count") as ns:
        ns.ip("link add one type veth peer name two")
        ns.ip("address add 192.0.2.1/24 dev one")
        ns.ip("link set one up")
        ns.ip("link set two up")
        ns.run("ping", "-c1", "-W1", "-s", "1000", "-b", "192.0.2.255", check=False)
        statistics = Statistics(str(ns.path))
        found = statistics.of(["one", "missing", "lo"])
        statistics.close()
        told = ns.ip_json("-s link show dev one")[0]["stats64"]
        assert set(found) == {"one", "lo"}
        assert found["one"].tx_packets >= 1
        names = {"packets": "packets", "bytes": "bytes", "errors": "errors", "dropped": "dropped"}
        for direction in ("rx", "tx"):
            for mine, its in names.items():
                assert getattr(found["one"], f"{direction}_{mine}") <= told[direction][its]
        assert found["one"].tx_bytes > 1000 or found["one"].tx_packets == told["tx"]["packets"]
