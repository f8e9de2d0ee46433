"""The host's firewall as a target: chains of ours, and the jumps that lead into them. Run by the reconciler.

It works on the implementation of iptables that the host's Docker uses, since it is Docker's rules that it has to come
before. What it found there last, it keeps, for as long as the kernel doesn't tell of a change (`firewall_watch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple, TypeAlias

from weft.core.firewall_places import is_inner, objects
from weft.core.firewall_script import script, typed
from weft.core.refusals import Refusal, refusals
from weft.core.ruleset import Family, Parent, Ruleset, has_docker, labels, parents
from weft.errors import FirewallError, TargetError
from weft.objects import Chain, Failure, Jump, Key, Object, Op
from weft.targets import Reading
from weft.targets.firewall_tools import Backend, RestoreError, Tools, find_backends, lacking
from weft.targets.firewall_watch import Watch

log = logging.getLogger("weft")

At: TypeAlias = tuple[Backend, Family]
Held: TypeAlias = dict[Key, Chain | Jump]


class Seen(NamedTuple):
    """What was found in a ruleset when these of its labels were ours: hosts have thousands of rules."""

    ruleset: Ruleset
    labels: frozenset[str]
    owned: frozenset[str]
    objects: Held
    parents: frozenset[Parent]
    refusals: tuple[Refusal, ...]


def _every(device: str) -> bool:
    return True


class FirewallTarget:
    """`owns`: by the label in their names, which chains are ours; all of them unless it is given, which is what a
    cleanup wants. `netns`: path of a network namespace, None for the current one."""

    def __init__(self, netns: str | None = None, owns: Callable[[str], bool] = _every) -> None:
        self.chains: frozenset[Parent] = frozenset()
        """Foreign chains to hook into, as of the last reading; for `model.Host.chains`. If a reading finds others than
        before, the plan changes."""
        self.refused: tuple[Refusal, ...] = ()
        """What an administrator forbids, as of the last reading; for `model.Host.refused`."""
        self.problem = ""
        """What is not installed, as of the last full reading, and what that means; "" if nothing is missing."""
        self._owns = owns
        self._netns = netns
        self._tools = Tools(netns)
        self._chosen: Backend | None = None
        self._rulesets: dict[At, Ruleset] = {}
        """The chosen backend's, and any other's, which may hold something of ours."""
        self._missing: set[tuple[Family, str]] = set()
        """Tables that this kernel doesn't have."""
        self._unrepeatable: set[Refusal] = set()
        """Refusals that the tool prints and doesn't take: our accepts don't wait for them."""
        self._seen: dict[At, Seen] = {}
        self._objects: Held | None = None
        self._stale: set[Family] = set()
        self._complaints: set[str] = set()
        self._watch: Watch | None = None
        self._wake: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        return "firewall"

    @property
    def kinds(self) -> tuple[type[Object], ...]:
        return (Chain, Jump)

    async def read(self, full: bool = False) -> Reading:
        """Our chains and jumps. Only what may have changed is asked for, unless `full`; that also chooses the
        implementation anew, and renews `problem`. Raises FirewallError if nothing can be read."""
        before = self._objects
        if full or before is None or (self._stale and self._may_have_moved()):
            await self._survey()
        else:
            await self._refresh()
        self.chains, self.refused = self._foreign(), self._refused()
        self._objects = now = self._ours()
        if full or before is None:
            return Reading(now)
        touched = before | now if before != now else ()
        return Reading(now, touched=frozenset(key for key in touched if before.get(key) != now.get(key)))

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Carry out ops, the families beside each other, each table in one transaction; one answer each. Raises
        FirewallError if this is the first call and nothing can be read."""
        if self._objects is None:
            await self.read()
        answers: list[Failure | None] = [None] * len(ops)

        async def run(family: Family) -> None:
            mine = [at for at, op in enumerate(ops) if _chain_or_jump(op).family == family]
            for at, answer in zip(mine, await self._guarded(family, [ops[at] for at in mine]), strict=True):
                answers[at] = answer

        await asyncio.gather(*map(run, {_chain_or_jump(op).family for op in ops}))
        self._objects = self._ours()
        return answers

    def lines(self, ops: Sequence[Op]) -> list[str]:
        """As the chosen implementation's plain tools would be typed, with the place of each jump."""
        rulesets = {ruleset.family: ruleset for ruleset in self._in_use()}
        lines: list[str] = []
        for op in ops:
            family = _chain_or_jump(op).family
            typed_lines, rulesets[family] = typed(op, rulesets.get(family, Ruleset(family)))
            lines.extend(typed_lines)
        return lines

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` on the running event loop when nf_tables tells of a change by another process. Where it can't
        be listened to, that is logged: the timer finds changes."""
        self._wake = wake
        if self._watch is None:
            try:
                self._watch = Watch(self._netns, self._tools.pids, self._heard)
            except (OSError, TargetError) as error:
                log.warning("firewall changes can't be heard of (%s): the timer will find them", error)
        self._stale.update((4, 6))

    def close(self) -> None:
        """Stop listening; the rules stay."""
        if self._watch is not None:
            self._watch.close()
        self._watch = self._wake = None

    # ---- reading ----

    async def _survey(self) -> None:
        """Read every implementation and choose: the one with Docker's chains, else the one that `iptables` means."""
        found = await asyncio.to_thread(find_backends)
        answers = await self._save([(b, family) for b in found for family in b.families()])
        rulesets = {at: answer for at, answer in answers.items() if isinstance(answer, Ruleset)}
        docker = {backend for (backend, _), ruleset in rulesets.items() if has_docker(ruleset)}
        chosen = next(iter(sorted(found, key=lambda backend: backend not in docker)), None)
        texts = self._check({at: answer for at, answer in answers.items() if at[0] == chosen})
        for text in sorted(self._complaints - texts):
            log.info("no longer: part of the firewall is left alone: %s", text)
        self._complaints &= texts
        self._complain(texts)
        self._chosen, self._rulesets, self.problem = chosen, rulesets, lacking(chosen)
        if chosen is not None:
            await self._look_for_tables(chosen)

    async def _look_for_tables(self, chosen: Backend) -> None:
        """A table that was missing may have come: its module was loaded, or the tool had failed for another reason."""
        for family, table in sorted(self._missing):
            with contextlib.suppress(FirewallError):  # it can't be asked: it counts as missing, as before
                if await self._tools.has_table(chosen, family, table):
                    self._missing.discard((family, table))
                    log.info("no longer: this kernel has no table %s for IPv%d", table, family)

    async def _refresh(self) -> None:
        """Read the chosen implementation; where the kernel tells of changes, only what it told of."""
        told = self._watch is not None and self._chosen is not None and self._chosen.notifies
        stale = [at for at in self._rulesets if at[0] == self._chosen and (at[1] in self._stale or not told)]
        answers = await self._save(stale)
        self._complain(self._check(answers))
        for at, answer in answers.items():
            if isinstance(answer, Ruleset):
                self._rulesets[at] = answer
            else:
                del self._rulesets[at]

    async def _save(self, which: Sequence[At]) -> dict[At, Ruleset | FirewallError]:
        """What each of these holds, or why it can't be read. What is heard while this goes on counts for the next."""
        self._stale.clear()
        answers: dict[At, Ruleset | FirewallError] = {}
        if not which:
            return answers
        asked = (self._tools.save(*at) for at in which)
        for at, answer in zip(which, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, FirewallError):
                raise answer
            answers[at] = answer
        return answers

    def _check(self, answers: Mapping[At, Ruleset | FirewallError]) -> set[str]:
        """What can't be read. Raises the first error if there is nothing else; one family that can't be read doesn't
        stop the other."""
        failed = [answer for answer in answers.values() if isinstance(answer, FirewallError)]
        if failed and len(failed) == len(answers):
            self._stale.update(family for _, family in answers)
            raise failed[0]
        return {str(error) for error in failed}

    def _complain(self, texts: Set[str]) -> None:
        """One line for the first time that something can't be read; the rest of the firewall is looked after."""
        for text in sorted(texts - self._complaints):
            log.warning("part of the firewall is left alone: %s", text)
        self._complaints |= texts

    def _ours(self) -> Held:
        """Our objects. What stands in an implementation that isn't the chosen one (Docker moved to the other) is
        shown as wrong, so that it is put where it belongs and taken away where it doesn't."""
        held: Held = {}
        for at in self._rulesets:
            backend, found = at[0], self._see(at).objects
            held |= found if backend == self._chosen else {key: _wrong(thing) for key, thing in found.items()}
        return held

    def _in_use(self) -> list[Ruleset]:
        return [ruleset for (backend, _), ruleset in self._rulesets.items() if backend == self._chosen]

    def _may_have_moved(self) -> bool:
        """iptables-legacy is in use without Docker's chains: what was heard from nf_tables may be Docker's start."""
        told = self._chosen is not None and self._chosen.notifies
        return not told and not any(map(has_docker, self._in_use()))

    def _foreign(self) -> frozenset[Parent]:
        seen = (self._see(at) for at in self._rulesets if at[0] == self._chosen)
        return frozenset(parent for one in seen for parent in one.parents if parent[:2] not in self._missing)

    def _refused(self) -> tuple[Refusal, ...]:
        used = sorted((at for at in self._rulesets if at[0] == self._chosen), key=lambda at: at[1])
        return tuple(one for at in used for one in self._see(at).refusals if one not in self._unrepeatable)

    def _see(self, at: At) -> Seen:
        ruleset, seen = self._rulesets[at], self._seen.get(at)
        if seen is None or seen.ruleset is not ruleset or seen.owned != set(filter(self._owns, seen.labels)):
            there = labels(ruleset)
            owned = frozenset(filter(self._owns, there))
            found = objects(ruleset, owned.__contains__)
            seen = self._seen[at] = Seen(ruleset, there, owned, found, parents(ruleset), refusals(ruleset))
        return seen

    def _heard(self, families: frozenset[Family]) -> None:
        self._stale |= families
        if self._wake is not None:
            self._wake()

    # ---- changing ----

    async def _guarded(self, family: Family, ops: Sequence[Op]) -> list[Failure | None]:
        """One family's error is the answer to its own ops, and nothing to the other family."""
        try:
            return await self._apply(family, ops)
        except FirewallError as error:
            self._stale.add(family)  # some of it may have been carried out
            return [Failure(f"IPv{family}: {error}")] * len(ops)

    async def _apply(self, family: Family, ops: Sequence[Op]) -> list[Failure | None]:
        """All ops in one transaction per table; if that fails, on a fresh reading each by itself. Raises FirewallError
        if there is no fresh reading."""
        chosen = self._chosen
        if chosen is None or (chosen, family) not in self._rulesets:
            return [Failure(f"IPv{family}: iptables is not installed or can't be read; install iptables")] * len(ops)
        answers: list[Failure | None] = [None] * len(ops)
        try:
            await self._change(chosen, family, ops)
        except FirewallError:
            self._rulesets[chosen, family] = await self._tools.save(chosen, family)
            answers = [await self._try(chosen, family, op) for op in ops]
        for other in [backend for backend, of in self._rulesets if backend != chosen and of == family]:
            await self._withdraw(other, family, ops, answers)
        return answers

    async def _change(self, backend: Backend, family: Family, ops: Sequence[Op]) -> None:
        text, after = script(ops, self._rulesets[backend, family])
        if text:
            await self._tools.restore(backend, family, text)
            self._rulesets[backend, family] = after
            self._stale.add(family)  # what we meant it to be; the next reading sees what it is

    async def _try(self, backend: Backend, family: Family, op: Op) -> Failure | None:
        try:
            await self._change(backend, family, [op])
        except FirewallError as error:
            if isinstance(error, RestoreError) and is_inner(_chain_or_jump(op)):
                self._leave(family, error.line.partition(f"{_chain_or_jump(op).key[-1]} ")[2])
            return await self._explain(backend, family, _chain_or_jump(op).table, error)
        return None

    def _leave(self, family: Family, refusal: str) -> None:
        if refusal and (family, refusal) not in self._unrepeatable:
            self._unrepeatable.add((family, refusal))
            log.warning(
                "IPv%d: the rule %r can't be repeated in front of weft's accepts, so it holds only where it stands: "
                "put it into DOCKER-USER with iptables -I",
                family,
                refusal,
            )

    async def _explain(self, backend: Backend, family: Family, table: str, error: FirewallError) -> Failure:
        """Why `error`: the kernel may not have the table at all."""
        try:
            there = await self._tools.has_table(backend, family, table)
        except FirewallError:
            there = True  # that can't be found out either: the first error says it all
        if there:
            return Failure(f"table {table}: {error}")
        self._missing.add((family, table))
        return Failure(f"this kernel has no table {table} for IPv{family}: {error}")

    async def _withdraw(self, other: Backend, family: Family, ops: Sequence[Op], answers: list[Failure | None]) -> None:
        """Take what `ops` are about out of the implementation that isn't in use; failures go into `answers`."""
        order = sorted(ops, key=lambda op: (-op.object.rank, is_inner(_chain_or_jump(op))))
        for at, op in sorted(enumerate(ops), key=lambda item: order.index(item[1])):
            removal = Op("remove", op.object, op.why)
            answers[at] = answers[at] or await self._try(other, family, removal)


def _chain_or_jump(op: Op) -> Chain | Jump:
    if not isinstance(op.object, Chain | Jump):
        raise TypeError(f"a firewall takes chains and jumps, not a {type(op.object).__name__}")
    return op.object


def _wrong(thing: Chain | Jump) -> Chain | Jump:
    """The same object, such that it differs from every one that is wanted."""
    if isinstance(thing, Chain):
        return Chain(thing.family, thing.table, thing.name, ("-m comment --comment elsewhere",))
    return Jump(thing.family, thing.table, thing.parent, thing.chain, placed=False)
