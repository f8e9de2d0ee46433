"""Names of routes in a cloud: flannel-route-manager's (FORMATS.md), kept within what Google allows. Called by the cloud
backends; people find them in their log and in `gcloud compute routes list`.

A name is 1 to 63 characters `[a-z]([-a-z0-9]*[a-z0-9])?` (Compute Engine's discovery document, Route.name). Whatever is
longer ends in a hash of the whole: two routes never share a name because their names were shortened.
"""

from __future__ import annotations

import hashlib

from weft.model import IPNetwork

LONGEST = 63
_HASH = 10
_LONGEST_PREFIX = LONGEST - _HASH
"""Room for a hash behind the prefix, which is what tells that a route may be ours."""


def name_prefix(network: str) -> str:
    """What the names of all our routes in a network begin with: `flannel-default-`. Of a network whose name leaves no
    room, the beginning and a hash."""
    prefix = f"flannel-{network}-"
    if len(prefix) <= _LONGEST_PREFIX:
        return prefix
    return f"{prefix[: _LONGEST_PREFIX - _HASH - 2].rstrip('-')}-{_hash(network)}-"


def route_name(network: str, dst: IPNetwork) -> str:
    """`flannel-default-10-244-72-0-24`."""
    prefix, rest = name_prefix(network), _plain(dst)
    return prefix + rest if len(prefix + rest) <= LONGEST else _hashed(prefix, rest, str(dst))


def other_name(network: str, dst: IPNetwork, what: str) -> str:
    """Another name for the same destination, while its own is taken: by the route that is to be replaced, or by
    somebody else's. `what` is different (the next hop) gives the hash at its end."""
    return _hashed(name_prefix(network), _plain(dst), f"{dst} {what}")


def _plain(dst: IPNetwork) -> str:
    return str(dst).translate(str.maketrans(".:/", "---"))


def _hashed(prefix: str, rest: str, of: str) -> str:
    """As much of `rest` as there is room for, and a hash."""
    kept = rest[: LONGEST - len(prefix) - _HASH - 1].rstrip("-") if len(prefix) + _HASH + 1 < LONGEST else ""
    return f"{prefix}{kept}-{_hash(of)}" if kept else f"{prefix}{_hash(of)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH]
