"""Which system calls `weft router` keeps: it can't talk to anybody, on this host or another. Called by
`daemons/router.py` when all its sockets are there, and inherited by every program that it starts (iptables).

A seccomp filter (seccomp(2)): a classic BPF program that the kernel asks before each system call of any thread. It
refuses; it never kills. What is refused answers EACCES:

- socket() and socketpair() of any family but those named; of netlink, any protocol but those named (sock_diag, which
  closes other programs' connections, xfrm, audit, … are none of a router's business);
- connect(), and sending with MSG_FASTOPEN, which connects too: a listening socket can be taken apart and used again;
- io_uring, which would make sockets unseen by this filter; pidfd_getfd, which takes another process's;
- TUNSETIFF, by which NET_ADMIN could send packets of its own making;
- looking into other processes, kernel programs and modules, keys, mounts, new namespaces.

clone3() hands its flags over in memory, where a filter can't look: it answers ENOSYS, and libc takes clone(). A socket
that another process hands over (SCM_RIGHTS) is out of this filter's reach, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from weft.daemons.privileges import PR_SET_NO_NEW_PRIVS, libc_syscall, prctl
from weft.model import Problem
from weft.targets.kernel.bpf import Line, assemble

ROUTER_FAMILIES = frozenset({socket.AF_UNIX, socket.AF_NETLINK})
ROUTER_NETLINK = frozenset({0, 12})
"""NETLINK_ROUTE, NETLINK_NETFILTER (linux/netlink.h)."""

SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
"""SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO (linux/seccomp.h)."""
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
"""Where things stand in seccomp_data; of an argument of 64 bits, little-endian machines have the low half first."""
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ, |BPF_JGE and |BPF_JSET, BPF_RET."""
X32 = 0x40000000
"""__X32_SYSCALL_BIT: the same calls with other numbers."""
MSG_FASTOPEN = 0x20000000
TUNSETIFF = 0x400454CA
NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h)."""


CALLS: dict[str, tuple[int, int]] = {
    "seccomp": (317, 277),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "clone3": (435, 435),
    "ioctl": (16, 29),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
}
"""System calls that are looked at: their numbers on x86_64 and aarch64 (asm/unistd_64.h, asm-generic/unistd.h)."""
REFUSED: dict[str, tuple[int, int]] = {
    "connect": (42, 203),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
}
"""System calls that are refused whatever their arguments are."""


@dataclass(frozen=True, slots=True)
class Machine:
    """An architecture: its AUDIT_ARCH (linux/audit.h), and its column in the tables above."""

    arch: int
    column: int

    def number(self, call: str) -> int:
        return (CALLS.get(call) or REFUSED[call])[self.column]


MACHINES = {"x86_64": Machine(0xC000003E, 0), "aarch64": Machine(0xC00000B7, 1)}
"""By os.uname().machine."""
TABLES = Path("/proc/self/net/ip_tables_names")
"""Which tables of iptables' old kind there are; only root may read it."""


def confine(
    families: frozenset[int] = ROUTER_FAMILIES, netlink: frozenset[int] = ROUTER_NETLINK
) -> tuple[Problem, ...]:
    """From now on and for good, this process (every thread of it) and all that it starts make sockets of these families
    alone, and connect none. What is open stays: listening sockets go on accepting. Returns why it is not so, if the
    kernel or the machine lacks what that takes."""
    name = os.uname().machine
    machine = MACHINES.get(name)
    if machine is None:
        return _unconfined(f"weft knows the system calls of {' and '.join(sorted(MACHINES))}, and this is {name}")
    code, length = program(machine, families, netlink)
    held = ctypes.create_string_buffer(code, len(code))
    # sock_fprog (linux/filter.h): number of instructions, where they are
    fprog = ctypes.create_string_buffer(struct.pack("@HP", length, ctypes.addressof(held)))
    try:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        stuck = libc_syscall(
            machine.number("seccomp"), SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ctypes.addressof(fprog)
        )
    except OSError as error:
        lacking = "this kernel has no seccomp filters" if error.errno in (errno.ENOSYS, errno.EINVAL) else ""
        return _unconfined(lacking or f"the kernel refused the filter: {error.strerror}")
    if stuck:
        return _unconfined(f"thread {stuck} has a filter of its own")
    return ()


def legacy_rules(tables: Path = TABLES) -> tuple[Problem, ...]:
    """What to say where the host has firewall rules of iptables' old kind: that takes raw sockets, and NET_RAW."""
    try:
        names = tables.read_text(encoding="utf-8").split()
    except OSError:
        return ()
    if not names:
        return ()
    text = (
        f"there are firewall rules of iptables-legacy here ({', '.join(sorted(names))}), which takes raw sockets, and "
        "this router has none: it writes rules of iptables-nft, and what legacy rules drop (Docker's FORWARD, if they "
        "are Docker's) stays dropped. Let Docker use iptables-nft (update-alternatives --config iptables), or set "
        "PRIVILEGES=keep and RUN_AS_ROOT=true, and give the container NET_RAW"
    )
    return (Problem("iptables-legacy", text),)


def program(machine: Machine, families: Iterable[int], netlink: Iterable[int]) -> tuple[bytes, int]:
    """The filter and its number of instructions."""
    looked_at = {
        **{call: call for call in ("socket", "socketpair", "clone", "ioctl")},
        "sendto": "fourth flags",
        "sendmmsg": "fourth flags",
        "sendmsg": "third flags",
        "clone3": "absent",
        **dict.fromkeys(REFUSED, "refuse"),
    }
    of_families = [(_EQUAL, f, "protocol" if f == socket.AF_NETLINK else "allow") for f in sorted(families)]
    return assemble(
        [
            (_LOAD, _ARCH, ""),
            (_EQUAL, machine.arch, "known"),
            _answer(errno.EACCES),
            "known",
            (_LOAD, _NUMBER, ""),
            (_AT_LEAST, X32, "refuse"),
            *((_EQUAL, machine.number(call), label) for call, label in looked_at.items()),
            _answer(0),
            "socket",
            _argument(0),
            *of_families,
            _answer(errno.EACCES),
            "protocol",
            _argument(2),
            *((_EQUAL, protocol, "allow") for protocol in sorted(netlink)),
            _answer(errno.EACCES),
            "socketpair",
            _argument(0),
            (_EQUAL, socket.AF_UNIX, "allow"),
            _answer(errno.EACCES),
            "clone",
            _argument(0),
            (_BITS, NEW_NAMESPACES, "refuse"),
            _answer(0),
            "ioctl",
            _argument(1),
            (_EQUAL, TUNSETIFF, "refuse"),
            _answer(0),
            "third flags",
            _argument(2),
            (_BITS, MSG_FASTOPEN, "refuse"),
            _answer(0),
            "fourth flags",
            _argument(3),
            (_BITS, MSG_FASTOPEN, "refuse"),
            "allow",
            _answer(0),
            "absent",
            _answer(errno.ENOSYS),
            "refuse",
            _answer(errno.EACCES),
        ]
    )


def _argument(index: int) -> Line:
    return _LOAD, _ARGUMENTS + 8 * index, ""


def _answer(number: int) -> Line:
    """0: let the call through, else this errno."""
    return _RETURN, ERRNO | number if number else ALLOW, ""


def _unconfined(why: str) -> tuple[Problem, ...]:
    text = f"{why}: the router could still open sockets to other hosts; PRIVILEGES=keep says that this is known"
    return (Problem("confinement", text),)
