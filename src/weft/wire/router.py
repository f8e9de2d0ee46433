"""The codec of discovery datagrams: HELLO of the docker-router document, GOODBYE, QUERY, and the older messages.

Pure: values to bytes and back. Called by `discovery/conversation.py`, and by gossip for what its members say of
themselves; `wire/discovery_keys.py` reads the same fields out of etcd. Every message is one JSON object with `type` and
`version` 1; what weft adds stands in a member `weft`, so a program that knows the document alone can ignore it:

    HELLO       peer_id host_ip vxlan_ip vni stack_name networks              (the document)
                weft: software instance epoch seq part parts query endpoints port mac backend mtu overlay named stack
    GOODBYE     peer_id host_ip, weft: instance epoch seq
    QUERY       stack_id host_ip vni timestamp (the older form), weft: instance epoch seq
    ANNOUNCE, RESPONSE   stack_id host_ip vni timestamp (the older form only)
    TABLE_SYNC  peer_id sequence peers routes (`wire/table_sync.py` reads all of it; here it is known for what it is)

`host_ip` is the first endpoint. A router of a stack has the stack's name in `stack_name` and its own overlay address in
`vxlan_ip`; a host that is no stack's has its id and its endpoint there, behind which its networks are on the device.

A set that does not fit into one datagram goes out in `parts` with one `seq`; `hello.merge` joins them again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from weft.errors import WireError
from weft.model import IPAddress, IPNetwork, Mac, Network, Node, mac_text, parse_mac
from weft.wire import router_schema as schema
from weft.wire import texts
from weft.wire.hello import Goodbye, Hello, Message, Query, Stamp, TableSync
from weft.wire.networks import dealt
from weft.wire.router_schema import MAX_PARTS

SOURCE = "multicast"
WHOLE = 1 << 30
"""A limit for `encode_hello` by which everything is in one part: for carriers other than a datagram."""

_decoder = msgspec.json.Decoder(
    schema.Hello | schema.Goodbye | schema.Query | schema.Announce | schema.Response | schema.TableSync
)
_encode = msgspec.json.Encoder().encode


def decode(body: bytes, source: str = SOURCE) -> Message:
    """Read one datagram's body; WireError if it is anything but a message of version 1 with sound values. `source`: the
    discovery that heard it, for `Node.source`."""
    try:
        return _message(_decoder.decode(body), source)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"a datagram of {len(body)} octets is no discovery message: {error}") from error


def read_node(body: bytes, source: str) -> Node:
    """The node of a HELLO that is whole in one body, with weft's details. WireError if it is anything else."""
    message = decode(body, source)
    if not isinstance(message, Hello) or message.node is None or message.parts > 1 or message.open_ended:
        raise WireError(f"{len(body)} octets of {message.peer_id} are no whole HELLO of weft's: {message.kind}")
    return message.node


_Raw = schema.Hello | schema.Goodbye | schema.Query | schema.Announce | schema.TableSync


def _message(raw: _Raw, source: str) -> Message:
    """ValueError if a text is not the address, network or label that it should be."""
    if isinstance(raw, schema.Hello):
        return _full(raw, raw.weft, source) if raw.weft is not None else plain_hello(raw)
    if isinstance(raw, schema.TableSync):
        return TableSync(texts.label(raw.peer_id))
    if isinstance(raw, schema.Goodbye):
        return Goodbye(texts.label(raw.peer_id), (texts.endpoint(raw.host_ip),), _stamp(raw.weft))
    who, where = texts.label(raw.stack_id), (texts.endpoint(raw.host_ip),)
    if isinstance(raw, schema.Query):
        return Query(who, where, _stamp(raw.weft) if raw.weft else None)
    return Hello(who, where, raw.vni, kind="RESPONSE" if isinstance(raw, schema.Response) else "ANNOUNCE")


def plain_hello(raw: schema.Hello) -> Hello:
    """The document's own fields, whatever else is there. ValueError as above."""
    return Hello(
        peer_id=texts.label(raw.peer_id),
        endpoints=(texts.endpoint(raw.host_ip),),
        vni=raw.vni,
        stack_name=texts.label(raw.stack_name) if raw.stack_name else "",
        vxlan_ip=texts.endpoint(raw.vxlan_ip) if raw.vxlan_ip else None,
        subnets=tuple(map(texts.subnet, raw.networks)),
    )


def _full(raw: schema.Hello, details: schema.Details, source: str) -> Hello:
    if details.part > details.parts:
        raise ValueError(f"part {details.part} of {details.parts}")
    hello = plain_hello(raw)
    node = described(hello, details, source)
    return replace(
        hello,
        endpoints=node.endpoints,
        stamp=_stamp(details),
        node=node,
        part=details.part,
        parts=details.parts,
        query=details.query,
        open_ended=bool(details.named) and details.named[-1].more,
    )


def described(hello: Hello, details: schema.Described, source: str) -> Node:
    """The node of whom both tell: the document's fields, and weft's. ValueError as above."""
    return Node(
        id=hello.peer_id,
        endpoints=_endpoints(hello.endpoints[0], details.endpoints),
        port=details.port,
        vni=hello.vni,
        mac=_unicast(parse_mac(details.mac)),
        mtu=texts.mtu(details.mtu),
        networks=_networks(hello.subnets, details.named),
        overlay=tuple(map(texts.address, details.overlay)),
        backend=texts.label(details.backend),
        version=texts.label(details.software) if details.software else "",
        source=source,
        stack=_stack(hello, details),
    )


def _stack(hello: Hello, details: schema.Described) -> str:
    """Who is no stack's names itself there: so did weft before it knew of stacks."""
    named = hello.stack_name or hello.peer_id
    return named if details.stack or named != hello.peer_id else ""


def _endpoints(host_ip: IPAddress, told: list[str]) -> tuple[IPAddress, ...]:
    endpoints = tuple(map(texts.endpoint, told))
    if not endpoints or host_ip != endpoints[0]:
        raise ValueError("host_ip is not the first of the endpoints")
    if len({address.version for address in endpoints}) != len(endpoints):
        raise ValueError("more than one endpoint of one family")
    return endpoints


def _networks(subnets: tuple[IPNetwork, ...], named: list[schema.Named]) -> tuple[Network, ...]:
    if any(entry.more for entry in named[:-1]):
        raise ValueError("only the last network of a part can go on in the next one")
    return dealt(subnets, named)


def _stamp(raw: schema.Stamped) -> Stamp:
    return Stamp(texts.label(raw.instance), raw.epoch, raw.seq)


def _unicast(mac: Mac) -> Mac:
    if mac[0] & 1 or mac == bytes(6):
        raise ValueError(f"{mac_text(mac)} is not the address of one interface")
    return mac


@dataclass(slots=True)
class Share:
    """What one part carries, and how many octets are left in it."""

    room: int
    subnets: list[str] = field(default_factory=list)
    named: list[schema.Named] = field(default_factory=list)
    overlay: list[str] = field(default_factory=list)


class _Packer:
    """Deals overlay addresses and networks out to as few parts as their order allows; `room` octets in each."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.shares = [Share(room)]

    def _place(self, octets: int) -> None:
        if self.shares[-1].room < octets:
            self.shares.append(Share(self.room))
        if self.shares[-1].room < octets:
            raise WireError(f"a network of {octets} octets does not fit into a datagram that has room for {self.room}")
        self.shares[-1].room -= octets

    def add_overlay(self, address: str) -> None:
        self._place(len(address) + 3)
        self.shares[-1].overlay.append(address)

    def add_network(self, network: Network) -> None:
        """A network's entry stands in one part with its first subnet, and once more in each part that it runs into."""
        since = network.since if 0 <= network.since < float("inf") else None
        entry = schema.Named(texts.shortened(network.name), since, 0)
        entry_octets = len(_encode(entry)) + 4  # a comma, and a count of up to three digits more
        told = [str(subnet) for subnet in network.subnets]
        self._place(entry_octets + (len(told[0]) + 3 if told else 0))
        self.shares[-1].named.append(entry)
        for text in told:
            share = self.shares[-1]
            if entry.subnets and share.room < len(text) + 3:
                self._place(entry_octets + len(text) + 3)
                entry.more, entry = True, schema.Named(entry.name, since, 0)
                self.shares[-1].named.append(entry)
            elif entry.subnets:
                self._place(len(text) + 3)
            entry.subnets += 1
            self.shares[-1].subnets.append(text)


def encode_hello(me: Node, stamp: Stamp, limit: int = WHOLE, query: bool = False) -> list[bytes]:
    """The bodies that tell others about `me`, each at most `limit` octets; exposed networks only.

    WireError if `me` has no endpoint, a bad id or an MTU that nobody would believe, or if its networks do not fit into
    MAX_PARTS datagrams.
    """
    check_sayable(me)
    shares = dealt_out(me, limit - len(_body(me, stamp, Share(0), MAX_PARTS, MAX_PARTS, query)))
    if len(shares) > MAX_PARTS:
        raise WireError(
            f"{me.id} can't be announced: its {len(me.networks)} networks need {len(shares)} datagrams of {limit} "
            f"octets, and {MAX_PARTS} is the limit; expose fewer networks"
        )
    return [_body(me, stamp, share, number, len(shares), query) for number, share in enumerate(shares, 1)]


def dealt_out(me: Node, room: int = WHOLE) -> list[Share]:
    """What is told of `me`, in parts with so many octets of room. WireError if one network takes more than that."""
    packer = _Packer(room)
    for address in _told_overlay(me):
        packer.add_overlay(address)
    for network in me.networks:
        if network.exposed:
            packer.add_network(network)
    return packer.shares


def check_sayable(me: Node) -> None:
    """WireError if nobody who hears this would believe it."""
    if not me.endpoints:
        raise WireError(f"{me.id} can't be announced: it has no endpoint")
    try:
        texts.label(me.id)
        texts.label(me.stack or me.id)
        texts.mtu(announced_mtu(me))
        _unicast(me.mac)
        texts.endpoint(vxlan_ip(me))
    except ValueError as error:
        raise WireError(f"the node {me.id!r} can't be announced: {error}") from error


def announced_mtu(me: Node) -> int:
    """Its uplink's; a loopback's is one more than can be said."""
    return min(me.mtu, texts.MAX_MTU)


def _told_overlay(me: Node) -> list[str]:
    """Overlay addresses, apart from those that would give away a network that is not exposed."""
    private = [subnet for network in me.networks if not network.exposed for subnet in network.subnets]
    return [str(address) for address in me.overlay if not any(address in subnet for subnet in private)]


def _body(me: Node, stamp: Stamp, share: Share, part: int, parts: int, query: bool) -> bytes:
    endpoints = list(map(str, me.endpoints))
    details = schema.Details(
        instance=stamp.instance,
        epoch=stamp.epoch,
        seq=stamp.seq,
        part=part,
        parts=parts,
        query=query,
        software=texts.shortened(me.version) if me.version else "",
        endpoints=endpoints,
        port=me.port,
        mac=mac_text(me.mac),
        backend=me.backend,
        mtu=announced_mtu(me),
        overlay=share.overlay,
        named=share.named,
        stack=bool(me.stack),
    )
    return _encode(
        schema.Hello(
            version=1,
            peer_id=me.id,
            host_ip=endpoints[0],
            vxlan_ip=vxlan_ip(me),
            vni=me.vni,
            stack_name=me.stack or me.id,
            networks=share.subnets,
            weft=details,
        )
    )


def vxlan_ip(me: Node) -> str:
    """The gateway on the VXLAN device behind which the networks of `me` are."""
    overlay = _told_overlay(me) if me.stack else []
    return overlay[0] if overlay else str(me.endpoints[0])


def encode_goodbye(me: Node, stamp: Stamp) -> bytes:
    """`me` leaves."""
    return _encode(
        schema.Goodbye(1, me.id, str(me.endpoints[0]), schema.Stamped(stamp.instance, stamp.epoch, stamp.seq))
    )


def encode_query(node_id: str, source: IPAddress, stamp: Stamp) -> bytes:
    """Ask everybody, and tell nothing that would make anybody add us: VNI and time are 0 = not told."""
    return _encode(schema.Query(1, node_id, str(source), 0, 0, schema.Stamped(stamp.instance, stamp.epoch, stamp.seq)))


def encode_response(me: Node, timestamp: int) -> bytes:
    """The older form's answer to its QUERY; `timestamp` in seconds since 1970."""
    return _encode(schema.Response(1, me.stack or me.id, str(me.endpoints[0]), me.vni, timestamp))
