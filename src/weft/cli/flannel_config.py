"""`weft flannel-config`: the network config in etcd that every host reads."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from weft.agent.lease_book import config_of
from weft.agent.lease_desk import Desk
from weft.cli.etcd import Etcd, etcd_options
from weft.core.tenancy import name
from weft.errors import WeftError
from weft.stores import Store
from weft.wire.flannel import Config
from weft.wire.flannel_advice import check_config
from weft.wire.flannel_config import config_text, parse_config

SHOWN = 5


@click.group()
def flannel_config() -> None:
    """Show, check or set the network config in etcd. Options are flannel's, from FLANNELD_* too."""


@flannel_config.command()
@click.option("--effective", is_flag=True, help="With every default filled in, as hosts understand it.")
@etcd_options
def show(etcd: Etcd, effective: bool) -> None:
    """Print the config. Exit code 1 if there is none."""
    text = _stored(etcd.ask(lambda store: _looked(store, etcd.prefix)))
    click.echo(config_text(parse_config(text)) if effective else _pretty(text))


@flannel_config.command()
@click.argument("config", required=False)
@etcd_options
def check(etcd: Etcd, config: str | None) -> int:
    """Check CONFIG: JSON, @FILE, or - for standard input; without it, what is in etcd.

    Says what would be refused, what is unwise, and which leases would not fit. Exit code 1 if anything is said.
    """
    desk = etcd.ask(lambda store: _looked(store, etcd.prefix))
    text = _read(config) if config is not None else _stored(desk)
    said = [*check_config(text), *_misfits(desk, parse_config(text))]
    for line in said:
        click.echo(f"! {line}")
    if not said:
        click.echo("the config is good")
    return int(bool(said))


@flannel_config.command(name="set")
@click.argument("config")
@click.option("--force", is_flag=True, help="Even if there are leases that would not fit.")
@etcd_options
def set_(etcd: Etcd, config: str, force: bool) -> None:
    """Write CONFIG (JSON, @FILE, or - for standard input) into etcd, if it is valid.

    Daemons that run go on with the old one until they are restarted.
    """
    text = _read(config)
    parsed = parse_config(text)

    async def work(store: Store) -> tuple[Desk, list[str]]:
        desk = await _looked(store, etcd.prefix)
        misfits = _misfits(desk, parsed)
        if misfits and not force:
            raise WeftError(f"nothing was written: {' '.join(misfits)} If that is meant: --force")
        await desk.write_config(text)
        return desk, misfits

    desk, misfits = etcd.ask(work)
    for line in [*check_config(text), *misfits]:
        click.echo(f"! {line}", err=True)
    click.echo(f"written: {config_of(desk.prefix)}")
    if desk.book.held:
        click.echo(f"restart the daemons of {len(desk.book.held)} hosts, so that they take it over")


async def _looked(store: Store, prefix: str) -> Desk:
    desk = Desk(store, prefix)
    await desk.look()
    return desk


def _stored(desk: Desk) -> bytes:
    if desk.config_entry is None:
        raise WeftError(f"there is no config in {config_of(desk.prefix)}; weft flannel-config set writes one")
    return desk.config_entry.value


def _read(given: str) -> bytes:
    """JSON itself, `@FILE`, or `-`."""
    if given == "-":
        return sys.stdin.buffer.read()
    if given.startswith("@"):
        try:
            return Path(given[1:]).read_bytes()
        except OSError as error:
            raise WeftError(f"the config can't be read: {error}") from error
    return given.encode()


def _misfits(desk: Desk, config: Config) -> list[str]:
    """A sentence on the leases that the config would not have given out; none if all fit."""
    odd = desk.misfits(config)
    if not odd:
        return []
    some = ", ".join(f"{name(h.lease)} of {h.owner}" for h in odd[:SHOWN])
    more = f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
    return [
        f"{len(odd)} leases do not fit the config, and their hosts change subnet at their next start: {some}{more}."
    ]


def _pretty(text: bytes) -> str:
    try:
        return msgspec.json.format(text, indent=2).decode()
    except msgspec.DecodeError:
        return text.decode(errors="replace")
