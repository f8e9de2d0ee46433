"""What a topology file says of a host's daemons (`daemon`, `agent`, `flanneld`, `registrar`; `discovery` and `router`
are `stacks`'s, `route-manager` is `cloud`'s) and of etcd. Pure; for `schema`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from weft import settings
from weft.errors import SettingsError, TopologyError
from weft.lab import cloud, fields, stacks
from weft.lab.topology import Bind, Compute, ContainerNetwork, DockerRouter, Etcd, Flanneld, Port
from weft.model import IPAddress
from weft.settings import flanneld, registrar

DaemonKind = Literal["agent", "flanneld", "registrar", "discovery", "router", "route-manager", "none"]
OPTIONS: tuple[DaemonKind, ...] = ("agent", "flanneld", "registrar", "discovery", "router", "route-manager")
KINDS: tuple[DaemonKind, ...] = (*OPTIONS, "none")
ARTICLES = {
    "agent": "an agent",
    "flanneld": "flanneld",
    "registrar": "a registrar",
    "discovery": "a discovery",
    "router": "a router",
    "route-manager": "a route-manager",
}
TOGETHER: tuple[frozenset[DaemonKind], ...] = (
    frozenset(("flanneld", "registrar")),
    frozenset(("discovery", "router")),
    frozenset(("flanneld", "route-manager")),
)
"""The daemons that run side by side on a host."""
KEYS = ("daemon", *OPTIONS)
"""What both the top of the file and a host may say."""
VARIABLES = sorted(registrar.VARIABLES - {"DOCKER_HOST", "WEFT_SOCKET"})
"""A registrar's, but for those that a lab's host is found by."""
PREFIX = "/coreos.com/network"
"""flannel's own default."""
CLIENTS, PEERS = 2379, 2380
"""etcd's ports, as the IANA has them."""
Cluster = tuple[tuple[str, IPAddress], ...]


@dataclass(frozen=True, slots=True)
class Daemons:
    """What a host runs: one of them, none, or two that go together."""

    agent: tuple[tuple[str, str], ...] | None = None
    flanneld: Flanneld | None = None
    registrar: tuple[tuple[str, str], ...] | None = None
    stacks: DockerRouter | None = None
    route_manager: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Servers:
    """Who may be asked in the lab: its etcd, its name server, its cloud, and the addresses of the hosts that gossip."""

    cluster: Cluster
    bind: Bind | None
    compute: Compute | None
    seeds: tuple[IPAddress, ...]

    @property
    def etcd(self) -> str:
        """Its endpoints, "" for none."""
        return ",".join(url(address, CLIENTS) for _, address in self.cluster)


def servers(
    top: Mapping[str, object], hosts: Mapping[str, Mapping[str, object]], ports: Mapping[str, tuple[Port, ...]]
) -> Servers:
    """Of all hosts. TopologyError for a daemon that there isn't."""
    telling = (name for name, raw in hosts.items() if "discovery" in _kinds(raw, top, f"hosts.{name}"))
    gossiping = [name for name in telling if stacks.gossips(hosts[name], top, f"hosts.{name}")]
    seeds = tuple(ports[name][0].addresses[0].ip for name in gossiping)
    return Servers(cluster(hosts, ports), stacks.bind(hosts, ports), cloud.compute(hosts, ports), seeds)


@dataclass(frozen=True, slots=True)
class Place:
    """Which host it is: its number, from 1 on, and its networks."""

    number: int
    networks: tuple[ContainerNetwork, ...]


def read(raw: Mapping[str, object], top: Mapping[str, object], where: str, servers: Servers, place: Place) -> Daemons:
    """The daemons of the host that says `raw`, in a file whose top says `top`. TopologyError for what can't be."""
    kinds = _kinds(raw, top, where)
    cluster = servers.cluster
    for other in OPTIONS:
        if other not in kinds and isinstance(raw.get(other), Mapping):
            found = " and ".join(sorted(kinds))
            raise TopologyError(f"{where}.{other}: this host's daemon is {found!r}; keep one of the two")
    routing = kinds & frozenset(stacks.KINDS)
    if raw.get("routing") is not None and not routing:
        raise TopologyError(f"{where}.routing: it is for `daemon: [discovery, router]`, and this host runs neither")

    asked = cloud.Asked(servers.etcd, servers.compute)

    def said(kind: DaemonKind) -> tuple[object, object, str]:
        return raw.get(kind), top.get(kind), f"{where}.{kind}"

    return Daemons(
        _agent(*said("agent")) if "agent" in kinds else None,
        _flanneld(*said("flanneld"), cluster) if "flanneld" in kinds else None,
        _registrar(*said("registrar"), cluster) if "registrar" in kinds else None,
        stacks.read(raw, top, where, routing, _around(servers, place)) if routing else None,
        cloud.route_manager(*said("route-manager"), asked) if "route-manager" in kinds else None,
    )


def _around(servers: Servers, place: Place) -> stacks.Around:
    return stacks.Around(place.number, place.networks, servers.etcd, servers.bind, servers.seeds)


def _kinds(raw: Mapping[str, object], top: Mapping[str, object], where: str) -> frozenset[DaemonKind]:
    """What the host says, else what the top of the file says. A host's options for a daemon are a word for it, unless
    the file has it run there anyway."""
    options = frozenset(kind for kind in OPTIONS if isinstance(raw.get(kind), Mapping))
    if raw.get("daemon") is not None:
        return _listed(raw["daemon"], f"{where}.daemon")
    if len(options) > 1 and options not in TOGETHER:
        named = " and for ".join(ARTICLES[kind] for kind in OPTIONS if kind in options)
        raise TopologyError(f"{where}.daemon: options for {named}; say which it is ({', '.join(KINDS)})")
    general = _listed(top["daemon"], "daemon") if top.get("daemon") is not None else None
    if options:
        return general if general is not None and options <= general else options
    if isinstance(raw.get("agent"), bool):
        return frozenset(("agent",)) if raw["agent"] else frozenset(("none",))
    if general is not None:
        return general
    return frozenset(("none",)) if top.get("agent") is False else frozenset(("agent",))


def _listed(value: object, where: str) -> frozenset[DaemonKind]:
    """`flanneld`, or `[flanneld, registrar]`."""
    given = [cast(DaemonKind, fields.choice(item, where, KINDS)) for item in fields.listing(value, where)]
    if not given or (len(given) > 1 and frozenset(given) not in TOGETHER):
        pairs = ", or ".join(", ".join(sorted(pair)) for pair in TOGETHER)
        raise TopologyError(f"{where}: {given!r}: name one daemon, or these two: {pairs}")
    return frozenset(given)


def _agent(value: object, default: object, where: str) -> tuple[tuple[str, str], ...]:
    """The agent's settings: the host's over those of the top of the file."""
    merged: dict[str, object] = {}
    for given in (default, value):
        if not isinstance(given, bool):
            merged |= fields.mapping(given, where)
    texts = {str(key).lower(): fields.text(item) for key, item in merged.items()}
    try:
        settings.load({settings.PREFIX + key.upper(): text for key, text in texts.items()})
    except SettingsError as error:
        raise TopologyError(f"{where}: {error}") from error
    return tuple(sorted(texts.items()))


# -- flanneld ------------------------------------------------------------------------------------------------------


def _flanneld(value: object, default: object, where: str, cluster: Cluster) -> Flanneld:
    """flanneld's options: the host's over those of the top of the file. `FLANNELD_…` keys become variables, all others
    flags; the lab's own etcd is asked unless they name another one."""
    variables = [flanneld.PREFIX + flag.replace("-", "_").upper() for flag in flanneld.DEFAULTS]
    given: dict[str, object] = {}
    for source in (default, value):
        given |= fields.mapping(source, where, (*flanneld.DEFAULTS, *variables))
    if not given.keys() & {"etcd-endpoints", f"{flanneld.PREFIX}ETCD_ENDPOINTS"}:
        if not cluster:
            raise TopologyError(f"{where}: it needs an etcd: `etcd: {{}}` on a host of the lab, or `etcd-endpoints`")
        given["etcd-endpoints"] = ",".join(url(address, CLIENTS) for _, address in cluster)
    flags = tuple(word for key, item in given.items() if key not in variables for word in _words(key, item))
    environment = {key: fields.text(item) for key, item in given.items() if key in variables}
    try:
        found = flanneld.load(flags, environment)
    except SettingsError as error:
        raise TopologyError(f"{where}: {error}") from error
    return Flanneld(flags, tuple(environment.items()), found.subnet_file, found.socket)


def _words(flag: str, value: object) -> Iterator[str]:
    """`-iface=eth0`; a list is the flag said several times, if it is one that may be."""
    for item in value if isinstance(value, list) and flag in flanneld.LISTS else [value]:
        yield f"-{flag}={fields.text(item)}"


# -- the registrar -------------------------------------------------------------------------------------------------


def _registrar(value: object, default: object, where: str, cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """The registrar's variables: the host's over those of the top of the file; the lab's own etcd is asked unless they
    name another one."""
    given: dict[str, str] = {}
    for source in (default, value):
        told = fields.mapping(source, where, VARIABLES)
        given |= {key: fields.text(item) for key, item in told.items()}
    if not given.keys() & set(registrar.ENDPOINTS):
        if not cluster:
            raise TopologyError(f"{where}: it needs an etcd: `etcd: {{}}` on a host of the lab, or `ETCD_ENDPOINTS`")
        given["ETCD_ENDPOINTS"] = ",".join(url(address, CLIENTS) for _, address in cluster)
    try:
        registrar.load(given)
    except SettingsError as error:
        raise TopologyError(f"{where}: {error}") from error
    return tuple(sorted(given.items()))


# -- etcd ----------------------------------------------------------------------------------------------------------


def cluster(hosts: Mapping[str, Mapping[str, object]], ports: Mapping[str, tuple[Port, ...]]) -> Cluster:
    """Name and address of every host that runs etcd: they are one cluster."""
    return tuple((name, ports[name][0].addresses[0].ip) for name, raw in hosts.items() if _wanted(raw))


def etcd(name: str, raw: Mapping[str, object], members: Cluster) -> Etcd | None:
    """The member that this host is, or None. TopologyError for a key that is none."""
    if not _wanted(raw):
        return None
    where = f"hosts.{name}.etcd"
    given = fields.mapping(None if raw["etcd"] is True else raw["etcd"], where, ("prefix", "config"))
    config = given.get("config")
    written = config if isinstance(config, str) else json.dumps(fields.mapping(config, f"{where}.config"))
    key = f"{fields.text(given.get('prefix', PREFIX)).rstrip('/')}/config" if config is not None else ""
    return Etcd(dict(members)[name], members, key, written if key else "")


def _wanted(raw: Mapping[str, object]) -> bool:
    return "etcd" in raw and raw["etcd"] is not False


def url(address: IPAddress, port: int) -> str:
    """`http://10.0.1.2:2379`, `http://[fd00::2]:2379`."""
    return f"http://{address if address.version == 4 else f'[{address}]'}:{port}"
