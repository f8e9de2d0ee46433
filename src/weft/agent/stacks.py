"""Which stacks this host has: the environment over routing.yaml. For `weft discovery` and `weft router` alike, so that
both come to the same. Called by their daemons at the start and whenever routing.yaml changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from weft.backends.tunnel import vtep_mac
from weft.core.identity import Identity, Names, Self, describe
from weft.errors import SettingsError, WireError
from weft.model import Host, IPAddress, IPNetwork, Mac, Network, Node
from weft.settings.discovery import listed
from weft.settings.router import RouterSettings
from weft.settings.stack import StackSettings
from weft.wire import texts
from weft.wire.routing import RoutingConfig, StackConfig, decode_routing

LARGEST = 1 << 20
"""Octets of a routing.yaml that is read."""
NAMES = Names("INTERFACE", "HOST_IP", "")


def read_routing(places: Iterable[Path]) -> RoutingConfig | None:
    """The first routing.yaml that is there; None: there is none. Raises SettingsError for one that can't be used."""
    for path in places:
        try:
            with open(path, "rb") as file:
                octets = file.read(LARGEST + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise SettingsError(f"{path} can't be read: {error.strerror}") from error
        try:
            return decode_routing(octets.decode())
        except (WireError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error
    return None


def settled(settings: StackSettings, config: RoutingConfig | None) -> tuple[StackConfig, ...]:
    """The stacks of this host, each with an id and a VNI. Raises SettingsError that says what is missing."""
    stacks = config.stacks if config is not None else (StackConfig(settings.stack_id),)
    if settings.stack_id and len(stacks) > 1:
        stacks = tuple(stack for stack in stacks if stack.stack_id == settings.stack_id)
        if not stacks:
            raise SettingsError(f"STACK_ID = {settings.stack_id!r} is none of the stacks that routing.yaml lists")
    spaces = settings.vxlan_subnet if isinstance(settings, RouterSettings) else ()
    if len(stacks) > 1:
        single = {
            "PEER_ID": settings.peer_id,
            "VNI": settings.vni,
            "LOCAL_VXLAN_IP": settings.local_vxlan_ip,
            "VXLAN_SUBNET": spaces,
            "NETWORKS": settings.networks,
        }
        for variable in (name for name, value in single.items() if value):
            raise SettingsError(
                f"{variable} is of one stack, and routing.yaml lists {len(stacks)}; say which with STACK_ID, or leave"
                f" {variable} to routing.yaml"
            )
        return tuple(map(_complete, stacks))
    stack = stacks[0].named(settings.stack_id) if settings.stack_id else stacks[0]
    return (
        _complete(
            replace(
                stack,
                vni=settings.vni or stack.vni,
                vxlan_subnets=spaces or stack.vxlan_subnets,
                local_vxlan_ips=settings.local_vxlan_ip or stack.local_vxlan_ips,
                networks=settings.networks or stack.networks,
            )
        ),
    )


def _complete(stack: StackConfig) -> StackConfig:
    if not stack.stack_id:
        raise SettingsError("STACK_ID isn't set, and no routing.yaml says `stack_id`; e.g. STACK_ID=stack-a")
    if not stack.vni:
        raise SettingsError(f"VNI isn't set, and routing.yaml says no `vni` for {stack.stack_id}; e.g. VNI=1000")
    return stack


def identity_of(settings: StackSettings, stack: StackConfig | None, version: str, source: str) -> Identity:
    """What this host's end is described by. `stack` None: as far as that is the same for all of them."""
    return Identity(
        id=settings.peer_id or (stack.stack_id if stack is not None else ""),
        vni=(stack.vni or 0) if stack is not None else 0,
        port=settings.vxlan_port,
        version=version,
        interface=settings.interface,
        endpoints=settings.host_ip,
        mtu=settings.mtu,
        source=source,
        names=NAMES,
    )


def router_of(stack: StackConfig, identity: Identity, host: Host, current: tuple[IPAddress, ...] = ()) -> Self:
    """This host as a router of that stack. Its VTEP's MAC follows from its address: all stacks of one host and VNI
    share one, and discovery and router come to the same."""
    here = describe(identity, host, stack.networks, current)
    if here.node is None:
        return here
    node = replace(
        here.node,
        mac=vtep_mac(str(here.node.endpoints[0]), identity.vni),
        overlay=stack.local_vxlan_ips,
        stack=stack.stack_id,
    )
    return replace(here, node=node)


def common_vni(stacks: Iterable[StackConfig]) -> int:
    """The VNI that all of them have; 0: they have several."""
    found = {stack.vni or 0 for stack in stacks}
    return found.pop() if len(found) == 1 else 0


def static_peers(text: str, port: int, vni: int) -> tuple[Node, ...]:
    """STATIC_PEERS: `stack-b=10.0.2.6+192.168.100.2+172.21.0.0/16,…`, sorted. The word `weft` stands for the MAC that
    weft gives its VTEPs; a MAC may be named itself. `vni`: of those that name none (`vni=2000`), 0 if all must. Raises
    SettingsError."""
    nodes: dict[str, Node] = {}
    for item in listed(text):
        name, equals, rest = item.partition("=")
        try:
            if not equals or not name.strip():
                raise ValueError("it is not STACK=ADDRESS")
            node = _static_peer(texts.label(name.strip()), [word.strip() for word in rest.split("+")], port, vni)
        except ValueError as error:
            hint = "stack-b=10.0.2.6+192.168.100.2+172.21.0.0/16"
            raise SettingsError(f"STATIC_PEERS: {item!r}: {error}; e.g. {hint}") from error
        if node.id in nodes:
            raise SettingsError(f"STATIC_PEERS names {node.id} twice; keep one")
        nodes[node.id] = node
    return tuple(nodes[name] for name in sorted(nodes))


def _static_peer(name: str, words: list[str], port: int, vni: int) -> Node:
    """As strict as the reader of discovery.json: what that refused would keep the file from ever being complete."""
    endpoint = texts.endpoint(words[0])
    vni = _vni_among(words, vni)
    overlay: list[IPAddress] = []
    subnets: list[IPNetwork] = []
    mac = Mac(bytes(6))
    for word in words[1:]:
        if word.startswith("vni="):
            continue
        if word == "weft":
            mac = vtep_mac(str(endpoint), vni)
        elif "/" in word:
            subnets.append(texts.subnet(word))
        elif word.count(":") == 5 and len(word) == 17:
            mac = texts.mac(word)
        else:
            overlay.append(texts.endpoint(word))
    networks = tuple(Network(str(subnet), (subnet,), since=0.0) for subnet in subnets)
    return Node(
        id=name,
        endpoints=(endpoint,),
        port=port,
        vni=vni,
        mac=mac,
        mtu=0,
        networks=networks,
        overlay=tuple(overlay),
        source="static",
        stack=name,
    )


def _vni_among(words: list[str], default: int) -> int:
    named = next((word.removeprefix("vni=") for word in words if word.startswith("vni=")), "")
    if not named and not default:
        raise ValueError("this host has several VNIs: name one, as in +vni=1000")
    if not named:
        return default
    if not (named.isascii() and named.isdigit() and len(named) < 9 and 0 < int(named) < 1 << 24):
        raise ValueError(f"{named!r} is no VNI")
    return int(named)
