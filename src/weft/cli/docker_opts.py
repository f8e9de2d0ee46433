"""`weft docker-opts`: what flannel's mk-docker-opts.sh does, for the unit files that call it. No agent is asked."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import click

from weft.errors import SettingsError
from weft.wire.subnet_env import IPMASQ, MTU, SUBNET, SUBNET6, assignments, parse_subnet_env

PREFIX = "DOCKER_OPT_"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MEANT_BY_A_SHELL = re.compile(r'(["\\$`])')


@click.command("docker-opts")
@click.option(
    "-f",
    "--flannel-env",
    type=click.Path(path_type=Path),
    default=Path("/run/flannel/subnet.env"),
    show_default=True,
    help="What flanneld wrote.",
)
@click.option(
    "-d",
    "--docker-env",
    type=click.Path(path_type=Path),
    default=Path("/run/docker_opts.env"),
    show_default=True,
    help="The file to write, for EnvironmentFile= in Docker's unit.",
)
@click.option("-i", "--individual", is_flag=True, help="Only one variable per option: DOCKER_OPT_BIP, DOCKER_OPT_MTU.")
@click.option("-c", "--combined", is_flag=True, help="Only the variable with all options: DOCKER_OPTS.")
@click.option("-m", "--no-ip-masq", is_flag=True, help="Say nothing of --ip-masq.")
@click.option("-k", "--combined-key", default="DOCKER_OPTS", show_default=True, help="Name of that variable.")
@click.option("--stdout", is_flag=True, help="Print it, and write no file.")
def docker_opts(
    flannel_env: Path,
    docker_env: Path,
    individual: bool,
    combined: bool,
    no_ip_masq: bool,
    combined_key: str,
    stdout: bool,
) -> None:
    """Turn flannel's subnet.env into options for dockerd: --bip, --ip-masq, --mtu.

    --ip-masq is the opposite of FLANNEL_IPMASQ, so that one of the two masquerades and not both. Where subnet.env has
    IPv6 lines, --ipv6 and --fixed-cidr-v6 come too. DOCKER_OPT_... variables and DOCKER_OPTS that are in the
    environment already are kept, as with mk-docker-opts.sh.
    """
    if not _NAME.fullmatch(combined_key):
        raise SettingsError(f"-k {combined_key}: that can't be the name of a variable")
    carried = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    options = {**carried, **options_of(_content(flannel_env), flannel_env, not no_ip_masq)}
    lines: list[tuple[str, str]] = []
    if individual or not combined:
        lines += sorted(options.items())
    if combined or not individual:
        head = os.environ.get(combined_key, "")
        lines.append((combined_key, " ".join([head + " " if head else "", *(v for _, v in sorted(options.items()))])))
    text = "".join(f'{name}="{_escaped(value)}"\n' for name, value in lines)
    if stdout:
        click.echo(text, nl=False)
    else:
        _replace(docker_env, text)


def options_of(content: bytes, where: Path, ip_masq: bool) -> Mapping[str, str]:
    """Docker's options by the variable that each goes into. SettingsError says what the file lacks, or what in it can't
    be read."""
    values, env = assignments(content), parse_subnet_env(content)
    known = {SUBNET: env.subnet, SUBNET6: env.subnet6, MTU: env.mtu, IPMASQ: env.ipmasq}
    for name, value in known.items():
        if value is None and values.get(name):
            raise SettingsError(f"{where}: {name}={values[name]} can't be read; was the file edited by hand?")
    if env.subnet is None and env.subnet6 is None:
        raise SettingsError(f"{where} has neither {SUBNET} nor {SUBNET6}: is that the file that flanneld writes?")
    if env.mtu is None:
        raise SettingsError(f"{where} has no {MTU}: with Docker's own, 1500, large packets would be lost")
    options = {f"{PREFIX}MTU": f"--mtu={env.mtu}"}
    if env.subnet is not None:
        options[f"{PREFIX}BIP"] = f"--bip={values[SUBNET]}"
    if env.ipmasq is not None and ip_masq:
        options[f"{PREFIX}IPMASQ"] = f"--ip-masq={'false' if env.ipmasq else 'true'}"
    if env.subnet6 is not None:
        options[f"{PREFIX}IPV6"] = "--ipv6"
        options[f"{PREFIX}FIXED_CIDR_V6"] = f"--fixed-cidr-v6={env.subnet6}"
    return options


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path} is not there: flanneld writes it once it has a lease (-f names another file)"
        ) from error
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from error


def _replace(path: Path, text: str) -> None:
    """By rename, so that Docker's unit never finds half of it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text)
        new.chmod(0o644)
        new.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # what failed says more
            new.unlink(missing_ok=True)
        raise SettingsError(f"{path} can't be written: {error.strerror} (-d names another file)") from error


def _escaped(value: str) -> str:
    return _MEANT_BY_A_SHELL.sub(r"\\\1", value)
