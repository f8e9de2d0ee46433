"""The hosts that the setting `peers` names: whether they can be told, and whether anything comes from them.

Nobody else would notice a typo there. Used by `discovery/conversation.py`. Sans I/O: time is an argument.
"""

from __future__ import annotations

from datetime import UTC, datetime

from weft.discovery.tally import Complaints
from weft.model import IPAddress

INFINITY = float("inf")


class NamedHosts:
    """One Problem for each host that can't be told or does not answer for `timeout` seconds, until it is over."""

    def __init__(self, hosts: tuple[IPAddress, ...], timeout: float, complaints: Complaints) -> None:
        self._hosts = frozenset(hosts)
        self._timeout = timeout
        self._complaints = complaints
        self._waiting: dict[IPAddress, float] = {}  # who was told about us, and since when nothing came from there
        self._untold: set[IPAddress] = set()
        self._silent: set[IPAddress] = set()

    def told(self, host: IPAddress, why_not: str, now: float) -> None:
        """It was told about this host, or (`why_not`) that failed."""
        if host not in self._hosts:
            return
        self._waiting.setdefault(host, now)
        if why_not:
            self._untold.add(host)
            text = f"host {host}, named in `peers`, can't be told about this one: {why_not}"
            self._complaints.report("untold", str(host), text)
        else:
            self._untold.discard(host)
            self._complaints.clear("untold", str(host))

    def heard(self, source: IPAddress, now: float) -> None:
        """Anything came from there."""
        if source in self._hosts:
            self._waiting[source] = now
            self._silent.discard(source)
            self._complaints.clear("silent", str(source))

    def next_expiry(self, listening_since: float) -> float:
        """Nobody is silent for too long before this."""
        first = min((self._waiting[host] for host in self._judged()), default=INFINITY)
        return max(first, listening_since) + self._timeout

    def expire(self, now: float, wall: float, listening_since: float) -> None:
        """Complain about who was silent for too long while the group could be heard; `wall` is seconds since 1970."""
        for host in [
            host for host in self._judged() if max(self._waiting[host], listening_since) + self._timeout <= now
        ]:
            self._silent.add(host)
            since = datetime.fromtimestamp(wall - (now - self._waiting[host]), UTC)
            text = (
                f"host {host}, named in `peers`, has not answered since {since:%Y-%m-%d %H:%M:%SZ}: does weft run "
                f"there, is this its endpoint, and do the firewalls between let the discovery's UDP port through?"
            )
            self._complaints.report("silent", str(host), text)

    def _judged(self) -> set[IPAddress]:
        """Who should answer; of one that can't be told, that is said already."""
        return self._waiting.keys() - self._untold - self._silent
