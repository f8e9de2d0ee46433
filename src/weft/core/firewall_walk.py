"""What a ruleset does to a kind of packet, without sending one. Pure; `firewall_findings.py` asks.

A kind of packet is known in part (whatever comes in from the tunnel for a network of ours: from where, on to which
bridge?), so a rule takes all of it, some, or none. The walk goes on behind a rule that takes some; whether what it
meets then is sure is in `Verdict.maybe_accepted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import ip_network

from weft.core.ruleset import Rule, Ruleset, covers, parse_rule
from weft.model import IPNetwork


class Share(IntEnum):
    """How much of a kind of packet a rule takes. `PART`: of a network that is known in full, some addresses; `SOME`: it
    depends on what isn't known."""

    NONE = 0
    SOME = 1
    PART = 2
    ALL = 3


@dataclass(frozen=True, slots=True)
class Packets:
    """A kind of packet, the first of its connection. What is None or "" isn't known. `port`: it is UDP to this port of
    the host itself; 0: any protocol."""

    source: IPNetwork | None = None
    target: IPNetwork | None = None
    into: str = ""
    out: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`target`: of the rule that decided, the policy if none did. `rule`: its text, "" for the policy; `chain`: where
    it stands. `maybe_accepted`: a rule before may have let some of the packets pass."""

    target: str
    rule: str
    chain: str
    maybe_accepted: bool


Chains = Mapping[str, tuple[str, ...]]
PASSES = frozenset({"ACCEPT", "RETURN"})
STOPS = frozenset({"DROP", "REJECT"})
TRANSLATES = frozenset({"MASQUERADE", "SNAT", "NETMAP"})


def walk(ruleset: Ruleset, table: str, chain: str, packets: Packets) -> Verdict:
    """How far `packets` come in a built-in chain. A rule that takes a part of them decides, if it stops or translates:
    those are lost."""
    decided, maybe = _walk(ruleset.tables.get(table, {}), chain, packets, frozenset())
    if decided is not None:
        return replace(decided, maybe_accepted=maybe)
    return Verdict(ruleset.policies.get((table, chain), "ACCEPT"), "", chain, maybe)


def _walk(chains: Chains, name: str, packets: Packets, within: frozenset[str]) -> tuple[Verdict | None, bool]:
    """The verdict in this chain, None if the packets leave it at its end; and whether some may have been let pass."""
    maybe = False
    for text in chains.get(name, ()):
        rule = parse_rule(text)
        share = _share(rule, packets)
        if share is Share.NONE:
            continue
        if rule.target in STOPS | TRANSLATES and share >= Share.PART:
            return Verdict(rule.target, text, name, False), maybe
        if rule.target in PASSES:
            if share is Share.ALL:
                return (Verdict("ACCEPT", text, name, False) if rule.target == "ACCEPT" else None), maybe
            maybe = maybe or share is Share.SOME
        elif rule.target in chains and rule.target not in within:
            found, passed = _walk(chains, rule.target, packets, within | {name})
            maybe = maybe or passed or (share is Share.SOME and found is not None and found.target == "ACCEPT")
            if found is not None and share >= Share.PART:
                return found, maybe
            if rule.goto and share is Share.ALL:
                return None, maybe
    return None, maybe


def _share(rule: Rule, packets: Packets) -> Share:
    return min((_by(option, value, packets) for option, value in rule.conditions), default=Share.ALL)


def _by(option: str, value: str, packets: Packets) -> Share:
    """How much of `packets` fulfils one condition."""
    negated, plain = option.startswith("! "), option.removeprefix("! ")
    if plain in ("-s", "-d"):
        return _by_network(packets.source if plain == "-s" else packets.target, value, negated)
    if plain in ("-i", "-o"):
        return _by_name(packets.into if plain == "-i" else packets.out, value, negated)
    if plain in ("--ctstate", "--state"):
        return _sure(("NEW" in value.split(",")) != negated)
    if plain == "-p":
        return _sure((value == "udp") != negated) if packets.port else _sure(negated)
    if plain in ("--dport", "--dports"):
        return _sure(_has_port(value, packets.port) != negated)
    if plain == "--dst-type" and packets.port:
        return _sure(("LOCAL" in value.split(",")) != negated)
    return Share.ALL if plain == "-m" else Share.SOME


def _sure(yes: bool) -> Share:
    return Share.ALL if yes else Share.NONE


def _by_network(mine: IPNetwork | None, value: str, negated: bool) -> Share:
    try:
        theirs = ip_network(value, strict=False)
    except ValueError:
        return Share.SOME  # a mask with holes
    if mine is None:
        return Share.SOME if not negated else Share.ALL
    if not mine.overlaps(theirs):
        return _sure(negated)
    if mine.prefixlen >= theirs.prefixlen:
        return _sure(not negated)
    return Share.PART


def _by_name(mine: str, value: str, negated: bool) -> Share:
    if mine:
        return _sure(covers(value, mine) != negated)
    if value == "lo":
        return _sure(negated)
    return Share.ALL if negated else Share.SOME


def _has_port(value: str, port: int) -> bool:
    """`8472`, `4789,8000:9000`."""
    for part in value.split(","):
        first, _, last = part.partition(":")
        if first.isdigit() and int(first) <= port <= int(last if last.isdigit() else first):
            return True
    return False
