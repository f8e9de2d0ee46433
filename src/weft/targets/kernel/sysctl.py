"""Kernel settings under /proc/sys, of one network namespace. Used by the kernel target alone."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path, PurePosixPath

from weft.errors import TargetError
from weft.objects import Failure, Key, Object, Op, Sysctl
from weft.targets.kernel.codec import Message, attributes, decoding, number
from weft.targets.kernel.constants import AF_INET6, NETCONFA_FORWARDING, NETCONFA_IFINDEX, NETCONFA_IFINDEX_ALL
from weft.targets.kernel.netns import inside
from weft.targets.kernel.words import asked

ROOT = Path("/proc/sys")
NETCONF_HEADER = 4
"""Octets of netconfmsg (netconf.h), the family and padding."""
FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
"""Where these are on, that is seen without having been asked for: a plan made without memory then has nothing to do."""


class Sysctls:
    """Forwarding, and the settings that were asked for (with the links that they are of): they are read back, and set
    again when somebody changes them.

    Of changes of forwarding the kernel tells (`forwarding_of`), and it is read then; of others it doesn't, so they are
    read each time. A removal forgets a setting and leaves its value.
    """

    def __init__(self, netns: str | None) -> None:
        self._netns = netns
        self._paths: dict[str, str | None] = dict.fromkeys(FORWARDING)
        self._asked: dict[str, str] = {}

    def read(self, objects: dict[Key, Object], told: Set[Key] | None = None) -> set[Key]:
        """Put the settings' values into `objects`; the keys of those that changed since the last time. `told`: what the
        kernel told of since then; None: that is not known."""
        paths = [path for path in self._paths if told is None or path not in FORWARDING or ("sysctl", path) in told]
        values = inside(self._netns, lambda: {path: _value(path) for path in paths}) if paths else {}
        changed: set[Key] = {("sysctl", path) for path, value in values.items() if self._paths[path] != value}
        self._paths.update(values)
        for path, value in values.items():
            objects.pop(("sysctl", path), None)
            if value is not None and (value == "1" or path in self._asked):
                objects["sysctl", path] = Sysctl(path, value, self._asked.get(path, ""))
        return changed

    def apply(self, op: Op, thing: Sysctl, objects: dict[Key, Object]) -> Failure | None:
        """Carry out one op, in the kernel and in `objects`; None for success."""
        if op.action == "remove":
            self._paths.pop(thing.path, None)
            self._asked.pop(thing.path, None)
            objects.pop(thing.key, None)
            return None
        if ".." in PurePosixPath(thing.path).parts or thing.path.startswith("/"):
            return Failure(f"{asked(op)}: {thing.path!r} is not a path under {ROOT}")
        try:
            inside(self._netns, lambda: (ROOT / thing.path).write_text(thing.value + "\n"))
        except OSError as error:
            return Failure(f"{asked(op)}: {error.strerror}: {ROOT / thing.path}")
        except (TargetError, ValueError) as error:  # the namespace went, or the path can't be one
            return Failure(f"{asked(op)}: {error}")
        self._paths[thing.path] = thing.value
        self._asked[thing.path] = thing.dev
        objects[thing.key] = thing
        return None


def forwarding_of(message: Message) -> str:
    """Which of FORWARDING an RTM_NEWNETCONF tells of; "" if it is about one interface, or about something else. Raises
    NetlinkDecodeError."""
    with decoding("a change of settings"):
        found = attributes(message.body, NETCONF_HEADER)
        everywhere = number(found[NETCONFA_IFINDEX]) == NETCONFA_IFINDEX_ALL
        if not everywhere or NETCONFA_FORWARDING not in found:
            return ""
        return FORWARDING[message.body[0] == AF_INET6]


def _value(path: str) -> str | None:
    """None: there is no such setting, or it can't be read."""
    try:
        return (ROOT / path).read_text().strip()
    except OSError:
        return None
