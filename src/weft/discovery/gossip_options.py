"""What discovery by gossip can be told: a frozen value, made by `discovery/__init__.py` and by tests by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from weft.core.swim_values import LAN, Pace
from weft.discovery.options import PORT, Limits
from weft.model import IPAddress


@dataclass(frozen=True, slots=True)
class GossipSettings:
    """`node` is this member's id, `source` and `port` where it is: UDP and TCP, both are bound to that address.

    `instance` must be a new random text for each start of the program. `seeds`: members to join by, `host` or
    `host:port`; without a port, this one's or the document's. `keys`: pre-shared texts; the first one encrypts, all
    decrypt. `goodbye_hold`: seconds that one who said goodbye is kept, since it may only restart. `fade`: seconds
    that a problem stands after it last happened.
    """

    node: str
    source: IPAddress
    instance: str
    port: int = PORT
    seeds: tuple[str, ...] = ()
    pace: Pace = LAN
    keys: tuple[bytes, ...] = field(default=(), repr=False)
    goodbye_hold: float = 30.0
    fade: float = 90.0
    limits: Limits = field(default_factory=Limits)
