"""Ops as command lines of AWS' own tool, for `-dry-run` and `-backend=aws` with `-output`. Pure; called by `aws.py`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network

import msgspec

from weft.errors import TargetError
from weft.model import IPNetwork
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
        made = [route.dst for op, route in some if op.action != "remove"]
        gone = [route.dst for op, route in some if op.action == "remove"]
        listed = frozenset({*(table.claims if table is not None else ())})
        if table is not None:
            said.extend(_tags(table, listed, listed | {*made}))
        said.extend(_route(op, route, table, interfaces) for op, route in some)
        if table is not None:
            said.extend(_tags(table, listed | {*made}, (listed | {*made}) - {*gone}))
    return said


def _tags(table: Table, before: frozenset[IPNetwork], after: frozenset[IPNetwork]) -> Iterator[str]:
    if before == after:
        return
    try:
        was, tags = tags_of(table.owner, Claims(before)), tags_of(table.owner, Claims(after))
    except TargetError as error:
        yield f"# {table.id}: {error}"
        return
    changed = [{"Key": key, "Value": value} for key, value in tags.items() if was.get(key) != value]
    surplus = [{"Key": key} for key in {**was, **dict.fromkeys(table.own_keys())} if key not in tags]
    for verb, pairs in (("create-tags", changed), ("delete-tags", surplus)):
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
