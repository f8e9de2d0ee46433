"""`weft discovery`: docker-router's control plane, and `weft discovery show`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import click

from weft.cli.client import ago, table
from weft.cli.environment import daemon_flags, say, with_variables
from weft.errors import NotYet, WireError
from weft.model import Peer
from weft.settings.discovery import describe, held, load

HEAD = """Find the other stacks and write down who they are, in discovery.json. `weft router` reads it.

It sets up nothing in the kernel and needs no privilege: what it has, it gives up. SIGTERM and SIGINT end it; it says
goodbye, and the file stays.

Settings come from the environment, as in docker-router's Compose file:
"""


SILENT = 60.0
"""Seconds: a discovery that runs writes its file every five."""


@click.group(cls=with_variables(describe, click.Group), help=HEAD, invoke_without_command=True)
@daemon_flags(describe, held, load)
@click.pass_context
def discovery(ctx: click.Context) -> int:
    """Entry point; see HEAD."""
    if ctx.invoked_subcommand is not None:
        return 0
    settings, remarks = load(os.environ)
    from weft.daemons import discovery as work
    from weft.daemons.process import log_to_stderr

    log_to_stderr(settings.level)
    say(remarks)
    return asyncio.run(work.run(settings))


@discovery.command()
@click.option("--json", "json_", is_flag=True, help="Print discovery.json as it is.")
@click.option("--file", "path", metavar="PATH", default="", help="Another discovery.json than DATA_DIR's.")
def show(json_: bool, path: str) -> int:
    """Show the other stacks, as discovery.json has them: who is there, and who fell silent.

    Exit code 1 if something is wrong, 3 if there is no discovery.json."""
    from weft.wire.discovery_data import FILE, decode

    file = Path(path) if path else load(os.environ)[0].data / FILE
    try:
        body = file.read_bytes()
    except OSError as error:
        refused = isinstance(error, PermissionError)
        hint = "be root, or of its group" if refused else "does `weft discovery` run, with this DATA_DIR?"
        raise NotYet(f"{file} can't be read: {error.strerror}; {hint}") from error
    try:
        data = decode(body)
    except WireError as error:
        raise WireError(f"{file}: {error}") from error
    if json_:
        click.echo(body.decode())
        return int(any(problem.wrong for problem in data.problems))
    now = time.time()
    rows = [_row(peer, now) for peer in data.peers]
    table(["PEER", "STACK", "ENDPOINT", "VNI", "VXLAN", "STATUS", "SEEN", "NETWORKS"], rows)
    here = ", ".join(f"{peer.node.id} at {peer.node.endpoints[0]}" for peer in data.here) or "not known yet"
    click.echo(f"this host: {here}; written {ago(data.last_update, now)}")
    if now - data.last_update > SILENT:
        click.echo("! it is not written any more: does `weft discovery` run, with this DATA_DIR?")
    if not data.complete:
        click.echo("not everybody can have been heard yet: nothing is removed until then")
    for problem in data.problems:
        click.echo(f"! {problem.message}")
    return int(any(problem.wrong for problem in data.problems))


def _row(peer: Peer, now: float) -> list[str]:
    node = peer.node
    return [
        node.id,
        node.stack or node.id,
        f"{node.endpoints[0]}:{node.port}",
        str(node.vni),
        ", ".join(map(str, node.overlay)) or "-",
        peer.status,
        ago(peer.last_seen, now),
        ", ".join(str(subnet) for network in node.networks for subnet in network.subnets) or "-",
    ]
