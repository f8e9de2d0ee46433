"""The lease keeper on a real etcd: races, restarts, and what etcdctl says of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import count

import pytest

from tests.support.etcd import Etcd, cluster, needs_etcd
from tests.support.eventually import soon
from weft.agent.leases import TTL, Keeper, KeeperOptions
from weft.agent.marker import Owner
from weft.core.tenancy import Candidate, Tenancy
from weft.errors import StoreError
from weft.model import Mac
from weft.stores.etcd import EtcdOptions, EtcdStore
from weft.wire.flannel import Vtep

pytestmark = needs_etcd
HOSTS = 100
CONFIG = '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'
DUAL = '{"EnableIPv6": true, "IPv6Network": "fc00:5::/48", "Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'
_numbers = count()


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with cluster() as one:
        yield one


@dataclass
class Host:
    """A daemon's keeper with a connection of its own."""

    store: EtcdStore
    keeper: Keeper
    seen: list[Tenancy] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                async for tenancy in self.keeper.tenancies():
                    self.seen.append(tenancy)
            await asyncio.sleep(0.1)

    @property
    def now(self) -> Tenancy:
        return self.seen[-1] if self.seen else Tenancy()


@dataclass
class Overlay:
    """A prefix of its own in the etcd that the module shares."""

    etcd: Etcd
    prefix: str
    hosts: list[Host] = field(default_factory=list)

    def host(self, number: int = 1) -> Host:
        ip = IPv4Address("192.0.2.0") + number
        store = EtcdStore(EtcdOptions(endpoints=self.etcd.endpoints))
        me = Owner(f"machine-{number}", f"host-{number}", f"run-{len(self.hosts)}")
        keeper = Keeper(store, KeeperOptions(self.prefix, me=me), dice=random.Random(number).random)
        keeper.tell(Candidate(ip, None, "vxlan", Vtep(1, Mac(b"\x82\x00" + ip.packed))))
        host = Host(store, keeper)
        host.task = asyncio.ensure_future(host.follow())
        self.hosts.append(host)
        return host

    async def leave(self, host: Host) -> None:
        """kill -9: nothing is said to etcd."""
        assert host.task is not None
        host.task.cancel()
        await asyncio.gather(host.task, return_exceptions=True)
        await host.store.close()
        self.hosts.remove(host)

    def keys(self) -> list[str]:
        return self.etcd.ctl("get", "--prefix", "--keys-only", f"{self.prefix}/subnets/").split()


@pytest.fixture
async def overlay(etcd: Etcd) -> AsyncIterator[Overlay]:
    made = Overlay(etcd, f"/test-{next(_numbers)}")
    etcd.ctl("put", f"{made.prefix}/config", CONFIG)
    yield made
    for host in list(made.hosts):
        await made.leave(host)


@pytest.mark.parametrize("config", [CONFIG, DUAL], ids=["IPv4", "dual stack"])
async def test_a_hundred_hosts_start_at_the_same_instant(overlay: Overlay, config: str) -> None:
    overlay.etcd.ctl("put", f"{overlay.prefix}/config", config)
    hosts = [overlay.host(number) for number in range(1, HOSTS + 1)]
    await soon(lambda: all(h.now.mine and len(h.now.others) == HOSTS - 1 for h in hosts), "all leases", timeout=60)
    assert len({h.now.mine.subnet for h in hosts if h.now.mine}) == HOSTS
    if config == DUAL:
        assert len({h.now.mine.subnet6 for h in hosts if h.now.mine}) == HOSTS
    assert len(overlay.keys()) == HOSTS
    assert not any(h.now.problems for h in hosts)
    assert all(len({t.mine for t in h.seen if t.mine}) == 1 for h in hosts), "a host moved after it had its lease"


async def test_the_key_hangs_on_a_lease_of_a_day_and_a_restart_keeps_both(overlay: Overlay) -> None:
    first = overlay.host()
    await soon(lambda: first.now.mine, "a lease")
    (key,) = overlay.keys()
    entry = await first.store.get(key)
    assert entry is not None
    assert TTL - 10 <= await first.store.remaining(entry.lease) <= TTL
    await overlay.leave(first)
    second = overlay.host()
    await soon(lambda: second.now.mine, "the lease again")
    assert second.now.mine == first.now.mine
    assert await second.store.get(key) == entry


async def test_deleted_by_hand_and_taken_by_force(overlay: Overlay) -> None:
    host = overlay.host()
    await soon(lambda: host.now.mine, "a lease")
    (key,) = overlay.keys()
    overlay.etcd.ctl("del", key)
    await soon(lambda: overlay.keys() == [key], "the key to be back")
    value = '{"PublicIP":"192.0.2.66","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"82:00:00:00:00:42"}}'  # noqa: E501
    overlay.etcd.ctl("put", key, value)
    await soon(lambda: any("is held by 192.0.2.66" in p.message for p in host.now.problems), "the conflict")
    assert overlay.etcd.ctl("get", "--print-value-only", key).strip() == value
    assert host.now.mine is not None
    assert host.now.others == ()
    overlay.etcd.ctl("del", key)
    await soon(lambda: not host.now.problems and "192.0.2.1" in overlay.etcd.ctl("get", key), "the subnet to be back")


async def test_an_etcd_lease_that_was_revoked_is_replaced(overlay: Overlay) -> None:
    host = overlay.host()
    await soon(lambda: host.now.mine, "a lease")
    (key,) = overlay.keys()
    entry = await host.store.get(key)
    assert entry is not None
    overlay.etcd.ctl("lease", "revoke", f"{entry.lease:x}")
    await soon(lambda: overlay.keys() == [key], "the key to be back")
    again = await host.store.get(key)
    assert again is not None
    assert again.value == entry.value
    assert again.lease not in (0, entry.lease)


async def test_etcd_goes_and_comes_back(overlay: Overlay) -> None:
    host = overlay.host()
    await soon(lambda: host.now.mine, "a lease")
    mine, member = host.now.mine, overlay.etcd.members[0]
    member.kill()
    seen = len(host.seen)
    member.start()
    overlay.etcd.ctl("put", f"{overlay.prefix}/subnets/10.5.250.0-24", '{"PublicIP":"192.0.2.250"}')
    await soon(lambda: len(host.now.others) == 1, "the new lease", timeout=30)
    assert all(t.mine == mine and t.complete for t in host.seen[seen:])
