"""`weft`, to which the kernel tells nothing: no netlink group is ever joined. What is repaired then is repaired because
everything is compared anew each INTERVAL.

    python -m tests.support.deaf registrar

Run by tests/lab/test_registrar_environment.py. What is asked of the kernel is answered as always.
"""

from __future__ import annotations

import socket
from typing import Any

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1


class Deaf(socket.socket):
    """A socket that joins no netlink group."""

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        """As always, but for one option."""
        if (self.family, level, option) != (socket.AF_NETLINK, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP):
            super().setsockopt(level, option, *value)

    def bind(self, address: Any, /) -> None:
        """As always, but for the groups in a netlink address."""
        super().bind((address[0], 0) if self.family == socket.AF_NETLINK else address)


if __name__ == "__main__":
    socket.socket = Deaf  # type: ignore[misc]
    from weft.cli.main import main

    main()
