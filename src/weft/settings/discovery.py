"""Settings of `weft discovery`: the docker-router document's environment, its YAML blocks, and a few of ours. Read by
`cli/discovery.py`.

The fields are the one table: a variable's name is the field's in upper case. A YAML file (DISCOVERY_CONFIG) says the
same in the document's words, under `discovery:`; the environment wins over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal

from weft.errors import SettingsError
from weft.model import IPAddress
from weft.settings import Doc, Seconds, split_keys
from weft.settings.means import DnsMeans, EtcdMeans, GossipMeans, Means, Profile
from weft.settings.stack import SHARED_VARIABLES, StackSettings, check
from weft.settings.variables import Variables, secret

CONFIG = Path("/etc/docker-router/discovery.yaml")
SECRETS = frozenset({"KEY", "DNS_KEY", "ETCD_PASSWORD"})
ALSO = ("WEFT_KEY", "WEFT_KEY_FILE")
"""The names that `weft agent` has for KEY and KEY_FILE: both daemons may stand in one file."""
WORDS = {
    "mode": "DISCOVERY_MODE",
    "port": "DISCOVERY_PORT",
    "ttl": "DNS_TTL",
    "update_interval": "DNS_UPDATE_INTERVAL",
    "lease_ttl": "ETCD_LEASE_TTL",
    "username": "ETCD_USERNAME",
    "password": "ETCD_PASSWORD",
}
"""The document's names in its YAML blocks, where they are others than the variables'."""
MODES = {"DNS_": "dns", "ETCD_": "etcd", "GOSSIP_": "gossip", "STATIC_": "static", "MULTICAST_": "multicast"}
"""How the variables of one mode begin."""
USERS = {"KEY": ("multicast", "gossip"), "KEY_FILE": ("multicast", "gossip"), "PEERS": ("multicast",)}
"""And whose the others are that not all modes look at."""


class DiscoverySettings(StackSettings, frozen=True, kw_only=True):
    """Every variable. Lists are separated by commas; times are seconds (or 30s, 2m)."""

    discovery_mode: Annotated[
        Literal["multicast", "dns", "etcd", "gossip", "static"], Doc(description="how the stacks find each other")
    ] = "multicast"
    discovery_port: Annotated[int, Doc(ge=1, le=65535, description="UDP port of multicast; UDP and TCP of gossip")] = (
        4790
    )
    announce_interval: Annotated[Seconds, Doc(gt=0, description="time between announcements")] = 30.0
    peer_timeout: Annotated[Seconds, Doc(gt=0, description="silence after which a peer is stale")] = 90.0
    goodbye_hold: Annotated[
        Seconds, Doc(ge=0, description="how long a peer that said goodbye is kept, so that a restart loses nothing")
    ] = 30.0
    multicast_group: Annotated[
        IPAddress | None, Doc(description="multicast group; default 239.1.1.1, ff12::4790 on an IPv6 underlay")
    ] = None
    peers: Annotated[
        tuple[IPAddress, ...], Doc(description="multicast: hosts to tell directly too, where the group doesn't reach")
    ] = ()
    dns_domain: Annotated[str, Doc(description="domain of the SRV records")] = ""
    dns_server: Annotated[
        str, Doc(description="server for updates and queries, address[:port]; without it nothing is registered")
    ] = ""
    dns_ttl: Annotated[int, Doc(ge=1, le=86400, description="TTL of our records in seconds")] = 60
    dns_update_interval: Annotated[
        Seconds, Doc(gt=0, le=86400, description="time between updates, and between queries")
    ] = 30.0
    dns_key: Annotated[str, Doc(description="TSIG key that signs updates: [algorithm:]name:base64")] = ""
    dns_key_file: Annotated[str, Doc(description="file that holds it")] = ""
    dns_priority: Annotated[int, Doc(ge=0, le=65535, description="priority of our SRV record")] = 10
    dns_weight: Annotated[int, Doc(ge=0, le=65535, description="weight of our SRV record")] = 5
    etcd_endpoints: Annotated[str, Doc(description="etcd's endpoints, with commas")] = ""
    etcd_prefix: Annotated[str, Doc(description="prefix of our keys in etcd")] = "/docker-router/discovery"
    etcd_lease_ttl: Annotated[Seconds, Doc(ge=2, le=86400, description="TTL of our lease in etcd")] = 30.0
    etcd_username: Annotated[str, Doc(description="user of etcd")] = ""
    etcd_password: Annotated[str, Doc(description="password of that user")] = ""
    etcd_tls_cert: Annotated[str, Doc(description="client certificate for etcd")] = ""
    etcd_tls_key: Annotated[str, Doc(description="private key of the client certificate")] = ""
    etcd_tls_ca: Annotated[str, Doc(description="certificate authority of etcd's certificate")] = ""
    gossip_seeds: Annotated[str, Doc(description="members to join by: host[:port],…")] = ""
    gossip_profile: Annotated[
        Profile, Doc(description="lan: a dead host is noticed within 5 s; fast: 1.5 s, at more traffic")
    ] = "lan"
    static_peers: Annotated[
        str, Doc(description="stack=host_ip[+vxlan_ip][+subnet…][+vni=…][+weft],… for DISCOVERY_MODE=static")
    ] = ""
    key: Annotated[
        str, Doc(description="pre-shared key: seals multicast, encrypts gossip (with commas: the first one encrypts)")
    ] = ""
    key_file: Annotated[str, Doc(description="file that holds it")] = ""
    discovery_config: Annotated[str, Doc(description=f"YAML file with a `discovery:` block; default: {CONFIG}")] = ""
    health_ip: Annotated[IPAddress, Doc(description="address of /health and /metrics")] = IPv4Address("127.0.0.1")
    health_port: Annotated[int, Doc(ge=0, le=65535, description="their port; 0: none")] = 9477

    @property
    def version(self) -> int:
        """The IP version that multicast has to speak; 0: the underlay's."""
        asked = [address for address in (self.multicast_group, *self.peers) if address is not None]
        return asked[0].version if asked and self.discovery_mode == "multicast" else 0

    @property
    def means(self) -> Means:
        """As the discoveries take them, without STATIC_PEERS. Raises SettingsError for a bad key file."""
        secure = bool(self.etcd_tls_ca or self.etcd_tls_cert)
        return Means(
            announce_interval=self.announce_interval,
            peer_timeout=self.peer_timeout,
            goodbye_hold=self.goodbye_hold,
            port=self.discovery_port,
            group=self.multicast_group,
            direct=self.peers,
            plain=True,
            crowded=True,
            dns=DnsMeans(
                self.dns_domain.rstrip("."),
                self.dns_server,
                self.dns_ttl,
                self.dns_update_interval,
                secret("DNS_KEY", self.dns_key, self.dns_key_file),
                self.dns_priority,
                self.dns_weight,
            ),
            etcd=EtcdMeans(
                tuple(_endpoint(one, secure) for one in listed(self.etcd_endpoints)),
                self.etcd_prefix.rstrip("/"),
                int(self.etcd_lease_ttl),
                self.etcd_username,
                self.etcd_password,
                self.etcd_tls_ca,
                self.etcd_tls_cert,
                self.etcd_tls_key,
            ),
            gossip=GossipMeans(listed(self.gossip_seeds), self.gossip_profile, split_keys(shared_key(self).encode())),
        )


_TABLE = Variables(DiscoverySettings, SECRETS, ALSO)
VARIABLES = _TABLE.names
"""Everything that is read."""
describe = _TABLE.describe
held = _TABLE.held
_LIKE = "DISCOVERY_|DNS_|ETCD_|GOSSIP_|STACK_|MULTICAST_|PEER|STATIC_|ANNOUNCE|LOCAL_|NETWORK|KEY|DATA_"


def load(environment: Mapping[str, str]) -> tuple[DiscoverySettings, tuple[str, ...]]:
    """The settings that hold, and what is to be said of them. Raises SettingsError that names the variable (or the key
    of the YAML file), its value and what would be right."""
    environment = {**environment, **_also(environment)}
    said = _TABLE.read(environment)
    settings = DiscoverySettings(**{**_from_file(said.get("discovery_config", "")), **said})
    check(settings)
    _check(settings)
    _ = settings.means
    misspelt = _TABLE.misspelt(environment, _LIKE, "weft discovery")
    return settings, (*_idle(settings, said), *misspelt)


def _also(environment: Mapping[str, str]) -> dict[str, str]:
    """What ALSO says, under our names."""
    said = {name.removeprefix("WEFT_"): environment[name] for name in ALSO if environment.get(name)}
    for name, value in said.items():
        if environment.get(name, value) not in ("", value):
            raise SettingsError(f"{name} and WEFT_{name} are both set, and differ; keep one of them")
    return said


def shared_key(settings: DiscoverySettings) -> str:
    """The pre-shared key (or keys), "" for none. Raises SettingsError for a file that can't be read or is empty."""
    return secret("KEY", settings.key, settings.key_file)


def _from_file(named: str) -> dict[str, Any]:
    path = Path(named or CONFIG)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if not named and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return {}
        raise SettingsError(f"the settings file {path} can't be read: {error}") from error
    import yaml  # loaded only where there is a file: it costs a millisecond of every start

    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"the settings file {path} can't be read: {error}") from error
    block = content.get("discovery") if isinstance(content, dict) else None
    if not isinstance(block, dict):
        raise SettingsError(f"the settings file {path} must have a mapping under `discovery:`, like `mode: dns` in it")
    return dict(_field(str(key), value, path) for key, value in block.items())


def _field(key: str, value: object, path: Path) -> tuple[str, Any]:
    variable = WORDS.get(key, key.upper())
    origin = f"{path}: discovery.{key}"
    if variable not in VARIABLES or variable in ALSO:
        known = sorted({*WORDS, *(name.lower() for name in VARIABLES.difference(ALSO, WORDS.values()))})
        from difflib import get_close_matches  # for a slip of the pen only

        near = get_close_matches(key, known, n=1, cutoff=0.5)
        raise SettingsError(
            f"{origin}: there is no such setting; "
            + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
        )
    given = ",".join(map(str, value)) if isinstance(value, list) else value
    return variable.lower(), _TABLE.value(variable, given, origin)


def listed(text: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(one.strip() for one in text.split(",") if one.strip())


def _endpoint(text: str, tls: bool) -> str:
    """The document writes `10.0.1.100:2379`."""
    return text if "://" in text else f"{'https' if tls else 'http'}://{text}"


def _check(settings: DiscoverySettings) -> None:
    mode = settings.discovery_mode
    needed = {
        "dns": ("DNS_DOMAIN", settings.dns_domain, "example.com"),
        "etcd": ("ETCD_ENDPOINTS", settings.etcd_endpoints, "10.0.1.100:2379"),
        "static": ("STATIC_PEERS", settings.static_peers, "stack-b=10.0.2.6"),
    }.get(mode)
    if needed is not None and not needed[1]:
        raise SettingsError(f"DISCOVERY_MODE={mode} needs {needed[0]}; e.g. {needed[0]}={needed[2]}")
    if settings.peer_timeout < 2 * settings.announce_interval:
        raise SettingsError(
            f"PEER_TIMEOUT = {settings.peer_timeout:g} s is less than twice ANNOUNCE_INTERVAL ="
            f" {settings.announce_interval:g} s: one lost announcement would make a peer stale; e.g."
            f" PEER_TIMEOUT={3 * settings.announce_interval:g}"
        )
    if settings.discovery_port == settings.vxlan_port and mode in ("multicast", "gossip"):
        raise SettingsError(f"DISCOVERY_PORT and VXLAN_PORT are both {settings.vxlan_port}; each needs its own")
    if settings.multicast_group is not None and not settings.multicast_group.is_multicast:
        raise SettingsError(f"MULTICAST_GROUP = {settings.multicast_group} is no multicast address; e.g. 239.1.1.1")
    if bool(settings.etcd_tls_cert) != bool(settings.etcd_tls_key):
        raise SettingsError("ETCD_TLS_CERT and ETCD_TLS_KEY belong together; one of them is missing")
    clear = [one for one in listed(settings.etcd_endpoints) if one.startswith("http://")]
    if clear and (settings.etcd_tls_ca or settings.etcd_tls_cert):
        said = "ETCD_TLS_CA" if settings.etcd_tls_ca else "ETCD_TLS_CERT"
        raise SettingsError(f"{said} is set, and ETCD_ENDPOINTS has {clear[0]}, which is not encrypted: write https://")
    if settings.etcd_password and not settings.etcd_username:
        raise SettingsError("ETCD_PASSWORD is set, and ETCD_USERNAME isn't")
    if (settings.dns_key or settings.dns_key_file) and not settings.dns_server:
        raise SettingsError("DNS_KEY signs updates, and DNS_SERVER, where they would go, isn't set")
    if mode == "etcd" and not settings.etcd_prefix.startswith("/"):
        raise SettingsError(f"ETCD_PREFIX = {settings.etcd_prefix!r} must begin with a slash")
    if mode == "multicast":
        _check_versions(settings)


def _check_versions(settings: DiscoverySettings) -> None:
    """The group, the hosts to tell directly and this host must have one IP version in common."""
    group = settings.multicast_group
    told = {address.version for address in (group, *settings.peers) if address is not None}
    peers = ",".join(map(str, settings.peers))
    if len(told) > 1:
        beside = f"MULTICAST_GROUP = {group} and " if group is not None else ""
        raise SettingsError(f"{beside}PEERS = {peers} are of both IP versions, and multicast speaks one")
    if told and settings.host_ip and not told & {address.version for address in settings.host_ip}:
        what = f"MULTICAST_GROUP = {group}" if group is not None else f"PEERS = {peers}"
        raise SettingsError(f"{what} is of another IP version than HOST_IP = {','.join(map(str, settings.host_ip))}")


def _idle(settings: DiscoverySettings, said: Mapping[str, Any]) -> list[str]:
    """What was set for another mode than the one that holds."""
    idle = [
        name.upper()
        for name in sorted(said)
        for prefix, mode in MODES.items()
        if name.upper().startswith(prefix) and mode != settings.discovery_mode and name.upper() not in SHARED_VARIABLES
    ]
    idle += [name for name, users in USERS.items() if name.lower() in said and settings.discovery_mode not in users]
    if not idle:
        return []
    return [f"DISCOVERY_MODE={settings.discovery_mode} doesn't look at {', '.join(idle)}"]
