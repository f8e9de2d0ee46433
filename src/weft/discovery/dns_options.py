"""What DNS discovery can be told: one frozen value, and how its texts are read. Made by the factory in
`discovery/__init__.py` and by tests by hand."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import UTC, datetime

from weft.errors import SettingsError
from weft.wire.dns import LABEL, SERVICE

PORT = 53
ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1", "hmac-md5")
"""RFC 8945, 6; hmac-md5's name on the wire is a longer one."""
_NAME = 255


@dataclass(frozen=True, slots=True)
class Server:
    """`host`: an address or a name."""

    host: str
    port: int = PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TsigKey:
    """RFC 8945. `name`: as the server knows it, with or without the dot at its end."""

    name: str
    secret: bytes = field(repr=False)
    algorithm: str = ALGORITHMS[0]


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """`node`: this host's id. `instance`: a text that is new with each start. `servers`: tried in turn; none: this
    host's resolvers are asked, and nothing is registered. `port`: what our SRV record says. `plain`: SRV records of
    other programs are peers too. `goodbye_hold`: how long who took its records out is kept, since a restart does that,
    too. Times in seconds."""

    node: str
    instance: str
    domain: str
    servers: tuple[Server, ...] = ()
    key: TsigKey | None = None
    ttl: int = 60
    interval: float = 30.0
    peer_timeout: float = 90.0
    goodbye_hold: float = 30.0
    priority: int = 10
    weight: int = 5
    port: int = 4790
    plain: bool = False

    def __post_init__(self) -> None:
        room = _NAME - sum(len(one) + 1 for one in SERVICE) - LABEL - 2
        if not self.domain.strip(".") or len(self.domain) > room:
            raise SettingsError(
                f"DNS_DOMAIN = {self.domain!r} must be a domain of at most {room} characters, such as example.com"
            )


def parse_servers(text: str) -> tuple[Server, ...]:
    """Read DNS_SERVER: `10.0.0.53`, `ns1.example.com:5353`, `[fd00::53]:53`, several with commas. SettingsError."""
    return tuple(_server(one.strip()) for one in text.split(",") if one.strip())


def _server(text: str) -> Server:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise SettingsError(f"DNS_SERVER = {text!r} has no end to its bracket; e.g. [fd00::53]:53")
        port = rest[1:]
    elif text.count(":") == 1:
        host, port = text.split(":")
    number = port or str(PORT)
    if not host or not (number.isascii() and number.isdigit() and 0 < int(number) < 1 << 16):
        raise SettingsError(f"DNS_SERVER = {text!r} is no server; e.g. 10.0.0.53, ns1.example.com:53 or [fd00::53]:53")
    return Server(host, int(number))


def parse_key(text: str) -> TsigKey | None:
    """Read DNS_KEY, `[algorithm:]name:base64` or "". SettingsError, which never shows the secret."""
    if not text.strip():
        return None
    parts = [part.strip() for part in text.split(":")]
    algorithm = parts.pop(0).lower().rstrip(".") if len(parts) == 3 else ALGORITHMS[0]
    if len(parts) != 2 or not parts[0]:
        raise SettingsError("DNS_KEY must be [algorithm:]name:base64, as `tsig-keygen name` prints name and secret")
    if algorithm not in ALGORITHMS:
        raise SettingsError(f"DNS_KEY has the algorithm {algorithm!r}; known: {', '.join(ALGORITHMS)}")
    try:
        secret = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:
        raise SettingsError(f"DNS_KEY: the secret of key {parts[0]!r} is not base64, as `tsig-keygen` prints it")
    return TsigKey(parts[0], secret, algorithm)


def utc(seconds: float) -> str:
    """Seconds since 1970 for people: `2026-01-02 03:04:05Z`."""
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d %H:%M:%SZ}"
