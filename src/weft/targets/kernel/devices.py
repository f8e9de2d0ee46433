"""Links made, changed and removed, one at a time. Used by `target.py`: there is one device to a daemon, so what counts
here is that none of somebody else's is touched and that a kill at any moment leaves a device that is recognised."""

from __future__ import annotations

import errno

from weft.errors import KernelError
from weft.objects import Failure, Link, Op
from weft.targets.kernel.codec import Answer
from weft.targets.kernel.constants import RTM_GETLINK
from weft.targets.kernel.links import (
    IFINFO,
    LinkState,
    decode_link,
    encode_link_add,
    encode_link_change,
    encode_link_down,
    encode_link_remove,
)
from weft.targets.kernel.mirror import Mirror
from weft.targets.kernel.socket import NetlinkSocket
from weft.targets.kernel.words import asked

FIRST_INDEX = 1 << 16
"""Links of ours get interface indexes from here on, above those that the kernel gives out by itself."""


class Devices:
    """Writes links through `socket` and files what became of them in `mirror`."""

    def __init__(self, socket: NetlinkSocket, mirror: Mirror) -> None:
        self._socket = socket
        self._mirror = mirror

    def apply(self, op: Op, link: Link) -> Failure | None:
        """Carry out one op. Raises KernelError if the kernel's answers were lost."""
        foreign = self._mirror.foreign.get(link.key)
        if foreign is not None and op.action != "remove":
            return Failure(f"{asked(op)}: {foreign} has this name; it was left alone", conflict=True)
        ifindex = self._mirror.indexes.get(link.name)
        if op.action == "remove":
            return self._remove(op, ifindex)
        now = None if ifindex is None else self._mirror.links[ifindex]
        return self._add(op, link) if now is None else self._change(op, link, now)

    def _add(self, op: Op, link: Link) -> Failure | None:
        ifindex = max(FIRST_INDEX, *(taken + 1 for taken in self._mirror.links), 0)
        first = self._socket.number(2)
        failures = self._socket.send([encode_link_add(link, ifindex, first)], first, first + 1)
        self._mirror.written_links[ifindex] = link
        if not failures:
            return None
        self._mirror.doubtful = True  # if the name is taken, the mirror did not know of it
        return _failure(op, failures[0])

    def _change(self, op: Op, link: Link, now: LinkState) -> Failure | None:
        if now.vxlan is None or link.fixed != now.vxlan.fixed:
            return Failure(
                f"{asked(op)}: VNI, port, local address and group policy can't change while a device lives, and it has "
                f"{now.vxlan}"
            )
        self._mirror.doubtful |= link.mac != now.mac or (now.up and not link.up) or link.master != now.master
        first = self._socket.number(2)
        failures = self._socket.send([encode_link_change(link, now, first)], first, first + 1)
        if failures and failures[0].number == errno.EBUSY and link.name != now.name:
            self._mirror.doubtful = True
            first = self._socket.number(3)
            down, change = encode_link_down(now.ifindex, first), encode_link_change(link, now, first + 1)
            failures = self._socket.send([down, change], first, first + 2)
        self._mirror.written_links[now.ifindex] = link
        return _failure(op, failures[0]) if failures else None

    def _remove(self, op: Op, ifindex: int | None) -> Failure | None:
        if ifindex is None:
            return None
        number = self._socket.number(1)
        failures = self._socket.send([encode_link_remove(ifindex, number)], number, number)
        if failures and failures[0].number != errno.ENODEV:
            return _failure(op, failures[0])
        self._mirror.drop_link(ifindex)
        self._mirror.doubtful = True
        return None

    def settle(self) -> None:
        """File the links that were written as the kernel has them now. To be called once the notifications of that
        have been heard (and passed over, for they tell of each step on the way)."""
        while self._mirror.written_links:
            ifindex, wanted = self._mirror.written_links.popitem()
            self._refresh(ifindex)
            if self._mirror.objects.get(wanted.key) != wanted:
                self._mirror.doubtful = True  # it failed, or somebody changed the link meanwhile

    def _refresh(self, ifindex: int) -> None:
        try:
            message = self._socket.ask(RTM_GETLINK, IFINFO.pack(0, 0, ifindex, 0, 0))
        except KernelError as error:
            if error.number != errno.ENODEV:
                raise
            self._mirror.drop_link(ifindex)
        else:
            self._mirror.put_link(decode_link(message))


def _failure(op: Op, answer: Answer) -> Failure:
    said = str(KernelError(answer.number, asked(op), answer.text))
    if answer.number == errno.EADDRINUSE:
        said += "; its UDP port is another program's, or a VXLAN device's with other options: give it another port"
    return Failure(said)
