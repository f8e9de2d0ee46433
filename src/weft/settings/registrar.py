"""Settings of `weft registrar`: flannel-registrar's own environment, and a few of ours. Read by `cli/registrar.py`.

A Compose file names them as it did for flannel-registrar (its README, "Configuration Options"). The fields of
`RegistrarSettings` are the one table: a variable's name is the field's in upper case. An empty variable is one that is
not set. HOST_GATEWAY_MAP and FLANNEL_ROUTES_EXTRA stay text here: a bad entry of theirs is a problem of that entry
(`settings/gateways.py`) and stops nothing else.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from weft.errors import SettingsError
from weft.model import IPAddress, IPNetwork, Network
from weft.settings import PRIVATE, Doc, Seconds, Settings, convert
from weft.settings.flanneld import clean
from weft.settings.variables import Variables, secret

HOSTNAME_FILE = Path("/etc/hostname")
AUTO = "auto"
Groups = tuple[tuple[str, tuple[IPNetwork, ...]], ...]
ENDPOINTS = ("ETCD_ENDPOINT", "ETCD_ENDPOINTS")
"""Two names of one variable; both are found in the wild."""
READ_FOR_NOTHING = {"ETCDCTL_API": "3"}
"""Variables that old files hold and that have nothing to say any more, with the only value that makes sense."""
SECRETS = frozenset({"ETCD_PASSWORD", "BFD_KEY"})
LEAST_INTERVAL = 5.0
LEAST_PACKETS, MOST_PACKETS = 10, 500
LEAST_LEASE = 60
"""Seconds that a host's registrations outlive it at the least."""


class RegistrarSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Every variable. Lists are separated by commas; times are seconds (or 30s, 2m)."""

    etcd_endpoints: Annotated[str, Doc(description="etcd's endpoints, with commas; ETCD_ENDPOINT is the same")] = (
        "http://192.168.4.88:2379"
    )
    flannel_prefix: Annotated[str, Doc(description="prefix of flannel's keys in etcd")] = "/coreos.com/network"
    flannel_config_prefix: Annotated[str, Doc(description="prefix under which the hosts' networks are registered")] = (
        "/flannel/network/subnets"
    )
    host_name: Annotated[str, Doc(description="this host's name among the others; auto: that of /etc/hostname")] = AUTO
    interval: Annotated[
        Seconds, Doc(ge=LEAST_INTERVAL, description="everything is registered and compared anew this often")
    ] = 60.0
    run_as_root: Annotated[bool, Doc(description="read by the container's entry point")] = False
    flanneld_public_ip: Annotated[
        IPAddress | None, Doc(description="this host's address for the others; default: that which reaches etcd")
    ] = None
    host_gateway_map: Annotated[str, Doc(description="host:gateway,subnet/mask:gateway,… for indirect routing")] = ""
    host_gateway_mode: Annotated[
        Literal["auto", "relay", "underlay", "fdb"], Doc(description="how a gateway of the map is used")
    ] = "auto"
    flannel_routes_extra: Annotated[str, Doc(description="subnet:gateway[:interface],… routes beside those")] = ""
    flannel_container_name: Annotated[str, Doc(description="name of flannel's container; watched, never touched")] = (
        "flannel"
    )
    debug: Annotated[bool, Doc(description="log everything")] = False
    etcd_timeout: Annotated[Seconds, Doc(gt=0, le=60, description="how long one request to etcd may take")] = 5.0
    flannel_mtu: Annotated[
        int, Doc(ge=0, le=65535, description="MTU of the tunnel in octets; 0: what the underlay lets through")
    ] = 0
    monitoring_interval: Annotated[
        Seconds, Doc(ge=1, description="health_status.json is written anew at least this often")
    ] = 300.0
    etcd_cafile: Annotated[str, Doc(description="certificate authority of etcd's certificate")] = ""
    etcd_certfile: Annotated[str, Doc(description="client certificate for etcd")] = ""
    etcd_keyfile: Annotated[str, Doc(description="private key of the client certificate")] = ""
    etcd_username: Annotated[str, Doc(description="user of etcd")] = ""
    etcd_password: Annotated[str, Doc(description="password of that user")] = ""
    isolate: Annotated[
        str, Doc(description="group=subnet,subnet;group=subnet: networks of two groups don't talk with each other")
    ] = ""
    bfd_key: Annotated[str, Doc(description="key that signs the packets by which hosts watch each other")] = ""
    bfd_key_file: Annotated[str, Doc(description="file that holds this key")] = ""
    bfd_packets: Annotated[
        int,
        Doc(
            ge=0,
            le=MOST_PACKETS,
            description="packets per second, sent and received, that this may take; 0: 120 for up to ten hosts, less"
            " for more, 40 at least",
        ),
    ] = 0
    weft_vni: Annotated[int, Doc(ge=1, le=0xFFFFFF, description="VXLAN network id where there is no flannel")] = 7600
    health_ip: Annotated[IPAddress, Doc(description="address of /health and /metrics")] = IPv4Address("127.0.0.1")
    health_port: Annotated[int, Doc(ge=0, le=65535, description="their port; 0: none")] = 9476
    run_dir: Annotated[str, Doc(description="where health_status.json and events.log are written")] = (
        "/var/run/flannel-registrar"
    )
    weft_socket: Annotated[str, Doc(description="where the registrar answers `weft show`")] = "/run/weft/registrar.sock"
    docker_host: Annotated[str, Doc(description="Docker's socket; default: unix:///var/run/docker.sock")] = ""
    restart_flannel: Annotated[
        str, Doc(description="what may be restarted as a last resort: container, service:<unit>, or nothing")
    ] = ""
    cycle_interface: Annotated[
        bool, Doc(description="whether flannel's interface may be taken down and up as a last but one resort")
    ] = True
    engine: Annotated[Literal["docker", "static"], Doc(description="who knows this host's networks")] = "docker"
    networks: Annotated[tuple[Network, ...], Doc(description="name=subnet,… for ENGINE=static")] = ()
    expose: Annotated[
        Literal["all", "labelled"], Doc(description="labelled: only networks labelled weft.expose=true")
    ] = "all"
    allowed: Annotated[
        tuple[IPNetwork, ...], Doc(description="other hosts' subnets must lie in one of these; default: private ones")
    ] = PRIVATE

    @property
    def endpoints(self) -> tuple[str, ...]:
        """etcd's members; `192.168.4.88:2379` is taken as http."""
        given = (one.strip() for one in self.etcd_endpoints.split(","))
        return tuple(one if "://" in one else f"http://{one}" for one in given if one)

    @property
    def lease_seconds(self) -> int:
        """How long registrations outlive their host (FORMATS: three intervals, at least 60 s)."""
        return max(int(3 * self.interval), LEAST_LEASE)

    @property
    def name(self) -> str:
        """This host's name among the others."""
        return self.host_name if self.host_name not in ("", AUTO) else _own_name()

    @property
    def groups(self) -> Groups:
        """Of ISOLATE."""
        return _groups(self.isolate)

    @property
    def of_the_engine(self) -> Settings:
        """As the engines take them."""
        return Settings(engine=self.engine, docker_host=self.docker_host, networks=self.networks, expose=self.expose)


_TABLE = Variables(RegistrarSettings, SECRETS, (*ENDPOINTS, *READ_FOR_NOTHING))
VARIABLES = _TABLE.names
"""Everything that is read."""
describe = _TABLE.describe
held = _TABLE.held


def load(environment: Mapping[str, str]) -> tuple[RegistrarSettings, tuple[str, ...]]:
    """The settings that hold, and what is to be said of them. Raises SettingsError that names the variable, its value
    and what would be right."""
    remarks: list[str] = []
    values = _TABLE.read({name: _without_words(name, text) for name, text in environment.items()})
    said = {environment[name].strip() for name in ENDPOINTS if environment.get(name, "").strip()}
    if len(said) > 1:
        raise SettingsError(f"ETCD_ENDPOINT and ETCD_ENDPOINTS differ: {' and '.join(sorted(said))}; keep one of them")
    if said:
        values["etcd_endpoints"] = said.pop()
    else:
        default = RegistrarSettings().etcd_endpoints
        remarks.append(f"ETCD_ENDPOINT is not set; {default} is asked, flannel-registrar's own default")
    for name, only in READ_FOR_NOTHING.items():
        if environment.get(name, only).strip() not in ("", only):
            raise SettingsError(f"{name} = {environment[name]!r}: {only} is the only one that still exists")
    for name in ("flannel_prefix", "flannel_config_prefix"):
        if name in values:
            values[name] = clean(values[name])
    settings = RegistrarSettings(**values)
    _check(settings)
    misspelt = _TABLE.misspelt(environment, "FLANNEL_|HOST_GATEWAY|ETCD_|BFD_|ISOLATE", "weft registrar")
    return settings, (*remarks, *misspelt)


def bfd_key(settings: RegistrarSettings) -> str:
    """The key, "" for none. Raises SettingsError for a file that can't be read or is empty."""
    return secret("BFD_KEY", settings.bfd_key, settings.bfd_key_file)


def _without_words(name: str, text: str) -> str:
    """Words that old files have in the place of a value."""
    text = text.strip()
    if text == AUTO and name in ("FLANNELD_PUBLIC_IP", "FLANNEL_MTU"):
        return ""
    return str(text != "0").lower() if name == "DEBUG" and text.isdigit() else text


def _own_name() -> str:
    """The container's documented mount tells the host's name, its own hostname may be a container's."""
    try:
        name = HOSTNAME_FILE.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    return name or socket.gethostname()


def _groups(text: str) -> Groups:
    found: dict[str, list[IPNetwork]] = {}
    for item in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, subnets = item.partition("=")
        if not equals or not name.strip():
            raise SettingsError(
                f"ISOLATE: {item!r} is not GROUP=SUBNET,SUBNET; e.g. shop=10.5.35.0/24;lab=10.5.40.0/24"
            )
        try:
            networks = convert(subnets, tuple[IPNetwork, ...], None)
        except ValueError as error:
            raise SettingsError(f"ISOLATE: group {name.strip()}: {error}") from error
        found.setdefault(name.strip(), []).extend(networks)
    whose: dict[IPNetwork, str] = {}
    for name, networks in found.items():
        for network in networks:
            if whose.setdefault(network, name) != name:
                raise SettingsError(f"ISOLATE: {network} is in group {whose[network]} and in group {name}; keep one")
    return tuple((name, tuple(networks)) for name, networks in found.items())


def _check(settings: RegistrarSettings) -> None:
    for name in ("flannel_prefix", "flannel_config_prefix"):
        if not getattr(settings, name).startswith("/"):
            raise SettingsError(f"{name.upper()} = {getattr(settings, name)!r} must begin with a slash")
    if f"{settings.flannel_config_prefix}/".startswith(f"{settings.flannel_prefix}/subnets/"):
        raise SettingsError(
            f"FLANNEL_CONFIG_PREFIX = {settings.flannel_config_prefix!r} is where flannel's own leases are; the default"
            " is /flannel/network/subnets"
        )
    if not settings.endpoints:
        raise SettingsError("ETCD_ENDPOINT names no endpoint; e.g. http://192.168.4.88:2379")
    if settings.bfd_key and settings.bfd_key_file:
        bfd_key(settings)  # says so
    if bool(settings.etcd_certfile) != bool(settings.etcd_keyfile):
        raise SettingsError("ETCD_CERTFILE and ETCD_KEYFILE belong together; one of them is missing")
    if not re.fullmatch(r"|container|service:[\w@.:-]+", settings.restart_flannel):
        raise SettingsError(
            f"RESTART_FLANNEL = {settings.restart_flannel!r}: container, service:<unit> (service:flanneld.service) or"
            " nothing"
        )
    if 0 < settings.bfd_packets < LEAST_PACKETS:
        raise SettingsError(f"BFD_PACKETS = {settings.bfd_packets} is too few; at least {LEAST_PACKETS}, or 0")
    for name in ("run_dir", "weft_socket"):
        if not Path(getattr(settings, name)).is_absolute():
            raise SettingsError(f"{name.upper()} = {getattr(settings, name)!r} must be an absolute path")
    name, address = settings.name, settings.flanneld_public_ip
    if not name.isprintable() or len(name.encode()) > 200:
        raise SettingsError(f"HOST_NAME = {name!r} can't be a name: printable text of at most 200 octets is")
    if isinstance(address, IPv4Address | IPv6Address) and (
        address.is_loopback or address.is_unspecified or address.is_multicast
    ):
        raise SettingsError(
            f"FLANNELD_PUBLIC_IP = {address} is an address that no other host can send to; leave it out, and the one"
            " that reaches etcd is taken"
        )
    _ = settings.groups
