"""How to change a firewall: ops as the input of iptables-restore, or as lines to type. Pure.

`targets/firewall.py` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

from weft.core.firewall_places import place
from weft.core.ruleset import JUMP, Ruleset
from weft.objects import Chain, Jump, Op

Action: TypeAlias = Literal["add", "change", "remove"]


class Lines(NamedTuple):
    """One table's lines of iptables-restore: chains are made before rules that lead to them, and deleted after."""

    declared: list[str]
    changed: list[str]
    deleted: list[str]

    def text(self, table: str) -> str:
        lines = [*self.declared, *self.changed, *self.deleted]
        return "\n".join([f"*{table}", *lines, "COMMIT", ""]) if lines else ""


def script(ops: Iterable[Op], ruleset: Ruleset) -> tuple[str, Ruleset]:
    """The input of `iptables-restore --noflush` that carries out `ops` on `ruleset`, and the ruleset after it.

    Each table is one transaction. An op that is done already adds nothing; the text is empty if all are."""
    tables = {table: dict(chains) for table, chains in ruleset.tables.items()}
    lines: dict[str, Lines] = {}
    for op in ops:
        thing = op.object
        if not isinstance(thing, Chain | Jump):
            raise TypeError(f"a firewall takes chains and jumps, not a {type(thing).__name__}")
        chains = tables.setdefault(thing.table, {})
        of = lines.setdefault(thing.table, Lines([], [], []))
        if isinstance(thing, Chain):
            _add_chain(op.action, thing, chains, of)
        else:
            of.changed.extend(_jump_lines(op.action, thing, chains))
    text = "".join(of.text(table) for table, of in lines.items())
    return text, Ruleset(ruleset.family, tables, ruleset.policies)


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


def _add_chain(action: Action, chain: Chain, chains: dict[str, tuple[str, ...]], lines: Lines) -> None:
    if action == "remove":
        if chains.pop(chain.name, None) is not None:
            lines.changed.append(f"-F {chain.name}")
            lines.deleted.append(f"-X {chain.name}")
        return
    chains[chain.name] = chain.rules
    # This line makes the chain, or empties it if it is there (iptables-restore(8), --noflush).
    lines.declared.append(f":{chain.name} - [0:0]")
    lines.changed.extend(f"-A {chain.name} {rule}" for rule in chain.rules)


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
