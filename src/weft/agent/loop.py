"""The loop: sources fill the world, anything that happens wakes it, a timer is the backstop. Run by every daemon.

One task per source, one for the cycles. A source that ends or breaks is started anew with backoff: nothing that one
source does can stop the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, Protocol, TypeVar

from weft.agent.reconcile import Reconciler
from weft.agent.status import Report
from weft.core.diff import Changes
from weft.errors import WeftError
from weft.model import Known, Network, Node, Problem, View
from weft.targets import Target

log = logging.getLogger("weft")

T = TypeVar("T")

FIRST_RESTART = 0.2
LAST_RESTART = 10.0
REST, LONGEST_REST = 10.0, 0.5
"""What comes in bursts waits until so many times the last cycle's time has passed; and seconds, at the most."""
LOGGED_FAILURES = 5
LOGGED_PROBLEMS = 50
RETOLD, RETELLING = 3, 60.0
"""How often in so many seconds another word about the same thing is told: of an outage, each attempt may say something
else (refused, no route, no answer in time)."""


class Knowledge(Protocol):
    """What a daemon knows: the latest full set of each source (`world.py`, `flannel.py`). The loop asks for the View;
    the rest is what `web/api.py` shows."""

    @property
    def name(self) -> str:
        """This host's id among the others; "" while it has none."""
        ...

    @property
    def device(self) -> str:
        """This host's end of the overlay."""
        ...

    @property
    def engine(self) -> Known[Network] | None:
        """This host's networks; None: not known yet."""
        ...

    @property
    def peers(self) -> Known[Node] | None:
        """The other hosts; None: nothing was heard yet."""
        ...

    def view(self) -> View | None:
        """What to plan from; None as long as nothing may be planned."""
        ...

    def report(self, source: str, message: str) -> None:
        """Something is wrong with a source or a target ("": nothing is any more)."""
        ...

    def problems(self) -> Iterator[Problem]:
        """Everything that a person should know."""
        ...

    def waiting(self) -> list[str]:
        """Sources that have not vouched for their set yet: nothing is removed until then."""
        ...


K = TypeVar("K", bound=Knowledge)


class Loop(Generic[K]):
    """`interval`: seconds between full comparisons. `after_cycle` is called with each cycle's View. `for_files`: who
    waits for READY reads the files next (Docker subnet.env), so it isn't ready without them."""

    def __init__(
        self,
        world: K,
        reconciler: Reconciler,
        interval: float,
        after_cycle: Callable[[View | None], None] | None = None,
        for_files: bool = True,
    ) -> None:
        self.world = world
        self.reconciler = reconciler
        self.interval = interval
        self.view: View | None = None
        self.aloud = True
        """What was done is a line in the log; False: its daemon has lines of its own for that."""
        self.ready = asyncio.Event()
        self._after_cycle = after_cycle
        self._for_files = for_files
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._problems: frozenset[Problem] = frozenset()
        """As they were told."""
        self._retold: dict[str, list[float]] = {}
        self._busy = asyncio.Lock()
        self._rested_at = 0.0
        self._began = 0.0
        self._cycling = False
        self._missed = False
        self._later: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Something happened; run a cycle soon. Cheap, and any number of calls make one cycle."""
        self._woken.set()

    def wake_after_rest(self) -> None:
        """The same, for what comes in bursts: at once after a while of quiet, else when most of the time has gone to
        other things. Fifty hosts that come one after the other are not fifty cycles."""
        loop = asyncio.get_running_loop()
        if self._cycling:
            self._missed = True
        elif loop.time() >= self._rested_at:
            self.wake()
        elif self._later is None:
            self._later = loop.call_at(self._rested_at, self.wake)

    def follow(
        self,
        name: str,
        open_source: Callable[[], AsyncIterator[T]],
        keep: Callable[[T], None],
        last_restart: float = LAST_RESTART,
        in_bursts: bool = False,
    ) -> None:
        """Keep the newest value of a source in the world, for ever. `last_restart`: seconds between two attempts to
        open one that fails again and again. `in_bursts`: it may speak often; see `wake_after_rest`."""
        wake = self.wake_after_rest if in_bursts else self.wake

        def take(value: T) -> None:
            keep(value)
            wake()

        self._start(self._follow(name, open_source, take, last_restart), f"source {name}")

    def join(self, target: Target) -> None:
        """One target more, while the loop runs already."""
        self.reconciler.join(target)
        target.watch(self.wake)
        self.wake()

    async def run(self) -> None:
        """Cycles until cancelled."""
        for target in self.reconciler.targets:
            target.watch(self.wake)
        last_full = -self.interval
        try:
            while True:
                now = self.reconciler.clock.now()
                full = now - last_full >= self.interval
                if full:
                    last_full = now
                self._woken.clear()
                try:
                    await self._timed(full)
                except Exception:  # whatever it was, the next cycle starts from the kernel again
                    log.exception("a cycle failed by a fault in weft itself; please report it")
                    await asyncio.sleep(FIRST_RESTART)
                await self._sleep(last_full + self.interval)
        finally:
            self.stop()

    @property
    def at_work(self) -> float:
        """Seconds for which a cycle is under way; 0.0: none is."""
        return asyncio.get_running_loop().time() - self._began if self._cycling else 0.0

    async def _timed(self, full: bool) -> None:
        loop = asyncio.get_running_loop()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._began, self._cycling, self._missed = loop.time(), True, False
        try:
            await self.step(full)
        finally:
            ended, self._cycling = loop.time(), False
            self._rested_at = ended + min(REST * (ended - self._began), LONGEST_REST)
            if self._missed:
                self.wake_after_rest()

    def stop(self) -> None:
        """End the sources' tasks."""
        if self._later is not None:
            self._later.cancel()
        for task in self._tasks:
            task.cancel()

    async def listen(self, seconds: float) -> None:
        """Let the sources speak for so long, without a single cycle: for a dry run."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await self._woken.wait()
                    self._woken.clear()
                    self._after(self.world.view())

    async def step(self, full: bool = False) -> Report | None:
        """One cycle with what the world knows now; None if nothing may be planned yet."""
        async with self._busy:
            await self.reconciler.read(full)
            self.view = self.world.view()
            self._tell_problems()
            report = None
            if self.view is not None:
                report = await self.reconciler.mend(self.view)
                self._tell(report)
                if not self._lacks_files():
                    self.ready.set()
        self._after(self.view)
        return report

    async def preview(self) -> Changes | None:
        """What the next cycle would do, from a full reading; None if nothing may be planned yet."""
        async with self._busy:
            await self.reconciler.read(full=True)
            view = self.world.view()
            return self.reconciler.preview(view) if view is not None else None

    def _lacks_files(self) -> bool:
        """What else fails is told and mended later."""
        open_ = self.reconciler.account.statuses if self._for_files else ()
        return any(key[0] == "file" or key == ("target", "files") for key in open_)

    def _after(self, view: View | None) -> None:
        if self._after_cycle is not None:
            self._after_cycle(view)

    async def _sleep(self, next_full: float) -> None:
        now = self.reconciler.clock.now()
        retry = self.reconciler.next_retry()
        until = next_full if retry is None else min(next_full, retry)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(until - now, 0.001)):
                await self._woken.wait()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work, name=name))

    async def _follow(
        self, name: str, open_source: Callable[[], AsyncIterator[T]], keep: Callable[[T], None], last_restart: float
    ) -> None:
        delay = FIRST_RESTART
        while True:
            try:
                async for value in open_source():
                    delay = FIRST_RESTART
                    self.world.report(name, "")
                    keep(value)
            except (WeftError, OSError) as error:
                self._broke(name, str(error))
            except Exception as error:  # a fault of weft's own in one source must not silence it for ever
                log.exception("source %s: a fault in weft itself; please report it", name)
                self._broke(name, f"a fault in weft itself: {error!r}")
            await asyncio.sleep(delay)
            delay = min(delay * 2, last_restart)

    def _broke(self, name: str, message: str) -> None:
        """It is told once, and when it is over (`_tell_problems`)."""
        self.world.report(name, f"source {name}: {message}; it is asked again")
        self.wake()

    def _tell(self, report: Report) -> None:
        if report.done and self.aloud:
            news = self.view is None or self.view.profile.plane or any(op.action != "change" for op in report.done)
            log.log(logging.INFO if news else logging.DEBUG, "%s", report.sentence())
        for key, message in list(report.failed.items())[:LOGGED_FAILURES]:
            log.warning("%s: %s", self.reconciler.name(key), message)
        if len(report.failed) > LOGGED_FAILURES:
            log.warning("and %d more failed; see `weft show status`", len(report.failed) - LOGGED_FAILURES)
        if report.recovered:
            log.info("%d recovered, among them %s", len(report.recovered), self.reconciler.name(report.recovered[0]))

    def _tell_problems(self) -> None:
        now = self._worth_telling(frozenset(self.world.problems()))
        came = sorted(now - self._problems, key=lambda p: (p.subject, p.message))
        for problem in came[:LOGGED_PROBLEMS]:
            log.log(logging.WARNING if problem.wrong else logging.INFO, "%s", problem.message)
        still = {problem.subject for problem in came}  # another word about the same thing is not its end
        ended = (problem for problem in self._problems - now if problem.subject not in still)
        went = sorted(ended, key=lambda p: (p.subject, p.message))
        for problem in went[:LOGGED_PROBLEMS]:
            log.info("no longer: %s", problem.message)
        if len(came) > LOGGED_PROBLEMS or len(went) > LOGGED_PROBLEMS:
            log.warning("%d problems came and %d went; see `weft show peers`", len(came), len(went))
        self._problems = now

    def _worth_telling(self, now: frozenset[Problem]) -> frozenset[Problem]:
        """`now`, with the word that was told last in place of another one, where that comes too often. It is told once
        there is time again, if it still holds."""
        if now == self._problems:
            return now
        of_now, of_told = _alone(now), _alone(self._problems)
        clock = self.reconciler.clock.now()
        held: dict[Problem, Problem] = {}
        for subject, problem in of_now.items():
            told = of_told.get(subject)
            if told is None or told == problem or told.wrong != problem.wrong:
                continue
            lately = [at for at in self._retold.get(subject, ()) if at > clock - RETELLING]
            if len(lately) >= RETOLD:
                held[problem] = told
            else:
                lately.append(clock)
            self._retold[subject] = lately
        self._retold = {subject: times for subject, times in self._retold.items() if times[-1] > clock - RETELLING}
        return frozenset(held.get(problem, problem) for problem in now) if held else now


def _alone(problems: frozenset[Problem]) -> dict[str, Problem]:
    """By subject; what two are told of is left out."""
    counts = Counter(problem.subject for problem in problems)
    return {problem.subject: problem for problem in problems if counts[problem.subject] == 1}
