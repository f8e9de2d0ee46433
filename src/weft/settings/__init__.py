"""Settings: frozen, from argv, environment and a YAML file. Read once, at the start of a verb.

Which wins: an argument of the command line, then `WEFT_<KEY>` in the environment, then the YAML file, then the default.
The fields of `Settings` are the one table: names, types, defaults and texts; docs/settings.md is made from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from weft.errors import SettingsError
from weft.model import IPAddress, IPNetwork, Network
from weft.objects import METRIC_CLASSES, REGISTRAR_METRICS
from weft.settings.means import DnsMeans, EtcdMeans, GossipMeans, Means, Profile

PREFIX = "WEFT_"
CONFIG_VARIABLE = "WEFT_CONFIG"
PRIVATE = tuple(ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
"""RFC 1918, RFC 6598 and RFC 4193: what a peer may announce unless `allowed` says otherwise."""

LONGEST_ID = 200
"""Octets: the id is part of a link's ifalias, which the kernel holds to 255."""
LEAST_MTU = 646
"""Octets: IPv4's 576 (RFC 791) inside VXLAN over IPv6."""

Seconds = Annotated[float, "seconds"]
Doc = msgspec.Meta


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of `weft agent`. Lists: `a,b` in the environment; durations: seconds, `30s` or `2m`."""

    node: Annotated[str, Doc(description="This host's id, unique among the hosts; default: the host name.")] = ""
    interface: Annotated[str, Doc(description="Uplink that tunnels use; default: the default route's.")] = ""
    endpoint: Annotated[
        tuple[IPAddress, ...],
        Doc(description="Underlay address(es), one per family; default: the default route's source, or the first."),
    ] = ()
    underlay: Annotated[
        Literal["auto", "ipv4", "ipv6"], Doc(description="Address family of the tunnels; auto: IPv4 if there is one.")
    ] = "auto"
    vni: Annotated[int, Doc(ge=1, le=0xFFFFFF, description="VXLAN network id; hosts that talk share it.")] = 4096
    port: Annotated[int, Doc(ge=1, le=65535, description="UDP port of VXLAN, the same on all hosts.")] = 4789
    mtu: Annotated[int, Doc(ge=0, le=65535, description="MTU of the uplink in octets; 0: as the kernel says.")] = 0
    learning: Annotated[bool, Doc(description="VXLAN learning; static entries are written anyway.")] = False
    metric: Annotated[
        int, Doc(ge=1, le=0xFFFF0000, description="Metric of our routes: an administrator's own, lower one wins.")
    ] = 7600
    engine: Annotated[Literal["docker", "static"], Doc(description="Who knows this host's networks.")] = "docker"
    docker_host: Annotated[
        str, Doc(description="Docker's socket; default: $DOCKER_HOST, then unix:///var/run/docker.sock.")
    ] = ""
    expose: Annotated[
        Literal["all", "labelled"],
        Doc(description="all: every network but those labelled weft.expose=false; labelled: only weft.expose=true."),
    ] = "all"
    networks: Annotated[
        tuple[Network, ...],
        Doc(description="Networks for engine `static`: `web=10.1.0.0/24,web=fd00:1::/64` or a mapping in YAML."),
    ] = ()
    discovery: Annotated[
        Literal["multicast", "dns", "etcd", "gossip"], Doc(description="How the hosts find each other.")
    ] = "multicast"
    multicast_group: Annotated[
        IPAddress | None, Doc(description="Group for HELLOs; default 239.1.1.1, ff12::4790 on an IPv6 underlay.")
    ] = None
    discovery_port: Annotated[int, Doc(ge=1, le=65535, description="UDP port of the HELLOs.")] = 4790
    peers: Annotated[
        tuple[IPAddress, ...],
        Doc(description="Hosts to tell directly too, where multicast doesn't reach (another segment, a VPN)."),
    ] = ()
    announce_interval: Annotated[Seconds, Doc(gt=0, description="Time between HELLOs.")] = 30.0
    peer_timeout: Annotated[Seconds, Doc(gt=0, description="Silence after which a peer is gone.")] = 90.0
    goodbye_hold: Annotated[
        Seconds,
        Doc(ge=0, description="How long a peer that said goodbye is still routed to, so that a restart loses nothing."),
    ] = 30.0
    dns_domain: Annotated[str, Doc(description="Discovery dns: domain of the SRV records.")] = ""
    dns_server: Annotated[
        str, Doc(description="Discovery dns: server for updates and queries; without it nothing is registered.")
    ] = ""
    dns_ttl: Annotated[int, Doc(ge=1, le=86400, description="Discovery dns: TTL of our records in seconds.")] = 60
    dns_update_interval: Annotated[Seconds, Doc(gt=0, description="Discovery dns: time between updates.")] = 30.0
    dns_key: Annotated[str, Doc(description="Discovery dns: TSIG key, `[algorithm:]name:base64`.")] = ""
    etcd_endpoints: Annotated[tuple[str, ...], Doc(description="Discovery etcd: etcd's endpoints.")] = ()
    etcd_prefix: Annotated[str, Doc(description="Discovery etcd: prefix of the keys.")] = "/weft/discovery"
    etcd_lease_ttl: Annotated[int, Doc(ge=2, le=86400, description="Discovery etcd: TTL of our lease, seconds.")] = 30
    etcd_username: Annotated[str, Doc(description="Discovery etcd: user.")] = ""
    etcd_password: Annotated[str, Doc(description="Discovery etcd: password.")] = ""
    etcd_cafile: Annotated[str, Doc(description="Discovery etcd: certificate authority.")] = ""
    etcd_certfile: Annotated[str, Doc(description="Discovery etcd: client certificate.")] = ""
    etcd_keyfile: Annotated[str, Doc(description="Discovery etcd: the client certificate's private key.")] = ""
    gossip_seeds: Annotated[tuple[str, ...], Doc(description="Discovery gossip: members to join by, host[:port].")] = ()
    gossip_profile: Annotated[
        Profile, Doc(description="Discovery gossip: lan finds a dead host within 5 s, fast within 1.5 s.")
    ] = "lan"
    key: Annotated[
        str, Doc(description="Pre-shared key of the hosts: signs every HELLO, encrypts gossip (a,b: a encrypts).")
    ] = ""
    key_file: Annotated[str, Doc(description="File that holds the pre-shared key.")] = ""
    allowed: Annotated[
        tuple[IPNetwork, ...], Doc(description="A peer's subnet must lie in one of these; default: private ranges.")
    ] = PRIVATE
    interval: Annotated[Seconds, Doc(gt=0, description="Everything is read and compared anew this often.")] = 30.0
    socket: Annotated[str, Doc(description="Where the running agent answers.")] = "/run/weft/agent.sock"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Doc(description="What is logged.")] = "info"


_HINTS = get_type_hints(Settings, include_extras=True)


def load(
    environment: Mapping[str, str], arguments: Mapping[str, str] | None = None, file: Path | None = None
) -> Settings:
    """The settings that hold. Raises SettingsError that names the key, its value and what would be right."""
    named = environment.get(CONFIG_VARIABLE)
    path = file or (Path(named) if named else None)
    values: dict[str, Any] = _from_file(path) if path else {}
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and variable != CONFIG_VARIABLE:
            key = variable.removeprefix(PREFIX).lower()
            values[key] = _value(key, text, variable)
    for key, text in (arguments or {}).items():
        values[key] = _value(key, text, "--" + key.replace("_", "-"))
    settings = Settings(**values)
    _check(settings)
    return settings


def means(settings: Settings) -> Means:
    """What the settings say to a discovery."""
    return Means(
        announce_interval=settings.announce_interval,
        peer_timeout=settings.peer_timeout,
        goodbye_hold=settings.goodbye_hold,
        port=settings.discovery_port,
        group=settings.multicast_group,
        direct=settings.peers,
        dns=DnsMeans(
            settings.dns_domain.rstrip("."),
            settings.dns_server,
            settings.dns_ttl,
            settings.dns_update_interval,
            settings.dns_key,
        ),
        etcd=EtcdMeans(
            tuple(one if "://" in one else f"http://{one}" for one in settings.etcd_endpoints),
            settings.etcd_prefix.rstrip("/"),
            settings.etcd_lease_ttl,
            settings.etcd_username,
            settings.etcd_password,
            settings.etcd_cafile,
            settings.etcd_certfile,
            settings.etcd_keyfile,
        ),
        gossip=GossipMeans(settings.gossip_seeds, settings.gossip_profile, split_keys(shared_key(settings) or b"")),
    )


def split_keys(keys: bytes) -> tuple[bytes, ...]:
    """`new,old`: of several keys, the first one is used, and all are understood."""
    return tuple(key.strip() for key in keys.split(b",") if key.strip())


def shared_key(settings: Settings) -> bytes | None:
    """The pre-shared key's octets, or None. Raises SettingsError for a file that can't be read or is empty."""
    if not settings.key_file:
        return settings.key.encode() or None
    try:
        text = Path(settings.key_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"key_file = {settings.key_file!r} can't be read: {error}") from error
    if not text:
        raise SettingsError(f"key_file = {settings.key_file!r} is empty; put the pre-shared key in it")
    return text.encode()


def check_metric(origin: str, metric: int) -> None:
    """`weft registrar` beside another daemon is told from it by its routes' metrics, so nobody else's may come there.
    Raises SettingsError."""
    last, ours = metric + METRIC_CLASSES - 1, REGISTRAR_METRICS
    if metric <= ours[-1] and last >= ours[0]:
        raise SettingsError(
            f"{origin} = {metric}: routes get metrics from {metric} to {last}, and {ours[0]} to {ours[-1]} are"
            f" `weft registrar`'s; {ours[0] - METRIC_CLASSES} or less, or {ours[-1] + 1} or more, keeps out of its way"
        )


def describe() -> list[tuple[str, str, str, str]]:
    """One row per setting: key, environment variable, default as text, what it is."""
    defaults = Settings()
    rows = []
    for key, hint in _HINTS.items():
        meta = next(m for m in get_args(hint)[1:] if isinstance(m, msgspec.Meta))
        rows.append((key, PREFIX + key.upper(), _text(getattr(defaults, key)), meta.description or ""))
    return rows


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(str(v) for v in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _check(settings: Settings) -> None:
    _check_times_and_keys(settings)
    _check_discovery(settings)
    _check_addresses(settings)
    check_metric("metric", settings.metric)
    node = settings.node
    if not node.isprintable() or node != node.strip() or len(node.encode()) > LONGEST_ID:
        raise SettingsError(f"node = {node!r} can't be an id: printable text of at most {LONGEST_ID} octets is")
    if settings.discovery_port == settings.port:
        raise SettingsError(f"port and discovery_port are both {settings.port}; VXLAN and HELLOs need one each")
    if 0 < settings.mtu < LEAST_MTU:
        raise SettingsError(
            f"mtu = {settings.mtu} is less than {LEAST_MTU}, too little for a tunnel; 0: as the kernel says"
        )
    if settings.engine == "static" and not settings.networks:
        raise SettingsError("engine = static needs networks; e.g. WEFT_NETWORKS=web=10.1.0.0/24")
    subnets = [(s, n.name) for n in settings.networks for s in n.subnets]
    for i, (one, first) in enumerate(subnets):
        for other, second in subnets[i + 1 :]:
            if one.version == other.version and one.overlaps(other):
                raise SettingsError(
                    f"networks: {one} ({first}) and {other} ({second}) overlap; a subnet is one network's"
                )


def _check_times_and_keys(settings: Settings) -> None:
    if settings.key and settings.key_file:
        raise SettingsError("key and key_file are both set; keep one of them")
    if settings.peer_timeout < 2 * settings.announce_interval:
        raise SettingsError(
            f"peer_timeout = {settings.peer_timeout:g} s is less than twice announce_interval ="
            f" {settings.announce_interval:g} s: one lost HELLO would cut a peer off; e.g. peer_timeout ="
            f" {3 * settings.announce_interval:g}"
        )


def _check_discovery(settings: Settings) -> None:
    needed = {"dns": ("dns_domain", "example.com"), "etcd": ("etcd_endpoints", "10.0.1.100:2379")}
    name, example = needed.get(settings.discovery, ("discovery", ""))
    if not getattr(settings, name):
        raise SettingsError(f"discovery = {settings.discovery} needs {name}; e.g. {name} = {example}")
    if bool(settings.etcd_certfile) != bool(settings.etcd_keyfile):
        raise SettingsError("etcd_certfile and etcd_keyfile belong together; one of them is missing")
    if settings.dns_key and not settings.dns_server:
        raise SettingsError("dns_key signs updates, and dns_server, where they would go, isn't set")


def _check_addresses(settings: Settings) -> None:
    families = [a.version for a in settings.endpoint]
    for address in (*settings.endpoint, *settings.peers):
        if address.is_multicast or address.is_loopback or address.is_unspecified:
            raise SettingsError(f"{address} (in endpoint or peers) can't be another host's way to anything")
    if len(set(families)) != len(families):
        raise SettingsError(f"endpoint = {_text(settings.endpoint)} names two addresses of one family; keep one")
    if settings.multicast_group and not settings.multicast_group.is_multicast:
        raise SettingsError(f"multicast_group = {settings.multicast_group} is no multicast address; e.g. 239.1.1.1")
    version = {"ipv4": 4, "ipv6": 6}.get(settings.underlay)
    asked = [("multicast_group", settings.multicast_group), *(("peers", peer) for peer in settings.peers)]
    spoken = {address.version for _, address in asked if address is not None} | ({version} if version else set())
    if len(spoken) > 1:
        said = ", ".join(f"{key} {address}" for key, address in asked if address is not None)
        raise SettingsError(
            f"multicast_group, peers and underlay mix IPv4 and IPv6 ({said}); HELLOs go over one of them"
        )


def _from_file(path: Path) -> dict[str, Any]:
    import yaml  # loaded only where a file is named: it costs a millisecond of every start

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"the settings file {path} can't be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"the settings file {path} must be a mapping of settings, like `vni: 4096`")
    return {str(key): _value(str(key), value, f"{path}: {key}") for key, value in content.items()}


def _value(key: str, given: object, origin: str) -> Any:
    """One setting's value from text or YAML; `origin` is how the user wrote the key."""
    hint = _HINTS.get(key)
    if hint is None:
        from difflib import get_close_matches  # for a slip of the pen only

        near = get_close_matches(key, _HINTS, n=1, cutoff=0.5)
        hope = f"did you mean {near[0]} ({PREFIX}{near[0].upper()})?" if near else f"known are {', '.join(_HINTS)}"
        raise SettingsError(f"{origin} = {given!r}: there is no setting {key!r}; {hope}")
    try:
        return convert(given, get_args(hint)[0], hint)
    except (ValueError, msgspec.ValidationError) as error:
        raise SettingsError(f"{origin} = {given!r}: {plain(str(error))}{nearest(given, hint)}") from error


def convert(given: object, kind: object, hint: object) -> Any:
    """`given` as `kind`, within the bounds that the whole annotation `hint` sets."""
    text = given.strip() if isinstance(given, str) else given
    if kind == tuple[Network, ...]:
        return _networks(given)
    if kind in (tuple[IPAddress, ...], tuple[IPNetwork, ...]):
        items = text.split(",") if isinstance(text, str) else text if isinstance(text, Sequence) else [text]
        parse = ip_address if kind == tuple[IPAddress, ...] else ip_network
        return tuple(parse(str(item).strip()) for item in items if str(item).strip())
    if kind == tuple[str, ...]:
        return tuple(one.strip() for one in (text.split(",") if isinstance(text, str) else map(str, _many(text))))
    if kind == IPAddress | None:
        return ip_address(str(text)) if text else None
    if kind is float and isinstance(text, str):
        text = _seconds(text)
    if kind is bool and isinstance(text, str):
        text = {"yes": True, "on": True, "no": False, "off": False}.get(text.lower(), text.lower())
    return msgspec.convert(text, hint, strict=False)


def _many(given: object) -> Sequence[object]:
    return given if isinstance(given, Sequence) else [given]


def _seconds(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|)\s*", text)
    if not match:
        raise ValueError("not a duration; e.g. 30, 30s, 500ms or 2m")
    return float(match[1]) * {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600}[match[2]]


def _networks(given: object) -> tuple[Network, ...]:
    """`web=10.1.0.0/24,web=fd00::/64`, or the mapping {web: [10.1.0.0/24, …]} of the YAML file."""
    found: dict[str, list[IPNetwork]] = {}
    if isinstance(given, Mapping):
        for name, subnets in given.items():
            listed = [subnets] if isinstance(subnets, str) else list(subnets)
            found[str(name)] = [ip_network(str(s)) for s in listed]
    else:
        for item in str(given).split(","):
            name, equals, subnet = item.strip().partition("=")
            if not equals or not name:
                raise ValueError(f"{item.strip()!r} is not NAME=SUBNET")
            found.setdefault(name.strip(), []).append(ip_network(subnet.strip()))
    return tuple(Network(name, tuple(subnets), since=0.0) for name, subnets in sorted(found.items()))


def plain(text: str) -> str:
    """msgspec's texts in a user's words."""
    words = {"`int`": "a whole number", "`float`": "a number", "`bool`": "yes or no", "`str`": "text"}
    for word, plain in words.items():
        text = text.replace(word, plain)
    return re.sub(r"\s*- at `[^`]*`", "", text).replace("`", "").replace("Expected", "expected")


def nearest(given: object, hint: object) -> str:
    arm = get_args(hint)[0]
    if get_origin(arm) is Literal:
        choices = [str(c) for c in get_args(arm)]
        from difflib import get_close_matches  # for a slip of the pen only

        near = get_close_matches(str(given), choices, n=1, cutoff=0.3)
        return f"; one of {', '.join(choices)}" + (f" (did you mean {near[0]}?)" if near else "")
    if isinstance(given, str) and "/" in given and get_origin(arm) is tuple:
        return _masked(given)
    return ""


def _masked(given: str) -> str:
    """For a subnet with host bits set: the subnet that was probably meant."""
    try:
        meant = [str(ip_network(item.strip(), strict=False)) for item in given.split(",")]
    except ValueError:
        return ""
    return f"; did you mean {','.join(meant)}?"
