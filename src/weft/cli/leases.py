"""`weft leases`: who holds which subnet in etcd, and what an operator can do about it."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import click

from weft.agent.lease_desk import Desk, Row, lease_of, subnet_of
from weft.cli.client import as_json, table
from weft.cli.etcd import Etcd, etcd_options
from weft.cli.probe import answering
from weft.core.tenancy import Held, name
from weft.errors import WeftError
from weft.model import IPAddress, mac_text
from weft.stores import Store
from weft.wire.flannel import Vtep, WireguardPeer

FULL_LIFE = 86400
PROBE = 2.0


class ListByDefault(click.Group):
    """`weft leases` alone, or with options only, is `weft leases list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=ListByDefault)
def leases() -> None:
    """List the subnets that hosts hold in etcd; free a dead host's, reserve one.

    Without a verb: list. Options are flannel's, from FLANNELD_* too.
    """


@leases.command(name="list")
@click.option("--probe", is_flag=True, help="Ping each holder, in the overlay and at its public address.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@etcd_options
def list_(etcd: Etcd, probe: bool, json_: bool) -> int:
    """Who holds which subnet, and until when. Sends no packet to any holder unless asked to."""

    async def work(store: Store) -> tuple[Desk, list[Row], frozenset[IPAddress]]:
        desk = Desk(store, etcd.prefix)
        await desk.look()
        rows = await desk.rows()
        return desk, rows, await answering(_addresses([row.held for row in rows]), PROBE) if probe else frozenset()

    desk, rows, alive = etcd.ask(work)
    shown = [_shown(row, alive if probe else None) for row in rows]
    if json_:
        as_json({"leases": shown, "problems": [p.message for p in desk.book.problems]})
        return 0
    heads = ("subnet", "public_ip", "backend", "end", "expires_in", "renewed", "state")
    if rows:
        cells = [[_cell(head, one[head]) for head in heads] for one in shown]
        table(["SUBNET", "PUBLIC IP", "BACKEND", "VTEP OR KEY", "EXPIRES IN", "RENEWED", "STATE"], cells)
    else:
        click.echo(f"nobody holds a subnet under {desk.prefix}")
    for problem in desk.book.problems:
        click.echo(f"! {problem.message}", err=True)
    return 0


@leases.command()
@click.argument("subnet")
@click.option("--force", is_flag=True, help="Even if its host lives, or if that can't be found out; nobody is pinged.")
@etcd_options
def release(etcd: Etcd, subnet: str, force: bool) -> None:
    """Free a dead host's SUBNET at once, instead of when its lease ends.

    Its host is pinged before, and nothing is done if it answers, or if a weft daemon of its own was there in the last
    minute. A host that lives takes its subnet again.
    """
    click.echo(etcd.ask(lambda store: _free(store, etcd.prefix, subnet, reserved=False, force=force)))


@leases.command()
@click.argument("subnet")
@click.option("--force", is_flag=True, help="Even if its host lives, or if that can't be found out; nobody is pinged.")
@etcd_options
def unreserve(etcd: Etcd, subnet: str, force: bool) -> None:
    """Take back the reservation of SUBNET. With the same care as `release`."""
    click.echo(etcd.ask(lambda store: _free(store, etcd.prefix, subnet, reserved=True, force=force)))


@leases.command()
@click.argument("subnets", nargs=-1, required=True, metavar="SUBNET [SUBNET6]")
@click.option("--public-ip", required=True, help="The host's public IPv4 address, by which flannel knows it.")
@click.option("--force", is_flag=True, help="Even if the config would not give that out.")
@etcd_options
def reserve(etcd: Etcd, subnets: tuple[str, ...], public_ip: str, force: bool) -> None:
    """Hold SUBNET for a host, for ever. If the host has it as a lease now, that becomes a reservation."""
    try:
        lease = lease_of([subnet_of(text) for text in subnets], IPv4Address(public_ip))
    except ValueError as error:
        raise click.BadParameter(f"{public_ip!r} is not an IPv4 address", param_hint="--public-ip") from error

    async def work(store: Store) -> str:
        desk = Desk(store, etcd.prefix)
        await desk.look()
        return await desk.reserve(lease, force)

    click.echo(etcd.ask(work))


async def _free(store: Store, prefix: str, subnet: str, *, reserved: bool, force: bool) -> str:
    desk = Desk(store, prefix)
    await desk.look()
    held = desk.find(subnet_of(subnet))
    what, who = name(held.lease), held.owner
    if bool(held.hangs_on) == reserved:
        kind, verb = ("a lease", "release") if reserved else ("a reservation", "unreserve")
        raise WeftError(f"{what} of {who} is {kind}: weft leases {verb} {subnet}")
    if not force:
        await _must_be_dead(desk, held)
    await desk.free(held)
    return f"{what} of {who} is free now; if that host comes back it asks for it again"


async def _must_be_dead(desk: Desk, held: Held) -> None:
    """WeftError if the holder lives."""
    live = f"{held.owner}, who holds {name(held.lease)}, lives"
    if desk.marked(held):
        raise WeftError(f"{live}: its weft daemon was there in the last minute. Stop it first, or use --force")
    try:
        answers = await answering(_addresses([held]), PROBE)
    except WeftError as error:
        raise WeftError(f"whether {held.owner} lives can't be found out: {error}; or use --force") from error
    if answers:
        raise WeftError(
            f"{live}: {', '.join(map(str, sorted(answers, key=str)))} answers. Stop it first, or use --force"
        )


def _addresses(helds: list[Held]) -> list[IPAddress]:
    """Where a lease's host answers: its end of the overlay, and its public address."""
    nets: list[IPv4Network | IPv6Network | None] = [n for h in helds for n in (h.lease.subnet, h.lease.subnet6)]
    public: list[IPAddress | None] = [a for h in helds for a in (h.lease.public_ip, h.lease.public_ip6)]
    return [n.network_address for n in nets if n is not None] + [a for a in public if a is not None]


def _shown(row: Row, alive: frozenset[IPAddress] | None) -> dict[str, Any]:
    lease = row.held.lease
    ends = [d for d in (lease.data, lease.data6) if d is not None]
    return {
        "subnet": name(lease),
        "public_ip": row.held.owner if not lease.public_ip6 else f"{lease.public_ip or ''} {lease.public_ip6}".strip(),
        "backend": lease.backend or ("alloc" if row.held.hangs_on else ""),
        "end": ", ".join(mac_text(d.mac) if isinstance(d, Vtep) else _key(d) for d in ends),
        "expires_in": row.remaining,
        "renewed": FULL_LIFE - row.remaining if row.remaining is not None and row.remaining <= FULL_LIFE else None,
        "state": ", ".join(_states(row, alive)),
    }


def _key(data: object) -> str:
    return data.key if isinstance(data, WireguardPeer) else ""


def _states(row: Row, alive: frozenset[IPAddress] | None) -> list[str]:
    """`reserved` or `leased`; `mine`: this host's; `weft`: a weft daemon's that runs; and what the pings came to."""
    lease = row.held.lease
    said = ["leased" if row.held.hangs_on else "reserved"]
    said += ["mine"] if _is_mine(row.held.address) else []
    said += ["weft"] if row.marked else []
    if alive is not None:
        inside = {n.network_address for n in (lease.subnet, lease.subnet6) if n is not None} & alive
        outside = {a for a in (lease.public_ip, lease.public_ip6) if a is not None} & alive
        said.append("alive" if inside else "host answers, overlay does not" if outside else "silent")
    return said


def _is_mine(address: IPAddress | None) -> bool:
    """Whether this host has the address: only then can a socket be bound to it."""
    if address is None:
        return False
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True


def _duration(seconds: int | None) -> str:
    if seconds is None:
        return "never"
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _cell(head: str, value: Any) -> str:
    if head == "expires_in":
        return _duration(value)
    if head == "renewed":
        return f"{_duration(value)} ago" if value is not None else "-"
    return str(value) or "-"
