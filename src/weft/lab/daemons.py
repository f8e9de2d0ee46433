"""What a topology file says of a host's daemon (`daemon`, `agent`, `flanneld`) and of etcd. Pure; for `schema`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from weft import settings
from weft.errors import SettingsError, TopologyError
from weft.lab import fields
from weft.lab.topology import Etcd, Flanneld, Port
from weft.model import IPAddress
from weft.settings import flanneld

DaemonKind = Literal["agent", "flanneld", "none"]
KINDS: tuple[DaemonKind, ...] = ("agent", "flanneld", "none")
KEYS = ("daemon", "agent", "flanneld")
"""What both the top of the file and a host may say."""
PREFIX = "/coreos.com/network"
"""flannel's own default."""
CLIENTS, PEERS = 2379, 2380
"""etcd's ports, as the IANA has them."""
Cluster = tuple[tuple[str, IPAddress], ...]


@dataclass(frozen=True, slots=True)
class Daemon:
    """What a host runs: one of the two, or neither."""

    agent: tuple[tuple[str, str], ...] | None = None
    flanneld: Flanneld | None = None


def read(raw: Mapping[str, object], top: Mapping[str, object], where: str, cluster: Cluster) -> Daemon:
    """The daemon of the host that says `raw`, in a file whose top says `top`. TopologyError for what can't be."""
    kind = _kind(raw, top, where)
    for other in ("agent", "flanneld"):
        if kind != other and isinstance(raw.get(other), Mapping):
            raise TopologyError(f"{where}.{other}: this host's daemon is {kind!r}; keep one of the two")
    if kind == "agent":
        return Daemon(agent=_agent(raw.get("agent"), top.get("agent"), f"{where}.agent"))
    if kind == "flanneld":
        return Daemon(flanneld=_flanneld(raw.get("flanneld"), top.get("flanneld"), f"{where}.flanneld", cluster))
    return Daemon()


def _kind(raw: Mapping[str, object], top: Mapping[str, object], where: str) -> DaemonKind:
    """What the host says, else what the top of the file says; options for one daemon are a word for it."""
    for said, place in ((raw, f"{where}.daemon"), (top, "daemon")):
        if said.get("daemon") is not None:
            return cast(DaemonKind, fields.choice(said["daemon"], place, KINDS))
        named = [kind for kind in ("agent", "flanneld") if isinstance(said.get(kind), Mapping)] if said is raw else []
        if len(named) == 2:
            raise TopologyError(f"{place}: options for an agent and for flanneld; say which it is ({', '.join(KINDS)})")
        if named:
            return cast(DaemonKind, named[0])
        if isinstance(said.get("agent"), bool):
            return "agent" if said["agent"] else "none"
    return "agent"


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
