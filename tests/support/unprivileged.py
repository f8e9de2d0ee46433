"""Programs that give up their privileges and then try what they should no longer be able to do; run as
`python -m tests.support.unprivileged SCENARIO` in a network namespace of their own, because it can't be taken back.

Each prints one JSON object: what was tried → "done", or the name of the errno.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from tests.build import CHAINS, VNI, node, view
from weft.agent.cycles import Cycle
from weft.agent.reconcile import Moments, Reconciler
from weft.agent.status import Report
from weft.backends.tunnel import vtep_mac
from weft.daemons import telemetry
from weft.daemons.confinement import MACHINES, MSG_FASTOPEN, REFUSED, TUNSETIFF, confine
from weft.daemons.privileges import drop, libc_syscall
from weft.model import Host
from weft.targets.firewall import FirewallTarget
from weft.targets.kernel.bpf import Line, assemble
from weft.targets.kernel.target import KernelTarget

Tried = dict[str, str]
ROUTER = frozenset({"NET_ADMIN"})
MACHINE = MACHINES[os.uname().machine]
AF_VSOCK, AF_ALG, SOCK_DIAG, XFRM = 40, 38, 4, 6
CLONE_NEWUSER = 0x10000000
SENSELESS = (1 << 64) - 1
"""An argument that every system call refuses, if it gets to see it."""


def outcome(act: Callable[[], object]) -> str:
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def made(family: int, kind: int, protocol: int = 0) -> Callable[[], object]:
    return lambda: socket.socket(family, kind, protocol).close()


def called(number: int, *arguments: int) -> Callable[[], object]:
    return lambda: libc_syscall(number, *arguments)


def ran(*command: str) -> str:
    """ "done", or what the command said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "done" if done.returncode == 0 else done.stderr.strip() or str(done.returncode)


def sockets() -> Tried:
    kinds = {
        "inet udp": (socket.AF_INET, socket.SOCK_DGRAM, 0),
        "inet tcp": (socket.AF_INET, socket.SOCK_STREAM, 0),
        "inet raw": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "inet6 udp": (socket.AF_INET6, socket.SOCK_DGRAM, 0),
        "inet6 tcp": (socket.AF_INET6, socket.SOCK_STREAM, 0),
        "inet6 raw": (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
        "packet": (socket.AF_PACKET, socket.SOCK_RAW, 0x0300),
        "vsock": (AF_VSOCK, socket.SOCK_STREAM, 0),
        "alg": (AF_ALG, socket.SOCK_SEQPACKET, 0),
        "unix": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
        "rtnetlink": (socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "netfilter": (socket.AF_NETLINK, socket.SOCK_RAW, 12),
        "sock_diag": (socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG),
        "xfrm": (socket.AF_NETLINK, socket.SOCK_RAW, XFRM),
    }
    return {name: outcome(made(*kind)) for name, kind in kinds.items()}


def sets() -> Tried:
    """Of /proc/self/status, the capabilities and no_new_privs."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0].rstrip(":"): line[1] for line in lines if line and line[0].startswith(("Cap", "NoNew"))}


def network_changes() -> Tried:
    """What a router does all day, by other people's programs."""
    return {
        "link": ran("ip", "link", "add", "vxlan7", "type", "vxlan", "id", "7", "dstport", "4789", "local", "127.0.0.1"),
        "up": ran("ip", "link", "set", "vxlan7", "up"),
        "route": ran("ip", "route", "add", "10.9.0.0/16", "dev", "vxlan7"),
        "sysctl": outcome(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1")),
        "iptables": ran(
            "iptables-nft", "-w", "-A", "FORWARD", "-p", "tcp", "-m", "tcp", "--dport", "9", "-j", "ACCEPT"
        ),
        "ip6tables": ran("ip6tables-nft", "-w", "-A", "FORWARD", "-j", "ACCEPT"),
        "nat": ran("iptables-nft", "-w", "-t", "nat", "-A", "POSTROUTING", "-o", "vxlan7", "-j", "ACCEPT"),
    }


def discovery() -> Tried:
    """No capability at all."""
    said = drop(frozenset())
    return {
        **sets(),
        **sockets(),
        **{f"network {name}": how for name, how in network_changes().items()},
        **gains(),
        "said": "; ".join(p.message for p in said),
    }


def gains() -> Tried:
    """Ways to become more than one is."""
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    tried = {
        "of a child": effective,
        "chown": outcome(lambda: os.chown("/proc/self/cwd", 1, 1)),
        "mount": outcome(_mount),
        "setuid": outcome(lambda: os.setresuid(*3 * (0 if os.geteuid() else 1,))),
    }
    if len(sys.argv) > 2:  # a program that is root's, with the setuid bit
        tried["setuid program"] = subprocess.run([sys.argv[2], "-u"], capture_output=True, text=True).stdout.strip()
    return tried


def _mount() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/mnt", b"tmpfs", 0, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, "mount")


def router() -> Tried:
    """NET_ADMIN alone, and no socket to anybody."""
    asked = threading.Event()
    of_thread: Tried = {}

    def later() -> None:
        asked.wait()
        of_thread.update({f"thread {name}": how for name, how in sockets().items()})

    said = drop(ROUTER)
    thread = threading.Thread(target=later)
    thread.start()
    said += confine()
    tried = {**sets(), **network_changes(), **sockets(), **calls(), **gains()}
    asked.set()
    thread.join()
    tried["child"] = ran("bash", "-c", "echo > /dev/tcp/127.0.0.1/9").splitlines()[0]
    return {**tried, **of_thread, "said": "; ".join(p.message for p in said)}


def calls() -> Tried:
    """System calls that a router never needs."""
    left, right = socket.socketpair()
    tun = os.open("/dev/net/tun", os.O_RDWR) if os.access("/dev/net/tun", os.R_OK | os.W_OK) else -1
    request = struct.pack("16sH22x", b"tun7", 0x1002)
    message = b"x"
    tried = {call: outcome(called(MACHINE.number(call), *6 * (SENSELESS,))) for call in REFUSED}
    tried["clone3"] = outcome(called(MACHINE.number("clone3"), 0, 0))
    tried["new network namespace"] = ran("unshare", "--net", "true")
    with left, right:
        tried["fast open"] = outcome(lambda: left.sendto(message, MSG_FASTOPEN, "/nowhere"))
        tried["fast open message"] = outcome(lambda: left.sendmsg([message], [], MSG_FASTOPEN))
        tried["talk"] = "done" if left.send(message) and right.recv(1) == message else "nothing"
    tried["new user namespace"] = ran("unshare", "--user", "true")
    tried["clone in a new one"] = outcome(_cloned)
    tried["tun"] = outcome(lambda: fcntl.ioctl(tun, TUNSETIFF, request)) if tun >= 0 else "absent"
    tried["unix inet pair"] = outcome(lambda: socket.socketpair(socket.AF_INET))
    return tried


def _cloned() -> None:
    child = libc_syscall(MACHINE.number("clone"), CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def bare() -> Tried:
    """The same with nothing given up, so that what is refused above is the privileges' doing."""
    return {**network_changes(), **sockets(), **calls()}


def serving() -> Tried:
    """A server whose socket was there before, and what somebody could make of that socket."""
    return asyncio.run(_serving())


async def _serving() -> Tried:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"here\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    elsewhere = await asyncio.start_server(answer, "127.0.0.1", 0)
    target = elsewhere.sockets[0].getsockname()
    asking, replies = socket.socketpair()
    pid = os.fork()
    if pid == 0:  # somebody else, who is not confined
        os.read(replies.fileno(), 1)
        with socket.create_connection(address, 5) as client:
            client.sendall(b"who?\n")
            os.write(replies.fileno(), client.recv(100))
        os._exit(0)
    said = (*drop(ROUTER), *confine())
    asking.send(b"x")
    asking.setblocking(False)
    told = await asyncio.get_running_loop().sock_recv(asking, 100)
    await asyncio.to_thread(os.waitpid, pid, 0)
    listener = socket.socket(fileno=os.dup(server.sockets[0].fileno()))
    tried = {"accepted": told.decode().strip(), "said": "; ".join(p.message for p in said)}
    tried["connect the listener"] = outcome(lambda: listener.connect(target))
    tried["take it apart"] = outcome(lambda: listener.shutdown(socket.SHUT_RDWR))
    tried["connect the rest"] = outcome(lambda: listener.connect(target))
    tried["fast open the rest"] = outcome(lambda: listener.sendto(b"x", MSG_FASTOPEN, target))
    return tried


def reused() -> Tried:
    """What `serving` refuses, without it: a listening socket can indeed be made to connect."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        one.shutdown(socket.SHUT_RDWR)
        return {"connect the rest": outcome(lambda: one.connect(other.getsockname()))}


def late() -> Tried:
    """A thread that was started too early."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    said = drop(frozenset())
    end.set()
    thread.join()
    return {"said": "; ".join(p.message for p in said)}


def old_kernel() -> Tried:
    """No seccomp filters: the call is unknown."""
    lines: list[Line | str] = [
        (0x20, 0, ""),
        (0x15, MACHINE.number("seccomp"), "absent"),
        (0x06, 0x7FFF0000, ""),
        "absent",
        (0x06, 0x50026, ""),
    ]
    code, length = assemble(lines)
    held = ctypes.create_string_buffer(code, len(code))
    fprog = ctypes.create_string_buffer(struct.pack("@HP", length, ctypes.addressof(held)))
    drop(frozenset())
    libc_syscall(MACHINE.number("seccomp"), 1, 0, ctypes.addressof(fprog))
    return {
        "said": "; ".join(p.message for p in confine()),
        "inet udp": outcome(made(socket.AF_INET, socket.SOCK_DGRAM)),
    }


def lacking() -> Tried:
    """NET_ADMIN is wanted by somebody who has nothing."""
    return {"said": "; ".join(p.message for p in drop(ROUTER)), **sets()}


def reconciling() -> Tried:
    """Our own targets, all of what one peer needs, and a repair, confined."""
    return asyncio.run(_reconciling())


async def _reconciling() -> Tried:
    said = (*drop(ROUTER), *confine())
    kernel, firewall = KernelTarget("weft:agent:a", vtep_mac("a", VNI)), FirewallTarget()
    reconciler = Reconciler((kernel, firewall))
    me = replace(view().me, endpoints=(ip_address("192.0.2.1"),), mtu=1500)
    wanted = view(node("b", "192.0.2.2", "10.2.0.0/24"), me=me, host=Host(chains=CHAINS))
    tried = {"said": "; ".join(p.message for p in said)}
    for turn in ("first", "repair"):
        await reconciler.read(full=True)
        report = await reconciler.mend(wanted)
        tried[turn] = report.sentence()
        tried[f"{turn} failed"] = "; ".join(s.message for s in reconciler.account.statuses.values())
        tried[f"{turn} broken"] = ran("ip", "route", "del", "10.2.0.0/24")
        ran("iptables-nft", "-w", "-F", "FORWARD")
    kernel.close()
    firewall.close()
    return tried


def exporting() -> Tried:
    """Cycles of a confined router are told to a collector, by a child from before."""
    telemetry.FAREWELL = 60.0  # longer than on a busy machine
    helper, said = telemetry.start(os.environ, "weft-router")
    assert helper is not None, said
    of_helper = Path(f"/proc/{helper.process.pid}/status")
    said += (*drop(ROUTER), *confine())
    helper.telemetry.event("discovery.json", 1_700_000_000.0, {"weft.peers": 2})
    helper.telemetry.cycle(Cycle(Moments(1.0, 1.1, 1.2, 1.4), 1_700_000_000.0, Report(), 2, 3, 0))
    capabilities = [line.split()[1] for line in of_helper.read_text().splitlines() if line.startswith("CapPrm")]
    helper.close()
    tried = {"said": "; ".join(p.message for p in said), "sent": str(helper.telemetry.sent), "helper": capabilities[0]}
    return {**tried, "ended": str(helper.process.returncode), "inet tcp": sockets()["inet tcp"]}


def legacy() -> Tried:
    """iptables of the old kind, which asks by raw sockets."""
    drop(ROUTER)
    before = ran("iptables-legacy", "-w", "-S")
    confine()
    return {"unconfined": before, "confined": ran("iptables-legacy", "-w", "-S")}


SCENARIOS: tuple[Callable[[], Tried], ...] = (
    *(discovery, router, bare, serving, reused, late, old_kernel, lacking, reconciling, exporting, legacy),
)

if __name__ == "__main__":
    print(json.dumps(next(s for s in SCENARIOS if s.__name__ == sys.argv[1])()))
