"""wg, ip and wireguard-go as subprocesses, in a given network namespace. Called by `targets/wireguard.py`, and by the
daemon for this host's key.

Keys never stand in a command's arguments, which every user of the machine can read: the private key goes by its file,
pre-shared keys go through stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

import msgspec

from weft.core.wireguard import Dump, parse_dump
from weft.errors import DecodeError, TargetError
from weft.model import IPInterface
from weft.targets.processes import finished

KEY_FILE = "/run/flannel/wgkey"
KEY_FILE_VARIABLE = "WIREGUARD_KEY_FILE"
"""Where flannel keeps its private key, and the variable that names another place."""
SOCKETS = Path("/var/run/wireguard")
"""Where wireguard-go and wg meet; built into both. Devices are known there by name, whatever their namespace."""
PRIVATE_SOCKETS = Path("/run/weft/wireguard")
SBIN: tuple[str, ...] = ("/usr/sbin", "/sbin")
TIMEOUT = 10.0
"""Seconds after which a tool that doesn't end is killed. 3,000 peers take wireguard-go 0.4 s."""
GOING = 3.0
"""Seconds that a wireguard-go whose device is gone may take to end."""
PACKAGES = {"wg": "wireguard-tools", "wireguard-go": "wireguard-go", "ip": "iproute2", "nsenter": "util-linux"}
_BIND = 'mkdir -p "$1" && mount --bind "$0" "$1" && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class HostKey:
    """This host's key pair: the file that holds the private half, and the public half in base64."""

    path: str
    public: str


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """A link as `ip` shows it. `addresses`: sorted, without the link-local ones that the kernel gives."""

    index: int
    kind: str
    mtu: int
    up: bool
    alias: str
    addresses: tuple[IPInterface, ...]


class ToolError(TargetError):
    """A tool ended with an error, did not end, or is not there. `said`: its own words."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


class _Address(msgspec.Struct, frozen=True):
    local: str
    prefixlen: int
    scope: str = ""


class _Info(msgspec.Struct, frozen=True):
    info_kind: str = ""


class _Link(msgspec.Struct, frozen=True):
    ifindex: int = 0
    ifname: str = ""
    flags: list[str] = []
    mtu: int = 0
    ifalias: str = ""
    linkinfo: _Info = _Info()
    addr_info: list[_Address] = []


class Tools:
    """`netns`: path of a network namespace, None for the current one. wireguard-go's sockets in another namespace lie
    in a folder of their own, which its processes and `wg` see where the sockets always are. Raises OSError if there is
    no such namespace."""

    def __init__(self, netns: str | None = None) -> None:
        self._enter: list[str] = [] if netns is None else ["nsenter", f"--net={netns}"]
        self.sockets = SOCKETS if netns is None else PRIVATE_SOCKETS / str(os.stat(netns).st_ino)
        self._private = netns is not None

    async def link(self, name: str) -> LinkFacts | None:
        """The link of this name, or None. Raises ToolError."""
        try:
            out = await self._run(["ip", "-j", "-d", "address", "show", "dev", name])
        except ToolError as error:
            if "does not exist" in error.said:
                return None
            raise
        try:
            found = [link for link in msgspec.json.decode(out, type=list[_Link]) if link.ifname == name]
        except msgspec.DecodeError as error:
            raise ToolError(f"`ip -j address show` printed what is not its JSON: {error}") from error
        return _facts(found[0]) if found else None

    async def dump(self, name: str) -> Dump | None:
        """The device's settings and peers, or None if nothing that speaks WireGuard has this name. Raises ToolError."""
        try:
            out = await self._wg(["show", name, "dump"])
        except ToolError as error:
            if "Unable to access interface" in error.said:
                return None
            raise
        try:
            return parse_dump(name, out)
        except DecodeError as error:
            raise ToolError(str(error)) from error

    async def create_in_kernel(self, name: str) -> bool:
        """Make a device of the kernel's; False if this kernel has no WireGuard. Raises ToolError."""
        try:
            await self._run(["ip", "link", "add", "dev", name, "type", "wireguard"])
        except ToolError as error:
            if "Unknown device type" in error.said or "not supported" in error.said:
                return False
            raise
        return True

    def has_process(self) -> bool:
        """wireguard-go is installed."""
        return shutil.which("wireguard-go", path=_search()) is not None

    async def create_by_process(self, name: str) -> None:
        """Start a wireguard-go, which makes the device and goes on without us: our end, or that of whoever started us
        from a terminal, is not its end. Raises ToolError."""
        await self._wait_for_an_old_one(name)
        environment = {key: value for key, value in os.environ.items() if key != "LOG_LEVEL"}  # it would keep our pipe
        await self._run(self.seeing_sockets(["wireguard-go", name]), environment=environment)

    async def configure_link(self, lines: Sequence[str]) -> None:
        """Lines of `ip -batch`. Raises ToolError, which names the line."""
        try:
            await self._run(["ip", "-batch", "-"], "\n".join((*lines, "")))
        except ToolError as error:
            at = re.search(r"Command failed -:(\d+)", error.said)
            if at is None or not 0 < int(at[1]) <= len(lines):
                raise
            said = error.said.replace(f"; {at[0]}", "")
            raise ToolError(f"`ip {lines[int(at[1]) - 1]}`: {said}", said) from error

    async def delete_link(self, name: str) -> None:
        """Remove a link; that it is gone already is as good. Its process has ended when this returns, or takes longer
        than usual. Raises ToolError."""
        try:
            await self._run(["ip", "link", "delete", "dev", name])
        except ToolError as error:
            if "Cannot find device" not in error.said:
                raise
        await self._wait_for_an_old_one(name)
        if self._private:
            with contextlib.suppress(OSError):  # another device's socket is in it
                self.sockets.rmdir()

    async def set(self, name: str, words: Sequence[str]) -> None:
        """`wg set`; no key may be among the words. Raises ToolError."""
        await self._wg(["set", name, *words])

    async def add_peers(self, name: str, conf: str) -> None:
        """`wg addconf`: these peers, all or (if a line is refused) none. Raises ToolError."""
        await self._wg(["addconf", name, "/dev/stdin"], conf)

    async def generate_key(self) -> str:
        """A new private key, base64. Raises ToolError."""
        return (await self._run(["wg", "genkey"])).strip()

    async def public_key(self, private: str) -> str:
        """The public key that belongs to a private one. Raises ToolError."""
        return (await self._run(["wg", "pubkey"], private)).strip()

    async def _wg(self, arguments: Sequence[str], text: str = "") -> str:
        return await self._run(self.seeing_sockets(["wg", *arguments]), text)

    def seeing_sockets(self, command: list[str]) -> list[str]:
        """The same command, with the sockets of this namespace where it looks for them."""
        if not self._private:
            return command
        self.sockets.mkdir(0o700, parents=True, exist_ok=True)
        return ["unshare", "--mount", "sh", "-c", _BIND, str(self.sockets), str(SOCKETS), *command]

    async def _wait_for_an_old_one(self, name: str) -> None:
        """A wireguard-go that lost its device takes its socket away as it ends: it must not take the next one's."""
        path = self.sockets / f"{name}.sock"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOING):
                while _answers(path):  # noqa: ASYNC110 - nobody tells when a socket goes
                    await asyncio.sleep(0.01)

    async def _run(self, command: Sequence[str], text: str = "", environment: Mapping[str, str] | None = None) -> str:
        """What it prints. Raises ToolError; `text` and what is printed may hold keys, so they are in no message."""
        tool = next((word for word in command if word in PACKAGES), command[0])
        path = _search()
        if shutil.which(tool, path=path) is None:
            raise ToolError(f"{tool} is not installed; apt-get install {PACKAGES.get(tool, tool)}")
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *self._enter,
                *command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env={**(environment or os.environ), "PATH": path, "LC_ALL": "C"},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise ToolError(f"{tool} can't be started: {error.strerror}") from error
        try:
            out, said = await finished(process, text, TIMEOUT)
        except TimeoutError as error:
            raise ToolError(f"{tool} did not end within {TIMEOUT:g} s and was killed") from error
        if process.returncode:
            words = _one_line(said)
            raise ToolError(f"`{_shown(tool, command)}` ended with {process.returncode}: {words}", words)
        return out


async def host_key(path: str = KEY_FILE) -> HostKey:
    """The key in this file, which is made if there is none; flannel's own is taken over as it is. Raises TargetError
    if the file can't be read or written, or holds no key."""
    tools = Tools()
    file = Path(path)
    try:
        private = file.read_text()
    except FileNotFoundError:
        private = await tools.generate_key()
        try:
            private = _keep(file, private)
        except OSError as error:
            raise TargetError(f"{path}: a WireGuard key can't be written there: {error.strerror}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise TargetError(f"{path}: the WireGuard key can't be read: {reason}") from error
    try:
        return HostKey(path, await tools.public_key(private))
    except ToolError as error:
        if not error.said:
            raise
        raise TargetError(
            f"{path} does not hold a WireGuard private key (wg: {error.said}); remove it to have one made"
        ) from error


def _keep(file: Path, private: str) -> str:
    """Write a new key, for root alone, whole or not at all; what is returned is the key that is there: another
    process's, if that was faster."""
    file.parent.mkdir(0o755, parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as out:
            out.write(private)
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    return file.read_text()


def _facts(link: _Link) -> LinkFacts:
    addresses = [ip_interface(f"{a.local}/{a.prefixlen}") for a in link.addr_info if a.scope != "link"]
    return LinkFacts(
        index=link.ifindex,
        kind=link.linkinfo.info_kind,
        mtu=link.mtu,
        up="UP" in link.flags,
        alias=link.ifalias,
        addresses=tuple(sorted(addresses, key=lambda a: (a.version, a.packed))),
    )


def _search() -> str:
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _shown(tool: str, command: Sequence[str]) -> str:
    """The command without what only leads into a namespace, and not all of a long one."""
    words = list(command[command.index(tool) :])
    return " ".join(words if len(words) <= 8 else [*words[:8], "…"])


def _one_line(said: str) -> str:
    return "; ".join(line.strip() for line in said.splitlines() if line.strip("─│┌┐└┘ \t")) or "no reason given"
