"""Which of this host's Docker networks may stand below flannel's prefix in etcd. Pure; called by `agent/registrar.py`.
`registering.py` decides on the rows that come of it, docs/registrar-etcd.md tells the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network

from weft.core.flannel import inside
from weft.core.registry import SUBJECT, Registry
from weft.core.tenancy import address_of, name
from weft.model import IPAddress, Network, Problem
from weft.wire.flannel import NAMES, HostGwBackend, Lease, Vtep, VxlanBackend, lease_key


def backend_entries(
    networks: Iterable[Network], registry: Registry, own: Lease | None, public_ip: IPAddress, vtep: Vtep | None
) -> tuple[tuple[Lease, ...], tuple[Problem, ...]]:
    """The entries that may stand below flannel's prefix for this host's Docker networks, and why others may not.

    `own`: this host's flannel lease, which `weft flanneld` must hold: flannel's own adds a route for every key but its
    lease's, in place of the one to the Docker network's bridge. A subnet outside flannel's Network never goes there,
    nor one that overlaps another key, nor one whose key sorts before `own`: after a restart flanneld adopts the first
    that names its address."""
    subnets = [
        (network, subnet)
        for network in networks
        for subnet in network.subnets
        if network.exposed and isinstance(subnet, IPv4Network) and _in_flannel(subnet, registry)
    ]
    if own is not None and own.subnet is not None:
        subnets = [(network, subnet) for network, subnet in subnets if not subnet.overlaps(own.subnet)]
    if not subnets or not isinstance(public_ip, IPv4Address):
        return (), ()
    why = _no_entries(registry, own, vtep)
    if why:
        told = ", ".join(f"{network.name} ({subnet})" for network, subnet in subnets)
        return (), (Problem(SUBJECT, f"no entry below flannel's prefix for {told}: {why}", wrong=False),)
    assert registry.config is not None
    assert own is not None
    data = vtep if isinstance(registry.config.backend, VxlanBackend) else None
    made: list[Lease] = []
    problems: list[Problem] = []
    for network, subnet in subnets:
        entry = Lease(subnet, None, public_ip, None, NAMES[type(registry.config.backend)], data)
        problem = _obstacle(network, entry, own, (*registry.leases, *registry.entries, *made))
        if problem is None:
            made.append(entry)
        else:
            problems.append(problem)
    return tuple(made), tuple(problems)


def _in_flannel(subnet: IPv4Network, registry: Registry) -> bool:
    pool = registry.config.ipv4 if registry.config is not None else None
    return pool is not None and inside(subnet, pool.network)


def _no_entries(registry: Registry, own: Lease | None, vtep: Vtep | None) -> str:
    """Why there can be none at all, "" if there can."""
    assert registry.config is not None
    backend = registry.config.backend
    if not isinstance(backend, VxlanBackend | HostGwBackend):
        return f"flannel's backend {NAMES[type(backend)]} has one subnet per host"
    if own is None or own.subnet is None:
        return "this host holds no flannel lease, and flanneld would take the entry for it"
    if own.public_ip not in registry.woven:
        return (
            "flannel's own flanneld here would take it for another host's, and lay its route over the network's bridge;"
            " weft's own routes lead there, and `weft flanneld` knows whose it is"
        )
    if isinstance(backend, VxlanBackend) and vtep is None:
        return "flannel's device is not there, so its MAC is not known"
    return ""


def _obstacle(network: Network, entry: Lease, own: Lease, others: Sequence[Lease]) -> Problem | None:
    """Why this entry may not be written, None if it may."""
    assert entry.subnet is not None
    where = f"no entry below flannel's prefix for network {network.name} ({entry.subnet})"
    if lease_key(entry) < lease_key(own):
        before = "its key sorts before this host's lease, and flanneld would take it for that after a restart"
        return Problem(network.name, f"{where}: {before} ({name(own)}); weft's own routes lead there", wrong=False)
    for other in others:
        if other.subnet is None or not other.subnet.overlaps(entry.subnet):
            continue
        if other.subnet == entry.subnet and address_of(other) == entry.public_ip:
            continue
        return Problem(network.name, f"{where}: {_overlap(other, entry)}", wrong=address_of(other) != entry.public_ip)
    return None


def _overlap(other: Lease, entry: Lease) -> str:
    if address_of(other) == entry.public_ip:
        return f"it overlaps {name(other)}, which is this host's too"
    return f"it overlaps {name(other)} of {address_of(other)}; this host is {entry.public_ip}"
