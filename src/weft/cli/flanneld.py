"""`weft flanneld`: flannel's flags, so click's own reading of them is left out."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from weft import __version__
from weft.settings.flanneld import FLAGS, load

HEAD = """Usage: weft flanneld [-flag=value ...]

flannel's daemon, for hosts without Kubernetes: leases a subnet in etcd, connects it with the other hosts'
(they may run flannel or weft), writes subnet.env. SIGTERM and SIGINT end it and leave the tunnels up.

One dash or two. Every flag is also read from the environment: FLANNELD_ETCD_ENDPOINTS and so on; a flag wins.
"""


class GoFlags(click.Command):
    """Takes all of its words as they are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return []

    def get_help(self, ctx: click.Context) -> str:
        return page()


@click.command(cls=GoFlags)
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


def page() -> str:
    """The help text: every flag, its default and what it is."""
    return FLAGS.page(HEAD)
