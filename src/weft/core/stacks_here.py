"""This host's own stacks, sorted by VNI: stacks of one VNI share a device, and what two of them may not both say is
decided. Pure; called by `stacks.py`.

Of two stacks that contradict each other the first one holds, in the order in which they are configured; the other one
keeps what is left, and both are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from weft.backends.tunnel import vtep_mac
from weft.core.dispute import called
from weft.model import Host, IPAddress, IPNetwork, Network, Node, Problem
from weft.wire.routing import RemoteStack, StackConfig


@dataclass(frozen=True, slots=True)
class Home:
    """What this host is in one VNI. `stacks`: the ids of its stacks; `spaces`: the overlay's own subnets, at most one
    per family; `listed`: by stack, what routing.yaml says of the others."""

    me: Node
    stacks: tuple[str, ...]
    spaces: tuple[IPNetwork, ...]
    listed: Mapping[str, RemoteStack]

    @property
    def vni(self) -> int:
        return self.me.vni


def homes(stacks: Sequence[StackConfig], me: Node, peer_id: str) -> tuple[tuple[Home, ...], tuple[Problem, ...]]:
    """This host in each of its VNIs, in the stacks' order, and what is wrong. `me`: this host as far as it is the same
    in all of them. `peer_id`: its name among the others, "": its stacks'."""
    desk = _Desk(me, peer_id)
    for stack in stacks:
        desk.take(stack)
    return tuple(desk.home(vni) for vni in desk.by_vni), tuple(desk.problems)


class _Desk:
    """Takes one stack after the other, and of each what goes with those before it."""

    def __init__(self, me: Node, peer_id: str) -> None:
        self.by_vni: dict[int, list[StackConfig]] = {}
        self.problems: list[Problem] = []
        self._me, self._peer_id = me, peer_id
        self._networks: list[tuple[str, IPNetwork]] = []
        self._spaces: list[tuple[int, str, IPNetwork]] = []
        self._addresses: dict[IPAddress, tuple[int, str]] = {}
        self._listed: dict[tuple[int, str], tuple[str, RemoteStack]] = {}

    def take(self, stack: StackConfig) -> None:
        if stack.vni is None:
            self._say(stack, "has no VNI, so nothing is done for it; set VNI, or `vni` in routing.yaml")
            return
        if any(other.stack_id == stack.stack_id for others in self.by_vni.values() for other in others):
            self._say(stack, "is configured twice; the first one holds")
            return
        if not stack.local_vxlan_ips:
            self._say(stack, "has no LOCAL_VXLAN_IP: stacks that don't know this host's MAC address can't reach it")
        networks = self._own_networks(stack)
        spaces = self._own_spaces(stack, stack.vni, networks)
        fitting = replace(
            stack,
            vxlan_subnets=spaces,
            local_vxlan_ips=self._own_addresses(stack, stack.vni, spaces),
            networks=networks,
            remote=tuple(one for one in stack.remote if self._agrees(stack, stack.vni, one)),
        )
        self.by_vni.setdefault(stack.vni, []).append(fitting)

    def home(self, vni: int) -> Home:
        stacks = self.by_vni[vni]
        ids = tuple(stack.stack_id for stack in stacks)
        here = frozenset(stack.stack_id for others in self.by_vni.values() for stack in others)
        me = replace(
            self._me,
            id=self._peer_id or "+".join(ids),
            vni=vni,
            mac=vtep_mac(str(self._me.endpoints[0]), vni),
            networks=tuple(network for stack in stacks for network in stack.networks),
            overlay=tuple(address for stack in stacks for address in stack.local_vxlan_ips),
            stack=ids[0] if len(ids) == 1 else "",
        )
        spaces = tuple(space for number, _, space in self._spaces if number == vni)
        listed = {one.stack_id: one for stack in stacks for one in stack.remote if one.stack_id not in here}
        return Home(me, ids, spaces, listed)

    def _say(self, stack: StackConfig, what: str) -> None:
        self.problems.append(Problem(stack.stack_id, f"stack {stack.stack_id} {what}"))

    def _own_networks(self, stack: StackConfig) -> tuple[Network, ...]:
        """Two stacks of one host can't have the same addresses."""
        kept: list[Network] = []
        for network in stack.networks:
            good = tuple(subnet for subnet in network.subnets if self._is_free(stack, network, subnet))
            self._networks.extend((stack.stack_id, subnet) for subnet in good)
            if good:
                kept.append(replace(network, subnets=good, stack=stack.stack_id))
        return tuple(kept)

    def _is_free(self, stack: StackConfig, network: Network, subnet: IPNetwork) -> bool:
        other = next((of for of, one in self._networks if of != stack.stack_id and meet(one, subnet)), None)
        if other is not None:
            what = called(network.name, subnet)
            self._say(stack, f"has the {what}, which overlaps stack {other}'s; {other}'s holds")
        return other is None

    def _own_spaces(self, stack: StackConfig, vni: int, networks: Sequence[Network]) -> tuple[IPNetwork, ...]:
        """The overlay's subnets that hold for this stack."""
        found: list[IPNetwork] = []
        for space in stack.vxlan_subnets:
            same = next((s for number, _, s in self._spaces if number == vni and s.version == space.version), None)
            if same is None and self._is_apart(stack, space, networks):
                self._spaces.append((vni, stack.stack_id, space))
                same = space
            elif same is not None and same != space:
                self._say(stack, f"has the vxlan_subnet {space}, and another stack of VNI {vni} has {same}; that holds")
            found.extend(() if same is None else (same,))
        versions = {space.version for space in found}
        found.extend(s for number, _, s in self._spaces if number == vni and s.version not in versions)
        return tuple(found)

    def _is_apart(self, stack: StackConfig, space: IPNetwork, networks: Sequence[Network]) -> bool:
        """Two devices can't lead to the same addresses, nor a device and a bridge."""
        own = next((s for network in networks for s in network.subnets if meet(s, space)), None)
        other = next((f"VNI {vni}, of stack {of}" for vni, of, one in self._spaces if meet(one, space)), None)
        bridged = next((of for of, one in self._networks if meet(one, space)), None)
        if own is not None:
            self._say(stack, f"has the vxlan_subnet {space}, which overlaps its own network {own}; name another one")
        elif other is not None:
            self._say(stack, f"has the vxlan_subnet {space}, which is that of {other}; each VNI needs its own")
        elif bridged is not None:
            self._say(stack, f"has the vxlan_subnet {space}, which overlaps a network of stack {bridged}; name another")
        return own is None and other is None and bridged is None

    def _own_addresses(self, stack: StackConfig, vni: int, spaces: Sequence[IPNetwork]) -> tuple[IPAddress, ...]:
        found: list[IPAddress] = []
        for address in stack.local_vxlan_ips:
            space = next((space for space in spaces if space.version == address.version), None)
            number, other = self._addresses.setdefault(address, (vni, stack.stack_id))
            if space is not None and address not in space:
                self._say(stack, f"has the local_vxlan_ip {address}, which is not in VNI {vni}'s vxlan_subnet {space}")
            elif number != vni:
                self._say(stack, f"has the local_vxlan_ip {address}, which is that of stack {other} in VNI {number}")
            elif other == stack.stack_id:
                found.append(address)
        return tuple(found)

    def _agrees(self, stack: StackConfig, vni: int, remote: RemoteStack) -> bool:
        """Stacks of one VNI reach another stack by one way."""
        of, first = self._listed.setdefault((vni, remote.stack_id), (stack.stack_id, remote))
        if first != remote:
            self._say(stack, f"lists stack {remote.stack_id} otherwise than stack {of} does; {of}'s list holds")
        return of == stack.stack_id


def odds(homes: Sequence[Home], here: Sequence[Node]) -> Iterator[Problem]:
    """What `weft discovery` tells the others of this host (`here`), and is not so."""
    told = {home.me.vni: [node for node in here if node.vni == home.me.vni] for home in homes}
    for home in homes if here else ():
        me = home.me
        nodes = told.get(me.vni, [])
        if not nodes:
            vnis = ", ".join(str(node.vni) for node in here)
            text = f"discovery announces this host in VNI {vnis} alone: nobody there reaches it in VNI {me.vni}"
            yield Problem("discovery", f"{text}; set VNI alike for both")
        for node in nodes:
            if node.endpoints[0] != me.endpoints[0]:
                text = f"discovery announces this host at {node.endpoints[0]}, the router's tunnels end at"
                yield Problem("discovery", f"{text} {me.endpoints[0]}; set HOST_IP or INTERFACE alike for both")
            elif node.port != me.port:
                text = f"discovery announces VXLAN on port {node.port}, the router has it on {me.port}"
                yield Problem("discovery", f"{text}; set VXLAN_PORT alike for both")
            for address in node.overlay:
                if node.stack and me.overlay and address not in me.overlay:
                    text = f"discovery announces vxlan_ip {address} for stack {node.stack}, the router has"
                    addresses = ", ".join(map(str, me.overlay))
                    yield Problem("discovery", f"{text} {addresses}; set LOCAL_VXLAN_IP alike for both")


def collisions(homes: Sequence[Home], host: Host) -> Iterator[Problem]:
    """Overlays' subnets that this host has on other devices, too, or that hold these: what is meant for the underlay
    (other hosts' endpoints among it) could go into the tunnel, or the other way round."""
    for home in homes:
        for space in home.spaces:
            for uplink in host.uplinks:
                for interface in uplink.addresses:
                    if not interface.ip.is_link_local and meet(interface.network, space):
                        text = f"VNI {home.vni} has the vxlan_subnet {space}, which overlaps {interface.network} on"
                        yield Problem("+".join(home.stacks), f"{text} {uplink.name} of this host; name another one")


def meet(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether one lies in the other."""
    if one.version != other.version:
        return False
    return one.network_address in other or other.network_address in one
