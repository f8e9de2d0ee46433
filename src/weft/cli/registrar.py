"""`weft registrar`: flannel-registrar's environment and its few arguments."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from weft.cli.environment import daemon_flags, say, with_variables
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
@daemon_flags(describe, held, load)
@click.pass_context
def registrar(
    ctx: click.Context,
    daemon: bool,
    once: bool,
    wait: float,
    diagnosing: bool,
    config: str | None,
) -> int:
    """Entry point; see HEAD."""
    if daemon and once:
        raise click.UsageError("--daemon and --once: keep one of the two")
    if diagnosing:
        from weft.cli.diagnose import diagnose

        result: int = ctx.invoke(diagnose) or 0
        return result
    settings, remarks = load(os.environ)
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
