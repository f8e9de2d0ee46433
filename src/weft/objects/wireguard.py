"""WireGuard's nouns: what `core/wireguard.py` wants, and `targets/wireguard.py` reads and writes."""

from __future__ import annotations

import msgspec

from weft.model import IPAddress, IPInterface, IPNetwork
from weft.objects import Key, Object, Rank


class Secret(msgspec.Struct, frozen=True):
    """Text that must never be printed: not in a log, not in a traceback, not by `weft plan`."""

    value: str

    def __repr__(self) -> str:
        return "(secret)"

    __str__ = __repr__


class WireguardDevice(Object, frozen=True):
    """A WireGuard device of ours, with its addresses. The private key stays in its file: `public_key` (base64) is what
    follows from it. `alias` (ifalias) is `weft:<role>:<node>`; `mtu` in octets; `fwmark` 0 for none."""

    name: str
    public_key: str
    listen_port: int
    mtu: int
    alias: str
    addresses: tuple[IPInterface, ...] = ()
    """Sorted; link-local ones, which the kernel gives by itself, are left out."""
    fwmark: int = 0
    up: bool = True

    @property
    def key(self) -> Key:
        return ("wireguard", self.name)

    @property
    def rank(self) -> Rank:
        return Rank.LINK


class WireguardPeer(Object, frozen=True):
    """A peer of a WireGuard device of ours. `allowed_ips`: what is sent to it and taken from it, sorted; `keepalive`:
    seconds, 0 for none."""

    dev: str
    public_key: str
    endpoint: tuple[IPAddress, int] | None
    """Its underlay address and UDP port; None: it comes to us. A peer that moves is followed by WireGuard itself."""
    allowed_ips: tuple[IPNetwork, ...]
    keepalive: int = 0
    psk: Secret | None = None

    @property
    def key(self) -> Key:
        return ("wireguard peer", self.dev, self.public_key)

    @property
    def rank(self) -> Rank:
        return Rank.FDB

    @property
    def needs(self) -> tuple[Key, ...]:
        return (("wireguard", self.dev),)
