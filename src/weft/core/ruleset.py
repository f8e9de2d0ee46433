"""iptables' own words: what iptables-save prints, and the names by which weft's chains and jumps are told. Pure.

`targets/firewall.py` reads with this; the other modules of the firewall (`firewall*.py`, `refusals.py`) build on it.

Rules of ours stand in chains of ours, `WEFT-<label>-…`, one set per device, so that two daemons on one host have
nothing in common. The label is the device's name, or, for a device that belongs to another daemon, the role in front of
it. One jump, known by its comment, leads into each chain that others' packets come by.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

from weft.errors import DecodeError

Family: TypeAlias = Literal[4, 6]
Parent: TypeAlias = tuple[int, str, str]
"""A chain that isn't ours: (4 or 6, table, chain), as in `model.Host.chains`."""

FAMILIES: tuple[Family, ...] = (4, 6)
PREFIX = "WEFT-"
JUMP = "-m comment --comment weft -j "
"""Before the name of one of our chains, this is the whole text of our jump to it, as iptables-save prints it."""
DOCKER_USER = "DOCKER-USER"
INNER = "ADM"
"""Suffix of the chain that our forward chain leads to, before it accepts anything."""
HOOKS = (
    ("filter", "FORWARD"),
    ("filter", "INPUT"),
    ("nat", "POSTROUTING"),
    ("raw", "PREROUTING"),
    ("mangle", "FORWARD"),
)
ALWAYS = ("filter", "mangle")
FINAL = frozenset({"ACCEPT", "DROP", "REJECT", "QUEUE", "NFQUEUE", "RETURN"})


# ---- names ----


def chain_name(label: str, suffix: str) -> str:
    """`WEFT-vxlan4096-FWD`; 28 characters, as many as iptables takes, for the longest label (19) and suffix (3)."""
    return f"{PREFIX}{label}-{suffix}"


def label_in(chain: str) -> str:
    """Of `WEFT-vxlan4096-FWD`, `vxlan4096`."""
    return chain.removeprefix(PREFIX).rpartition("-")[0]


def shared_label(role: str, device: str) -> str:
    """Of a device that is another daemon's: `reg-flannel.1` for the registrar's chains. Three letters are what the
    longest name of a device (15 characters) leaves."""
    return f"{role[:3]}-{device}"


def device_in(chain: str) -> str:
    """The device that `WEFT-vxlan4096-FWD` or `WEFT-reg-flannel.1-FWD` is about."""
    label = label_in(chain)
    return label[4:] if label.startswith(SHARED) else label


SHARED = "reg-"
"""How the labels of all chains begin that the registrar has for others' devices; no device's name does."""


# ---- what is there ----


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What iptables-save printed for one family: table → chain → its rules, each without `-A CHAIN `. `policies` of
    the built-in chains: (table, chain) → `ACCEPT` or `DROP`."""

    family: Family
    tables: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    policies: Mapping[tuple[str, str], str] = field(default_factory=dict)


def parse_save(family: Family, text: str) -> Ruleset:
    """Read the output of iptables-save (without counters). DecodeError for a line that such output doesn't have."""
    tables: dict[str, dict[str, list[str]]] = {}
    chains: dict[str, list[str]] = {}
    policies: dict[tuple[str, str], str] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("-A "):
            name, _, rule = line[3:].partition(" ")
            chains.setdefault(name, []).append(rule)
        elif line.startswith("*"):
            table = line[1:]
            chains = tables.setdefault(table, {})
        elif line.startswith(":"):
            name, _, rest = line[1:].partition(" ")
            chains.setdefault(name, [])
            if not rest.startswith("-"):
                policies[table, name] = rest.partition(" ")[0]
        elif line and not line.startswith("#") and line != "COMMIT":
            raise DecodeError(f"iptables-save printed {line!r}, which is neither a table, a chain nor a rule")
    frozen = {table: {name: tuple(rules) for name, rules in of.items()} for table, of in tables.items()}
    return Ruleset(family, frozen, policies)


def labels(ruleset: Ruleset) -> frozenset[str]:
    """Whose chains there are, or jumps to them."""
    tables = ruleset.tables.values()
    names = {name for chains in tables for name in chains}
    names.update(target for chains in tables for rules in chains.values() for target in jumps_to(rules))
    return frozenset(label_in(name) for name in names if name.startswith(PREFIX))


def parents(ruleset: Ruleset) -> frozenset[Parent]:
    """Foreign chains to hook into: the built-in ones, which the kernel makes on demand, and Docker's if it's there.

    Those of nat and raw only where somebody else has rules in that table: without any there is nothing to be exempt
    from, and the mere presence of a nat chain puts every packet through conntrack."""
    found: set[Parent] = {
        (ruleset.family, table, chain) for table, chain in HOOKS if table in ALWAYS or _occupied(ruleset, table)
    }
    if DOCKER_USER in ruleset.tables.get("filter", {}):
        found.add((ruleset.family, "filter", DOCKER_USER))
    return frozenset(found)


def _occupied(ruleset: Ruleset, table: str) -> bool:
    """Whether anybody else has a rule in this table."""
    return any(
        not rule.startswith(JUMP + PREFIX)
        for name, rules in ruleset.tables.get(table, {}).items()
        if not name.startswith(PREFIX)
        for rule in rules
    )


def has_docker(ruleset: Ruleset) -> bool:
    """Docker keeps its chains here."""
    return any(name.startswith("DOCKER") for chains in ruleset.tables.values() for name in chains)


def jumps_to(rules: Iterable[str]) -> Iterator[str]:
    """The chains of ours that jumps of ours among these rules lead to."""
    return (rule.removeprefix(JUMP) for rule in rules if rule.startswith(JUMP + PREFIX))


# ---- one rule ----


@dataclass(frozen=True, slots=True)
class Rule:
    """One foreign rule, as far as a place is decided by it. `conditions`: option and value, `("! -o", "docker0")`;
    comments are left out."""

    target: str
    goto: bool
    conditions: tuple[tuple[str, str], ...]


@lru_cache(maxsize=4096)
def parse_rule(text: str) -> Rule:
    """Read a rule as iptables-save prints it. One that can't be split is a rule with a condition that nobody knows."""
    try:
        words = shlex.split(text)
    except ValueError:
        return Rule("", False, (("?", text),))
    target, goto, conditions, negation = "", False, [], ""
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word in ("-j", "-g"):
            target, goto = words[at] if at < len(words) else "", word == "-g"
            break
        if word == "!":
            negation = "! "
            continue
        start = at
        while at < len(words) and words[at] != "!" and not words[at].startswith("-"):
            at += 1
        conditions.append((negation + word, " ".join(words[start:at])))
        negation = ""
    told = tuple(c for c in conditions if c != ("-m", "comment") and c[0] != "--comment")
    return Rule(target, goto, told)


def covers(pattern: str, dev: str) -> bool:
    """iptables' interface match: `br-+` is every name that begins with `br-`."""
    return dev.startswith(pattern[:-1]) if pattern.endswith("+") else dev == pattern
