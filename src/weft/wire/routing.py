"""routing.yaml: which networks a stack has, where its end of the overlay is, and which subnets lie behind which other
stack. Read by `weft router`, and by `weft discovery` for the networks to announce. docs/routing-yaml.md is its
reference for people.

Three shapes are read: the docker-router document's, the older one (`container_subnet`, `stack_mappings`), and ours for
several stacks of one host, `stacks:` with a list of the document's. What contradicts itself within one stack is refused
here, with the path, the value and what would be right. What two stacks may not both say is decided in `core/stacks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from weft.errors import WireError
from weft.model import IPAddress, IPNetwork, Network
from weft.wire.yaml_fields import Fields, Tree, fault

FILE = "routing.yaml"
LAST_VNI = 0xFFFFFF
STACK = (
    *("stack_id", "vni", "vxlan_subnet", "local_vxlan_ip", "vxlan_ip", "networks", "remote_stacks"),
    *("container_subnet", "stack_mappings"),
)
NETWORK = ("name", "subnet", "gateway")
REMOTE = ("stack_id", "vxlan_gateway", "networks")
REMOTE_NETWORK = ("name", "subnet")
MAPPING = ("vxlan_ip", "vxlan_gateway", "container_subnet")


@dataclass(frozen=True, slots=True)
class RemoteStack:
    """Another stack: `subnets` lie behind it, and `gateways` are its routers' addresses on the overlay; several of one
    family share the packets."""

    stack_id: str
    gateways: tuple[IPAddress, ...]
    subnets: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class StackConfig:
    """One stack of this host. "", None and empty: the file doesn't say. `local_vxlan_ips`, `vxlan_subnets`: at most one
    per family. `networks`: its own, as old as can be (since = 0). `gateways`: network's name → the address that
    containers in it send to, to be shown only."""

    stack_id: str
    vni: int | None = None
    vxlan_subnets: tuple[IPNetwork, ...] = ()
    local_vxlan_ips: tuple[IPAddress, ...] = ()
    networks: tuple[Network, ...] = ()
    gateways: tuple[tuple[str, IPAddress], ...] = ()
    remote: tuple[RemoteStack, ...] = ()

    def named(self, stack_id: str) -> StackConfig:
        """This stack with the id that the environment says. A file that lists all stacks alike (the older shape) lists
        it among the others: what that entry says is then its own."""
        mine = next((remote for remote in self.remote if remote.stack_id == stack_id), None)
        if mine is None:
            return self if stack_id == self.stack_id else replace(self, stack_id=stack_id)
        own = (Network(stack_id, mine.subnets, since=0.0),) if mine.subnets else ()
        return replace(
            self,
            stack_id=stack_id,
            local_vxlan_ips=self.local_vxlan_ips or mine.gateways,
            networks=self.networks or own,
            remote=tuple(remote for remote in self.remote if remote is not mine),
        )


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """`stacks`: in the file's order, at least one."""

    stacks: tuple[StackConfig, ...]


def decode_routing(text: str) -> RoutingConfig:
    """Read the file. WireError, which names the path and the value, if anything in it can't be used: a file is taken as
    a whole, or not at all."""
    try:
        return _decode(text)
    except WireError as error:
        raise WireError(f"{FILE}: {error}") from error


def _decode(text: str) -> RoutingConfig:
    from weft.wire.yaml_tree import read_yaml  # PyYAML: 1.5 MiB, and 20 ms, for who has a file

    tree = read_yaml(text)
    if tree == "":
        raise WireError("it is empty; the least that it holds is `version: 1`")
    top = Fields(tree, "", ("version", "stacks", *STACK))
    top.whole("version", 1, 1)
    if "stacks" not in top:
        return RoutingConfig((_stack(top),))
    for key in STACK:
        if key in top:
            raise WireError(f"{key}: with `stacks`, it stands in each of them; move it to stacks[0]")
    stacks = [_stack(Fields(item, where, STACK), needs_id=True) for where, item in top.items("stacks")]
    if not stacks:
        raise WireError("stacks: there is none in it; each entry begins with `- stack_id: `")
    for number, stack in enumerate(stacks):
        first = next(n for n, other in enumerate(stacks) if other.stack_id == stack.stack_id)
        if first != number:
            fault(f"stacks[{number}].stack_id", stack.stack_id, f"is stacks[{first}]'s already; give each its own")
    return RoutingConfig(tuple(stacks))


Placed = list[tuple[str, IPNetwork]]
"""Subnets, each with its path."""


@dataclass(frozen=True, slots=True)
class _Own:
    """One of the stack's own networks as the file has it."""

    network: Network
    subnets: Placed
    gateways: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """Another stack as the file has it. `named_at`: where its id stands."""

    where: str
    named_at: str
    name: str
    via: list[tuple[str, IPAddress]]
    subnets: Placed

    def stack(self) -> RemoteStack:
        return RemoteStack(self.name, tuple(a for _, a in self.via), tuple(s for _, s in self.subnets))


def _stack(fields: Fields, needs_id: bool = False) -> StackConfig:
    overlay = list(fields.subnets("vxlan_subnet"))
    local = list(fields.addresses(fields.one_of("local_vxlan_ip", "vxlan_ip")))
    _one_per_family(overlay)
    _one_per_family(local)
    own, entries = _own(fields), _entries(fields)
    stack_id = fields.name("stack_id") or _recognised(own, entries)
    if needs_id and not stack_id:
        raise WireError(f"{fields.at('stack_id')}: there is none; each of `stacks` needs its own")
    others = [entry for entry in entries if entry.name != stack_id]
    for where, address in (*local, *(via for entry in entries for via in entry.via)):
        _inside(where, address, overlay)
    _apart([*overlay, *(s for one in own for s in one.subnets), *(s for entry in others for s in entry.subnets)])
    _one_owner([*local, *(via for entry in others for via in entry.via)])
    stack = StackConfig(
        stack_id="",
        vni=fields.whole("vni", 1, LAST_VNI),
        vxlan_subnets=tuple(subnet for _, subnet in overlay),
        local_vxlan_ips=tuple(address for _, address in local),
        networks=tuple(one.network for one in own),
        gateways=tuple((one.network.name, gateway) for one in own for gateway in one.gateways),
        remote=tuple(entry.stack() for entry in entries),
    )
    return stack.named(stack_id)


def _own(fields: Fields) -> list[_Own]:
    """The stack's own networks."""
    key = fields.one_of("networks", "container_subnet")
    if key == "container_subnet" and key in fields:
        return [_network("containers", list(fields.subnets(key)))]
    found: dict[str, _Own] = {}
    for where, item in fields.items("networks"):
        entry = _network_entry(item, where, NETWORK)
        subnets = _needed(entry, "subnet")
        name = entry.name("name") or ",".join(str(subnet) for _, subnet in subnets)
        if name in found:
            fault(entry.at("name"), name, "is there already; a network's subnets stand in one entry: `subnet: [a, b]`")
        gateways = list(entry.addresses("gateway"))
        for path, gateway in gateways:
            if not any(gateway in subnet for _, subnet in subnets):
                fault(path, str(gateway), f"is not in the network's {_listed(subnets)}")
        found[name] = _network(name, subnets, tuple(gateway for _, gateway in gateways))
    return list(found.values())


def _network_entry(item: Tree, where: str, keys: tuple[str, ...]) -> Fields:
    """A network's mapping; a subnet alone is one, too."""
    return Fields({"subnet": item} if isinstance(item, str) else item, where, keys)


def _network(name: str, subnets: Placed, gateways: tuple[IPAddress, ...] = ()) -> _Own:
    return _Own(Network(name, tuple(subnet for _, subnet in subnets), since=0.0), subnets, gateways)


def _entries(fields: Fields) -> list[_Entry]:
    """The stacks that the file lists, each once."""
    if fields.one_of("remote_stacks", "stack_mappings") == "remote_stacks":
        entries = [_remote(Fields(item, where, REMOTE)) for where, item in fields.items("remote_stacks")]
    else:
        entries = [_mapping(Fields(item, where, MAPPING), key) for where, key, item in fields.parts("stack_mappings")]
    first: dict[str, _Entry] = {}
    for entry in entries:
        other = first.setdefault(entry.name, entry)
        if other is not entry:
            more = "a stack with several routers has one entry: `vxlan_gateway: [a, b]`"
            fault(entry.named_at, entry.name, f"is {other.where}'s already; {more}")
    return entries


def _remote(fields: Fields) -> _Entry:
    name, named_at = fields.name("stack_id"), fields.at("stack_id")
    if not name:
        raise WireError(f"{named_at}: there is none; it is the other stack's STACK_ID")
    if "networks" not in fields:
        raise WireError(f"{fields.at('networks')}: there is none; without any subnet behind it, write `networks: []`")
    subnets: Placed = []
    for where, item in fields.items("networks"):
        subnets.extend(_needed(_network_entry(item, where, REMOTE_NETWORK), "subnet"))
    return _Entry(fields.where, named_at, name, _via(fields, "vxlan_gateway"), subnets)


def _mapping(fields: Fields, name: str) -> _Entry:
    key = fields.one_of("vxlan_ip", "vxlan_gateway")
    return _Entry(fields.where, fields.where, name, _via(fields, key), _needed(fields, "container_subnet"))


def _via(fields: Fields, key: str) -> list[tuple[str, IPAddress]]:
    found = list(fields.addresses(key))
    if not found:
        raise WireError(f"{fields.at(key)}: there is none; it is the address of that stack's router on the overlay")
    return found


def _needed(fields: Fields, key: str) -> Placed:
    found = list(fields.subnets(key))
    if not found:
        raise WireError(f"{fields.at(key)}: there is none; it is the containers' subnet, such as 172.21.0.0/16")
    return found


def _recognised(own: list[_Own], entries: list[_Entry]) -> str:
    """Of a file that doesn't say whose it is: the stack that it lists with the very subnets that are its own."""
    subnets = {subnet for one in own for _, subnet in one.subnets}
    return next((e.name for e in entries if subnets and {subnet for _, subnet in e.subnets} == subnets), "")


def _one_per_family(found: list[tuple[str, IPAddress]] | Placed) -> None:
    versions: set[int] = set()
    for where, value in found:
        if value.version in versions:
            fault(where, str(value), f"is the second one of IPv{value.version}; there can be one of each family")
        versions.add(value.version)


def _inside(where: str, address: IPAddress, overlay: Placed) -> None:
    """Everybody on the overlay has an address of its subnet, where the file says what that is."""
    subnet = next((subnet for _, subnet in overlay if subnet.version == address.version), None)
    if subnet is None:
        return
    if address not in subnet:
        fault(where, str(address), f"is not in vxlan_subnet {subnet}")
    hosts = subnet.max_prefixlen - subnet.prefixlen
    ends = (subnet.network_address, subnet.broadcast_address) if subnet.version == 4 else (subnet.network_address,)
    if hosts > 1 and address in ends:
        fault(where, str(address), f"is the subnet's own address in {subnet}, no host's; {ends[0] + 1} could be one")


def _apart(subnets: Placed) -> None:
    """No two may overlap. Sorted by address, larger ones first, a subnet can only lie in the one before it that is not
    over yet."""
    order = sorted(range(len(subnets)), key=lambda n: _extent(subnets[n][1]))
    around: int | None = None
    for number in order:
        if around is not None and _overlap(subnets[around][1], subnets[number][1]):
            (first, one), (second, two) = subnets[min(around, number)], subnets[max(around, number)]
            fault(second, str(two), f"overlaps {one}, which is {first}'s; each address can be in one place")
        around = number


def _extent(subnet: IPNetwork) -> tuple[int, int, int]:
    return subnet.version, int(subnet.network_address), subnet.prefixlen


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and other.network_address in one


def _one_owner(addresses: list[tuple[str, IPAddress]]) -> None:
    owners: dict[IPAddress, str] = {}
    for where, address in addresses:
        other = owners.setdefault(address, where)
        if other != where:
            fault(where, str(address), f"is {other} already; each router has its own address on the overlay")


def _listed(subnets: Placed) -> str:
    return ", ".join(str(subnet) for _, subnet in subnets)
