"""What is wrong with a host's firewall, as far as the overlay is concerned. Pure; `weft diagnose` calls it.

It judges by what the tools printed and not by what weft remembers, so that it serves a host whose agent doesn't run
(or can't mend something) just as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from weft.core.ruleset import Family
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
    """What the firewall is to let through. `label`: in the names of weft's chains, `WEFT-<label>-FWD`; "" for the
    device's name. `own`: this host's exposed subnets. `port`: of the tunnel's UDP packets, 0 if it has none.
    `underlay`: IP version that they have."""

    device: str
    own: tuple[IPNetwork, ...] = ()
    label: str = ""
    port: int = 8472
    underlay: Family = 4


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
    found = [*_nftables_backend(outputs)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def _nftables_backend(outputs: Outputs) -> list[Finding]:
    """Docker 29 with `--firewall-backend=nftables` keeps its rules in tables of their own."""
    tables = sorted(set(outputs.tables.splitlines()) & {"table ip docker-bridges", "table ip6 docker-bridges"})
    return [
        Finding(
            "critical",
            "docker-nftables",
            f"Docker's rules are nftables' own ({table.removeprefix('table ')}): neither its drops nor its "
            "masquerading can be overruled from iptables",
            "start dockerd without --firewall-backend=nftables, or with --bridge-accept-fwmark=0x4c/0x4c as "
            "docs/firewall.md describes",
        )
        for table in tables
    ]
