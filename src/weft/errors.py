"""Every error that weft raises on purpose.

    WeftError
    ├── SettingsError        a setting is unknown, or its value can't be used          (exit code 2)
    ├── DecodeError          bytes or text from outside do not have the form they must have
    │   ├── WireError        ... a peer's datagram or a store's value
    │   └── NetlinkDecodeError   ... a message of the kernel's
    ├── TargetError          a target could not be read or written
    │   ├── KernelError      ... the kernel answered with an errno
    │   ├── FirewallError    ... iptables answered with an error
    │   └── ProviderBusy     ... a cloud's API can't answer this now
    ├── EngineError          a container engine can't be asked
    ├── DiscoveryError       the discovery can't run (no interface, address in use)
    ├── StoreError           a store (etcd) answered with an error, or in a way that makes no sense
    │   ├── StoreUnreachable     ... could not be asked: nobody answers, or there is no leader
    │   └── StoreForbidden       ... does not allow it: wrong password, certificate or role
    ├── OutOfSubnets         every subnet that flannel's config gives out is held by a lease
    ├── AgentUnreachable     no agent answers on its socket                            (exit code 3)
    ├── NotYet               the agent can't answer yet: a source has not spoken       (exit code 3)
    └── LabError             a lab can't be brought up or asked
        └── TopologyError    ... its file says something that can't be built   (exit code 2)

A message says what was asked, what was found and what to do.
"""

from __future__ import annotations

import errno as errno_names


class WeftError(Exception):
    """The root; `exit_code` is what the command line ends with."""

    exit_code = 1


class SettingsError(WeftError):
    """A setting is unknown or its value can't be used; nothing was changed."""

    exit_code = 2


class DecodeError(WeftError):
    """Bytes or text from outside do not have the form they must have."""


class WireError(DecodeError):
    """A peer's datagram or a store's value can't be read."""


class NetlinkDecodeError(DecodeError):
    """A netlink message is shorter, longer or other than its header says."""


class TargetError(WeftError):
    """A target could not be read or written."""


class KernelError(TargetError):
    """The kernel answered a request with an errno (positive, as in errno.h) and perhaps a text of its own (EXT_ACK)."""

    def __init__(self, number: int, asked: str, text: str = "") -> None:
        self.number = number
        self.text = text
        name = errno_names.errorcode.get(number, str(number))
        super().__init__(f"{asked}: {name}" + (f": {text}" if text else ""))


class FirewallError(TargetError):
    """iptables, iptables-save or iptables-restore ended with an error."""


class ProviderBusy(TargetError):
    """A cloud's API can't answer this now: it is overloaded, or we ask too often (`throttled`: the limit is on all our
    calls). `after`: seconds that it asked us to wait; None: it didn't say. Asking again later will do."""

    def __init__(self, message: str, after: float | None = None, throttled: bool = False) -> None:
        self.after = after
        self.throttled = throttled
        super().__init__(message)


class EngineError(WeftError):
    """A container engine can't be asked."""


class DiscoveryError(WeftError):
    """The discovery can't run here."""


class StoreError(WeftError):
    """A store answered with an error, or in a way that makes no sense."""


class StoreUnreachable(StoreError):
    """A store could not be asked: nobody answers, or it has no leader. Nothing is known about what it holds."""


class StoreForbidden(StoreError):
    """A store does not allow what was asked: wrong user, password, certificate or role. Asking again won't help."""


class OutOfSubnets(WeftError):
    """Every subnet that flannel's config gives out is held by a lease or a reservation."""


class AgentUnreachable(WeftError):
    """No agent answers on the socket that was asked."""

    exit_code = 3


class NotYet(WeftError):
    """The agent runs and can't answer yet: a source has not spoken, or this host can't take part."""

    exit_code = 3


class LabError(WeftError):
    """A lab can't be brought up, or a verb does not fit its state."""


class TopologyError(LabError):
    """A lab's file says something that can't be built; nothing was changed."""

    exit_code = 2
