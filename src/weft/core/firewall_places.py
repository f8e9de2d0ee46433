"""Where in other people's chains our jumps belong, and whether they stand there. Pure.

Where a jump stands is all that others and we have to agree on: see `PLACES`. `targets/firewall.py` asks for `objects`,
`firewall_script.py` for the `place` of a jump that it inserts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from weft.core.ruleset import (
    DOCKER_USER,
    FINAL,
    INNER,
    JUMP,
    PREFIX,
    Rule,
    Ruleset,
    covers,
    device_in,
    jumps_to,
    label_in,
    parse_rule,
)
from weft.objects import Chain, Jump, Key

TRANSLATORS = frozenset({"MASQUERADE", "SNAT", "NETMAP"})
ADDRESSES = frozenset({"-s", "! -s", "-d", "! -d"})


class Place(NamedTuple):
    """Our jump stands before the first rule that `applies(rule, device)` and has, or leads to, a target in `ends`."""

    ends: frozenset[str]
    applies: Callable[[Rule, str], bool]


def _to_all(rule: Rule, dev: str) -> bool:
    """It takes every packet: the end of a firewall that denies by default, not somebody's rule about something."""
    return not rule.conditions


def _may_leave_by(rule: Rule, dev: str) -> bool:
    """It may take what leaves by `dev`, told by addresses and interfaces alone, as Docker's MASQUERADE rules are.

    A rule with any other match (a mark, a set) serves a purpose of its own; its owner may insist on its place."""
    out = [covers(value, dev) != option.startswith("!") for option, value in rule.conditions if option[-2:] == "-o"]
    return all(out) and all(option in ADDRESSES or option[-2:] == "-o" for option, _ in rule.conditions)


def _drops_strangers(rule: Rule, dev: str) -> bool:
    """It takes what does NOT come in by some other interface: `-d 172.18.0.2/32 ! -i br-1234 -j DROP`, Docker 28."""
    strangers = [value for option, value in rule.conditions if option == "! -i"]
    plain = all(option in ADDRESSES or option == "! -i" for option, _ in rule.conditions)
    return plain and bool(strangers) and not any(covers(value, dev) for value in strangers)


DENY_BY_DEFAULT = Place(FINAL, _to_all)
PLACES: Mapping[tuple[str, str], Place] = {
    # All of DOCKER-USER is an administrator's own, a DROP of everything too; only Docker's RETURN at its end isn't.
    ("filter", DOCKER_USER): Place(frozenset({"RETURN"}), _to_all),
    ("filter", "FORWARD"): DENY_BY_DEFAULT,
    ("filter", "INPUT"): DENY_BY_DEFAULT,
    ("mangle", "FORWARD"): DENY_BY_DEFAULT,
    ("nat", "POSTROUTING"): Place(TRANSLATORS, _may_leave_by),
    ("raw", "PREROUTING"): Place(frozenset({"DROP"}), _drops_strangers),
    ("raw", "OUTPUT"): DENY_BY_DEFAULT,
    ("nat", "OUTPUT"): DENY_BY_DEFAULT,
}
"""What our jump must stand before, by table and chain. Rules about something particular that stand before it keep
winning, and it stays where it is while nothing has come before it that takes everything: no fight over the top."""


def _well_placed(chains: Mapping[str, tuple[str, ...]], jump: Jump) -> bool:
    """There is exactly one, and it stands before what it must stand before."""
    rules, text = chains[jump.parent], JUMP + jump.chain
    return rules.count(text) == 1 and rules.index(text) <= place(chains, jump)


def place(chains: Mapping[str, tuple[str, ...]], jump: Jump) -> int:
    """Where `jump` belongs: the number of rules of its parent, without itself, that come before it. `chains`: one
    table's."""
    where = PLACES.get((jump.table, jump.parent), DENY_BY_DEFAULT)
    rules = tuple(rule for rule in chains.get(jump.parent, ()) if rule != JUMP + jump.chain)
    dev = device_in(jump.chain)
    first = _first_end({**chains, jump.parent: rules}, jump.parent, where, dev, frozenset({DOCKER_USER}))
    return len(rules) if first is None else first


def _first_end(
    chains: Mapping[str, tuple[str, ...]], name: str, where: Place, dev: str, closed: frozenset[str]
) -> int | None:
    """Index of the first rule of chain `name` that ends the walk of our packets, itself or in a chain that it leads to
    (but not one of those that are `closed`)."""
    deeper = Place(where.ends - {"RETURN"}, where.applies)
    for index, text in enumerate(chains[name]):
        rule = parse_rule(text)
        if where.applies(rule, dev):
            if rule.target in where.ends:
                return index
            inside = rule.target in chains and rule.target not in closed
            if inside and _first_end(chains, rule.target, deeper, dev, closed | {name}) is not None:
                return index
        if not rule.conditions and (rule.goto or rule.target in FINAL):
            return None  # nothing reaches the rules behind this one
    return None


# ---- what is there ----


def objects(ruleset: Ruleset, owns: Callable[[str], bool]) -> dict[Key, Chain | Jump]:
    """Chains of ours, of labels that `owns` says yes to, and the jumps to them; chains that others of ours lead to come
    last, for that is the order in which they can be removed."""
    found: list[Chain | Jump] = []
    for table, chains in ruleset.tables.items():
        for name, rules in chains.items():
            if _ours(name, owns):
                found.append(Chain(ruleset.family, table, name, rules))
                continue
            for target in dict.fromkeys(jumps_to(rules)):
                if _ours(target, owns):
                    jump = Jump(ruleset.family, table, name, target)
                    found.append(jump if _well_placed(chains, jump) else _misplaced(jump))
    found.sort(key=is_inner)
    return {thing.key: thing for thing in found}


def is_inner(thing: Chain | Jump) -> bool:
    """A chain that no jump but one of our own chain's leads to."""
    return isinstance(thing, Chain) and thing.name.endswith(f"-{INNER}")


def _ours(name: str, owns: Callable[[str], bool]) -> bool:
    """`WEFT-flannel.1-FWD` is ours if we own flannel.1."""
    return name.startswith(PREFIX) and owns(label_in(name))


def _misplaced(jump: Jump) -> Jump:
    return Jump(jump.family, jump.table, jump.parent, jump.chain, placed=False)
