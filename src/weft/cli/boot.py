"""`weft boot`."""

from __future__ import annotations

import asyncio
import logging
import os

import click

from weft.settings.registrar import load


@click.command()
@click.option("--timeout", default=300.0, show_default=True, help="Seconds for all of it.")
def boot(timeout: float) -> int:
    """Wait for what the registrar needs, let it do its work once, and end: for the start of a host.

    Loads the kernel modules that are missing, switches forwarding on, waits for the network (a default route, or
    FLANNELD_PUBLIC_IP's address), for etcd, for Docker, and for flannel's device where etcd holds a config of its;
    then registers this host's networks and sets the routes. Settings are those of `weft registrar`, from the
    environment. Exit code 1, and what is missing, if that did not come to pass in time.
    """
    settings, remarks = load(os.environ)
    from weft.daemons import boot as work
    from weft.daemons.registrar import set_up_log

    set_up_log(settings)
    for remark in remarks:
        logging.getLogger("weft").warning("%s", remark)
    return asyncio.run(work.boot(settings, timeout))
