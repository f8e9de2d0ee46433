"""What the log and events.log say of the ways to the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.agent.chronicle import Chronicle
from weft.agent.journal import Journal, Scribe
from weft.core.sight import Course

RULE = "map entry 172.24.90.1:172.24.90.6: 172.24.90.6 is lavash, which relays"
DIRECT = Course("direct", "directly: its tunnel answers")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    scribe = Scribe()
    yield Journal(tmp_path, scribe)
    scribe.close()


def test_the_first_course_is_told_where_it_is_not_the_direct_one_and_each_change(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """The guide: `docker logs flannel-registrar`."""
    caplog.set_level(logging.INFO, "weft")
    chronicle = Chronicle(journal)
    relayed = {"pita": DIRECT, "culvert": Course("relay", RULE, "lavash")}
    chronicle.courses(relayed)
    assert caplog.messages == [f"culvert is reached through lavash: {RULE}"]
    chronicle.courses(relayed)
    assert len(caplog.messages) == 1, "once"
    chronicle.courses({"pita": DIRECT, "culvert": DIRECT})
    assert caplog.messages[1:] == [f"culvert is reached directly, until now through lavash: {DIRECT.rule}"]
    assert [(event.subject, event.done) for event in journal.recent] == [
        ("culvert", "through lavash"),
        ("culvert", "through lavash → directly"),
    ]
