"""Whose is a peer id in etcd, and what this host writes under its own. Pure; called by `discovery/etcd.py`.

A folder that another live host holds is never touched. What this host's former run left is taken over key by key in one
transaction, so that no key is missing for an instant; so is what a host left that said that it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from weft.model import Node
from weft.stores import Delete, Entry, Guard, Put
from weft.wire.discovery_keys import HOST_IP, LAST_SEEN, WEFT, owner
from weft.wire.hello import Stamp


class Whose(Enum):
    """Who has the folder."""

    NOBODY = auto()
    OURS = auto()
    LEFT = auto()
    """Left by a former run on this host, by this very program at another address, or by a host that went."""
    NEWER = auto()
    """A run on this host that started after this one: or before it, and the clock went back."""
    FOREIGN = auto()


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be written, if nobody was quicker."""

    changes: tuple[Put | Delete, ...]
    guards: tuple[Guard, ...]


def judge(rows: Mapping[str, Entry], me: Node, stamp: Stamp) -> tuple[Whose, str]:
    """Whose these keys are (`rows`: by name), and the host's address, "" if nothing tells it."""
    if not rows:
        return Whose.NOBODY, ""
    address, details = owner({name: row.value for name, row in rows.items()})
    if details is not None and details.instance == stamp.instance:
        return Whose.OURS, address
    if details is not None and details.departed:
        return Whose.LEFT, address
    same_program = details is not None and Stamp(details.instance, details.epoch, 0).program == stamp.program
    if address and address not in map(str, me.endpoints) and not same_program:
        return Whose.FOREIGN, address
    return (Whose.NEWER if details is not None and details.epoch > stamp.epoch else Whose.LEFT), address


def change(
    folder: str, rows: Mapping[str, Entry], wanted: Mapping[str, bytes], lease: int, beat: bool = True
) -> Change:
    """What makes the folder's keys the wanted ones, all on this lease. `beat`: last_seen too."""
    changes: list[Put | Delete] = []
    for name, value in wanted.items():
        row = rows.get(name)
        same = row is not None and row.lease == lease and (row.value == value or (name == LAST_SEEN and not beat))
        if not same:
            changes.append(Put(folder + name, value, lease))
    changes += [Delete(folder + name) for name in rows if name not in wanted]
    return Change(tuple(changes), guards(folder, rows))


def guards(folder: str, rows: Mapping[str, Entry]) -> tuple[Guard, ...]:
    """Hold as long as nobody else has taken the folder since it was read."""
    return tuple(Guard(folder + name, rows[name].modified if name in rows else 0) for name in (HOST_IP, WEFT))
