"""Ops in words, for the messages of failures: in the words of `ip` and `bridge`. Used by the kernel target alone."""

from __future__ import annotations

from weft.model import mac_text
from weft.objects import Address, Fdb, Link, Neighbour, NextHop, Object, Op, Route, Sysctl


def asked(op: Op) -> str:
    """`add route 10.1.2.0/24 nhid 1879048193 dev vxlan4096 metric 100`."""
    return f"{op.action} {named(op.object)}"


def named(thing: Object) -> str:
    if isinstance(thing, Sysctl):
        return f"sysctl {thing.path} = {thing.value}"
    if isinstance(thing, Link):
        return f"link {thing.name} (VNI {thing.vxlan.vni}, port {thing.vxlan.port}, local {thing.vxlan.local})"
    if isinstance(thing, Address):
        return f"address {thing.address} dev {thing.dev}"
    if isinstance(thing, Neighbour):
        return f"neighbour {thing.address} lladdr {mac_text(thing.mac)} dev {thing.dev}"
    if isinstance(thing, Fdb):
        return f"fdb {mac_text(thing.mac)} dst {thing.dst} dev {thing.dev}"
    if isinstance(thing, NextHop):
        return f"next hop {thing.id} via {thing.via} dev {thing.dev}"
    return _route(thing) if isinstance(thing, Route) else str(thing.key)


def _route(route: Route) -> str:
    words = [f"route {route.dst}"]
    if route.nexthop:
        words.append(f"nhid {route.nexthop}")
    if route.via is not None:
        words.append(f"via {route.via}")
    words.append(f"dev {route.dev} metric {route.metric} table {route.table}")
    if route.src is not None:
        words.append(f"src {route.src}")
    return " ".join(words)
