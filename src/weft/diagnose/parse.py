"""What `ip -j` and `bridge -j` print → facts. Pure; `kernel.py` runs the commands.

Source of the format: iproute2's JSON output (ip-link(8) and its kin), versions 4.18 to 6.x. A row that lacks what is
needed (a route of another kind, a neighbour without an address) is left out, a text that is no JSON is a DecodeError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeVar

import msgspec

from weft.diagnose.facts import AddressFacts, FdbFacts, LinkFacts, NeighbourFacts, RouteFacts
from weft.errors import DecodeError
from weft.model import IPAddress, IPNetwork

T = TypeVar("T")


class _VxlanData(msgspec.Struct):
    id: int = 0
    port: int = 0
    local: str = ""
    local6: str = ""
    learning: bool = False
    link: str = ""


class _LinkInfo(msgspec.Struct):
    info_kind: str = ""
    info_data: msgspec.Raw = msgspec.Raw(b"{}")


class _Count(msgspec.Struct):
    packets: int = 0


class _Stats(msgspec.Struct):
    rx: _Count = msgspec.field(default_factory=_Count)
    tx: _Count = msgspec.field(default_factory=_Count)


class _Link(msgspec.Struct):
    ifname: str = ""
    flags: list[str] = []
    mtu: int = 0
    address: str = ""
    ifalias: str = ""
    master: str = ""
    linkinfo: _LinkInfo = msgspec.field(default_factory=_LinkInfo)
    stats64: _Stats = msgspec.field(default_factory=_Stats)


class _Addressed(msgspec.Struct):
    local: str = ""
    prefixlen: int = 0


class _Holder(msgspec.Struct):
    ifname: str = ""
    addr_info: list[_Addressed] = []


class _Hop(msgspec.Struct):
    gateway: str = ""
    dev: str = ""


class _Route(msgspec.Struct):
    dst: str = ""
    type: str = "unicast"
    gateway: str = ""
    dev: str = ""
    protocol: str = ""
    metric: int = 0
    nexthops: list[_Hop] = []


class _Neighbour(msgspec.Struct):
    dst: str = ""
    dev: str = ""
    lladdr: str = ""
    state: list[str] = []


class _Fdb(msgspec.Struct):
    mac: str = ""
    ifname: str = ""
    dst: str = ""
    state: str = ""


def links(text: str) -> tuple[LinkFacts, ...]:
    """Of `ip -j -d -s link show`."""
    return tuple(_link(row) for row in _rows(text, _Link, "ip link") if row.ifname)


def addresses(text: str) -> tuple[AddressFacts, ...]:
    """Of `ip -j address show`."""
    return tuple(
        AddressFacts(row.ifname, ip_interface(f"{one.local}/{one.prefixlen}"))
        for row in _rows(text, _Holder, "ip address")
        for one in row.addr_info
        if one.local
    )


def routes(text: str, version: int) -> tuple[RouteFacts, ...]:
    """Of `ip -j -d -4 route show` or `-6`."""
    return tuple(_routes(_rows(text, _Route, "ip route"), version))


def neighbours(text: str) -> tuple[NeighbourFacts, ...]:
    """Of `ip -j neighbour show nud all`."""
    rows = _rows(text, _Neighbour, "ip neighbour")
    return tuple(
        NeighbourFacts(row.dev, ip_address(row.dst), row.lladdr, "PERMANENT" in row.state)
        for row in rows
        if row.dst and row.lladdr
    )


def fdb(text: str) -> tuple[FdbFacts, ...]:
    """Of `bridge -j fdb show`: entries with a destination, which VXLAN devices alone have."""
    rows = _rows(text, _Fdb, "bridge fdb")
    return tuple(FdbFacts(r.ifname, r.mac, ip_address(r.dst), r.state == "permanent") for r in rows if r.dst)


def _rows(text: str, kind: type[T], what: str) -> list[T]:
    try:
        return msgspec.json.decode(text.strip() or "[]", type=list[kind])  # type: ignore[valid-type]
    except msgspec.DecodeError as error:
        raise DecodeError(f"{what} did not print the JSON that is known: {error}") from error


def _link(row: _Link) -> LinkFacts:
    vxlan = _VxlanData()
    if row.linkinfo.info_kind == "vxlan":
        with contextlib.suppress(msgspec.DecodeError):
            vxlan = msgspec.json.decode(row.linkinfo.info_data, type=_VxlanData)
    local = vxlan.local or vxlan.local6
    return LinkFacts(
        name=row.ifname,
        kind=row.linkinfo.info_kind,
        up="UP" in row.flags,
        mtu=row.mtu,
        mac=row.address,
        alias=row.ifalias,
        master=row.master,
        vni=vxlan.id,
        port=vxlan.port,
        local=ip_address(local) if local else None,
        learning=vxlan.learning,
        underlay=vxlan.link,
        rx_packets=row.stats64.rx.packets,
        tx_packets=row.stats64.tx.packets,
    )


def _routes(rows: list[_Route], version: int) -> Iterator[RouteFacts]:
    for row in rows:
        dst = _network(row.dst, version)
        if dst is None:
            continue
        for hop in row.nexthops or [_Hop(row.gateway, row.dev)]:
            yield RouteFacts(dst, hop.dev, _address(hop.gateway), row.protocol, row.metric, row.type)


def _network(text: str, version: int) -> IPNetwork | None:
    everything = {4: "0.0.0.0/0", 6: "::/0"}[version]
    with contextlib.suppress(ValueError):
        return ip_network(everything if text == "default" else text, strict=False)
    return None


def _address(text: str) -> IPAddress | None:
    with contextlib.suppress(ValueError):
        return ip_address(text)
    return None
