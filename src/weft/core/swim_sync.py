"""Two members compare all that they believe, over a connection: at the first contact, and when their pings tell that
they believe different things. Called by `discovery/gossip.py` on both ends; `wire/table_sync.py` is the form.

    one who asks → `brief`       everything, without payloads
    the other    → `answer`      where it knows better, with payloads; and which payloads it wants
    one who asks → `payloads`    those
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec import structs

from weft.core.swim import Swim
from weft.core.swim_table import Member
from weft.core.swim_values import Address, Rumour, State, Update

_FEW = 64
"""Changes that a table may bring which are passed on as news. More of them are what somebody missed who was away."""
BUDGET = 2 << 20
"""Octets of payloads in one table; more are fetched one by one."""


def brief(swim: Swim, member: bool = True) -> list[Update]:
    """This member, if it is one, and all that it knows, the dead ones too."""
    own = [swim.me(payload=True)] if member else []
    return [*own, *(known.as_update() for known in swim.table.members.values())]


def answer(swim: Swim, told: Iterable[Update], teller: Address, now: float) -> tuple[list[Update], list[str]]:
    """Believe what the other one knows better; give what it does not know, and the ids of payloads that it should send
    too."""
    theirs = {update.id: update for update in told}
    better: list[Update] = []
    me = theirs.get(swim.shape.id)
    if me is None or me != swim.me():
        better.append(swim.me(payload=True))
    for member in swim.table.members.values():
        entry = theirs.get(member.id)
        if entry is None:
            if member.live:
                better.append(member.as_update(payload=True))
        elif (member.incarnation, member.state) > (entry.incarnation, entry.state) or _is_twin(member, entry):
            better.append(member.as_update(payload=member.digest != entry.digest or member.state is not State.ALIVE))
    return _within_budget(better), merge(swim, theirs.values(), teller, now)


def merge(swim: Swim, told: Iterable[Update], teller: Address, now: float) -> list[str]:
    """Believe what another one knows better, and give the ids of those whose payloads are wanted. A death is put to the
    accused first: it may have been seen from the other side of a network that was torn."""
    told = list(told)
    news = [update for update in told if _is_news(swim, update)]
    spread = len(news) <= _FEW or len(swim.table.live) > len(told) // 2
    for update in news:
        member = swim.table.members.get(update.id)
        if update.state is State.DEAD and member is not None and member.live:
            swim.outbox.append((member.address, Rumour((update,))))
        else:
            swim.apply(update, teller, now, spread)
    wanted = [m.id for update in told if (m := swim.table.members.get(update.id)) is not None and m.missing]
    known = {update.id for update in told if update.payload is not None}
    swim.fetches = [item for item in swim.fetches if item[0] not in known and item[0] not in wanted]
    return wanted


def payloads(swim: Swim, wanted: Collection[str]) -> list[Update]:
    """Those of these members that are known here."""
    members = (swim.table.members.get(member_id) for member_id in wanted)
    known = [member.as_update(payload=True) for member in members if member is not None and not member.missing]
    return _within_budget([*([swim.me(payload=True)] if swim.shape.id in wanted else []), *known])


def take_payloads(swim: Swim, told: Iterable[Update], now: float) -> None:
    """What `payloads` gave."""
    for update in told:
        if update.payload is not None:
            swim.supply(update.id, update.payload, now)


def _within_budget(updates: list[Update]) -> list[Update]:
    octets, fitting = 0, []
    for update in updates:
        octets += len(update.payload or b"")
        fitting.append(update if octets <= BUDGET else structs.replace(update, payload=None))
    return fitting


def _is_twin(member: Member, entry: Update) -> bool:
    """Two use one id: the other one is to hear of it."""
    return member.state is entry.state is State.ALIVE and member.address != entry.address


def _is_news(swim: Swim, update: Update) -> bool:
    if update.id == swim.shape.id:
        return True
    member = swim.table.members.get(update.id)
    if member is None:
        return update.state is State.ALIVE  # who is suspected answers in a moment, or is dead
    if member.missing and update.payload is not None and update.digest == member.digest:
        return True
    return (update.incarnation, update.state) > (member.incarnation, member.state)
