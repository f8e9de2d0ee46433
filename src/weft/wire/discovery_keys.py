"""A stack in etcd: its keys, and their values to a node and back. Pure; called by `discovery/etcd.py` and its parts.

    <prefix>/<peer id>/host_ip          10.0.1.5                    (the docker-router document, as are the next three)
                       vni              1000
                       vxlan_endpoint   10.0.1.5:4789, [fd00::5]:4789
                       last_seen        2024-01-15T10:30:00Z
                       networks         ["172.20.0.0/16"]           JSON
                       vxlan_ip         192.168.100.1
                       stack_id         stack-a
                       weft             JSON: what a HELLO has in its member `weft`, and `departed`

All are plain text, without quotation marks; marks that another program left around a value are taken off. host_ip and
vni must be there; without `weft` it is a router that speaks the plain form. In a key, `/` and
`%` of a peer id are percent-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote

import msgspec

from weft.errors import WireError
from weft.model import Node, mac_text
from weft.wire import router_schema as schema
from weft.wire.hello import PLAIN_PORT, Hello, Stamp, plain_node
from weft.wire.router import announced_mtu, check_sayable, dealt_out, described, plain_hello, vxlan_ip
from weft.wire.texts import label, shortened

HOST_IP, LAST_SEEN, WEFT = "host_ip", "last_seen", "weft"
NAMES = frozenset((HOST_IP, "vni", "vxlan_endpoint", LAST_SEEN, "networks", "vxlan_ip", "stack_id", WEFT))
SOURCE = "etcd"

_ENDPOINT = re.compile(r"\[([^\]]+)\]:(\d{1,5})|([^\[\]:]+):(\d{1,5})", re.ASCII)
_NUMBER = re.compile(r"\d{1,8}", re.ASCII)
_registered = msgspec.json.Decoder(schema.Registered)
_subnets = msgspec.json.Decoder(list[str])
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Registration:
    """What the keys of one peer say. `stamp` None: it is no weft. `seen`: its `last_seen`, seconds since 1970 by its
    own clock, None if it has none."""

    node: Node
    stamp: Stamp | None = None
    departed: bool = False
    seen: float | None = None


class IncompleteError(WireError):
    """A key that must be there is not (yet, or not any more): other programs write them one by one."""


def folder(prefix: str, peer_id: str) -> str:
    """`<prefix>/<peer id>/`."""
    return f"{prefix}/{_segment(peer_id)}/"


def peer_of(segment: str) -> str:
    """The peer id that stands in a key. WireError if it is none."""
    try:
        peer_id = label(unquote(segment, errors="strict"))
    except ValueError as error:
        raise WireError(f"{segment!r} is no peer id: {error}") from error
    if _segment(peer_id) != segment:
        raise WireError(f"{segment!r} is no peer id: {peer_id!r} is written as {_segment(peer_id)!r}")
    return peer_id


def time_text(seconds: float) -> str:
    """RFC 3339, in UTC and whole seconds."""
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%SZ}"


def values(me: Node, stamp: Stamp, wall: float, departed: bool = False) -> dict[str, bytes]:
    """Name → value of all keys of `me`; `wall`: seconds since 1970. WireError if nobody who reads them would believe
    them."""
    check_sayable(me)
    (told,) = dealt_out(me)
    endpoints = list(map(str, me.endpoints))
    details = schema.Registered(
        instance=stamp.instance,
        epoch=stamp.epoch,
        seq=stamp.seq,
        software=shortened(me.version) if me.version else "",
        endpoints=endpoints,
        port=me.port,
        mac=mac_text(me.mac),
        backend=me.backend,
        mtu=announced_mtu(me),
        overlay=told.overlay,
        named=told.named,
        stack=bool(me.stack),
        departed=departed,
    )
    return {
        HOST_IP: endpoints[0].encode(),
        "vni": str(me.vni).encode(),
        "vxlan_endpoint": f"{f'[{endpoints[0]}]' if me.endpoints[0].version == 6 else endpoints[0]}:{me.port}".encode(),
        LAST_SEEN: time_text(wall).encode(),
        "networks": _encode(told.subnets),
        "vxlan_ip": vxlan_ip(me).encode(),
        "stack_id": (me.stack or me.id).encode(),
        WEFT: _encode(details),
    }


def read(peer_id: str, fields: Mapping[str, bytes]) -> Registration:
    """The peer with these keys. WireError if a value can't be what it should be, IncompleteError if one is missing."""
    missing = sorted({HOST_IP, "vni"} - fields.keys())
    if missing:
        raise IncompleteError(f"{' and '.join(missing)} of {peer_id} not there")
    try:
        text = bytes.decode if WEFT in fields else _unquoted  # weft's own are exact: a name may have quotation marks
        return _read(peer_id, {name: text(fields[name]) for name in NAMES if name in fields})
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"the keys of {peer_id} can't be read: {error}") from error


def owner(fields: Mapping[str, bytes]) -> tuple[str, schema.Registered | None]:
    """Whose keys these are, as far as can be told: the host's address ("" for none) and weft's details."""
    try:
        details = _registered.decode(fields[WEFT]) if WEFT in fields else None
    except (msgspec.DecodeError, RecursionError):
        details = None
    address = fields.get(HOST_IP, b"").decode(errors="replace").strip().strip('"')
    return (details.endpoints[0] if details and details.endpoints else address), details


def _read(peer_id: str, texts: Mapping[str, str]) -> Registration:
    if not _NUMBER.fullmatch(texts["vni"]) or int(texts["vni"]) >= 1 << 24:
        raise ValueError(f"{texts['vni']!r} is no VNI")
    subnets = _subnets.decode(texts["networks"]) if texts.get("networks") else []
    raw = schema.Hello(
        version=1,
        peer_id=peer_id,
        host_ip=texts[HOST_IP],
        vxlan_ip=texts.get("vxlan_ip"),
        vni=int(texts["vni"]),
        stack_name=texts.get("stack_id", ""),
        networks=subnets,
    )
    seen = _seconds(texts[LAST_SEEN]) if texts.get(LAST_SEEN) else None
    if WEFT not in texts:
        return Registration(_plain(raw, texts.get("vxlan_endpoint", "")), seen=seen)
    details = _registered.decode(texts[WEFT])
    if details.named and details.named[-1].more:
        raise ValueError("the last network goes on, and there is nothing after it")
    stamp = Stamp(label(details.instance), details.epoch, details.seq)
    return Registration(described(plain_hello(raw), details, SOURCE), stamp, details.departed, seen)


def _plain(raw: schema.Hello, endpoint: str) -> Node:
    """The tunnel ends where vxlan_endpoint says, which need not be host_ip."""
    hello: Hello = plain_hello(raw)
    if not endpoint:
        return plain_node(hello, SOURCE, PLAIN_PORT)
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match[2] or match[4]) < 1 << 16:
        raise ValueError(f"{endpoint!r} is no address with a port")
    hello = plain_hello(msgspec.structs.replace(raw, host_ip=match[1] or match[3]))
    return plain_node(hello, SOURCE, int(match[2] or match[4]))


def _unquoted(value: bytes) -> str:
    """ValueError if it is no UTF-8."""
    text = value.decode().strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _seconds(text: str) -> float:
    """ValueError if it is no time with an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC, as in 2024-01-15T10:30:00Z")
    return moment.timestamp()


def _segment(peer_id: str) -> str:
    return peer_id.replace("%", "%25").replace("/", "%2F")
