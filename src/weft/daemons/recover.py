"""`weft recover`: the deep recovery that a person asks for (`systemctl start flannel-recovery.service`).

First everything is looked at, and said; then the ladder (`core/ladder.py`), one rung after the other, only as far as
needed, with a look after each. What was tried is shared with the running registrar. Called by `cli/recover.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from weft.agent.attempts import FILE, Attempts
from weft.agent.healing import Healer, Means
from weft.agent.lease_book import Reader, config_of
from weft.core import flannel
from weft.core.ladder import LadderOptions, Step, Symptoms, decide
from weft.core.registrar import ROLE
from weft.core.stale import Wanted, reason, relayed
from weft.daemons import registrar
from weft.daemons.boot import flannel_container
from weft.daemons.process import claimed
from weft.daemons.registrar import etcd_options
from weft.errors import StoreError, TargetError, WeftError, WireError
from weft.model import Host, IPAddress, IPNetwork, Mac
from weft.settings.registrar import RegistrarSettings
from weft.stores.etcd import EtcdStore
from weft.targets.kernel.borrowed import is_up, read_entries
from weft.targets.kernel.host import read_host
from weft.wire.flannel import Lease, Vtep
from weft.wire.flannel_config import parse_config

PING = 1.0
"""Seconds for all hosts to answer a ping; each gets two."""
MOST_STEPS = 6
Ping = Callable[[Iterable[IPAddress], float], Awaitable[frozenset[IPAddress]]]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Orders:
    """`dry_run`: say what would be done. `now`: also what cools down, or has been tried too often. `restart`: as
    RESTART_FLANNEL. `wait`: seconds for the registrar's pass; `settle`: for a step to show its effect."""

    dry_run: bool = False
    now: bool = False
    restart: str = ""
    wait: float = 60.0
    settle: float = 3.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found. `good`, `bad`: sentences. `wanted`: what the leases ask of flannel's device. `symptoms`
    None: nothing can be said about the device (no etcd, no flannel)."""

    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    wanted: Wanted = field(default_factory=lambda: Wanted(""))
    symptoms: Symptoms | None = None


class Recovery:
    """One run. `ping`: who of these answers within so many seconds."""

    def __init__(self, settings: RegistrarSettings, orders: Orders, ping: Ping, say: Say) -> None:
        self._settings = settings
        self._orders = orders
        self._ping = ping
        self._say = say
        means = Means(settings.docker_host, settings.flannel_container_name, orders.restart or settings.restart_flannel)
        self._healer = Healer(means, Attempts(Path(settings.run_dir) / FILE))
        self._options = LadderOptions(cycle=True, restart=means.words, patience=0.0, settle=0.0)
        if orders.now:
            zero = dict.fromkeys(self._options.cooldown, 0.0)
            self._options = replace(self._options, cooldown=zero, limit=dict.fromkeys(self._options.limit, 1000))

    async def run(self) -> int:
        """0: nothing is wrong any more. 1: something is, and was said."""
        seen = await self._look()
        self._tell(seen)
        _, forgotten = self._healer.history()
        if forgotten:
            self._say(f"! {forgotten}")
        passed = await self._pass()
        if not self._orders.dry_run:
            seen = await self._look()
        began = time.time()
        for _ in range(MOST_STEPS):
            step = self._next(seen, began)
            if step is None:
                break
            self._say(f"{'would' if self._orders.dry_run else 'now'}: {step.rung} {step.device}: {step.reason}")
            if self._orders.dry_run:
                break
            await self._take(step, seen.wanted)
            seen = await self._settled()
        if self._orders.dry_run:
            return int(bool(seen.bad))
        passed = passed or await self._pass()  # what stood in its way may be mended
        self._say("after that:")
        self._tell(seen)
        return int(bool(seen.bad) or not passed)

    def _tell(self, seen: Seen) -> None:
        for text in seen.good:
            self._say(f"ok   {text}")
        for text in seen.bad:
            self._say(f"BAD  {text}")

    # -- the rungs --------------------------------------------------------------------------------------------------

    async def _pass(self) -> bool:
        """One pass of the registrar: registrations and routes. A running one does that all the time."""
        if ROLE in claimed():
            self._say("ok   weft registrar runs here: it compares registrations and routes all the time")
            return True
        if self._orders.dry_run:
            self._say("would: weft registrar --once: registrations and routes as they should be")
            return True
        self._say("now: weft registrar --once: registrations and routes as they should be")
        try:
            code = await registrar.run(self._settings, self._orders.wait)
        except WeftError as error:
            self._say(f"BAD  weft registrar --once: {error}")
            return False
        if code:
            self._say("BAD  weft registrar --once could not do everything; its log lines say what")
        return code == 0

    def _next(self, seen: Seen, began: float) -> Step | None:
        if seen.symptoms is None:
            return None
        now = time.time()
        lost = dict.fromkeys(seen.symptoms.lost, min(began, now))
        history, _ = self._healer.history()
        decision = decide(replace(seen.symptoms, lost=lost), history, now, self._options)
        for problem in decision.held:
            self._say(f"held: {problem.message}" + ("" if decision.look is None else "; --now does it all the same"))
        return next(iter(decision.steps), None)

    async def _take(self, step: Step, wanted: Wanted) -> None:
        done = await self._healer.take(step, wanted)
        for line in done.lines:
            self._say(f"  {line}")
        for failure in done.failures:
            self._say(f"  BAD  {failure}")

    async def _settled(self) -> Seen:
        """What is seen as soon as everybody answers, at the latest after `settle` seconds."""
        deadline = time.monotonic() + self._orders.settle
        while True:
            seen = await self._look()
            if not seen.bad or time.monotonic() > deadline:
                return seen
            await asyncio.sleep(0.2)

    # -- looking ----------------------------------------------------------------------------------------------------

    async def _look(self) -> Seen:
        good: list[str] = []
        bad: list[str] = []
        stopped = ""
        if self._settings.engine == "docker":
            runs, text = await self._container()
            (good if runs else bad).append(text)
            stopped = "" if runs or not text.startswith("container") else text
        try:
            leases, device = await self._leases()
        except (WireError, StoreError) as error:
            return Seen(tuple(good), (*bad, f"flannel's leases can't be read: {error}"))
        good.append(f"etcd answers; {len(leases)} hosts have a lease of flannel's")
        if not device:
            return Seen(
                (*good, "flannel has no config in etcd or no VXLAN backend: its device is not looked at"), tuple(bad)
            )
        host = await read_host()
        return await self._tunnel(device, leases, host, Seen(tuple(good), tuple(bad)), stopped)

    async def _container(self) -> tuple[bool, str]:
        """Whether flannel's container runs, as a sentence; one that is absent may well be a service of the host."""
        found = await flannel_container(self._settings)
        if found.error:
            return False, f"Docker can't be asked about {found.name}: {found.error}"
        if found.state == "absent":
            return True, f"no container is called {found.name} (FLANNEL_CONTAINER_NAME); flannel may run without one"
        return found.state == "running", f"container {found.name} is {found.state}"

    async def _leases(self) -> tuple[list[Lease], str]:
        """One lease per host (of several keys the first is its flannel's own), and flannel's device, "" for none."""
        store = EtcdStore(etcd_options(self._settings))
        prefix = self._settings.flannel_prefix
        try:
            snapshot = await store.range(f"{prefix}/")
        finally:
            await store.close()
        entry = snapshot.entries.get(config_of(prefix))
        config = parse_config(entry.value) if entry is not None else None
        first: dict[IPAddress, Lease] = {}
        for held in Reader(prefix).book(snapshot).held:
            if held.lease.public_ip is not None and held.lease.subnet is not None:
                first.setdefault(held.lease.public_ip, held.lease)
        if config is None or config.ipv4 is None:
            return list(first.values()), ""
        device = flannel.device(config, (4,), prefix)
        return list(first.values()), device if device.startswith("flannel.") else ""

    async def _tunnel(self, device: str, leases: list[Lease], host: Host, seen: Seen, stopped: str) -> Seen:
        own = {address.ip for uplink in host.uplinks for address in uplink.addresses}
        if self._settings.flanneld_public_ip is not None:
            own.add(self._settings.flanneld_public_ip)  # behind NAT, a router's
        others = [lease for lease in leases if not _is_of(lease, own) and isinstance(lease.data, Vtep)]
        inner = {lease.subnet.network_address: lease for lease in others if lease.subnet is not None}
        outer = {lease.public_ip: lease for lease in others if lease.public_ip is not None}
        alive = await self._ping([*inner, *outer], PING)
        lost = frozenset(str(one.public_ip) for address, one in inner.items() if address not in alive)
        wanted = _wanted(device, others, frozenset(a for a in outer if str(a) in lost))
        try:
            ops = await self._healer.stale(wanted)
            routes = await asyncio.to_thread(read_entries, None, device)
            down = not is_up(None, device)
        except TargetError as error:
            text = f"flannel's device: {error}"
            symptoms = Symptoms(device, stopped=stopped or text)
            return Seen(seen.good, (*seen.bad, text), wanted, symptoms)
        wrong = tuple(map(reason, ops))
        reached = frozenset(map(str, outer)) - lost
        beside = frozenset(str(address) for address in outer if address in alive) & lost
        good = [f"{device}: {len(reached)} of {len(outer)} hosts answer through it"]
        owners: dict[IPAddress, str] = {address: str(one.public_ip) for address, one in inner.items()}
        through = relayed(device, {a: one.subnet for a, one in inner.items() if one.subnet is not None}, routes)
        relays = {owners[far]: owners[by] for far, by in through.items() if by in alive}
        good += [
            f"{name} does not answer through {device} itself; its networks are reached through {relays[name]}"
            for name in sorted(lost & relays.keys())
        ]
        silent = [
            f"{name} does not answer through {device}; beside it, it {'does' if name in beside else 'does not either'}"
            for name in sorted(lost - relays.keys())
        ]
        symptoms = Symptoms(device, reached, dict.fromkeys(lost, 0.0), beside, wrong, down, stopped=stopped)
        fallen = [f"{device} is set down"] if down else []
        return Seen((*seen.good, *good), (*seen.bad, *fallen, *silent, *wrong), wanted, symptoms)


def _is_of(lease: Lease, own: Set[IPAddress]) -> bool:
    """Whether a host with these addresses has it: flannel puts the lease's on its device."""
    return lease.public_ip in own or (lease.subnet is not None and lease.subnet.network_address in own)


def _wanted(device: str, others: list[Lease], lost: frozenset[IPAddress]) -> Wanted:
    fdb: dict[Mac, IPAddress] = {}
    neighbours: dict[IPAddress, Mac] = {}
    routes: dict[IPNetwork, IPAddress] = {}
    for lease in others:
        assert isinstance(lease.data, Vtep)
        assert lease.subnet is not None
        assert lease.public_ip is not None
        gateway = lease.subnet.network_address
        fdb[lease.data.mac], neighbours[gateway], routes[lease.subnet] = lease.public_ip, lease.data.mac, gateway
    return Wanted(device, fdb, neighbours, routes, lost)


async def recover(settings: RegistrarSettings, orders: Orders, ping: Ping, say: Say) -> int:
    """See Recovery. Raises TargetError if the kernel can't be read, WeftError if no ping may be sent."""
    return await Recovery(settings, orders, ping, say).run()
