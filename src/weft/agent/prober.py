"""All sessions of this host, driven by ticks: read what came, judge, send what is due. `agent/liveness.py` has it run
in a thread of its own; nothing here waits.

A tick costs more than a packet, so packets wake nobody up: what came is read at the next tick, half a second later at
the most.
"""

from __future__ import annotations

import errno
import random
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from weft.agent.probe_sockets import Ear, Mouth, explained
from weft.core.bfd import Session
from weft.core.probing import Probe, Track, pace
from weft.model import Path, Reach

SLOWEST_TICK = 0.55
_EARLY, _LATE = 0.75, 0.97
"""Bounds of the time between two ticks, which is random in between: the jitter of RFC 5880 §6.8.7."""
_MARGIN = 0.98
STALL = 0.03
"""Seconds that a tick may be late and nobody mind."""
_LOOK_AGAIN = 1.0
_NEVER = float("inf")
_AT_ONCE = -_NEVER
_GOODBYES = 3


class _Lane:
    """One session with its sockets; several names (node, kind) may go by the same."""

    __slots__ = ("ear", "mouth", "paths", "probe", "remote", "session")

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.session = probe.session
        self.paths: list[Path] = []
        self.mouth: Mouth | None = None
        self.remote = str(probe.track.remote)
        self.ear = probe.track.device, str(probe.track.local)
        """Where it hears."""


class Prober:
    """`budget`: packets per second. `key`: as a Session wants it. Times are seconds of one steady clock."""

    def __init__(self, budget: int, key: bytes = b"", rng: random.Random | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self.reaches: dict[tuple[str, str], Reach] = {}
        self._budget = budget
        self._key = key
        self._rng = rng or random.SystemRandom()
        self._jitter = random.Random(self._rng.getrandbits(64))
        self._pace = pace(0, budget)
        self._lanes: dict[Track, _Lane] = {}
        self._by_discriminator: dict[bytes, _Lane] = {}
        self._ears: dict[tuple[str, str], Ear] = {}
        self._by_sender: dict[tuple[str, str], dict[str, _Lane]] = {}
        self._indexes: dict[str, int] = {}
        self._stalled = 0.0
        self._look_at = 0.0
        self._soonest = _NEVER

    # Which paths. -----------------------------------------------------------------------------------------------

    def probe(self, paths: Iterable[Path], now: float) -> None:
        """These, and no others, from now on. A path that stays keeps its session."""
        wanted: dict[Track, list[Path]] = {}
        named: set[tuple[str, str]] = set()
        for path in paths:
            if (path.node, path.kind) not in named:
                named.add((path.node, path.kind))
                wanted.setdefault(Track(path.device, path.local, path.remote), []).append(path)
        for track in self._lanes.keys() - wanted.keys():
            self._end(self._lanes.pop(track), now)
        self._pace = pace(len(wanted), self._budget)
        for track, its in wanted.items():
            lane = self._lanes.get(track) or self._begin(track, now - self._stalled)
            lane.paths = its
            lane.probe.size(max(path.mtu for path in its))
            lane.probe.period = self._pace.period
            lane.session.retime(round(self._pace.interval * 1e6))
        self._close_unused_ears()
        self._look(now)
        self.reaches = {name: reach for name, reach in self.reaches.items() if name in named}
        for lane in self._lanes.values():
            self._tell(lane)

    def _begin(self, track: Track, listening: float) -> _Lane:
        discriminator = 0
        while not discriminator or discriminator.to_bytes(4, "big") in self._by_discriminator:
            discriminator = self._rng.getrandbits(32)
        interval = round(self._pace.interval * 1e6)
        session = Session(discriminator, interval, self._key, self._rng.getrandbits(32))
        lane = _Lane(Probe(track, session, listening, self._rng.random()))
        self._lanes[track] = lane
        self._by_discriminator[discriminator.to_bytes(4, "big")] = lane
        self._by_sender.setdefault(lane.ear, {})[lane.remote] = lane
        return lane

    def _end(self, lane: _Lane, now: float) -> None:
        """Say goodbye, as often as it takes on a path that loses some."""
        session = lane.session
        heard = session.remote != 0
        session.close()
        for _ in range(_GOODBYES if heard else 0):
            self._say(lane, session.compose(now), now)
        del self._by_discriminator[session.discriminator.to_bytes(4, "big")]
        del self._by_sender[lane.ear][lane.remote]
        self._hush(lane)

    def close(self, now: float) -> None:
        """Say goodbye on every path."""
        self.probe((), now)

    # A tick. ----------------------------------------------------------------------------------------------------

    def rest(self) -> float:
        """Seconds until the next regular tick."""
        return self._longest_rest() * (_EARLY + (_LATE - _EARLY) * self._jitter.random())

    def _longest_rest(self) -> float:
        return self._pace.interval / max(2, -int(-self._pace.interval // SLOWEST_TICK))

    def tick(self, now: float, late: float = 0.0, regular: bool = True) -> bool:
        """Whether a Reach has changed. `late`: how much later than planned this tick is. That much longer the others
        may be silent: what they sent meanwhile may be lost, and it is no fault of theirs. `regular`: also send what
        would be late at the next one."""
        if late > STALL:
            self._stalled += late
            self.counters["stalls"] += 1
        listening = now - self._stalled
        if now >= self._look_at:
            self._look(now)
        for place, ear in self._ears.items():
            self._drain(ear, self._by_sender[place], listening)
        horizon = now + self._longest_rest() * _MARGIN if regular else _AT_ONCE
        changed, soonest = False, _NEVER
        for lane in self._lanes.values():
            probe, session = lane.probe, lane.session
            if (listening >= probe.judge_at or listening >= session.deadline) and probe.judge(listening):
                self._tell(lane)
                changed = True
            if session.answer or session.due_at <= horizon or listening >= probe.large_at:
                self._speak(lane, now, horizon)
            if session.deadline < soonest:
                soonest = session.deadline
        self._soonest = soonest
        return changed

    def next_deadline(self) -> float:
        """When the first session's silence has lasted too long, as of the last tick; inf if that can't be."""
        return self._soonest + self._stalled

    def _drain(self, ear: Ear, senders: Mapping[str, _Lane], listening: float) -> None:
        heard = 0
        for datagram, sender in ear.datagrams():
            heard += 1
            yours = datagram[8:12]
            lane = self._by_discriminator.get(yours) if yours != b"\0\0\0\0" else senders.get(sender)
            if lane is None:
                self.counters["refused.unknown"] += 1
            elif senders.get(sender) is not lane:
                self.counters["refused.address"] += 1
            elif lane.session.repeated(datagram, listening):
                continue
            elif refusal := lane.probe.hear(datagram, listening):
                self.counters[f"refused.{refusal}"] += 1
        self.counters["received"] += heard

    def _speak(self, lane: _Lane, now: float, horizon: float) -> None:
        session = lane.session
        if session.answer:
            self._say(lane, session.compose_answer(), now)
        if session.due_at <= horizon:
            self._say(lane, session.compose(now), now)
        listening = now - self._stalled
        if listening >= lane.probe.large_at and lane.probe.large_due(listening):
            lane.probe.large_sent(listening)
            size = lane.probe.payload
            self._say(lane, session.compose_padded(size), now, size)

    def _say(self, lane: _Lane, datagram: bytes, now: float, padded: int = 0) -> None:
        if lane.mouth is None:
            return
        probe = lane.probe
        try:
            if not lane.mouth.say(datagram):
                probe.refused(now - self._stalled)
        except OSError as error:
            self.counters["unsent"] += 1
            if error.errno == errno.EMSGSIZE:
                if padded:
                    device = probe.track.device or "the interface to it"
                    reason = f"packets of {probe.mtu} octets to {probe.track} don't fit: {device} has a smaller MTU"
                    probe.too_large(now - self._stalled, reason)
                return
            probe.trouble = explained(error, probe.track)
        else:
            self.counters["sent"] += 1
            probe.trouble = ""

    def _tell(self, lane: _Lane) -> None:
        verdict = lane.probe.verdict
        for path in lane.paths:
            name = path.node, path.kind
            old = self.reaches.get(name)
            same = old is not None and (old.path, old.state, old.full) == (path, verdict.state, verdict.full)
            since = old.since if same and old is not None else time.time()
            full = verdict.full if path.mtu else None
            self.reaches[name] = Reach(path, verdict.state, since, full, verdict.reason)

    # Sockets. ---------------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Open what isn't open; a device that is another than before takes its sockets with it."""
        self._look_at = now + _LOOK_AGAIN
        indexes = {device: _index(device) for device in {track.device for track in self._lanes if track.device}}
        for device, index in self._indexes.items():
            if indexes.get(device) != index:
                self._forget(device)
        self._indexes = indexes
        for lane in self._lanes.values():
            if lane.mouth is None or lane.ear not in self._ears:
                self._open(lane)
        for place, ear in self._ears.items():
            ear.tunnels = frozenset(
                indexes[device] for device, local in self._by_sender if device and local == place[1]
            )

    def _open(self, lane: _Lane) -> None:
        track = lane.probe.track
        try:
            if lane.ear not in self._ears:
                self._ears[lane.ear] = Ear(track)
            if lane.mouth is None:
                lane.mouth = Mouth(track, self._rng)
            lane.probe.trouble = ""
        except OSError as error:
            lane.probe.trouble = explained(error, track)

    def _forget(self, device: str) -> None:
        for place in [place for place in self._ears if place[0] == device]:
            self._ears.pop(place).close()
        for lane in self._lanes.values():
            if lane.probe.track.device == device:
                self._hush(lane)

    def _close_unused_ears(self) -> None:
        for place in [place for place, lanes in self._by_sender.items() if not lanes]:
            del self._by_sender[place]
            if place in self._ears:
                self._ears.pop(place).close()

    def _hush(self, lane: _Lane) -> None:
        if lane.mouth is not None:
            lane.mouth.close()
            lane.mouth = None


def _index(device: str) -> int:
    """0: there is none of that name."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0
