"""WireGuard devices and their peers as a target. Run by the reconciler; keys, subprocesses: `wireguard_tools.py`.

A device is the kernel's where that has WireGuard, else wireguard-go's: a process that we start and that outlives us, so
that a restart of ours, or our end, takes nothing away. Nobody has to watch over that process: the device goes when it
ends, the kernel tells of that, and the next cycle makes both anew. (Under systemd its unit must say KillMode=process,
else systemd ends it with us.)

What was read is kept until the kernel tells of a change of a device; changes of peers are told by nobody, so a full
reading finds them.

A peer's endpoint is ours to say only as long as nothing better is known. WireGuard follows a peer that moves, to
wherever its last authentic packet came from: while handshakes are fresh, that is right, whatever its lease says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from weft.core.wireguard import conf, typed
from weft.errors import KernelError, NetlinkDecodeError, TargetError
from weft.model import IPNetwork
from weft.objects import Failure, Key, Object, Op
from weft.objects.wireguard import WireguardDevice, WireguardPeer
from weft.targets import Reading
from weft.targets.kernel.codec import messages
from weft.targets.kernel.constants import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_LINK,
)
from weft.targets.kernel.links import decode_address, decode_link
from weft.targets.kernel.socket import NetlinkSocket
from weft.targets.wireguard_devices import KINDS, Devices
from weft.targets.wireguard_tools import HostKey, ToolError, Tools

log = logging.getLogger("weft")

BATCH = 500
"""Peers to one process of wg's."""
FRESH = 180.0
"""Seconds after which a session is dead without a new handshake (WireGuard's paper, REJECT_AFTER_TIME)."""
LISTEN_BUFFER = 1 << 20


class WireguardTarget:
    """`owner`: the ifalias of our devices, `weft:<role>:<node>`; `key`: this host's; `names`: of the devices that may
    be ours, no other is looked at. `netns`: path of a network namespace, None for the current one. Raises TargetError
    if that can't be entered."""

    def __init__(self, owner: str, key: HostKey, names: Iterable[str], netns: str | None = None) -> None:
        self._owner = owner
        self._key = key
        self._names = tuple(sorted(set(names)))
        self._netns = netns
        try:
            self._tools = Tools(netns)
        except OSError as error:
            raise TargetError(f"network namespace {netns} can't be entered: {error.strerror}") from error
        self._devices = Devices(owner, key, self._tools)
        self._objects: dict[Key, Object] = {}
        self._foreign: dict[Key, str] = {}
        self._indexes: dict[int, str] = {}
        self._asked: dict[Key, WireguardPeer] = {}
        """Peers as they were asked for in this run."""
        self._alive: dict[Key, float] = {}
        """When each peer's last handshake was, as of the last reading."""
        self._owners: dict[str, dict[IPNetwork, Key]] = {}
        """By device: which peer had an address last. Filled when it is needed first."""
        self._touched: set[Key] = set()
        self._stale = True
        self._surveyed = False
        self._read_once = False
        self._busy = False
        self._listener: NetlinkSocket | None = None
        self._wake: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def name(self) -> str:
        return "wireguard"

    @property
    def kinds(self) -> tuple[type[Object], ...]:
        return (WireguardDevice, WireguardPeer)

    async def read(self, full: bool = False) -> Reading:
        """Our devices and all their peers: anew if `full` or if the kernel told of a change. Raises TargetError."""
        everything = full or not self._read_once
        if everything or self._stale:
            before, foreign = self._objects, self._foreign
            await self._survey()
            self._touched |= {key for key in before | self._objects if before.get(key) != self._objects.get(key)}
            self._touched |= foreign.keys() ^ self._foreign.keys()
        self._read_once = True
        touched, self._touched = frozenset(self._touched), set()
        return Reading(self._objects, self._foreign, None if everything else touched)

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Carry out ops in this order, peers of one device in batches; one answer each. Raises TargetError if this is
        the first call and the devices can't be read."""
        answers: list[Failure | None] = []
        self._busy = True
        try:
            if not self._surveyed:
                await self._survey()
            for kind, run in groupby(ops, _run_of):
                batch = list(run)
                if kind is None:
                    answers += [await self._apply_device(op) for op in batch]
                    continue
                for part in (batch[at : at + BATCH] for at in range(0, len(batch), BATCH)):
                    answers += await self._apply_peers(kind[0], part)
        finally:
            self._busy = False
        if self._listener is not None:
            self._hear()
        return answers

    def lines(self, ops: Sequence[Op]) -> list[str]:
        return [line for op in ops for line in typed(op, self._key.path)]

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` on the running event loop when one of our devices comes, goes or changes. Where that can't be
        listened to, it is logged: the timer finds changes."""
        self._wake = wake
        if self._listener is not None:
            return
        try:
            groups = (RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR)
            self._listener = NetlinkSocket(self._netns, LISTEN_BUFFER, groups)
        except (OSError, TargetError) as error:
            log.warning("changes of WireGuard devices can't be heard of (%s): the timer will find them", error)
            return
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._listener.fileno(), self._on_notification)
        self._stale = True  # what changed before is heard by nobody

    def close(self) -> None:
        """Stop listening; devices, peers and wireguard-go stay."""
        if self._listener is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        self._listener = self._wake = self._loop = None

    # ---- reading ----

    async def _survey(self) -> None:
        """Look at each name. What is heard while this goes on counts for the next reading."""
        self._stale = False
        objects: dict[Key, Object] = {}
        foreign: dict[Key, str] = {}
        indexes: dict[int, str] = {}
        alive: dict[Key, float] = {}
        try:
            for name in self._names:
                link = await self._tools.link(name)
                if link is None:
                    continue
                indexes[link.index] = name
                dump = await self._tools.dump(name) if link.kind in KINDS else None
                device = self._devices.recognised(name, link, dump)
                if isinstance(device, str):
                    foreign["wireguard", name] = device
                    continue
                objects[device.key] = device
                for peer in dump.peers if dump is not None else ():
                    alive[peer.key] = dump.handshakes[peer.public_key] if dump is not None else 0
                    objects[peer.key] = self._followed(peer, alive[peer.key])
        except TargetError:
            self._stale = True
            raise
        self._objects, self._foreign, self._indexes, self._alive = objects, foreign, indexes, alive
        self._asked = {key: peer for key, peer in self._asked.items() if key in objects}
        self._owners.clear()
        self._surveyed = True

    def _followed(self, peer: WireguardPeer, handshake: float) -> WireguardPeer:
        """A peer whose session is alive, or that was to come to us, is where it is to be."""
        asked = self._asked.get(peer.key)
        if asked is None or asked.endpoint == peer.endpoint:
            return peer
        if asked.endpoint is not None and not _is_fresh(handshake):
            return peer
        return _with_endpoint_of(asked, peer)

    # ---- changing ----

    async def _apply_device(self, op: Op) -> Failure | None:
        device = op.object
        if not isinstance(device, WireguardDevice):
            raise TypeError(f"a WireGuard target takes devices and peers, not a {type(device).__name__}")
        foreign = self._foreign.get(device.key)
        if foreign is not None and op.action != "remove":
            return Failure(f"{op.action} {device.name}: {foreign} has this name; it was left alone", conflict=True)
        if device.name not in self._names:
            return Failure(f"{op.action} {device.name}: it is not among the devices that were named; it was left alone")
        now = self._objects.get(device.key)
        try:
            if op.action == "remove":
                if now is not None:
                    await self._tools.delete_link(device.name)
            elif await self._devices.bring_about(device, now if isinstance(now, WireguardDevice) else None):
                self._forget_peers(device.name)
        except TargetError as error:
            self._stale = True
            return Failure(f"{op.action} {device.name}: {error}")
        if op.action == "remove":
            self._objects.pop(device.key, None)
            self._forget_peers(device.name)
        else:
            self._stale = self._stale or now is None  # its index is not known yet
            self._objects[device.key] = device
        return None

    async def _apply_peers(self, dev: str, ops: Sequence[Op]) -> list[Failure | None]:
        """One process for all; if it fails, halves, so that one bad peer among many costs a handful of processes."""
        if ("wireguard", dev) not in self._objects:
            missing = Failure(f"{ops[0].action} peer of {dev}: there is no such device of ours")
            return [None if ops[0].action == "remove" else missing] * len(ops)
        try:
            await self._change(dev, ops)
        except ToolError as error:
            self._stale = True
            if len(ops) > 1 and await self._still_there(dev):
                half = len(ops) // 2
                return [*await self._apply_peers(dev, ops[:half]), *await self._apply_peers(dev, ops[half:])]
            return [Failure(f"{op.action} peer {_peer(op).public_key} of {dev}: {error}") for op in ops]
        self._file(dev, ops)
        return [None] * len(ops)

    async def _change(self, dev: str, ops: Sequence[Op]) -> None:
        if ops[0].action == "remove":
            await self._tools.set(dev, [word for op in ops for word in ("peer", _peer(op).public_key, "remove")])
        else:
            peers = [_peer(op) for op in ops]
            proven = frozenset(peer.public_key for peer in peers if self._is_proven(peer))
            new = frozenset(_peer(op).public_key for op in ops if op.action == "add")
            await self._tools.add_peers(dev, conf(peers, proven, new))

    def _is_proven(self, peer: WireguardPeer) -> bool:
        """An earlier run's peer, seen for the first time and alive: its endpoint may be better than what we know."""
        old = self._objects.get(peer.key)
        return old is not None and peer.key not in self._asked and _is_fresh(self._alive.get(peer.key, 0))

    async def _still_there(self, dev: str) -> bool:
        try:
            return await self._tools.dump(dev) is not None
        except ToolError:
            return False

    def _file(self, dev: str, ops: Sequence[Op]) -> None:
        """What was carried out. An address that one peer is given is taken from the one that had it, by WireGuard."""
        if ops[0].action == "remove":
            for op in ops:
                self._objects.pop(op.object.key, None)
                self._asked.pop(op.object.key, None)
            return
        owners = self._owners.get(dev)
        if owners is None:
            owners = self._owners[dev] = {net: peer.key for peer in self._peers(dev) for net in peer.allowed_ips}
        for op in ops:
            peer = _peer(op)
            for network in peer.allowed_ips:
                loser = owners.get(network, peer.key)
                if loser != peer.key:
                    self._take(loser, network)
                owners[network] = peer.key
            self._objects[peer.key] = self._asked[peer.key] = peer

    def _take(self, key: Key, network: IPNetwork) -> None:
        loser = self._objects.get(key)
        if isinstance(loser, WireguardPeer) and network in loser.allowed_ips:
            left = tuple(n for n in loser.allowed_ips if n != network)
            self._objects[key] = WireguardPeer(
                loser.dev, loser.public_key, loser.endpoint, left, loser.keepalive, loser.psk
            )
            self._touched.add(key)

    def _peers(self, dev: str) -> Iterator[WireguardPeer]:
        return (thing for thing in self._objects.values() if isinstance(thing, WireguardPeer) and thing.dev == dev)

    def _forget_peers(self, dev: str) -> None:
        for peer in list(self._peers(dev)):
            del self._objects[peer.key]
            self._asked.pop(peer.key, None)
        self._owners.pop(dev, None)

    # ---- listening ----

    def _on_notification(self) -> None:
        if not self._busy:  # apply() listens itself, once what it did is filed
            self._hear()

    def _hear(self) -> None:
        """Look at everything that was told; wake the loop if it is of ours and not what we know."""
        if self._listener is None:
            return
        try:
            news = [self._is_news(received) for received in self._listener.waiting()]
            told = any(news)
        except (KernelError, NetlinkDecodeError):
            told = True  # some of it was lost
        if told:
            self._stale = True
        if told and self._wake is not None:
            self._wake()

    def _is_news(self, received: bytes) -> bool:
        for message in messages(received):
            if message.kind in (RTM_NEWLINK, RTM_DELLINK):
                link = decode_link(message)
                if link.name not in self._names and link.ifindex not in self._indexes:
                    continue
                now = self._objects.get(("wireguard", link.name))
                if message.kind == RTM_DELLINK or not isinstance(now, WireguardDevice):
                    return True
                if (now.mtu, now.up, now.alias) != (link.mtu, link.up, link.alias):
                    return True
            elif message.kind in (RTM_NEWADDR, RTM_DELADDR):
                state = decode_address(message)
                now = self._objects.get(("wireguard", self._indexes.get(state.ifindex, "")))
                known = isinstance(now, WireguardDevice) and state.address in now.addresses
                if isinstance(now, WireguardDevice) and known != (message.kind == RTM_NEWADDR):
                    return not state.address.ip.is_link_local
        return False


def _run_of(op: Op) -> tuple[str, bool] | None:
    """Ops with the same answer can be carried out together: peers of one device, all to be removed or none."""
    thing = op.object
    return (thing.dev, op.action == "remove") if isinstance(thing, WireguardPeer) else None


def _peer(op: Op) -> WireguardPeer:
    if not isinstance(op.object, WireguardPeer):
        raise TypeError(f"a WireGuard target takes devices and peers, not a {type(op.object).__name__}")
    return op.object


def _with_endpoint_of(asked: WireguardPeer, peer: WireguardPeer) -> WireguardPeer:
    return WireguardPeer(peer.dev, peer.public_key, asked.endpoint, peer.allowed_ips, peer.keepalive, peer.psk)


def _is_fresh(handshake: float) -> bool:
    return time.time() - handshake < FRESH
