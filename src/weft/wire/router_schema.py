"""The JSON of discovery datagrams, field by field: what stands on the wire, and which numbers are possible.

Texts are still texts here; `wire/router.py`, the only caller, makes addresses and names of them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from weft.wire.texts import MAX_MTU

MAX_PARTS = 256

_Version = Annotated[int, msgspec.Meta(ge=1, le=1)]
_Counter = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Part = Annotated[int, msgspec.Meta(ge=1, le=MAX_PARTS)]
_Vni = Annotated[int, msgspec.Meta(ge=0, le=2**24 - 1)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Age = Annotated[float, msgspec.Meta(ge=0)]
"""Seconds since 1970, and finite: JSON has no other numbers, and the decoder refuses 1e400."""
_Mtu = Annotated[int, msgspec.Meta(ge=0, le=MAX_MTU)]
"""Octets that an uplink carries at once; peers' routes get their MTU from it. 0: not known."""


class Named(msgspec.Struct):
    """The next `subnets` of the HELLO's networks belong to this one; `more`: so do the first ones of the next part."""

    name: str
    since: _Age | None
    subnets: _Counter
    more: bool = False


class Stamped(msgspec.Struct):
    instance: str
    epoch: _Counter
    seq: _Counter


class Described(Stamped):
    """What a tunnel needs beyond the document's fields. `stack`: the sender is a router of the stack that it names, and
    not a host of its own right."""

    software: str
    endpoints: list[str]
    port: _Port
    mac: str
    backend: str
    mtu: _Mtu
    overlay: list[str]
    named: list[Named]
    stack: bool = False


class Details(Described, kw_only=True):
    """The member `weft` of a HELLO."""

    part: _Part
    parts: _Part
    query: bool


class Registered(Described, kw_only=True):
    """The key `weft` of a stack in etcd. `departed`: it left of its own accord, and its keys go soon."""

    departed: bool = False


class Hello(msgspec.Struct, tag_field="type", tag="HELLO", kw_only=True):
    version: _Version
    peer_id: str
    host_ip: str
    vxlan_ip: str | None = None
    vni: _Vni
    stack_name: str = ""
    networks: list[str] = []
    weft: Details | None = None


class Goodbye(msgspec.Struct, tag_field="type", tag="GOODBYE"):
    version: _Version
    peer_id: str
    host_ip: str
    weft: Stamped


class Query(msgspec.Struct, tag_field="type", tag="QUERY"):
    version: _Version
    stack_id: str
    host_ip: str
    vni: _Vni
    timestamp: int | float | str = 0
    weft: Stamped | None = None


class Announce(msgspec.Struct, tag_field="type", tag="ANNOUNCE"):
    version: _Version
    stack_id: str
    host_ip: str
    vni: _Vni
    timestamp: int | float | str = 0


class Response(Announce, tag_field="type", tag="RESPONSE"):
    pass


class TableSync(msgspec.Struct, tag_field="type", tag="TABLE_SYNC"):
    """Of `peers` and `routes`, nothing is read here: what somebody says of others is believed by nobody."""

    version: _Version
    peer_id: str
    sequence: Annotated[int, msgspec.Meta(ge=0)] = 0
    peers: list[msgspec.Raw] = []
    routes: list[msgspec.Raw] = []
