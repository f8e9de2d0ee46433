"""What other programs get: files that they read, commands of the operator's that are told of leases."""

from __future__ import annotations

from weft.model import IPAddress, IPNetwork
from weft.objects import Key, Object, Rank


class File(Object, frozen=True):
    """A text file for other programs, whole; `path` is absolute, `mode` its permissions."""

    path: str
    content: str
    mode: int = 0o644

    @property
    def key(self) -> Key:
        return ("file", self.path)

    @property
    def rank(self) -> Rank:
        return Rank.FILE


class Hook(Object, frozen=True):
    """A remote lease that a command of the operator's was told of (flannel's extension backend). `data`: the text that
    its host published; "" for none. At least one of the subnets is there."""

    subnet: IPNetwork | None
    subnet6: IPNetwork | None = None
    public_ip: IPAddress | None = None
    public_ip6: IPAddress | None = None
    data: str = ""

    @property
    def key(self) -> Key:
        return ("hook", str(self.subnet), str(self.subnet6))

    @property
    def rank(self) -> Rank:
        return Rank.HOOK
