"""Short ways to make what `weft router` knows: `peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16")`."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Literal

from tests.build import PRIVATE
from weft.agent.router import RouterWorld, Wishes
from weft.backends.tunnel import vtep_mac
from weft.core.identity import Identity
from weft.core.stacks import Options, Overlay, Scene, Survey
from weft.model import DefaultRoute, DiscoveryData, Host, Mac, Network, Node, Peer, Uplink
from weft.wire.routing import StackConfig, decode_routing

VNI = 1000
PORT = 4789
NO_MAC = Mac(bytes(6))
SPACE = "192.168.100.0/24"


def thousand() -> list[Peer]:
    """That many stacks, in the overlay 172.31.0.0/16."""
    places = [f"{n // 250 + 1}.{n % 250 + 1}" for n in range(1000)]
    return [peer(f"s{n:04}", f"10.0.{at}", f"172.31.{at}", f"10.64.{at}/32") for n, at in enumerate(places)]


def subnets(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def peer(
    stack: str,
    endpoint: str,
    overlay: str,
    networks: str = "",
    *,
    id: str = "",  # noqa: A002 (the field's own name)
    vni: int = VNI,
    mac: Mac | None = None,
    since: float = 100.0,
    status: Literal["active", "stale"] = "active",
) -> Peer:
    """A router of a stack; several endpoints, overlay addresses and networks stand between commas."""
    ends = tuple(map(ip_address, endpoint.split(",")))
    node = Node(
        id=id or stack,
        endpoints=ends,
        port=PORT,
        vni=vni,
        mac=vtep_mac(str(ends[0]), vni) if mac is None else mac,
        mtu=1500,
        networks=tuple(Network(one, (ip_network(one),), since=since) for one in subnets(networks)),
        overlay=tuple(map(ip_address, subnets(overlay))),
        source="multicast",
        stack=stack,
    )
    return Peer(node, 1e9, status)


def agent(name: str, endpoint: str, subnet: str, overlay: str = "") -> Peer:
    """A `weft agent`: no stack's router, its overlay address is inside its own network."""
    one = peer(name, endpoint, overlay, subnet)
    return replace(one, node=replace(one.node, stack="", mac=vtep_mac(name, VNI)))


def data(*peers: Peer, complete: bool = True) -> DiscoveryData:
    return DiscoveryData(tuple(sorted(peers, key=lambda one: one.node.id)), complete=complete)


def stack(text: str = "", **changes: object) -> StackConfig:
    """stack-a with VNI 1000 at 192.168.100.1, network 172.20.0.0/16; `text`: more of its routing.yaml."""
    plain = f"stack_id: stack-a\nvni: {VNI}\nvxlan_subnet: {SPACE}\nlocal_vxlan_ip: 192.168.100.1\n"
    (one,) = decode_routing(f"{plain}networks: [{{name: internal, subnet: 172.20.0.0/16}}]\n{text}").stacks
    return replace(one, **changes)  # type: ignore[arg-type]


def remote(stack_id: str, gateways: str, *networks: str) -> str:
    """One entry of `remote_stacks`."""
    return f"{{stack_id: {stack_id}, vxlan_gateway: [{gateways}], networks: [{', '.join(networks)}]}}"


def host(*addresses: str, ipv6: bool = True) -> Host:
    found = tuple(map(ip_interface, addresses or ("10.0.0.1/16",)))
    versions = sorted({address.version for address in found})
    return Host((Uplink("eth0", 1500, found, tuple(map(DefaultRoute, versions))),), ipv6=ipv6)


def world(*stacks: StackConfig, options: Options | None = None, facts: Host | None = None) -> RouterWorld:
    wishes = Wishes(Identity("", 0, PORT, "1"), "stack-a", options or Options(PRIVATE), "/data/routes.json")
    return RouterWorld(wishes, stacks or (stack(),), facts or host())


def scene(*peers: Peer, stacks: tuple[StackConfig, ...] = (), options: Options | None = None) -> Scene:
    """This host is 10.0.0.1."""
    me = peer("", "10.0.0.1", "", id="me").node
    return Scene(stacks or (stack(),), me, 4, host(), data(*peers), options or Options(PRIVATE))


def config(stack_id: str, vni: int | None, space: str, address: str, *subnets: str) -> StackConfig:
    return StackConfig(
        stack_id,
        vni,
        (ip_network(space),) if space else (),
        tuple(map(ip_address, filter(None, address.split(",")))),
        (Network("n", tuple(map(ip_network, subnets)), since=0.0),) if subnets else (),
    )


def first(found: Survey) -> Overlay:
    return found.overlays[0]


def routed(found: Survey) -> dict[str, str]:
    """Destination → `node via address (source)`, of all overlays."""
    rows: dict[str, str] = {}
    for overlay in found.overlays:
        for node in overlay.nodes:
            for network in node.networks:
                for subnet in network.subnets:
                    via = next((a for a in node.overlay if a.version == subnet.version), "its MAC")
                    rows[str(subnet)] = f"{node.id} via {via} ({network.note})"
        for several in overlay.multipath:
            ends = "+".join(f"{end.id} via {end.overlay[0]}" for end in several.ends)
            rows[str(several.subnet)] = f"{ends} ({several.source})"
    return rows


def messages(found: Survey, *, wrong: bool | None = None) -> list[str]:
    return [p.message for p in found.problems if wrong is None or p.wrong == wrong]


def listing(*entries: str) -> StackConfig:
    return stack(f"remote_stacks: [{', '.join(entries)}]")
