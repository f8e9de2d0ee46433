"""What was found on one host, as frozen values: made by `collect.py` and its parts, judged by `judge.py`. They become
JSON as they stand (`weft diagnose --json`), so addresses are text's own types and nothing in them is a secret."""

from __future__ import annotations

from ipaddress import IPv4Address

import msgspec

from weft.model import IPAddress, IPInterface, IPNetwork

NOBODY = IPv4Address(0)


class Remark(msgspec.Struct, frozen=True):
    """What could not be asked, and why."""

    section: str
    text: str


class HostFacts(msgspec.Struct, frozen=True):
    """`at`: seconds since 1970; `uptime`: seconds. `sysctls`: path as under /proc/sys → value; missing: not there."""

    name: str
    kernel: str = ""
    distribution: str = ""
    at: float = 0.0
    uptime: float = 0.0
    root: bool = True
    sysctls: dict[str, str] = {}
    overflows: int = 0
    """How often the kernel's neighbour table, which all namespaces share, was full while the facts were collected."""


class DockerNetwork(msgspec.Struct, frozen=True):
    """`note`: why it isn't exposed."""

    name: str
    subnets: tuple[IPNetwork, ...] = ()
    bridge: str = ""
    exposed: bool = True
    note: str = ""


class DockerFacts(msgspec.Struct, frozen=True):
    """`asked` False: this host has no engine by its settings. `error`: why it can't be asked, "" if it could.
    `container`: flannel's (FLANNEL_CONTAINER_NAME), one of running, stopped, absent, unknown."""

    asked: bool = True
    url: str = ""
    version: str = ""
    error: str = ""
    networks: tuple[DockerNetwork, ...] = ()
    problems: tuple[str, ...] = ()
    container: str = "unknown"
    container_name: str = ""


class EndpointFacts(msgspec.Struct, frozen=True):
    """One member of etcd. `ms`: how long one read took; `error`: why there was no answer."""

    url: str
    ms: float = 0.0
    error: str = ""
    forbidden: bool = False


class LeaseFacts(msgspec.Struct, frozen=True):
    """One key (`path`) below flannel's subnets. `entry`: a registrar put it there for a Docker network. `kept`: it
    hangs on no etcd lease (a reservation)."""

    path: str
    subnet: IPNetwork
    public_ip: IPAddress
    backend: str = ""
    mac: str = ""
    vni: int = 0
    entry: bool = False
    kept: bool = False


class Registration(msgspec.Struct, frozen=True):
    host: str
    network: str
    subnet: IPNetwork
    leased: bool = True


class HostStatus(msgspec.Struct, frozen=True):
    """A host's heartbeat and, where it runs weft, its note. `mac`, `vni`: of weft's own VXLAN there."""

    host: str
    address: IPAddress | None = None
    timestamp: int = 0
    leased: bool = True
    endpoints: tuple[IPAddress, ...] = ()
    overlay: tuple[IPAddress, ...] = ()
    mac: str = ""
    vni: int = 0
    version: str = ""


class EtcdFacts(msgspec.Struct, frozen=True):
    """`error`: why its keys could not be read; what follows is empty then. `network`: flannel's, None for no config;
    `nowhere`: keys of entries that name a loopback address or none. `flaws`: entries that can't be read."""

    endpoints: tuple[EndpointFacts, ...] = ()
    error: str = ""
    forbidden: bool = False
    config: str = ""
    config_error: str = ""
    network: tuple[IPNetwork, ...] = ()
    backend: str = ""
    vni: int = 0
    port: int = 8472
    leases: tuple[LeaseFacts, ...] = ()
    registrations: tuple[Registration, ...] = ()
    hosts: tuple[HostStatus, ...] = ()
    nowhere: tuple[str, ...] = ()
    flaws: tuple[str, ...] = ()


class LinkFacts(msgspec.Struct, frozen=True):
    """`vni` 0: no VXLAN device. `underlay`: the device that its packets are bound to, "" for any."""

    name: str
    kind: str = ""
    up: bool = True
    mtu: int = 1500
    mac: str = ""
    alias: str = ""
    master: str = ""
    vni: int = 0
    port: int = 0
    local: IPAddress | None = None
    learning: bool = False
    underlay: str = ""
    rx_packets: int = 0
    tx_packets: int = 0


class AddressFacts(msgspec.Struct, frozen=True):
    dev: str
    address: IPInterface


class RouteFacts(msgspec.Struct, frozen=True):
    """`protocol`: as `ip` shows it ("kernel", "76"). `kind`: unicast, blackhole, unreachable, …"""

    dst: IPNetwork
    dev: str = ""
    via: IPAddress | None = None
    protocol: str = ""
    metric: int = 0
    kind: str = "unicast"


class NeighbourFacts(msgspec.Struct, frozen=True):
    dev: str
    address: IPAddress
    mac: str
    permanent: bool = True


class FdbFacts(msgspec.Struct, frozen=True):
    dev: str
    mac: str
    dst: IPAddress
    permanent: bool = True


class KernelFacts(msgspec.Struct, frozen=True):
    """Of this network namespace; routes of the main table alone."""

    links: tuple[LinkFacts, ...] = ()
    addresses: tuple[AddressFacts, ...] = ()
    routes: tuple[RouteFacts, ...] = ()
    neighbours: tuple[NeighbourFacts, ...] = ()
    fdb: tuple[FdbFacts, ...] = ()


class FirewallFacts(msgspec.Struct, frozen=True):
    """What the tools printed. `saves`: "nft/4", "legacy/6" → iptables-save's text. `tables`: `nft list tables`."""

    saves: dict[str, str] = {}
    default: str = "nft"
    tables: str = ""


class ProbeFacts(msgspec.Struct, frozen=True):
    """One path to another host. `small`, `full`: whether a ping of 84 octets, one of `mtu` octets came back; None: it
    was not sent. `where`: "tunnel" or "underlay"."""

    host: str
    where: str
    address: IPAddress
    device: str
    mtu: int
    small: bool | None = None
    full: bool | None = None


class PeerFacts(msgspec.Struct, frozen=True):
    """One host, as the running daemon tells (GET /v1/peers); members that it doesn't tell are empty."""

    node: str
    endpoints: list[str] = []
    networks: list[str] = []
    routed: bool = False
    way: str = ""
    liveness: str = ""
    full: bool | None = None
    problems: list[str] = []


class NotDone(msgspec.Struct, frozen=True):
    object: str
    state: str
    message: str = ""


class DaemonFacts(msgspec.Struct, frozen=True):
    """The running daemon. `error`: why it can't be asked; "" if it answered. `health`: ok or degraded."""

    socket: str = ""
    error: str = ""
    version: str = ""
    uptime: float = 0.0
    health: str = ""
    waiting_for: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    not_done: tuple[NotDone, ...] = ()
    peers: tuple[PeerFacts, ...] = ()


class FileFacts(msgspec.Struct, frozen=True):
    """health_status.json. `error`: why it can't be read."""

    path: str = ""
    error: str = ""
    status: str = "unknown"
    last_check: int = 0
    message: str = ""
    events: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True):
    """Everything. `host_name`: what this host is called among the others; `public_ip`: how they reach it, None if
    that could not be found out. `wait`: seconds that a health file may be old."""

    host: HostFacts
    host_name: str
    public_ip: IPAddress | None = None
    docker: DockerFacts = DockerFacts()
    etcd: EtcdFacts = EtcdFacts()
    kernel: KernelFacts = KernelFacts()
    firewall: FirewallFacts = FirewallFacts()
    probes: tuple[ProbeFacts, ...] = ()
    daemon: DaemonFacts = DaemonFacts()
    health: FileFacts = FileFacts()
    own_vni: int = 7600
    wanted_mtu: int = 0
    wait: float = 900.0
    diverted: tuple[tuple[IPAddress, IPAddress], ...] = ()
    """Endpoint → gateway, of HOST_GATEWAY_MAP in its mode fdb: entries that may point elsewhere."""
    remarks: tuple[Remark, ...] = ()
