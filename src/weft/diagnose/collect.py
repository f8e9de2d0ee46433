"""Everything asked, at once where it can be → Facts. Called by `cli/diagnose.py`, with or without a running daemon."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from weft.agent.journal import Event, read_events
from weft.diagnose import ask_docker, ask_etcd, ask_kernel
from weft.diagnose.facts import (
    DaemonFacts,
    DockerFacts,
    Facts,
    FileFacts,
    NotDone,
    PeerFacts,
)
from weft.diagnose.finding import Own
from weft.diagnose.probe import probe, targets
from weft.diagnose.tools import Tools
from weft.engines.docker_networks import Expose
from weft.errors import WeftError, WireError
from weft.model import IPAddress, Network
from weft.stores.etcd import EtcdOptions
from weft.targets.kernel.ways import way_to
from weft.wire.health import decode_health

if TYPE_CHECKING:
    import aiohttp

EVENTS = 20
DAEMON = 5.0
"""Seconds that the daemon may take to answer."""


@dataclass(frozen=True, slots=True)
class Options:
    """What of the settings is needed. `docker` "": this host has no engine, and `networks` are its networks. `socket`:
    of the daemon. `wait`: seconds that health_status.json may be old. `mtu`: FLANNEL_MTU."""

    name: str
    etcd: EtcdOptions
    flannel_prefix: str
    config_prefix: str
    public_ip: IPAddress | None = None
    has_engine: bool = True
    docker: str = ""
    expose: Expose = "all"
    container: str = "flannel"
    networks: tuple[Network, ...] = ()
    socket: str = "/run/weft/registrar.sock"
    run_dir: Path = Path("/var/run/flannel-registrar")
    vni: int = 7600
    mtu: int = 0
    wait: float = 900.0
    probe: bool = True
    diverted: tuple[tuple[IPAddress, IPAddress], ...] = ()


class _Status(msgspec.Struct):
    """Of GET /v1/status, what is looked at (`web/api.py`)."""

    health: str
    version: str
    uptime: float
    waiting_for: tuple[str, ...]
    problems: tuple[str, ...]
    not_done: tuple[NotDone, ...]


async def collect(options: Options) -> Facts:
    """Never raises for what can't be asked: it is in the remarks, and in the facts as an error."""
    tools = Tools()
    overflows = ask_kernel.overflows()
    where = ask_etcd.Where(options.etcd, options.flannel_prefix, options.config_prefix)
    kernel, firewall, etcd, docker, daemon, public_ip = await asyncio.gather(
        ask_kernel.kernel(tools),
        ask_kernel.firewall(tools),
        ask_etcd.etcd(where),
        _docker(options),
        _daemon(options.socket),
        _public_ip(options),
    )
    tunnels = tuple(link.name for link in kernel.links if link.vni)
    host = ask_kernel.host(options.name, tunnels)
    if not host.root:
        tools.remark("host", "not run as root: firewall, probes and the daemon's socket may be out of reach; use sudo")
    facts = Facts(
        host=host,
        host_name=options.name,
        public_ip=public_ip,
        docker=docker,
        etcd=etcd,
        kernel=kernel,
        firewall=firewall,
        daemon=daemon,
        health=health_file(options.run_dir),
        own_vni=options.vni,
        wanted_mtu=options.mtu,
        wait=options.wait,
        diverted=options.diverted,
    )
    facts = msgspec.structs.replace(facts, public_ip=public_ip or _told_before(facts))
    if options.probe:
        try:
            facts = msgspec.structs.replace(facts, probes=await probe(targets(facts)))
        except OSError as error:
            tools.remark("paths", f"no ping can be sent ({error.strerror or error}): be root, or have CAP_NET_RAW")
    else:
        tools.remark("paths", "not probed (--no-probe)")
    host = msgspec.structs.replace(facts.host, overflows=ask_kernel.overflows() - overflows)
    return msgspec.structs.replace(facts, host=host, remarks=tuple(dict.fromkeys(tools.remarks)))


async def _docker(options: Options) -> DockerFacts:
    if options.has_engine:
        return await ask_docker.docker(options.docker, options.container, options.expose)
    return DockerFacts(asked=False, networks=tuple(map(ask_docker.shown, options.networks)))


async def _public_ip(options: Options) -> IPAddress | None:
    """FLANNELD_PUBLIC_IP, else the address that reaches etcd."""
    if options.public_ip is not None:
        return options.public_ip
    for url in options.etcd.endpoints:
        try:
            way = await way_to(ip_address(urlsplit(url).hostname or ""))
        except (ValueError, WeftError):
            continue
        if way is not None and way.source is not None and not way.source.is_loopback:
            return way.source
    return None


def _told_before(facts: Facts) -> IPAddress | None:
    """By what this host is known in etcd already: by its registration, or by flannel's lease."""
    registered = (one.address for one in facts.etcd.hosts if one.host == facts.host_name)
    leases = Own(facts).leases
    return next(registered, None) or (leases[0].public_ip if leases else None)


async def _daemon(socket: str) -> DaemonFacts:
    """What it tells of itself, on its socket."""
    import aiohttp

    limit = aiohttp.ClientTimeout(total=DAEMON)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket), timeout=limit) as session:
            told = msgspec.json.decode(await _answer(session, "status"), type=_Status)
            peers = msgspec.json.decode(await _answer(session, "peers"), type=tuple[PeerFacts, ...])
        return DaemonFacts(socket, peers=peers, **msgspec.structs.asdict(told))
    except TimeoutError:
        return DaemonFacts(socket, f"no answer within {DAEMON:g} s")
    except aiohttp.ClientConnectorError as error:
        return DaemonFacts(socket, error.os_error.strerror or str(error.os_error))
    except (aiohttp.ClientError, msgspec.DecodeError) as error:
        return DaemonFacts(socket, f"its answer can't be read: {error}")


async def _answer(session: aiohttp.ClientSession, what: str) -> bytes:
    async with session.get(f"http://registrar/v1/{what}") as answer:
        answer.raise_for_status()
        return await answer.read()


def health_file(folder: Path) -> FileFacts:
    """health_status.json and the end of events.log."""
    path = folder / "health_status.json"
    try:
        events = [f"{e.time} {e.kind} {e.subject}: {e.done} ({e.reason})" for e in _events(folder)]
        status = decode_health(path.read_bytes())
    except FileNotFoundError:
        return FileFacts(str(path), f"{path} is not there: no registrar has run here since the start")
    except OSError as error:
        return FileFacts(str(path), f"{path} can't be read: {error.strerror or error}")
    except WireError as error:
        return FileFacts(str(path), str(error))
    return FileFacts(str(path), "", status.status, status.last_check, status.message, tuple(events))


def _events(folder: Path) -> tuple[Event, ...]:
    try:
        return read_events(folder / "events.log", EVENTS)
    except WireError:
        return ()
