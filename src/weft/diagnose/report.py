"""`weft diagnose --json`: the findings and every fact. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from weft.diagnose.facts import Facts
from weft.diagnose.finding import Finding


class Row(msgspec.Struct, frozen=True):
    severity: str
    section: str
    what: str
    fix: str


class Report(msgspec.Struct, frozen=True):
    """`findings`: the worst first."""

    findings: tuple[Row, ...]
    facts: Facts


def as_json(facts: Facts, findings: Sequence[Finding]) -> str:
    """Indented; ends with a line end. Addresses and networks are texts."""
    rows = tuple(Row(one.severity, one.section, one.what, one.fix) for one in findings)
    encoded = msgspec.json.encode(Report(rows, facts), enc_hook=str)
    return msgspec.json.format(encoded, indent=1).decode() + "\n"
