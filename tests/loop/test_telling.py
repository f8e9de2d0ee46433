"""Good news is gathered, bad news goes out at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from ipaddress import ip_network

from tests.support.virtual import virtually
from weft.agent.telling import GATHER, PER_HOST, Teller
from weft.core.registry import Announcement
from weft.model import Network
from weft.wire.registrar import Note

Told = list[tuple[float, Announcement]]


def in_virtual_time(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        virtually(test())

    return run


def teller() -> tuple[Teller, Told]:
    told: Told = []
    loop = asyncio.get_running_loop()
    return Teller(lambda what: told.append((round(loop.time(), 2), what))), told


def announced(reaches: str = "", misses: str = "", networks: tuple[Network, ...] = ()) -> Announcement:
    note = Note(reaches=tuple(reaches.split()), misses=tuple(misses.split()))
    return Announcement("a", networks, None, note)


@in_virtual_time
async def test_the_first_word_goes_out_at_once() -> None:
    says, told = teller()
    says.tell(announced("b"))
    assert told == [(0.0, announced("b"))]


@in_virtual_time
async def test_hosts_that_come_one_after_the_other_are_told_together() -> None:
    says, told = teller()
    says.tell(announced())
    for number in range(10):
        says.tell(announced(" ".join(f"h{n}" for n in range(number + 1))))
        await asyncio.sleep(0.04)
    await asyncio.sleep(10)
    assert [(at, len(what.note.reaches)) for at, what in told] == [(0.0, 0), (GATHER, 10)]


@in_virtual_time
async def test_the_more_hosts_the_rarer_is_good_news() -> None:
    says, told = teller()
    many = " ".join(f"h{n:02}" for n in range(40))
    says.tell(announced(many))
    says.tell(announced(many + " z"))
    await asyncio.sleep(10)
    assert [at for at, _ in told] == [0.0, 40 * PER_HOST]


@in_virtual_time
async def test_who_is_missed_is_told_at_once_and_what_waited_with_it() -> None:
    says, told = teller()
    says.tell(announced("b c"))
    says.tell(announced("b c d"))
    await asyncio.sleep(0.1)
    says.tell(announced("b d", "c"))
    assert told[1:] == [(0.1, announced("b d", "c"))]
    says.tell(announced("b c d"))
    await asyncio.sleep(5)
    assert told[2:] == [(round(0.1 + GATHER, 2), announced("b c d"))]


@in_virtual_time
async def test_a_network_is_told_at_once() -> None:
    says, told = teller()
    web = (Network("web", (ip_network("10.9.1.0/24"),)),)
    says.tell(announced("b"))
    says.tell(announced("b c", networks=web))
    says.tell(announced("b c", networks=()))
    assert [what.networks for _, what in told] == [(), web, ()]


@in_virtual_time
async def test_nothing_is_told_twice_nor_after_the_end() -> None:
    says, told = teller()
    says.tell(announced("b"))
    says.tell(announced("b"))
    says.tell(announced("b c"))
    says.tell(announced("b"))  # it went again before anybody heard of it
    await asyncio.sleep(5)
    says.tell(announced("b d"))
    says.close()
    await asyncio.sleep(5)
    assert [what for _, what in told] == [announced("b")]
