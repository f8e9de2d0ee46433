"""What an administrator forbids, in rules that weft's accepts would come before. Pure.

weft accepts overlay traffic early: in DOCKER-USER, before Docker's drops. An administrator's

    iptables -I FORWARD -s 10.5.35.0/24 -d 10.5.40.0/24 -j DROP

stands behind that, and would never be reached. So `targets/firewall.py` collects such rules with `refusals`, they come
to the plan in `model.Host.refused`, and our forward chain repeats those that are about what it would accept (`about`),
in front of its accepts. His word holds wherever he put it, and goes when he takes it back. docs/isolation.md has the
table of what is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple, TypeAlias

from weft.core.ruleset import DOCKER_USER, Family, Rule, Ruleset, covers, parse_rule
from weft.model import IPNetwork

Refusal: TypeAlias = tuple[int, str]
"""(4 or 6, a rule as iptables-save prints it): one that drops or rejects, or, ending in RETURN, an exception to those
behind it."""

REFUSES = frozenset({"DROP", "REJECT"})
EXEMPTS = frozenset({"ACCEPT", "RETURN"})
STATE = frozenset({"conntrack", "state"})
REPEATABLE = STATE | {
    "addrtype", "ah", "connmark", "dccp", "dscp", "esp", "icmp", "icmp6", "iprange", "ipv6header", "length", "mac",
    "mark", "multiport", "pkttype", "policy", "sctp", "tcp", "time", "tos", "ttl", "hl", "udp", "udplite",
}  # fmt: skip
"""Matches that look at a packet and at nothing else. Others count or remember (`limit`, `recent`, `quota`, …), and
would count twice; or hold on to something that its owner may want to remove (`set`)."""
WHERE = ("-s", "-d", "-i", "-o", "-p")
FLANNEL = '--comment "flanneld '
"""Older flannel has its accepts in FORWARD itself: a daemon's, not an administrator's exception."""


class Traffic(NamedTuple):
    """Packets that one of our rules accepts: from `sources` to `targets` (None: any), in by the interface `into` and
    out by `out` ("": any)."""

    sources: tuple[IPNetwork, ...] | None = None
    targets: tuple[IPNetwork, ...] | None = None
    into: str = ""
    out: str = ""


# ---- which there are ----


def refusals(ruleset: Ruleset) -> tuple[Refusal, ...]:
    """The rules of FORWARD and DOCKER-USER by which an administrator forbids something particular, and his exceptions
    to them, in the order in which packets come by."""
    forward = ruleset.tables.get("filter", {}).get("FORWARD", ())
    user = ruleset.tables.get("filter", {}).get(DOCKER_USER, ())
    at = next((n for n, rule in enumerate(forward) if parse_rule(rule) == Rule(DOCKER_USER, False, ())), 0)
    behind = _collected(forward[at:], _is_exception_in_forward)
    # What DOCKER-USER lets go on, FORWARD still judges: with refusals there, that can't be told in one chain.
    within = _collected(user, _is_accept if behind else _is_exception)
    texts = [*_collected(forward[:at], _is_exception_in_forward), *within, *behind]
    return tuple((ruleset.family, text) for text in _needed(texts))


def _collected(rules: Iterable[str], exempts: Callable[[str, Rule], bool]) -> list[str]:
    """The refusals among the rules of one chain, and what may be exceptions to them."""
    found: list[str] = []
    unrepeatable: list[Rule] = []
    for text in rules:
        rule = parse_rule(text)
        if not rule.conditions or rule.goto:
            continue  # about nothing in particular, or somebody's chain
        if exempts(text, rule):
            if _repeatable(rule):
                found.append(f"{text.removesuffix(rule.target)}RETURN")
            else:
                unrepeatable.append(rule)
        elif _is_refusal(rule) and not any(_is_remainder(rule, before) for before in unrepeatable):
            found.append(text)
    return found


def _is_refusal(rule: Rule) -> bool:
    return rule.target in REFUSES and _particular(rule) and _repeatable(rule)


def _is_accept(text: str, rule: Rule) -> bool:
    return rule.target == "ACCEPT"


def _is_exception(text: str, rule: Rule) -> bool:
    return rule.target in EXEMPTS


def _is_exception_in_forward(text: str, rule: Rule) -> bool:
    """Docker's own accepts there are about its bridges and the state of connections, and nothing else."""
    options = {option.removeprefix("! ") for option, _ in rule.conditions}
    dockers = bool(options & {"-i", "-o"}) and options <= {"-i", "-o", "-m", "--ctstate"}
    return rule.target == "ACCEPT" and not dockers and FLANNEL not in text


def _needed(texts: Sequence[str]) -> Iterator[str]:
    """Without exceptions that nothing behind them is exempt from."""
    for at, text in enumerate(texts):
        rule = parse_rule(text)
        if rule.target in REFUSES or any(
            later.target in REFUSES and _meet(rule, later) for later in map(parse_rule, texts[at + 1 :])
        ):
            yield text


def _particular(rule: Rule) -> bool:
    """It is about certain packets, not about the state of their connection alone: `--ctstate INVALID -j DROP` is how a
    firewall keeps itself in order, and would drop what a relay sees one direction of."""
    return any(
        option.removeprefix("! ") in WHERE or (option == "-m" and value not in STATE)
        for option, value in rule.conditions
    )


def _repeatable(rule: Rule) -> bool:
    return all(
        value in REPEATABLE if option == "-m" else not option.startswith("?") for option, value in rule.conditions
    )


def _is_remainder(rule: Rule, before: Rule) -> bool:
    """Whether `before`, which can't be repeated, takes some of the very packets that `rule` is for: `-p icmp -m limit
    -j ACCEPT`, `-p icmp -j DROP`. One without the other would be another law."""
    mine = dict(rule.conditions)
    plain = ((option, value) for option, value in before.conditions if option.removeprefix("! ") in WHERE)
    return all(_within(option, mine.get(option), value) for option, value in plain)


def _within(option: str, mine: str | None, theirs: str) -> bool:
    if mine is None or option not in ("-s", "-d"):
        return mine == theirs
    inner, outer = _network(mine), _network(theirs)
    return inner is not None and outer is not None and _inside(inner, outer)


def _meet(one: Rule, other: Rule) -> bool:
    """Whether some packet may be what both are about, told by addresses, interfaces and protocol."""
    mine, theirs = dict(one.conditions), dict(other.conditions)
    return not any(option in mine and option in theirs and _apart(option, mine, theirs) for option in WHERE)


def _apart(option: str, one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    if option in ("-s", "-d"):
        here, there = _network(one[option]), _network(other[option])
        return here is not None and there is not None and not here.overlaps(there)
    if option in ("-i", "-o"):
        return not covers(one[option], other[option].rstrip("+")) and not covers(other[option], one[option].rstrip("+"))
    return one[option] != other[option]


# ---- which are about us ----


def about(refused: Iterable[Refusal], family: Family, traffic: Sequence[Traffic]) -> tuple[str, ...]:
    """Those of `refused` that may take a packet of `traffic`, and the exceptions to those."""
    mine = [text for version, text in refused if version == family]
    return tuple(_needed([text for text in mine if any(_concerns(parse_rule(text), one) for one in traffic)]))


def _concerns(rule: Rule, traffic: Traffic) -> bool:
    asked = {"-s": traffic.sources, "-d": traffic.targets}
    for option, value in rule.conditions:
        plain, negated = option.removeprefix("! "), option.startswith("! ")
        subnets = asked.get(plain)
        if subnets is not None and not _may_match(value, negated, subnets):
            return False
        name = traffic.into if plain == "-i" else traffic.out if plain == "-o" else ""
        if name and covers(value, name) == negated:
            return False
    return True


def _may_match(value: str, negated: bool, subnets: Iterable[IPNetwork]) -> bool:
    network = _network(value)
    if network is None:
        return True
    if negated:
        return not all(_inside(subnet, network) for subnet in subnets)
    return any(network.overlaps(subnet) for subnet in subnets)


def _inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.overlaps(outer) and inner.prefixlen >= outer.prefixlen


@lru_cache(maxsize=4096)
def _network(text: str) -> IPNetwork | None:
    """None for a mask with holes (`10.0.0.1/255.0.0.255`), which iptables can have."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
