"""The kernel target: links, addresses, neighbours, FDB, next hops, routes and sysctls of one network namespace.

Called by the reconciler through the Target protocol. Reading is answered from the mirror (`mirror.py`), which
notifications keep; writing is done in batches of 250 requests, each one send() and one answer.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from weft.core import commands
from weft.errors import KernelError, NetlinkDecodeError, TargetError
from weft.model import Mac
from weft.objects import Address, Failure, Fdb, Link, Neighbour, NextHop, NextHopGroup, Object, Op, Route, Sysctl
from weft.targets import Reading
from weft.targets.kernel.bpf import listening_filter
from weft.targets.kernel.codec import messages
from weft.targets.kernel.constants import (
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_NETCONF,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_NEXTHOP,
)
from weft.targets.kernel.devices import Devices
from weft.targets.kernel.hearing import hear
from weft.targets.kernel.mirror import Mirror
from weft.targets.kernel.reading import fill
from weft.targets.kernel.sharing import Left, Shared
from weft.targets.kernel.socket import ANSWER_BUFFER, BATCH, LISTEN_BUFFER, NetlinkSocket
from weft.targets.kernel.sysctl import Sysctls
from weft.targets.kernel.words import UNENCODABLE, unencodable
from weft.targets.kernel.writing import ENCODERS, Batch, run_length

GROUPS = (
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_NETCONF,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_NEXTHOP,
)
ECHOES = 10_001
"""What the kernel tells of our own FDB entries is listened to when somebody looks, or when it is this much: the buffer
of the listening socket holds 20,000 of them (measured)."""
SLICE = 2_000
"""Objects that are filed in one turn of the event loop: 1 to 2 ms."""
KINDS: tuple[type[Object], ...] = (Sysctl, Link, Address, Neighbour, Fdb, NextHop, NextHopGroup, Route)


class KernelTarget:
    """`owner`: the ifalias of our links, `weft:<role>:<node>`. `mac` and `device`: our VTEP's MAC and name, by which a
    link is recognised whose making was cut short, or that was made before this host was renamed. `netns`: path of a
    network namespace, None for the current one. `shared`: see `share`. Raises TargetError if that can't be entered.

    The registrar (`weft:registrar:<host>`) is a case of its own: every route of ours that has a metric of its band
    (`REGISTRAR_METRICS`) is its own, out of whatever link, and no other is. No other role has any of those, not even
    out of its own links."""

    def __init__(
        self,
        owner: str,
        mac: Mac | None = None,
        netns: str | None = None,
        device: str = "",
        shared: Shared | None = None,
    ) -> None:
        self._netns = netns
        self._mirror = Mirror(owner, {device: mac} if mac is not None else {})
        if shared is not None:
            self._mirror.shared = shared
        self._sysctls = Sysctls(netns)
        self._requests = NetlinkSocket(netns, ANSWER_BUFFER)
        self._listener = NetlinkSocket(netns, LISTEN_BUFFER, GROUPS)
        self._devices = Devices(self._requests, self._mirror)
        self._heard: tuple[frozenset[int], bool] | None = None
        self._busy = False
        self._wake: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def name(self) -> str:
        return "kernel"

    @property
    def kinds(self) -> tuple[type[Object], ...]:
        return KINDS

    @property
    def devices(self) -> AbstractSet[str]:
        """Names of the links that are ours, as of the last reading: whose firewall chains are ours too."""
        return self._mirror.indexes.keys()

    def taken(self, device: str) -> bool:
        """Whether there is a link of that name that isn't ours, as of the last reading."""
        return ("link", device) in self._mirror.foreign

    def expect(self, devices: Mapping[str, Mac], claimed: AbstractSet[str] = frozenset()) -> None:
        """The names and MACs of our VTEPs, where they are known only after the start. Everything is read anew if they
        are others than before.

        `claimed`, for routers, of which a host may have several: the devices that no other one looks after now, as the
        caller made sure. Those that bear another router's mark are then an earlier run's, under another name."""
        if (dict(devices), claimed) != (self._mirror.vteps, self._mirror.claimed):
            self._mirror.vteps, self._mirror.claimed = dict(devices), claimed
            self._mirror.doubtful = True
            self._tell()

    def share(self, shared: Shared | None, left: Left | None = None) -> None:
        """From now on, a route of ours (protocol 76, main table) may go out of any link but another weft daemon's VXLAN
        device, if `shared` says that its destination is one that this daemon looks after; None: only out of our own.
        Flannel's routes to there on our device are then ours too, to be removed. Everything is read anew. Routes to
        what is no longer covered are no longer ours and stay, so a daemon whose network changes lets go of the old one
        only when they are gone.

        `left`: of routes to there that flannel may have made out of others' links (host-gw), which ones it did."""
        self._mirror.shared, self._mirror.left = shared, left
        self._mirror.doubtful = True
        self._tell()

    async def read(self, full: bool = False) -> Reading:
        """Everything of ours: from the mirror, unless `full` or a doubt asks for dumps. Raises TargetError."""
        mirror = self._mirror
        await self._file_written()
        self._listen()
        everything = full or mirror.doubtful
        if everything:
            await self._read_everything()
        changed = self._sysctls.read(mirror.objects, None if everything else mirror.touched)
        touched = None if everything else frozenset(mirror.touched | mirror.refusals.due | changed)
        mirror.touched.clear()
        if not everything:
            mirror.refusals.due.clear()
        elif mirror.refusals.due or mirror.doubtful:  # what is worth another attempt, the next reading says
            asyncio.get_running_loop().call_soon(self._tell)
        return Reading(mirror.objects, mirror.foreign, touched)

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Carry out ops in this order, in batches of one kind on one device; the event loop runs between full batches.
        One answer each. Raises TargetError if this is the first call and the kernel can't be read."""
        if self._heard is None:
            await self.read()
        results: list[Failure | None] = []
        paused = 0
        self._busy = True
        try:
            if self._mirror.shared is not None:
                self._listen()  # the link that a route is to go out of may be another target's work of a moment ago
            while len(results) < len(ops):
                if ops[len(results)].action != "add":
                    await self._file_written()  # what is changed or removed is looked for among the objects
                self._mirror.begin_writing()
                results += self._some(ops, len(results))
                if self._mirror.expected >= ECHOES:
                    self._listen()
                if len(results) - paused >= BATCH:  # a peer's four objects are there in a third of a millisecond
                    paused = len(results)
                    await asyncio.sleep(0)
        finally:
            self._busy = False
            self._file_some()  # the last reading's objects are live
        if self._mirror.removing:
            await self._file_written()
            self._mirror.check_hops()
        self._set_filter()
        self._tell()  # what others did meanwhile was heard here, so no notification is left to wake anybody
        return results

    def lines(self, ops: Sequence[Op]) -> list[str]:
        return commands.script(ops)

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` on the running event loop when the kernel tells of a change that isn't ours."""
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._listener.fileno(), self._on_notification)

    def close(self) -> None:
        """Stop listening and close the sockets; what was applied stays."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._listener.fileno())
        self._wake = self._loop = None
        self._requests.close()
        self._listener.close()

    async def _file_written(self) -> None:
        """File what was written, and let the event loop run in between."""
        while self._mirror.unfiled:
            self._mirror.file_written(SLICE)
            await asyncio.sleep(0)

    def _file_some(self) -> None:
        """The same without waiting for it: a slice in each turn of the event loop from the next one on."""
        if self._mirror.unfiled:
            asyncio.get_running_loop().call_soon(self._file_slice)

    def _file_slice(self) -> None:
        self._mirror.file_written(SLICE)
        self._file_some()

    def _some(self, ops: Sequence[Op], start: int) -> list[Failure | None]:
        """Carry out the op at `start`, and as many behind it as one batch takes."""
        op = ops[start]
        thing = op.object
        if isinstance(thing, Sysctl):
            return [self._sysctls.apply(op, thing, self._mirror.objects)]
        if isinstance(thing, Link):
            return [self._apply_link(op, thing)]
        if type(thing) not in ENCODERS:
            return [Failure(f"{op.action} {thing.key}: the kernel target doesn't take a {type(thing).__name__}")]
        end = start + run_length(ops, start, BATCH)
        return Batch(self._requests, self._mirror, ops[start:end]).apply()

    def _apply_link(self, op: Op, link: Link) -> Failure | None:
        try:
            failure = self._devices.apply(op, link)
            self._listen()
            self._devices.settle()
        except (KernelError, NetlinkDecodeError) as error:
            self._mirror.doubtful = True
            return Failure(str(error))
        except UNENCODABLE as error:
            return unencodable(op, error)
        self._set_filter()
        return failure

    async def _read_everything(self) -> None:
        """Fill the mirror. The listener's queue is emptied first: what is told from here on comes after the dumps, or
        is in them already."""
        self._busy = True
        self._mirror.doubtful = True
        asked = self._asked()
        try:
            self._discard()
            await fill(self._netns, self._mirror)
            if self._heard is not None and not self._heard[0].issuperset(self._mirror.names):
                self._set_filter()  # links that were not listened to: read again, now that they are
                await fill(self._netns, self._mirror)
            self._set_filter()
        except (NetlinkDecodeError, OSError) as error:
            raise TargetError(f"the kernel's tables can't be read: {error}") from error
        finally:
            self._busy = False
        self._mirror.doubtful = self._asked() != asked
        self._mirror.touched.clear()
        self._mirror.caught_up()

    def _asked(self) -> tuple[object, ...]:
        """What ours is told by."""
        return self._mirror.shared, self._mirror.left, self._mirror.vteps, self._mirror.claimed

    def _set_filter(self) -> None:
        """Hear the neighbours and FDB entries of our links, and of no others; and as long as another's route is in the
        way of one of ours, when any goes."""
        heard = frozenset(self._mirror.names), self._mirror.refusals.conflicting
        if heard != self._heard:
            ours, deletions = heard
            self._listener.attach_filter(*listening_filter(self._requests.port, sorted(ours), deletions))
            self._heard = heard

    def _on_notification(self) -> None:
        if self._busy or self._mirror.unfiled:
            return  # read() or apply() is under way and listens itself; or it is heard once what we wrote is filed
        self._listen()
        self._tell()

    def _tell(self) -> None:
        mirror = self._mirror
        if self._wake is not None and (mirror.touched or mirror.refusals.due or mirror.doubtful):
            self._wake()

    def _listen(self) -> None:
        """Follow every notification that there is. Lost ones make the mirror doubtful."""
        is_echo = self._mirror.is_echo
        for received in self._waiting():
            if not is_echo(received):
                self._hear(received)
        self._mirror.caught_up()

    def _hear(self, received: bytes) -> None:
        try:
            for message in messages(received):
                hear(self._mirror, message)
        except NetlinkDecodeError:
            self._mirror.doubtful = True

    def _waiting(self) -> Iterator[bytes]:
        while True:
            try:
                yield from self._listener.waiting()
            except KernelError as error:
                if error.number != errno.ENOBUFS:
                    raise
                self._mirror.doubtful = True
            else:
                return

    def _discard(self) -> None:
        for _ in self._waiting():
            continue
