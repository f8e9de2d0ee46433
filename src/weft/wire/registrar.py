"""flannel-registrar's keys and values in etcd, those of every version of it that was seen, and ours beside them. Pure;
used by `core/registry.py` and `core/registering.py`.

    <prefix>/<host>/<docker network>     10.5.40.0/24          its second subnet: <docker network>~2, and so on
    <prefix>/_host_status/<host>         {"hostname", "vtep_mac", "primary_ip", "public_ip", "timestamp"}
    <prefix>/_weft/<host>                what that can't say: `Note`
    <flannel's>/subnets/10.5.40.0-24     flannel's lease attributes, and "Registrar":"<host>"

Read too: all of it below `<prefix>/subnets/`, and statuses as flannel's lease attributes or as
{"last_seen", "boot_time", "vtep_mac"}. docs/registrar-etcd.md tells who owns what.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import TypeAlias, TypeVar

import msgspec

from weft.errors import WireError
from weft.model import IPAddress, IPInterface, IPNetwork, Mac, mac_text, parse_mac
from weft.wire import go_json
from weft.wire.flannel import Lease, lease_value

VERSION = 1
"""Of the note. A reader takes from a later one what it knows."""
STATUSES = "_host_status"
NOTES = "_weft"
DOUBLED = "subnets"
MARK = "Registrar"
"""A member that entries below flannel's prefix have and leases don't: Go leaves alone what it doesn't know, so flanneld
reads such an entry as any other, and writes none."""
LONGEST = 512
"""Characters of a key's part, of a value that is one subnet, and of a name in a note."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NetworkKey:
    """The key of one subnet: the `ordinal`th of the network, from 1. `doubled`: below `<prefix>/subnets/`."""

    host: str
    network: str
    ordinal: int = 1
    doubled: bool = False


@dataclass(frozen=True, slots=True)
class StatusKey:
    host: str
    doubled: bool = False


@dataclass(frozen=True, slots=True)
class NoteKey:
    host: str


Key: TypeAlias = NetworkKey | StatusKey | NoteKey


@dataclass(frozen=True, slots=True)
class Status:
    """A host's heartbeat. `timestamp`: seconds since 1970, 0 where it tells none; two that differ in that alone are
    equal. `mac`: of its VTEP, None if it has none."""

    host: str
    mac: Mac | None = None
    primary_ip: IPAddress | None = None
    public_ip: IPAddress | None = None
    timestamp: int = field(default=0, compare=False)

    @property
    def address(self) -> IPAddress | None:
        """By what the other hosts know it."""
        return self.public_ip if self.public_ip is not None else self.primary_ip


@dataclass(frozen=True, slots=True)
class Note:
    """What a host that runs weft tells beyond flannel-registrar's keys. Nothing of it is needed.

    `machine`: `marker.host_id()`, `instance`: one run of the daemon there. `endpoints`, `mac`, `vni`, `port`, `mtu`,
    `overlay`: its end of weft's own VXLAN, as in `model.Node`. `since`, `groups`: network → when it came to be
    (seconds since 1970), and its isolation group. `reaches`: hosts that it reaches without a relay, and
    `misses` those that it knows and doesn't. `via`: host → the one through which its gateway map leads there.
    `segments`: its uplinks' addresses, with the lengths of their prefixes.
    """

    machine: str = ""
    instance: str = ""
    version: str = ""
    endpoints: tuple[IPAddress, ...] = ()
    mac: Mac | None = None
    vni: int = 0
    port: int = 0
    mtu: int = 0
    overlay: tuple[IPAddress, ...] = ()
    since: tuple[tuple[str, float], ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    reaches: tuple[str, ...] = ()
    misses: tuple[str, ...] = ()
    via: tuple[tuple[str, str], ...] = ()
    segments: tuple[IPInterface, ...] = ()


class _Note(msgspec.Struct, omit_defaults=True):
    """The note's JSON."""

    v: int = 0
    machine: str = ""
    instance: str = ""
    version: str = ""
    endpoints: list[str] = []
    mac: str = ""
    vni: int = 0
    port: int = 0
    mtu: int = 0
    overlay: list[str] = []
    since: dict[str, float] = {}
    groups: dict[str, str] = {}
    reaches: list[str] = []
    misses: list[str] = []
    via: dict[str, str] = {}
    segments: list[str] = []


_encode = msgspec.json.Encoder().encode
_notes = msgspec.json.Decoder(_Note)
_ORDINAL = re.compile(r"(.+)~([2-9]|[1-9][0-9]{1,5})\Z", re.DOTALL | re.ASCII)
_MISTAKABLE = re.compile(r"~(?=[0-9]+\Z)", re.ASCII)
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")


def escape(name: str) -> str:
    """A name as a part of a key: `/`, `%` and what can't be printed as %XX. WireError for an empty name and one that
    is longer than LONGEST."""
    if not name or len(name) > LONGEST:
        raise WireError(f"{name[:40]!r} can't be a part of a key: it needs 1 to {LONGEST} characters")
    if name.isprintable() and "/" not in name and "%" not in name:
        return name
    return "".join(c if c.isprintable() and c not in "/%" else _octets(c) for c in name)


def unescape(part: str) -> str:
    """The name that a part of a key stands for. A `%` before no two hexadecimal digits is itself: older programs
    escape nothing. UnicodeError if it is no text."""
    if "%" not in part:
        return part
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), part.encode()).decode()


def key_text(key: Key) -> str:
    """The key after `<prefix>/`. WireError if a name can't be a part of one."""
    if isinstance(key, NoteKey):
        return f"{NOTES}/{escape(key.host)}"
    doubled = f"{DOUBLED}/" if key.doubled else ""
    if isinstance(key, StatusKey):
        return f"{doubled}{STATUSES}/{escape(key.host)}"
    host, network = escape(key.host), _MISTAKABLE.sub("%7E", escape(key.network))
    if host.startswith("_"):
        host = f"%5F{host[1:]}"
    return f"{doubled}{host}/{network}" + (f"~{key.ordinal}" if key.ordinal > 1 else "")


def parse_key(text: str) -> Key | None:
    """What a key after `<prefix>/` is; None if it is nothing of the registrar's (`_exists`, what a person left, octets
    that are no text)."""
    try:
        text.encode()
        return _parse_key(text.split("/"))
    except UnicodeError:
        return None


def _parse_key(parts: list[str]) -> Key | None:
    doubled = len(parts) == 3 and parts[0] == DOUBLED
    if doubled:
        del parts[0]
    if len(parts) != 2 or not all(0 < len(part) <= 3 * LONGEST for part in parts):
        return None
    first, last = parts
    if first == STATUSES:
        return StatusKey(unescape(last), doubled)
    if first == NOTES:
        return None if doubled else NoteKey(unescape(last))
    if first.startswith("_"):
        return None
    numbered = _ORDINAL.match(last)
    network, ordinal = (numbered[1], int(numbered[2])) if numbered else (last, 1)
    return NetworkKey(unescape(first), unescape(network), ordinal, doubled)


def subnet_value(subnet: IPNetwork) -> bytes:
    """The bare CIDR."""
    return str(subnet).encode()


def parse_subnet(value: bytes, where: str) -> IPNetwork:
    """One subnet as CIDR, host bits tolerated, as is white space around it. WireError for anything else, everything
    (/0) included."""
    try:
        text = value[:LONGEST].decode("ascii").strip()
        if "/" not in text or "%" in text:
            raise ValueError("it needs an address, / and a prefix length")
        subnet = ip_interface(text).network
        if not subnet.prefixlen:
            raise ValueError("this is everything, no one's network")
    except ValueError as error:
        raise WireError(f"{where} must be a subnet such as 10.5.40.0/24, found {value[:60]!r}: {error}") from error
    return subnet


def status_value(status: Status) -> bytes:
    """As flannel-registrar writes it, octet for octet but for the spaces. What is not known is ""."""
    return _encode(
        {
            "hostname": status.host,
            "vtep_mac": mac_text(status.mac) if status.mac is not None else "",
            "primary_ip": str(status.primary_ip) if status.primary_ip is not None else "",
            "public_ip": str(status.public_ip) if status.public_ip is not None else "",
            "timestamp": status.timestamp,
        }
    )


def parse_status(host: str, value: bytes) -> Status:
    """Any of the three layouts; `host` is from the key and holds. Addresses and MACs that can't be read ("unknown",
    which older versions write) are None: the host is there all the same. WireError if it is no JSON object."""
    fields = go_json.read(value, f"the status of host {host}")
    data = fields.value("BackendData")
    inner = fields.part("BackendData") if isinstance(data, dict) else fields
    told = [fields.value(name) for name in ("timestamp", "last_seen")]
    return Status(
        host,
        _lenient(parse_mac, inner.value("VtepMAC")) or _lenient(parse_mac, fields.value("vtep_mac")),
        _lenient(ip_address, fields.value("primary_ip")),
        _lenient(ip_address, fields.value("public_ip")) or _lenient(ip_address, fields.value("PublicIP")),
        next((int(t) for t in told if isinstance(t, int | float) and 0 < t < 1e12), 0),
    )


def is_nowhere(value: bytes) -> bool:
    """Whether an entry below flannel's prefix, or a host's status, says that its host is at an address which is every
    host's own or none: 127.0.0.0/8, ::1, 0.0.0.0, :: or "". 0.0.0.0 beside a PublicIPv6 is how IPv6 alone is told; what
    can't be read, or tells no address, says nothing."""
    try:
        fields = go_json.read(value, "")
    except WireError:
        return False
    told = [text for name in ("PublicIP", "public_ip", "primary_ip") if isinstance(text := fields.value(name), str)]
    here = _place(next(filter(None, told), "")) if told else ""
    six = fields.value("PublicIPv6")
    six_here = _place(six) if isinstance(six, str) else "none"
    return "loopback" in (here, six_here) or (here == "none" and six_here == "none")


def _place(text: str) -> str:
    try:
        address = ip_address(text.strip() or "0.0.0.0")
    except ValueError:
        return "somewhere"
    return "loopback" if address.is_loopback else "none" if address.is_unspecified else "somewhere"


def entry_value(entry: Lease, host: str) -> bytes:
    """What a registrar writes for a Docker network below flannel's prefix: as flannel does, and which host's it is."""
    return lease_value(entry)[:-1] + b',"' + MARK.encode() + b'":' + _encode(host) + b"}"


def registrar_of(value: bytes) -> str:
    """The host whose registrar wrote this value below flannel's prefix; "" if none did: it is a lease of flannel's, a
    reservation, or an entry of an older program."""
    if f'"{MARK}"'.encode() not in value:
        return ""
    try:
        return go_json.read(value, "").text(MARK)
    except WireError:
        return ""


def note_value(note: Note) -> bytes:
    """JSON, the same octets for equal notes."""
    return _encode(
        _Note(
            v=VERSION,
            machine=note.machine,
            instance=note.instance,
            version=note.version,
            endpoints=[str(a) for a in note.endpoints],
            mac=mac_text(note.mac) if note.mac is not None else "",
            vni=note.vni,
            port=note.port,
            mtu=note.mtu,
            overlay=[str(a) for a in note.overlay],
            since=dict(sorted(note.since)),
            groups=dict(sorted(note.groups)),
            reaches=list(note.reaches),
            misses=list(note.misses),
            via=dict(sorted(note.via)),
            segments=[str(s) for s in note.segments],
        )
    )


def parse_note(host: str, value: bytes) -> Note:
    """WireError if it can't be a note. Members that nobody here knows are left alone."""
    where = f"the note of host {host}"
    try:
        read = _notes.decode(value)
        if not (0 <= read.vni <= 0xFFFFFF and 0 <= read.port <= 0xFFFF and 0 <= read.mtu <= 0xFFFFFF):
            raise ValueError("vni, port or mtu is out of bounds")
        return Note(
            machine=read.machine,
            instance=read.instance,
            version=read.version,
            endpoints=tuple(map(_address, read.endpoints)),
            mac=parse_mac(read.mac) if read.mac else None,
            vni=read.vni,
            port=read.port,
            mtu=read.mtu,
            overlay=tuple(map(_address, read.overlay)),
            since=_pairs(read.since),
            groups=_pairs(read.groups),
            reaches=tuple(read.reaches),
            misses=tuple(read.misses),
            via=_pairs(read.via),
            segments=tuple(map(_segment, read.segments)),
        )
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"{where} can't be read: {error}") from error


def _pairs(members: Mapping[str, T]) -> tuple[tuple[str, T], ...]:
    return tuple(sorted(members.items(), key=lambda pair: pair[0]))


def _address(text: str) -> IPAddress:
    return ip_address(_without_zone(text))


def _segment(text: str) -> IPInterface:
    return ip_interface(_without_zone(text))


def _without_zone(text: str) -> str:
    """ValueError for an address that means something on one host alone."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which is nobody else's")
    return text


def _lenient(read: Callable[[str], T], text: object) -> T | None:
    try:
        return read(text.strip()) if isinstance(text, str) else None
    except ValueError:
        return None


def _octets(character: str) -> str:
    try:
        return "".join(f"%{octet:02X}" for octet in character.encode())
    except UnicodeEncodeError as error:
        raise WireError(f"{character!r} can't be a part of a key: it is no text") from error
