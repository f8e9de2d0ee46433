"""Keeps this node's records in DNS: looks at what stands there, asks `dns_claim.Registration`, and sends the update.
Used by `discovery/dns.py`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from weft.discovery.dns_claim import Change, Conflict, Names, Registration, Standing
from weft.discovery.dns_client import Answer, Client
from weft.discovery.dns_options import DnsSettings
from weft.errors import DiscoveryError
from weft.model import IPAddress, Node
from weft.wire.dns import Name, RecordType, Srv, fields, folded, is_entry, name_text

ATTEMPTS = 4
"""An update fails if another host changed the stack's records since we looked: look again, so often."""
NOBODY = b"weft-looks-for-wildcards"
"""A label that nobody has."""


class Registrar:
    """One start's registration. `epoch`: milliseconds since 1970 at that start."""

    def __init__(self, client: Client, settings: DnsSettings, domain: Name, epoch: int) -> None:
        self._client = client
        self._settings = settings
        self._domain = domain
        self._claim = Registration(settings, epoch)
        self._zone: Name | None = None
        self._held: Node | None = None
        """What may stand in DNS of this start's."""

    async def register(self, me: Node, now: float, wall: float) -> Conflict | None:
        """Put `me` there, or refresh it. DiscoveryError if that can't be done now, WireError if nobody would believe
        `me`."""
        names = Names.of(me, self._domain)
        if self._held is not None and Names.of(self._held, self._domain) != names:
            await self.withdraw()
        try:
            return await self._write(me, names, now, wall)
        except DiscoveryError:
            self._claim.interrupted()
            self._zone = None  # another server may have it, or another zone begins there by now
            raise

    @property
    def lost(self) -> bool:
        """Our records had vanished when they were refreshed last."""
        return self._claim.lost

    async def _write(self, me: Node, names: Names, now: float, wall: float) -> Conflict | None:
        for _ in range(ATTEMPTS):
            verdict = self._claim.claim(me, names, await self._standing(names), now, wall)
            if isinstance(verdict, Conflict):
                return verdict
            self._held = me
            if await self._update(verdict):
                self._claim.written = True
                return None
        raise DiscoveryError(
            f"the records at {name_text(names.stack)} changed {ATTEMPTS} times while this host looked at them, or the "
            f"servers in DNS_SERVER don't have the same ones: name the primary first"
        )

    async def withdraw(self) -> None:
        """Take out what this start put there, and nothing else. DiscoveryError if that can't be done."""
        if self._held is None:
            return
        names = Names.of(self._held, self._domain)
        for _ in range(ATTEMPTS):
            change = self._claim.withdrawal(self._held, names, await self._standing(names))
            if change is None or await self._update(change):
                self._held = None
                self._claim.written = False
                return

    async def _really(self, name: Name, rtype: RecordType) -> Answer:
        """What stands at the name itself: what any other name there has as well comes from a wildcard (RFC 4592), which
        is nobody's claim, and which a prerequisite does not see."""
        answer = await self._client.ask(name, rtype)
        if not (answer.records or answer.alias) or self._is_mine(answer):
            return answer
        other = await self._client.ask((NOBODY, *name[1:]), rtype)
        same = {record.value for record in other.records} == {record.value for record in answer.records}
        return replace(answer, records=(), alias=False) if same and other.alias == answer.alias else answer

    def _is_mine(self, answer: Answer) -> bool:
        """As it is mostly: there is nothing to find out."""
        mine = self._held.endpoints if self._held is not None and self._claim.written else ()
        return all(
            record.value in mine or (isinstance(record.value, tuple) and is_entry(fields(record.value)))
            for record in answer.records
        )

    async def _update(self, change: Change) -> bool:
        if self._zone is None:
            self._zone = await self._client.zone_of((*change.expected[0].name,))
        return await self._client.update(self._zone, change, self._settings.ttl)

    async def _standing(self, names: Names) -> Standing:
        txt, srv, a, aaaa = await asyncio.gather(
            self._really(names.stack, "TXT"),
            self._client.ask(names.service, "SRV"),
            self._really(names.host, "A"),
            self._really(names.host, "AAAA"),
        )
        records = [record.value for record in srv.records if isinstance(record.value, Srv)]
        addresses: set[IPAddress] = set()
        for record in (*a.records, *aaaa.records):
            if not isinstance(record.value, (tuple, Srv)):
                addresses.add(record.value)
        return Standing(
            txt=frozenset(record.value for record in txt.records if isinstance(record.value, tuple)),
            srv=frozenset(replace(one, target=names.host) for one in records if folded(one.target) == names.host),
            addresses=frozenset(addresses),
            alias=a.alias or aaaa.alias,
        )
