"""WireGuard devices and peers on real devices: wireguard-go's, in namespaces; `wg` and `ip` are the oracles."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from tests.contract.targets import add, by_key, change, done, held, refused, remove, with_
from tests.support.eventually import until
from tests.support.namespace import Namespace, namespace, run
from tests.support.needs import needs_root, needs_wireguard
from weft.core.wireguard import NO_PSK
from weft.errors import TargetError
from weft.objects import Object
from weft.objects.outside import File
from weft.objects.wireguard import Secret, WireguardDevice, WireguardPeer
from weft.targets import Target
from weft.targets.memory import WIREGUARD_KINDS, MemoryTarget
from weft.targets.wireguard import WireguardTarget
from weft.targets.wireguard_tools import HostKey, Tools, host_key

pytestmark = [needs_root, needs_wireguard]

OWNER = "weft:flanneld:a"
WG = "flannel-wg"
WG6 = "flannel-wg-v6"
PORT = 51820


def a_key() -> tuple[str, str]:
    """A private key and its public one."""
    private = run(["wg", "genkey"]).strip()
    return private, run(["wg", "pubkey"], stdin=private).strip()


@dataclass
class Host:
    """A namespace with WireGuard's tools, a key, and the target of one daemon."""

    ns: Namespace
    key: HostKey
    owner: str = OWNER
    targets: list[WireguardTarget] = field(default_factory=list)

    def target(self) -> WireguardTarget:
        made = WireguardTarget(self.owner, self.key, (WG, WG6), str(self.ns.path))
        self.targets.append(made)
        return made

    def device(self, name: str = WG, **changes: object) -> WireguardDevice:
        address = ip_interface("10.5.10.0/32")
        device = WireguardDevice(name, self.key.public, PORT, 1420, self.owner, (address,))
        changed = with_(device, **changes)
        assert isinstance(changed, WireguardDevice)
        return changed

    def tool(self, *command: str, check: bool = True, stdin: str | None = None) -> str:
        seeing = Tools(str(self.ns.path)).seeing_sockets(list(command))
        return self.ns.run(*seeing, check=check, stdin=stdin)

    def processes(self) -> list[int]:
        """Pids of the wireguard-go of this namespace."""
        there = os.stat(self.ns.path).st_ino
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ends while we look
                if (folder / "comm").read_text() == "wireguard-go\n" and (folder / "ns/net").stat().st_ino == there:
                    found.append(int(folder.name))
        return found

    def close(self) -> None:
        """Every device is removed, so that no wireguard-go holds the namespace."""
        for target in self.targets:
            target.close()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGCONT)
        for link in self.ns.ip_json("link show"):
            if link.get("linkinfo", {}).get("info_kind") == "tun":
                self.ns.ip(f"link del {link['ifname']}")
        until(lambda: not self.processes(), "wireguard-go to end")
        shutil.rmtree(Tools(str(self.ns.path)).sockets, ignore_errors=True)


def make_host(ns: Namespace, folder: Path, owner: str = OWNER) -> Host:
    return Host(ns, asyncio.run(host_key(str(folder / f"{ns.name}.key"))), owner)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with namespace("wg") as ns:
        made = make_host(ns, tmp_path)
        try:
            yield made
        finally:
            made.close()


def base64(octets: bytes) -> str:
    return b64encode(octets).decode()


def peer(number: int = 2, dev: str = WG, **changes: object) -> WireguardPeer:
    endpoint = (ip_address(f"192.0.2.{number}"), PORT)
    made = WireguardPeer(dev, base64(bytes([number]) * 32), endpoint, (ip_network(f"10.5.{number}.0/24"),))
    changed = with_(made, **changes)
    assert isinstance(changed, WireguardPeer)
    return changed


FULL = WireguardPeer(
    WG,
    base64(bytes([7]) * 32),
    (ip_address("2001:db8::7"), 4711),
    (ip_network("10.5.7.0/24"), ip_network("10.6.0.0/16"), ip_network("fd00:7::/64")),
    25,
    Secret("c" * 42 + "c="),
)


@pytest.mark.parametrize("where", ["memory", "wireguard-go"])
async def test_a_device_and_its_peers_come_change_and_go(where: str, host: Host) -> None:
    target: Target = host.target() if where != "memory" else MemoryTarget(WIREGUARD_KINDS)
    device, two, seven = host.device(), peer(2), FULL
    await done(target, add(device, two, seven))
    assert await held(target, full=False) == by_key(device, two, seven)
    assert await held(target) == by_key(device, two, seven)
    moved = with_(two, endpoint=(ip_address("192.0.2.99"), 1), allowed_ips=(ip_network("10.5.3.0/24"),), keepalive=9)
    bare = with_(seven, psk=None, keepalive=0, allowed_ips=())
    changed = host.device(listen_port=4000, mtu=1380, fwmark=0x10, addresses=(ip_interface("fd00:5::/128"),))
    await done(target, [change(device, changed), change(two, moved), change(seven, bare)])
    assert await held(target) == by_key(changed, moved, bare)
    await done(target, remove(moved))
    assert await held(target) == by_key(changed, bare)
    await done(target, remove(bare, changed))
    assert await held(target) == {}
    await done(target, remove(bare, changed, two))


async def test_a_restart_without_memory_finds_the_same(host: Host) -> None:
    await done(host.target(), add(host.device(), peer(2), FULL))
    assert await held(host.target()) == by_key(host.device(), peer(2), FULL)


async def test_nothing_is_left_of_a_device_that_was_removed(host: Host) -> None:
    target = host.target()
    await done(target, add(host.device(), peer(2)))
    assert host.processes()
    await done(target, remove(host.device()))
    assert [link["ifname"] for link in host.ns.ip_json("link show")] == ["lo"]
    until(lambda: not host.processes(), "wireguard-go to end")
    assert not Tools(str(host.ns.path)).sockets.exists()


async def test_what_the_tools_see(host: Host) -> None:
    device = host.device(fwmark=0x20)
    await done(host.target(), add(device, FULL))
    (link,) = host.ns.ip_json(f"address show dev {WG}")
    assert (link["ifalias"], link["mtu"], "UP" in link["flags"]) == (OWNER, 1420, True)
    assert [(a["local"], a["prefixlen"]) for a in link["addr_info"] if a["scope"] != "link"] == [("10.5.10.0", 32)]
    own, entry = (line.split("\t") for line in host.tool("wg", "show", WG, "dump").splitlines())
    assert own == [Path(host.key.path).read_text(), host.key.public, "51820", "0x20"]
    assert entry[1:4] == ["c" * 42 + "c=", "[2001:db8::7]:4711", "10.5.7.0/24,10.6.0.0/16,fd00:7::/64"]
    assert entry[7] == "25"


@pytest.mark.parametrize("where", ["memory", "wireguard-go"])
async def test_a_device_takes_its_peers_along(where: str, host: Host) -> None:
    target: Target = host.target() if where != "memory" else MemoryTarget(WIREGUARD_KINDS)
    await done(target, add(host.device(), host.device(WG6, listen_port=51821), peer(2), peer(2, WG6)))
    await done(target, remove(host.device()))
    left = by_key(host.device(WG6, listen_port=51821), peer(2, WG6))
    assert await held(target, full=False) == left
    assert await held(target) == left


async def test_two_devices_side_by_side(host: Host) -> None:
    target = host.target()
    things: list[Object] = [host.device(), host.device(WG6, listen_port=51821), peer(2), peer(2, WG6), peer(3, WG6)]
    await done(target, add(*things))
    assert await held(target) == by_key(*things)
    await done(target, remove(peer(2, WG6), things[0]))
    assert await held(target) == by_key(things[1], peer(3, WG6))


async def test_many_peers_are_few_processes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    target = host.target()
    await done(target, add(host.device()))
    peers = [
        with_(peer(2), public_key=base64(n.to_bytes(32, "big")), allowed_ips=(ip_network((0x0A800000 + 256 * n, 24)),))
        for n in range(1, 3001)
    ]
    count = 0
    run_tool = Tools._run

    async def counting(self: Tools, *arguments: object, **named: object) -> str:
        nonlocal count
        count += 1
        return await run_tool(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Tools, "_run", counting)
    await done(target, add(*peers))
    assert count <= 6
    assert await held(target) == by_key(host.device(), *peers)
    await done(target, remove(*peers))
    assert count <= 6 + 3 + 6
    assert await held(target) == by_key(host.device())


async def test_one_bad_peer_does_not_stop_the_others(host: Host) -> None:
    target = host.target()
    good = [peer(n) for n in range(2, 40)]
    bad = with_(peer(99), public_key="nonsense")
    answers = await target.apply(add(host.device(), *good[:20], bad, *good[20:]))
    assert [at for at, answer in enumerate(answers) if answer is not None] == [21]
    assert "Key is not the correct length or format: `nonsense'" in refused(answers[21])
    assert await held(target) == by_key(host.device(), *good)


async def test_a_subnet_that_moves_between_peers(host: Host) -> None:
    target = host.target()
    await done(target, add(host.device(), peer(2), peer(3)))
    await target.read()
    taken = with_(peer(3), allowed_ips=(ip_network("10.5.2.0/24"), ip_network("10.5.3.0/24")))
    await done(target, [change(peer(3), taken)])
    robbed = with_(peer(2), allowed_ips=())
    reading = await target.read()
    assert (reading.touched, dict(reading.objects)) == (frozenset({robbed.key}), by_key(host.device(), robbed, taken))
    assert await held(target) == by_key(host.device(), robbed, taken)


async def test_what_somebody_else_changed_is_read_and_mended(host: Host) -> None:
    target = host.target()
    device, two, three = host.device(), peer(2), peer(3, keepalive=25)
    await done(target, add(device, two, three))
    host.tool("wg", "set", WG, "listen-port", "4000", "peer", two.public_key, "remove")
    host.tool("wg", "set", WG, "peer", three.public_key, "allowed-ips", "0.0.0.0/0", "persistent-keepalive", "off")
    host.ns.ip(f"link set dev {WG} mtu 1300 alias mine down")
    host.ns.ip(f"address add 10.66.0.1/24 dev {WG}")
    found = await held(target)
    assert two.key not in found
    now = found[device.key]
    addresses = (*device.addresses, ip_interface("10.66.0.1/24"))
    assert now == host.device(listen_port=4000, mtu=1300, alias="mine", up=False, addresses=addresses)
    await done(target, [change(now, device), *add(two), change(found[three.key], three)])
    assert await held(target) == by_key(device, two, three)


async def test_changes_of_the_device_wake_the_loop(host: Host) -> None:
    target, woken = host.target(), asyncio.Event()
    device = host.device()
    await done(target, add(device, peer(2)))
    target.watch(woken.set)
    await target.read(full=True)
    commands = [
        f"link set dev {WG} mtu 1300",
        f"link set dev {WG} down",
        f"link set dev {WG} alias other",
        f"address del 10.5.10.0/32 dev {WG}",
        f"address add 10.66.0.1/32 dev {WG}",
    ]
    for command in commands:
        woken.clear()
        host.ns.ip(command)
        await asyncio.wait_for(woken.wait(), 60)
        reading = await target.read()
        assert reading.touched == frozenset({device.key}), command
        await done(target, [change(reading.objects[device.key], device)])
        assert await held(target) == by_key(device, peer(2)), command
    woken.clear()
    host.ns.ip(f"link del {WG}")
    await asyncio.wait_for(woken.wait(), 60)
    assert (await target.read()).touched == frozenset({device.key, peer(2).key})


async def test_a_reading_without_news_asks_nobody(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    target = host.target()
    target.watch(lambda: None)
    await done(target, add(host.device(), peer(2)))
    await target.read()
    await done(target, add(peer(3)))

    async def nobody(self: Tools, *arguments: object, **named: object) -> str:
        raise AssertionError("a tool was run")

    monkeypatch.setattr(Tools, "_run", nobody)
    assert (await target.read()).touched == frozenset()
    assert await held(target, full=False) == by_key(host.device(), peer(2), peer(3))


async def test_a_killed_process_is_mended(host: Host) -> None:
    target, woken = host.target(), asyncio.Event()
    target.watch(woken.set)
    await done(target, add(host.device(), peer(2)))
    await target.read(full=True)
    (pid,) = host.processes()
    woken.clear()
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(woken.wait(), 60)
    reading = await target.read()
    assert reading.objects == {}
    await done(target, add(host.device(), peer(2)))
    assert await held(target) == by_key(host.device(), peer(2))
    assert host.processes() != [pid]


async def test_a_device_of_ours_that_nobody_answers_for_is_made_anew(host: Host) -> None:
    host.ns.ip(f"tuntap add dev {WG} mode tun")
    host.ns.ip(f"link set dev {WG} alias {OWNER}")
    target = host.target()
    (found,) = (await held(target)).values()
    assert isinstance(found, WireguardDevice)
    assert found.public_key == ""
    await done(target, [change(found, host.device()), *add(peer(2))])
    assert await held(target) == by_key(host.device(), peer(2))


async def test_removed_and_made_again_at_once(host: Host) -> None:
    """The old process takes its socket away as it ends; that must not be the new one's."""
    target = host.target()
    for _ in range(5):
        await done(target, add(host.device(), peer(2)))
        assert await held(target) == by_key(host.device(), peer(2))
        await done(target, remove(peer(2), host.device()))
    assert await held(target) == {}


async def test_an_old_process_that_takes_its_time_is_waited_for(host: Host) -> None:
    target = host.target()
    await done(target, add(host.device()))
    (pid,) = host.processes()
    os.kill(pid, signal.SIGSTOP)
    asyncio.get_running_loop().call_later(0.3, os.kill, pid, signal.SIGCONT)
    host.ns.ip(f"link del {WG}")
    assert await held(target) == {}
    await done(target, add(host.device()))
    assert await held(target) == by_key(host.device())
    until(lambda: host.processes() != [pid] and len(host.processes()) == 1, "the old process to be gone")
    assert await held(target) == by_key(host.device())


async def test_the_process_outlives_us(host: Host) -> None:
    target = host.target()
    await done(target, add(host.device()))
    target.close()
    (pid,) = host.processes()
    assert os.getsid(pid) != os.getsid(0)
    assert await held(host.target()) == by_key(host.device())


async def test_a_foreign_device_is_a_conflict(host: Host) -> None:
    private, _ = a_key()
    host.tool("wireguard-go", WG)
    host.tool("wg", "set", WG, "private-key", "/dev/stdin", stdin=private)
    host.ns.ip(f"link add {WG6} type bridge")
    target = host.target()
    reading = await target.read()
    assert reading.objects == {}
    assert reading.foreign == {
        ("wireguard", WG): "a WireGuard device with another key, without weft's mark",
        ("wireguard", WG6): "a bridge without weft's mark",
    }
    answers = await target.apply(add(host.device(), host.device(WG6), peer(2)))
    assert refused(answers[0]) == (
        f"add {WG}: a WireGuard device with another key, without weft's mark has this name; it was left alone"
    )
    assert answers[0] is not None
    assert answers[0].conflict
    assert "a bridge without weft's mark" in refused(answers[1])
    assert refused(answers[2]) == f"add peer of {WG}: there is no such device of ours"
    await done(target, remove(host.device(), host.device(WG6)))
    assert {WG, WG6} <= {link["ifname"] for link in host.ns.ip_json("link show")}
    host.ns.ip(f"link set dev {WG} alias weft:flanneld:other")
    assert (await target.read(full=True)).foreign["wireguard", WG] == (
        "a WireGuard device with another key, marked weft:flanneld:other"
    )


async def test_flannels_device_with_our_key_is_taken_over(host: Host) -> None:
    host.tool("wireguard-go", WG)
    host.tool("wg", "set", WG, "private-key", host.key.path, "peer", peer(2).public_key, "allowed-ips", "10.5.2.0/24")
    target = host.target()
    found = await held(target)
    left = found[peer(2).key]
    assert left == with_(peer(2), endpoint=None)
    (pid,) = host.processes()
    await done(target, [change(found["wireguard", WG], host.device()), change(left, peer(2))])
    assert await held(target) == by_key(host.device(), peer(2))
    assert host.processes() == [pid], "the device was not made anew"


async def test_a_device_whose_making_was_cut_short_is_finished(host: Host) -> None:
    host.tool("wireguard-go", WG)
    target = host.target()
    (found,) = (await held(target)).values()
    await done(target, [change(found, host.device())])
    assert await held(target) == by_key(host.device())


async def test_other_names_are_never_touched(host: Host) -> None:
    host.tool("wireguard-go", "wg0")
    host.ns.ip(f"link set dev wg0 alias {OWNER}")
    target = host.target()
    assert await held(target) == {}
    (answer,) = await target.apply(add(host.device("wg0")))
    assert "not among the devices that were named" in refused(answer)


async def test_a_port_in_use_is_said_and_mended_later(host: Host) -> None:
    with host.ns.entered():
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("0.0.0.0", PORT))
    target = host.target()
    try:
        (answer,) = await target.apply(add(host.device()))
        assert "Address already in use" in refused(answer)
        found = (await held(target))["wireguard", WG]
        assert found != host.device()
    finally:
        taken.close()
    await done(target, [change(found, host.device())])
    assert await held(target) == by_key(host.device())


async def test_another_key_than_the_files_is_refused(host: Host) -> None:
    _, public = a_key()
    (answer,) = await host.target().apply(add(host.device(public_key=public)))
    assert refused(answer) == (f"add {WG}: the key in {host.key.path} is {host.key.public}, and {public} is asked for")


async def test_neither_kernel_nor_process(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("wg", "ip", "nsenter", "unshare", "sh", "mkdir", "mount"):
        (folder / tool).symlink_to(run(["which", tool]).strip())
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("weft.targets.wireguard_tools.SBIN", ())
    (answer,) = await host.target().apply(add(host.device()))
    assert refused(answer) == (
        f"add {WG}: this kernel has no WireGuard and wireguard-go is not installed: use Linux 5.6 or newer with the "
        "module wireguard, or apt-get install wireguard-go"
    )
    (folder / "wg").unlink()
    with pytest.raises(TargetError, match=r"wg is not installed; apt-get install wireguard-tools"):
        await host_key(str(tmp_path / "new"))


async def test_no_secret_is_ever_shown(
    host: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = Path(host.key.path).read_text()
    commands: list[object] = []
    run_tool = Tools._run

    async def listening(self: Tools, command: list[str], *others: object, **named: object) -> str:
        commands.append(command)
        return await run_tool(self, command, *others, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Tools, "_run", listening)
    secret = "s" * 42 + "s="
    thing = peer(2, psk=Secret(secret))
    target = host.target()
    answers = await target.apply(add(host.device(), thing, with_(thing, public_key="bad", psk=Secret("also bad"))))
    lines = target.lines(add(host.device(), thing))
    shown = f"{answers} {lines} {await held(target)} {caplog.text} {target.lines([change(thing, peer(2))])} {commands}"
    assert "psk" in shown
    assert "addconf" in shown
    for hidden in (private, secret, "also bad"):
        assert hidden not in shown
    assert NO_PSK not in shown


async def test_the_printed_lines_can_be_typed(host: Host) -> None:
    target = host.target()
    device, seven = host.device(fwmark=3), with_(FULL, psk=None)
    other = host.device(mtu=1400, addresses=(ip_interface("fd00:5::/128"),))
    bare = with_(seven, allowed_ips=(), keepalive=0)

    async def type_(ops: list[object], *wanted: Object) -> None:
        for line in target.lines(ops):  # type: ignore[arg-type]
            host.tool("sh", "-c", line)
        assert await held(target) == by_key(*wanted)

    await type_([*add(device, peer(2), seven)], device, peer(2), seven)
    await type_([change(device, other), change(seven, bare)], other, peer(2), bare)
    await type_([*remove(bare, peer(2), other)])


async def test_a_process_that_hangs_is_an_error_and_no_end_of_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    target = host.target()
    await done(target, add(host.device(), peer(2)))
    monkeypatch.setattr("weft.targets.wireguard_tools.TIMEOUT", 0.5)
    (pid,) = host.processes()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(TargetError, match=r"wg did not end within 0.5 s and was killed"):
            await target.read(full=True)
        (answer,) = await target.apply(add(peer(3)))
        assert f"add peer {peer(3).public_key} of {WG}: wg did not end within 0.5 s" in refused(answer)
    finally:
        os.kill(pid, signal.SIGCONT)
    found = await held(target, full=False)
    assert found.items() >= by_key(host.device(), peer(2)).items(), "what could not be read is read again"


async def test_a_target_of_devices_takes_nothing_else(host: Host) -> None:
    with pytest.raises(TypeError, match="takes devices and peers, not a File"):
        await host.target().apply(add(File("/x", "")))


async def test_a_key_is_made_once_and_flannels_is_reused(tmp_path: Path) -> None:
    path = tmp_path / "flannel" / "wgkey"
    made = await host_key(str(path))
    assert (made.path, path.stat().st_mode & 0o777) == (str(path), 0o600)
    assert [p.name for p in path.parent.iterdir()] == ["wgkey"]
    assert await host_key(str(path)) == made
    private, public = a_key()
    path.chmod(0o600)
    path.write_text(private + "\n")
    assert (await host_key(str(path))).public == public


async def test_many_that_make_the_key_at_once_get_one(tmp_path: Path) -> None:
    path = str(tmp_path / "wgkey")
    assert len(set(await asyncio.gather(*(host_key(path) for _ in range(8))))) == 1


async def test_a_file_without_a_key_is_said(tmp_path: Path) -> None:
    path = tmp_path / "wgkey"
    path.write_text("hush hush")
    with pytest.raises(TargetError) as caught:
        await host_key(str(path))
    assert str(caught.value).startswith(f"{path} does not hold a WireGuard private key (wg: ")
    assert "hush" not in str(caught.value)
    path.write_bytes(b"\xff")
    with pytest.raises(TargetError, match="can't be read: it is not text"):
        await host_key(str(path))
    with pytest.raises(TargetError, match="can't be read: Is a directory"):
        await host_key(str(tmp_path))
    with pytest.raises(TargetError, match="can't be read: Not a directory"):
        await host_key(str(path / "below"))
    with pytest.raises(TargetError, match="can't be written there: "):
        await host_key("/proc/weft/wgkey")


async def test_a_namespace_that_is_not_there() -> None:
    with pytest.raises(TargetError, match="network namespace /run/netns/wefttest-none can't be entered"):
        WireguardTarget(OWNER, HostKey("", ""), (WG,), "/run/netns/wefttest-none")
