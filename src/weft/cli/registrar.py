"""`weft registrar`: flannel-registrar's environment and its few arguments."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from weft import __version__
from weft.cli.environment import listing as show_variables
from weft.cli.environment import say, with_variables
from weft.errors import SettingsError
from weft.settings.registrar import describe, held, load

HEAD = """Register this host's Docker networks in etcd and route to those of all other hosts.

A drop-in for flannel-registrar: beside flannel (or `weft flanneld`) routes go through its tunnels, without it through
weft's own. SIGTERM and SIGINT end it and leave the routes up. What it knows: `weft show`, `weft explain`; what is
wrong: `weft diagnose`.

Settings come from the environment, as in flannel-registrar's Compose file:
"""


@click.command(cls=with_variables(describe, click.Command), help=HEAD)
@click.option("--daemon", is_flag=True, help="Keep everything as it should be until a signal ends it (the default).")
@click.option("--once", is_flag=True, help="Register, set the routes, and end. Exit code 1 if something is missing.")
@click.option("--wait", default=60.0, show_default=True, help="Seconds that --once may take.")
@click.option("--diagnose", "diagnosing", is_flag=True, help="The same as `weft diagnose`.")
@click.option(
    "--init-config", "config", metavar="JSON", help="Write flannel's network config, if there is none yet, and end."
)
@click.option("--settings", "listing", is_flag=True, help="List the variables and what holds now, and end.")
@click.option("--version", "asked_version", is_flag=True, help="Say the version and end.")
@click.pass_context
def registrar(
    ctx: click.Context,
    daemon: bool,
    once: bool,
    wait: float,
    diagnosing: bool,
    config: str | None,
    listing: bool,
    asked_version: bool,
) -> int:
    """Entry point; see HEAD."""
    if asked_version:
        click.echo(f"weft {__version__}")
        return 0
    if daemon and once:
        raise click.UsageError("--daemon and --once: keep one of the two")
    if diagnosing:
        from weft.cli.diagnose import diagnose

        result: int = ctx.invoke(diagnose) or 0
        return result
    settings, remarks = load(os.environ)
    if listing:
        show_variables(describe(), held, settings)
        return 0
    from weft.daemons import registrar as work

    if config is not None:
        text = _file(config[1:]) if config.startswith("@") else config
        click.echo(asyncio.run(work.write_config(settings, text)))
        return 0
    work.set_up_log(settings)
    say(remarks)
    return asyncio.run(work.run(settings, wait if once else None))


def _file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--init-config @{path} can't be read: {error}") from error
