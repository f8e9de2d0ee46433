"""`weft router`: docker-router's data plane, and `weft router show`."""

from __future__ import annotations

import asyncio
import os

import click

from weft.cli.client import ask, socket_option
from weft.cli.environment import daemon_flags, say, with_variables
from weft.cli.show import page
from weft.settings.router import describe, held, load

HEAD = """Route to the other stacks: discovery.json and routing.yaml become VXLAN, FDB, routes and firewall rules.

Needs NET_ADMIN and the host's network; everything else it gives up. `weft discovery` writes discovery.json into the
folder that the two share. SIGTERM and SIGINT end it and leave the routes up; `weft cleanup` removes them.

Settings come from the environment, as in docker-router's Compose file:
"""


@click.group(cls=with_variables(describe, click.Group), help=HEAD, invoke_without_command=True)
@click.option("--with-discovery", is_flag=True, help="Run `weft discovery` beside it, as a process of its own.")
@daemon_flags(describe, held, load)
@click.pass_context
def router(ctx: click.Context, with_discovery: bool) -> int:
    """Entry point; see HEAD."""
    if ctx.invoked_subcommand is not None:
        return 0
    settings, remarks = load(os.environ)
    if with_discovery:
        from weft.daemons import pair

        return asyncio.run(pair.run(settings.level))
    from weft.daemons import router as work
    from weft.daemons.process import log_to_stderr

    log_to_stderr(settings.level)
    say(remarks)
    return asyncio.run(work.run(settings))


@router.command()
@click.argument("what", type=click.Choice(["peers", "routes", "vxlan", "networks", "status", "events"]))
@click.option("--json", "json_", is_flag=True, help="Print the router's own answer.")
@socket_option
def show(what: str, json_: bool, path: str) -> int:
    """Show what the running router knows and has done.

    Exit code 1 for `status` if something is wrong, 3 if no router answers."""
    answer = ask(what, None, path or load(os.environ)[0].weft_socket)
    page(what, json_, answer)
    return int(what == "status" and answer["health"] != "ok")
