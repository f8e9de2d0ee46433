"""What `weft flanneld` knows: this host's facts, the leases in etcd, who is directly reachable; and the View of them.

The counterpart of `world.py` for daemons whose peers are flannel's leases. Each source replaces its set here and wakes
the loop (`agent/loop.py`), which asks for a View; `daemons/flanneld.py` wires it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from weft.agent.broken import Broken
from weft.agent.unseen import Unseen
from weft.backends.tunnel import no_ipv6
from weft.core import flannel
from weft.core.acceptance import Accepted, Policy, accept
from weft.core.flannel import Home, Options, Version, Versions
from weft.core.interface import Choice, External, pick
from weft.core.roster import Roster
from weft.core.tenancy import Candidate, Tenancy
from weft.model import Host, IPAddress, IPNetwork, Known, Mac, Network, Node, Problem, TextFile, View
from weft.wire.flannel import (
    NAMES,
    Backend,
    BackendData,
    Config,
    ExtensionBackend,
    Lease,
    Vtep,
    VxlanBackend,
    WireguardBackend,
    WireguardPeer,
)
from weft.wire.subnet_env import SubnetEnv, subnet_env, subnet_env_of


@dataclass(slots=True)
class FlannelWorld(Broken, Unseen):
    """`host`, `tenancy` are None until their source has spoken. `direct`: addresses on this host's segments → the
    interface to each, as far as the ways to the addresses in `answered` are known. `choice`: asks which interface is
    wanted, by the IP versions of the overlay. `chains`, `refused`: see `World`. `published`: asks for the lease that
    etcd has for this host already. `previous`: what subnet.env said at the start. `prepared`: what the backend has to
    publish, where something had to be started or read for it: a WireGuard key, what an extension's command printed.
    `former`: devices of a former run's backend."""

    options: Options
    choice: Callable[[tuple[Version, ...]], Choice]
    published: Callable[[Candidate], Lease | None]
    previous: SubnetEnv = field(default_factory=SubnetEnv)
    chains: Callable[[], frozenset[tuple[int, str, str]]] = frozenset
    refused: Callable[[], tuple[tuple[int, str], ...]] = tuple
    host: Host | None = None
    tenancy: Tenancy | None = None
    direct: Mapping[IPAddress, str] = field(default_factory=dict)
    answered: frozenset[IPAddress] = frozenset()
    macs: dict[Version, Mac] = field(default_factory=dict)
    prepared: BackendData | None = None
    former: frozenset[str] = frozenset()
    _asked: tuple[tuple[Lease, ...], frozenset[IPAddress]] = ((), frozenset())
    _ends: tuple[tuple[Lease, ...], frozenset[tuple[object, object]]] = ((), frozenset())
    _accepted: dict[Versions, Accepted] = field(default_factory=dict)
    _rosters: dict[Versions, Roster] = field(default_factory=dict)
    _external: External | None = None

    @property
    def config(self) -> Config | None:
        return self.tenancy.config if self.tenancy is not None else None

    def external(self) -> External | None:
        """The interface that tunnels use; None while the host or the config is unknown, or no interface fits."""
        if self.host is None or self.config is None:
            return None
        try:
            found = pick(self.host, self.choice(flannel.versions(self.config)), self._external)
        except ValueError as error:
            self.report("interface", str(error))
            return None
        self.report("interface", "")
        self._external = found
        return found

    def candidate(self) -> Candidate | None:
        """What this host's lease is to say; None while that is unknown."""
        config, external = self.config, self.external()
        if config is None or external is None:
            return None
        name = NAMES[type(config.backend)]
        plain = Candidate(
            public_ip=external.public_ip,
            public_ip6=external.public_ip6,
            backend="" if name == "alloc" else name,
            previous=self.previous.subnet,
            previous6=self.previous.subnet6,
        )
        if isinstance(config.backend, WireguardBackend | ExtensionBackend):
            return self._published_by(config.backend, plain) if self.prepared is not None else None
        if not isinstance(config.backend, VxlanBackend):
            return plain
        vteps = {v: Vtep(config.backend.vni, self._mac(config, plain, v)) for v in flannel.versions(config)}
        return replace(plain, data=vteps.get(4), data6=vteps.get(6))

    def _published_by(self, backend: Backend, plain: Candidate) -> Candidate:
        """With one device for each IP version, each listens on a port of its own."""
        data = data6 = self.prepared
        if isinstance(backend, WireguardBackend) and isinstance(data, WireguardPeer):
            data = WireguardPeer(data.key, backend.listen_port)
            data6 = WireguardPeer(data.key, backend.listen_port_v6 if backend.mode == "separate" else data.port)
        return replace(
            plain,
            data=data if plain.public_ip is not None else None,
            data6=data6 if plain.public_ip6 is not None else None,
        )

    def _mac(self, config: Config, plain: Candidate, version: Version) -> Mac:
        """What the lease tells already, so that nothing changes for the others. Once chosen it stays: the device is
        known by it."""
        known = self.macs.get(version)
        if known is None:
            lease = self.published(plain)
            told = None if lease is None else lease.data if version == 4 else lease.data6
            if isinstance(told, Vtep) and any(told.mac) and not told.mac[0] & 1:
                known = told.mac
            else:
                public: IPAddress | None = plain.public_ip if version == 4 else plain.public_ip6
                known = flannel.own_mac(config, self.options, public)
            self.macs[version] = known
        return known

    def view(self) -> View | None:
        """What to plan from; None as long as this host has no lease."""
        external = self.external()
        if self.host is None or self.tenancy is None or external is None:
            return None
        config, lease = self.tenancy.config, self.tenancy.mine
        if config is None or lease is None:
            return None
        key = self.prepared.key if isinstance(self.prepared, WireguardPeer) else ""
        home = Home(external, lease, self.macs, key)
        views = [self._overlay(config, home, of) for of in flannel.overlays(config)]
        host = replace(self.host, chains=self.chains(), refused=self.refused())
        present = [view for view in views if view is not None]
        if not present:
            return None
        asked = self.asked()
        synced = self.tenancy.complete and (asked is self.answered or asked <= self.answered)
        return flannel.together(present, host, (self._env(config, home),), synced)

    def _overlay(self, config: Config, home: Home, of: Versions) -> View | None:
        if self.host is None or self.tenancy is None:
            return None
        me = flannel.me(config, home, of)
        asked = 6 in of and of not in self._accepted  # a device that stands isn't taken away for what a new one lacks
        lacking = no_ipv6(self.host, flannel.mtu(config, home.external)) if asked else ""
        if 6 in of:
            self.report("ipv6", lacking)
        if lacking and of == (6,):
            return None
        profile = flannel.profile(config, self.options, of, home.key)
        claims = self._roster(self.tenancy, config, of).claims.made
        policy = Policy(me, profile.underlay, profile.span, me.networks, self.host.uplinks, lacking)
        self._accepted[of] = accept(claims, policy, self._accepted.get(of))
        return View(me=me, networks=me.networks, nodes=self._accepted[of].nodes, profile=profile)

    def _roster(self, tenancy: Tenancy, config: Config, of: Versions) -> Roster:
        before = self._rosters.get(of, Roster())
        self._rosters[of] = before.after(tenancy.others, config, of, self.direct)
        return self._rosters[of]

    def _env(self, config: Config, home: Home) -> TextFile:
        env = subnet_env_of(config, home.lease, flannel.mtu(config, home.external), self.options.masquerade)
        return TextFile(self.options.subnet_file, subnet_env(env))

    def problems(self) -> Iterator[Problem]:
        """Everything that a person should know."""
        yield from self.broken.values()
        if self.tenancy is not None:
            yield from self.tenancy.problems
        for accepted in self._accepted.values():
            yield from accepted.problems
        asks = bool(self.asked())
        for roster in self._rosters.values():
            for one, problem in roster.faults.made:
                if not asks or one.endpoints[0] in self.answered:
                    yield problem

    def waiting(self) -> list[str]:
        """Sources that have not vouched for their set yet."""
        waiting = ["host"] if self.host is None else []
        tenancy = self.tenancy
        waiting.extend(["leases"] if tenancy is None or not tenancy.complete else [])
        waiting.extend(["config"] if tenancy is not None and tenancy.config is None else [])
        if self.config is not None and isinstance(self.config.backend, WireguardBackend | ExtensionBackend):
            waiting.extend(["backend"] if self.prepared is None else [])
        waiting.extend(["lease"] if tenancy is None or tenancy.mine is None else [])
        return waiting

    # What the daemon's targets and sources ask of it.

    def labels(self) -> frozenset[str]:
        """Names of this daemon's devices, and what stands for them in the firewall's chains where there are none: also
        while there are some, for a former run's backend may have been another one."""
        config = self.config
        if config is None:
            return frozenset()
        names = (flannel.device(config, of, self.options.prefix) for of in flannel.overlays(config))
        both = flannel.WIREGUARD_DEVICES if isinstance(config.backend, WireguardBackend) else ()
        return frozenset((*names, *both, *self.former, *flannel.stand_ins(self.options.prefix)))

    def devices(self) -> Mapping[str, Mac]:
        """The VTEPs' MACs, by device, by which a device of ours is known that another daemon made."""
        config = self.config
        if config is None or not isinstance(config.backend, VxlanBackend):
            return {}
        return {flannel.device(config, (version,), self.options.prefix): mac for version, mac in self.macs.items()}

    def spans(self) -> tuple[IPNetwork, ...]:
        """The networks that leases are taken from, and those of a former run, whose routes must go."""
        config, former = self.config, (self.previous.network, self.previous.network6)
        pools = (config.ipv4, config.ipv6) if config is not None else ()
        now = (pool.network for pool in pools if pool is not None)
        return tuple(dict.fromkeys((*now, *(network for network in former if network is not None))))

    def asked(self) -> frozenset[IPAddress]:
        """Endpoints of which the ways are to be found out: where the backend may do without a tunnel."""
        if self.config is None or self.tenancy is None or not flannel.wants_ways(self.config):
            return frozenset()
        leases = self.tenancy.others
        if self._asked[0] is not leases:
            addresses = (a for lease in leases for a in (lease.public_ip, lease.public_ip6) if a is not None)
            self._asked = (leases, frozenset(addresses))
        return self._asked[1]

    def is_lease(self, subnet: IPNetwork, via: IPAddress | None) -> bool:
        """Whether this is what flannel's host-gw would route: another host's lease, by its public address. Only where
        the backend makes such routes itself: with another one, an extension's script or an administrator made it."""
        if self.config is None or not flannel.wants_ways(self.config):
            return False
        leases = self.tenancy.others if self.tenancy is not None else ()
        if self._ends[0] is not leases:
            both = ((lease.subnet, lease.public_ip, lease.subnet6, lease.public_ip6) for lease in leases)
            self._ends = (leases, frozenset(end for s4, a4, s6, a6 in both for end in ((s4, a4), (s6, a6))))
        return (subnet, via) in self._ends[1]

    # What `web/api.py` shows of it.

    @property
    def device(self) -> str:
        """The first overlay's device."""
        config = self.config
        return flannel.device(config, flannel.overlays(config)[0], self.options.prefix) if config is not None else ""

    @property
    def name(self) -> str:
        """This host's id: its lease."""
        mine = self.tenancy.mine if self.tenancy is not None else None
        return str(mine.subnet or mine.subnet6) if mine is not None else ""

    @property
    def peers(self) -> Known[Node] | None:
        """The other leases."""
        if self.tenancy is None or self.config is None:
            return None
        of = flannel.overlays(self.config)[0]
        return Known(self._roster(self.tenancy, self.config, of).nodes.made, self.tenancy.complete)

    @property
    def engine(self) -> Known[Network] | None:
        """This host's own subnet."""
        mine = self.tenancy.mine if self.tenancy is not None else None
        if mine is None:
            return None
        subnets = tuple(subnet for subnet in (mine.subnet, mine.subnet6) if subnet is not None)
        return Known((Network("lease", subnets),), True)
