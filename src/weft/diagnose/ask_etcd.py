"""etcd, asked: whether each member answers and how quickly, and everything below flannel's and the registrar's
prefixes. Called by `collect.py`; nothing is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

import msgspec

from weft.diagnose.facts import EndpointFacts, EtcdFacts, HostStatus, LeaseFacts, Registration
from weft.errors import StoreError, StoreForbidden, WireError
from weft.model import IPAddress, mac_text
from weft.stores import Entry
from weft.stores.etcd import EtcdOptions, EtcdStore
from weft.wire.flannel import NAMES, Lease, Vtep, VxlanBackend, parse_lease
from weft.wire.flannel_config import parse_config
from weft.wire.registrar import (
    NetworkKey,
    NoteKey,
    StatusKey,
    is_nowhere,
    parse_key,
    parse_note,
    parse_status,
    parse_subnet,
    registrar_of,
)


@dataclass(frozen=True, slots=True)
class Where:
    """Where the keys are: FLANNEL_PREFIX and FLANNEL_CONFIG_PREFIX, without a slash at their ends."""

    options: EtcdOptions
    flannel: str
    config: str


async def etcd(where: Where) -> EtcdFacts:
    """Never raises for what etcd answers or doesn't."""
    endpoints = await asyncio.gather(*(_endpoint(url, where) for url in where.options.endpoints))
    store = EtcdStore(where.options)
    try:
        flannel = (await store.range(f"{where.flannel}/")).entries
        registry = (await store.range(f"{where.config}/")).entries
    except StoreError as error:
        return EtcdFacts(tuple(endpoints), error=str(error), forbidden=isinstance(error, StoreForbidden))
    finally:
        await store.close()
    return read(where, flannel, registry, tuple(endpoints))


async def _endpoint(url: str, where: Where) -> EndpointFacts:
    store = EtcdStore(replace(where.options, endpoints=(url,)))
    try:
        await store.get(f"{where.flannel}/config")  # the first answer has the connection in it
        began = time.perf_counter()
        await store.get(f"{where.flannel}/config")
        return EndpointFacts(url, (time.perf_counter() - began) * 1000)
    except StoreError as error:
        return EndpointFacts(url, error=str(error), forbidden=isinstance(error, StoreForbidden))
    finally:
        await store.close()


def read(
    where: Where, flannel: Mapping[str, Entry], registry: Mapping[str, Entry], endpoints: tuple[EndpointFacts, ...]
) -> EtcdFacts:
    """What the keys say. Those that can't be read are flaws, and the others count."""
    flaws: list[str] = []
    nowhere = [key for key, entry in (*flannel.items(), *registry.items()) if is_nowhere(entry.value)]
    registrations, hosts = _registry(where.config, registry, flaws)
    leases = tuple(_leases(f"{where.flannel}/subnets/", flannel, flaws, nowhere))
    base = EtcdFacts(
        endpoints=endpoints,
        leases=leases,
        registrations=tuple(registrations),
        hosts=tuple(hosts),
        nowhere=tuple(nowhere),
        flaws=tuple(flaws),
    )
    return _with_config(base, flannel.get(f"{where.flannel}/config"))


def _with_config(facts: EtcdFacts, entry: Entry | None) -> EtcdFacts:
    if entry is None:
        return facts
    text = entry.value.decode("utf-8", "replace")
    try:
        config = parse_config(entry.value)
    except WireError as error:
        return msgspec.structs.replace(facts, config=text, config_error=str(error))
    pools = tuple(pool.network for pool in (config.ipv4, config.ipv6) if pool is not None)
    backend = config.backend
    vni, port = (backend.vni, backend.port) if isinstance(backend, VxlanBackend) else (0, 0)
    return msgspec.structs.replace(facts, config=text, network=pools, backend=NAMES[type(backend)], vni=vni, port=port)


def _leases(below: str, entries: Mapping[str, Entry], flaws: list[str], nowhere: list[str]) -> Iterator[LeaseFacts]:
    for key, entry in entries.items():
        if not key.startswith(below) or key in nowhere:
            continue
        try:
            lease = parse_lease(key, entry.value)
        except WireError as error:
            flaws.append(str(error))
            continue
        yield from _families(key, lease, entry, bool(registrar_of(entry.value)))


def _families(key: str, lease: Lease, entry: Entry, of_registrar: bool) -> Iterator[LeaseFacts]:
    both = ((lease.subnet, lease.public_ip, lease.data), (lease.subnet6, lease.public_ip6, lease.data6))
    for subnet, address, data in both:
        if subnet is None:
            continue
        vtep = data if isinstance(data, Vtep) else None
        yield LeaseFacts(
            key,
            subnet,
            address or lease.public_ip or lease.public_ip6 or ip_address(0),
            lease.backend,
            mac_text(vtep.mac) if vtep is not None else "",
            vtep.vni if vtep is not None else 0,
            of_registrar,
            not entry.lease,
        )


def _registry(
    prefix: str, entries: Mapping[str, Entry], flaws: list[str]
) -> tuple[list[Registration], list[HostStatus]]:
    registrations: list[Registration] = []
    hosts: dict[str, HostStatus] = {}
    for key, entry in entries.items():
        parsed = parse_key(key.removeprefix(f"{prefix}/"))
        try:
            match parsed:
                case NetworkKey():
                    subnet = parse_subnet(entry.value, key)
                    name = f"{parsed.network}~{parsed.ordinal}" if parsed.ordinal > 1 else parsed.network
                    registrations.append(Registration(parsed.host, name, subnet, bool(entry.lease)))
                case StatusKey() | NoteKey():
                    hosts[parsed.host] = _host(hosts.get(parsed.host, HostStatus(parsed.host)), parsed, entry)
        except WireError as error:
            flaws.append(str(error))
    return registrations, [hosts[name] for name in sorted(hosts)]


def _host(known: HostStatus, key: StatusKey | NoteKey, entry: Entry) -> HostStatus:
    if isinstance(key, StatusKey):
        status = parse_status(key.host, entry.value)
        address: IPAddress | None = status.address
        return msgspec.structs.replace(known, address=address, timestamp=status.timestamp, leased=bool(entry.lease))
    note = parse_note(key.host, entry.value)
    return msgspec.structs.replace(
        known,
        endpoints=note.endpoints,
        overlay=note.overlay,
        mac=mac_text(note.mac) if note.mac is not None else "",
        vni=note.vni,
        version=note.version,
    )
