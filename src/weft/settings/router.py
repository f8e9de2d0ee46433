"""Settings of `weft router`: the docker-router document's environment, and a few of ours. Read by `cli/router.py`."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Annotated, Literal

from weft.errors import SettingsError
from weft.model import IPAddress, IPNetwork
from weft.settings import PRIVATE, Doc, Seconds, check_metric
from weft.settings.stack import StackSettings, check
from weft.settings.variables import Variables


class RouterSettings(StackSettings, frozen=True, kw_only=True):
    """Every variable. Lists are separated by commas; times are seconds (or 30s, 2m)."""

    vxlan_subnet: Annotated[
        tuple[IPNetwork, ...], Doc(description="subnet(s) of the routers' VXLAN addresses; default: routing.yaml's")
    ] = ()
    watch_discovery: Annotated[bool, Doc(description="whether discovery.json is watched for changes")] = True
    route_refresh_interval: Annotated[
        Seconds, Doc(gt=0, description="everything is read and compared anew this often")
    ] = 60.0
    vxlan_fdb: Annotated[
        Literal["static", "flood"],
        Doc(description="static: an entry per peer, nothing is flooded; flood: all-zero entries and learning"),
    ] = "static"
    dynamic_routes: Annotated[
        bool, Doc(description="whether networks are routed that a stack announces and routing.yaml doesn't list")
    ] = True
    multipath: Annotated[bool, Doc(description="whether several routers of one stack share its traffic (ECMP)")] = True
    allowed: Annotated[
        tuple[IPNetwork, ...], Doc(description="a peer's subnet must lie in one of these; default: private ones")
    ] = PRIVATE
    max_networks: Annotated[int, Doc(ge=1, le=10_000, description="more of one peer are refused")] = 256
    metric: Annotated[int, Doc(ge=1, le=0xFFFF0000, description="metric of our routes")] = 7600
    privileges: Annotated[
        Literal["drop", "keep"],
        Doc(description="drop: give up everything but NET_ADMIN, and the right to open network sockets"),
    ] = "drop"
    run_dir: Annotated[
        str,
        Doc(description="where the router's events.log goes, and routes.json if the shared folder can't be written"),
    ] = "/run/docker-router"
    health_ip: Annotated[IPAddress, Doc(description="address of /health and /metrics")] = IPv4Address("127.0.0.1")
    health_port: Annotated[int, Doc(ge=0, le=65535, description="their port; 0: none")] = 9478
    weft_socket: Annotated[str, Doc(description="where the router answers `weft router show`")] = (
        "/run/weft/router.sock"
    )


_TABLE = Variables(RouterSettings)
VARIABLES = _TABLE.names
"""Everything that is read."""
describe = _TABLE.describe
held = _TABLE.held
_LIKE = "VXLAN_|ROUTE_|ROUTING_|LOCAL_|WATCH_|STACK_|NETWORK|ALLOW|DYNAMIC|MULTI|MAX_|DATA_"


def load(environment: Mapping[str, str]) -> tuple[RouterSettings, tuple[str, ...]]:
    """The settings that hold, and what is to be said of them. Raises SettingsError that names the variable, its value
    and what would be right."""
    settings = RouterSettings(**_TABLE.read(environment))
    check(settings)
    check_metric("METRIC", settings.metric)
    if len({subnet.version for subnet in settings.vxlan_subnet}) != len(settings.vxlan_subnet):
        raise SettingsError("VXLAN_SUBNET names two subnets of one IP version; keep one")
    for address in settings.local_vxlan_ip:
        space = next((one for one in settings.vxlan_subnet if one.version == address.version), None)
        if space is not None and address not in space:
            raise SettingsError(f"LOCAL_VXLAN_IP = {address} does not lie in VXLAN_SUBNET = {space}")
    return settings, tuple(_TABLE.misspelt(environment, _LIKE, "weft router"))
