"""`weft cleanup`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from weft.cli.client import as_json, config_option
from weft.settings import load


@click.command()
@click.option("--dry-run", is_flag=True, help="Print what would be removed; remove nothing.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.option(
    "--subnet-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default="/run/flannel/subnet.env",
    show_default=True,
    help="Of `weft flanneld`: names the network whose routes over this host's own interfaces go too.",
)
@config_option
def cleanup(dry_run: bool, json_: bool, subnet_file: Path, config: Path | None) -> int:
    """Remove everything of weft's from this host, and nothing else.

    That is: the VXLAN devices that weft made, its routes, next hops, neighbours and forwarding entries, its firewall
    chains. Sysctls (net.ipv4.ip_forward) stay. Exit code 1 if something could not be removed, or an agent is running.
    """
    from weft.daemons.cleanup import cleanup as remove

    removals = asyncio.run(remove(load(os.environ, file=config), dry_run, subnet_file))
    failures = [r.failure.message for r in removals if r.failure is not None]
    if json_:
        removed = [line for r in removals if r.failure is None for line in r.lines]
        as_json({"removed": removed, "dry_run": dry_run, "failures": failures})
        return int(bool(failures))
    for removal in removals:
        for line in removal.lines:
            click.echo(f"{line}" + (f"   # failed: {removal.failure.message}" if removal.failure else ""))
    if not removals:
        click.echo("nothing of weft's is here")
    return int(bool(failures))
