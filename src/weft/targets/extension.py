"""flannel's extension backend as a target: a command of the operator's for each remote lease that comes or goes.

Run by the reconciler. A lease that comes or changes runs SubnetAddCommand, one that goes SubnetRemoveCommand; one after
the other, as flannel runs them, for nobody wrote these commands to be run side by side. A command that fails is retried
with backoff, which flannel doesn't do.

What was told to a command is known in memory only: nothing in the kernel says what a command has done. So after a
restart every lease is told again, as flannel does, and a lease that went while nobody ran is told to nobody. Commands
have to bear being run again (`ip route replace`, not `ip route add`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weft.errors import TargetError
from weft.objects import Failure, Key, Object, Op
from weft.objects.outside import Hook
from weft.targets import Reading
from weft.targets.extension_commands import Command, Hung, Variables


class ExtensionTarget:
    """`added` and `removed`: SubnetAddCommand and SubnetRemoveCommand; None where there is none."""

    def __init__(self, added: Command | None = None, removed: Command | None = None) -> None:
        self._added = added
        self._removed = removed
        self._objects: dict[Key, Object] = {}
        self._hung: set[Key] = set()
        self._read = False

    @property
    def name(self) -> str:
        return "extension"

    @property
    def kinds(self) -> tuple[type[Object], ...]:
        return (Hook,)

    async def read(self, full: bool = False) -> Reading:
        """Every lease that was told in this run."""
        first, self._read = not self._read, True
        return Reading(self._objects, touched=None if first else frozenset())

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Run a command for each op; one answer each.

        Once a command has hung, the rest is left for the next attempt, and what hung comes last then: the other
        targets can't wait for a thousand time limits."""
        answers: dict[int, Failure | None] = {}
        hung = ""
        for at in sorted(range(len(ops)), key=lambda at: ops[at].object.key in self._hung):
            if hung:
                answers[at] = Failure(f"{_about(ops[at])}: not tried yet, because {hung}")
                continue
            try:
                await self._apply(ops[at])
            except Hung as error:
                self._hung.add(ops[at].object.key)
                answers[at] = Failure(f"{_about(ops[at])}: {error}")
                hung = str(error)
            except TargetError as error:
                self._hung.discard(ops[at].object.key)
                answers[at] = Failure(f"{_about(ops[at])}: {error}")
            else:
                self._hung.discard(ops[at].object.key)
                answers[at] = None
        return [answers[at] for at in range(len(ops))]

    def lines(self, ops: Sequence[Op]) -> list[str]:
        """The commands, with what they are told."""
        found = ((self._command(op), _hook(op)) for op in ops)
        return [command.line(_variables(hook), hook.data) for command, hook in found if command is not None]

    def watch(self, wake: Callable[[], None]) -> None:
        """Nothing: nobody tells what became of what a command did."""

    def close(self) -> None:
        """Nothing is run: a lease stays told, as flannel leaves it when it ends."""

    async def _apply(self, op: Op) -> None:
        hook, command = _hook(op), self._command(op)
        if command is not None:
            await command.run(_variables(hook), hook.data)
        if op.action == "remove":
            self._objects.pop(hook.key, None)
        else:
            self._objects[hook.key] = hook

    def _command(self, op: Op) -> Command | None:
        return self._removed if op.action == "remove" else self._added


def _hook(op: Op) -> Hook:
    if not isinstance(op.object, Hook):
        raise TypeError(f"an extension takes hooks, not a {type(op.object).__name__}")
    return op.object


def _variables(hook: Hook) -> Variables:
    return Variables(hook.subnet, hook.subnet6, hook.public_ip, hook.public_ip6)


def _about(op: Op) -> str:
    hook = _hook(op)
    return f"{op.action} {' and '.join(str(subnet) for subnet in (hook.subnet, hook.subnet6) if subnet is not None)}"
