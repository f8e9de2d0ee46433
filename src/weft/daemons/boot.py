"""`weft boot`: at the start of a host, wait for what the registrar needs, then let it do its work once.

One shot: a unit of this kind says when the host's routes are there (`flannel-boot.service`), so that others can come
after it. What it waits for it says (STATUS of sd_notify(3), and a log line), and no longer than it was told. Called by
`cli/boot.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from weft.core.health import Container
from weft.core.registrar import ROLE
from weft.daemons import registrar
from weft.daemons.process import claimed, notify
from weft.daemons.registrar import etcd_options
from weft.engines.containers import Containers
from weft.errors import EngineError, StoreError, WeftError, WireError
from weft.model import Host
from weft.settings.registrar import RegistrarSettings
from weft.stores.etcd import EtcdStore
from weft.targets.kernel.host import read_host
from weft.targets.processes import finished
from weft.wire.flannel import VxlanBackend
from weft.wire.flannel_config import parse_config

log = logging.getLogger("weft")

MODULES = {"vxlan": "type vxlan devices", "br_netfilter": "Docker's rules between containers of one bridge"}
"""What modules are needed for; both are loaded by whoever needs them first, as a rule."""
SYS_MODULE, SYSCTLS = Path("/sys/module"), Path("/proc/sys")
FORWARDING = "net/ipv4/ip_forward"
PAUSE = 0.5
"""Seconds between two looks at what is waited for."""
LOAD = 10.0
"""Seconds that modprobe may take."""
ANSWER = 5.0
"""Seconds that Docker may take to say how a container is."""


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that is waited for. `missing`: "" as soon as it is there, else what is missing, for people."""

    name: str
    missing: Callable[[], Awaitable[str]]


async def boot(settings: RegistrarSettings, timeout: float) -> int:
    """Everything within `timeout` seconds: 0. Else 1, and the log says what is missing."""
    deadline = time.monotonic() + timeout
    for problem in [*await load_modules(), *forward()]:
        log.warning("%s", problem)
    missing = await wait(Needs(settings).all(), deadline)
    if missing:
        return _failed(f"not there within {timeout:g} s: {'; '.join(missing)}")
    if ROLE in claimed():
        log.info("weft registrar runs here already and keeps everything as it should be: nothing is left to do")
        notify(os.environ, "READY=1", "STATUS=done; weft registrar runs")
        return 0
    notify(os.environ, "STATUS=registering networks and setting routes")
    try:
        code = await registrar.run(settings, max(deadline - time.monotonic(), 1.0))
    except WeftError as error:
        return _failed(str(error))
    if code:
        return _failed("the registrar's pass was not completed; the lines above say why")
    log.info("done: networks are registered, routes are set")
    notify(os.environ, "READY=1", "STATUS=done")
    return 0


def _failed(text: str) -> int:
    log.error("%s", text)
    notify(os.environ, f"STATUS={text}")
    return 1


# -- the kernel ----------------------------------------------------------------------------------------------------


async def load_modules() -> list[str]:
    """Load what is neither there nor built in; what can't be, and what it is for. Never fails: without `br_netfilter`
    all but one case works, and a kernel without `vxlan` says so when a device is made."""
    problems = []
    for module, purpose in MODULES.items():
        if not (SYS_MODULE / module).exists() and (said := await _modprobe(module)):
            problems.append(f"kernel module {module} ({purpose}) is not loaded: {said}")
    return problems


async def _modprobe(module: str) -> str:
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec("modprobe", module, stdin=pipe, stdout=pipe, stderr=pipe)
        _, said = await finished(process, "", LOAD)
    except OSError as error:
        return f"modprobe can't be started: {error.strerror}"
    except TimeoutError:
        return f"modprobe did not end within {LOAD:g} s"
    return " ".join(said.split()) or f"modprobe ended with {process.returncode}" if process.returncode else ""


def forward() -> Iterator[str]:
    """Set forwarding, without which nothing is routed; what stands in the way."""
    path = SYSCTLS / FORWARDING
    try:
        if path.read_text().strip() == "1":
            return
        path.write_text("1\n")
        log.info(
            "%s was 0 and is 1 now; put net.ipv4.ip_forward = 1 into /etc/sysctl.d to have it from the start", path
        )
    except OSError as error:
        yield f"{path} can't be set to 1: {error.strerror}; nothing is routed without it"


# -- waiting -------------------------------------------------------------------------------------------------------


async def wait(needs: list[Need], deadline: float) -> list[str]:
    """Until nothing is missing, or the deadline (of time.monotonic()); what is missing then."""
    told: list[str] = []
    while True:
        missing = [text for need in needs if (text := await need.missing())]
        if not missing or time.monotonic() >= deadline:
            return missing
        left = f"EXTEND_TIMEOUT_USEC={int(max(deadline - time.monotonic(), 1) * 1e6)}"
        if missing != told:
            log.info("waiting for %s", "; ".join(missing))
            told = missing
        notify(os.environ, left, f"STATUS=waiting for {'; '.join(missing)}")
        await asyncio.sleep(PAUSE)


class Needs:
    """What this host's settings say must be there before the registrar can do its work."""

    def __init__(self, settings: RegistrarSettings) -> None:
        self._settings = settings
        self._device: str | None = None
        """flannel's, "" for none; None: etcd has not said yet."""

    def all(self) -> list[Need]:
        # In this order: where etcd was asked, it is known whether flannel's device is to be waited for.
        found = [Need("network", self._network), Need("etcd", self._etcd), Need("flannel", self._flannel)]
        return [*found, Need("docker", self._docker)] if self._settings.engine == "docker" else found

    async def _network(self) -> str:
        if self._device is not None:
            return ""  # etcd answered, so there is a network, default route or not
        return _unconnected(await read_host(), self._settings)

    async def _etcd(self) -> str:
        if self._device is not None:
            return ""
        store = EtcdStore(etcd_options(self._settings))
        try:
            entry = await store.get(f"{self._settings.flannel_prefix}/config")
            config = parse_config(entry.value) if entry is not None else None
        except StoreError as error:
            return f"etcd ({self._settings.etcd_endpoints}): {error}"
        except WireError as error:
            log.warning("flannel's config can't be read: %s", error)
            config = None
        finally:
            await store.close()
        vxlan = config.backend if config is not None and isinstance(config.backend, VxlanBackend) else None
        self._device = f"flannel.{vxlan.vni}" if vxlan is not None and config is not None and config.ipv4 else ""
        return ""

    async def _flannel(self) -> str:
        """Where etcd holds a config of flannel's, this host has its device, or will."""
        names = {name for _, name in socket.if_nameindex()}
        return (
            "" if not self._device or self._device in names else f"flannel's device {self._device}: does flannel run?"
        )

    async def _docker(self) -> str:
        found = await flannel_container(self._settings)
        return f"Docker: {found.error}" if found.error else ""


async def flannel_container(settings: RegistrarSettings) -> Container:
    """How flannel's container is; `error` if Docker can't be asked."""
    name = settings.flannel_container_name
    try:
        source = Containers(name, settings.docker_host)
        async with asyncio.timeout(ANSWER):
            return await anext(source.containers())
    except EngineError as error:
        return Container(name, error=str(error))
    except TimeoutError:
        return Container(name, error=f"no answer within {ANSWER:g} s")


def _unconnected(host: Host, settings: RegistrarSettings) -> str:
    """A default route, or the address by which the others know this host: behind NAT it never has that."""
    wanted = settings.flanneld_public_ip
    own = {address.ip for uplink in host.uplinks for address in uplink.addresses}
    if wanted in own or any(uplink.defaults for uplink in host.uplinks):
        return ""
    named = "names no address" if wanted is None else f"= {wanted} is on no interface"
    return f"the network: there is no default route, and FLANNELD_PUBLIC_IP {named}"
