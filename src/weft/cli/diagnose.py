"""`weft diagnose`: what is wrong with this host, and what to do next."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft.settings.registrar import RegistrarSettings, bfd_key, load

if TYPE_CHECKING:
    from weft.diagnose.collect import Options

SECRETS = ("ETCD_PASSWORD", "BFD_KEY")


@click.command()
@click.option("--json", "json_", is_flag=True, help="Print everything that was found, as JSON.")
@click.option(
    "--bundle",
    "archive",
    metavar="FILE.tar.gz",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Pack it all into one archive too, without passwords and keys.",
)
@click.option("--no-probe", is_flag=True, help="Send no packet to any other host.")
def diagnose(json_: bool = False, archive: Path | None = None, no_probe: bool = False) -> int:
    """Say what is wrong with this host and what to do next, the worst first.

    Asks the host, Docker, etcd, the kernel, the firewall and the running registrar, and pings the other hosts through
    the tunnel and beside it. Nothing is changed, and no daemon need be running. Settings are those of `weft registrar`,
    from the environment. Exit code 0 if nothing is wrong, 1 if something is.
    """
    from weft.diagnose.bundle import Contents, bundle, secrets_of
    from weft.diagnose.collect import collect
    from weft.diagnose.judge import judge, wrong
    from weft.diagnose.page import page
    from weft.diagnose.redact import redact
    from weft.diagnose.report import as_json

    settings, _ = load(os.environ)
    options = options_of(settings, not no_probe)
    facts = asyncio.run(collect(options))
    findings = judge(facts)
    secrets = (*secrets_of(os.environ, SECRETS), *_key(settings))
    text, data = redact(page(facts, findings), secrets), redact(as_json(facts, findings), secrets)
    click.echo(data if json_ else text, nl=False)
    if archive is not None:
        docker = settings.docker_host if settings.engine == "docker" else None
        contents = Contents(text, data, facts.firewall.saves, options.run_dir, docker, secrets)
        packed = asyncio.run(bundle(archive, contents))
        click.echo(f"{archive}: {len(packed)} files, without passwords and keys", err=True)
    return int(wrong(findings))


def options_of(settings: RegistrarSettings, probe: bool = True) -> Options:
    """What of the registrar's settings is needed here."""
    from weft.diagnose.collect import Options
    from weft.settings.gateways import parse_gateway_map
    from weft.stores.etcd import EtcdOptions

    entries, _ = parse_gateway_map(settings.host_gateway_map)
    hosts = [entry for entry in entries if entry.prefix.prefixlen == entry.prefix.max_prefixlen]
    fdb = settings.host_gateway_mode == "fdb"
    return Options(
        name=settings.name,
        etcd=EtcdOptions(
            settings.endpoints,
            settings.etcd_cafile,
            settings.etcd_certfile,
            settings.etcd_keyfile,
            settings.etcd_username,
            settings.etcd_password,
            settings.etcd_timeout,
        ),
        flannel_prefix=settings.flannel_prefix,
        config_prefix=settings.flannel_config_prefix,
        public_ip=settings.flanneld_public_ip,
        has_engine=settings.engine == "docker",
        docker=settings.docker_host,
        expose=settings.expose,
        container=settings.flannel_container_name,
        networks=settings.networks,
        socket=settings.weft_socket,
        run_dir=Path(settings.run_dir),
        vni=settings.weft_vni,
        mtu=settings.flannel_mtu,
        wait=3 * max(settings.monitoring_interval, settings.interval),
        probe=probe,
        diverted=tuple((entry.prefix.network_address, entry.gateway) for entry in hosts) if fdb else (),
    )


def _key(settings: RegistrarSettings) -> tuple[str, ...]:
    """What BFD_KEY_FILE holds; a file that can't be read holds no secret that could get out."""
    from weft.errors import SettingsError

    try:
        key = bfd_key(settings)
    except SettingsError:
        return ()
    return (key,) if key else ()
