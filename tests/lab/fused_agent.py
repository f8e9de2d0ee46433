"""`weft agent` that kills itself (SIGKILL) after so many steps: `python -m tests.lab.fused_agent STEPS`.

A step is one write into the kernel (a netlink send, a sysctl) or one op of the firewall. Ops are handed over singly,
so that there is a moment between any two. test_killed_between_ops.py runs this in a lab's host.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from weft.cli.main import main
from weft.objects import Failure, Op
from weft.targets.firewall import FirewallTarget
from weft.targets.kernel.socket import NetlinkSocket
from weft.targets.kernel.sysctl import Sysctls
from weft.targets.kernel.target import KernelTarget

Apply = Callable[[Any, Sequence[Op]], Awaitable[list[Failure | None]]]
R = TypeVar("R")


class Fuse:
    """Burns one step at a time."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def one_by_one(apply: Apply, after: Callable[[], None]) -> Apply:
    """The same `apply`, called for each op alone."""

    async def applied(target: Any, ops: Sequence[Op]) -> list[Failure | None]:
        answers: list[Failure | None] = []
        for op in ops:
            answers += await apply(target, [op])
            after()
        return answers

    return applied


def burning(method: Callable[..., R], after: Callable[[], None]) -> Callable[..., R]:
    """The same method, with a step behind it."""

    def called(*arguments: Any, **named: Any) -> R:
        result = method(*arguments, **named)
        after()
        return result

    return called


def run(steps: int) -> None:
    fuse = Fuse(steps)
    patched: dict[tuple[type, str], Any] = {
        (KernelTarget, "apply"): one_by_one(KernelTarget.apply, lambda: None),
        (FirewallTarget, "apply"): one_by_one(FirewallTarget.apply, fuse.step),
        (NetlinkSocket, "send"): burning(NetlinkSocket.send, fuse.step),
        (Sysctls, "apply"): burning(Sysctls.apply, fuse.step),
    }
    for (owner, name), method in patched.items():
        setattr(owner, name, method)
    main(["agent"])


if __name__ == "__main__":
    run(int(sys.argv[1]))
