"""All that somebody else needs to help, in one archive, without its secrets. Called by `cli/diagnose.py`.

Every file of it goes through `redact`: also what this host's own programs print, since nobody knows what an
administrator writes into a comment of iptables or a label of Docker's.
"""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.diagnose import ask_docker
from weft.diagnose.redact import redact
from weft.diagnose.tools import Tools, there
from weft.errors import WeftError

COMMANDS: dict[str, tuple[str, ...]] = {
    "ip-link.txt": ("ip", "-d", "-s", "link", "show"),
    "ip-address.txt": ("ip", "-d", "address", "show"),
    "ip-route.txt": ("ip", "-d", "route", "show", "table", "all"),
    "ip-route-6.txt": ("ip", "-6", "-d", "route", "show", "table", "all"),
    "ip-rule.txt": ("ip", "rule", "show"),
    "ip-rule-6.txt": ("ip", "-6", "rule", "show"),
    "ip-nexthop.txt": ("ip", "nexthop", "show"),
    "ip-neighbour.txt": ("ip", "-d", "neighbour", "show", "nud", "all"),
    "bridge-fdb.txt": ("bridge", "-d", "fdb", "show"),
    "nft-ruleset.txt": ("nft", "list", "ruleset"),
    "sysctl-net.txt": ("sysctl", "net.ipv4", "net.ipv6", "net.bridge", "net.core"),
    "journal.txt": (
        *("journalctl", "--no-pager", "-n", "500", "-o", "short-iso"),
        *("-u", "flannel-registrar", "-u", "weft-registrar", "-u", "flanneld", "-u", "weft-flanneld"),
        *("-u", "flannel-boot", "-u", "flannel-recovery", "-u", "weft-agent"),
    ),
}
"""File → what prints it. `wg show` is left out: nothing of it is needed, and its keys are secrets."""
OPTIONAL = frozenset({"nft", "journalctl", "sysctl"})
"""Programs that many hosts lack; the page says so where it matters."""
FILES = ("health_status.json", "events.log", "events.log.1")
LONGEST = 4 << 20
"""Octets of one file of the archive; of a longer one, its end."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is known already. `saves`: iptables-save's texts, by implementation and family. `docker`: where the engine
    is, None where there is none. `secrets`: taken out wherever they stand."""

    page: str
    json: str
    saves: Mapping[str, str]
    run_dir: Path
    docker: str | None
    secrets: tuple[str, ...] = ()


async def bundle(path: Path, contents: Contents) -> list[str]:
    """Write the archive (.tar.gz, readable by its owner alone); the names of the files in it. Raises WeftError if it
    can't be written."""
    files = {"page.txt": contents.page, "diagnose.json": contents.json}
    files |= {f"iptables-save-{name.replace('/', '-ipv')}.txt": text for name, text in contents.saves.items()}
    tools = Tools()
    wanted = {name: command for name, command in COMMANDS.items() if there(command[0]) or command[0] not in OPTIONAL}
    texts = await asyncio.gather(*(tools.ask(name, *command) for name, command in wanted.items()))
    files |= {name: text for name, text in zip(wanted, texts, strict=True) if text is not None}
    if contents.docker is not None:
        files |= await ask_docker.raw(contents.docker)
    files |= {name: text for name in FILES if (text := _tail(contents.run_dir / name)) is not None}
    files["not-asked.txt"] = "".join(f"{one.section}: {one.text}\n" for one in tools.remarks)
    _write(path, {name: redact(text[-LONGEST:], contents.secrets) for name, text in files.items()})
    return sorted(files)


def _tail(path: Path) -> str | None:
    try:
        return path.read_bytes()[-LONGEST:].decode(errors="replace")
    except OSError:
        return None


def _write(path: Path, files: Mapping[str, str]) -> None:
    folder = path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz") or "weft-diagnose"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as tar:
            for name in sorted(files):
                content = files[name].encode()
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
                tar.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise WeftError(f"the archive {path} can't be written: {error.strerror or error}; name another file") from error


def secrets_of(environment: Mapping[str, str], names: Sequence[str]) -> tuple[str, ...]:
    """The values of these variables, as far as they are set."""
    return tuple(environment[name] for name in names if environment.get(name))
