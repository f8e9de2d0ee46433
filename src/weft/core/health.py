"""How well this host does: everything the registrar knows, judged. `agent/journal.py` writes the verdict into
health_status.json, `web/health.py` answers it, `weft diagnose` prints it.

Pure: what is known comes as one frozen value (`Vitals`), the clock is in it. The status follows from the issues alone:

    starting    nothing was planned yet and nothing is critical, or nothing is wrong and etcd doesn't have this host's
                networks yet: no other host could reach them
    critical    etcd never answered for 3 × INTERVAL; flannel's device is missing; no other host is reachable
    degraded    anything else that is wrong
    healthy     nothing is
    unknown     nobody judged (only `weft diagnose` says so, of a file that is missing or too old)

Kinds and severities are those of flannel-registrar's health_status.json (FORMATS.md), which monitoring reads already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from weft.model import Problem, Reach

Status = Literal["starting", "healthy", "degraded", "critical", "unknown"]
Kind = Literal["interface", "container", "routes", "traffic", "connectivity", "etcd"]
Severity = Literal["critical", "warning"]

PATIENCE = 3
"""Intervals for which etcd may be silent: the registrations' own leases live as long (FORMATS.md)."""
STILL = 60.0
"""Seconds without a packet from anybody, at the least, before the tunnel's silence is an issue."""
SETTLE = 5.0
"""Seconds that an object may take to be as planned: the second attempt comes at once, the fourth after 0.3 s."""
MOST_ISSUES = 50
"""Issues that are told one by one; thousands of the same kind help nobody."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong. `message`: what is wrong and what to do, one sentence each."""

    type: Kind
    message: str
    severity: Severity = "warning"


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict. `message`: one sentence. `issues`: worst first."""

    status: Status
    message: str
    issues: tuple[Issue, ...] = ()


@dataclass(frozen=True, slots=True)
class Undone:
    """An object that is not as planned (`agent.status.Status`, as plain fields). `since`: seconds since 1970."""

    object: str
    state: Literal["pending", "error", "conflict"]
    message: str
    since: float
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Etcd:
    """How etcd is. `since`: seconds since 1970 of the last change of `reachable` (or of the start); `known`: it has
    answered once in this run, so there is knowledge to go on with. `error`: why it can't be asked."""

    reachable: bool
    since: float
    known: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Overlay:
    """The device that routes go out of. `beside`: it is flannel's, and `leased`: flannel holds a lease for this host.
    `present`: it is there and up."""

    device: str
    beside: bool
    present: bool
    leased: bool = False


ContainerState = Literal["running", "stopped", "absent", "unknown"]


@dataclass(frozen=True, slots=True)
class Container:
    """The container FLANNEL_CONTAINER_NAME. `name`: as the engine has it, or as it was asked for. `health`: what its
    own check says ("healthy", "unhealthy", "starting", "" for none). `started`: seconds since 1970, 0 if it doesn't
    run. `seen`: it was there at some time in this run. `error`: why nothing is known."""

    name: str
    state: ContainerState = "unknown"
    health: str = ""
    started: float = 0.0
    image: str = ""
    seen: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Counters:
    """A device's counters, as the kernel has them. `at`: seconds since 1970."""

    at: float
    rx_packets: int
    tx_packets: int
    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Flow:
    """What a device's counters did. `heard`, `sent`: when they last grew (seconds since 1970)."""

    last: Counters
    heard: float
    sent: float


def flow(before: Flow | None, counters: Counters) -> Flow:
    """The flow after another reading. Counters that went back are a new device's: both count as moving now."""
    if before is None or counters.rx_packets < before.last.rx_packets or counters.tx_packets < before.last.tx_packets:
        return Flow(counters, counters.at, counters.at)
    heard = counters.at if counters.rx_packets > before.last.rx_packets else before.heard
    sent = counters.at if counters.tx_packets > before.last.tx_packets else before.sent
    return Flow(counters, heard, sent)


@dataclass(frozen=True, slots=True)
class Vitals:
    """Everything that the verdict depends on. `now`: seconds since 1970; `interval`: seconds (INTERVAL).

    `planned`: a plan was carried out. `registered`: etcd has had, once in this run, what this host tells. `waiting`:
    sources that have not spoken. `problems`: of the sources and of judging claims; `conflicts`: claims refused (two
    hosts, one subnet; an overlap with the underlay); `courses`: what the topology could not do, by node. `peers`: the
    other hosts' ids; `relayed`: those of them that are reached through another one. `reaches`: the probed paths.
    `container` None: none is watched. `flow`: of the tunnel device."""

    now: float
    interval: float
    etcd: Etcd
    overlay: Overlay
    planned: bool = False
    registered: bool = False
    waiting: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    conflicts: tuple[Problem, ...] = ()
    courses: tuple[Problem, ...] = ()
    undone: tuple[Undone, ...] = ()
    peers: frozenset[str] = frozenset()
    relayed: frozenset[str] = frozenset()
    reaches: tuple[Reach, ...] = field(default=())
    container: Container | None = None
    flow: Flow | None = None


def judge(vitals: Vitals) -> Health:
    """The verdict on one moment."""
    issues = sorted(set(_issues(vitals)), key=lambda i: (i.severity != "critical", i.type, i.message))
    if any(i.severity == "critical" for i in issues):
        status: Status = "critical"
    elif not vitals.planned or (not issues and not vitals.registered):
        status = "starting"
    else:
        status = "degraded" if issues else "healthy"
    return Health(status, _message(status, issues, vitals), _few(issues))


def _issues(vitals: Vitals) -> Iterator[Issue]:
    yield from _etcd(vitals)
    yield from _interface(vitals)
    if vitals.container is not None:
        yield from _container(vitals.container, vitals.overlay)
    yield from _connectivity(vitals)
    yield from _traffic(vitals)
    yield from (Issue("routes", p.message) for p in vitals.conflicts if p.wrong)
    yield from (Issue("connectivity", p.message) for p in vitals.courses if p.wrong)
    told = {p.message for p in (*vitals.conflicts, *vitals.courses)}
    yield from (Issue(_kind(p), p.message) for p in vitals.problems if p.wrong and p.message not in told)
    yield from (_undone(one) for one in vitals.undone if _lasts(one, vitals.now))


def _etcd(vitals: Vitals) -> Iterator[Issue]:
    etcd = vitals.etcd
    if etcd.reachable:
        return
    silent = vitals.now - etcd.since
    limit = PATIENCE * vitals.interval
    why = f": {etcd.error}" if etcd.error else ""
    check = "check ETCD_ENDPOINT, the network to it, and that etcd runs"
    if not etcd.known:
        if silent > limit:
            yield Issue("etcd", f"etcd has not answered for {_span(silent)}{why}; {check}", "critical")
        return
    kept = "what was known is kept"
    if silent > limit:
        kept += ", but this host's registrations may have run out there: other hosts drop their routes to it"
    yield Issue("etcd", f"etcd can't be asked since {_span(silent)}{why}; {kept}; {check}")


def _interface(vitals: Vitals) -> Iterator[Issue]:
    overlay = vitals.overlay
    if overlay.beside and not overlay.present and (overlay.leased or vitals.planned):
        text = f"flannel's device {overlay.device} is missing or down; start flannel (flanneld or `weft flanneld`)"
        yield Issue("interface", text, "critical")
    elif not overlay.present and vitals.planned:
        text = f"the tunnel {overlay.device} is missing or down; the registrar makes it again, see the log for why not"
        yield Issue("interface", text, "critical")
    if overlay.beside and overlay.present and not overlay.leased:
        text = (
            f"{overlay.device} is there and etcd holds no lease of flannel's for this host; does flannel run, and has"
            " it the same FLANNEL_PREFIX and public address?"
        )
        yield Issue("interface", text)


def _container(container: Container, overlay: Overlay) -> Iterator[Issue]:
    name = container.name
    match container.state:
        case "running" if container.health == "unhealthy":
            yield Issue("container", f"container {name} runs and calls itself unhealthy; see `docker logs {name}`")
        case "stopped":
            text = f"container {name} has stopped: `docker logs {name}` tells why, `docker start {name}` starts it"
            yield Issue("container", text)
        case "absent" if container.seen:
            yield Issue("container", f"container {name} was removed; start flannel again")
        case "absent" if overlay.beside and not overlay.leased:
            yield Issue("container", f"there is no container {name}; set FLANNEL_CONTAINER_NAME, or start flannel")
        case "unknown" if container.error:
            yield Issue("container", f"whether container {name} runs is not known: {container.error}")


def _connectivity(vitals: Vitals) -> Iterator[Issue]:
    probed = _tunnels(vitals)
    down = {node: reach for node, reach in probed.items() if reach.state == "down" and node not in vitals.relayed}
    if probed and len(down) == len(vitals.peers):
        text = (
            f"no other host is reachable through {vitals.overlay.device} ({_names(down)}): is UDP"
            " 8472 let through between the hosts, and does this host have its network?"
        )
        yield Issue("connectivity", text, "critical")
    else:
        for node, reach in down.items():
            yield Issue("connectivity", f"{node} is not reachable: {reach.reason or 'it does not answer'}")
    for node, reach in probed.items():
        if reach.state == "up" and reach.full is False:
            size = f"packets of {reach.path.mtu} octets" if reach.path.mtu else "full-size packets"
            text = f"{size} to {node} get lost while small ones pass; is the MTU of a link on the way smaller?"
            yield Issue("connectivity", text)


def _tunnels(vitals: Vitals) -> dict[str, Reach]:
    """The tunnel path to each peer that is probed, sorted by its id."""
    found = {r.path.node: r for r in vitals.reaches if r.path.kind == "tunnel" and r.path.node in vitals.peers}
    return dict(sorted(found.items()))


def _traffic(vitals: Vitals) -> Iterator[Issue]:
    seen = vitals.flow
    if seen is None or not vitals.peers or not vitals.overlay.present:
        return
    limit = max(STILL, vitals.interval)
    silent = seen.last.at - seen.heard
    if silent > limit and seen.last.at - seen.sent < limit:
        text = (
            f"{vitals.overlay.device} has sent packets and received none for {_span(silent)}; is UDP 8472 to this host"
            " blocked (its own firewall, or one on the way)?"
        )
        yield Issue("traffic", text)


_KINDS: dict[str, Kind] = {
    "etcd": "etcd",
    "docker": "container",
    "engine": "container",
    "host": "interface",
    "backend": "interface",
    "kernel": "routes",
    "firewall": "traffic",
    "liveness": "connectivity",
    "topology": "connectivity",
}
"""What a source's or a target's problem is about (`Problem.subject`); of anything else, the routes suffer."""


def _kind(problem: Problem) -> Kind:
    return _KINDS.get(problem.subject.split(" ", 1)[0], "routes")


_OBJECTS: dict[str, Kind] = {"chain": "traffic", "jump": "traffic", "device": "interface", "link": "interface"}


def _undone(one: Undone) -> Issue:
    kind = _OBJECTS.get(one.object.split(" ", 1)[0], "routes")
    said = "belongs to somebody else and is left alone" if one.state == "conflict" else "is not as it must be"
    return Issue(kind, f"{one.object} {said}: {one.message}")


def _lasts(one: Undone, now: float) -> bool:
    """Whether it is more than what the next attempt mends."""
    return one.state == "conflict" or (one.attempts > 1 and now - one.since >= SETTLE)


def _message(status: Status, issues: Sequence[Issue], vitals: Vitals) -> str:
    if issues:
        more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
        return f"{issues[0].message}{more}"
    if status == "starting":
        unsaid = "etcd to have this host's registrations" if vitals.planned else "the first plan"
        return f"waiting for {', '.join(vitals.waiting) or unsaid}"
    up = sum(reach.state == "up" for reach in _tunnels(vitals).values())
    relayed = len(vitals.relayed & vitals.peers)
    said = f"{len(vitals.peers)} other host{'' if len(vitals.peers) == 1 else 's'}"
    return f"all is well: {said}, {up} reached directly, {relayed} through another host"


def _few(issues: Sequence[Issue]) -> tuple[Issue, ...]:
    if len(issues) <= MOST_ISSUES:
        return tuple(issues)
    left = len(issues) - MOST_ISSUES + 1
    more = Issue(issues[MOST_ISSUES - 1].type, f"and {left} more issues; see `weft show status`")
    return (*issues[: MOST_ISSUES - 1], more)


def _names(nodes: dict[str, Reach]) -> str:
    shown = list(nodes)[:5]
    return ", ".join(shown) + (f" and {len(nodes) - 5} more" if len(nodes) > 5 else "")


def _span(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
