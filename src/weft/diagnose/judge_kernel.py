"""What is wrong with this host's devices, settings, forwarding entries, neighbours and routes. Pure; part of
`judge.py`. What should be there follows from etcd alone: a lease names its MAC, its address and its subnet."""

from __future__ import annotations

from collections.abc import Iterator

from weft.diagnose.facts import Facts, LeaseFacts, LinkFacts, RouteFacts
from weft.diagnose.finding import Finding, Own, Root, few, names, others, overlap, owner_of
from weft.model import IPAddress, IPNetwork

OVERHEAD = {4: 50, 6: 70}
PROTOCOL = "76"
NO_MAC = "00:00:00:00:00:00"
SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
)
"""What is read; those of each tunnel's device are added."""


def host(facts: Facts, own: Own) -> Iterator[Finding]:
    """Settings of the kernel's."""
    sysctls = facts.host.sysctls
    if sysctls.get("net/ipv4/ip_forward") == "0":
        fix = "`sysctl -w net.ipv4.ip_forward=1`, and net.ipv4.ip_forward = 1 in /etc/sysctl.d/ for the next start"
        text = "IP forwarding is off (net.ipv4.ip_forward = 0): nothing gets from the tunnel to a container"
        yield Finding("critical", "host", text, fix, Root.HOST)
    if facts.host.overflows:
        text = (
            f"the kernel's neighbour table was full {facts.host.overflows} times while this ran: hosts lose each other"
        )
        fix = "`sysctl -w net.ipv4.neigh.default.gc_thresh3=16384` (and gc_thresh2=8192), in /etc/sysctl.d/ too"
        yield Finding("critical", "host", text, fix, Root.HOST)
    six = any(s.version == 6 for network in facts.docker.networks if network.exposed for s in network.subnets)
    if six and sysctls.get("net/ipv6/conf/all/forwarding") == "0":
        fix = "`sysctl -w net.ipv6.conf.all.forwarding=1`; accept_ra = 2 on an uplink that learns its default route"
        yield Finding("critical", "host", "IPv6 forwarding is off, and there are IPv6 networks", fix, Root.HOST)
    for link in own.tunnels:
        every = sysctls.get("net/ipv4/conf/all/rp_filter", "0")
        if max(every, sysctls.get(f"net/ipv4/conf/{link.name}/rp_filter", "0")) == "1":
            fix = f"`sysctl -w net/ipv4/conf/{link.name}/rp_filter=2` if packets through a relay get lost"
            text = f"{link.name} has a strict rp_filter: what comes by another way than the answer goes is dropped"
            yield Finding("note", "host", text, fix, Root.HOST)


def links(facts: Facts, own: Own) -> Iterator[Finding]:
    """The tunnels' devices."""
    if own.leases and own.flannel is None and any(lease.backend == "vxlan" for lease in own.leases):
        name = f"flannel.{facts.etcd.vni}"
        container = facts.docker.container_name or "flannel"
        fix = f"start flannel (`docker start {container}`, or flanneld's service), or `weft flanneld`"
        text = f"etcd has flannel's lease {own.leases[0].subnet} for this host, and {name} is missing"
        yield Finding("critical", "links", text, fix, Root.LINK)
    for link in own.tunnels:
        yield from _link(link, facts, own)
    if own.flannel is not None and not own.leases and not facts.etcd.error:
        yield Finding(
            "critical",
            "links",
            f"{own.flannel.name} is there, and etcd has no lease of flannel's for this host: nobody sends to it",
            "start flannel, and see that it has the same prefix in etcd and the public address that FLANNELD_PUBLIC_IP"
            " names",
            Root.LINK,
        )


def _link(link: LinkFacts, facts: Facts, own: Own) -> Iterator[Finding]:
    name = link.name
    again = "restart flannel" if link is own.flannel else "restart `weft registrar`"
    if not link.up:
        fix = f"`ip link set {name} up`, then {again}: a device that was down has lost its routes and neighbours"
        yield Finding("critical", "links", f"{name} is down", fix, Root.LINK)
    under = underlay_of(link, facts, own)
    if under is not None:
        most = under.mtu - OVERHEAD[link.local.version if link.local is not None else 4]
        if link.mtu > most:
            bound = " and unset FLANNEL_MTU" if facts.wanted_mtu > most else ""
            fix = f"`ip link set {name} mtu {most}`{bound}; in flannel's config, leave MTU out or set it to {under.mtu}"
            text = f"{name} has MTU {link.mtu}; its underlay {under.name} ({under.mtu}) leaves room for {most} octets"
            yield Finding("critical", "links", f"{text}: large packets get lost", fix, Root.LINK)
    if link.local is not None and own.addresses and link.local not in own.addresses:
        text = f"{name} sends from {link.local}, which this host does not have (any more)"
        yield Finding("critical", "links", text, again, Root.LINK)
    if link.master:
        text = f"{name} is a port of {link.master}: what comes out of the tunnel is bridged, not routed"
        yield Finding("critical", "links", text, f"`ip link set {name} nomaster`", Root.LINK)
    if link is own.flannel and own.leases:
        yield from _lease_of(link, facts, own.leases[0])
    if link is own.tunnel and link.alias and not link.alias.startswith("weft:"):
        text = f"{name} is somebody else's (its alias is {link.alias!r}): weft leaves it alone"
        yield Finding("warning", "links", text, "remove it, or set another WEFT_VNI on every host", Root.LINK)


def _lease_of(link: LinkFacts, facts: Facts, lease: LeaseFacts) -> Iterator[Finding]:
    if lease.mac and link.mac and lease.mac.lower() != link.mac.lower():
        text = f"{link.name} has MAC {link.mac}, and this host's lease {lease.subnet} tells the others {lease.mac}"
        yield Finding("critical", "links", text, "restart flannel, which writes its lease anew", Root.LINK)
    if facts.etcd.config and link.port and link.port != facts.etcd.port:
        text = f"{link.name} uses UDP port {link.port}, and flannel's config says {facts.etcd.port}"
        yield Finding("critical", "links", text, "restart flannel on the hosts that have the old port", Root.LINK)


def underlay_of(link: LinkFacts, facts: Facts, own: Own) -> LinkFacts | None:
    """The device that a tunnel's packets leave by: the one with its local address, else the one it is bound to."""
    holder = next((a.dev for a in facts.kernel.addresses if a.address.ip == link.local), link.underlay)
    found = own.links.get(holder)
    return None if found is None or found.name == "lo" else found


def tables(facts: Facts, own: Own) -> Iterator[Finding]:
    """Forwarding entries and neighbours against what etcd says."""
    if facts.etcd.error:
        return
    if own.flannel is not None:
        leases = others(facts, own)
        yield from few(_fdb(own.flannel, {x.mac.lower(): (x.public_ip,) for x in leases}, facts))
        yield from few(_neighbours(own.flannel, leases, facts))
        yield from few(_missing(own.flannel, leases, facts))
    if own.tunnel is not None:
        vteps = {h.mac.lower(): h.endpoints for h in facts.etcd.hosts if h.mac and h.vni == own.tunnel.vni}
        yield from few(_fdb(own.tunnel, vteps, facts))


def _fdb(link: LinkFacts, vteps: dict[str, tuple[IPAddress, ...]], facts: Facts) -> Iterator[Finding]:
    """`vteps`: MAC → addresses of the host that has it."""
    for entry in facts.kernel.fdb:
        mac = entry.mac.lower()
        if entry.dev != link.name or mac == NO_MAC or not entry.permanent:
            continue
        right = vteps.get(mac)
        shown = f"the forwarding entry {mac} → {entry.dst} on {link.name}"
        if right is None:
            fix = f"`bridge fdb del {mac} dev {link.name} dst {entry.dst}`"
            what = f"{shown} is stale: no host in etcd has this MAC"
            yield Finding("warning", "fdb", what, fix, Root.TABLES)
        elif entry.dst not in right and not any(a in right and b == entry.dst for a, b in facts.diverted):
            place = right[0] if right else entry.dst
            fix = f"`bridge fdb replace {mac} dev {link.name} dst {place} self permanent`"
            text = f"{shown} points to the wrong host: {owner_of(place, facts)} is at {place}"
            yield Finding("critical", "fdb", text, fix, Root.TABLES)


def _neighbours(link: LinkFacts, leases: tuple[LeaseFacts, ...], facts: Facts) -> Iterator[Finding]:
    gateways = {lease.subnet.network_address: lease for lease in leases}
    beside = {(lease.subnet.network_address, lease.mac.lower()) for lease in facts.etcd.leases if lease.entry}
    for entry in facts.kernel.neighbours:
        if entry.dev != link.name or not entry.permanent or (entry.address, entry.mac.lower()) in beside:
            continue
        lease = gateways.get(entry.address)
        shown = f"the neighbour {entry.address} ({entry.mac}) on {link.name}"
        if lease is None:
            fix = f"`ip neighbour del {entry.address} dev {link.name}`"
            yield Finding("warning", "neighbours", f"{shown} is stale: no lease begins there", fix, Root.TABLES)
        elif lease.mac.lower() != entry.mac.lower():
            fix = f"`ip neighbour replace {entry.address} lladdr {lease.mac} dev {link.name} nud permanent`"
            what = f"{shown} has the wrong MAC: the lease {lease.subnet} of {lease.public_ip} names {lease.mac}"
            yield Finding("critical", "neighbours", what, fix, Root.TABLES)


def _missing(link: LinkFacts, leases: tuple[LeaseFacts, ...], facts: Facts) -> Iterator[Finding]:
    macs = {entry.mac.lower() for entry in facts.kernel.fdb if entry.dev == link.name}
    known = {entry.address for entry in facts.kernel.neighbours if entry.dev == link.name}
    straight = {(route.dst, route.via) for route in facts.kernel.routes}
    for lease in leases:
        if (lease.subnet, lease.public_ip) in straight:
            continue  # DirectRouting: no tunnel leads there
        gateway, who = lease.subnet.network_address, owner_of(lease.public_ip, facts)
        if lease.mac.lower() not in macs:
            hand = f"bridge fdb append {lease.mac} dev {link.name} dst {lease.public_ip} self permanent"
            fix = f"does flannel run here? By hand: `{hand}`"
            text = f"{link.name} has no forwarding entry for {who}'s MAC {lease.mac}"
            yield Finding("critical", "fdb", text, fix, Root.TABLES)
        if gateway not in known:
            hand = f"ip neighbour replace {gateway} lladdr {lease.mac} dev {link.name} nud permanent"
            fix = f"does flannel run here? By hand: `{hand}`"
            text = f"{link.name} has no neighbour {gateway} for {who}'s lease {lease.subnet}"
            yield Finding("critical", "neighbours", text, fix, Root.TABLES)


def routes(facts: Facts, own: Own) -> Iterator[Finding]:
    """Of what the other hosts have, whether it is routed into a tunnel."""
    if facts.etcd.error or not own.tunnels:
        return
    tunnels = {link.name for link in own.tunnels}
    yield from few(_wanted(facts, own, tunnels))


def _wanted(facts: Facts, own: Own, tunnels: set[str]) -> Iterator[Finding]:
    mine = [s for n in facts.docker.networks for s in n.subnets]
    mine += [one.subnet for one in facts.etcd.registrations if one.host == own.name]
    by_subnet: dict[IPNetwork, list[RouteFacts]] = {}
    for route in facts.kernel.routes:
        by_subnet.setdefault(route.dst, []).append(route)
    places = {lease.public_ip for lease in facts.etcd.leases} | {one.address for one in facts.etcd.hosts}
    for subnet, what, by_hand in _destinations(facts, own):
        if any(overlap(subnet, one) for one in mine):
            continue  # a conflict, told as such
        first = min(by_subnet.get(subnet, ()), key=lambda r: r.metric, default=None)
        if first is None:
            start = "start `weft registrar`" if facts.daemon.error else f"`weft explain {subnet}` tells why"
            text = f"there is no route to {subnet} ({what})"
            yield Finding("critical", "routes", text, f"{start}; by hand: `{by_hand}`", Root.ROUTES)
        elif not _good(first, tunnels) and (first.via is None or first.via not in places):
            yield _foreign(first, what)


def _good(route: RouteFacts, tunnels: set[str]) -> bool:
    return route.kind == "unicast" and (route.dev in tunnels or route.protocol == PROTOCOL)


def _foreign(route: RouteFacts, what: str) -> Finding:
    way = f"out of {route.dev}" if route.dev else f"nowhere ({route.kind})"
    words = [str(route.dst), *([f"via {route.via}"] if route.via else []), *([f"dev {route.dev}"] if route.dev else [])]
    if route.kind != "unicast":
        words.insert(0, route.kind)
    text = f"{route.dst} ({what}) goes {way} by a route of somebody else's (proto {route.protocol or 'unknown'})"
    fix = f"`ip route del {' '.join(words)} metric {route.metric}` if it is not meant; weft leaves it alone"
    return Finding("critical", "routes", text, fix, Root.ROUTES)


def _destinations(facts: Facts, own: Own) -> Iterator[tuple[IPNetwork, str, str]]:
    """(subnet, whose it is, the command that would route there) of every other host."""
    leases = others(facts, own)
    link = own.flannel
    gateways = {lease.public_ip: lease.subnet.network_address for lease in leases}
    if link is not None:
        for lease in leases:
            gateway = lease.subnet.network_address
            way = f"ip route add {lease.subnet} via {gateway} dev {link.name} onlink"
            yield lease.subnet, f"the lease of {owner_of(lease.public_ip, facts)}", way
    places = {one.host: one for one in facts.etcd.hosts}
    for one in facts.etcd.registrations:
        status = places.get(one.host)
        if one.host == own.name or status is None or not one.leased:
            continue
        gateway_ = gateways.get(status.address) if status.address is not None else None
        hand = f"ip route add {one.subnet} via {gateway_} dev {link.name} onlink proto 76 metric 8624" if link else ""
        if gateway_ is None:
            hand = "weft registrar --once"
        yield one.subnet, f"network {one.network} of host {one.host}", hand


def unreachable_hosts(facts: Facts, own: Own) -> Iterator[Finding]:
    """Hosts that registered networks and no address that packets could be sent to."""
    if facts.etcd.error:
        return
    placed = {one.host for one in facts.etcd.hosts if one.address is not None or one.endpoints}
    lost = sorted({one.host for one in facts.etcd.registrations} - placed - {own.name})
    if lost:
        text = f"{names(lost)} registered networks and no address: nobody can route to them"
        fix = "start flannel-registrar or `weft registrar` there; if such a host is gone for good, delete its keys"
        yield Finding("warning", "etcd", text, fix, Root.ROUTES)
