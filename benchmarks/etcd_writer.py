"""Writes flannel leases into the etcd of a benchmark, as a process inside its namespace.

Driven by `flanneld.py` over a pipe: a line of JSON `["put" | "delete", first, count, pace]` in, one with the
time.monotonic() of each commit out. `pace` is the seconds between two commits; 0 commits a hundred leases at a time, as
fast as it goes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from ipaddress import IPv4Address, IPv4Network

from weft.errors import StoreUnreachable
from weft.model import Mac
from weft.stores import Delete, Put
from weft.stores.etcd import EtcdOptions, EtcdStore
from weft.wire.flannel import Lease, Vtep, lease_key, lease_value

PREFIX = "/coreos.com/network"
CONFIG = b'{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.128.0.0","Backend":{"Type":"vxlan"}}'
ENDPOINT = "http://127.0.0.1:2379"
BATCH = 100
WAYS = 32
"""Commits under way at once in a burst."""


def lease(i: int) -> Lease:
    """Peer i: 10.x.y.0/24 from 10.1.0.0 on, at an address of 198.18/15 (RFC 2544)."""
    subnet = IPv4Network((0x0A010000 + 256 * i, 24))
    mac = Mac(b"\x02\x01" + i.to_bytes(4, "big"))
    return Lease(subnet, None, IPv4Address(0xC6120000 + i), None, "vxlan", Vtep(1, mac))


def subnet(i: int) -> str:
    return str(lease(i).subnet)


def change(verb: str, i: int) -> Put | Delete:
    key = f"{PREFIX}/subnets/{lease_key(lease(i))}"
    return Put(key, lease_value(lease(i))) if verb == "put" else Delete(key)


async def write(store: EtcdStore, verb: str, first: int, count: int, pace: float) -> list[float]:
    """When each commit was asked for."""
    changes = [change(verb, i) for i in range(first, first + count)]
    if not pace:
        for at in range(0, count, BATCH):
            await store.commit(changes[at : at + BATCH])
        return []
    started = time.monotonic()
    times: list[float] = []
    under_way = asyncio.Semaphore(WAYS)

    async def one(at: int, it: Put | Delete) -> None:
        async with under_way:
            await asyncio.sleep(max(0.0, started + at * pace - time.monotonic()))
            times.append(time.monotonic())
            await store.commit([it])

    await asyncio.gather(*(one(at, it) for at, it in enumerate(changes)))
    return times


async def main() -> None:
    store = EtcdStore(EtcdOptions((ENDPOINT,)))
    while True:
        try:
            await store.commit([Put(f"{PREFIX}/config", CONFIG)])
            break
        except StoreUnreachable:
            await asyncio.sleep(0.05)  # it is being started
    print(json.dumps([]), flush=True)
    for line in iter(sys.stdin.readline, ""):  # nothing else runs between two lines
        verb, first, count, pace = json.loads(line)
        print(json.dumps(await write(store, verb, first, count, pace)), flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())
