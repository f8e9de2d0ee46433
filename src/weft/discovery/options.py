"""What the discoveries by multicast and by etcd can be told: a frozen value each, made by `discovery/__init__.py` from
the settings and by tests by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from weft.errors import DiscoveryError
from weft.model import IPAddress

GROUP_V4 = IPv4Address("239.1.1.1")
"""The docker-router document's group; 239/8 is administratively scoped (RFC 2365)."""
GROUP_V6 = IPv6Address("ff12::4790")
"""Link-local scope, not permanently assigned (RFC 4291, 2.7: flag T)."""
PORT = 4790

OPEN = ("multicast", "gossip")
"""The discoveries in which anybody may speak, unless there is a key."""
NO_KEY_WARNING = (
    "no key is set: whoever can send a datagram to UDP port {port} of this network can announce networks and take "
    "their traffic; set the same {key} (or {key}_FILE) on every host"
)
"""What the daemon says at start when `key` is None; format with `port`, and with `key`: the variable's name."""


def default_group(source: IPAddress) -> IPAddress:
    """The group of this address's family."""
    return GROUP_V4 if source.version == 4 else GROUP_V6


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of this host's memory other hosts can have. What goes over is refused and reported, not truncated."""

    peers: int = 20_000
    subnets: int = 10_000
    """Of one peer."""
    octets: int = 32 << 20
    """Of all peers' announcements together, as they came; in memory they take some ten times that."""
    assembly_octets: int = 4 << 20
    """Of parts that wait for the rest of their set; beyond that, the oldest ones are given up."""
    problems: int = 256


@dataclass(frozen=True, slots=True)
class MulticastSettings:
    """`node` is this host's id, `source` its endpoint: datagrams go out of `interface` with that source address.

    `instance` must be a new random text for each start of the program; `direct` are hosts to tell by unicast too.
    Times in seconds. DiscoveryError if the addresses' families don't fit together.
    """

    node: str
    interface: str
    source: IPAddress
    instance: str
    group: IPAddress = GROUP_V4
    port: int = PORT
    ttl: int = 1
    direct: tuple[IPAddress, ...] = ()
    announce_interval: float = 30.0
    peer_timeout: float = 90.0
    goodbye_hold: float = 30.0
    """How long who said goodbye is kept: a restart under traffic says goodbye and is back long before."""
    key: bytes | None = field(default=None, repr=False)
    """The pre-shared text; None: nothing is sealed or checked."""
    plain: bool = False
    """Who speaks the document's plain form is a peer too; with a key, nobody can."""
    crowded: bool = False
    """Several nodes may have one endpoint, VNI and port: stacks of one host."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.group.is_multicast:
            raise DiscoveryError(f"{self.group} is not a multicast group; e.g. {default_group(self.source)}")
        for address in (self.source, *self.direct):
            if address.version != self.group.version:
                raise DiscoveryError(
                    f"discovery speaks to {self.group}, and {address} is of the other IP version; "
                    f"give a group and addresses of one version"
                )


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """`node`: this node's id. `instance`: a new random text for each start of the program. `prefix`: without a slash at
    its end. Times in seconds; `lease_ttl`: how long our keys outlive us."""

    node: str
    instance: str
    prefix: str = "/docker-router/discovery"
    lease_ttl: int = 30
    announce_interval: float = 30.0
    peer_timeout: float = 90.0
    goodbye_hold: float = 30.0
    plain: bool = False
    limits: Limits = Limits()
