"""This host and its kernel, asked: what `ip`, `bridge` and iptables-save print, and /proc. Called by `collect.py`."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from weft.diagnose import parse
from weft.diagnose.facts import FirewallFacts, HostFacts, KernelFacts
from weft.diagnose.judge_kernel import SYSCTLS
from weft.diagnose.tools import Tools, there
from weft.errors import DecodeError

T = TypeVar("T")

SYS = Path("/proc/sys")
NEIGHBOURS = Path("/proc/self/net/stat/arp_cache")
RELEASES = (Path("/etc/os-release"), Path("/usr/lib/os-release"))


async def kernel(tools: Tools) -> KernelFacts:
    """Devices, addresses, routes, neighbours and forwarding entries of this network namespace."""
    ip, bridge = ("ip", "-j"), ("bridge", "-j")
    texts = await asyncio.gather(
        tools.ask("links", *ip, "-d", "-s", "link", "show"),
        tools.ask("links", *ip, "address", "show"),
        tools.ask("routes", *ip, "-d", "-4", "route", "show"),
        tools.ask("routes", *ip, "-d", "-6", "route", "show"),
        tools.ask("neighbours", *ip, "-4", "neighbour", "show", "nud", "all"),
        tools.ask("neighbours", *ip, "-6", "neighbour", "show", "nud", "all"),
        tools.ask("fdb", *bridge, "fdb", "show"),
    )

    def read(number: int, reader: Callable[[str], tuple[T, ...]], section: str) -> tuple[T, ...]:
        try:
            return reader(texts[number] or "")
        except (DecodeError, ValueError) as error:
            tools.remark(section, str(error))
            return ()

    return KernelFacts(
        links=read(0, parse.links, "links"),
        addresses=read(1, parse.addresses, "links"),
        routes=read(2, lambda text: parse.routes(text, 4), "routes")
        + read(3, lambda text: parse.routes(text, 6), "routes"),
        neighbours=read(4, parse.neighbours, "neighbours") + read(5, parse.neighbours, "neighbours"),
        fdb=read(6, parse.fdb, "fdb"),
    )


async def firewall(tools: Tools) -> FirewallFacts:
    """Every implementation of iptables that is here, both families."""
    saves: dict[str, str] = {}
    for implementation in ("nft", "legacy"):
        for family, prefix in (("4", "ip"), ("6", "ip6")):
            tool = f"{prefix}tables-{implementation}-save"
            text = await tools.ask("firewall", tool) if there(tool) else None
            if text is not None:
                saves[f"{implementation}/{family}"] = text
    version = await tools.ask("firewall", "iptables", "--version") if there("iptables") else ""
    default = "legacy" if "legacy" in (version or "") else "nft"
    if not saves:
        text = await tools.ask("firewall", "iptables-save")
        saves |= {f"{default}/4": text} if text is not None else {}
    tables = await tools.ask("firewall", "nft", "list", "tables") if there("nft") else ""
    return FirewallFacts(saves, default, tables or "")


def overflows() -> int:
    """How often the neighbour table was full since the start, by all processors; 0 where that can't be read (another
    network namespace than the machine's own). Format: net/core/neighbour.c, a column `table_fulls`, hexadecimal."""
    lines = _first_line(NEIGHBOURS).splitlines()
    columns = lines[0].split() if lines else []
    if "table_fulls" not in columns:
        return 0
    at = columns.index("table_fulls")
    return sum(int(line.split()[at], 16) for line in lines[1:])


def host(name: str, devices: tuple[str, ...] = ()) -> HostFacts:
    """This machine. `devices`: whose own settings are read too."""
    paths = (*SYSCTLS, *(f"net/ipv4/conf/{one}/{what}" for one in devices for what in ("rp_filter", "forwarding")))
    values = {path: _first_line(SYS / path) for path in paths}
    return HostFacts(
        name=name,
        kernel=platform.release(),
        distribution=_distribution(),
        at=time.time(),
        uptime=time.clock_gettime(time.CLOCK_BOOTTIME),
        root=os.geteuid() == 0,
        sysctls={path: value for path, value in values.items() if value},
    )


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _distribution() -> str:
    for path in RELEASES:
        for line in _first_line(path).splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip().strip('"')
    return ""
