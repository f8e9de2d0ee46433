"""The nouns of the cluster: nodes, their networks, and the View that one agent plans from.

Everything here is a frozen value: two equal values mean the same thing, so "did anything change?" is `==`, and a plan
can be memoised on the value that it was made from. Sources make these values, `core/` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Generic, Literal, NewType, TypeVar

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
IPInterface = IPv4Interface | IPv6Interface

Mac = NewType("Mac", bytes)
"""An Ethernet address: six octets."""

T = TypeVar("T")


def mac_text(mac: Mac) -> str:
    """`82:3d:cd:46:bc:78`."""
    return mac.hex(":")


def parse_mac(text: str) -> Mac:
    """Read `82:3d:cd:46:bc:78`; ValueError if it is anything else."""
    octets = bytes.fromhex(text.replace(":", ""))
    if len(octets) != 6 or text.count(":") != 5:
        raise ValueError(f"{text!r} is not an Ethernet address of six octets")
    return Mac(octets)


@dataclass(frozen=True, slots=True)
class Network:
    """A container network on one host.

    `since` is when it came to be (seconds since 1970; the engine's own creation time, 0 for one that the operator named
    in the settings): of two hosts that claim one subnet, the older claim holds, and every host comes to the same
    verdict. `exposed` False: known, shown, and told to nobody.
    """

    name: str
    subnets: tuple[IPNetwork, ...]
    bridge: str = ""
    since: float = float("inf")
    exposed: bool = True
    note: str = ""
    """Why it is not exposed, or another remark for `weft show networks`."""
    group: str = ""
    """Networks of two different groups don't talk with each other; one of no group talks with all."""
    stack: str = ""
    """Whose it is, of the stacks of one node. Nodes may share the networks of one stack."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The end of the node that another node is reached through: its endpoints, VTEP MAC and own overlay addresses.
    `direct`: as the node's own."""

    id: str
    endpoints: tuple[IPAddress, ...]
    mac: Mac
    overlay: tuple[IPAddress, ...] = ()
    direct: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """One host, as it describes itself to the others.

    `endpoints`: underlay addresses that tunnels end on, at most one per family. `mtu`: of its uplink, octets.
    `overlay`: addresses of its own inside its networks, source of what the host itself sends into the overlay.
    `key`: its WireGuard public key, base64. `stack`: what it is one router of, "" for a node that is nothing but
    itself; routers of one stack may announce the same networks. `mac` all zero: it told none and is flooded to.

    This host's own findings, not the node's word: `direct`: our uplink over which it is reached without a tunnel, "" if
    it isn't. `relay`: the node through which packets for its networks go. `outer`: where the tunnel's own packets are
    sent in place of its endpoint.
    """

    id: str
    endpoints: tuple[IPAddress, ...]
    port: int
    vni: int
    mac: Mac
    mtu: int
    networks: tuple[Network, ...] = ()
    overlay: tuple[IPAddress, ...] = ()
    backend: str = "vxlan"
    version: str = ""
    source: str = ""
    """Which source told us: `multicast`, `static`, …"""
    key: str = ""
    stack: str = ""
    direct: str = ""
    relay: Relay | None = None
    outer: IPAddress | None = None

    def endpoint(self, version: int) -> IPAddress | None:
        """The underlay address of IP version 4 or 6, or None."""
        return next((a for a in self.endpoints if a.version == version), None)


@dataclass(frozen=True, slots=True)
class Peer:
    """A node as a discovery knows it. `last_seen`: seconds since 1970. `stale`: it fell silent, and is forgotten after
    as long again."""

    node: Node
    last_seen: float
    status: Literal["active", "stale"] = "active"


@dataclass(frozen=True, slots=True)
class DiscoveryData:
    """What `weft discovery` hands to `weft router` in discovery.json. `peers`: sorted by id, without this host's own;
    `here`: those. `last_update`: seconds since 1970. `complete`: the discovery vouches that nobody is missing.
    `problems`: its own, and those of entries that could not be read."""

    peers: tuple[Peer, ...] = ()
    here: tuple[Peer, ...] = ()
    last_update: float = 0.0
    complete: bool = True
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a person should know: what it is about (a node, a network, a source) and one sentence.

    `wrong` False: it is as it should be, and still worth saying (a node of another VNI)."""

    subject: str
    message: str
    wrong: bool = True


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """One source's FULL set, at one moment; never a delta.

    `complete` False: the source can't vouch yet that nothing is missing, so nothing may be deleted on its word.
    """

    items: tuple[T, ...] = ()
    complete: bool = False
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A default route of the main table, of IP version 4 or 6. Of several, the kernel takes the one with the lowest
    metric; `source` is the address that it prefers for what this host sends itself."""

    version: int
    metric: int = 0
    source: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Uplink:
    """An interface of this host that is not ours: name, MTU in octets, its addresses in the kernel's own order (a
    family's primary ones first), and the default routes that go out of it. `accepts_ra`: it takes its IPv6 default
    route from router advertisements, which the kernel stops doing when forwarding is on unless accept_ra is 2."""

    name: str
    mtu: int
    addresses: tuple[IPInterface, ...] = ()
    defaults: tuple[DefaultRoute, ...] = ()
    accepts_ra: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """How packets to an address leave this host. `gateway` None: it is on the link itself. `source`: the address that
    the kernel would send from."""

    dev: str
    gateway: IPAddress | None = None
    source: IPAddress | None = None


DETECTION = "detection"
"""Source of the StaticRoutes that nobody asked for."""


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """A route beside those to the nodes' networks: an operator asked for it, or this host found that it is needed.
    `source`: who asked ("settings", DETECTION), `rule`: the words in which."""

    dst: IPNetwork
    via: IPAddress
    dev: str
    source: str
    rule: str


@dataclass(frozen=True, slots=True)
class TableRoute:
    """A route that a cloud's route table is to have. `table`: its name there (a VPC network, AWS' rtb-…). `via`: the
    address of the host that takes the packets. `source`, `peer`, `rule`: who asked, about whom, in which words."""

    table: str
    dst: IPNetwork
    via: IPAddress
    source: str
    peer: str
    rule: str


@dataclass(frozen=True, slots=True)
class Multipath:
    """A subnet that several nodes take packets for. `ends`: theirs, two or more, sorted by id. `mtu`: of the narrowest
    of their uplinks, octets, 0: not known. `source`: who says so, `rule`: in which words."""

    subnet: IPNetwork
    ends: tuple[Relay, ...]
    source: str
    rule: str
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Path:
    """What is probed: the way from `local` to `remote` (addresses of one family), through the device of the tunnel, or
    over the underlay. `mtu`: octets that an IP packet must be able to have on it, 0: not probed."""

    node: str
    kind: Literal["tunnel", "underlay"]
    device: str
    local: IPAddress
    remote: IPAddress
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Reach:
    """What probing a path came to. `state`: "unknown" until it was up or a first detection time has passed. `since`:
    seconds since 1970 of the last change. `full`: packets as large as `Path.mtu` get through, None: not known (yet).
    `reason`: why it is not up, for people."""

    path: Path
    state: Literal["unknown", "up", "down"]
    since: float
    full: bool | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """What this host's kernel and firewall have, as far as a plan depends on it. `refused`: what an administrator
    forbids in so many words: (4 or 6, a rule of FORWARD or DOCKER-USER that drops or rejects something particular, or,
    ending in RETURN, an exception to those behind it)."""

    uplinks: tuple[Uplink, ...] = ()
    ipv6: bool = True
    """A device made now would have IPv6."""
    nexthop_objects: bool = True
    """The kernel has next-hop objects (Linux 5.3)."""
    sysctls: bool = True
    """Kernel settings can be written: Docker mounts a container's /proc/sys read-only."""
    strict: bool = False
    """Where they can't: a device of ours has a strict rp_filter, or would have."""
    refused: tuple[tuple[int, str], ...] = ()
    chains: frozenset[tuple[int, str, str]] = frozenset()
    """Foreign firewall chains that we hook into where they exist: (4 or 6, table, chain), e.g. (4, "filter",
    "DOCKER-USER"). A family of which no chain is listed has no firewall tool here."""


@dataclass(frozen=True, slots=True)
class WireguardEnd:
    """This host's end, beyond what every tunnel has. `key`: its public key, base64. `port`: where it listens, and
    where peers do that told none. `psk`: base64, "" for none. `keepalive`: seconds, 0 for none. `mode`: which family's
    endpoints are used: `separate` the overlay's own, `auto` IPv4 where a peer has it, else IPv6."""

    key: str
    port: int = 51820
    psk: str = field(default="", repr=False)
    keepalive: int = 0
    mode: Literal["separate", "auto", "ipv4", "ipv6"] = "separate"
    fwmark: int = 0

    def families(self, underlay: int) -> tuple[int, ...]:
        """IP versions of the endpoints that this end may use, the preferred one first."""
        return {"separate": (underlay,), "auto": (4, 6), "ipv4": (4,), "ipv6": (6,)}[self.mode]


@dataclass(frozen=True, slots=True)
class Profile:
    """How this daemon lays its overlay out: what in the settings a plan depends on.

    `role`: the daemon, part of the mark on its links, and `mark` the rest of it ("": this host's id). `underlay`: 4 or
    6, the family that the tunnels run over. `device`: its name, "" for `vxlan<VNI>`. `gateway`: which address of a peer
    routes go through. `span`: the whole network that the hosts share out among them; where there is one, the firewall
    lets all of it through (`forward`) and translates what leaves it (`masquerade`), not only this host's networks.
    `clamp`: TCP's segments are made to fit the device; False where there is none. `shared`: the device is another
    daemon's: nothing is written on it, routes alone go out of it, and the firewall's chains are named after the role.
    `sources`: on such a device, what this host's own packets through a relay come from, at most one per family: answers
    to the device's own address would take the direct way. `plane` False: this daemon writes files, and nothing of the
    kernel's. `spaces`: networks of the nodes' own overlay addresses, on the device with that length, not as single
    addresses. `flood`: peers are reached by all-zero FDB entries and neighbour discovery, not by static entries.
    """

    role: str = "agent"
    mark: str = ""
    underlay: int = 4
    learning: bool = False
    gbp: bool = False
    metric: int = 7600
    device: str = ""
    gateway: Literal["endpoint", "overlay"] = "endpoint"
    span: tuple[IPNetwork, ...] = ()
    forward: bool = True
    masquerade: bool = False
    clamp: bool = True
    shared: bool = False
    sources: tuple[IPAddress, ...] = ()
    wireguard: WireguardEnd | None = None
    plane: bool = True
    spaces: tuple[IPNetwork, ...] = ()
    flood: bool = False


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file that other programs read, whole: flannel's subnet.env. `mode`: its permissions."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class View:
    """All that one agent knows at one moment, accepted and sorted: the only input of `plan`.

    `nodes`: accepted peers, sorted by id. `synced`: every source has spoken, so deletions are allowed. `beside`: other
    overlays of the same daemon (flannel's IPv6 one), each with a device of its own; their host, their files and whether
    they are synced are this View's. `routes`: others than those to the nodes' networks. `apart`: pairs of subnets that
    may not talk with each other, in either direction. `diverted`: endpoint → where this host's tunnel packets to it go
    in its place (a gateway that forwards them itself). `multipath`: subnets that several of the nodes take packets for,
    and that are in none of their networks. `table_routes`: what a cloud is to have.
    """

    me: Node
    networks: tuple[Network, ...] = ()
    nodes: tuple[Node, ...] = ()
    problems: tuple[Problem, ...] = ()
    host: Host = field(default_factory=Host)
    profile: Profile = field(default_factory=Profile)
    synced: bool = False
    files: tuple[TextFile, ...] = ()
    beside: tuple[View, ...] = ()
    routes: tuple[StaticRoute, ...] = ()
    apart: tuple[tuple[IPNetwork, IPNetwork], ...] = ()
    diverted: tuple[tuple[IPAddress, IPAddress], ...] = ()
    multipath: tuple[Multipath, ...] = ()
    table_routes: tuple[TableRoute, ...] = ()
