"""discovery.json: what `weft discovery` hands to `weft router`, as text and back.

The docker-router document's file, with members of weft's own that a program which knows the document alone passes over.
Pure; encoded by `agent/discovering.py`, decoded by `discovery/file.py`.

    {"version":1, "last_update":"2024-01-15T10:30:00Z",
     "peers":[{"stack_id","host_ip","vxlan_endpoint","vni","last_seen","status",          (the document)
               "vxlan_ip","networks","weft":{peer_id endpoints mac mtu overlay named backend version source key lone}}],
     "weft":{"complete","here":[as peers],"problems":[{subject message wrong}],"mode"}}

What says nothing is left out, so of peers that told nothing but the document's fields the document's own text is made.
Times are whole seconds (RFC 3339, UTC).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

import msgspec

from weft.errors import WireError
from weft.model import DiscoveryData, IPAddress, Mac, Network, Node, Peer, Problem, mac_text
from weft.wire import texts
from weft.wire.networks import dealt

LONGEST = 64 << 20
"""Octets: 100,000 peers of the usual size."""
MAX_PEERS = 1 << 16
MAX_NETWORKS = 1 << 16
"""Of one peer: more than any announcement has room for (256 datagrams). How many are routed to is the router's say."""
MAX_PROBLEMS = 50
DEFAULT_PORT = 4789
FILE = "discovery.json"

_Seconds = Annotated[datetime, msgspec.Meta(tz=True)]
_Vni = Annotated[int, msgspec.Meta(ge=0, le=2**24 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_NETWORKS)]
_Age = Annotated[float, msgspec.Meta(ge=0)]
_LAST = 253402300799.0
"""The last second of the year 9999."""


class NamedRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """The next `subnets` of the entry's networks belong to this one."""

    name: str
    subnets: _Count = 1
    since: _Age | None = None


class WeftRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the document has no field for. `lone`: it is no stack's router, `stack_id` is its own id."""

    peer_id: str = ""
    endpoints: tuple[str, ...] = ()
    mac: str = ""
    mtu: int = 0
    overlay: tuple[str, ...] = ()
    named: tuple[NamedRow, ...] = ()
    backend: str = "vxlan"
    version: str = ""
    source: str = ""
    key: str = ""
    lone: bool = False


class PeerRow(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One entry. `vxlan_endpoint` None, as in a file that somebody wrote by hand: at the usual port."""

    stack_id: str
    host_ip: str
    vxlan_endpoint: str | None = None
    vni: _Vni
    last_seen: _Seconds
    status: Literal["active", "stale"]
    vxlan_ip: str | None = None
    networks: tuple[str, ...] = ()
    weft: WeftRow | None = None


class ProblemRow(msgspec.Struct, frozen=True, omit_defaults=True):
    subject: str
    message: str
    wrong: bool = True


class TopRow(msgspec.Struct, frozen=True, omit_defaults=True):
    complete: bool = True
    here: tuple[msgspec.Raw, ...] = ()
    problems: tuple[ProblemRow, ...] = ()
    mode: str = ""


class FileRow(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    last_update: _Seconds
    peers: tuple[msgspec.Raw, ...]
    weft: TopRow | None = None


_file = msgspec.json.Decoder(FileRow)
_entry = msgspec.json.Decoder(PeerRow)
_encode = msgspec.json.Encoder().encode

_Identity: TypeAlias = tuple[str, str, str | None, int, str | None, tuple[str, ...], WeftRow | None]
"""All of an entry that makes its node."""


# -- text to values ----------------------------------------------------------------------------------------------------


def decode(body: bytes) -> DiscoveryData:
    """Read the file; WireError if it is anything but a discovery.json of version 1.

    An entry that can't be read becomes a Problem, the others are kept, and the data isn't complete: nobody is removed
    because of a slip of the pen. Of two entries with one id the active and newer one holds.
    """
    return DiscoveryReader().decode(body)


class DiscoveryReader:
    """Reads one version of the file after the other. Entries that say the same as in the last one give the very same
    nodes, so that the router sees at once what did not change."""

    def __init__(self) -> None:
        self._nodes: Mapping[_Identity, Node] = {}

    def decode(self, body: bytes) -> DiscoveryData:
        """As the function of that name."""
        raw = _top(body)
        extra = raw.weft or TopRow()
        entries = _Entries(self._nodes)
        here = entries.read(extra.here, "weft.here")
        peers = entries.read(raw.peers, "peers")
        for peer in here.values():
            if peers.pop(peer.node.id, None) is not None:
                entries.complain(
                    f"{peer.node.id} is one of this host's own and of its peers, too: the latter is passed over"
                )
        self._nodes = entries.nodes
        return DiscoveryData(
            peers=tuple(peers[name] for name in sorted(peers)),
            here=tuple(here[name] for name in sorted(here)),
            last_update=raw.last_update.timestamp(),
            complete=extra.complete and not entries.unread,
            problems=(*_told(extra.problems), *entries.problems()),
        )


def _top(body: bytes) -> FileRow:
    if len(body) > LONGEST:
        raise WireError(f"{FILE} has {len(body)} octets, and {LONGEST} is the limit")
    try:
        raw = _file.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(f"{len(body)} octets are no {FILE} of version 1: {texts.said(error)}") from error
    if len(raw.peers) > MAX_PEERS:
        raise WireError(f"{FILE} has {len(raw.peers)} peers, and {MAX_PEERS} is the limit")
    return raw


def _told(rows: Sequence[ProblemRow]) -> Iterator[Problem]:
    for row in rows[:MAX_PROBLEMS]:
        yield Problem(texts.shortened(row.subject), texts.printable(row.message, texts.SHOWN), row.wrong)


class _Entries:
    """Reads entries, and collects what was wrong with them. `known`: nodes of the last file; `nodes`: of this one."""

    def __init__(self, known: Mapping[_Identity, Node]) -> None:
        self.nodes: dict[_Identity, Node] = {}
        self.unread = 0
        self._known = known
        self._complaints: list[str] = []
        self._more = 0

    def complain(self, message: str) -> None:
        if len(self._complaints) < MAX_PROBLEMS:
            self._complaints.append(message)
        else:
            self._more += 1

    def problems(self) -> Iterator[Problem]:
        for message in self._complaints:
            yield Problem(FILE, message)
        if self._more:
            yield Problem(FILE, f"{self._more} more entries are wrong in one way or another")

    def read(self, raws: Sequence[msgspec.Raw], where: str) -> dict[str, Peer]:
        """By id; of those with one id, the better one."""
        found: dict[str, Peer] = {}
        for number, raw in enumerate(raws):
            try:
                peer = self._peer(_entry.decode(raw))
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                self.unread += 1
                self.complain(f"{where}[{number}] can't be read and is left out: {texts.said(error)}")
                continue
            other = found.get(peer.node.id)
            if other is not None:
                peer, worse = sorted((peer, other), key=_merit, reverse=True)
                self.complain(
                    f"{where} has {peer.node.id} twice: at {peer.node.endpoints[0]}, which holds, and at "
                    f"{worse.node.endpoints[0]}; give each its own PEER_ID"
                )
            found[peer.node.id] = peer
        return found

    def _peer(self, row: PeerRow) -> Peer:
        identity = (row.stack_id, row.host_ip, row.vxlan_endpoint, row.vni, row.vxlan_ip, row.networks, row.weft)
        node = self.nodes.get(identity) or self._known.get(identity) or _node(row)
        self.nodes[identity] = node
        return Peer(node, row.last_seen.timestamp(), row.status)


def _merit(peer: Peer) -> tuple[bool, float, str]:
    return peer.status == "active", peer.last_seen, str(peer.node.endpoints[0])


def _node(row: PeerRow) -> Node:
    """ValueError if a text is not what it should be."""
    extra = row.weft or WeftRow()
    stack_id = texts.label(row.stack_id)
    return Node(
        id=texts.label(extra.peer_id or stack_id),
        endpoints=_endpoints(row.host_ip, extra.endpoints),
        port=_port(row.host_ip, row.vxlan_endpoint),
        vni=row.vni,
        mac=texts.mac(extra.mac),
        mtu=texts.mtu(extra.mtu),
        networks=_networks(row.networks, extra.named),
        overlay=_overlay(row.vxlan_ip, extra.overlay),
        backend=texts.label(extra.backend),
        version=texts.label(extra.version) if extra.version else "",
        source=texts.label(extra.source) if extra.source else "",
        key=texts.label(extra.key) if extra.key else "",
        stack="" if extra.lone else stack_id,
    )


def _endpoints(host_ip: str, told: tuple[str, ...]) -> tuple[IPAddress, ...]:
    endpoints = tuple(map(texts.endpoint, told or (host_ip,)))
    if endpoints[0] != texts.address(host_ip):
        raise ValueError("host_ip is not the first of the endpoints")
    if len({address.version for address in endpoints}) != len(endpoints):
        raise ValueError("more than one endpoint of one family")
    return endpoints


def _port(host_ip: str, vxlan_endpoint: str | None) -> int:
    """`10.0.1.5:4789`, `[fd00::5]:4789`, and what a program writes that does not know of brackets."""
    if vxlan_endpoint is None:
        return DEFAULT_PORT
    host, _, number = vxlan_endpoint.rpartition(":")
    if host not in (host_ip, f"[{host_ip}]"):
        raise ValueError(f"vxlan_endpoint {vxlan_endpoint!r} is not host_ip {host_ip!r} with a port")
    return texts.port(number)


def _overlay(vxlan_ip: str | None, told: tuple[str, ...]) -> tuple[IPAddress, ...]:
    first = (texts.address(vxlan_ip),) if vxlan_ip else ()
    overlay = tuple(map(texts.address, told)) or first
    if first and overlay[0] != first[0]:
        raise ValueError("vxlan_ip is not the first of the overlay's addresses")
    return overlay


def _networks(told: tuple[str, ...], named: tuple[NamedRow, ...]) -> tuple[Network, ...]:
    """Deal the subnets out to their networks; without names, each is one that is called as it is."""
    if len(told) > MAX_NETWORKS:
        raise ValueError(f"{len(told)} networks, and {MAX_NETWORKS} is the limit")
    subnets = tuple(map(texts.subnet, told))
    if not named:
        return tuple(Network(str(subnet), (subnet,)) for subnet in subnets)
    return dealt(subnets, named)


# -- values to text ----------------------------------------------------------------------------------------------------


def encode(data: DiscoveryData, mode: str) -> str:
    """The whole file. `mode`: how the peers were found, "" to leave it out. Exposed networks only; times are cut to
    whole seconds. Every peer must have an endpoint and an id that `decode` takes, as all have that came from a peer."""
    top = TopRow(
        complete=data.complete,
        here=tuple(msgspec.Raw(_encode(_row(peer))) for peer in data.here),
        problems=tuple(ProblemRow(p.subject, p.message, p.wrong) for p in data.problems),
        mode=mode,
    )
    body = _encode(
        FileRow(
            version=1,
            last_update=_moment(data.last_update),
            peers=tuple(msgspec.Raw(_encode(_row(peer))) for peer in data.peers),
            weft=None if top == TopRow() else top,
        )
    )
    return msgspec.json.format(body, indent=2).decode() + "\n"


def _row(peer: Peer) -> PeerRow:
    node = peer.node
    host_ip = str(node.endpoints[0])
    host = f"[{host_ip}]" if node.endpoints[0].version == 6 else host_ip
    networks = [network for network in node.networks if network.exposed]
    return PeerRow(
        stack_id=node.stack or node.id,
        host_ip=host_ip,
        vxlan_endpoint=f"{host}:{node.port}",
        vni=node.vni,
        last_seen=_moment(peer.last_seen),
        status=peer.status,
        vxlan_ip=str(node.overlay[0]) if node.stack and node.overlay else None,
        networks=tuple(str(subnet) for network in networks for subnet in network.subnets),
        weft=_extra(node, networks),
    )


def _extra(node: Node, networks: Sequence[Network]) -> WeftRow | None:
    """None if the document's own fields say all of it."""
    plain = all(len(n.subnets) == 1 and n.name == str(n.subnets[0]) and n.since == float("inf") for n in networks)
    row = WeftRow(
        peer_id=node.id if node.id != node.stack else "",
        endpoints=tuple(map(str, node.endpoints)) if len(node.endpoints) > 1 else (),
        mac=_mac(node.mac),
        mtu=min(node.mtu, texts.MAX_MTU),  # a loopback's is one more
        overlay=tuple(map(str, node.overlay)) if len(node.overlay) > 1 or not node.stack else (),
        named=() if plain else tuple(_named(network) for network in networks),
        backend=node.backend,
        version=texts.shortened(node.version) if node.version else "",
        source=node.source,
        key=node.key,
        lone=not node.stack,
    )
    if row == WeftRow():
        return None
    return msgspec.structs.replace(row, peer_id=node.id, endpoints=tuple(map(str, node.endpoints)))


def _mac(mac: Mac) -> str:
    return mac_text(mac) if any(mac) else ""


def _named(network: Network) -> NamedRow:
    since = network.since if 0 <= network.since < float("inf") else None
    return NamedRow(texts.shortened(network.name), len(network.subnets), since)


def _moment(seconds: float) -> datetime:
    """What no calendar has is its beginning."""
    return datetime.fromtimestamp(int(seconds) if 0 <= seconds <= _LAST else 0, UTC)
