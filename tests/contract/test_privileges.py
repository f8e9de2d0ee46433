"""What a daemon can still do once it has given up its privileges, tried by real processes in network namespaces, and
the filter itself, run by an interpreter of BPF for machines that are not at hand."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.namespace import Namespace, namespace
from tests.support.needs import needs_root
from tests.support.unprivileged import Tried
from weft.daemons.confinement import (
    ALLOW,
    CALLS,
    ERRNO,
    MACHINES,
    REFUSED,
    ROUTER_FAMILIES,
    ROUTER_NETLINK,
    Machine,
    confine,
    legacy_rules,
    program,
)
from weft.daemons.privileges import NAMES, drop

NET_ADMIN = "0000000000001000"
NOTHING = "0000000000000000"
NEVER = ("inet udp", "inet tcp", "inet raw", "inet6 udp", "inet6 tcp", "inet6 raw", "packet", "vsock", "alg")
CHANGES = ("link", "up", "route", "sysctl", "iptables", "ip6tables", "nat")
ORDINARY = ("setpriv", "--reuid=7600", "--regid=7600", "--clear-groups")
AS_7600 = (*ORDINARY, "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin")
HEADERS = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace("drop") as made:
        made.ip("link add eth0 type veth peer name eth1")
        made.ip("address add 192.0.2.1/24 dev eth0")
        made.ip("link set eth0 up")
        yield made


def tried(ns: Namespace, scenario: str, *arguments: str, user: tuple[str, ...] = ()) -> Tried:
    said = ns.run(*user, sys.executable, "-m", "tests.support.unprivileged", scenario, *arguments)
    answer: Tried = json.loads(said)
    return answer


def others_can_run_python(ns: Namespace) -> bool:
    return ns.run(*ORDINARY, sys.executable, "-c", "import weft; print(1)", check=False).strip() == "1"


@needs_root
def test_discovery_keeps_no_capability_and_can_not_make_a_link(ns: Namespace) -> None:
    got = tried(ns, "discovery")
    assert {name: got[name] for name in got if name.startswith("Cap")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), NOTHING
    )
    assert got["NoNewPrivs"] == "1"
    assert "not permitted" in got["network link"]
    assert (got["network sysctl"], "denied" in got["network iptables"]) == ("EPERM", True)
    assert {got[name] for name in ("inet udp", "inet tcp", "inet6 udp", "inet6 tcp")} == {"done"}, "it talks to peers"
    assert {got[name] for name in ("inet raw", "inet6 raw", "packet")} == {"EPERM"}
    assert (got["of a child"], got["mount"], got["chown"], got["setuid"]) == (NOTHING, "EPERM", "EPERM", "EPERM")
    assert got["said"] == ""


@needs_root
def test_without_giving_anything_up_all_of_it_works(ns: Namespace) -> None:
    """Else what the other tests see refused would prove nothing."""
    got = tried(ns, "bare")
    assert {got[name] for name in (*CHANGES, *NEVER[:-2], "sock_diag", "xfrm", "new user namespace")} == {"done"}
    assert "EACCES" not in {got[call] for call in REFUSED}
    assert got["clone in a new one"] == "done"


@needs_root
@pytest.mark.parametrize("user", [(), AS_7600], ids=["root", "7600"])
def test_a_router_changes_the_network_and_talks_to_nobody(ns: Namespace, user: tuple[str, ...]) -> None:
    if user and not others_can_run_python(ns):
        pytest.skip("this Python is in a folder that only root can read")
    got = tried(ns, "router", user=user)
    assert {got[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "of a child")} == {NET_ADMIN}
    assert user or got["CapBnd"] == NET_ADMIN
    assert {name: got[name] for name in CHANGES} == dict.fromkeys(CHANGES, "done")
    closed = (*NEVER, "sock_diag", "xfrm", *(f"thread {name}" for name in NEVER), *REFUSED, "unix inet pair")
    assert {name: got[name] for name in closed} == dict.fromkeys(closed, "EACCES")
    for name in ("unix", "rtnetlink", "netfilter", "thread unix", "talk"):
        assert got[name] == "done", name
    assert (got["clone3"], got["clone in a new one"]) == ("ENOSYS", "EACCES")
    assert (got["fast open"], got["fast open message"]) == ("EACCES", "EACCES")
    assert got["tun"] in (("absent",) if user else ("EACCES", "absent"))
    assert {"denied" in got[name] for name in ("child", "new user namespace", "new network namespace")} == {True}
    assert (got["chown"], got["setuid"]) == ("EPERM", "EPERM")
    assert got["said"] == ""


@needs_root
@pytest.mark.parametrize("user", [(), AS_7600], ids=["root", "7600"])
def test_a_router_does_its_work_confined(ns: Namespace, user: tuple[str, ...]) -> None:
    if user and not others_can_run_python(ns):
        pytest.skip("this Python is in a folder that only root can read")
    got = tried(ns, "reconciling", user=user)
    assert (got["said"], got["first failed"], got["repair failed"], got["first broken"]) == ("", "", "", "done")
    for what in ("1 link", "2 chain", "2 jump", "1 fdb", "1 nexthop", "1 route"):
        assert f"add {what}" in got["first"]
    assert "add 1 route" in got["repair"]
    assert "add 1 jump" in got["repair"]


@needs_root
def test_a_setuid_program_gives_nothing_back(ns: Namespace) -> None:
    if not others_can_run_python(ns):
        pytest.skip("this Python is in a folder that only root can read")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        os.chmod(folder, 0o755)
        program = Path(folder, "id")
        shutil.copy("/usr/bin/id", program)
        program.chmod(0o4755)
        assert ns.run(*ORDINARY, str(program), "-u").strip() == "0", "the bit works here"
        assert tried(ns, "discovery", str(program), user=ORDINARY)["setuid program"] == "7600"


@needs_root
def test_a_server_from_before_goes_on_accepting_and_is_good_for_nothing_else(ns: Namespace) -> None:
    assert tried(ns, "reused")["connect the rest"] == "done", "a listening socket can be made to connect"
    got = tried(ns, "serving")
    assert (got["accepted"], got["said"]) == ("here", "")
    assert got["connect the listener"] == "EACCES"
    assert (got["connect the rest"], got["fast open the rest"]) == ("EACCES", "EACCES")


@needs_root
def test_what_can_not_be_had_or_done_is_said(ns: Namespace) -> None:
    assert "a thread that was started before keeps capabilities" in tried(ns, "late")["said"]
    old = tried(ns, "old_kernel")
    assert (old["inet udp"], "no seccomp filters" in old["said"]) == ("done", True)
    if others_can_run_python(ns):
        got = tried(ns, "lacking", user=ORDINARY)
        assert (got["CapEff"], got["said"].partition(",")[0]) == (NOTHING, "this needs NET_ADMIN")


@needs_root
def test_iptables_of_the_old_kind_needs_more_than_a_router_has(ns: Namespace) -> None:
    got = tried(ns, "legacy")
    assert "must be root" in got["unconfined"], "NET_RAW"
    assert "Permission denied" in got["confined"]


def test_rules_of_the_old_kind_are_told(tmp_path: Path) -> None:
    tables = tmp_path / "ip_tables_names"
    assert legacy_rules(tables) == ()
    tables.write_text("")
    assert legacy_rules(tables) == ()
    tables.write_text("nat\nfilter\n")
    (problem,) = legacy_rules(tables)
    assert problem.subject == "iptables-legacy", "the firewall's own is reported anew in each cycle"
    assert "iptables-legacy here (filter, nat)" in problem.message


def test_another_machine_is_told_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = os.uname_result(("Linux", "here", "6.1", "1", "riscv64"))
    monkeypatch.setattr(os, "uname", lambda: unknown)
    (problem,) = confine()
    assert "aarch64 and x86_64, and this is riscv64" in problem.message


def test_only_capabilities_can_be_kept() -> None:
    with pytest.raises(ValueError, match="tuple"):
        drop(frozenset({"CAP_NET_ADMIN"}))
    assert (NAMES[12], NAMES[40], len(NAMES)) == ("NET_ADMIN", "CHECKPOINT_RESTORE", 41)


# The filter, by itself. -----------------------------------------------------------------------------------------------


def ask(machine: Machine, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the kernel would answer: run the program on a seccomp_data (linux/seccomp.h)."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, machine.arch if arch is None else arch, 0, *padded)
    code, _ = program(machine, ROUTER_FAMILIES, ROUTER_NETLINK)
    at, held = 0, 0
    while True:
        operation, yes, no, operand = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        match operation:
            case 0x20:
                (held,) = struct.unpack_from("<I", data, operand)
            case 0x15:
                at += yes if held == operand else no
            case 0x35:
                at += yes if held >= operand else no
            case 0x45:
                at += yes if held & operand else no
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(f"instruction {operation:#x}")


REFUSAL = ERRNO | errno.EACCES


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_the_filter_on_every_machine(machine: Machine) -> None:
    call = machine.number
    for family in range(64):
        expected = ALLOW if family in (1, 16) else REFUSAL
        assert ask(machine, call("socket"), family, 3, 0) == expected, family
        assert ask(machine, call("socket"), family | 7 << 32, 3, 0) == expected, "the upper half isn't looked at"
    for protocol in range(32):
        assert ask(machine, call("socket"), 16, 3, protocol) == (ALLOW if protocol in (0, 12) else REFUSAL)
    assert ask(machine, call("socketpair"), 1, 1) == ALLOW
    assert ask(machine, call("socketpair"), 16, 3) == REFUSAL
    for name in REFUSED:
        assert ask(machine, call(name)) == REFUSAL, name
    assert ask(machine, call("clone3")) == ERRNO | errno.ENOSYS
    assert ask(machine, call("clone"), 0x01200011) == ALLOW, "fork"
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask(machine, call("clone"), flag | 17) == REFUSAL
    assert ask(machine, call("ioctl"), 3, 0x400454CA) == REFUSAL
    assert ask(machine, call("ioctl"), 3, 0x5401) == ALLOW
    for name, place in (("sendto", 3), ("sendmmsg", 3), ("sendmsg", 2)):
        assert ask(machine, call(name), *[0] * place, 0x4000) == ALLOW
        assert ask(machine, call(name), *[0] * place, 0x20000000) == REFUSAL


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_the_same_calls_by_other_numbers_are_refused(machine: Machine) -> None:
    assert ask(machine, 0, arch=0x40000003) == REFUSAL, "i386"
    assert ask(machine, 0, arch=0x40000028) == REFUSAL, "arm"
    assert ask(machine, 0x40000000 | machine.number("socket"), 1) == REFUSAL, "x32"
    assert ask(machine, 0) == ALLOW


@pytest.mark.skipif(not all(path.exists() for path in HEADERS), reason="needs the kernel's headers")
def test_the_numbers_are_the_kernels_own() -> None:
    for column, path in enumerate(HEADERS):
        listed = dict(re.findall(r"#define __NR_(\w+) (\d+)", path.read_text()))
        for name, numbers in (CALLS | REFUSED).items():
            assert str(numbers[column]) == listed[name], (name, path)
