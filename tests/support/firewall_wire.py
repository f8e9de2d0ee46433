"""Two hosts, a cable that is named as the VXLAN device would be, containers behind them: what firewall rules do to
packets is seen here.

    blue 172.18.0.2 ─ br-blue ┐                    ┌ br-red ─ red 172.20.0.2
                              ├ east ─ vxlan4096 ─ west
    grey 172.19.0.2 ─ br-grey ┘

`east` is the host under test; `west` has no rules at all, and hands out whatever it gets.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.namespace import Namespace, namespace, veth
from weft.objects import Chain, Jump, Key, Op, Why
from weft.targets.firewall import FirewallTarget

DEV = "vxlan4096"
BLUE, GREY, RED = "172.18.0.2", "172.19.0.2", "172.20.0.2"
PORT = 7777
WHY = Why("engine", "east", "the exposed networks of this host")
SHORT = 0.15
"""Seconds that are waited for a datagram that must not come."""


@dataclass(frozen=True)
class Wire:
    east: Namespace
    west: Namespace
    blue: Namespace
    grey: Namespace
    red: Namespace


def container(host: Namespace, bridge: str, guest: Namespace, addresses: tuple[str, str]) -> None:
    """`guest` behind a veth of `host` that is named like the bridge; .1 is the host, .2 the guest."""
    veth(host, bridge, guest, "eth0")
    for address in addresses:
        prefix, length = address.split("/")
        host.ip(f"address add {prefix}1/{length} dev {bridge}")
        guest.ip(f"address add {prefix}2/{length} dev eth0")
        guest.ip(f"{'-6 ' if ':' in prefix else ''}route add default via {prefix}1")


@contextlib.contextmanager
def wired() -> Iterator[Wire]:
    """Everything of the drawing, with routes over the cable."""
    with contextlib.ExitStack() as stack:
        made = Wire(*(stack.enter_context(namespace(name)) for name in ("east", "west", "blue", "grey", "red")))
        for ns in (made.east, made.west, made.blue, made.grey, made.red):
            # Without duplicate address detection, link-local addresses can be used at once.
            ns.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        for host in (made.east, made.west):
            host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        veth(made.east, DEV, made.west, DEV)
        made.east.ip(f"address add 192.0.2.1/24 dev {DEV}")
        made.west.ip(f"address add 192.0.2.2/24 dev {DEV}")
        made.east.ip(f"address add fd00::1/64 dev {DEV}")
        made.west.ip(f"address add fd00::2/64 dev {DEV}")
        container(made.east, "br-blue", made.blue, ("172.18.0./16", "fd18::/64"))
        container(made.east, "br-grey", made.grey, ("172.19.0./16", "fd19::/64"))
        container(made.west, "br-red", made.red, ("172.20.0./16", "fd20::/64"))
        made.east.ip("route add 172.20.0.0/16 via 192.0.2.2")
        made.east.ip("-6 route add fd20::/64 via fd00::2")
        for there in ("172.18.0.0/16", "172.19.0.0/16"):
            made.west.ip(f"route add {there} via 192.0.2.1")
        for there in ("fd18::/64", "fd19::/64"):
            made.west.ip(f"-6 route add {there} via fd00::1")
        yield made


class Loader:
    """Puts somebody's rules on the host under test."""

    def __init__(self, ns: Namespace, backend: str, folder: Path) -> None:
        """`folder`: is put in front of PATH by the caller, so that plain `iptables` is this implementation."""
        plain = shutil.which(f"iptables-{backend}")
        if plain is not None:
            (folder / "iptables").symlink_to(plain)
        self.ns = ns
        self.backend = backend

    def __call__(self, text: str, family: int = 4) -> None:
        tool = f"ip{'6' if family == 6 else ''}tables-{self.backend}-restore"
        self.ns.run(tool, "--noflush", "--wait", stdin=text)

    @property
    def works(self) -> bool:
        """This kernel has it."""
        tool = f"iptables-{self.backend}"
        return shutil.which(tool) is not None and bool(self.ns.run(tool, "-t", "nat", "-S", check=False))

    def iptables(self, arguments: str, family: int = 4) -> None:
        self.ns.run(f"ip{'6' if family == 6 else ''}tables-{self.backend}", "--wait", *arguments.split())

    def save(self, family: int = 4) -> str:
        return self.ns.run(f"ip{'6' if family == 6 else ''}tables-{self.backend}-save")


def reaches(source: Namespace, address: str) -> bool:
    """One ping comes back."""
    return ", 0% packet loss" in source.run("ping", "-c1", "-W1", address, check=False)


def seen_as(source: Namespace, sink: Namespace, address: str, patience: float = 3.0) -> str:
    """The source address under which one datagram from `source` arrives in `sink`; empty if it doesn't."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with sink.entered():
        receiver = socket.socket(family, socket.SOCK_DGRAM)
    with source.entered():
        sender = socket.socket(family, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.settimeout(patience)
        receiver.bind((address, PORT))
        sender.sendto(b"hello", (address, PORT))
        try:
            return str(receiver.recvfrom(100)[1][0])
        except TimeoutError:
            return ""


def lost(source: Namespace, sink: Namespace, address: str) -> bool:
    """One datagram from `source` does not arrive in `sink`."""
    return not seen_as(source, sink, address, SHORT)


async def settle(target: FirewallTarget, things: Iterable[Chain | Jump]) -> list[Key]:
    """What one cycle of the agent does about the rules that it wants: the keys that had to be mended."""
    have = (await target.read(full=True)).objects
    plan = {thing.key: thing for thing in things}
    ops = [Op("change" if key in have else "add", plan[key], WHY) for key in plan if have.get(key) != plan[key]]
    ops.sort(key=lambda op: op.object.rank)
    ops += sorted((Op("remove", have[key], WHY) for key in have if key not in plan), key=lambda op: -op.object.rank)
    assert await target.apply(ops) == [None] * len(ops)
    assert (await target.read(full=True)).objects == plan
    return [op.object.key for op in ops]
