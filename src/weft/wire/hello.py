"""What discovery messages say: HELLO, GOODBYE, QUERY and TABLE_SYNC as values.

`wire/router.py` turns them into bytes and back; `discovery/` acts on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from weft.errors import WireError
from weft.model import IPAddress, IPNetwork, Mac, Network, Node

PLAIN_PORT = 4789
"""Where the tunnel of a host ends that did not say: IANA's port of VXLAN, the docker-router document's."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which running program said it, and when in the order of all that it said.

    `instance` is random for each start; `epoch` (milliseconds since 1970 at that start) puts the instances of one node
    in order; `seq` counts the messages of one instance, and the parts of one message share it.
    """

    instance: str
    epoch: int
    seq: int

    @property
    def program(self) -> str:
        """What is new with each start alone: a program whose uplink changes speaks from there as another instance."""
        return self.instance.partition(".")[0]

    def moves(self, former: Stamp) -> bool:
        """The program that said `former` says this, and from a newer instance: it may have moved."""
        return self.program == former.program and self.epoch > former.epoch


@dataclass(frozen=True, slots=True)
class Hello:
    """A node describes itself. `node` None: the sender spoke the document's plain form (or the older ANNOUNCE and
    RESPONSE), which has no MAC address. `open_ended`: the last network goes on in the next part."""

    peer_id: str
    endpoints: tuple[IPAddress, ...]
    vni: int
    stack_name: str = ""
    vxlan_ip: IPAddress | None = None
    subnets: tuple[IPNetwork, ...] = ()
    stamp: Stamp | None = None
    node: Node | None = None
    part: int = 1
    parts: int = 1
    query: bool = False
    open_ended: bool = False
    kind: str = field(default="HELLO", compare=False)


@dataclass(frozen=True, slots=True)
class Goodbye:
    """A node leaves; its networks are gone."""

    peer_id: str
    endpoints: tuple[IPAddress, ...]
    stamp: Stamp | None
    kind: str = field(default="GOODBYE", compare=False)


@dataclass(frozen=True, slots=True)
class Query:
    """Somebody asks everybody to describe themselves, and tells nothing. Without a stamp: the older form, answered
    with a RESPONSE too."""

    peer_id: str
    endpoints: tuple[IPAddress, ...]
    stamp: Stamp | None
    kind: str = field(default="QUERY", compare=False)


@dataclass(frozen=True, slots=True)
class TableSync:
    """Somebody tells what it knows of others, which is hearsay: counted, and not believed. It can carry no stamp."""

    peer_id: str
    stamp: Stamp | None = None
    kind: str = field(default="TABLE_SYNC", compare=False)


Message: TypeAlias = Hello | Goodbye | Query | TableSync


def plain_node(hello: Hello, source: str, port: int = PLAIN_PORT) -> Node:
    """Who spoke the plain form, as far as that tells: no MAC address (it is flooded to), no age of its networks (any
    other claim is older), and its uplink's MTU is not known. `source`: the discovery that heard it."""
    return Node(
        id=hello.peer_id,
        endpoints=hello.endpoints,
        port=port,
        vni=hello.vni,
        mac=Mac(bytes(6)),
        mtu=0,
        networks=tuple(Network(str(subnet), (subnet,)) for subnet in hello.subnets),
        overlay=(hello.vxlan_ip,) if hello.vxlan_ip is not None else (),
        source=source,
        stack=hello.stack_name or hello.peer_id,
    )


def merge(parts: Sequence[Hello]) -> Hello:
    """Join all parts of one HELLO, in order; the first one's head holds. WireError if they don't fit together."""
    first = parts[0]
    if first.node is None or [p.part for p in parts] != list(range(1, first.parts + 1)) or parts[-1].open_ended:
        raise WireError(f"the parts of {first.peer_id}'s HELLO don't make a whole")
    networks: list[Network] = []
    overlay: list[IPAddress] = []
    for before, part in zip((None, *parts), parts, strict=False):
        if part.node is None:
            raise WireError(f"part {part.part} of {first.peer_id}'s HELLO has no details")
        joined = list(part.node.networks)
        if before is not None and before.open_ended:
            if not joined or joined[0].name != networks[-1].name:
                raise WireError(f"part {part.part} of {first.peer_id}'s HELLO does not go on where the last one ended")
            last = networks.pop()
            joined[0] = replace(last, subnets=last.subnets + joined[0].subnets)
        networks += joined
        overlay += part.node.overlay
    return replace(
        first,
        node=replace(first.node, networks=tuple(networks), overlay=tuple(overlay)),
        subnets=tuple(subnet for part in parts for subnet in part.subnets),
        parts=1,
        open_ended=False,
    )
