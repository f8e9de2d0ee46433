"""One round of questions: which SRV records there are, and what describes the nodes behind them. Used by
`discovery/dns.py`, which hands what comes out to `discovery/dns_book.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from weft.discovery.dns_book import Round
from weft.discovery.dns_client import Answer, Client
from weft.errors import DiscoveryError, WireError
from weft.model import IPAddress, Node
from weft.wire.dns import (
    SERVICE,
    Entry,
    Name,
    RecordType,
    Srv,
    Strings,
    decode_txt,
    fields,
    folded,
    host_label,
    is_entry,
    name_text,
    plain_peer,
    shown_id,
)

AT_ONCE = 16
"""Questions that wait for an answer at a time."""
MOST = 10_000
"""SRV records, and names of TXT records, that are looked at."""
_K = TypeVar("_K")
_T = TypeVar("_T")


@dataclass(slots=True)
class _Texts:
    """What the TXT records say. `entries`, `broken`: by the host's name; `plain`: by the label of the record's name."""

    entries: dict[Name, list[Entry]] = field(default_factory=dict)
    broken: dict[Name, tuple[str, str]] = field(default_factory=dict)
    plain: dict[bytes, Strings] = field(default_factory=dict)
    asked: set[bytes] = field(default_factory=set)
    unanswered: set[Name] = field(default_factory=set)


class Look:
    """Asks the questions. `domain`: in small letters."""

    def __init__(self, client: Client, domain: Name) -> None:
        self._client = client
        self._domain = domain
        self._service = (*SERVICE, *domain)
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._described: set[Name] = set()
        """Hosts that a TXT record of weft's has described: they are never taken for another program's, as long as they
        have an SRV record."""
        self.ttl = 0
        """Seconds for which the last round holds."""

    async def round(self, began: float, wall: float, me: Node | None, plain: bool) -> Round:
        """Look once. `plain`: other programs' nodes count, in the VNI of `me`. DiscoveryError if the service's own
        records can't be asked for; what is missing otherwise stands in `unanswered`."""
        srv, ptr = await asyncio.gather(self._ask(self._service, "SRV"), self._ask(self._service, "PTR"))
        self.ttl = min(srv.ttl, ptr.ttl)
        targets = {folded(r.value.target) for r in srv.records[:MOST] if isinstance(r.value, Srv) and r.value.target}
        texts = _Texts()
        names = [folded(r.value) for r in ptr.records[:MOST] if isinstance(r.value, tuple)]
        await self._read(texts, {name[0] for name in names if name[1:] == self._service})
        unnamed = [target for target in targets if target not in texts.entries and target not in texts.broken]
        await self._read(texts, {target[0] for target in unnamed if target[1:] == self._domain})
        self._described = (self._described | texts.entries.keys()) & targets
        found = Round(
            began,
            wall,
            entries=tuple(entry for host, some in texts.entries.items() if host in targets for entry in some),
            unreadable=dict(texts.broken[host] for host in texts.broken.keys() & targets),
            unanswered=frozenset(texts.unanswered),
            cached=srv.cached,
        )
        if texts.unanswered or not targets:
            return found
        others = targets - texts.entries.keys() - texts.broken.keys() - self._described
        return await self._with_others(found, sorted(others), texts, me if plain else None)

    async def _ask(self, name: Name, rtype: RecordType) -> Answer:
        async with self._at_once:
            return await self._client.ask(name, rtype)

    async def _read(self, texts: _Texts, labels: set[bytes]) -> None:
        """Ask for the TXT records of these names that have not been asked for."""
        names = {label: (label, *self._service) for label in sorted(labels - texts.asked)[:MOST]}
        texts.asked |= names.keys()
        answers = await _each(names, lambda name: self._ask(name, "TXT"))
        for label, answer in answers.items():
            if isinstance(answer, DiscoveryError):
                texts.unanswered.add(names[label])
                continue
            for record in answer.records:
                if isinstance(record.value, tuple):
                    self._take(texts, label, record.value)

    def _take(self, texts: _Texts, label: bytes, strings: Strings) -> None:
        try:
            entry = decode_txt(strings)
        except WireError as error:
            peer = shown_id(fields(strings))
            texts.broken[(host_label(peer), *self._domain)] = (peer, str(error))
            return
        if entry is not None:
            texts.entries.setdefault((host_label(entry.node.id), *self._domain), []).append(entry)
        elif "vni" in (found := fields(strings)) and not is_entry(found):
            texts.plain.setdefault(label, strings)

    async def _with_others(self, found: Round, targets: list[Name], texts: _Texts, me: Node | None) -> Round:
        """The same with the nodes of other programs; without `me`, only that they are there."""
        if me is None:
            why = "its SRV record has no TXT record of weft's beside it: not a peer"
            return replace(found, odd={name_text(target): f"{name_text(target)}: {why}" for target in targets})
        nodes, odd, unanswered = [], {}, set()
        answers = await _each({target: target for target in targets}, self._addresses)
        for target, addresses in answers.items():
            name = name_text(target)
            if isinstance(addresses, DiscoveryError):
                unanswered.add(target)
                continue
            inside = target[1:] == self._domain
            label = target[0].decode("latin-1") if inside else name
            strings = texts.plain.get(target[0], ()) if inside else ()
            try:
                nodes.append(plain_peer(label, addresses, strings, me.vni))
            except WireError as error:
                odd[name] = f"the SRV record of {name} makes no peer: {error}"
        return replace(found, plain=tuple(nodes), odd=odd, unanswered=frozenset(unanswered))

    async def _addresses(self, host: Name) -> tuple[IPAddress, ...]:
        both = await asyncio.gather(self._ask(host, "A"), self._ask(host, "AAAA"))
        return tuple(r.value for answer in both for r in answer.records if not isinstance(r.value, (tuple, Srv)))


async def _each(names: Mapping[_K, Name], question: Callable[[Name], Awaitable[_T]]) -> dict[_K, _T | DiscoveryError]:
    """The answers by key, all asked at a time; who could not be answered has the reason."""

    async def one(name: Name) -> _T | DiscoveryError:
        try:
            return await question(name)
        except DiscoveryError as error:
            return error

    answers = await asyncio.gather(*(one(name) for name in names.values()))
    return dict(zip(names, answers, strict=True))
