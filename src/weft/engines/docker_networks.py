"""What Docker says about its networks → Networks. Pure; `docker.py` asks the engine and calls this.

Source of the format: Docker Engine API, GET /networks (versions 1.24 to 1.52; the list holds all that is needed, so no
network is inspected by itself). docs/networks.md says the same about each kind of network, for users.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from ipaddress import ip_network
from typing import Literal, TypeAlias

import msgspec

from weft.errors import EngineError
from weft.model import IPNetwork, Network, Problem

Expose: TypeAlias = Literal["all", "labelled"]
"""all: a network is exposed unless its label says false; labelled: only if its label says true."""

LABEL = "weft.expose"
GROUP = "weft.group"
"""Networks of two different groups don't talk with each other; one without this label talks with all."""
_BRIDGE_NAME = "com.docker.network.bridge.name"
_DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
_SWARM_BRIDGE = "docker_gwbridge"


class _Pool(msgspec.Struct, rename="pascal"):
    """One IPAM configuration."""

    subnet: str = ""


class _Ipam(msgspec.Struct, rename="pascal"):
    config: list[_Pool] | None = None


class _Listed(msgspec.Struct, rename="pascal"):
    """One network of the list, as far as we read it. Docker writes null for an empty map or list."""

    name: str
    id: str
    created: datetime
    driver: str
    scope: str = "local"
    internal: bool = False
    config_only: bool = False
    ipam: _Ipam = msgspec.field(name="IPAM", default_factory=_Ipam)
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


def read_networks(listing: object, expose: Expose) -> tuple[tuple[Network, ...], tuple[Problem, ...]]:
    """The networks that have subnets, sorted by name, and what is wrong with their labels or subnets.

    `listing`: the decoded JSON of GET /networks. Raises EngineError if it does not have that form.
    """
    try:
        listed = msgspec.convert(listing, list[_Listed])
    except msgspec.ValidationError as error:
        raise EngineError(f"its list of networks can't be read: {error}") from error
    problems: list[Problem] = []
    networks = [_network(one, expose, problems) for one in listed if one.driver not in ("host", "null")]
    return tuple(sorted(networks, key=lambda n: (n.name, n.since, n.bridge))), tuple(problems)


def _network(listed: _Listed, expose: Expose, problems: list[Problem]) -> Network:
    bridged = listed.driver == "bridge"
    subnets = tuple(sorted(set(_subnets(listed, problems)), key=_order))
    note = _why_not_exposed(listed, expose, problems) if subnets else "it has no subnet"
    return Network(
        name=printable(listed.name),
        subnets=subnets,
        bridge=printable(_bridge(listed)) if bridged else "",
        since=listed.created.timestamp() if listed.created.year > 1 else float("inf"),  # Go's zero time: not known
        exposed=not note,
        note=note,
        group=printable((listed.labels or {}).get(GROUP, "").strip()),
    )


def _order(item: IPNetwork) -> tuple[int, str]:
    return item.version, item.exploded


def _bridge(listed: _Listed) -> str:
    return (listed.options or {}).get(_BRIDGE_NAME) or f"br-{listed.id[:12]}"


def _subnets(listed: _Listed, problems: list[Problem]) -> Iterator[IPNetwork]:
    for pool in listed.ipam.config or ():
        try:
            if "%" in pool.subnet:  # Python would take any text for a zone
                raise ValueError
            yield ip_network(pool.subnet, strict=False)  # Docker lets host bits stand: 10.7.0.9/24
        except ValueError:
            problems.append(_problem(listed, f"its subnet {pool.subnet!r} is none; weft leaves it out"))


def _why_not_exposed(listed: _Listed, expose: Expose, problems: list[Problem]) -> str:
    """One phrase, or "" for a network that the other hosts are told about."""
    wanted = _label(listed, problems)
    if impossible := _why_impossible(listed):
        if wanted == "true":
            problems.append(_problem(listed, f"labelled {LABEL}=true, but not exposed: {impossible}"))
        return impossible
    if wanted == "bad":
        return f"its label {LABEL} is neither true nor false"
    if wanted == "false":
        return f"labelled {LABEL}=false"
    if wanted == "true":
        return ""
    if expose == "labelled":
        return f"not labelled {LABEL}=true, as the setting `expose: labelled` asks for"
    if listed.driver != "bridge":
        return f"driver {listed.driver!r} is a plug-in: label it {LABEL}=true if packets for it go through this host"
    return ""


def _why_impossible(listed: _Listed) -> str:
    """Why no label can expose this network, or ""."""
    if listed.config_only:
        return "it only holds the configuration of other networks (--config-only)"
    if listed.driver == "overlay" or listed.scope != "local":
        return "it is Swarm's, which connects its hosts itself"
    if listed.driver in ("macvlan", "ipvlan"):
        return f"its containers are on the LAN itself ({listed.driver}): this host is not the way to them"
    if listed.driver == "bridge" and (listed.options or {}).get(_DEFAULT_BRIDGE) == "true":
        return "Docker's default bridge has the same subnet on every host: use a network of your own"
    if listed.driver == "bridge" and _bridge(listed) == _SWARM_BRIDGE:
        return "it is Swarm's own way out of its containers, with the same subnet on every host"
    if listed.internal:
        return "it is internal (--internal): Docker lets nothing in or out"
    return ""


def _label(listed: _Listed, problems: list[Problem]) -> Literal["true", "false", "bad", ""]:
    text = (listed.labels or {}).get(LABEL)
    match None if text is None else text.strip().lower():
        case None:
            return ""
        case "true":
            return "true"
        case "false":
            return "false"
    problems.append(_problem(listed, f"label {LABEL}={text!r} is neither true nor false: the network is not exposed"))
    return "bad"


def _problem(listed: _Listed, message: str) -> Problem:
    return Problem(f"network {printable(listed.name)}", message)


def printable(text: str) -> str:
    """What somebody else wrote, for one line of a log: whatever could end or forge one is a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)
