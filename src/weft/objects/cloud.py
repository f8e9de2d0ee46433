"""What a cloud's route table holds: routes to instances. Read and written by `targets/cloud/`."""

from __future__ import annotations

from weft.model import IPAddress, IPNetwork
from weft.objects import Key, Object, Rank


def cloud_key(table: str, dst: IPNetwork) -> Key:
    """The key of any route in a cloud, be it one that weft would make or not."""
    return ("cloud", table, dst.network_address.packed, dst.prefixlen)


class CloudRoute(Object, frozen=True):
    """A route of ours: in `table` (a VPC network's name, AWS' rtb-…), packets to `dst` go to the instance whose address
    is `via`.

    Only as read: `via` None, the instance that it leads to is not one that is known; `flaw`, what else is not as we
    would make it, in a phrase ("blackhole", "it is there twice"), "" for nothing. Either makes it differ from what is
    wanted, so it is mended by a change, and at no moment of that is the destination without a route."""

    table: str
    dst: IPNetwork
    via: IPAddress | None
    flaw: str = ""

    @property
    def key(self) -> Key:
        return cloud_key(self.table, self.dst)

    @property
    def rank(self) -> Rank:
        return Rank.ROUTE
