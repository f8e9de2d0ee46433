"""What a discovery may be told, whichever daemon asks for it: made from `weft agent`'s settings and `weft discovery`'s.

Each discovery takes what is its own; `discovery/__init__.py` deals it out. Times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weft.model import IPAddress, Node

Profile = Literal["lan", "fast"]
"""Gossip's timing: `lan` declares a killed node dead within 5 s, `fast` within 1.5 s at three times the traffic."""


@dataclass(frozen=True, slots=True)
class DnsMeans:
    """`server`: where updates go and, if named, queries too: `address` or `address:port`; "" means this host's resolver
    is asked and nothing is registered. `key`: `[algorithm:]name:base64` (TSIG, RFC 8945; hmac-sha256 unless said), ""
    for none. `priority`, `weight`: of our SRV record (RFC 2782). `ttl`, `interval`: seconds."""

    domain: str = ""
    server: str = ""
    ttl: int = 60
    interval: float = 30.0
    key: str = field(default="", repr=False)
    priority: int = 10
    weight: int = 5


@dataclass(frozen=True, slots=True)
class EtcdMeans:
    """`lease_ttl`: seconds that our keys outlive us."""

    endpoints: tuple[str, ...] = ()
    prefix: str = "/docker-router/discovery"
    lease_ttl: int = 30
    username: str = ""
    password: str = field(default="", repr=False)
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""


@dataclass(frozen=True, slots=True)
class GossipMeans:
    """`seeds`: members to join by, `host` or `host:port`. `keys`: pre-shared texts; the first one encrypts, all of them
    decrypt (so a key is changed without a gap); none: nothing is encrypted."""

    seeds: tuple[str, ...] = ()
    profile: Profile = "lan"
    keys: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Means:
    """`group` None: the default of the endpoint's family. `direct`: hosts to tell by unicast beside the group. `plain`:
    who speaks the docker-router document's plain form, without a MAC address, is a peer too. `crowded`: several nodes
    may have one endpoint and one VNI (stacks of one host). `peers`: of the discovery `static`."""

    announce_interval: float = 30.0
    peer_timeout: float = 90.0
    goodbye_hold: float = 30.0
    port: int = 4790
    group: IPAddress | None = None
    direct: tuple[IPAddress, ...] = ()
    plain: bool = False
    crowded: bool = False
    dns: DnsMeans = DnsMeans()
    etcd: EtcdMeans = EtcdMeans()
    gossip: GossipMeans = GossipMeans()
    peers: tuple[Node, ...] = ()
