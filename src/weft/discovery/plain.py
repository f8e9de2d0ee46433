"""Hosts that speak the docker-router document's plain form, beside those that run weft. Used by `discovery/peers.py`.

One program may say three things about one router: weft's HELLO, the plain HELLO, and ANNOUNCE or RESPONSE, which name
the stack alone. Who says more is believed more, and a stack that is only announced is no node of its own where one of
its routers has said who it is.
"""

from __future__ import annotations

from collections import Counter
from enum import IntEnum

from weft.model import IPAddress, Node
from weft.wire.hello import Hello, Stamp

NO_STAMP = Stamp("", 0, 0)
"""Of who sends none. Nobody can say goodbye with it: a label of no characters is malformed."""


class Form(IntEnum):
    """How much was said."""

    ANNOUNCED = 0
    PLAIN = 1
    FULL = 2


def form_of(hello: Hello) -> Form:
    if hello.stamp is not None:
        return Form.FULL
    return Form.PLAIN if hello.kind == "HELLO" else Form.ANNOUNCED


class Stacks:
    """From where routers of which stacks spoke, those that are only announced apart."""

    def __init__(self) -> None:
        self._count: Counter[tuple[str, IPAddress]] = Counter()
        self._at: dict[str, tuple[str, IPAddress]] = {}

    def has(self, stack: str, source: IPAddress) -> bool:
        return (stack, source) in self._count

    def settle(self, node: Node, source: IPAddress, form: Form) -> None:
        """The node is there now."""
        self.leave(node.id)
        if node.stack and form > Form.ANNOUNCED:
            self._at[node.id] = node.stack, source
            self._count[node.stack, source] += 1

    def leave(self, node_id: str) -> None:
        where = self._at.pop(node_id, None)
        if where is not None:
            self._count[where] -= 1
            if not self._count[where]:
                del self._count[where]
