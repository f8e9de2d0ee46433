"""What the failures of ops say. Used by the kernel target alone: `sysctl`, `devices` and `writing`."""

from __future__ import annotations

import struct

from weft.core.commands import text
from weft.objects import Failure, Op

UNENCODABLE = (struct.error, ArithmeticError, TypeError, ValueError)
"""What goes wrong when a value does not go into its place in a message: an MTU below zero, say."""


def asked(op: Op) -> str:
    """`add route 10.1.2.0/24 nhid 1879048193 proto 76 metric 100`: in the words that `weft plan` uses too."""
    return f"{op.action} {text(op.object)}"


def unencodable(op: Op, error: Exception) -> Failure:
    """The failure of an op that can't even be put to the kernel."""
    return Failure(f"{asked(op)}: this can't be put into a message to the kernel: {error}")
