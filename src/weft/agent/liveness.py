"""Which peers answer on which way: BFD sessions (RFC 5880, multihop RFC 5883) on every path that is to be probed.

`agent/registrar.py` tells the paths and reads full sets of what probing came to; `core/topology.py` decides on them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field

from weft.model import Path, Reach

Reaches = Mapping[tuple[str, str], Reach]
"""(node id, kind of path) → what probing it came to."""


@dataclass(frozen=True, slots=True)
class LivenessOptions:
    """`budget`: packets per second, sent and received, that all sessions may come to: it sets how often each sends.
    `key`: "" for none, else what both ends must know (its octets; over 20 of them, their hash). `netns`: path of the
    network namespace to probe in, None: this one."""

    budget: int = 120
    key: str = field(default="", repr=False)
    netns: str | None = None


class Liveness:
    """Probing runs from the first call of `probe` until `close`; `reaches` has one reader."""

    def __init__(self, options: LivenessOptions | None = None) -> None:
        self.options = options or LivenessOptions()

    def probe(self, paths: Iterable[Path]) -> None:
        """Probe these paths, and no others, from now on. Cheap if they are the same. At most one per node and kind: of
        several the first holds. Never raises for a device or an address that isn't there: its Reach says so."""
        raise NotImplementedError

    async def reaches(self) -> AsyncGenerator[Reaches, None]:
        """The full set, at once and after each change. Never raises; ends when `close` was called."""
        raise NotImplementedError
        yield

    def counters(self) -> Mapping[str, int]:
        """What was sent, received and refused since the start, by flat names such as `refused.authentication`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Tell every peer that probing ends (AdminDown, which is no failure to them), and stop."""
        raise NotImplementedError
