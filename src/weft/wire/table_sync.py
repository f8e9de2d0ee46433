"""TABLE_SYNC of the docker-router document: all that one member believes, in JSON, for another one to compare.

    {"type":"TABLE_SYNC","version":1,"peer_id":"stack-a","sequence":12345,
     "peers":[{"stack_id":"stack-b","host_ip":"10.0.2.6","status":"active","vxlan_endpoint":"10.0.2.6:4789","vni":1000,
               "weft":{"peer_id":"stack-b","state":1,"incarnation":1700000000000,"by":"","address":["10.0.2.6",4790],
                       "digest":"5f0c…","hello":"…base64 of the deflated HELLO…"}}],
     "routes":[{"destination":"172.20.0.0/16","next_hop":"192.168.100.1","interface":"vxlan1000","source":"discovery"}],
     "weft":{"step":"ask","address":["10.0.1.5",4790],"want":[]}}

`peers` are everybody of whom something is to be said, `routes` the sender's own networks. What weft needs beyond the
document stands in `weft`; `vxlan_endpoint` and `vni` only where the HELLO is there. On the wire it is deflated, sealed
and has its length before it (4 octets); `discovery/gossip_sockets.py` does that.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Literal

import msgspec

from weft.core.swim_values import DIGEST, Address, State, Update
from weft.errors import WireError
from weft.model import Node
from weft.wire import gossip_payload
from weft.wire.gossip import checked
from weft.wire.router import vxlan_ip
from weft.wire.texts import label

LONGEST = 32 << 20
"""Octets of the JSON."""
MOST = 4 << 20
"""Octets on the wire, sealed."""
MEMBERS = 20_001

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Octet = Annotated[int, msgspec.Meta(ge=1, le=4)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Where = tuple[str, _Port]
Step = Literal["ask", "answer", "payloads"]


@dataclass(frozen=True, slots=True)
class Table:
    """`sender`: its id, `address`: where it is a member. `want`: ids whose payloads should be sent."""

    sender: str
    address: Address
    step: Step
    sequence: int = 0
    updates: tuple[Update, ...] = ()
    want: tuple[str, ...] = ()


class _Details(msgspec.Struct, omit_defaults=True):
    peer_id: str
    state: _Octet
    incarnation: _Count
    by: str = ""
    address: _Where | None = None
    digest: str = ""
    hello: bytes | None = None


class _Peer(msgspec.Struct, omit_defaults=True):
    stack_id: str
    host_ip: str
    status: str
    weft: _Details
    vxlan_endpoint: str = ""
    vni: int = 0


class _Route(msgspec.Struct):
    destination: str
    next_hop: str
    interface: str
    source: str = "discovery"


class _Sync(msgspec.Struct):
    step: Step
    address: _Where
    want: list[str]


class _Table(msgspec.Struct, tag_field="type", tag="TABLE_SYNC"):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    peer_id: str
    sequence: _Count
    peers: Annotated[list[_Peer], msgspec.Meta(max_length=MEMBERS)]
    routes: list[_Route]
    weft: _Sync


_decoder = msgspec.json.Decoder(_Table)
_encode = msgspec.json.Encoder().encode


def encode(table: Table, me: Node | None = None) -> bytes:
    """The octets, deflated. `me`: whose networks are told as routes. WireError if it is more than anybody takes."""
    raw = _Table(
        version=1,
        peer_id=table.sender,
        sequence=table.sequence,
        peers=[_peer(update) for update in table.updates],
        routes=_routes(me) if me is not None else [],
        weft=_Sync(table.step, _where(table.address), list(table.want)),
    )
    octets = zlib.compress(_encode(raw), 6)
    if len(octets) > MOST - 64:
        raise WireError(f"a table of {len(table.updates)} members takes {len(octets)} octets, and {MOST} is the limit")
    return octets


def _routes(me: Node) -> list[_Route]:
    exposed = (subnet for network in me.networks if network.exposed for subnet in network.subnets)
    return [_Route(str(subnet), vxlan_ip(me), f"vxlan{me.vni}") for subnet in exposed]


def _peer(update: Update) -> _Peer:
    details = _Details(
        peer_id=update.id,
        state=int(update.state),
        incarnation=update.incarnation,
        by=update.by,
        address=_where(update.address) if update.address is not None else None,
        digest=update.digest.hex(),
        hello=update.payload,
    )
    host = str(update.address.ip) if update.address is not None else ""
    peer = _Peer(update.id, host, "active" if update.state <= State.SUSPECT else "stale", details)
    node = _node(update.payload)
    if node is not None:
        peer.stack_id, peer.host_ip, peer.vni = node.stack or node.id, str(node.endpoints[0]), node.vni
        peer.vxlan_endpoint = str(Address(node.endpoints[0].packed, node.port))
    return peer


def _node(payload: bytes | None) -> Node | None:
    """For those who read along; a HELLO that can't be read is passed on as it is."""
    try:
        return gossip_payload.unpack(payload) if payload is not None else None
    except WireError:
        return None


def _where(address: Address) -> _Where:
    return str(address.ip), address.port


def decode(octets: bytes) -> Table:
    """Read a table; WireError if it is anything but one of version 1 with sound values."""
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(octets, LONGEST)
        if not unpacker.eof:
            raise ValueError(f"it ends too early, or is more than {LONGEST} octets")
        return _table(_decoder.decode(body))
    except (zlib.error, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"{len(octets)} octets are no TABLE_SYNC: {error}") from error


def _table(raw: _Table) -> Table:
    return Table(
        sender=label(raw.peer_id),
        address=_address(raw.weft.address),
        step=raw.weft.step,
        sequence=raw.sequence,
        updates=tuple(_updates(raw.peers)),
        want=tuple(map(label, raw.weft.want)),
    )


def _address(where: _Where) -> Address:
    text, port = where
    if "%" in text:
        raise ValueError(f"{text!r} is an address with a zone, which means nothing to another host")
    return checked(Address(ip_address(text).packed, port))


def _updates(peers: Iterable[_Peer]) -> Iterable[Update]:
    for peer in peers:
        told = peer.weft
        state, digest = State(told.state), bytes.fromhex(told.digest)
        address = _address(told.address) if told.address is not None else None
        if len(digest) not in (0, DIGEST) or (state is State.ALIVE and address is None):
            raise ValueError(f"{told.peer_id!r} has no address, or a digest of {len(digest)} octets")
        if told.hello is not None and len(told.hello) > gossip_payload.MOST:
            raise ValueError(f"the HELLO of {told.peer_id!r} has {len(told.hello)} octets")
        accused = state in (State.SUSPECT, State.DEAD)
        yield Update(
            state, label(told.peer_id), told.incarnation, label(told.by) if accused else "", address, digest, told.hello
        )
