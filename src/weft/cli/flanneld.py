"""`weft flanneld`: flannel's flags, so click's own reading of them is left out."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from weft import __version__
from weft.cli.environment import go_flags
from weft.settings.flanneld import FLAGS, load

HEAD = """Usage: weft flanneld [-flag=value ...]

flannel's daemon, for hosts without Kubernetes: leases a subnet in etcd, connects it with the other hosts'
(they may run flannel or weft), writes subnet.env. SIGTERM and SIGINT end it and leave the tunnels up.

One dash or two. Every flag is also read from the environment: FLANNELD_ETCD_ENDPOINTS and so on; a flag wins.
"""


def page() -> str:
    """The help text: every flag, its default and what it is."""
    return FLAGS.page(HEAD)


@click.command(cls=go_flags(page))
@click.pass_context
def flanneld(ctx: click.Context) -> Any:
    """Run flannel's daemon."""
    settings = load(ctx.args, os.environ)
    if settings.help:
        click.echo(page())
        return 0
    if settings.version:
        click.echo(f"weft {__version__}")
        return 0
    from weft.daemons.flanneld import run

    return asyncio.run(run(settings))
