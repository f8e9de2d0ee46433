"""WireGuard's devices and peers as `wg` reads and prints them. Pure; used by `targets/wireguard.py`.

Source: wg(8), CONFIGURATION FILE FORMAT and `show <interface> dump`; what is unsaid there was seen on wireguard-tools
1.0.20210914: `addconf` replaces a peer's allowed IPs, and the key of zeros takes a pre-shared key away.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from weft.backends.wireguard import in_order
from weft.core.commands import endpoint_text
from weft.errors import DecodeError
from weft.model import IPAddress
from weft.objects import Op
from weft.objects.wireguard import Secret, WireguardDevice, WireguardPeer

NO_PSK = "A" * 43 + "="
"""32 octets of zero."""
NONE = "(none)"


@dataclass(frozen=True, slots=True)
class Dump:
    """What `wg show <interface> dump` tells; the private key is left out. `public_key`: "" before one was set.
    `handshakes`: seconds since 1970 of each peer's latest one, by public key; 0 for never."""

    public_key: str
    listen_port: int
    fwmark: int
    peers: tuple[WireguardPeer, ...]
    handshakes: dict[str, int]


def parse_dump(dev: str, text: str) -> Dump:
    """Read the dump of `dev`. Raises DecodeError, without a word of the text: it holds the private key."""
    lines = [line.split("\t") for line in text.splitlines()]
    try:
        _, public_key, port, fwmark = lines[0]
        peers = tuple(_peer(dev, fields) for fields in lines[1:])
        handshakes = {fields[0]: int(fields[4]) for fields in lines[1:]}
        mark = 0 if fwmark == "off" else int(fwmark, 0)
        return Dump("" if public_key == NONE else public_key, int(port), mark, peers, handshakes)
    except (ValueError, IndexError):
        raise DecodeError(f"`wg show {dev} dump` printed what is not a dump; see wg --version") from None


def conf(
    peers: Iterable[WireguardPeer], keep: frozenset[str] = frozenset(), greeted: frozenset[str] = frozenset()
) -> str:
    """The input of `wg addconf` that makes these peers what they are here; the endpoints of those in `keep` (public
    keys) stay what they are. It holds pre-shared keys: for stdin only.

    `greeted`: peers that are spoken to at once. One that has a session with us of which we know nothing any more (our
    device is a new one) goes on using it, and notices only after 15 s without an answer. A keepalive is sent when it is
    switched on, so it is, and then off again."""
    return "".join(
        (_greeting(peer) if peer.public_key in greeted else "") + _section(peer, peer.public_key in keep)
        for peer in peers
    )


def _greeting(peer: WireguardPeer) -> str:
    """Nothing for a peer with keepalives of its own, or that we can't reach."""
    if peer.keepalive or peer.endpoint is None:
        return ""
    return _section(WireguardPeer(peer.dev, peer.public_key, peer.endpoint, (), 1, peer.psk), keep_endpoint=False)


def typed(op: Op, key_file: str) -> list[str]:
    """The shell lines that would do the same. No pre-shared key is in them: PSK_FILE is for the reader to replace."""
    thing = op.object
    if isinstance(thing, WireguardDevice):
        return _device(op, thing, key_file)
    if not isinstance(thing, WireguardPeer):
        raise TypeError(f"no line of WireGuard's is known for a {type(thing).__name__}")
    if op.action == "remove":
        return [f"wg set {thing.dev} peer {thing.public_key} remove"]
    words = [f"wg set {thing.dev} peer {thing.public_key}"]
    if thing.psk is not None:
        words.append("preshared-key PSK_FILE")
    elif isinstance(op.old, WireguardPeer) and op.old.psk is not None:
        words.append("preshared-key /dev/null")
    if thing.endpoint is not None:
        words.append(f"endpoint {endpoint_text(thing)}")
    words.append(f"persistent-keepalive {thing.keepalive}")
    allowed = ",".join(map(str, thing.allowed_ips))
    words.append(f"allowed-ips {allowed or shlex.quote('')}")
    return [" ".join(words)]


def link_lines(new: WireguardDevice, old: WireguardDevice | None) -> list[str]:
    """The lines of `ip` (without that word, as `ip -batch` takes them) that turn `old` into `new`, apart from what is
    `wg`'s. The mark comes first: a device that is found without it is not ours."""
    words: list[str] = []
    if old is None or old.alias != new.alias:
        words.append(f"alias {new.alias}")
    if old is None or old.mtu != new.mtu:
        words.append(f"mtu {new.mtu}")
    if old is None or old.up != new.up:
        words.append("up" if new.up else "down")
    lines = [f"link set dev {new.name} {' '.join(words)}"] if words else []
    before = () if old is None else old.addresses
    lines += [f"address del {a} dev {new.name}" for a in before if a not in new.addresses]
    for address in new.addresses:
        if address not in before:
            lines.append(f"address add {address} dev {new.name}{' nodad' if address.version == 6 else ''}")
    return lines


def settings(new: WireguardDevice, old: WireguardDevice | None, key_file: str) -> list[str]:
    """The words behind `wg set <interface>` that turn `old` into `new`; empty if nothing is to be set."""
    words: list[str] = []
    if old is None or old.public_key != new.public_key:
        words += ["private-key", key_file]
    if old is None or old.listen_port != new.listen_port:
        words += ["listen-port", str(new.listen_port)]
    if (old.fwmark if old is not None else 0) != new.fwmark:
        words += ["fwmark", str(new.fwmark)]
    return words


def _device(op: Op, new: WireguardDevice, key_file: str) -> list[str]:
    if op.action == "remove":
        return [f"ip link del dev {new.name}"]
    old = op.old if op.action == "change" and isinstance(op.old, WireguardDevice) else None
    lines = [] if old is not None else [f"ip link add dev {new.name} type wireguard || wireguard-go {new.name}"]
    lines += [f"ip {line}" for line in link_lines(new, old)]
    words = settings(new, old, shlex.quote(key_file))
    return [*lines, f"wg set {new.name} {' '.join(words)}"] if words else lines


def _section(peer: WireguardPeer, keep_endpoint: bool) -> str:
    lines = [
        "[Peer]",
        f"PublicKey = {peer.public_key}",
        f"PresharedKey = {peer.psk.value if peer.psk is not None else NO_PSK}",
        f"PersistentKeepalive = {peer.keepalive}",
    ]
    if peer.allowed_ips:  # an empty list is refused, and means the same as none
        lines.append(f"AllowedIPs = {', '.join(map(str, peer.allowed_ips))}")
    if peer.endpoint is not None and not keep_endpoint:
        lines.append(f"Endpoint = {endpoint_text(peer)}")
    return "\n".join(lines) + "\n"


def _peer(dev: str, fields: Sequence[str]) -> WireguardPeer:
    public_key, psk, endpoint, allowed, _, _, _, keepalive = fields
    return WireguardPeer(
        dev=dev,
        public_key=public_key,
        endpoint=None if endpoint == NONE else _endpoint(endpoint),
        allowed_ips=() if allowed == NONE else in_order(ip_network(text) for text in allowed.split(",")),
        keepalive=0 if keepalive == "off" else int(keepalive),
        psk=None if psk == NONE else Secret(psk),
    )


def _endpoint(text: str) -> tuple[IPAddress, int]:
    address, _, port = text.rpartition(":")
    return ip_address(address.removeprefix("[").removesuffix("]")), int(port)
