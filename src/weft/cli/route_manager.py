"""`weft route-manager`: flannel-route-manager's flags, so click's own reading of them is left out."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from weft import __version__
from weft.cli.environment import go_flags, say
from weft.settings.route_manager import FLAGS, load

HEAD = """Usage: weft route-manager [-flag=value ...]

flannel-route-manager, on etcd v3: keeps a cloud's route table as flannel's leases demand, so that hosts with
flannel's alloc backend reach each other without tunnels. Routes of its own alone are changed or deleted, and none is
missing while it is changed. SIGTERM and SIGINT end it and leave the routes.

  -backend=stdout     tells what would be written as leases come and go, and needs no cloud
  -dry-run            tells what would be changed in the cloud now, and ends
  -once               makes the table right, and ends (exit code 1 if something is missing)
  -delete-all-routes  deletes every route of its own, and ends

One dash or two. Every flag is also read from the environment: ROUTE_MANAGER_ETCD_ENDPOINT and so on; a flag wins.
"""


def page() -> str:
    """The help text: every flag, its default and what it is."""
    return FLAGS.page(HEAD)


@click.command(cls=go_flags(page))
@click.pass_context
def route_manager(ctx: click.Context) -> Any:
    """Keep a cloud's route table."""
    settings, remarks = load(ctx.args, os.environ)
    if settings.help:
        click.echo(page())
        return 0
    if settings.version:
        click.echo(f"weft {__version__}")
        return 0
    from weft.daemons import route_manager as work
    from weft.daemons.process import log_to_stderr

    log_to_stderr(settings.log_level, as_go=True)
    say(remarks)
    return asyncio.run(work.run(settings))
