"""Discovery by etcd on the store in memory and on a real etcd: the same keys, the same healing, the same end; and what
a real one alone has: certificates, users, another program's client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

import pytest

from tests.contract.stores import Case, EtcdCase, MemoryCase
from tests.support.etcd import Etcd, certificates, cluster, needs_etcd, needs_openssl
from tests.support.eventually import patience, soon
from tests.support.sets import reading
from weft.backends.tunnel import vtep_mac
from weft.discovery import DISCOVERIES, Discovery, Place
from weft.discovery.etcd import EtcdDiscovery
from weft.discovery.options import EtcdSettings
from weft.model import Known, Network, Node
from weft.settings.means import EtcdMeans, Means

PREFIX = "/docker-router/discovery"
TTL = 5


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with cluster() as one:
        yield one


@pytest.fixture(params=["memory", pytest.param("etcd", marks=needs_etcd)])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    made: Case = MemoryCase() if request.param == "memory" else EtcdCase(request.getfixturevalue("etcd"))
    yield made
    await made.close()


def node(number: int, *subnets: str) -> Node:
    texts = subnets or (f"172.{20 + number}.0.0/16",)
    return Node(
        id=f"stack-{number}",
        endpoints=(IPv4Address(f"10.0.1.{number}"),),
        port=4789,
        vni=1000,
        mac=vtep_mac(f"10.0.1.{number}", 1000),
        mtu=1500,
        networks=tuple(Network(text, (IPv4Network(text),), since=1.0) for text in texts),
        overlay=(IPv4Address(f"192.168.100.{number}"),),
        source="etcd",
        stack=f"stack-{number}",
    )


@dataclass
class Hosts:
    """Discoveries on one store, each followed."""

    case: Case
    runs: int = 0
    last: dict[EtcdDiscovery, Known[Node]] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, me: Node | None, name: str = "ear") -> EtcdDiscovery:
        self.runs += 1
        settings = EtcdSettings(me.id if me else name, f"run-{self.runs}", lease_ttl=TTL, goodbye_hold=0.0, plain=True)
        made = EtcdDiscovery(settings, self.case.store())
        self.last[made] = Known()
        if me is not None:
            made.announce(me)
        self.tasks.append(asyncio.create_task(self._follow(made)))
        return made

    async def _follow(self, discovery: EtcdDiscovery) -> None:
        async for known in discovery.peers():
            self.last[discovery] = known

    async def knows(self, discovery: EtcdDiscovery, *nodes: Node, timeout: float = 10.0) -> None:
        def so() -> bool:
            return self.last[discovery].complete and self.last[discovery].items == nodes

        await soon(so, f"{[one.id for one in nodes]} to be known", timeout)

    async def kill(self, discovery: EtcdDiscovery) -> None:
        await discovery._news.end()
        await discovery._lease.close()
        await discovery._store.close()

    async def end(self) -> None:
        for discovery in self.last:
            with contextlib.suppress(asyncio.CancelledError):
                await discovery.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def hosts(case: Case) -> AsyncIterator[Hosts]:
    made = Hosts(case)
    yield made
    await made.end()


async def test_hosts_know_each_other_and_changes_and_departures(hosts: Hosts) -> None:
    one, two = hosts.start(node(1)), hosts.start(node(2))
    await hosts.knows(one, node(2))
    await hosts.knows(two, node(1))
    two.announce(node(2, "172.30.0.0/16", "172.31.0.0/16"))
    await hosts.knows(one, node(2, "172.30.0.0/16", "172.31.0.0/16"))
    await two.close()
    hosts.case.wait(3)
    await hosts.knows(one)
    assert one.departed() == {"stack-2"}
    snapshot = await hosts.case.store().range(PREFIX)
    assert len({row.lease for row in snapshot.entries.rows}) == 1


async def test_what_is_deleted_or_revoked_is_back_and_a_restart_misses_no_key(hosts: Hosts) -> None:
    one, ear = hosts.start(node(1)), hosts.start(None)
    await hosts.knows(ear, node(1))
    hosts.case.other_delete(f"{PREFIX}/stack-1/host_ip")
    await soon(lambda: one.counters()["sent.registration"] == 2, "the registration to be mended")
    (row, *_) = (await hosts.case.store().range(PREFIX)).entries.rows
    await hosts.case.store().revoke(row.lease)
    await soon(lambda: one.counters()["sent.registration"] == 3, "the registration to be written anew")
    await hosts.knows(ear, node(1))
    async with contextlib.aclosing(hosts.case.store().watch(PREFIX)) as sets:
        assert len((await anext(sets)).entries) == 8
        former = one._lease.id
        await hosts.kill(one)
        again = hosts.start(node(1))
        async for snapshot in sets:
            assert len(snapshot.entries) == 8, "no key is missing at any revision"
            if former not in {entry.lease for entry in snapshot.entries.values()}:
                break
    assert again.counters()["sent.registration"] == 1


async def test_another_host_s_id_is_left_alone(hosts: Hosts) -> None:
    one = hosts.start(node(1))
    ear = hosts.start(None)
    await hosts.knows(ear, node(1))
    rival = hosts.start(replace(node(1), endpoints=(ip_address("10.0.1.9"),)))
    await soon(lambda: "another host, 10.0.1.1" in str(hosts.last[rival].problems), "the problem")
    await rival.close()
    assert hosts.last[ear].items == (node(1),)
    assert one.counters()["sent.registration"] == 1


async def test_an_outage_takes_nobody_away(hosts: Hosts) -> None:
    one, two = hosts.start(node(1)), hosts.start(node(2))
    await hosts.knows(one, node(2))
    hosts.case.outage()
    await soon(lambda: "trying again" in str(hosts.last[one].problems), "the outage to be noticed", 20)
    assert hosts.last[one].items == (node(2),)
    assert hosts.last[one].complete
    hosts.case.heal()
    two.announce(node(2, "172.30.0.0/16"))
    await hosts.knows(one, node(2, "172.30.0.0/16"), timeout=20)
    await soon(lambda: not hosts.last[one].problems, "the end of the problem")


# A real etcd alone. -------------------------------------------------------------------------------------------------


@needs_etcd
async def test_another_program_s_keys_and_what_etcdctl_sees_of_ours(etcd: Etcd) -> None:
    case = EtcdCase(etcd)
    hosts = Hosts(case)
    one = hosts.start(node(1))
    lease = etcd.ctl("lease", "grant", "600").split()[1]
    for name, value in {"host_ip": "10.0.2.6", "vni": "1000", "vxlan_endpoint": "10.0.2.6:4789"}.items():
        etcd.ctl("put", "--lease", lease, f"{PREFIX}/stack-b/{name}", value)
    await soon(lambda: [peer.id for peer in hosts.last[one].items] == ["stack-b"], "the plain peer")
    assert hosts.last[one].items[0].mac == bytes(6)
    await soon(lambda: one._registered, "the registration")
    assert etcd.ctl("get", "--print-value-only", f"{PREFIX}/stack-1/host_ip").strip() == "10.0.1.1"
    assert etcd.ctl("get", "--print-value-only", f"{PREFIX}/stack-1/vni").strip() == "1000"
    keys = etcd.ctl("get", "--prefix", "--keys-only", f"{PREFIX}/stack-1/").split()
    assert [key.rpartition("/")[2] for key in keys] == [
        *("host_ip", "last_seen", "networks", "stack_id", "vni", "vxlan_endpoint", "vxlan_ip", "weft")
    ]
    etcd.ctl("lease", "revoke", lease)  # what its end comes to
    await hosts.knows(one)
    assert one.departed() == set()
    await hosts.end()
    await case.close()


@needs_etcd
async def test_a_stack_that_joins_is_known_at_once(etcd: Etcd) -> None:
    """Each with a connection of its own: some 20 ms on an idle machine, and far from any interval on a busy one."""
    case = EtcdCase(etcd)
    hosts = Hosts(case)
    ear = hosts.start(None)
    await hosts.knows(ear)
    took: list[float] = []
    loop = asyncio.get_running_loop()
    for number in range(1, 16):
        begun = loop.time()
        hosts.start(node(number))
        await soon(lambda: len(hosts.last[ear].items) == number, f"host {number}")  # noqa: B023
        took.append(loop.time() - begun)
    await hosts.end()
    await case.close()
    print(f"join to known: p50 {statistics.median(took) * 1000:.1f} ms, worst {max(took) * 1000:.1f} ms")
    assert statistics.median(took) < patience(0.5), took


@needs_etcd
@needs_openssl
async def test_certificates_and_a_user(tmp_path: Path) -> None:
    """By the factory that the daemon calls; and a wrong password is a problem that names what is wrong."""
    tls = certificates(tmp_path)
    with cluster(options=tls.wanted, tls=tls) as etcd:
        etcd.enable_auth("docker-router", "secret", PREFIX)
        means = EtcdMeans(
            etcd.endpoints,
            username="docker-router",
            password="secret",
            cafile=str(tls.ca),
            certfile=str(tls.client_certificate),
            keyfile=str(tls.client_key),
        )

        def made(number: int, told: EtcdMeans) -> Discovery:
            place = Place(f"stack-{number}", "lo", ip_address(f"10.0.1.{number}"), f"run-{number}")
            discovery = DISCOVERIES["etcd"](Means(etcd=told), place)
            discovery.announce(node(number))
            return discovery

        one, two, three = made(1, means), made(2, means), made(3, replace(means, password="wrong"))
        async with reading(one.peers()) as sets, reading(three.peers()) as refused:
            await sets.wait(lambda known: known.items == (node(2),), "the other")
            told = await refused.wait(lambda known: bool(known.problems), "the refusal")
            assert "authentication failed" in str(told.problems)
            assert not told.complete
            for discovery in (one, two, three):
                await discovery.close()
        texts = etcd.ctl("--command-timeout", "20s", "get", "--prefix", "--print-value-only", f"{PREFIX}/stack-2/weft")
        assert json.loads(texts)["departed"] is True
