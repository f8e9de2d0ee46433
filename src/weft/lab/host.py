"""A lab's host as processes: an init that holds its namespaces, and the services that run in it.

A host is a network, mount, pid and UTS namespace with an init of its own. When the init is killed, the kernel ends
everything else in it (dockerd, its containerd, the shims, the containers, the agent), and its mounts vanish with it:
there is no way to leave a stray process or mount behind. `lab.Lab` is the caller.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.errors import LabError
from weft.lab import netns, shell, state, wiring
from weft.lab.state import Mark
from weft.lab.topology import Host, ServiceName

START = 30.0
"""Seconds that an init or a service may take until it answers; all take well under one on an idle machine."""
STOP = 20.0
INHERITED = ("PATH", "HOME", "LANG", "TERM", "TZ")
INHERITED_BEGINNINGS = ("LC_", "PYTHON")
"""What services take over of our environment. All else stays out: it may hold keys that are not for them."""

ELSEWHERE = ("WEFT_", "DOCKER_", "ROUTE_MANAGER_", "GOOGLE_", "GCE_", "CLOUDSDK_", "AWS_")
"""Beginnings of variables that speak of this machine's own daemons, or of an account that no lab may use."""

INIT = """
set -e
read -r stat </proc/self/stat    # still the machine's /proc: our pid as the machine sees it
mount -t proc proc /proc
echo "$2" >/proc/sys/kernel/hostname
mkdir "$1/cgroup"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys        # shows this namespace's devices, and hides the cgroups
mount --rbind "$1/cgroup" /sys/fs/cgroup
umount -l "$1/cgroup"
rmdir "$1/cgroup"
mkdir "$1/run"                   # a /run of its own: subnet.env, named namespaces, locks, no engine's sockets
mount -t tmpfs -o mode=755 tmpfs "$1/run"
mkdir -p "$1/run/${1#/run/}" "$1/run/netns" "$1/run/lock"
mount -n --bind "$1" "$1/run/${1#/run/}"
mount -n --move "$1/run" /run
rmdir "$1/run"
if [ -e /etc/machine-id ]; then  # a machine of its own to those who tell machines apart by it
    echo "$3" >"$1/machine-id"
    mount -n --bind "$1/machine-id" /etc/machine-id
fi
echo "$stat" >"$1/init"
exec env --ignore-signal=CHLD sleep infinity    # so that the kernel reaps what is orphaned here
"""
SERVICE = 'read -r stat </proc/self/stat; echo "$stat" >"$0.mark"; exec "$@" >>"$0.log" 2>&1'


@dataclass(frozen=True, slots=True)
class LabHost:
    """One host of the lab `lab`."""

    lab: str
    host: Host

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def namespace(self) -> str:
        """Its network namespace's name."""
        return wiring.namespace(self.lab, self.name)

    @property
    def folder(self) -> Path:
        """Marks, logs and sockets."""
        return state.folder(self.lab) / self.name

    @property
    def docker_socket(self) -> Path:
        return self.folder / "docker.sock"

    @property
    def agent_socket(self) -> Path:
        return self.folder / "agent.sock"

    @property
    def registrar_socket(self) -> Path:
        return self.folder / "registrar.sock"

    @property
    def router_socket(self) -> Path:
        return self.folder / "router" / "router.sock"

    @property
    def manager_socket(self) -> Path:
        return self.folder / "route-manager" / "route-manager.sock"

    @property
    def environment(self) -> dict[str, str]:
        """What a person's command in this host finds set: ours without weft's, Docker's and clouds' variables, and its
        own."""
        return self._settled({k: v for k, v in os.environ.items() if not k.startswith(ELSEWHERE)})

    @property
    def service_environment(self) -> dict[str, str]:
        """What a service of this host finds set: little of ours (INHERITED), and the host's own."""
        kept = {k: v for k, v in os.environ.items() if k in INHERITED or k.startswith(INHERITED_BEGINNINGS)}
        return self._settled(kept)

    def _settled(self, inherited: Mapping[str, str]) -> dict[str, str]:
        own = {"WEFT_SOCKET": self._socket, "HOSTNAME": self.name}
        if self.host.engine == "docker":
            own["DOCKER_HOST"] = f"unix://{self.docker_socket}"
        here = str(Path(sys.executable).parent)
        return {**inherited, **own, "PATH": f"{here}:{inherited.get('PATH', os.defpath)}"}

    @property
    def _socket(self) -> str:
        """Where `weft show` is answered; of two daemons by the registrar, the router or the route-manager."""
        if self.host.registrar is not None:
            return str(self.registrar_socket)
        if self.host.stacks is not None:
            return str(self.router_socket)
        if self.host.route_manager is not None:
            return str(self.manager_socket)
        return self.host.flanneld.socket if self.host.flanneld else str(self.agent_socket)

    def init(self) -> Mark:
        """Its init, verified to be the process that we started. LabError if it is gone."""
        mark = Mark.read(self.folder / "init")
        if mark is None or not mark.alive() or not netns.is_in(mark.pid, self.namespace):
            raise LabError(
                f"host {self.name} of lab {self.lab} is not running: `weft lab down {self.lab}`, then up again"
            )
        return mark

    @property
    def proc(self) -> Path:
        """/proc as processes of this host see it: their pids are this host's own."""
        return Path(f"/proc/{self.init().pid}/root/proc")

    def inside(self, command: Sequence[str]) -> list[str]:
        """A command that runs `command` in this host: its namespaces, the caller's working directory."""
        enter = ["nsenter", f"--target={self.init().pid}", "--net", "--mount", "--pid", "--uts", "--"]
        return [*enter, "env", f"--chdir={Path.cwd()}", *command]

    def inside_container(self, container: str, command: Sequence[str]) -> list[str]:
        """The same for a container that is a namespace (`engine: none`): its network, all else of this host."""
        space = netns.path(wiring.namespace(self.lab, self.name, container))
        return [
            *("nsenter", f"--target={self.init().pid}", "--mount", "--pid", "--uts", f"--net={space}", "--"),
            *command,
        ]

    async def boot(self) -> None:
        """Start the init. LabError with what it said if it doesn't come up."""
        log = self.folder / "init.log"
        spaces = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child"]
        command = ["nsenter", f"--net={netns.path(self.namespace)}", *spaces, "sh", "-c", INIT, "init"]
        machine_id = hashlib.md5(self.namespace.encode(), usedforsecurity=False).hexdigest()
        await shell.detach([*command, str(self.folder), self.name, machine_id], log, self.service_environment)
        if not await shell.until(lambda: Mark.read(self.folder / "init") is not None, _deadline(START)):
            raise LabError(f"host {self.name} does not come up: {log.read_text().strip() or 'it says nothing'}")

    # -- services -----------------------------------------------------------------------------------------------

    def running(self, service: str) -> Mark | None:
        """The service's process, by its pid in this host, or None."""
        mark = Mark.read(self.folder / f"{service}.mark")
        return mark if mark and mark.alive(self.proc) else None

    def log(self, service: ServiceName) -> Path:
        """The file that the service writes to, from its first start on."""
        return self.folder / f"{service}.log"

    async def start(self, service: ServiceName, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a service's program and return when it has begun. LabError if it runs already.

        `environment` may hold keys: it is handed over as such, never as words of a command line."""
        if self.running(service):
            raise LabError(f"{service} runs on {self.name} already")
        mark = self.folder / f"{service}.mark"
        mark.unlink(missing_ok=True)
        self.log(service).touch(mode=0o600)
        wrapped = ["sh", "-c", SERVICE, str(self.folder / service), *command]
        await shell.detach(self.inside(wrapped), self.folder / "init.log", environment)
        if not await shell.until(lambda: Mark.read(mark) is not None, _deadline(START)):
            raise LabError(f"{service} on {self.name} does not start; see `weft lab logs {self.name} {service}`")

    async def signal(self, service: ServiceName, name: str) -> None:
        """Send a signal (`TERM`, `KILL`) and wait until the service has ended. LabError if it doesn't run or end.

        The number is used inside the host's own pid namespace only: nothing outside could be hit."""
        mark = self.running(service)
        if mark is None:
            raise LabError(f"{service} does not run on {self.name}; `weft lab start {self.name} {service}` starts it")
        await shell.run(self.inside(["kill", f"-{name}", str(mark.pid)]))
        if not await shell.until(lambda: not mark.alive(self.proc), _deadline(STOP)):
            raise LabError(f"{service} on {self.name} has not ended {STOP:g} s after SIG{name}")

    async def ready(self, service: ServiceName, path: Path) -> None:
        """Wait until the service listens on its socket. LabError with the end of its log if it ends instead."""
        await self._until(service, lambda: _listens(path), f"does not answer on {path}")

    async def told(self, service: ServiceName, ready: Callable[[], bool]) -> None:
        """Wait until the service has said that it is `ready`. LabError with the end of its log if it ends instead."""
        await self._until(service, ready, "has not said that it is ready")

    async def _until(self, service: ServiceName, there: Callable[[], bool], lacking: str) -> None:
        await shell.until(lambda: there() or self.running(service) is None, _deadline(START))
        if not there():
            ended = "ended" if self.running(service) is None else f"{lacking} after {START:g} s"
            raise LabError(f"{service} on {self.name} {ended}:\n{self.tail(service)}")

    def tail(self, service: ServiceName, lines: int = 12) -> str:
        """The last lines of the service's log."""
        try:
            return "\n".join(self.log(service).read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(it has written no log)"


def _listens(path: Path) -> bool:
    """Whether somebody accepts connections there; a dead process's socket file refuses them."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _deadline(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
