"""Settings of `weft flanneld`: flannel's own flags and environment, and a few of ours. Read by `cli/flanneld.py`.

Which wins: a flag, then `FLANNELD_<FLAG>` in the environment (upper case, `-` as `_`), then the default. Flags are as
in Go (`go_flags.py`). The fields of `FlanneldSettings` are the one table.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any

import msgspec

from weft.errors import SettingsError
from weft.model import IPAddress
from weft.settings import check_metric
from weft.settings.go_flags import Given, GoFlags, switch

PREFIX = "FLANNELD_"
Doc = msgspec.Meta
KUBERNETES = frozenset(
    ("kube-subnet-mgr", "kube-api-url", "kube-annotation-prefix", "kubeconfig-file", "set-node-network-unavailable")
)
"""flannel's flags for Kubernetes, which weft is not for."""


class FlanneldSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Every flag. `iface`, `iface_regex` may be given several times; times are seconds."""

    etcd_endpoints: Annotated[str, Doc(description="etcd's endpoints, with commas")] = (
        "http://127.0.0.1:4001,http://127.0.0.1:2379"
    )
    etcd_prefix: Annotated[str, Doc(description="prefix of flannel's keys")] = "/coreos.com/network"
    etcd_keyfile: Annotated[str, Doc(description="private key of the client certificate")] = ""
    etcd_certfile: Annotated[str, Doc(description="client certificate for etcd")] = ""
    etcd_cafile: Annotated[str, Doc(description="certificate authority that etcd's certificate is checked against")] = (
        ""
    )
    etcd_username: Annotated[str, Doc(description="user of etcd")] = ""
    etcd_password: Annotated[str, Doc(description="password of that user")] = ""
    iface: Annotated[
        tuple[str, ...], Doc(description="uplink, by name or address; the first that fits of several")
    ] = ()
    iface_regex: Annotated[tuple[str, ...], Doc(description="uplink, by an expression for its address or name")] = ()
    iface_can_reach: Annotated[str, Doc(description="uplink: the one by which this address is reached")] = ""
    public_ip: Annotated[
        IPv4Address | None, Doc(description="address that the others send to; default: the uplink's")
    ] = None
    public_ipv6: Annotated[IPv6Address | None, Doc(description="the same for IPv6")] = None
    subnet_file: Annotated[str, Doc(description="where this host's subnet is written")] = "/run/flannel/subnet.env"
    subnet_lease_renew_margin: Annotated[
        int, Doc(description="minutes before its end at which the lease is renewed")
    ] = 60
    ip_masq: Annotated[bool, Doc(description="masquerade what leaves the overlay")] = False
    iptables_resync: Annotated[
        int, Doc(description="seconds between full comparisons (changes are noticed at once anyway)")
    ] = 5
    iptables_forward_rules: Annotated[bool, Doc(description="accept forwarding from and to the overlay")] = True
    ip_blackhole_route: Annotated[bool, Doc(description="read, without effect: there is no such route")] = False
    healthz_ip: Annotated[str, Doc(description="address of /healthz and /readyz")] = "0.0.0.0"
    healthz_port: Annotated[int, Doc(description="port of /healthz and /readyz; 0: none")] = 0
    net_config_path: Annotated[
        str, Doc(description="file with the network config; default: the key <prefix>/config")
    ] = ""
    socket: Annotated[str, Doc(description="where the running daemon answers `weft show` (--socket, WEFT_SOCKET)")] = (
        "/run/weft/flanneld.sock"
    )
    log_level: Annotated[str, Doc(description="debug, info, warning or error")] = "info"
    metric: Annotated[int, Doc(description="metric of routes: an administrator's own, lower one wins")] = 7600
    extension_shell: Annotated[bool, Doc(description="let a shell run the extension backend's commands")] = False
    version: Annotated[bool, Doc(description="say the version and end")] = False
    help: Annotated[bool, Doc(description="say all this and end")] = False


LISTS = frozenset({"iface", "iface-regex"})
ELSEWHERE = "weft flanneld is for hosts without Kubernetes; its leases are in etcd (-etcd-endpoints)"
FLAGS = GoFlags(
    FlanneldSettings,
    PREFIX,
    "weft flanneld",
    "-etcd-endpoints=http://10.0.1.2:2379",
    LISTS,
    dict.fromkeys(KUBERNETES, ELSEWHERE),
)
DEFAULTS = FLAGS.defaults
describe = FLAGS.describe


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> FlanneldSettings:
    """The settings that hold. Raises SettingsError that names the flag, its value and what would be right."""
    given = FLAGS.given(arguments, environment)
    settings = FlanneldSettings(**{name.replace("-", "_"): _value(name, said) for name, said in given.items()})
    _check(settings)
    return settings


def clean(prefix: str) -> str:
    """A prefix as flannel understands it: slashes doubled or at its end don't count. By it daemons of one host are told
    apart, so one network has one."""
    return posixpath.normpath(re.sub("^/+", "/", prefix))


def _value(name: str, given: Given) -> Any:
    """Of a flag that holds one value, the last that was given wins, as in Go."""
    if name in LISTS:
        return tuple(text for text in given.texts if text)
    text, default = given.texts[-1], DEFAULTS[name]
    try:
        if isinstance(default, bool):
            return switch(text)
        if isinstance(default, int):
            return int(text)
        if name in ("public-ip", "public-ipv6"):
            return _address(text, 4 if name == "public-ip" else 6)
        if name == "etcd-prefix":
            return clean(text)
    except ValueError as error:
        raise SettingsError(f"{given.origin} = {text!r}: {error}") from error
    return text


def _address(text: str, version: int) -> IPAddress | None:
    if not text:
        return None
    found = ip_address(text)
    if found.version != version:
        raise ValueError(f"an IPv{version} address is expected")
    return found


def _check(settings: FlanneldSettings) -> None:
    if not settings.etcd_prefix.startswith("/"):
        raise SettingsError(f"-etcd-prefix = {settings.etcd_prefix!r} must begin with a slash: /coreos.com/network")
    if not 0 < settings.subnet_lease_renew_margin < 24 * 60:
        raise SettingsError(
            f"-subnet-lease-renew-margin = {settings.subnet_lease_renew_margin}: a lease lives 24 hours; between 1 and"
            " 1439 minutes are possible, e.g. 60"
        )
    check_metric("-metric", settings.metric)
    if not 0 <= settings.healthz_port <= 65535:
        raise SettingsError(f"-healthz-port = {settings.healthz_port} is no port; 0 to 65535 are, 0 for none")
    if settings.iptables_resync <= 0:
        raise SettingsError(f"-iptables-resync = {settings.iptables_resync}: seconds, at least 1")
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise SettingsError(f"-log-level = {settings.log_level!r}: one of debug, info, warning, error")
    if bool(settings.etcd_certfile) != bool(settings.etcd_keyfile):
        raise SettingsError("-etcd-certfile and -etcd-keyfile belong together; one of them is missing")
    for pattern in settings.iface_regex:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingsError(f"-iface-regex = {pattern!r} is no regular expression: {error}") from error
    for name in ("subnet_file", "socket"):
        if not Path(getattr(settings, name)).is_absolute():
            raise SettingsError(f"-{name.replace('_', '-')} = {getattr(settings, name)!r} must be an absolute path")
