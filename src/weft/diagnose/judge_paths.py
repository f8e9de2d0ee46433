"""What is wrong with the ways to the other hosts, with Docker, the firewall, the daemon and its health. Pure; part of
`judge.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import cast

from weft.core.firewall_findings import Implementation, Outputs, Overlay, findings
from weft.diagnose.facts import Facts, FirewallFacts, ProbeFacts
from weft.diagnose.finding import Finding, Own, Root, few, names
from weft.errors import DecodeError
from weft.model import IPNetwork

PORT = 8472


def firewall(facts: Facts, own: Own) -> Iterator[Finding]:
    """What the rules let through, as `core/firewall_findings.py` reads them."""
    subnets = tuple(s for n in facts.docker.networks if n.exposed for s in n.subnets)
    overlays = [
        Overlay(
            link.name,
            subnets,
            port=link.port or PORT,
            underlay=6 if link.local is not None and link.local.version == 6 else 4,
            watched=True,
        )
        for link in own.tunnels
    ]
    try:
        found = findings(outputs(facts.firewall), overlays)
    except DecodeError as error:
        yield Finding("note", "firewall", f"the rules can't be read: {error}", "", Root.FIREWALL)
        return
    for one in found:
        yield Finding(one.severity, "firewall", one.message, one.fix, Root.FIREWALL)


def outputs(facts: FirewallFacts) -> Outputs:
    """As `core/firewall_findings.py` takes them."""
    saves = {}
    for name, text in facts.saves.items():
        implementation, _, family = name.partition("/")
        saves[cast("Implementation", implementation), cast("Mapping[str, object]", {"4": 4, "6": 6})[family]] = text
    return Outputs(saves, "legacy" if facts.default == "legacy" else "nft", facts.tables)  # type: ignore[arg-type]


def engine(facts: Facts, own: Own) -> Iterator[Finding]:
    """Docker and flannel's container."""
    docker = facts.docker
    if not docker.asked:
        return
    if docker.error:
        fix = "start Docker; is DOCKER_HOST right, and may this user use its socket (RUN_AS_ROOT=true)?"
        yield Finding("critical", "docker", f"Docker at {docker.url} can't be asked: {docker.error}", fix, Root.ENGINE)
    for problem in docker.problems:
        yield Finding("warning", "docker", problem, "correct the network's label or subnet", Root.ENGINE)
    name = docker.container_name
    if docker.container == "stopped":
        fix = f"`docker logs {name}` tells why; `docker start {name}`"
        yield Finding("critical", "docker", f"flannel's container {name} has stopped", fix, Root.ENGINE)
    if docker.container == "absent" and own.flannel is not None:
        text = f"there is no container {name}; {own.flannel.name} is there, so flannel may run as a service"
        yield Finding("note", "docker", text, "", Root.ENGINE)


def paths(facts: Facts, own: Own) -> Iterator[Finding]:
    """What the probes came to."""
    by_host: Mapping[str, dict[str, ProbeFacts]] = defaultdict(dict)
    for probe in facts.probes:
        by_host[probe.host][probe.where] = probe
    relays = _relays(facts, by_host)
    for host, relay in relays.items():
        text = f"{host}'s own tunnel does not answer; its networks are reached through {relay}"
        yield Finding("note", "paths", text, "", Root.PATHS)
    by_host = {host: probes for host, probes in by_host.items() if host not in relays}
    blocked = [h for h, p in by_host.items() if _is(p.get("tunnel"), False) and _is(p.get("underlay"), True)]
    port = own.flannel.port if own.flannel is not None else PORT
    if blocked:
        device = by_host[blocked[0]]["tunnel"].device
        text = f"{names(blocked)} answers on the underlay and not through {device}"
        fix = (
            f"let UDP {port or PORT} through in both directions, here, there and on the way"
            f" (`tcpdump -ni any udp port {port or PORT}` on both shows where it ends); then `weft diagnose` there"
        )
        yield Finding("critical", "paths", text, fix, Root.PATHS)
    yield from few(_silent(by_host))
    yield from few(_narrow(by_host))


def _relays(facts: Facts, by_host: Mapping[str, Mapping[str, ProbeFacts]]) -> dict[str, str]:
    """Host whose tunnel is silent → the one that answers and takes its packets on, as this host's routes have it."""
    tunnels = {host: probes["tunnel"] for host, probes in by_host.items() if "tunnel" in probes}
    answering = {probe.address: host for host, probe in tunnels.items() if _is(probe, True)}
    ours = [route for route in facts.kernel.routes if route.protocol == "76" and route.via in answering]
    found = {}
    for host, probe in tunnels.items():
        subnets = {one.subnet for one in facts.etcd.registrations if one.host == host}
        subnets |= {one.subnet for one in facts.etcd.leases if one.subnet.network_address == probe.address}
        through = (route.via for route in ours if subnets & {route.dst, *_around(route.dst)})
        relay = next((answering[via] for via in through if via is not None), None)
        if _is(probe, False) and relay is not None:
            found[host] = relay
    return found


def _around(dst: IPNetwork) -> tuple[IPNetwork, ...]:
    """What is twice as large: a lease of which a half is routed."""
    return (dst.supernet(),) if dst.prefixlen else ()


def _silent(by_host: Mapping[str, Mapping[str, ProbeFacts]]) -> Iterator[Finding]:
    for host, probes in by_host.items():
        under = probes.get("underlay")
        if under is not None and _is(under, False) and not _is(probes.get("tunnel"), True):
            text = f"{host} ({under.address}) does not answer at all, neither on the underlay nor through a tunnel"
            fix = (
                "is it up? Where it can only be reached through another host, HOST_GATEWAY_MAP="
                f"{under.address}:<that host> says so (docs/indirect-routing.md)"
            )
            yield Finding("critical", "paths", text, fix, Root.PATHS)


def _narrow(by_host: Mapping[str, Mapping[str, ProbeFacts]]) -> Iterator[Finding]:
    for host, probes in by_host.items():
        for where in ("tunnel", "underlay"):
            probe = probes.get(where)
            if probe is not None and probe.small and probe.full is False:
                way = f"through {probe.device}" if where == "tunnel" else "on the underlay"
                text = f"packets of {probe.mtu} octets to {host} {way} get lost, small ones arrive"
                fix = "a link on the way has a smaller MTU: set FLANNEL_MTU (flannel's config: MTU) to what it carries"
                yield Finding("critical", "paths", text, fix, Root.PATHS)
                break


def _is(probe: ProbeFacts | None, answer: bool) -> bool:
    return probe is not None and probe.small is answer


def daemon(facts: Facts, own: Own) -> Iterator[Finding]:
    """What the running registrar says of itself."""
    daemon = facts.daemon
    if daemon.error:
        text = f"no `weft registrar` answers on {daemon.socket}: {daemon.error}"
        yield Finding("warning", "daemon", text, "start it (`docker compose up -d flannel-registrar`)", Root.DAEMON)
        return
    if daemon.waiting_for:
        text = f"the registrar waits for {', '.join(daemon.waiting_for)}: it removes nothing until then"
        yield Finding("note", "daemon", text, "", Root.DAEMON)
    yield from few(Finding("warning", "daemon", text, "", Root.HEALTH) for text in daemon.problems)
    for one in daemon.not_done:
        text = f"{one.object}: {one.state}: {one.message}"
        yield Finding("warning", "daemon", text, "", Root.HEALTH)


def health(facts: Facts, own: Own) -> Iterator[Finding]:
    """health_status.json."""
    file = facts.health
    if file.error or not file.last_check:
        return
    age = facts.host.at - file.last_check
    if age > facts.wait:
        text = f"{file.path} is {age / 60:.0f} min old: the registrar that wrote it is gone, or hangs"
        yield Finding("warning", "health", text, "`docker restart flannel-registrar`, and see its log", Root.HEALTH)
    elif file.status == "critical":
        yield Finding("warning", "health", f"the registrar calls this host critical: {file.message}", "", Root.HEALTH)
