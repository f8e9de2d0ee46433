"""The one place that speaks DNS, by dnspython: questions and updates, sent to the servers in turn until one answers.

Questions go over UDP (EDNS, 1232 octets), and over TCP if the answer was cut off; updates over TCP, where none is sent
twice and none is too long. Used by `discovery/dns_look.py` and `discovery/dns_register.py`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.inet
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.PTR
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
import dns.resolver
import dns.tsig
import dns.update

from weft.discovery.dns_claim import Change
from weft.discovery.dns_options import Server, TsigKey, utc
from weft.errors import DiscoveryError, SettingsError
from weft.wire.dns import Name, Record, RecordType, Srv, name_text

UDP_WAITS = (1.0, 2.0)
"""Seconds for each attempt of a question to one server."""
TCP_WAIT = 5.0
PAYLOAD = 1232
"""Octets of an answer over UDP that no path has to fragment (the DNS flag day of 2020)."""
MAX_HOPS = 8
_T = TypeVar("_T")
_IN = dns.rdataclass.IN
_CHANGED = (dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN)


@dataclass(frozen=True, slots=True)
class Answer:
    """`records`: none if there is no such name, or none of that type. `ttl`: seconds for which it holds, also where
    there are none. `cached`: not from the zone's own server. `alias`: the name is a CNAME."""

    records: tuple[Record, ...]
    ttl: int
    cached: bool
    alias: bool = False


class Client:
    """`servers`: () for this host's resolvers, read anew for each question."""

    def __init__(self, servers: tuple[Server, ...], key: TsigKey | None) -> None:
        self._servers = servers
        self._key = _tsig(key) if key is not None else None
        self._first = 0
        """The server that answered last."""
        self._backend = dns.asyncbackend.get_backend("asyncio")
        self.counted: Counter[str] = Counter()

    # Questions. -----------------------------------------------------------------------------------------------

    async def ask(self, name: Name, rtype: RecordType) -> Answer:
        """The records of that name and type, by way of CNAMEs. DiscoveryError if no server can say."""
        asked, alias = _dns_name(name), False
        for _ in range(MAX_HOPS):
            response = await self._question(asked, dns.rdatatype.RdataType.make(rtype))
            try:
                chain = _chain(response)
            except dns.exception.DNSException as error:
                raise DiscoveryError(f"the answer for {rtype} of {asked} makes no sense: {error}") from error
            alias = alias or bool(chain.cnames)
            if chain.answer is not None or chain.canonical_name == asked:
                found = () if chain.answer is None else tuple(filter(None, (_record(name, rd) for rd in chain.answer)))
                return Answer(found, int(chain.minimum_ttl), not response.flags & dns.flags.AA, alias)
            if response.rcode() == dns.rcode.NXDOMAIN:
                return Answer((), int(chain.minimum_ttl), not response.flags & dns.flags.AA, alias)
            asked = chain.canonical_name
        raise DiscoveryError(f"{name_text(name)} leads through more than {MAX_HOPS} CNAMEs")

    async def zone_of(self, name: Name) -> Name:
        """The zone that this name is in: where updates of it go. DiscoveryError if no server knows."""
        asked = _dns_name(name)
        response = await self._question(asked, dns.rdatatype.SOA)
        for section in (response.answer, response.authority):
            for rrset in section:
                if rrset.rdtype == dns.rdatatype.SOA and asked.is_subdomain(rrset.name):
                    return tuple(label.lower() for label in rrset.name.labels[:-1])
        raise DiscoveryError(
            f"{self._servers[0]} does not say which zone {asked} is in: is DNS_DOMAIN right, and does the server have "
            f"the zone?"
        )

    async def _question(self, name: dns.name.Name, rtype: dns.rdatatype.RdataType) -> dns.message.Message:
        def make(edns: bool) -> dns.message.Message:
            return dns.message.make_query(name, rtype, use_edns=0 if edns else False, payload=PAYLOAD)

        async def one(address: str, port: int) -> dns.message.Message:
            response = await self._over_udp(make(True), address, port)
            if response.rcode() == dns.rcode.FORMERR:  # an old one, that does not know EDNS
                response = await self._over_udp(make(False), address, port)
            if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                raise DiscoveryError(f"it answers {dns.rcode.to_text(response.rcode())}")
            return response

        return await self._in_turn(one, f"asked for {dns.rdatatype.to_text(rtype)} of {name}")

    async def _over_udp(self, query: dns.message.Message, address: str, port: int) -> dns.message.Message:
        for wait in UDP_WAITS:
            self.counted["sent.QUERY"] += 1
            try:
                async with asyncio.timeout(wait), await self._connected(address, port) as udp:
                    response = await dns.asyncquery.udp(
                        query,
                        address,
                        port=port,
                        ignore_unexpected=True,
                        ignore_errors=True,  # datagrams that are no answer to this: somebody else's guesses
                        raise_on_truncation=True,
                        sock=udp,
                    )
            except TimeoutError:
                self.counted["received.nothing"] += 1
                continue
            except dns.message.Truncated:
                self.counted["received.truncated"] += 1
                response = await self._over_tcp(query, address, port)
            self.counted[f"received.{dns.rcode.to_text(response.rcode())}"] += 1
            return response
        raise DiscoveryError(f"no answer within {sum(UDP_WAITS):g} s")

    async def _connected(self, address: str, port: int) -> Any:  # the class is not among dnspython's public names
        """From a new port for each question, since that is hard to guess. Connected: where no server is, the kernel
        says so at once."""
        family = dns.inet.af_for_address(address)
        make: Callable[..., Awaitable[Any]] = self._backend.make_socket
        return await make(family, socket.SOCK_DGRAM, 0, None, (address, port))

    async def _over_tcp(self, message: dns.message.Message, address: str, port: int) -> dns.message.Message:
        try:
            async with asyncio.timeout(TCP_WAIT):
                return await dns.asyncquery.tcp(message, address, port=port, backend=self._backend)
        except TimeoutError as error:
            raise DiscoveryError(f"no answer over TCP within {TCP_WAIT:g} s") from error

    # Updates. -------------------------------------------------------------------------------------------------

    async def update(self, zone: Name, change: Change, ttl: int) -> bool:
        """Make the change; False if what it expects is not so (any more). DiscoveryError if no server does it."""
        update = _update(zone, change, ttl)

        async def one(address: str, port: int) -> bool:
            if self._key is not None:
                update.use_tsig(self._key)
            self.counted["sent.UPDATE"] += 1
            try:
                response = await self._over_tcp(update, address, port)
            except dns.exception.TooBig as error:
                raise DiscoveryError("the update is larger than 65,535 octets: expose fewer networks") from error
            except dns.tsig.PeerError as error:
                self.counted["refused.tsig"] += 1
                raise DiscoveryError(self._unsigned(error)) from error
            except (dns.tsig.BadSignature, dns.tsig.BadKey, dns.tsig.BadAlgorithm, dns.tsig.BadTime) as error:
                self.counted["refused.tsig"] += 1
                raise DiscoveryError(f"its answer is not signed with DNS_KEY: {error}") from error
            rcode = response.rcode()
            self.counted[f"updated.{dns.rcode.to_text(rcode)}"] += 1
            if rcode not in _CHANGED and rcode != dns.rcode.NOERROR:
                raise DiscoveryError(self._refusal(rcode, zone))
            return rcode == dns.rcode.NOERROR

        return await self._in_turn(one, f"an update of zone {name_text(zone)}")

    def _unsigned(self, error: dns.tsig.PeerError) -> str:
        key = self._key.name.to_text(True) if self._key is not None else ""
        if isinstance(error, dns.tsig.PeerBadTime):
            return (
                f"it says BADTIME: its clock and this host's, {utc(time.time())}, are more than 300 s apart; "
                f"set the time on both (NTP)"
            )
        if isinstance(error, dns.tsig.PeerBadKey):
            return f"it says BADKEY: it has no key {key} of this algorithm; name in DNS_KEY one that the server has"
        if isinstance(error, dns.tsig.PeerBadSignature):
            return f"it says BADSIG: its key {key} has another secret than DNS_KEY; set the one that the server has"
        return f"it does not take the signature by key {key}: {error}"

    def _refusal(self, rcode: dns.rcode.Rcode, zone: Name) -> str:
        name, text = name_text(zone), dns.rcode.to_text(rcode)
        if rcode == dns.rcode.REFUSED:
            who = f"key {self._key.name.to_text(True)}" if self._key is not None else "hosts without a DNS_KEY"
            return f"it says REFUSED: allow {who} to update {name} there (BIND: allow-update or update-policy)"
        if rcode in (dns.rcode.NOTAUTH, dns.rcode.NOTZONE):
            return f"it says {text}: it does not have the zone {name}; name its primary server in DNS_SERVER"
        if rcode == dns.rcode.NOTIMP:
            return "it says NOTIMP: it takes no updates; name in DNS_SERVER one that does"
        if rcode == dns.rcode.SERVFAIL:
            return f"it says SERVFAIL: it could not write {name} (BIND: may named write in the zone file's folder?)"
        return f"it says {text}"

    # Servers. -------------------------------------------------------------------------------------------------

    async def _in_turn(self, one: Callable[[str, int], Awaitable[_T]], what: str) -> _T:
        """Try each server, the one that answered last first. DiscoveryError with each one's reason."""
        servers = self._servers or resolvers()
        reasons = []
        for offset in range(len(servers)):
            place = (self._first + offset) % len(servers)
            server = servers[place]
            try:
                result = await self._at(server, one)
            except (OSError, EOFError, DiscoveryError, dns.exception.DNSException) as error:
                reasons.append(f"{server}: {error or type(error).__name__}")
                continue
            self._first = place
            return result
        raise DiscoveryError(f"{what}: {'; '.join(reasons)}")

    async def _at(self, server: Server, one: Callable[[str, int], Awaitable[_T]]) -> _T:
        reason: OSError | None = None
        for address in await _addresses(server):
            try:
                return await one(address, server.port)
            except OSError as error:
                reason = error
        raise reason or OSError("it has no address")


def _chain(response: dns.message.Message) -> dns.message.ChainingResult:
    if not isinstance(response, dns.message.QueryMessage):
        raise DiscoveryError("it is no answer to a question")
    return response.resolve_chaining()


async def _addresses(server: Server) -> list[str]:
    try:
        ip_address(server.host)
        return [server.host]
    except ValueError:
        loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise DiscoveryError(f"the name {server.host} in DNS_SERVER can't be resolved: {error}") from error
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def resolvers() -> tuple[Server, ...]:
    """This host's, of /etc/resolv.conf. DiscoveryError if there are none."""
    try:
        found = dns.resolver.Resolver(configure=True)
    except dns.resolver.NoResolverConfiguration as error:
        raise DiscoveryError(f"this host has no resolver ({error}); set DNS_SERVER") from error
    servers = tuple(Server(one, found.port) for one in found.nameservers if isinstance(one, str))
    if not servers:
        raise DiscoveryError("/etc/resolv.conf names no server; set DNS_SERVER")
    return servers


def domain_name(text: str) -> Name:
    """DNS_DOMAIN as a name; SettingsError."""
    try:
        return tuple(label.lower() for label in dns.name.from_text(text).labels[:-1])
    except (dns.exception.DNSException, UnicodeError) as error:
        raise SettingsError(f"DNS_DOMAIN = {text!r} is no domain: {error}; e.g. example.com") from error


def _tsig(key: TsigKey) -> dns.tsig.Key:
    algorithm = dns.tsig.HMAC_MD5 if key.algorithm == "hmac-md5" else dns.name.from_text(key.algorithm)
    try:
        return dns.tsig.Key(dns.name.from_text(key.name), key.secret, algorithm)
    except dns.exception.DNSException as error:
        raise SettingsError(f"DNS_KEY: {key.name!r} is no name of a key: {error}") from error


def _update(zone: Name, change: Change, ttl: int) -> dns.update.UpdateMessage:
    update = dns.update.UpdateMessage(_dns_name(zone))
    for expected in change.expected:
        if not expected.records:
            update.absent(_dns_name(expected.name), expected.rtype)
        for record in expected.records:
            update.present(_dns_name(record.name), _rdata(record))
    for record in change.removed:
        update.delete(_dns_name(record.name), _rdata(record))
    for record in change.added:
        update.add(_dns_name(record.name), ttl, _rdata(record))
    return update


_RDATA: dict[RecordType, Callable[..., dns.rdata.Rdata]] = {
    "SRV": dns.rdtypes.IN.SRV.SRV,
    "TXT": dns.rdtypes.ANY.TXT.TXT,
    "PTR": dns.rdtypes.ANY.PTR.PTR,
    "A": dns.rdtypes.IN.A.A,
    "AAAA": dns.rdtypes.IN.AAAA.AAAA,
}


def _dns_name(name: Iterable[bytes]) -> dns.name.Name:
    return dns.name.Name((*name, b""))


def _rdata(record: Record) -> dns.rdata.Rdata:
    value, rtype = record.value, dns.rdatatype.RdataType.make(record.rtype)
    if isinstance(value, Srv):
        told: tuple[object, ...] = (value.priority, value.weight, value.port, _dns_name(value.target))
    elif isinstance(value, tuple):
        told = (_dns_name(value) if record.rtype == "PTR" else value,)
    else:
        told = (str(value),)
    return _RDATA[record.rtype](_IN, rtype, *told)


def _record(name: Name, rdata: dns.rdata.Rdata) -> Record | None:
    if isinstance(rdata, dns.rdtypes.IN.SRV.SRV):
        return Record(name, "SRV", Srv(rdata.priority, rdata.weight, rdata.port, rdata.target.labels[:-1]))
    if isinstance(rdata, dns.rdtypes.ANY.TXT.TXT):
        return Record(name, "TXT", tuple(rdata.strings))
    if isinstance(rdata, dns.rdtypes.ANY.PTR.PTR):
        return Record(name, "PTR", rdata.target.labels[:-1])
    if isinstance(rdata, dns.rdtypes.IN.A.A):
        return Record(name, "A", ip_address(rdata.address))
    if isinstance(rdata, dns.rdtypes.IN.AAAA.AAAA):
        return Record(name, "AAAA", ip_address(rdata.address))
    return None
