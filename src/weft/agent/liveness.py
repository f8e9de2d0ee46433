"""Which peers answer on which way: BFD sessions (RFC 5880, multihop RFC 5883) on every path that is to be probed.

`agent/registrar.py` tells the paths and reads full sets of what probing came to; `core/topology.py` decides on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import select
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from weft.agent.prober import Prober
from weft.model import Path, Reach
from weft.targets.kernel.netns import inside

Reaches = Mapping[tuple[str, str], Reach]
"""(node id, kind of path) → what probing it came to."""


@dataclass(frozen=True, slots=True)
class LivenessOptions:
    """`budget`: packets per second, sent and received, that all sessions may come to: it sets how often each sends; 0:
    as is usual for so many (`core.probing.usual`).
    `key`: "" for none, else what both ends must know (its octets; over 20 of them, their hash). `netns`: path of the
    network namespace to probe in, None: this one."""

    budget: int = 0
    key: str = field(default="", repr=False)
    netns: str | None = None


class Liveness:
    """Probing runs from the first call of `probe` until `close`; `reaches` has one reader.

    It runs in a thread of its own, so that nothing that keeps the event loop busy makes the peers miss packets."""

    def __init__(self, options: LivenessOptions | None = None) -> None:
        self.options = options or LivenessOptions()
        self._paths: tuple[Path, ...] | None = None
        self._thread: _Thread | None = None
        self._reader: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._closed = False

    def probe(self, paths: Iterable[Path]) -> None:
        """Probe these paths, and no others, from now on. Cheap if they are the same. At most one per node and kind: of
        several the first holds. Never raises for a device or an address that isn't there: its Reach says so."""
        paths = tuple(paths)
        if paths == self._paths or self._closed:
            return
        self._paths = paths
        self._start()

    async def reaches(self) -> AsyncGenerator[Reaches, None]:
        """The full set as soon as there are paths, and after each change. Ends when `close` was called. Raises what
        broke the probing, should anything; called again, probing begins anew."""
        changed = asyncio.Event()
        self._reader = (asyncio.get_running_loop(), changed)
        if self._paths is not None:
            self._start()
        last: Reaches | None = None
        while not self._closed:
            changed.clear()
            if self._thread is not None:
                if self._thread.error is not None:
                    raise self._thread.error
                if self._thread.latest is not last:
                    last = self._thread.latest
                    yield last or {}
                    continue
            await changed.wait()

    def counters(self) -> Mapping[str, int]:
        """What was sent, received and refused since the start, by flat names such as `refused.authentication`."""
        return dict(self._thread.counters) if self._thread is not None else {}

    async def close(self) -> None:
        """Tell every peer that probing ends (AdminDown, which is no failure to them), and stop."""
        self._closed = True
        if self._thread is not None and self._thread.is_alive():
            self._thread.stop()
            await asyncio.to_thread(self._thread.join)
        self._wake_reader()

    def _start(self) -> None:
        if self._thread is None or self._thread.error is not None:
            self._thread = _Thread(self.options, self._wake_reader)
            inside(self.options.netns, self._thread.start)  # a thread begins in the namespace of the one that starts it
        self._thread.take(self._paths or ())

    def _wake_reader(self) -> None:
        if self._reader is not None:
            loop, changed = self._reader
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its reader gone
                loop.call_soon_threadsafe(changed.set)


class _Thread(threading.Thread):
    """Ticks until `stop`. `changed` is called, in this thread, when there is a new `latest`, or an `error`."""

    def __init__(self, options: LivenessOptions, changed: Callable[[], None]) -> None:
        super().__init__(name="liveness", daemon=True)
        self.latest: Reaches | None = None
        self.error: Exception | None = None
        self._prober = Prober(options.budget, session_key(options.key))
        self._changed = changed
        self._paths: tuple[Path, ...] = ()
        self._taken: tuple[Path, ...] | None = None
        self._stopping = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def counters(self) -> Mapping[str, int]:
        return self._prober.counters

    def take(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        try:
            self._tick_on()
            self._prober.close(time.monotonic())
        except Exception as error:  # noqa: BLE001 - raised again by `Liveness.reaches`
            self.error = error
        self._changed()

    def _tick_on(self) -> None:
        waiting = select.poll()
        waiting.register(self._wake, select.POLLIN)
        regular_at = time.monotonic()
        while not self._stopping:
            planned = self._planned(regular_at)
            timeout = None if planned is None else max(planned - time.monotonic(), 0.0) * 1e3
            if waiting.poll(timeout):
                os.eventfd_read(self._wake)
            now = time.monotonic()
            if self._taken is not self._paths:
                self._taken = self._paths
                self._prober.probe(self._taken, now)
                self._publish()
            if self._prober.tick(now, now - planned if planned else 0.0, now >= regular_at):
                self._publish()
            if now >= regular_at:
                regular_at = now + self._prober.rest()

    def _planned(self, regular_at: float) -> float | None:
        """When to tick next: as regular, or exactly when a session's silence has lasted too long. None: never."""
        if not self._prober.reaches:
            return None
        return min(regular_at, self._prober.next_deadline())

    def _publish(self) -> None:
        self.latest = dict(self._prober.reaches)
        self._changed()


def session_key(text: str) -> bytes:
    """The key of a session, of at most 20 octets (RFC 5880 §4.4), that an operator's text stands for: the text's own
    octets if they fit, so that other programs' keys can be used, else the first 20 of its SHA-256."""
    octets = text.encode()
    return octets if len(octets) <= 20 else hashlib.sha256(octets).digest()[:20]
