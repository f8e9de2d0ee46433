"""health_status.json, as flannel-registrar wrote it (FORMATS.md): monitoring reads it already. Written by
`agent/journal.py` and answered by `web/health.py`, read by `weft diagnose`.

    {"status":"healthy","last_check":1700000000,"message":"…","hostname":"…","issues":[{"type","message","severity"}]}

Keys stand in this order; `last_check` is whole seconds since 1970.
"""

from __future__ import annotations

import msgspec

from weft.core.health import Health, Issue, Kind, Severity, Status
from weft.errors import WireError

LONGEST = 1 << 20
"""Octets that a file of this kind can have; a longer one is something else."""


class IssueRow(msgspec.Struct, frozen=True):
    type: Kind
    message: str
    severity: Severity


class HealthStatus(msgspec.Struct, frozen=True):
    """The file. Unknown fields of later versions are skipped when read."""

    status: Status
    last_check: int
    message: str
    hostname: str
    issues: tuple[IssueRow, ...] = ()


def status_of(health: Health, hostname: str, at: float) -> HealthStatus:
    """`at`: seconds since 1970 at which it was judged."""
    rows = tuple(IssueRow(i.type, i.message, i.severity) for i in health.issues)
    return HealthStatus(health.status, int(at), health.message, hostname, rows)


def encode_health(health: Health, hostname: str, at: float) -> bytes:
    """The whole file; it ends with a line end, for those who read it with `cat`."""
    return msgspec.json.encode(status_of(health, hostname, at)) + b"\n"


def decode_health(data: bytes) -> HealthStatus:
    """Raises WireError for anything that is not such a file."""
    if len(data) > LONGEST:
        raise WireError(f"health_status.json is {len(data)} octets long: that is not one")
    try:
        return msgspec.json.decode(data, type=HealthStatus)
    except msgspec.DecodeError as error:
        raise WireError(f"health_status.json can't be read: {error}") from error


def health_of(status: HealthStatus) -> Health:
    """The verdict that a file holds."""
    return Health(status.status, status.message, tuple(Issue(i.type, i.message, i.severity) for i in status.issues))
