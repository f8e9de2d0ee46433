"""`weft recover`."""

from __future__ import annotations

import asyncio
import os

import click

from weft.cli.probe import answering
from weft.settings.registrar import load


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what is found and what would be done first; change nothing.")
@click.option(
    "--restart",
    metavar="WHAT",
    default="",
    help="Last of all, restart flannel: container, or service:<unit>.  [RESTART_FLANNEL]",
)
@click.option("--now", is_flag=True, help="Also what was done a short time ago already.")
@click.option("--wait", default=60.0, show_default=True, help="Seconds that the registrar's pass may take.")
@click.option("--settle", default=3.0, show_default=True, help="Seconds that a step gets to show its effect.")
def recover(dry_run: bool, restart: str, now: bool, wait: float, settle: float) -> int:
    """Find out why hosts don't reach each other over flannel, and mend it step by step.

    Looks first, and says what it finds: etcd, flannel's container, its device's entries, who answers through the tunnel
    and beside it. Then, only as far as needed: registrations and routes as they should be, entries that contradict the
    leases corrected, the device taken down and up with all that is on it put back at once, flannel restarted (only with
    --restart). After each step it looks again. Settings are those of `weft registrar`, from the environment. Exit code
    0: nothing is wrong any more.
    """
    settings, remarks = load({**os.environ, **({"RESTART_FLANNEL": restart} if restart else {})})
    for remark in remarks:
        click.echo(f"! {remark}", err=True)
    from weft.daemons.recover import Orders
    from weft.daemons.recover import recover as work

    orders = Orders(dry_run, now, settings.restart_flannel, wait, settle)
    return asyncio.run(work(settings, orders, answering, click.echo))
