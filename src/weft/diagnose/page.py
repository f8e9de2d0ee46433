"""Facts and Findings → one page of text, what to do at its top. Pure; printed by `cli/diagnose.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from weft.diagnose.facts import Facts, ProbeFacts
from weft.diagnose.finding import Finding, Own

MOST_ROWS = 40
"""Rows of one table; the rest are in --json."""
Rows = Sequence[Sequence[str]]
_DOTS = str.maketrans("/.", "./")
"""As sysctl(8) writes a path: `net.ipv4.conf.flannel/1.rp_filter`."""


def page(facts: Facts, findings: Sequence[Finding]) -> str:
    """The whole page; it ends with a line end."""
    own = Own(facts)
    lines = [_title(facts, findings), "", *_next(findings)]
    for heading, body in _sections(facts, own, findings):
        lines += ["", heading, "-" * len(heading), *(f"  {line}".rstrip() for line in body)]
    return "\n".join(lines) + "\n"


def _title(facts: Facts, findings: Sequence[Finding]) -> str:
    number = sum(one.severity != "note" for one in findings)
    verdict = {0: "nothing is wrong", 1: "1 thing is wrong"}.get(number, f"{number} things are wrong")
    where = f" ({facts.public_ip})" if facts.public_ip is not None else ""
    return f"weft diagnose: {facts.host_name}{where}, {_time(facts.host.at)}: {verdict}"


def _next(findings: Sequence[Finding]) -> Iterator[str]:
    yield "What to do next"
    yield "==============="
    todo = [one for one in findings if one.severity != "note"]
    if not todo:
        yield "  Nothing."
    for number, one in enumerate(todo, 1):
        yield f"  {number:2}. {one.severity.upper():8} {one.section}: {one.what}"
        if one.fix:
            yield f"      → {one.fix}"


def _sections(facts: Facts, own: Own, findings: Sequence[Finding]) -> Iterator[tuple[str, list[str]]]:
    yield "Host", list(_host(facts))
    yield "Docker", list(_docker(facts))
    yield "etcd", list(_etcd(facts, own))
    yield "Links", list(_links(own))
    yield "Routes", list(_routes(facts, own))
    yield "Forwarding entries and neighbours", list(_tables(facts, own))
    yield "Firewall", list(_firewall(facts, findings))
    yield "Paths", list(_paths(facts))
    yield "Registrar", list(_daemon(facts))
    yield "Health", list(_health(facts))
    notes = [one for one in findings if one.severity == "note" and one.section != "firewall"]
    if notes:
        yield "Notes", [f"{one.section}: {one.what}" + (f" → {one.fix}" if one.fix else "") for one in notes]
    if facts.remarks:
        yield "Not asked", [f"{one.section}: {one.text}" for one in facts.remarks]


def _host(facts: Facts) -> Iterator[str]:
    host = facts.host
    yield f"{host.name}, {host.distribution or 'unknown distribution'}, kernel {host.kernel or 'unknown'}"
    yield f"up {_span(host.uptime)}, its clock says {_time(host.at)}"
    yield from (f"{path.translate(_DOTS)} = {value}" for path, value in sorted(host.sysctls.items()))


def _docker(facts: Facts) -> Iterator[str]:
    docker = facts.docker
    if not docker.asked:
        yield "not asked: the settings name the networks (ENGINE=static)"
        return
    yield f"{docker.url}: {docker.error or 'version ' + docker.version}"
    if docker.container_name:
        yield f"container {docker.container_name}: {docker.container}"
    known = {one.subnet for one in facts.etcd.registrations if one.host == facts.host_name}
    rows = []
    for network in docker.networks:
        registered = network.subnets and all(subnet in known for subnet in network.subnets)
        said = "registered" if registered else (network.note or "not registered")
        rows.append([network.name, _joined(network.subnets), network.bridge or "-", said])
    yield from _table(["NETWORK", "SUBNETS", "BRIDGE", "STATE"], rows)


def _etcd(facts: Facts, own: Own) -> Iterator[str]:
    etcd = facts.etcd
    for one in etcd.endpoints:
        yield f"{one.url}: {one.error or f'answers in {one.ms:.1f} ms'}"
    if etcd.error:
        yield f"its keys can't be read: {etcd.error}"
        return
    yield f"config: {etcd.config or 'none'}"
    mine = ", ".join(f"{lease.subnet} (MAC {lease.mac or '-'})" for lease in own.leases)
    yield f"this host's lease: {mine or 'none'}"
    rows = [[r.host, r.network, str(r.subnet), "yes" if r.leased else "no"] for r in etcd.registrations]
    yield from _table(["HOST", "NETWORK", "SUBNET", "LEASED"], rows)
    leases = [[str(x.subnet), str(x.public_ip), x.mac or "-", _kind(x.entry, x.kept, x.backend)] for x in etcd.leases]
    yield from _table(["LEASE", "AT", "MAC", "KIND"], leases)


def _kind(entry: bool, kept: bool, backend: str) -> str:
    return "entry of a registrar" if entry else f"{backend or 'no backend'}{', reserved' if kept else ''}"


def _links(own: Own) -> Iterator[str]:
    rows = []
    for link in sorted(own.links.values(), key=lambda link: (not link.vni, link.name)):
        vxlan = f"VNI {link.vni} port {link.port} local {link.local or '-'}" if link.vni else link.kind
        traffic = f"{link.rx_packets}/{link.tx_packets}"
        rows.append([link.name, "up" if link.up else "DOWN", str(link.mtu), traffic, link.alias or "-", vxlan])
    yield from _table(["LINK", "STATE", "MTU", "RX/TX", "OWNER", "KIND"], rows)


def _routes(facts: Facts, own: Own) -> Iterator[str]:
    tunnels = {link.name for link in own.tunnels}
    every = [r for r in facts.kernel.routes if not r.dst.is_link_local]
    shown = [r for r in every if r.dev in tunnels or r.protocol == "76" or not r.dst.prefixlen]
    rows = [
        [str(r.dst), str(r.via or "-"), r.dev or r.kind, r.protocol or "-", str(r.metric)]
        for r in sorted(shown, key=lambda r: (r.dst.version, r.dst.network_address.packed, r.metric))
    ]
    yield from _table(["DESTINATION", "VIA", "DEVICE", "PROTO", "METRIC"], rows)


def _tables(facts: Facts, own: Own) -> Iterator[str]:
    tunnels = {link.name for link in own.tunnels}
    rows = [[f.dev, f.mac, "→", str(f.dst)] for f in facts.kernel.fdb if f.dev in tunnels]
    rows += [[n.dev, str(n.address), "is", n.mac] for n in facts.kernel.neighbours if n.dev in tunnels and n.permanent]
    yield from _table(["DEVICE", "WHAT", "", "WHERE"], rows)


def _firewall(facts: Facts, findings: Sequence[Finding]) -> Iterator[str]:
    names = ", ".join(sorted(facts.firewall.saves)) or "nothing could be read"
    yield f"read: {names}; plain iptables is {facts.firewall.default}"
    yield from (f"{one.severity}: {one.what}" for one in findings if one.section == "firewall")


def _paths(facts: Facts) -> Iterator[str]:
    rows = [[p.host, p.where, str(p.address), p.device or "-", _answer(p)] for p in facts.probes]
    yield from _table(["HOST", "WAY", "ADDRESS", "DEVICE", "ANSWER"], rows)


def _answer(probe: ProbeFacts) -> str:
    if probe.small is None:
        return "not asked"
    if not probe.small:
        return "NONE"
    if probe.full is None:
        return "yes"
    return f"yes, {probe.mtu} octets too" if probe.full else f"yes, {probe.mtu} octets NOT"


def _daemon(facts: Facts) -> Iterator[str]:
    daemon = facts.daemon
    if daemon.error:
        yield f"does not answer on {daemon.socket}: {daemon.error}"
        return
    yield f"weft {daemon.version}, up {_span(daemon.uptime)}, {daemon.health}"
    rows = []
    for peer in daemon.peers:
        full = {True: "yes", False: "NO", None: "-"}[peer.full]
        way = peer.way or ("routed" if peer.routed else "not routed")
        rows.append([peer.node, ", ".join(peer.endpoints), way, peer.liveness or "-", full, ", ".join(peer.networks)])
    yield from _table(["PEER", "ENDPOINT", "WAY", "BFD", "FULL SIZE", "NETWORKS"], rows)


def _health(facts: Facts) -> Iterator[str]:
    file = facts.health
    if file.error:
        yield file.error
    else:
        yield f"{file.status} at {_time(file.last_check)}: {file.message}"
    yield from file.events[-10:]


def _table(headings: Sequence[str], rows: Rows) -> Iterator[str]:
    """Columns as wide as their longest cell."""
    if not rows:
        return
    shown = [list(headings), *(list(row) for row in rows[:MOST_ROWS])]
    widths = [max(len(row[i]) for row in shown) for i in range(len(headings))]
    for row in shown:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(rows) > MOST_ROWS:
        yield f"… and {len(rows) - MOST_ROWS} more (--json)"


def _joined(things: Iterable[object]) -> str:
    return ", ".join(str(thing) for thing in things) or "-"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds else "unknown"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"
