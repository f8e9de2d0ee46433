"""What `weft discovery` and `weft router` both have to know: which stack this is and where the two meet.

Both come to the same host address, VTEP and networks without talking to each other, because both read this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from weft.errors import SettingsError
from weft.model import IPAddress, Network
from weft.settings import LEAST_MTU, Doc
from weft.settings.variables import Variables

DATA_DIR = "/var/lib/docker-router"
ROUTING_CONFIGS = ("/etc/docker-router/routing.yaml", "/etc/router/routing.yaml")
"""Where routing.yaml is looked for; the second is found in the wild."""
LEVELS = {"warn": "warning"}


class StackSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Of one stack. Where routing.yaml lists several (`stacks:`), those of the stack itself stay unset."""

    stack_id: Annotated[str, Doc(description="unique identifier of this stack; default: routing.yaml's")] = ""
    peer_id: Annotated[
        str, Doc(description="this router's name, where a stack has several on several hosts; default: STACK_ID")
    ] = ""
    vni: Annotated[
        int,
        Doc(ge=0, le=0xFFFFFF, description="VXLAN network identifier, shared by stacks that talk; 0: routing.yaml's"),
    ] = 0
    host_ip: Annotated[
        tuple[IPAddress, ...],
        Doc(description="this host's underlay address(es), one per family; default: the default route's"),
    ] = ()
    interface: Annotated[str, Doc(description="uplink of the tunnels; default: the default route's")] = ""
    vxlan_port: Annotated[int, Doc(ge=1, le=65535, description="UDP port of VXLAN, the same on all hosts")] = 4789
    local_vxlan_ip: Annotated[
        tuple[IPAddress, ...], Doc(description="this router's address(es) on the VXLAN; default: routing.yaml's")
    ] = ()
    networks: Annotated[
        tuple[Network, ...], Doc(description="this stack's networks: name=subnet,…; default: routing.yaml's")
    ] = ()
    mtu: Annotated[int, Doc(ge=0, le=65535, description="MTU of the uplink in octets; 0: as the kernel says")] = 0
    routing_config: Annotated[
        str, Doc(description=f"routing.yaml; default: {ROUTING_CONFIGS[0]}, then {ROUTING_CONFIGS[1]}")
    ] = ""
    data_dir: Annotated[str, Doc(description="folder that discovery and router share")] = DATA_DIR
    log_level: Annotated[Literal["debug", "info", "warn", "warning", "error"], Doc(description="what is logged")] = (
        "info"
    )

    @property
    def data(self) -> Path:
        """The shared folder."""
        return Path(self.data_dir)

    @property
    def level(self) -> str:
        """As Python's logging has it."""
        return LEVELS.get(self.log_level, self.log_level)

    @property
    def routing(self) -> tuple[Path, ...]:
        """Where routing.yaml may be, the first one that is there holds."""
        return (Path(self.routing_config),) if self.routing_config else tuple(map(Path, ROUTING_CONFIGS))


SHARED_VARIABLES = Variables(StackSettings).names


def check(settings: StackSettings) -> None:
    """Raises SettingsError for what can't go together."""
    for variable, addresses in (("HOST_IP", settings.host_ip), ("LOCAL_VXLAN_IP", settings.local_vxlan_ip)):
        if len({address.version for address in addresses}) != len(addresses):
            shown = ",".join(map(str, addresses))
            raise SettingsError(f"{variable} = {shown} names two addresses of one IP version; keep one")
        for address in addresses:
            if getattr(address, "scope_id", None):
                raise SettingsError(
                    f"{variable} = {address} has a zone, which means nothing to other hosts; leave it out"
                )
    for address in settings.host_ip:
        if address.is_loopback or address.is_unspecified or address.is_multicast:
            raise SettingsError(f"HOST_IP = {address} is an address that no other host can send to; leave it out")
    if settings.networks and not settings.stack_id:
        raise SettingsError("NETWORKS are set, and STACK_ID isn't: whose are they?")
    if 0 < settings.mtu < LEAST_MTU:
        raise SettingsError(f"MTU = {settings.mtu} is less than {LEAST_MTU}, too little for a tunnel; 0: the kernel's")
    for variable in ("STACK_ID", "PEER_ID"):
        name: str = getattr(settings, variable.lower())
        if not name.isprintable() or len(name.encode()) > 200:
            raise SettingsError(f"{variable} = {name!r} can't be a name: printable text of at most 200 octets is")
    for variable in ("DATA_DIR", "ROUTING_CONFIG", "WEFT_SOCKET"):
        path: str = getattr(settings, variable.lower(), "")
        if path and not Path(path).is_absolute():
            raise SettingsError(f"{variable} = {path!r} must be an absolute path")
