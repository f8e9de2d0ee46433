"""Ops as command lines of AWS' own tool, for `-dry-run`. Pure; called by `aws.py`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network

import msgspec

from weft.errors import TargetError
from weft.objects import Op
from weft.objects.cloud import CloudRoute
from weft.targets.cloud.aws_interfaces import Interfaces
from weft.targets.cloud.aws_tables import Table
from weft.wire.aws_tags import Claims, tags_of


def lines(ops: Sequence[Op], tables: Mapping[str, Table], interfaces: Interfaces) -> list[str]:
    """What a table's tags list is written before its routes are made, and again once routes are gone."""
    by_table: dict[str, list[tuple[Op, CloudRoute]]] = {}
    for op in ops:
        if isinstance(op.object, CloudRoute):
            by_table.setdefault(op.object.table, []).append((op, op.object))
    said: list[str] = []
    for name, some in by_table.items():
        table = tables.get(name)
        routes = [_route(op, route, table, interfaces) for op, route in some]
        said.extend(routes if table is None else _between_tags(table, some, routes))
    return said


def _between_tags(table: Table, some: Sequence[tuple[Op, CloudRoute]], routes: Sequence[str]) -> list[str]:
    made = {route.dst for op, route in some if op.action != "remove"}
    gone = {route.dst for op, route in some if op.action == "remove"}
    listed = {*table.claims}
    try:
        first = table.own_tags() if made <= listed else tags_of(table.owner, Claims(frozenset(listed | made)))
        last = first if not gone else tags_of(table.owner, Claims(frozenset((listed | made) - gone)))
    except TargetError as error:
        return [f"# {table.id}: {error}", *routes]
    changed = {key: value for key, value in last.items() if first.get(key) != value}
    surplus = [key for key in {**first, **dict.fromkeys(table.own_keys())} if key not in last]
    return [
        *_tags("create-tags", table, {key: value for key, value in first.items() if table.tags.get(key) != value}),
        *routes,
        *_tags("create-tags", table, changed),
        *_tags("delete-tags", table, dict.fromkeys(surplus)),
    ]


def _tags(verb: str, table: Table, tags: Mapping[str, str | None]) -> Iterator[str]:
    """`tags`: by key; None where none is needed."""
    pairs = [{"Key": key} | ({"Value": value} if value is not None else {}) for key, value in tags.items()]
    if pairs:
        yield f"aws ec2 {verb} --resources {table.id} --tags {shlex.quote(msgspec.json.encode(pairs).decode())}"


def _route(op: Op, route: CloudRoute, table: Table | None, interfaces: Interfaces) -> str:
    option = "--destination-cidr-block" if isinstance(route.dst, IPv4Network) else "--destination-ipv6-cidr-block"
    what = f"--route-table-id {route.table} {option} {route.dst}"
    if op.action == "remove":
        return f"aws ec2 delete-route {what}"
    there = table is not None and table.ours(route.dst) is not None
    verb = "replace-route" if there else "create-route"
    return f"aws ec2 {verb} {what} --network-interface-id {_hop(route, table, interfaces)}"


def _hop(route: CloudRoute, table: Table | None, interfaces: Interfaces) -> str:
    """The interface's id, or the command that finds it."""
    if route.via is None:
        return "eni-unknown"
    known = interfaces.at(table.vpc, route.via) if table is not None else None
    if known is not None:
        return known.id
    by = "addresses.private-ip-address" if route.via.version == 4 else "ipv6-addresses.ipv6-address"
    within = f" Name=vpc-id,Values={table.vpc}" if table is not None else ""
    return (
        f'"$(aws ec2 describe-network-interfaces --filters Name={by},Values={route.via}{within} '
        "--query 'NetworkInterfaces[0].NetworkInterfaceId' --output text)\""
    )
