"""What the log and events.log say of the ways to the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.build import node, view
from weft.agent.chronicle import Chronicle
from weft.agent.journal import Journal, Scribe
from weft.agent.reconcile import Reconciler
from weft.core.sight import Course
from weft.objects import route_key
from weft.targets.memory import MemoryTarget

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


async def test_what_was_right_before_and_is_put_right_is_a_repair(journal: Journal) -> None:
    kernel = MemoryTarget()
    reconciler, chronicle = Reconciler((kernel,)), Chronicle(journal)

    async def cycle() -> list[str]:
        before = len(journal.recent)
        await reconciler.read()
        await reconciler.mend(view(node("b", "192.0.2.2", "10.2.0.0/24")))
        chronicle.work(reconciler)
        return [event.kind for event in list(journal.recent)[before:]]

    kernel.faults.fail_at(3)
    first = await cycle()
    assert first == ["change"] * len(first)
    assert await cycle() == ["change"], "an attempt more"
    assert chronicle.repairs == 0
    kernel.tamper_delete(route_key(ip_network("10.2.0.0/24"), 254, 7600))
    assert await cycle() == ["repair"]
    assert await cycle() == []
    assert chronicle.repairs == 1
