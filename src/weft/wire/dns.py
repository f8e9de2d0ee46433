"""What a node is in DNS: names, and the TXT record that describes it. Pure; `discovery/dns*.py` are the callers.

    _docker-router._udp.<domain>           SRV  <priority> <weight> <port> <host>        (RFC 2782, the document's form)
    _docker-router._udp.<domain>           PTR  <stack>._docker-router._udp.<domain>     (RFC 6763, 4.1)
    <stack>._docker-router._udp.<domain>   TXT  one record for each router of the stack  (RFC 6763, 6)
    <host>                                 A, AAAA; it is <peer id>.<domain>

A TXT record is a list of `key=value` strings of at most 255 octets. A longer value goes on under the key with a 2, a 3
and so on at its end: the value is all of them in a row.

    txtvers=1 id stack vni host_ip vxlan_ip networks          what the document's HELLO says
    endpoints port mac mtu backend overlay named router       what weft's adds
    software instance epoch seq
    last_seen every ttl                       when it was refreshed, how often that is done, and its TTL
    srv made                                  the SRV record beside it, and which records its owner added
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Literal, TypeAlias

import msgspec

from weft.errors import WireError
from weft.model import IPAddress, Node
from weft.wire import router_schema as schema
from weft.wire.hello import PLAIN_PORT, Hello, Stamp, plain_node
from weft.wire.router import decode, encode_hello, read_node

SOURCE = "dns"
SERVICE = (b"_docker-router", b"_udp")
LABEL = 63
"""Octets of one part of a name, and 255 of a whole one (RFC 1035, 2.3.4)."""
_STRING = 255
_RECORD = 60_000
"""Octets of one TXT record: with its prerequisite beside it, an update stays below what TCP's length can say."""
_DIGEST = 10
_LONGEST = 86400.0
_LAST = 253402300799.0
"""The last second of the year 9999."""
_COUNTED = ("vni", "port", "mtu", "epoch", "seq", "ttl")
_LISTS = ("networks", "endpoints", "overlay")
_TEXTS = ("id", "stack", "host_ip", "vxlan_ip", "mac", "backend", "software", "instance", "named", "last_seen", "every")
_KEYS = (*_COUNTED, *_LISTS, *_TEXTS, "router", "srv", "made")

Name: TypeAlias = tuple[bytes, ...]
"""A whole name, without the root's empty label: (b"host1", b"example", b"com")."""
Strings: TypeAlias = tuple[bytes, ...]
"""The strings of one TXT record."""
RecordType = Literal["SRV", "TXT", "A", "AAAA", "PTR"]


@dataclass(frozen=True, slots=True)
class Srv:
    """RFC 2782."""

    priority: int
    weight: int
    port: int
    target: Name


@dataclass(frozen=True, slots=True)
class Record:
    """One record; `value` is of the type that `rtype` says: TXT's strings, an address, PTR's name."""

    name: Name
    rtype: RecordType
    value: Srv | IPAddress | tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A TXT record of weft's. `last_seen`: seconds since 1970 by its owner's clock. `every`: seconds between refreshes,
    `ttl`: its TTL in seconds. `srv`: priority, weight and port of the SRV record that goes with it. `made`: what of
    "srv", "a" and "aaaa" its owner added; the rest was there before, and is somebody else's."""

    node: Node
    stamp: Stamp
    last_seen: float
    every: float
    ttl: int
    srv: tuple[int, int, int]
    made: frozenset[str] = frozenset()


def folded(name: Name) -> Name:
    """To compare names: DNS knows no case (RFC 4343)."""
    return tuple(label.lower() for label in name)


def name_text(name: Name) -> str:
    """For people, with what is special escaped: `my\\032stack.example.com`."""
    return ".".join("".join(_shown(octet) for octet in label) for label in name)


def _shown(octet: int) -> str:
    character = chr(octet)
    if character in '.\\"();@$':
        return "\\" + character
    return character if 0x21 <= octet < 0x7F else f"\\{octet:03}"


def stack_label(stack: str) -> bytes:
    """The stack in a TXT record's name: its id as it is (RFC 6763, 4.1.1, any UTF-8), shortened if that is too long."""
    raw = stack.encode()
    return raw if 0 < len(raw) <= LABEL else _slug(stack)


def host_label(peer: str) -> bytes:
    """The peer in a host's name, where only small letters, digits and hyphens are sure to be taken (RFC 1123, 2.1): its
    id, if that has no others, else what is left of it and a digest of all of it."""
    raw = peer.encode()
    return raw if 0 < len(raw) <= LABEL and raw == _letters(peer).encode() else _slug(peer)


def _slug(text: str) -> bytes:
    digest = sha256(text.encode()).hexdigest()[:_DIGEST]
    left = _letters(text)[: LABEL - _DIGEST - 1].rstrip("-")
    return f"{left}-{digest}".lstrip("-").encode()


def _letters(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).strip("-")


def encode_txt(me: Node, entry: Entry) -> Strings:
    """The strings that describe `me`, exposed networks only; of `entry` everything but its node. WireError if nobody
    would believe `me`, or if its networks don't fit."""
    raw = msgspec.json.decode(encode_hello(me, entry.stamp)[0], type=schema.Hello)
    details = raw.weft or schema.Details("", 0, 0, "", [], 1, "", "", 0, [], [], part=1, parts=1, query=False)
    values = {
        "id": raw.peer_id,
        "stack": raw.stack_name,
        "vni": str(raw.vni),
        "host_ip": raw.host_ip,
        "vxlan_ip": raw.vxlan_ip or "",
        "networks": ",".join(raw.networks),
        "last_seen": datetime.fromtimestamp(int(entry.last_seen), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "every": f"{entry.every:g}",
        "ttl": str(entry.ttl),
        "endpoints": ",".join(details.endpoints),
        "port": str(details.port),
        "mac": details.mac,
        "mtu": str(details.mtu),
        "backend": details.backend,
        "overlay": ",".join(details.overlay),
        "named": msgspec.json.encode(details.named).decode(),
        "router": "1" if details.stack else "",
        "software": details.software,
        "instance": details.instance,
        "epoch": str(details.epoch),
        "seq": str(details.seq),
        "srv": " ".join(map(str, entry.srv)),
        "made": ",".join(sorted(entry.made)),
    }
    strings = [b"txtvers=1"]
    for key, text in values.items():
        if text:
            strings += _chunks(key, text.encode())
    octets = sum(len(one) + 1 for one in strings)
    if octets > _RECORD:
        raise WireError(
            f"{me.id} can't be registered: its {len(me.networks)} networks make a TXT record of {octets} octets, and "
            f"{_RECORD} is the limit; expose fewer networks"
        )
    return tuple(strings)


def _chunks(key: str, value: bytes) -> list[bytes]:
    """`key=…`, `key2=…`: cut behind a comma where there is one, since people read it."""
    strings: list[bytes] = []
    while value:
        head = f"{key}{len(strings) + 1 if strings else ''}=".encode()
        room = _STRING - len(head)
        cut = value.rfind(b",", 0, room) + 1 if len(value) > room else 0
        cut = cut or room
        strings.append(head + value[:cut])
        value = value[cut:]
    return strings


def fields(strings: Sequence[bytes]) -> Mapping[str, bytes]:
    """The values by key, of the keys that mean something here. Of two with one key the first holds, keys have no case,
    and a string without `=` has no value (RFC 6763, 6.4)."""
    raw: dict[str, bytes] = {}
    for string in strings:
        name, equals, value = string.partition(b"=")
        if equals:
            raw.setdefault(name.decode("latin-1").lower(), value)
    found: dict[str, bytes] = {key: raw[key] for key in _KEYS if key in raw}
    for key in found:
        number = 2
        while (more := raw.get(f"{key}{number}")) is not None:
            found[key] += more
            number += 1
    return found


def is_entry(found: Mapping[str, bytes]) -> bool:
    """Whether weft wrote this record; if not, it is left alone whatever it says."""
    return "id" in found and "instance" in found


def decode_txt(strings: Sequence[bytes]) -> Entry | None:
    """Read a TXT record: weft's, or None if another program's. WireError if it is weft's and can't be read."""
    found = fields(strings)
    if not is_entry(found):
        return None
    try:
        texts = {key: value.decode() for key, value in found.items()}
        return _entry(texts)
    except ValueError as error:
        raise WireError(f"the TXT record of {shown_id(found)} can't be read: {error}") from error


def shown_id(found: Mapping[str, bytes]) -> str:
    """Whose record it is, as far as that can be read."""
    text = found.get("id", b"").decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in text)[:253] or "?"


def _entry(texts: Mapping[str, str]) -> Entry:
    """ValueError if a text is not what it must be."""
    numbers = {key: _whole(key, texts[key]) for key in _COUNTED if key in texts}
    lists = {key: [one for one in texts.get(key, "").split(",") if one] for key in _LISTS}
    details = {
        "instance": texts["instance"],
        "epoch": numbers.get("epoch", 0),
        "seq": numbers.get("seq", 0),
        "part": 1,
        "parts": 1,
        "query": False,
        "software": texts.get("software", ""),
        "endpoints": lists["endpoints"],
        "port": numbers.get("port", 0),
        "mac": texts.get("mac", ""),
        "backend": texts.get("backend", ""),
        "mtu": numbers.get("mtu", 0),
        "overlay": lists["overlay"],
        "named": msgspec.Raw(texts.get("named", "[]").encode()),
        "stack": texts.get("router") == "1",
    }
    try:
        node = read_node(_hello(texts, numbers, lists["networks"], details), SOURCE)
    except WireError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    return Entry(
        node=node,
        stamp=Stamp(texts["instance"], numbers.get("epoch", 0), numbers.get("seq", 0)),
        last_seen=_moment(texts.get("last_seen", "")),
        every=_seconds(texts.get("every", "")),
        ttl=min(numbers.get("ttl", 0), int(_LONGEST)),
        srv=_srv(texts.get("srv", "")),
        made=frozenset(texts.get("made", "").split(",")) & {"srv", "a", "aaaa"},
    )


def _hello(
    texts: Mapping[str, str], numbers: Mapping[str, int], networks: list[str], weft: Mapping[str, object] | None
) -> bytes:
    """The HELLO that says the same: there is one reader for all that nodes say of themselves."""
    body: dict[str, object] = {
        "type": "HELLO",
        "version": 1,
        "peer_id": texts["id"],
        "host_ip": texts.get("host_ip", ""),
        "vxlan_ip": texts.get("vxlan_ip") or None,
        "stack_name": texts.get("stack", ""),
        "networks": networks,
        "weft": weft,
    }
    if "vni" in numbers:
        body["vni"] = numbers["vni"]
    return msgspec.json.encode(body)


def _whole(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise ValueError(f"{key}={text[:32]!r} is no number")
    return int(text)


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"last_seen={text!r} has no time zone")
    if not 0 <= moment.timestamp() <= _LAST:  # an offset may lead out of all calendars, and it is shown to people
        raise ValueError(f"last_seen={text!r} is not from 1970 to 9999")
    return moment.timestamp()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"every={text[:32]!r} is not between 0 and {_LONGEST:g} seconds")
    return seconds


def _srv(text: str) -> tuple[int, int, int]:
    numbers = [_whole("srv", one) for one in text.split(" ")]
    if len(numbers) != 3 or max(numbers) > 0xFFFF:
        raise ValueError(f"srv={text[:32]!r} is not a priority, a weight and a port")
    return numbers[0], numbers[1], numbers[2]


def plain_peer(label: str, addresses: Sequence[IPAddress], strings: Sequence[bytes], vni: int) -> Node:
    """The node of another program's SRV record. `label`: the first of its target, which is all that there is for a
    name. `addresses`: the target's; the lowest of each IP version is taken. `strings`: of a TXT record that tells vni,
    vxlan_ip or networks, () for none; who tells no VNI has this one. WireError if it makes no sense."""
    endpoints = [min(some) for version in (4, 6) if (some := [a for a in addresses if a.version == version])]
    if not endpoints:
        raise WireError(f"{label} has no address")
    found = fields(strings)
    try:
        texts = {key: found[key].decode() for key in ("vxlan_ip", "vni", "networks", "port") if key in found}
        told: dict[str, int] = {key: _whole(key, texts[key]) for key in ("vni", "port") if key in texts}
    except ValueError as error:
        raise WireError(f"the TXT record of {label} can't be read: {error}") from error
    numbers = {"vni": vni, **told}
    port = numbers.get("port", PLAIN_PORT)
    networks = [one for one in texts.get("networks", "").split(",") if one]
    nodes = []
    for endpoint in endpoints:  # each is checked like any other
        said = {"id": label, "stack": label, "host_ip": str(endpoint), "vxlan_ip": texts.get("vxlan_ip", "")}
        hello = decode(_hello(said, numbers, networks, None), SOURCE)
        if not isinstance(hello, Hello) or not 0 < port < 1 << 16:
            raise WireError(f"the TXT record of {label} can't be read: port={port}")
        nodes.append(plain_node(hello, SOURCE, port))
    return replace(nodes[0], endpoints=tuple(node.endpoints[0] for node in nodes))
