"""What is wrong with etcd, with what stands in it, and with what two hosts both claim. Pure; part of `judge.py`."""

from __future__ import annotations

from collections.abc import Iterator

from weft.diagnose.facts import Facts, LinkFacts
from weft.diagnose.finding import Finding, Own, Root, few, names, overlap
from weft.model import IPNetwork

SLOW = 500.0
"""Milliseconds that one read takes when something is wrong; some 3 are usual on a LAN."""
SKEW = 60
"""Seconds that clocks may differ."""
CONFIG_EXAMPLE = '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'


def etcd(facts: Facts, own: Own) -> Iterator[Finding]:
    """Whether it answers, and lets this host in."""
    etcd = facts.etcd
    silent = [one for one in etcd.endpoints if one.error and not one.forbidden]
    if etcd.error and etcd.forbidden:
        fix = "set ETCD_USERNAME and ETCD_PASSWORD, or ETCD_CERTFILE and ETCD_KEYFILE, of a user that may write there"
        yield Finding("critical", "etcd", f"etcd doesn't let this host in: {etcd.error}", fix, Root.ETCD)
    elif etcd.error:
        where = names(one.url for one in etcd.endpoints) or "no endpoint"
        hand = [
            f"check that etcd runs there and this host gets there (`curl {one.url}/health`)" for one in etcd.endpoints
        ]
        fix = f"{hand[0]}; is ETCD_ENDPOINT right?" if hand else "set ETCD_ENDPOINT"
        yield Finding("critical", "etcd", f"etcd at {where} can't be asked: {etcd.error}", fix, Root.ETCD)
    else:
        for one in silent:
            fix = "start that member, or take it out of ETCD_ENDPOINT"
            yield Finding("warning", "etcd", f"{one.url} does not answer: {one.error}; others do", fix, Root.ETCD)
    for one in etcd.endpoints:
        if one.ms > SLOW:
            fix = "look at its disk and load, and at the network to it"
            yield Finding("warning", "etcd", f"{one.url} took {one.ms:.0f} ms for one read", fix, Root.ETCD)


def entries(facts: Facts, own: Own) -> Iterator[Finding]:
    """What is written in it."""
    etcd = facts.etcd
    if etcd.error:
        return
    for key in etcd.nowhere:
        yield Finding(
            "critical",
            "etcd",
            f"{key} says that its host is at a loopback address or none: every host that reads it sends to itself",
            f"`etcdctl del '{key}'` (a running `weft registrar` does it), and set FLANNELD_PUBLIC_IP on that host",
            Root.ENTRIES,
        )
    yield from _config(facts, own)
    for flaw in etcd.flaws:
        yield Finding("warning", "etcd", flaw, "correct that key, or delete it", Root.ENTRIES)
    yield from few(_unregistered(facts))
    for host in etcd.hosts:
        if host.timestamp and facts.host.at and host.timestamp - facts.host.at > SKEW:
            ahead = host.timestamp - facts.host.at
            text = f"the clock of host {host.host} is {ahead:.0f} s ahead of this one's"
            yield Finding("warning", "host", text, "let both set their clocks by NTP", Root.ENTRIES)
    orphans = sorted({one.host for one in etcd.registrations if not one.leased})
    if orphans:
        text = f"networks of {names(orphans)} are registered for ever, not on a lease: an older program wrote them"
        yield Finding("note", "etcd", text, "", Root.ENTRIES)


def _config(facts: Facts, own: Own) -> Iterator[Finding]:
    etcd = facts.etcd
    if etcd.config_error:
        fix = f"`weft flannel-config check` names the fault; e.g. {CONFIG_EXAMPLE}"
        yield Finding("critical", "etcd", f"flannel's config can't be used: {etcd.config_error}", fix, Root.ENTRIES)
    elif not etcd.config and own.flannel is not None:
        fix = f"`weft registrar --init-config '{CONFIG_EXAMPLE}'`, or correct FLANNEL_PREFIX"
        text = "there is no flannel config in etcd, and this host has flannel's device"
        yield Finding("critical", "etcd", text, fix, Root.ENTRIES)
    elif not etcd.config:
        yield Finding("note", "etcd", "there is no flannel config: weft's own VXLAN is used", "", Root.ENTRIES)


def _unregistered(facts: Facts) -> Iterator[Finding]:
    known = {one.subnet for one in facts.etcd.registrations if one.host == facts.host_name}
    for network in facts.docker.networks:
        missing = [str(subnet) for subnet in network.subnets if subnet not in known]
        if network.exposed and missing:
            text = f"network {network.name} ({', '.join(missing)}) is not registered for host {facts.host_name}"
            fix = "start `weft registrar` here" if facts.daemon.error else "see `weft show networks` and its log"
            yield Finding("warning", "docker", text, fix, Root.DAEMON)


def conflicts(facts: Facts, own: Own) -> Iterator[Finding]:
    """Two that have one subnet: hosts, or a host and the network underneath."""
    claims = _claims(facts)
    around: list[tuple[str, str, IPNetwork]] = []
    for host, network, subnet in claims:
        while around and not overlap(around[-1][2], subnet):
            around.pop()
        for other, its, theirs in around:
            if host != other:
                text = f"{theirs} of host {other} ({its}) and {subnet} of host {host} ({network}) overlap"
                fix = f"make one of the two anew with another subnet (`docker network create --subnet … {network}`)"
                yield Finding("critical", "conflicts", text, fix, Root.CONFLICT)
        around.append((host, network, subnet))
    for host, network, subnet in claims:
        for dev, ground in _underlay(facts, own):
            if overlap(subnet, ground):
                text = f"{subnet} of host {host} ({network}) overlaps {ground}, which this host's {dev} is on"
                fix = f"give network {network} on host {host} another subnet"
                yield Finding("critical", "conflicts", text, fix, Root.CONFLICT)


def _claims(facts: Facts) -> list[tuple[str, str, IPNetwork]]:
    """(host, network, subnet), each once; a subnet directly behind those that it lies in."""
    told = [(one.host, one.network, one.subnet) for one in facts.etcd.registrations]
    mine = [(facts.host_name, n.name, s) for n in facts.docker.networks if n.exposed for s in n.subnets]
    return sorted(set(told + mine), key=_order)


def _order(claim: tuple[str, str, IPNetwork]) -> tuple[int, bytes, int, str, str]:
    host, network, subnet = claim
    return subnet.version, subnet.network_address.packed, subnet.prefixlen, host, network


def _underlay(facts: Facts, own: Own) -> Iterator[tuple[str, IPNetwork]]:
    """Networks that this host is on by itself: not Docker's, not a tunnel's."""
    bridges = {network.bridge for network in facts.docker.networks}
    for one in facts.kernel.addresses:
        link = own.links.get(one.dev, LinkFacts(one.dev))
        inner = one.dev in bridges or one.dev == "lo" or link.vni or one.dev == "docker0" or one.dev.startswith("br-")
        narrow = one.address.network.prefixlen == one.address.network.max_prefixlen
        if not inner and not narrow and not one.address.is_link_local:
            yield one.dev, one.address.network
