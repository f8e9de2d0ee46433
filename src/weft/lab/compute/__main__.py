"""`python -m weft.lab.compute`: the local cloud as a process of its own, and a look at its routes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from ipaddress import ip_address
from pathlib import Path

import click
import msgspec

from weft.errors import WeftError
from weft.lab.compute import listing
from weft.lab.compute.access import Rate
from weft.lab.compute.operations import Timing
from weft.lab.compute.paging import MOST, Paging
from weft.lab.compute.server import Cloud, Options, serving
from weft.lab.compute.table import Instance, Network, Subnetwork, Table


@click.group(invoke_without_command=True)
@click.option(
    "--listen", default="127.0.0.1:0", show_default=True, metavar="IP:PORT", help="where; port 0: any free one"
)
@click.option("--table", "file", type=click.Path(path_type=Path), help="YAML: what the cloud is made of")
@click.option("--project", help="project ID")
@click.option("--network", default="default", show_default=True, help="VPC network, if the table has none")
@click.option("--range", "subnet", default="10.128.0.0/20", show_default=True, help="its subnetwork")
@click.option(
    "--instance", "instances", multiple=True, metavar="NAME=IP[,IP…][@ZONE]", help="an instance that forwards"
)
@click.option(
    "--me", default="", metavar="NAME", help="whom the metadata server speaks for, if the address doesn't tell"
)
@click.option("--quota", type=float, help="most routes")
@click.option("--pending", default=0.05, show_default=True, help="seconds for which an operation is pending")
@click.option("--running", default=0.1, show_default=True, help="seconds for which it runs")
@click.option("--spread", default=0.0, show_default=True, help="seconds more, by chance")
@click.option("--delay", default=0.0, show_default=True, help="seconds until any answer")
@click.option("--rate", type=float, help="most calls a second; more get 403 rateLimitExceeded")
@click.option("--burst", default=20.0, show_default=True, help="calls at once after a pause")
@click.option("--quota-as", type=click.Choice(["answer", "operation"]), default="answer", show_default=True)
@click.option("--seed", default=1, show_default=True, help="of all that happens by chance")
@click.option("--page", default=MOST, show_default=True, help="most items on a page")
@click.option("--sparse", is_flag=True, help="pages are cut before the filter is applied")
@click.option("--token-life", default=3600.0, show_default=True, help="seconds")
@click.option("--open", "is_open", is_flag=True, help="let in calls without a token")
@click.option("--bodies", is_flag=True, help="keep the bodies of all calls in the history")
@click.option("--ready", type=click.Path(path_type=Path), help="file that gets the address when it listens")
@click.pass_context
def main(context: click.Context, /, **given: object) -> None:
    """A local Google Compute Engine API with its metadata server."""
    if context.invoked_subcommand:
        return
    try:
        asyncio.run(_serve(given))
    except (WeftError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option("--at", required=True, metavar="URL", help="the API: http://127.0.0.1:40001")
@click.option("--project", default="", help="project ID; default: the metadata server's")
@click.option("--filter", "expression", default="", help="as in the API")
def routes(at: str, project: str, expression: str) -> None:
    """What `gcloud compute routes list` would print."""
    try:
        found = asyncio.run(listing.routes(at, project, expression))
    except WeftError as error:
        raise click.ClickException(str(error)) from error
    for line in listing.table(found):
        click.echo(line)


async def _serve(given: dict[str, object]) -> None:
    host, _, port = str(given["listen"]).rpartition(":")
    cloud = Cloud(_table(given), _options(given))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(cloud, host.strip("[]"), int(port)) as (ip, bound):
        where = f"[{ip}]:{bound}" if ":" in ip else f"{ip}:{bound}"
        if given["ready"]:
            _write(Path(str(given["ready"])), where)
        with contextlib.suppress(BrokenPipeError):
            click.echo(f"listening on {where}")
            sys.stdout.flush()
        await stop.wait()


def _write(file: Path, text: str) -> None:
    """All of it, or nothing: whoever waits for the file reads it at once."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(text + "\n")
    part.replace(file)


def _table(given: dict[str, object]) -> Table:
    file = given["file"]
    table = Table.of_yaml(Path(str(file)).read_text()) if file else Table()
    replace = msgspec.structs.replace
    network = str(given["network"])
    if not file:
        subnet = Subnetwork(name=network, range=str(given["subnet"]))
        table = replace(table, networks=(Network(name=network, subnetworks=(subnet,)),))
    words = given["instances"]
    assert isinstance(words, tuple)
    extra = tuple(_instance(str(word), network) for word in words)
    table = replace(table, instances=(*table.instances, *extra), me=str(given["me"] or table.me))
    if given["project"]:
        table = replace(table, project=str(given["project"]))
    if given["quota"] is not None:
        table = replace(table, quotas={**table.quotas, "ROUTES": _number(given["quota"])})
    if _number(given["token_life"]) != table.account.token_life:
        table = replace(table, account=replace(table.account, token_life=_number(given["token_life"])))
    return table


def _instance(word: str, network: str) -> Instance:
    name, _, rest = word.partition("=")
    addresses, _, zone = rest.partition("@")
    return Instance(
        name=name,
        zone=zone or "us-central1-a",
        network=network,
        addresses=tuple(ip_address(one) for one in addresses.split(",") if one),
    )


def _options(given: dict[str, object]) -> Options:
    rate = given["rate"]
    return Options(
        timing=Timing(**{name: _number(given[name]) for name in ("pending", "running", "spread", "delay")}),
        rate=Rate(per_second=None if rate is None else _number(rate), burst=_number(given["burst"])),
        paging=Paging(int(_number(given["page"])), bool(given["sparse"])),
        open=bool(given["is_open"]),
        quota_as="operation" if given["quota_as"] == "operation" else "answer",
        seed=int(_number(given["seed"])),
        bodies=bool(given["bodies"]),
    )


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)


if __name__ == "__main__":
    main()
