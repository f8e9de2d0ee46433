"""The ladder: what is tried, one rung after the other, where probes fail although the kernel holds all that it should.

Repair is the loop's work (DESIGN, law 9). The ladder is for what the loop can't see: a forwarding entry of flannel's
that contradicts the leases, a device that swallows packets, a flannel that hangs. `agent/registrar.py` asks `decide`
while it runs, `daemons/recover.py` when a person does; `agent/healing.py` does what it says. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from weft.model import Problem

Rung = Literal["fdb", "cycle", "restart"]
RUNGS: tuple[Rung, ...] = ("fdb", "cycle", "restart")
"""From the gentlest to the roughest."""
HOUR = 3600.0
KEPT = 24 * HOUR
"""Attempts older than that say nothing any more."""
WORDS: Mapping[Rung, str] = {
    "fdb": "correct the entries of {device}",
    "cycle": "take {device} down and up",
    "restart": "restart {what}",
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One step that was taken: when (seconds since 1970), on which device, why."""

    rung: Rung
    device: str
    at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Symptoms:
    """What is seen of one tunnel device at one moment. Peers are named by their node ids.

    `reached`: peers that answer through the device. `lost`: since when each peer does not, that did or should (seconds
    since 1970); one that answers no probe at all, because it runs none, is in neither. `beside`: those of `lost` that
    answer on the underlay. `stale`: for each entry of the device that contradicts the leases, what is wrong, as a
    person reads it. `down`: the device is set down. `pending`: the plan is not carried out yet. `stopped`: why flannel
    is known not to run, "" if it runs, or nobody knows.
    """

    device: str
    reached: frozenset[str] = frozenset()
    lost: Mapping[str, float] = field(default_factory=dict)
    beside: frozenset[str] = frozenset()
    stale: tuple[str, ...] = ()
    down: bool = False
    pending: bool = False
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class LadderOptions:
    """`cycle`: taking the device down and up is allowed. `restart`: what may be restarted, "" for nothing ("container
    flannel", "service flanneld.service"; a word for people). `patience`: seconds that a peer must be lost before
    anything is done, `settle`: seconds that a step gets to show its effect. `cooldown`: seconds between two steps of
    one rung on one device, `limit`: how many of them in an hour, `tries`: how many for one and the same loss."""

    cycle: bool = True
    restart: str = ""
    patience: float = 10.0
    settle: float = 10.0
    cooldown: Mapping[Rung, float] = field(default_factory=lambda: {"fdb": 60.0, "cycle": 300.0, "restart": 900.0})
    limit: Mapping[Rung, int] = field(default_factory=lambda: {"fdb": 20, "cycle": 4, "restart": 2})
    tries: Mapping[Rung, int] = field(default_factory=lambda: {"cycle": 2, "restart": 1})


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done now, and why."""

    rung: Rung
    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`steps`: none or one: what is seen after it decides about the next. `held`: what would have been done next and is
    not, and why. `look`: seconds since 1970 at which to decide again if nothing is seen meanwhile; None: no need."""

    steps: tuple[Step, ...] = ()
    held: tuple[Problem, ...] = ()
    look: float | None = None


def decide(symptoms: Symptoms, history: tuple[Attempt, ...], now: float, options: LadderOptions) -> Decision:
    """The next step, or none.

    Nothing is done while the plan is not carried out, nor where other peers answer and no entry is wrong: a device that
    carries one peer's packets is no better for being cycled, and whoever is lost then has the fault at his own end."""
    if symptoms.pending:
        return Decision()
    if symptoms.stopped:
        return _Rungs(symptoms, history, now, options, now).restart(symptoms.stopped)
    lost = {peer: since for peer, since in symptoms.lost.items() if peer not in symptoms.reached}
    if not lost:
        return Decision()
    rungs = _Rungs(symptoms, history, now, options, min(lost.values()))
    if now < rungs.ripe:
        return Decision(look=rungs.ripe)
    if symptoms.down:
        return rungs.shake(f"{symptoms.device} is set down")
    if symptoms.stale:
        return rungs.correct()
    if symptoms.reached or not symptoms.beside & lost.keys():
        return Decision(held=(_no_rung(symptoms, lost),))
    device, names = symptoms.device, ", ".join(sorted(symptoms.beside & lost.keys()))
    return rungs.shake(
        f"nobody answers through {device}, {names} can be reached beside it, and no entry of it is wrong"
    )


@dataclass(frozen=True, slots=True)
class _Rungs:
    """The rungs for a loss that began at `began` (seconds since 1970)."""

    symptoms: Symptoms
    history: tuple[Attempt, ...]
    now: float
    options: LadderOptions
    began: float

    @property
    def ripe(self) -> float:
        """When something may be done: the loss has lasted, and what was done last has had its time."""
        settled = (one.at + self.options.settle for one in self._done() if self.began <= one.at)
        return max((self.began + self.options.patience, *settled))

    def correct(self) -> Decision:
        first, more = self.symptoms.stale[0], len(self.symptoms.stale) - 1
        return self._step("fdb", first + (f", and {more} more" if more else ""))

    def shake(self, reason: str) -> Decision:
        """The device itself is at fault: it is cycled, and where that was in vain, flannel is restarted."""
        cycled = any(one.rung == "cycle" and one.at >= max(self.began, self.now - HOUR) for one in self._done())
        if self.options.cycle and not (cycled and self.options.restart):
            return self._step("cycle", reason)
        return self.restart(reason)

    def restart(self, reason: str) -> Decision:
        if self.options.restart:
            return self._step("restart", reason)
        text = f"{reason}; RESTART_FLANNEL names nothing that may be restarted: do that by hand"
        return Decision(held=(Problem(self.symptoms.device, text),))

    def _step(self, rung: Rung, reason: str) -> Decision:
        """The step, unless its rung was taken too lately, too often, or in vain."""
        device, options = self.symptoms.device, self.options
        at = sorted(one.at for one in self._done() if one.rung == rung)
        within = [moment for moment in at if self.now - HOUR < moment]
        in_vain = sum(1 for moment in at if moment >= self.began)
        what = WORDS[rung].format(device=device, what=options.restart)
        if in_vain >= options.tries.get(rung, in_vain + 1):
            text = f"to {what} has not helped ({in_vain} times since the loss began) and is not done again; {reason}"
            return Decision(held=(Problem(device, text),))
        free = max([self.now, *(moment + options.cooldown[rung] for moment in within)])
        if len(within) >= options.limit[rung]:
            free = max(free, within[-options.limit[rung]] + HOUR)
        if free <= self.now:
            return Decision((Step(rung, device, reason),))
        often = f"{len(within)} times within an hour, and at most every {options.cooldown[rung]:.0f} s"
        text = f"to {what} waits for its turn: done {often}; {reason}"  # the same words as long as it waits
        return Decision(held=(Problem(device, text),), look=free)

    def _done(self) -> list[Attempt]:
        return [one for one in self.history if one.device == self.symptoms.device and one.at <= self.now]


def _no_rung(symptoms: Symptoms, lost: Mapping[str, float]) -> Problem:
    names, several = ", ".join(sorted(lost)), len(lost) > 1
    if symptoms.reached:
        text = f"{names} {'do' if several else 'does'} not answer through {symptoms.device} and other peers do"
        return Problem(symptoms.device, f"{text}: the fault is at the far end or on the way there")
    text = f"{names} {'answer' if several else 'answers'} neither through {symptoms.device} nor beside it"
    return Problem(symptoms.device, f"{text}: the underlay, or a firewall on it, is at fault, not this device")


def kept(history: tuple[Attempt, ...], now: float) -> tuple[Attempt, ...]:
    """The attempts that still matter. One of the future (the clock was set back) would hold its rung back long."""
    return tuple(one for one in history if now - KEPT < one.at <= now)
