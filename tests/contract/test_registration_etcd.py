"""A host's registration on the store in memory and on a real etcd: the same keys, the same healing, the same end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.contract.stores import Case, EtcdCase, MemoryCase, seen
from tests.support.etcd import Etcd, cluster, needs_etcd
from tests.support.eventually import soon
from weft.agent.marker import Owner
from weft.agent.registration import Registration, RegistrationOptions, init_config
from weft.core.registry import Announcement, Prefixes, Registry
from weft.errors import StoreError, WeftError
from weft.model import Mac, Network
from weft.stores import Entries, Put, Snapshot, Store
from weft.wire.flannel import Lease, Vtep, lease_value
from weft.wire.registrar import Status, entry_value

CFG = "/flannel/network/subnets"
FLANNEL = "/coreos.com/network"
CONFIG = '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'
BABKA = IPv4Address("192.168.4.88")
PITA = IPv4Address("192.168.4.99")


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with cluster() as one:
        yield one


@pytest.fixture(params=["memory", pytest.param("etcd", marks=needs_etcd)])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    made: Case = MemoryCase() if request.param == "memory" else EtcdCase(request.getfixturevalue("etcd"))
    yield made
    await made.close()


@dataclass
class Host:
    """A registrar's registration with a store of its own, followed for ever."""

    registration: Registration
    store: Store
    seen: list[Registry] = field(default_factory=list)
    broken: int = 0
    task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        while True:
            try:
                async for registry in self.registration.registries():
                    self.seen.append(registry)
            except StoreError:
                self.broken += 1
            await asyncio.sleep(0.05)

    @property
    def now(self) -> Registry:
        return self.seen[-1] if self.seen else Registry()

    def networks(self, host: str) -> tuple[Network, ...]:
        known = self.now.host(host)
        return known.networks if known is not None else ()

    def says(self, what: str) -> bool:
        return any(what in problem.message for problem in self.now.problems)


@dataclass
class Hosts:
    case: Case
    made: list[Host] = field(default_factory=list)

    def start(
        self, name: str, ip: IPv4Address, *networks: Network, machine: str = "", entries: tuple[Lease, ...] = ()
    ) -> Host:
        me = Owner(machine or f"machine-{ip}", name, f"run-{len(self.made)}")
        store = self.case.store()
        host = Host(Registration(store, RegistrationOptions(Prefixes(CFG, FLANNEL), 20, me)), store)
        host.registration.tell(Announcement(name, networks, Status(name, mac(ip), ip, ip), entries=entries))
        host.task = asyncio.ensure_future(host.follow())
        self.made.append(host)
        return host

    async def kill(self, host: Host) -> None:
        assert host.task is not None
        host.task.cancel()
        await asyncio.gather(host.task, return_exceptions=True)
        await host.registration.close()
        self.made.remove(host)

    async def below(self, prefix: str = CFG) -> Snapshot:
        return await self.case.store().range(f"{prefix}/")

    async def keys(self, prefix: str = CFG) -> set[str]:
        return {key.removeprefix(f"{prefix}/") for key in (await self.below(prefix)).entries}


@pytest.fixture
async def hosts(case: Case) -> AsyncIterator[Hosts]:
    made = Hosts(case)
    yield made
    for host in list(made.made):
        with contextlib.suppress(Exception):
            await made.kill(host)


def mac(ip: IPv4Address) -> Mac:
    return Mac(b"\x82\x00" + ip.packed)


def network(name: str, *subnets: str) -> Network:
    return Network(name, tuple(map(IPv4Network, subnets)), since=7.5)


WEB = network("web", "10.5.40.0/24", "10.6.0.0/24")
DB = network("db-1.x", "10.7.0.0/16")


async def test_two_hosts_know_each_others_networks(hosts: Hosts) -> None:
    one = hosts.start("babka", BABKA, WEB)
    other = hosts.start("PITA", PITA, DB)
    await soon(lambda: one.networks("PITA") == (DB,) and other.networks("babka") == (WEB,), "both to know both")
    assert await hosts.keys() == {
        *("_host_status/babka", "_weft/babka", "babka/web", "babka/web~2"),
        *("_host_status/PITA", "_weft/PITA", "PITA/db-1.x"),
    }
    rows = (await hosts.below()).entries.rows
    assert len({row.lease for row in rows}) == 2
    assert all(row.lease for row in rows)
    store = hosts.case.store()
    for lease in {row.lease for row in rows}:
        assert 50 <= await store.remaining(lease) <= 60
    one.registration.tell(Announcement("babka", (DB,), Status("babka", None, BABKA, BABKA)))
    await soon(lambda: other.networks("babka") == (DB,), "the change")
    assert not one.broken


async def test_what_is_deleted_by_hand_or_overwritten_is_back(hosts: Hosts) -> None:
    one = hosts.start("babka", BABKA, WEB)
    await soon(lambda: one.networks("babka"), "the registration")
    before = (await hosts.below()).entries
    hosts.case.other_delete(f"{CFG}/babka/web")
    hosts.case.other_put(f"{CFG}/babka/web~2", b"10.99.0.0/16")
    hosts.case.other_put(f"{CFG}/_weft/babka", b"{}")

    def lasting(entries: Entries) -> dict[str, tuple[bytes, int]]:
        return {k: (e.value, e.lease) for k, e in entries.items() if "status" not in k}

    async with contextlib.aclosing(hosts.case.store().watch(f"{CFG}/")) as sets:
        await seen(sets, lambda snapshot: lasting(snapshot.entries) == lasting(before))


async def test_a_lease_that_was_revoked_is_replaced(hosts: Hosts) -> None:
    one = hosts.start("babka", BABKA, WEB)
    await soon(lambda: one.networks("babka"), "the registration")
    (lease,) = {row.lease for row in (await hosts.below()).entries.rows}
    seen = len(one.seen)
    await hosts.case.store().revoke(lease)
    await soon(lambda: any(not registry.hosts for registry in one.seen[seen:]), "its keys to go")
    await soon(lambda: one.networks("babka"), "them to be back")
    (again,) = {row.lease for row in (await hosts.below()).entries.rows}
    assert again != lease


async def test_etcd_goes_and_comes_back(hosts: Hosts) -> None:
    one = hosts.start("babka", BABKA, WEB)
    await soon(lambda: one.networks("babka"), "the registration")
    before = await hosts.keys()
    hosts.case.outage()
    await soon(lambda: one.broken, "the outage to be noticed")
    seen = len(one.seen)
    one.registration.tell(Announcement("babka", (DB,), Status("babka", None, BABKA, BABKA)))
    hosts.case.heal()
    await soon(lambda: len(one.seen) > seen and one.networks("babka") == (DB,), "the change", timeout=30)
    assert all(registry.complete for registry in one.seen[seen:])
    assert await hosts.keys() == {*before, "babka/db-1.x"} - {"babka/web", "babka/web~2"}


async def test_falling_behind_a_compaction_is_no_error(hosts: Hosts) -> None:
    one = hosts.start("babka", BABKA, WEB)
    await soon(lambda: one.networks("babka"), "the registration")
    for number in range(5):
        hosts.case.other_put(f"{CFG}/pita/n", f"10.9.{number}.0/24".encode())
        hosts.case.compact()
    await soon(lambda: one.networks("pita") and "10.9.4" in str(one.networks("pita")), "the last word")
    assert not one.broken


async def test_a_restart_keeps_lease_and_keys(hosts: Hosts) -> None:
    one = hosts.start("babka", BABKA, WEB)
    await soon(lambda: one.networks("babka"), "the registration")
    before = {k: e for k, e in (await hosts.below()).entries.items() if k.startswith(f"{CFG}/babka")}
    await hosts.kill(one)
    two = hosts.start("babka", BABKA, WEB)
    me = two.registration
    await soon(
        lambda: (k := two.now.host("babka")) and k.note and k.note.instance == me._options.me.instance, "its note"
    )
    assert {k: e for k, e in (await hosts.below()).entries.items() if k.startswith(f"{CFG}/babka")} == before


async def test_another_live_host_of_this_name_is_left_alone(hosts: Hosts) -> None:
    one = hosts.start("babka", BABKA, WEB)
    await soon(lambda: one.networks("babka"), "the registration")
    before = (await hosts.below()).entries
    two = hosts.start("babka", PITA, DB)
    await soon(lambda: two.says("two hosts are called babka: the machine machine-192.168.4.88 at 192.168.4.88"), "it")
    assert two.says("machine-192.168.4.99")
    assert dict((await hosts.below()).entries) == dict(before)
    await one.registration.withdraw()
    await hosts.kill(one)
    await soon(lambda: two.networks("babka") == (DB,), "the name to be free")
    assert not two.says("two hosts")


async def test_entries_below_flannels_prefix(hosts: Hosts) -> None:
    """Ours outlives the registrar for as long as flannel's own lives, which is never detached from its lease."""
    store = hosts.case.store()
    own = Lease(IPv4Network("10.5.20.0/24"), None, BABKA, None, "vxlan", Vtep(1, mac(BABKA)))
    entry = Lease(IPv4Network("10.5.40.0/24"), None, BABKA, None, "vxlan", Vtep(1, mac(BABKA)))
    theirs = Lease(IPv4Network("10.5.41.0/24"), None, PITA, None, "vxlan", Vtep(1, mac(PITA)))
    wrong = Lease(IPv4Network("10.5.41.0/24"), None, BABKA, None, "vxlan", Vtep(1, mac(BABKA)))
    held = await store.grant(40000)
    await store.commit(
        [
            Put(f"{FLANNEL}/subnets/10.5.20.0-24", lease_value(own), held),
            Put(f"{FLANNEL}/subnets/10.5.41.0-24", lease_value(theirs)),
        ]
    )
    one = hosts.start("babka", BABKA, WEB, entries=(entry, wrong))
    await soon(lambda: one.now.entries == (entry,), "the entry")
    assert one.now.leases == (own, theirs)
    there = (await hosts.below(FLANNEL)).entries[f"{FLANNEL}/subnets/10.5.40.0-24"]
    assert there.value == entry_value(entry, "babka")
    assert 39900 <= await store.remaining(there.lease) <= await store.remaining(held) + 1
    await hosts.kill(one)
    one = hosts.start("babka", BABKA, WEB, entries=(entry, wrong))
    await soon(lambda: one.networks("babka") and one.says("10.5.41.0/24"), "a second run")
    assert (await hosts.below(FLANNEL)).entries[there.key] == there
    assert one.says("10.5.41.0/24 of this host (192.168.4.88) is held below flannel's prefix by 192.168.4.99")
    await one.registration.withdraw()
    rows = (await hosts.below(FLANNEL)).entries.rows
    assert [(row.key.rpartition("/")[2], row.value, row.lease) for row in rows] == [
        ("10.5.20.0-24", lease_value(own), held),
        ("10.5.41.0-24", lease_value(theirs), 0),
    ]
    assert rows[0].modified > rows[1].modified
    assert await hosts.keys() == set()


async def test_addresses_that_lead_nowhere_are_removed(hosts: Hosts) -> None:
    hosts.start("babka", BABKA, WEB)
    hosts.start("pita", PITA, DB)
    one, other = hosts.made
    key = f"{FLANNEL}/subnets/10.5.31.0-24"
    hosts.case.other_put(f"{FLANNEL}/subnets/10.5.30.0-24", b'{"PublicIP":"192.168.4.77"}')
    hosts.case.other_put(key, b'{"PublicIP":"127.0.0.1"}')
    await soon(lambda: one.says(key) or other.says(key), "the report")
    await soon(lambda: len(one.now.leases) == 1, "the good one")
    async with contextlib.aclosing(hosts.case.store().watch(f"{FLANNEL}/")) as sets:
        await seen(sets, lambda snapshot: list(snapshot.entries) == [f"{FLANNEL}/subnets/10.5.30.0-24"])


async def test_the_config_is_never_replaced(case: Case) -> None:
    store = case.store()
    assert "written" in await init_config(store, FLANNEL, CONFIG)
    with pytest.raises(WeftError, match="holds another config"):
        await init_config(store, FLANNEL, CONFIG.replace("10.5", "10.6"))
    entry = await store.get(f"{FLANNEL}/config")
    assert entry is not None
    assert entry.value == CONFIG.encode()


async def test_it_follows_a_real_etcdctl(hosts: Hosts) -> None:
    """The README's own check, and the old program's fault: its range ended before lowercase names."""
    if not isinstance(hosts.case, EtcdCase):
        pytest.skip("etcdctl speaks with etcd")
    etcd = hosts.case.etcd
    one = hosts.start("zz-lower.case", BABKA, WEB)
    await soon(lambda: one.networks("zz-lower.case"), "the registration")
    assert etcd.ctl("get", "--print-value-only", f"{CFG}/zz-lower.case/web").strip() == "10.5.40.0/24"
    assert etcd.ctl("get", "--prefix", "--keys-only", CFG).split() == [
        f"{CFG}/_host_status/zz-lower.case",
        f"{CFG}/_weft/zz-lower.case",
        f"{CFG}/zz-lower.case/web",
        f"{CFG}/zz-lower.case/web~2",
    ]
