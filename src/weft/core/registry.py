"""What stands in etcd under the registrar's prefix and flannel's, read: every host with its networks, and every lease.
Pure; used by `agent/registration.py`, and what `agent/registrar.py` makes a View of.

A set of thousands of keys comes anew with each change; only those that differ from the last time are parsed, and a
heartbeat that tells nothing but the time makes an equal Registry.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Protocol, TypeAlias

from weft.core.edits import Kept
from weft.core.tenancy import Held
from weft.errors import WireError
from weft.model import IPAddress, IPNetwork, Mac, Network, Problem
from weft.wire.flannel import Config, Lease, Vtep, parse_lease
from weft.wire.flannel import parse_key as parse_lease_key
from weft.wire.flannel_config import parse_config
from weft.wire.registrar import (
    DOUBLED,
    Key,
    NetworkKey,
    Note,
    NoteKey,
    Status,
    StatusKey,
    is_nowhere,
    parse_key,
    parse_note,
    parse_status,
    parse_subnet,
    registrar_of,
)

SUBJECT = "registry"


class Row(Protocol):
    """One key of a store with its value, as `stores.Entry` has it."""

    @property
    def key(self) -> str: ...
    @property
    def value(self) -> bytes: ...
    @property
    def created(self) -> int: ...
    @property
    def modified(self) -> int: ...
    @property
    def lease(self) -> int: ...


Rows: TypeAlias = tuple[Row, ...]
"""Sorted by key."""


@dataclass(frozen=True, slots=True)
class Prefixes:
    """`config`: of the registrations, `flannel`: of flannel's config and leases; both without a slash at the end."""

    config: str = "/flannel/network/subnets"
    flannel: str = "/coreos.com/network"


@dataclass(frozen=True, slots=True)
class Registered:
    """One host, as it registered itself. `networks`: sorted by name. `status`: with the public address, wherever older
    ones let it be found. `note` None: it runs something older, or tells nothing. `leased`: its keys go by themselves
    when it is gone; else what is here may be years old, and `status` tells when it was last seen, if it tells anything.
    """

    host: str
    networks: tuple[Network, ...] = ()
    status: Status | None = None
    note: Note | None = None
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Registry:
    """A full set. `hosts`: sorted by name, this one too. `leases`: flannel's, by key, this host's and reservations too;
    `entries`: what weft's registrars added below flannel's prefix for Docker networks, by key, also of those that have
    gone: these say so themselves (`wire.registrar.MARK`), whatever MAC they tell and however old they are. Older
    programs' say nothing and are among the leases (see `registrar.lease_of`). `config`: flannel's, None if there is
    none that can be read. `complete`: what is not in it is gone. `woven`: the addresses of hosts whose flanneld is
    `weft flanneld`, by the marks that it keeps (`agent/marker.py`)."""

    hosts: tuple[Registered, ...] = ()
    leases: tuple[Lease, ...] = ()
    entries: tuple[Lease, ...] = ()
    config: Config | None = None
    complete: bool = False
    problems: tuple[Problem, ...] = ()
    woven: frozenset[IPAddress] = frozenset()

    def host(self, name: str) -> Registered | None:
        """The host of this name."""
        return next((one for one in self.hosts if one.host == name), None)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What this host is to have in etcd. `networks`: those not exposed are left out. `status`: the time in it is set
    when it is written. `note`: likewise its machine and instance, and since and groups, which follow from `networks`.
    `entries`: see `backend_entries.py`."""

    host: str
    networks: tuple[Network, ...] = ()
    status: Status | None = None
    note: Note = field(default_factory=Note)
    entries: tuple[Lease, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """One row, read. `key` None: it is nothing of the registrar's. `hangs_on`: its etcd lease, 0 for none. `nowhere`:
    it says that its host is at 127.0.0.1 or the like, and counts for nothing. `by`: the host whose registrar added
    `held` for a Docker network, "" for flannel's own. `woven`: `weft flanneld` runs at this address."""

    key: Key | None = None
    hangs_on: int = 0
    subnet: IPNetwork | None = None
    status: Status | None = None
    note: Note | None = None
    held: Held | None = None
    problem: Problem | None = None
    nowhere: bool = False
    by: str = ""
    woven: IPAddress | None = None


class Reader:
    """Reads the rows below both prefixes, one set after the other."""

    def __init__(self, prefixes: Prefixes) -> None:
        self.prefixes = prefixes
        self._config: Kept[Row, Found] = Kept()
        self._flannel: Kept[Row, Found] = Kept()
        self._network: tuple[bytes, Config | None, Problem | None] = (b"", None, None)
        self._registry: Registry | None = None
        self._parts: tuple[object, ...] = ()

    def read(self, config: Rows, flannel: Rows, complete: bool = True) -> Registry:
        """What these rows say; the same object as before if that is the same."""
        if self._registry is not None and config is self._config.items and flannel is self._flannel.items:
            if self._registry.complete is not complete:
                self._registry = replace(self._registry, complete=complete)
            return self._registry
        self._config = self._config.after(config, self._found)
        self._flannel = self._flannel.after(flannel, self._found_flannel)
        self._read_network(flannel)
        parts = (self._config.made, self._flannel.made, self._network, complete)
        if self._registry is None or parts != self._parts:
            self._parts = parts
            self._registry = self._assembled(complete)
        return self._registry

    def registrations(self) -> tuple[tuple[Row, Found], ...]:
        """The rows below the registrar's prefix, and what each of them is."""
        return tuple(zip(self._config.items, self._config.made, strict=True))

    def leases(self) -> tuple[tuple[Row, Found], ...]:
        """The rows below flannel's prefix, and what each of them is."""
        return tuple(zip(self._flannel.items, self._flannel.made, strict=True))

    def last_seen(self) -> dict[str, int]:
        """Host → when it last said that it is there (seconds since 1970), for those that do."""
        seen: dict[str, int] = {}
        for found in (*self._config.made, *self._flannel.made):
            if found.status is not None and found.status.timestamp:
                seen[found.status.host] = max(found.status.timestamp, seen.get(found.status.host, 0))
        return seen

    def _found(self, row: Row) -> Found:
        key = parse_key(row.key[len(self.prefixes.config) + 1 :])
        try:
            match key:
                case NetworkKey():
                    return Found(key, row.lease, subnet=parse_subnet(row.value, row.key))
                case StatusKey():
                    return _status(key, row)
                case NoteKey(host):
                    return Found(key, row.lease, note=parse_note(host, row.value))
                case _:
                    return Found()
        except WireError as error:
            assert key is not None
            return Found(key, row.lease, problem=Problem(key.host, f"{error}; it is ignored"))

    def _found_flannel(self, row: Row) -> Found:
        """A lease, or a host's status: one of the older versions kept these here."""
        below = subnets_of(self.prefixes)
        name = row.key.removeprefix(below).removeprefix(f"{DOUBLED}/")
        if not row.key.startswith(below):
            return self._mark(row)
        key = parse_key(name)
        if isinstance(key, StatusKey):
            try:
                return _status(key, row)
            except WireError as error:
                return Found(key, row.lease, problem=Problem(key.host, f"{error}; it is ignored"))
        return _lease(row) if "/" not in name else Found()

    def _mark(self, row: Row) -> Found:
        """What `weft flanneld` keeps for as long as it runs; one that hangs on nothing says nothing."""
        address = row.key.removeprefix(f"{self.prefixes.flannel}/weft/daemons/")
        with suppress(ValueError):
            if row.lease and address != row.key:
                return Found(hangs_on=row.lease, woven=ip_address(address))
        return Found()

    def _read_network(self, rows: Rows) -> None:
        key = config_of(self.prefixes)
        at = bisect_left(rows, key, key=lambda row: row.key)
        value = rows[at].value if at < len(rows) and rows[at].key == key else b""
        if value == self._network[0]:
            return
        try:
            self._network = (value, parse_config(value) if value else None, None)
        except WireError as error:
            self._network = (value, None, Problem(SUBJECT, f"the network config in {key} can't be used: {error}"))

    def _assembled(self, complete: bool) -> Registry:
        everything = (*self._config.made, *self._flannel.made)
        hosts: dict[str, list[Found]] = {}
        for found in everything:
            if found.key is not None and not found.nowhere and found.problem is None:
                hosts.setdefault(found.key.host, []).append(found)
        own = [found.held for found in self._flannel.made if found.held is not None and not found.by]
        added = [found.held.lease for found in self._flannel.made if found.held is not None and found.by]
        vteps = {h.lease.data.mac: h.address for h in reversed(own) if isinstance(h.lease.data, Vtep)}
        registered = tuple(_registered(name, hosts[name], vteps) for name in sorted(hosts))
        problems = [found.problem for found in everything if found.problem is not None]
        _, network, problem = self._network
        return Registry(
            registered,
            tuple(held.lease for held in own),
            tuple(added),
            network,
            complete,
            (*problems, *([problem] if problem is not None else [])),
            frozenset(found.woven for found in self._flannel.made if found.woven is not None),
        )


def subnets_of(prefixes: Prefixes) -> str:
    """What the keys of leases begin with."""
    return f"{prefixes.flannel}/subnets/"


def config_of(prefixes: Prefixes) -> str:
    """The key of flannel's config."""
    return f"{prefixes.flannel}/config"


def _status(key: StatusKey, row: Row) -> Found:
    return Found(key, row.lease, status=parse_status(key.host, row.value), nowhere=is_nowhere(row.value))


def _lease(row: Row) -> Found:
    """A lease that can't be read is a problem; so is one that names no place for its host, and that one is nobody's."""
    try:
        if is_nowhere(row.value):
            parse_lease_key(row.key)
            return Found(hangs_on=row.lease, nowhere=True)
        lease = parse_lease(row.key, row.value, row.created)
    except WireError as error:
        return Found(problem=Problem(SUBJECT, str(error)))
    held = Held(row.key, lease, row.created, row.modified, row.lease)
    return Found(hangs_on=row.lease, held=held, by=registrar_of(row.value))


def _registered(host: str, found: list[Found], vteps: Mapping[Mac, IPAddress | None]) -> Registered:
    """One host. Where weft runs, what an older program left there without an etcd lease says nothing any more. Older
    statuses tell the first address alone, or none: then it is that of the lease with the same VTEP in `vteps`."""
    notes = [one.note for one in found if one.note is not None]
    note = notes[0] if notes else None
    if note is not None:
        found = [one for one in found if one.hangs_on] or found
    statuses = [one.status for one in found if one.status is not None]
    status = max(statuses, key=lambda one: one.timestamp, default=None)
    if status is not None and status.public_ip is None:
        known = vteps.get(status.mac) if status.mac is not None else None
        status = replace(status, public_ip=status.primary_ip or known)
    leased = any(one.hangs_on for one in found if one.subnet is None)
    return Registered(host, _networks(found, note or Note()), status, note, leased)


def _networks(found: list[Found], note: Note) -> tuple[Network, ...]:
    """Subnets in the order of their keys, those of doubled keys behind them."""
    subnets: dict[str, dict[IPNetwork, None]] = {}
    for key, subnet in sorted(
        ((one.key, one.subnet) for one in found if isinstance(one.key, NetworkKey) and one.subnet is not None),
        key=lambda pair: (pair[0].doubled, pair[0].network, pair[0].ordinal),
    ):
        subnets.setdefault(key.network, {})[subnet] = None
    since, groups = dict(note.since), dict(note.groups)
    return tuple(
        Network(name, tuple(subnets[name]), since=since.get(name, float("inf")), group=groups.get(name, ""))
        for name in sorted(subnets)
    )
