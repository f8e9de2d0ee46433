"""The firewall rules that let the overlay through, and where in other people's chains they belong. Pure.

`core/plan.py` asks `wanted` which chains and jumps this host needs; `targets/firewall.py` reads what is there with
`parse_save` and `objects`, and turns ops into the input of iptables-restore with `script`.

A packet's walk. A container of ours sends to one on another host: it is forwarded out of the VXLAN device (FWD), and
must not be masqueraded on its way (NAT). At the other end it comes in from the device, passes Docker's drops in raw
PREROUTING (RAW), and is forwarded into the container's bridge (FWD). Both ends clamp TCP's segment size (MSS).

Rules of ours stand in chains of ours, `WEFT-<device>-…`, one set per device, so that two daemons on one host have
nothing in common. One jump leads into each; where it stands is all that others and we have to agree on: see `PLACES`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from weft.errors import DecodeError
from weft.model import IPNetwork, Profile
from weft.objects import Chain, Jump, Key, Op

Family: TypeAlias = Literal[4, 6]
Parent: TypeAlias = tuple[int, str, str]
"""A chain that isn't ours: (4 or 6, table, chain), as in `model.Host.chains`."""

Action: TypeAlias = Literal["add", "change", "remove"]

FAMILIES: tuple[Family, ...] = (4, 6)
PREFIX = "WEFT-"
JUMP = "-m comment --comment weft -j "
"""Before the name of one of our chains, this is the whole text of our jump to it, as iptables-save prints it."""
DOCKER_USER = "DOCKER-USER"
HOOKS = (("filter", "FORWARD"), ("nat", "POSTROUTING"), ("raw", "PREROUTING"), ("mangle", "FORWARD"))
ALWAYS = ("filter", "mangle")
CLAMP = "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
REJECT = {4: "REJECT --reject-with icmp-admin-prohibited", 6: "REJECT --reject-with icmp6-adm-prohibited"}


# ---- what must be there ----


def wanted(dev: str, subnets: Sequence[IPNetwork], chains: frozenset[Parent]) -> list[Chain | Jump]:
    """What the VXLAN device `dev` of a host with these exposed `subnets` needs, given the foreign `chains` there.

    The forward chain is wanted even without a subnet: it is what keeps networks that are not exposed out of the
    overlay, on hosts too whose FORWARD policy is ACCEPT. Rules are in the exact words of iptables-save."""
    result: list[Chain | Jump] = []
    for family in FAMILIES:
        own = [str(subnet) for subnet in subnets if subnet.version == family]
        result.extend(_hooked(dev, family, _sets(dev, family, own), chains))
    return result


def wanted_by_span(
    dev: str, profile: Profile, subnets: Sequence[IPNetwork], chains: frozenset[Parent]
) -> list[Chain | Jump]:
    """The same for a host whose `subnets` are a share of `profile.span`, as flannel's are: all of the span may pass, on
    whatever bridge the operator put it. `dev`: the device, or what stands for it where packets go without one."""
    result: list[Chain | Jump] = []
    for span in profile.span:
        family: Family = 4 if span.version == 4 else 6
        own = [str(subnet) for subnet in subnets if subnet.version == family]
        has_tool = any(parent[0] == family for parent in chains)
        forced = {(family, "nat", "POSTROUTING")} if profile.masquerade and has_tool else set()
        result.extend(_hooked(dev, family, _span_sets(dev, span, own, profile), chains | forced))
    return result


def _hooked(dev: str, family: Family, sets: Iterable[_Set], chains: frozenset[Parent]) -> Iterator[Chain | Jump]:
    for table, suffix, rules, parents in sets:
        hooks = [parent for parent in parents if (family, table, parent) in chains]
        if hooks and rules:
            name = f"{PREFIX}{dev}-{suffix}"
            yield Chain(family, table, name, rules)
            yield from (Jump(family, table, parent, name) for parent in hooks)


class _Set(NamedTuple):
    table: str
    suffix: str
    rules: tuple[str, ...]
    parents: tuple[str, ...]


def _sets(dev: str, family: Family, own: Sequence[str]) -> tuple[_Set, ...]:
    """One chain per table. FORWARD has a jump besides DOCKER-USER's because Docker takes its own jump to DOCKER-USER
    out and in again whenever a network is created, and because `iptables -F FORWARD` takes it out for good."""
    into = tuple(f"-d {subnet} -i {dev} -j ACCEPT" for subnet in own)
    out = tuple(f"-s {subnet} -o {dev} -j ACCEPT" for subnet in own)
    rest = (f"-i {dev} -j DROP", f"-o {dev} -j {REJECT[family]}")
    clamp = (f"-i {dev} {CLAMP}", f"-o {dev} {CLAMP}") if own else ()
    return (
        _Set("filter", "FWD", into + out + rest, (DOCKER_USER, "FORWARD")),
        _Set("nat", "NAT", out, ("POSTROUTING",)),
        _Set("raw", "RAW", into, ("PREROUTING",)),
        _Set("mangle", "MSS", clamp, ("FORWARD",)),
    )


def _span_sets(dev: str, span: IPNetwork, own: Sequence[str], profile: Profile) -> tuple[_Set, ...]:
    """What flanneld sets (FLANNEL-FWD, FLANNEL-POSTRTG), with two differences. What stays inside the span is accepted
    in nat and not only passed over, so that Docker's own masquerading behind it doesn't take it; and TCP is clamped."""
    family: Family = 4 if span.version == 4 else 6
    forward = (f"-s {span} -j ACCEPT", f"-d {span} -j ACCEPT") if profile.forward else ()
    inside = (f"-s {span} -d {span} -j ACCEPT",)
    leaving = (
        f"-s {span} ! -d {MULTICAST[family]} -j MASQUERADE --random-fully",
        *(f"! -s {span} -d {subnet} -j RETURN" for subnet in own),
        f"! -s {span} -d {span} -j MASQUERADE --random-fully",
    )
    clamp = (f"-i {dev} {CLAMP}", f"-o {dev} {CLAMP}") if profile.clamp else ()
    return (
        _Set("filter", "FWD", forward, (DOCKER_USER, "FORWARD")),
        _Set("nat", "NAT", inside + leaving if profile.masquerade else inside, ("POSTROUTING",)),
        _Set("raw", "RAW", (f"-s {span} -d {span} -j ACCEPT",), ("PREROUTING",)),
        _Set("mangle", "MSS", clamp, ("FORWARD",)),
    )


# ---- what is there ----


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What iptables-save printed for one family: table → chain → its rules, each without `-A CHAIN `."""

    family: Family
    tables: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


def parse_save(family: Family, text: str) -> Ruleset:
    """Read the output of iptables-save (without counters). DecodeError for a line that such output doesn't have."""
    tables: dict[str, dict[str, list[str]]] = {}
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            name, _, rule = line[3:].partition(" ")
            chains.setdefault(name, []).append(rule)
        elif line.startswith("*"):
            chains = tables.setdefault(line[1:], {})
        elif line.startswith(":"):
            chains.setdefault(line[1:].split(" ", 1)[0], [])
        elif line and not line.startswith("#") and line != "COMMIT":
            raise DecodeError(f"iptables-save printed {line!r}, which is neither a table, a chain nor a rule")
    return Ruleset(family, {table: {name: tuple(rules) for name, rules in of.items()} for table, of in tables.items()})


def objects(ruleset: Ruleset, owns: Callable[[str], bool]) -> dict[Key, Chain | Jump]:
    """Chains of ours, of devices that `owns` says yes to, and the jumps to them."""
    found: list[Chain | Jump] = []
    for table, chains in ruleset.tables.items():
        for name, rules in chains.items():
            if _ours(name, owns):
                found.append(Chain(ruleset.family, table, name, rules))
                continue
            for target in dict.fromkeys(_jumps(rules)):
                if _ours(target, owns):
                    jump = Jump(ruleset.family, table, name, target)
                    found.append(jump if _well_placed(chains, jump) else _misplaced(jump))
    return {thing.key: thing for thing in found}


def devices(ruleset: Ruleset) -> frozenset[str]:
    """Whose devices' chains there are, or jumps to them."""
    tables = ruleset.tables.values()
    names = {name for chains in tables for name in chains}
    names.update(target for chains in tables for rules in chains.values() for target in _jumps(rules))
    return frozenset(_device(name) for name in names if name.startswith(PREFIX))


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


def _ours(name: str, owns: Callable[[str], bool]) -> bool:
    """`WEFT-flannel.1-FWD` is ours if we own flannel.1."""
    return name.startswith(PREFIX) and owns(_device(name))


def _device(chain: str) -> str:
    return chain.removeprefix(PREFIX).rpartition("-")[0]


def _jumps(rules: Iterable[str]) -> Iterator[str]:
    return (rule.removeprefix(JUMP) for rule in rules if rule.startswith(JUMP + PREFIX))


def _misplaced(jump: Jump) -> Jump:
    return Jump(jump.family, jump.table, jump.parent, jump.chain, placed=False)


# ---- where a jump belongs ----


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


FINAL = frozenset({"ACCEPT", "DROP", "REJECT", "QUEUE", "NFQUEUE", "RETURN"})
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
    out = [_covers(value, dev) != option.startswith("!") for option, value in rule.conditions if option[-2:] == "-o"]
    return all(out) and all(option in ADDRESSES or option[-2:] == "-o" for option, _ in rule.conditions)


def _drops_strangers(rule: Rule, dev: str) -> bool:
    """It takes what does NOT come in by some other interface: `-d 172.18.0.2/32 ! -i br-1234 -j DROP`, Docker 28."""
    strangers = [value for option, value in rule.conditions if option == "! -i"]
    plain = all(option in ADDRESSES or option == "! -i" for option, _ in rule.conditions)
    return plain and bool(strangers) and not any(_covers(value, dev) for value in strangers)


def _covers(pattern: str, dev: str) -> bool:
    """iptables' interface match: `br-+` is every name that begins with `br-`."""
    return dev.startswith(pattern[:-1]) if pattern.endswith("+") else dev == pattern


DENY_BY_DEFAULT = Place(FINAL, _to_all)
PLACES: Mapping[tuple[str, str], Place] = {
    # All of DOCKER-USER is an administrator's own, a DROP of everything too; only Docker's RETURN at its end isn't.
    ("filter", DOCKER_USER): Place(frozenset({"RETURN"}), _to_all),
    ("filter", "FORWARD"): DENY_BY_DEFAULT,
    ("mangle", "FORWARD"): DENY_BY_DEFAULT,
    ("nat", "POSTROUTING"): Place(TRANSLATORS, _may_leave_by),
    ("raw", "PREROUTING"): Place(frozenset({"DROP"}), _drops_strangers),
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
    dev = jump.chain.removeprefix(PREFIX).rpartition("-")[0]
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


# ---- how to change it ----


def script(ops: Iterable[Op], ruleset: Ruleset) -> tuple[str, Ruleset]:
    """The input of `iptables-restore --noflush` that carries out `ops` on `ruleset`, and the ruleset after it.

    Each table is one transaction. An op that is done already adds nothing; the text is empty if all are."""
    tables = {table: dict(chains) for table, chains in ruleset.tables.items()}
    lines: dict[str, list[str]] = {}
    for op in ops:
        thing = op.object
        if not isinstance(thing, Chain | Jump):
            raise TypeError(f"a firewall takes chains and jumps, not a {type(thing).__name__}")
        chains = tables.setdefault(thing.table, {})
        if isinstance(thing, Chain):
            added = _chain_lines(op.action, thing, chains)
        else:
            added = _jump_lines(op.action, thing, chains)
        lines.setdefault(thing.table, []).extend(added)
    text = "".join("\n".join([f"*{table}", *of, "COMMIT", ""]) for table, of in lines.items() if of)
    return text, Ruleset(ruleset.family, tables)


def typed(op: Op, ruleset: Ruleset) -> tuple[list[str], Ruleset]:
    """The `iptables` lines that carry out one op on `ruleset`, each jump with the number at which it belongs; and the
    ruleset after it."""
    tool = "ip6tables" if ruleset.family == 6 else "iptables"
    text, after = script([op], ruleset)
    lines: list[str] = []
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name = line[1:].split()[0]
            lines.append(f"{tool} -t {table} {'-F' if name in ruleset.tables.get(table, {}) else '-N'} {name}")
        elif line != "COMMIT":
            lines.append(f"{tool} -t {table} {line}")
    return lines, after


def _chain_lines(action: Action, chain: Chain, chains: dict[str, tuple[str, ...]]) -> list[str]:
    if action == "remove":
        return [] if chains.pop(chain.name, None) is None else [f"-F {chain.name}", f"-X {chain.name}"]
    chains[chain.name] = chain.rules
    # This line makes the chain, or empties it if it is there (iptables-restore(8), --noflush).
    return [f":{chain.name} - [0:0]", *(f"-A {chain.name} {rule}" for rule in chain.rules)]


def _jump_lines(action: Action, jump: Jump, chains: dict[str, tuple[str, ...]]) -> list[str]:
    text = JUMP + jump.chain
    before = chains.get(jump.parent, ())
    rules = [rule for rule in before if rule != text]
    lines = [f"-D {jump.parent} {text}"] * (len(before) - len(rules))
    if action != "remove":
        at = place(chains, jump)
        lines.append(f"-I {jump.parent} {at + 1} {text}" if at < len(rules) else f"-A {jump.parent} {text}")
        rules.insert(at, text)
    if lines:
        chains[jump.parent] = tuple(rules)
    return lines
