"""What this host must write into etcd so that the others know its networks, and what must go. Pure; called by
`agent/registration.py`, which does what is decided here.

Every change is bound to the row that it was decided on (`Write.modified`), and what stands already is not written:
deciding again on what came of it decides nothing. Nothing of another host's is ever overwritten. docs/registrar-etcd.md
tells the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from weft.core.registry import Announcement, Found, Prefixes, Row, subnets_of
from weft.core.tenancy import address_of, name
from weft.errors import WireError
from weft.model import IPAddress, IPNetwork, Problem
from weft.wire.flannel import Lease, Vtep, lease_key
from weft.wire.registrar import (
    NetworkKey,
    Note,
    NoteKey,
    Status,
    StatusKey,
    entry_value,
    is_nowhere,
    key_text,
    note_value,
    status_value,
    subnet_value,
)

ALIVE = 900
"""Seconds for which a status without an etcd lease says that its host lives: flannel-registrar writes one each five
minutes or more often."""


@dataclass(frozen=True, slots=True)
class Write:
    """One change of a row that was last modified at revision `modified` (0: there is none). `value` None: it goes.
    `lease` None: it hangs on this host's etcd lease for such keys from now on; else on that one, on which it hung."""

    key: str
    value: bytes | None
    modified: int = 0
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """`rival`: another host has this one's name, so nothing may be written."""

    writes: tuple[Write, ...] = ()
    problems: tuple[Problem, ...] = ()
    rival: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """`lease`: this host's etcd lease, 0 while it has none. `now`: seconds since 1970. `beat`: the heartbeat is due.
    `seen`: this run's own note stood in the store already."""

    lease: int
    now: float
    beat: bool = False
    seen: bool = False


def complete(announcement: Announcement, machine: str, instance: str) -> Announcement:
    """With what follows from the rest: whose it is, and what the note says of the networks that are told."""
    shown = tuple(network for network in announcement.networks if network.exposed)
    own = replace(
        announcement.note,
        machine=machine,
        instance=instance,
        since=tuple(sorted((network.name, network.since) for network in shown if isfinite(network.since))),
        groups=tuple(sorted((network.name, network.group) for network in shown if network.group)),
    )
    return replace(announcement, networks=shown, note=own)


def registrations(
    announcement: Announcement, rows: Sequence[tuple[Row, Found]], prefixes: Prefixes, moment: Moment
) -> Decision:
    """What must change below the registrar's prefix, the note first: by it the others know since when a network is.
    `announcement`: a `complete` one."""
    host = announcement.host
    rows = [(r, f) for r, f in rows if f.key is not None and (f.key.host == host or r.lease == moment.lease != 0)]
    flaw = _flaw(announcement) or _rival(announcement, rows, moment)
    if flaw:
        return Decision(problems=(Problem(host, flaw),), rival=True)
    wanted, problems = _wanted(announcement, prefixes, int(moment.now))
    there = {row.key: (row, found) for row, found in rows}
    writes = []
    for key, value in wanted.items():
        row, found = there.get(key, (None, None))
        if row is None:
            writes.append(Write(key, value))
        elif row.lease != moment.lease or not _says(found, row.value, value, announcement.status, moment.beat):
            writes.append(Write(key, value, row.modified))
    told = {(network.name, subnet) for network in announcement.networks for subnet in network.subnets}
    writes.extend(
        Write(row.key, None, row.modified)
        for row, found in rows
        if row.key not in wanted and _left_over(row, found, host, told, moment.lease)
    )
    return Decision(tuple(writes), problems)


def _wanted(announcement: Announcement, prefixes: Prefixes, now: int) -> tuple[dict[str, bytes], tuple[Problem, ...]]:
    """Key → value. A name that no key can hold is a problem of that network."""
    host, wanted, problems = announcement.host, {}, []
    wanted[f"{prefixes.config}/{key_text(NoteKey(host))}"] = note_value(announcement.note)
    if announcement.status is not None:
        status = replace(announcement.status, host=host, timestamp=now)
        wanted[f"{prefixes.config}/{key_text(StatusKey(host))}"] = status_value(status)
    for network in announcement.networks:
        for ordinal, subnet in enumerate(network.subnets, 1):
            try:
                key = key_text(NetworkKey(host, network.name, ordinal))
            except WireError as error:
                problems.append(Problem(network.name[:80], f"network {network.name[:80]!r} is told to nobody: {error}"))
                break
            wanted[f"{prefixes.config}/{key}"] = subnet_value(subnet)
    return wanted, tuple(problems)


def _says(found: Found | None, value: bytes, wanted: bytes, status: Status | None, beat: bool) -> bool:
    """Whether a row says already what it is to say; the time in a heartbeat is not worth a write of its own."""
    if found is not None and found.status is not None and not beat:
        return found.status == status
    return value == wanted


def _left_over(row: Row, found: Found, host: str, told: set[tuple[str, IPNetwork]], lease: int) -> bool:
    """A row of this host's that is no longer wanted: written by this run, or under its name by an earlier one or by an
    older program. A doubled key is kept as long as it is right: hosts with an older program read those."""
    key = found.key
    if row.lease == lease != 0:
        return True
    if not isinstance(key, NetworkKey) or key.host != host:
        return False
    return not key.doubled or (key.network, found.subnet) not in told


def _flaw(announcement: Announcement) -> str:
    """Why this can't be announced at all."""
    try:
        key_text(NoteKey(announcement.host))
    except WireError as error:
        return f"this host can't be registered: {error}; set HOST_NAME"
    status = announcement.status
    if status is not None and is_nowhere(status_value(status)):
        return (
            f"this host is not registered: its address is told as {status.address}, which leads every other host to"
            " itself; set FLANNELD_PUBLIC_IP to the address that the others reach it by"
        )
    return ""


def _rival(announcement: Announcement, rows: Sequence[tuple[Row, Found]], moment: Moment) -> str:
    """Who else has this host's name and lives; "" if nobody does."""
    host, me = announcement.host, announcement.note
    mine = _own_addresses(announcement)
    of_host = [(row, one) for row, one in rows if one.key is not None and one.key.host == host]
    note = next(((row, one) for row, one in of_host if isinstance(one.key, NoteKey)), None)
    told = next((one.status for _, one in of_host if one.status is not None and one.status.address is not None), None)
    at = f" at {told.address}" if told is not None and told.address not in mine else ""
    if note is not None and note[0].lease:  # without one nobody renews it: it is a leftover
        theirs = note[1].note
        if theirs is None:
            return _two(host, f"somebody whose note can't be read{at}", me) if note[0].lease != moment.lease else ""
        # In a container without /etc/machine-id, a reboot makes another machine of it: then the address tells.
        if theirs.machine != me.machine and not set(theirs.endpoints) & set(mine):
            return _two(host, f"the machine {theirs.machine or 'without an id'}{at}", me)
        if theirs.instance != me.instance and moment.seen:
            where = "on this very machine" if theirs.machine == me.machine else "at this very address"
            return _two(host, f"a second registrar {where} (run {theirs.instance})", me)
    if note is None:
        for row, one in of_host:
            if (
                one.status is None
                or one.nowhere
                or one.status.address in (None, *mine)
                or row.lease == moment.lease != 0
            ):
                continue
            if row.lease or moment.now - one.status.timestamp < ALIVE:
                return _two(host, f"a registrar without weft at {one.status.address}", me)
    return ""


def _own_addresses(announcement: Announcement) -> tuple[IPAddress, ...]:
    status = announcement.status
    told = (status.public_ip, status.primary_ip) if status is not None else ()
    return (*(address for address in told if address is not None), *announcement.note.endpoints)


def _two(host: str, rival: str, me: Note) -> str:
    return (
        f"two hosts are called {host}: {rival}, and this one (machine {me.machine}); nothing is overwritten, and this"
        " host's networks are told to nobody. Give one of them another HOST_NAME, or stop the other; when that is gone,"
        " this one registers itself"
    )


def beside(announcement: Announcement, rows: Sequence[tuple[Row, Found]]) -> Row | None:
    """The row of the flannel lease that this host's entries stand beside; None: there is none, so there can be no entry
    either. Of several of this address, one that can end, then the oldest: older programs left some that can't."""
    own = {address_of(entry) for entry in announcement.entries}
    wanted = {entry.subnet for entry in announcement.entries}
    found = (
        row
        for row, f in rows
        if f.held is not None and not f.by and f.held.address in own and f.held.lease.subnet not in wanted
    )
    return min(found, key=lambda row: (not row.lease, row.created), default=None)


def entries(announcement: Announcement, rows: Sequence[tuple[Row, Found]], prefixes: Prefixes, lease: int) -> Decision:
    """What must change below flannel's prefix. `lease`: the etcd lease of this host's entries. A row that is another
    host's, or that flanneld on this one holds, is a problem. Of several that must go, one is decided on at a time."""
    host = announcement.host
    keys = {f"{subnets_of(prefixes)}{lease_key(entry)}": entry for entry in announcement.entries}
    there = {row.key: (row, found) for row, found in rows}
    own = {address_of(entry) for entry in announcement.entries}
    writes: list[Write] = []
    problems: list[Problem] = []
    for key, entry in keys.items():
        row, found = there.get(key, (None, None))
        value = entry_value(entry, host)
        if row is None or found is None:
            writes.append(Write(key, value))
        elif _added_here(row, found, host, own, lease) or _plain(row, found, own):
            if row.lease != lease or row.value != value:
                writes.append(Write(key, value, row.modified))
        elif not found.nowhere:
            problems.append(Problem(name(entry), _taken(entry, found)))
    below = subnets_of(prefixes)
    gone = [
        (row, found)
        for row, found in rows
        if row.key not in keys
        and row.key.rpartition("/")[0] == below[:-1]
        and _added_here(row, found, host, own, lease)
    ]
    gone = _one_vtep_at_a_time(gone)
    writes.extend(Write(row.key, None, row.modified) for row, _ in gone)
    writes.extend(_touched(gone, rows))
    return Decision(tuple(writes), tuple(problems))


def added(host: str, rows: Sequence[tuple[Row, Found]]) -> int:
    """The etcd lease that an earlier run's entries of this host hang on, and nothing else does; 0 if there is none."""
    others = {row.lease for row, found in rows if found.by != host}
    return next((row.lease for row, found in rows if found.by == host and row.lease not in {0, *others}), 0)


def _added_here(row: Row, found: Found, host: str, own: set[IPAddress | None], lease: int) -> bool:
    """An entry of this host's: it says so, by name or by address (it had another name), or it hangs where they do."""
    told = found.by == host or (found.held is not None and found.held.address in own)
    return (bool(found.by) and told) or row.lease == lease != 0


def _plain(row: Row, found: Found, own: set[IPAddress | None]) -> bool:
    """What an older program left for this host. On an etcd lease it would be flanneld's own, and not to be detached."""
    return not row.lease and found.held is not None and found.held.address in own


def _one_vtep_at_a_time(gone: list[tuple[Row, Found]]) -> list[tuple[Row, Found]]:
    """What may go in one transaction. flannel tries for 50 s to forget a VTEP that it has forgotten with the subnet
    before, and does nothing else meanwhile: between two that go, the flannel lease is said again."""
    vteps = [(row, found) for row, found in gone if found.held is not None and isinstance(found.held.lease.data, Vtep)]
    return [one for one in gone if one not in vteps[1:]]


def _touched(gone: Iterable[tuple[Row, Found]], rows: Sequence[tuple[Row, Found]]) -> Iterator[Write]:
    """The flannel lease of the same VTEP, said once more as it is and on the etcd lease that it is on: of a subnet that
    goes, flannel's vxlan backend forgets the VTEP too, and with it the way to this host's other subnets."""
    going = {row.key for row, _ in gone}
    vteps = {(f.held.address, f.held.lease.data) for _, f in gone if f.held is not None}
    for row, found in rows:
        if found.held is None or found.by or row.key in going or not isinstance(found.held.lease.data, Vtep):
            continue
        vtep = (found.held.address, found.held.lease.data)
        if vtep in vteps:
            vteps.remove(vtep)
            yield Write(row.key, row.value, row.modified, row.lease)


def nowhere(rows: Iterable[tuple[Row, Found]]) -> Decision:
    """What must go, whoever wrote it, since it says that a host is at 127.0.0.1 or the like: every other host would
    send that host's packets to itself, or to nobody."""
    bad = [row for row, found in rows if found.nowhere]
    return Decision(tuple(Write(row.key, None, row.modified) for row in bad), tuple(map(_removed, bad)))


def _removed(row: Row) -> Problem:
    key, value = row.key.encode(errors="backslashreplace").decode(), row.value[:200].decode(errors="replace")
    why = (
        f"{key} said {value}: an address at which no other host reaches that one; it was removed. Set"
        " FLANNELD_PUBLIC_IP (flanneld: -public-ip) on the host that writes it"
    )
    return Problem(key, why)


def _taken(entry: Lease, found: Found) -> str:
    mine, held = entry.public_ip, found.held
    if held is not None and held.address == mine:
        return (
            f"{name(entry)} of this host's Docker networks is what flannel leased to this host ({mine}): that is left"
            " alone. Give the network another subnet, or flanneld (stop it, delete the key and its subnet.env)"
        )
    owner = held.owner if held is not None else "somebody whose value can't be read"
    text = f"{name(entry)} of this host ({mine}) is held below flannel's prefix by {owner}: that entry is left alone."
    advice = " Give one of the two networks another subnet"
    if found.by:
        advice += f", or if host {found.by} has none such any more, start its registrar, which takes the entry away"
    return text + advice
