"""routes.json: the routes that `weft router` keeps, for people and programs. Exactly the docker-router document's.

Pure; encoded by `agent/router.py`. Nothing of weft's reads it but tests and whoever asks what was there before.

    {"routes":[{"destination":"172.21.0.0/16","next_hop":"192.168.100.2","interface":"vxlan1000","source":"static-config"}]}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from weft.errors import WireError
from weft.model import IPAddress, IPNetwork
from weft.wire import texts

LONGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class RuntimeRoute:
    """One row. Of a destination with several next hops there are several rows. `source`: who asked for it
    (`static-config`: routing.yaml, `discovery`: the peer announced it)."""

    destination: IPNetwork
    next_hop: IPAddress
    interface: str
    source: str


class _Row(msgspec.Struct, frozen=True):
    destination: str
    next_hop: str
    interface: str
    source: str


class _File(msgspec.Struct, frozen=True):
    routes: tuple[_Row, ...]


def encode_routes(routes: Iterable[RuntimeRoute]) -> str:
    """The whole file, sorted by destination and next hop."""
    in_order = sorted(routes, key=lambda r: (r.destination.version, r.destination, r.next_hop.version, r.next_hop))
    rows = tuple(_Row(str(r.destination), str(r.next_hop), r.interface, r.source) for r in in_order)
    return msgspec.json.format(msgspec.json.encode(_File(rows)), indent=2).decode() + "\n"


def decode_routes(body: bytes) -> tuple[RuntimeRoute, ...]:
    """Read the file; WireError if it is anything else."""
    if len(body) > LONGEST:
        raise WireError(f"routes.json has {len(body)} octets, and {LONGEST} is the limit")
    try:
        return tuple(map(_route, msgspec.json.decode(body, type=_File).routes))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"{len(body)} octets are no routes.json: {texts.said(error)}") from error


def _route(row: _Row) -> RuntimeRoute:
    return RuntimeRoute(
        texts.subnet(row.destination),
        texts.address(row.next_hop),
        texts.label(row.interface),
        texts.label(row.source),
    )
