"""Single values inside of what others wrote: an id, an address, a network, an MTU. Called by the codecs of this folder.

Each reads one text and raises ValueError, in words that can be shown, if it is not what it should be.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address, ip_network

from weft.model import IPAddress, IPNetwork, Mac, mac_text, parse_mac

LABEL_OCTETS = 253
"""As long as a host's name may be (RFC 1035, 2.3.4)."""
MIN_MTU, MAX_MTU = 576, 65535
"""What every host takes (RFC 791, 3.1), and what an IPv4 header's length can say."""
SHOWN = 300


def label(text: str) -> str:
    """An id or a name as it is: printable, so that it can't forge a log line, and not endless."""
    if not text or not text.isprintable() or len(text.encode()) > LABEL_OCTETS:
        raise ValueError(f"an id or name must be 1 to {LABEL_OCTETS} octets of printable text")
    return text


def shortened(text: str) -> str:
    """A name that is for people only, made a label: what can't stand in one is left out or shown as `?`."""
    octets = printable(text).encode()[:LABEL_OCTETS]
    return octets.decode(errors="ignore") or "?"


def printable(text: str, most: int = LABEL_OCTETS) -> str:
    """At most so many characters of it, `?` for those that can't be shown."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def said(error: Exception) -> str:
    """What is wrong, on one line; a text that was at fault may be anything, and of any length."""
    text = printable(str(error), SHOWN + 1)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


# Others say the same addresses again and again: each is parsed once, and equal ones are one object.
@lru_cache(maxsize=1 << 15)
def subnet(text: str) -> IPNetwork:
    """`172.20.0.0/16`, without host bits."""
    return ip_network(_unzoned(text))


@lru_cache(maxsize=1 << 15)
def address(text: str) -> IPAddress:
    """`192.0.2.1` or `2001:db8::1`."""
    return ip_address(_unzoned(text))


@lru_cache(maxsize=1 << 15)
def endpoint(text: str) -> IPAddress:
    """An address that another host can have."""
    found = address(text)
    if found.is_multicast or found.is_unspecified or found.is_loopback or text == "255.255.255.255":
        raise ValueError(f"{text} can't be the address of another host")
    return found


def mac(text: str) -> Mac:
    """`82:3d:cd:46:bc:78`, of one interface; "" is the all-zero one, which says that none was told."""
    found = parse_mac(text) if text else Mac(bytes(6))
    if found[0] & 1 or (text and found == bytes(6)):
        raise ValueError(f"{mac_text(found)} is not the address of one interface")
    return found


def mtu(octets: int) -> int:
    """0: not known."""
    if octets and not MIN_MTU <= octets <= MAX_MTU:
        raise ValueError(f"an MTU of {octets} is not between {MIN_MTU} and {MAX_MTU}")
    return octets


def port(text: str) -> int:
    """`4789`."""
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or not 1 <= int(text) <= 65535:
        raise ValueError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _unzoned(text: str) -> str:
    if "%" in text:  # Python would take any text for a zone
        raise ValueError(f"{text!r} has a zone, which means nothing to another host")
    return text
