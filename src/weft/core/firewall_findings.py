"""What is wrong with a host's firewall, as far as the overlay is concerned. Pure; `weft diagnose` calls it.

It judges by what the tools printed and not by what weft remembers, so that it serves a host whose agent doesn't run
(or can't mend something) just as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from weft.core.firewall import WATCHING
from weft.core.firewall_walk import STOPS, TRANSLATES, Packets, Verdict, walk
from weft.core.ruleset import JUMP, PREFIX, Family, Ruleset, device_in, parse_save
from weft.model import IPNetwork

Implementation: TypeAlias = Literal["nft", "legacy"]
Severity: TypeAlias = Literal["critical", "warning", "note"]
"""critical: overlay traffic is lost; warning: some of it may be, or a rule doesn't do what it seems to; note: as it
should be, and worth knowing."""

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "note")
"""The worst first."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the tools of one network namespace printed. `saves`: of `iptables-nft-save`, `ip6tables-legacy-save` and so
    on, without counters, by implementation and family; one that isn't installed or failed is left out. `default`: the
    implementation that plain `iptables` stands for. `tables`: of `nft list tables`, "" where there is no nft."""

    saves: Mapping[tuple[Implementation, Family], str] = field(default_factory=dict)
    default: Implementation = "nft"
    tables: str = ""


@dataclass(frozen=True, slots=True)
class Overlay:
    """What the firewall is to let through: packets of the tunnel's `device` from and to `own`, this host's exposed
    subnets. `port`: of the tunnel's own UDP packets, 0 if it has none. `underlay`: IP version that they have.
    `watched`: the other hosts probe this one through the device, with the same IP version."""

    device: str
    own: tuple[IPNetwork, ...] = ()
    port: int = 8472
    underlay: Family = 4
    watched: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """`about`: a word by which programs tell the kinds apart. `message`: one sentence; `fix`: what to do, a command
    where there is one, "" where nothing need be done."""

    severity: Severity
    about: str
    message: str
    fix: str = ""


def findings(outputs: Outputs, overlays: Sequence[Overlay]) -> tuple[Finding, ...]:
    """Everything that stands between this host's `overlays` and their packets, the worst first. DecodeError if one of
    the outputs isn't what iptables-save prints."""
    firewalls = [Firewall(name, parse_save(family, text)) for (name, family), text in sorted(outputs.saves.items())]
    found = [
        *_tables_of_their_own(outputs.tables),
        *_two_firewalls(firewalls, outputs.default),
        *(one for overlay in overlays for firewall in firewalls for one in _judge(firewall, overlay)),
    ]
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: SEVERITIES.index(finding.severity)))


class Firewall(NamedTuple):
    """One implementation's rules, of one family."""

    name: Implementation
    ruleset: Ruleset

    @property
    def tool(self) -> str:
        return f"ip{'6' if self.ruleset.family == 6 else ''}tables-{self.name}"


def _tables_of_their_own(tables: str) -> Iterator[Finding]:
    """nftables' tables that iptables can't come before."""
    there = set(tables.splitlines())
    for table in sorted(there & {"table ip docker-bridges", "table ip6 docker-bridges"}):
        yield Finding(
            "critical",
            "docker-nftables",
            f"Docker's rules are nftables' own ({table.removeprefix('table ')}): neither its drops nor its "
            "masquerading can be overruled from iptables",
            "start dockerd without --firewall-backend=nftables, or with --bridge-accept-fwmark=0x4c/0x4c as "
            "docs/firewall.md describes",
        )
    if "table inet firewalld" in there:
        yield Finding(
            "note",
            "firewalld-nftables",
            "firewalld's rules are nftables' own (inet firewalld): what they refuse, iptables can't overrule",
            "firewall-cmd --permanent --zone=trusted --add-interface=DEVICE for the tunnel's device, then --reload",
        )


def _two_firewalls(firewalls: Sequence[Firewall], default: Implementation) -> Iterator[Finding]:
    """Both implementations have rules of others than weft: both apply."""
    used = {firewall.name for firewall in firewalls if _has_rules(firewall.ruleset)}
    if len(used) > 1:
        other = "legacy" if default == "nft" else "nft"
        yield Finding(
            "warning",
            "two-firewalls",
            f"iptables-nft and iptables-legacy both have rules here, and both apply; plain iptables shows those of "
            f"iptables-{default} alone",
            f"move the rules of one into the other: `iptables-{other}-save` shows what is hidden",
        )


def _has_rules(ruleset: Ruleset) -> bool:
    return any(
        not name.startswith(PREFIX) and any(not rule.startswith(JUMP + PREFIX) for rule in rules)
        for chains in ruleset.tables.values()
        for name, rules in chains.items()
    )


def _judge(firewall: Firewall, overlay: Overlay) -> Iterator[Finding]:
    family = firewall.ruleset.family
    if overlay.port and family == overlay.underlay:
        yield from _tunnel(firewall, overlay)
    if overlay.watched and family == overlay.underlay:
        yield from _probes(firewall, overlay)
    for subnet in overlay.own:
        if subnet.version == family:
            into = Packets(target=subnet, into=overlay.device)
            out = Packets(source=subnet, out=overlay.device)
            yield from _raw(firewall, overlay, into)
            yield from _forward(firewall, overlay, into, f"comes in for {subnet} from {overlay.device}")
            yield from _forward(firewall, overlay, out, f"leaves {subnet} by {overlay.device}")
            yield from _translated(firewall, overlay, out)


def _tunnel(firewall: Firewall, overlay: Overlay) -> Iterator[Finding]:
    verdict = walk(firewall.ruleset, "filter", "INPUT", Packets(port=overlay.port))
    if verdict.target in STOPS and not verdict.maybe_accepted:
        yield Finding(
            "critical",
            "tunnel-port",
            f"the tunnel's packets (UDP {overlay.port}) are refused: {firewall.tool}, {_words(verdict)}",
            f"{firewall.tool} -I INPUT -p udp --dport {overlay.port} -s HOSTS -j ACCEPT for the other hosts' addresses "
            f"(ufw: `ufw allow proto udp from HOSTS to any port {overlay.port}`; firewalld: "
            f"`firewall-cmd --permanent --add-port={overlay.port}/udp`, then --reload)",
        )


def _probes(firewall: Firewall, overlay: Overlay) -> Iterator[Finding]:
    verdict = walk(firewall.ruleset, "filter", "INPUT", Packets(into=overlay.device, port=WATCHING))
    if verdict.target in STOPS and not verdict.maybe_accepted:
        yield Finding(
            "warning",
            "probes",
            f"the other hosts' probes (BFD, UDP {WATCHING}) through {overlay.device} are refused, so they take the "
            f"tunnel to this host for dead: {firewall.tool}, {_words(verdict)}",
            f"{_mending(firewall, overlay)} By hand: {firewall.tool} -I INPUT -i {overlay.device} -p udp "
            f"--dport {WATCHING} -j ACCEPT",
        )


def _raw(firewall: Firewall, overlay: Overlay, packets: Packets) -> Iterator[Finding]:
    verdict = walk(firewall.ruleset, "raw", "PREROUTING", packets)
    if verdict.target in STOPS and not verdict.maybe_accepted:
        yield Finding(
            "critical",
            "docker-raw",
            f"packets from other hosts to {packets.target} are dropped before anything can accept them, as Docker 28 "
            f"and later do: {firewall.tool} -t raw, {_words(verdict)}",
            f"{_mending(firewall, overlay)} By hand: {firewall.tool} -t raw -I PREROUTING -i {overlay.device} "
            f"-d {packets.target} -j ACCEPT, or create the network with "
            f"-o com.docker.network.bridge.trusted_host_interfaces={overlay.device}",
        )


def _forward(firewall: Firewall, overlay: Overlay, packets: Packets, what: str) -> Iterator[Finding]:
    for table in ("mangle", "filter"):
        verdict = walk(firewall.ruleset, table, "FORWARD", packets)
        if verdict.target not in STOPS or verdict.maybe_accepted:
            continue
        side = (
            f"-i {overlay.device} -d {packets.target}" if packets.into else f"-o {overlay.device} -s {packets.source}"
        )
        behind = " (weft's accepts stand behind it)" if verdict.rule and _chains(firewall, overlay) else ""
        yield Finding(
            "critical",
            "forward-blocked" if verdict.rule else "forward-policy",
            f"what {what} is not forwarded: {firewall.tool}, {_words(verdict)}{behind}",
            f"{_mending(firewall, overlay)} By hand: {firewall.tool} -I FORWARD {side} -j ACCEPT",
        )


def _translated(firewall: Firewall, overlay: Overlay, packets: Packets) -> Iterator[Finding]:
    verdict = walk(firewall.ruleset, "nat", "POSTROUTING", packets)
    if verdict.target in TRANSLATES and not verdict.maybe_accepted:
        yield Finding(
            "critical",
            "masquerade",
            f"what leaves {packets.source} by {overlay.device} gets another source address, so peers can't answer or "
            f"see the wrong sender: {firewall.tool} -t nat, {_words(verdict)}",
            f"{_mending(firewall, overlay)} By hand: {firewall.tool} -t nat -I POSTROUTING -s {packets.source} "
            f"-o {overlay.device} -j ACCEPT",
        )


def _words(verdict: Verdict) -> str:
    if not verdict.rule:
        return f"the policy of {verdict.chain} is {verdict.target} and nothing accepts them before"
    return f"`-A {verdict.chain} {verdict.rule}`"


def _chains(firewall: Firewall, overlay: Overlay) -> bool:
    """Whether weft has chains for this device here."""
    names = (name for chains in firewall.ruleset.tables.values() for name in chains if name.startswith(PREFIX))
    return any(device_in(name) == overlay.device for name in names)


def _mending(firewall: Firewall, overlay: Overlay) -> str:
    if _chains(firewall, overlay):
        return "weft's daemon mends this at its next look; if it doesn't, see its log and `weft show status`."
    return "weft's daemon sets what is needed: is it running, and does it expose the network?"
