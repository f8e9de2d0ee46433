"""Settings of `weft route-manager`: flannel-route-manager's flags, and ours. Read by `cli/route_manager.py`.

Which wins: a flag, then `ROUTE_MANAGER_<FLAG>` in the environment (upper case, `-` as `_`), then the default. Flags are
as in Go (`go_flags.py`). The fields of `RouteManagerSettings` are the one table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from weft.errors import SettingsError
from weft.model import IPAddress, IPNetwork
from weft.settings import convert, nearest, plain
from weft.settings.flanneld import clean
from weft.settings.go_flags import Given, GoFlags, switch

PREFIX = "ROUTE_MANAGER_"
Doc = msgspec.Meta


class RouteManagerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Every flag. Times are seconds."""

    backend: Annotated[
        str, Doc(description="whose route table: google, aws, stdout (tells, writes nothing), memory, or a plug-in's")
    ] = "google"
    etcd_endpoint: Annotated[str, Doc(description="etcd's endpoints, with commas")] = (
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
    sync_interval: Annotated[
        float, Doc(description="seconds between full comparisons; a large table is read less often (2 calls a minute)")
    ] = 30.0
    delete_all_routes: Annotated[bool, Doc(description="delete every route of ours, and end")] = False
    once: Annotated[bool, Doc(description="make the table right once, and end; exit code 1 if it isn't")] = False
    dry_run: Annotated[bool, Doc(description="say what would be done, and write nothing")] = False
    output: Annotated[
        Literal["text", "json"], Doc(description="how -backend=stdout and -dry-run tell it: text or json")
    ] = "text"
    registrar_prefix: Annotated[
        str,
        Doc(description='the registrar\'s networks too: their prefix, e.g. /flannel/network/subnets; "": without'),
    ] = ""
    agent_prefix: Annotated[
        str, Doc(description='the networks of agents and docker-routers in etcd too: their prefix; "": without')
    ] = ""
    allowed: Annotated[
        tuple[IPNetwork, ...],
        Doc(description="what may be routed, with commas; default: flannel's network, private ones with other sources"),
    ] = ()
    aggregate: Annotated[
        bool, Doc(description="one route for adjacent subnets of one host, where they make up a larger one")
    ] = False
    grace: Annotated[
        float, Doc(description="seconds for which the route of an expired lease is kept; a deleted one's goes at once")
    ] = 60.0
    max_delete: Annotated[
        str,
        Doc(description="most routes that go within ten minutes: a number, a part like 25% (at least 3), or all"),
    ] = "25%"
    leader_election: Annotated[bool, Doc(description="of several managers of one table, one writes at a time")] = True
    election_name: Annotated[
        str, Doc(description="managers of one table share it; another for a second table; default: the backend's name")
    ] = ""
    adopt: Annotated[
        bool, Doc(description="take over routes that bear our names without our mark: flannel-route-manager's")
    ] = False
    google_project: Annotated[str, Doc(description="project ID; default: the metadata server's, or the key's")] = ""
    google_network: Annotated[str, Doc(description="VPC network; default: this instance's, else default")] = ""
    google_zone: Annotated[str, Doc(description="only instances in this zone are next hops; default: any")] = ""
    google_next_hop: Annotated[
        Literal["ip", "instance"], Doc(description="what routes lead to: an address (ip) or its instance")
    ] = "ip"
    google_priority: Annotated[int, Doc(ge=0, le=65535, description="priority of the routes; the lowest wins")] = 1000
    google_endpoint: Annotated[str, Doc(description="the Compute Engine API")] = "https://compute.googleapis.com"
    aws_region: Annotated[str, Doc(description="region; default: the environment's, else this instance's")] = ""
    aws_vpc: Annotated[
        str, Doc(description="VPC of the main table, or of tables named by a tag; default: this instance's")
    ] = ""
    aws_route_table: Annotated[
        tuple[str, ...],
        Doc(description="route tables, with commas: rtb-…, or tag:Key=Value; default: the main one of this VPC"),
    ] = ()
    aws_disable_source_dest_check: Annotated[
        bool, Doc(description="switch the check off on the instances that routes lead to; else it is only reported")
    ] = False
    aws_endpoint: Annotated[str, Doc(description="the EC2 API; default: the region's")] = ""
    requests_per_second: Annotated[
        float, Doc(gt=0, description="most calls of the provider's API a second; 20 at once after a pause")
    ] = 10.0
    health_ip: Annotated[IPAddress, Doc(description="address of /health and /metrics")] = IPv4Address("127.0.0.1")
    health_port: Annotated[int, Doc(ge=0, le=65535, description="their port; 0: none")] = 9479
    socket: Annotated[str, Doc(description="where the running daemon answers `weft show` (--socket, WEFT_SOCKET)")] = (
        "/run/weft/route-manager.sock"
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Doc(description="debug, info, warning or error")
    ] = "info"
    version: Annotated[bool, Doc(description="say the version and end")] = False
    help: Annotated[bool, Doc(description="say all this and end")] = False


FLAGS = GoFlags(
    RouteManagerSettings,
    PREFIX,
    "weft route-manager",
    "-etcd-endpoint=http://10.0.1.2:2379",
    frozenset({"allowed", "aws-route-table"}),
)


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[RouteManagerSettings, list[str]]:
    """The settings that hold, and what is to be said of them. Raises SettingsError that names the flag, its value and
    what would be right."""
    given = FLAGS.given(arguments, {name: text for name, text in environment.items() if text.strip()})
    settings = RouteManagerSettings(**{name.replace("-", "_"): _value(name, said) for name, said in given.items()})
    _check(settings)
    return settings, _remarks(settings, given)


def _value(name: str, given: Given) -> Any:
    """Of a flag that holds one value, the last that was given wins, as in Go."""
    hint = FLAGS.hints[name]
    kind, default = get_args(hint)[0], FLAGS.defaults[name]
    if isinstance(default, tuple):
        text = ",".join(one for some in given.texts for one in some.split(",") if one.strip())
    else:
        text = given.texts[-1]
    try:
        if isinstance(default, bool):
            return switch(text)
        if name == "etcd-prefix" and text.strip():
            return clean(text)
        if kind is IPAddress:
            return ip_address(text.strip())
        return convert(text, kind, hint) if text or not isinstance(default, tuple) else ()
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        shown = "(not shown)" if name == "etcd-password" else repr(text)
        raise SettingsError(f"{given.origin} = {shown}: {plain(str(error))}{nearest(text, hint)}") from error


def _check(settings: RouteManagerSettings) -> None:
    for name in ("etcd_prefix", "registrar_prefix", "agent_prefix"):
        prefix = getattr(settings, name)
        if not prefix.startswith("/") and (prefix or name == "etcd_prefix"):
            raise SettingsError(f"-{name.replace('_', '-')} = {prefix!r} must begin with a slash: /coreos.com/network")
    if bool(settings.etcd_certfile) != bool(settings.etcd_keyfile):
        raise SettingsError("-etcd-certfile and -etcd-keyfile belong together; one of them is missing")
    if settings.sync_interval < 1:
        raise SettingsError(f"-sync-interval = {settings.sync_interval:g}: seconds, at least 1; 30 is the default")
    if settings.delete_all_routes and settings.once:
        raise SettingsError("-delete-all-routes and -once were both given: one empties the table, one fills it")
    if not Path(settings.socket).is_absolute():
        raise SettingsError(f"-socket = {settings.socket!r} must be an absolute path")


def _remarks(settings: RouteManagerSettings, given: Mapping[str, Given]) -> list[str]:
    """Flags of one provider have no meaning for another; but a table without a provider is called like a network."""
    others = {"google", "aws"} - {settings.backend}
    kept = {"google-network"} if settings.backend in ("stdout", "memory") else set[str]()
    lost = [said.origin for name, said in given.items() if name.partition("-")[0] in others and name not in kept]
    return [f"{', '.join(sorted(lost))}: no meaning with -backend={settings.backend}"] if lost else []
