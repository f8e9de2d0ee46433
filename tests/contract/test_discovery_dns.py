"""DNS discovery on a real BIND: who finds whom, what stands in the zone, and what is never touched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.build import network
from tests.support.bind import Bind, bind, needs_bind
from tests.support.dns_hosts import INTERVAL, Stage, router
from tests.support.eventually import patience, soon
from weft.model import Known

pytestmark = needs_bind
SERVICE = "_docker-router._udp.example.com."


@pytest.fixture
def server() -> Iterator[Bind]:
    with bind() as running:
        yield running


def names(server: Bind) -> set[str]:
    return {f"{name} {rtype}" for name, rtype, _ in server.records()}


async def test_two_hosts_find_each_other_as_they_are(server: Bind) -> None:
    a = replace(router("a", 1), endpoints=(ip_address("192.0.2.1"), ip_address("2001:db8::1")), version="0.1.0")
    b = replace(router("b", 2), overlay=(ip_address("192.168.100.2"),), networks=(network("näme", "172.21.0.0/16"),))
    async with Stage(server) as stage:
        one, other = stage.host(a), stage.host(b)
        assert (await one.sees("b")).items == (b,)
        assert (await other.sees("a")).items == (a,)
        assert one.dns.last_seen()["b"] == pytest.approx(time.time(), abs=10)


async def test_the_records_are_those_of_the_document(server: Bind) -> None:
    async with Stage(server, ttl=60) as stage:
        stage.host(router("a", 1, stack="stack-a"))
        await soon(server.records, "records")
        found = server.records()
        assert (SERVICE, "SRV", "10 5 4790 a.example.com.") in found
        assert (SERVICE, "PTR", f"stack-a.{SERVICE}") in found
        assert ("a.example.com.", "A", "192.0.2.1") in found
        txt = next(value for name, rtype, value in found if (name, rtype) == (f"stack-a.{SERVICE}", "TXT"))
        assert '"vni=4096"' in txt
        assert '"networks=172.20.1.0/24"' in txt
        assert len(found) == 4
        assert server.dig(SERVICE, "SRV").split()[1] == "60"
    assert server.records() == set()


async def test_who_comes_is_found_within_an_interval_and_a_second(server: Bind) -> None:
    async with Stage(server) as stage:
        first, second = stage.host(router("a", 1)), stage.host(router("b", 2))
        await first.sees("b")
        await second.sees("a")
        began = time.monotonic()
        third = stage.host(router("c", 3))
        await first.sees("b", "c")
        await second.sees("a", "c")
        await third.sees("a", "b")
        assert time.monotonic() - began <= patience(INTERVAL + 1.0)


async def test_what_is_new_goes_out_at_once(server: Bind) -> None:
    async with Stage(server, interval=60.0) as stage:
        a = stage.host(router("a", 1))
        await soon(server.records, "records")
        changed = replace(router("a", 1, "172.30.0.0/16"), endpoints=(ip_address("192.0.2.11"),))
        a.dns.announce(changed)
        await soon(lambda: ("a.example.com.", "A", "192.0.2.11") in server.records(), "the new address", 2.0)
        assert ("a.example.com.", "A", "192.0.2.1") not in server.records()
        assert server.dig(f"a.{SERVICE}", "TXT").count("172.30.0.0/16") == 1
        assert len(server.records()) == 4


async def test_who_leaves_takes_out_its_own_records_alone(server: Bind) -> None:
    foreign = {
        (SERVICE, "SRV", "1 2 99 printer.example.com."),
        (f"a.{SERVICE}", "TXT", '"v=other" "id=a"'),
        ("a.example.com.", "TXT", '"a note"'),
        ("a.example.com.", "A", "192.0.2.1"),
        ("printer.example.com.", "A", "192.0.2.99"),
    }
    server.update(*(f"update add {name} 60 {rtype} {value}" for name, rtype, value in foreign))
    async with Stage(server) as stage:
        a, b = stage.host(router("a", 1)), stage.host(router("b", 2))
        await b.sees("a")
        await a.sees("b")
        assert foreign < server.records()
        await a.close()
        assert not any(name.startswith("a.") for name, _, _ in server.records() - foreign)
        assert (SERVICE, "SRV", "10 5 4790 a.example.com.") not in server.records()
        await b.sees()
        assert set(b.dns.departed()) == {"a"}
        await b.close()
    assert server.records() == foreign


async def test_who_is_back_before_the_hold_is_over_was_never_away(server: Bind) -> None:
    async with Stage(server, goodbye_hold=60.0) as stage:
        a, b = stage.host(router("a", 1)), stage.host(router("b", 2))
        await b.sees("a")
        seen = len(b.known)
        await a.close()
        await b.looked()
        stage.host(router("a", 1))
        await b.looked()
        await soon(lambda: any(name.startswith("a.") for name in names(server)), "a's records")
        assert all([one.id for one in known.items] == ["a"] for known in b.known[seen:])


async def test_two_hosts_of_one_id_never_fight(server: Bind) -> None:
    async with Stage(server) as stage:
        first, watcher = stage.host(router("a", 1)), stage.host(router("w", 9))
        await watcher.sees("a")
        second = stage.host(router("a", 2))
        text = await second.says("192.0.2.1", "registered as a", "192.0.2.2", "PEER_ID")
        assert "nothing of the other's was changed" in text
        await second.looked(4)
        assert ("a.example.com.", "A", "192.0.2.1") in server.records()
        assert watcher.now.items[0].endpoints == (ip_address("192.0.2.1"),)
        assert first.problems == ""
        await first.close()
        await soon(lambda: ("a.example.com.", "A", "192.0.2.2") in server.records(), "the second to have it", 5)
        await soon(lambda: second.problems == "", "no problem any more")


async def test_of_many_that_come_at_once_with_one_id_one_has_it(server: Bind) -> None:
    async with Stage(server) as stage:
        hosts = [stage.host(router("a", number)) for number in range(1, 7)]
        await soon(lambda: sum("registered as a" in host.problems for host in hosts) == 5, "five to be refused")
        addresses = [value for name, rtype, value in server.records() if (name, rtype) == ("a.example.com.", "A")]
        assert len(addresses) == 1
        assert len([one for one in server.records() if one[1] == "TXT"]) == 1


async def test_a_dead_hosts_id_is_free_when_it_was_seen_dead(server: Bind) -> None:
    async with Stage(server) as stage:
        first = stage.host(router("a", 1))
        await soon(server.records, "records")
        await first.crash()
        second = stage.host(router("a", 2))
        await second.says("registered as a")
        await soon(lambda: ("a.example.com.", "A", "192.0.2.2") in server.records(), "the id to be taken over")
        assert len(server.records()) == 4


async def test_a_host_name_that_leads_elsewhere_is_left_alone(server: Bind) -> None:
    server.update("update add a.example.com. 60 A 198.51.100.7")
    async with Stage(server) as stage:
        a = stage.host(router("a", 1))
        await a.says("a.example.com", "198.51.100.7", "192.0.2.1", "PEER_ID")
        assert server.records() == {("a.example.com.", "A", "198.51.100.7")}


async def test_an_alias_that_leads_here_is_good_enough(server: Bind) -> None:
    server.update("update add box.example.com. 60 A 192.0.2.1", "update add a.example.com. 60 CNAME box.example.com.")
    before = server.records()
    server.update("update add b.example.com. 60 CNAME box.example.com.")
    async with Stage(server) as stage:
        a, b = stage.host(router("a", 1)), stage.host(router("b", 2))
        await b.says("b.example.com", "192.0.2.1", "192.0.2.2")
        await b.sees("a")
        await a.close()
    server.update("update delete b.example.com. CNAME")
    assert server.records() == before


async def test_a_wildcard_is_nobodys_claim(server: Bind) -> None:
    server.update('update add *.example.com. 60 TXT "v=spf1 -all"', "update add *.example.com. 60 A 198.51.100.7")
    before = server.records()
    async with Stage(server, plain=True) as stage:
        a, b = stage.host(router("a", 1)), stage.host(router("b", 2))
        assert (await b.sees("a")).problems == ()
        await a.sees("b")
        assert ("a.example.com.", "A", "192.0.2.1") in server.records()
    assert server.records() == before


async def test_a_restart_without_memory_goes_on_with_its_own_records(server: Bind) -> None:
    async with Stage(server) as stage:
        a, b = stage.host(router("a", 1)), stage.host(router("b", 2))
        await b.sees("a")
        await a.crash()
        seen = len(b.known)
        again = stage.host(router("a", 1), priority=20)
        await soon(lambda: (SERVICE, "SRV", "20 5 4790 a.example.com.") in server.records(), "the new SRV record")
        assert (SERVICE, "SRV", "10 5 4790 a.example.com.") not in server.records()
        await b.looked(3)
        assert all([one.id for one in known.items] == ["a"] for known in b.known[seen:])
        assert again.problems == ""


async def test_routers_of_one_stack_share_a_name(server: Bind) -> None:
    async with Stage(server) as stage:
        one, other = stage.host(router("r1", 1, stack="s")), stage.host(router("r2", 2, stack="s"))
        watcher = stage.host(None)
        found = await watcher.sees("r1", "r2")
        assert {node.stack for node in found.items} == {"s"}
        assert len(server.dig(f"s.{SERVICE}", "TXT").splitlines()) == 2
        await one.close()
        await watcher.sees("r2")
        assert (SERVICE, "PTR", f"s.{SERVICE}") in server.records()
        await other.close()
    assert server.records() == set()


@pytest.mark.parametrize("name", ["stack a.b", "größe ☃", "x" * 200, 'q"uo\\te;', "Stack-A", "_x"])
async def test_unusual_ids_work(server: Bind, name: str) -> None:
    async with Stage(server) as stage:
        stage.host(router(name, 1))
        watcher = stage.host(None)
        assert (await watcher.sees(name)).items[0].stack == name
    assert server.records() == set()


async def test_an_id_that_cant_be_told_is_refused_with_its_name(server: Bind) -> None:
    async with Stage(server) as stage:
        bad = stage.host(router("a\nb", 1))
        await bad.says(r"'a\nb' can't be announced", "printable")
        assert server.records() == set()


async def test_long_lists_come_by_tcp(server: Bind) -> None:
    many = tuple(network(f"net-{i}", f"10.{i}.0.0/16") for i in range(250))
    async with Stage(server) as stage:
        stage.host(replace(router("a", 1), networks=many))
        watcher = stage.host(None)
        assert (await watcher.sees("a")).items[0].networks == many
        assert watcher.dns.counters()["received.truncated"] >= 1


async def test_records_of_other_programs_are_plain_peers(server: Bind) -> None:
    server.update(
        f"update add {SERVICE} 60 SRV 10 5 4790 host1.example.com.",
        f"update add {SERVICE} 60 SRV 10 5 4790 alias.example.com.",
        f"update add {SERVICE} 60 SRV 10 5 4790 nowhere.example.com.",
        "update add host1.example.com. 60 A 192.0.2.71",
        "update add host1.example.com. 60 AAAA 2001:db8::71",
        "update add alias.example.com. 60 CNAME box.example.com.",
        "update add box.example.com. 60 A 192.0.2.72",
        f'update add alias.{SERVICE} 60 TXT "vni=7" "vxlan_ip=192.168.100.2" "networks=172.21.0.0/16"',
    )
    async with Stage(server, plain=True) as stage:
        a = stage.host(router("a", 1))
        alias, host1 = (await a.sees("alias", "host1")).items
        assert (host1.vni, host1.stack, host1.networks) == (4096, "host1", ())
        assert host1.endpoints == (ip_address("192.0.2.71"), ip_address("2001:db8::71"))
        assert (alias.vni, alias.overlay, str(alias.networks[0].subnets[0])) == (
            7,
            (ip_address("192.168.100.2"),),
            "172.21.0.0/16",
        )
        assert "nowhere.example.com makes no peer: nowhere has no address" in a.problems
        server.update(f"update delete {SERVICE} SRV 10 5 4790 host1.example.com.")
        await a.sees("alias")
    async with Stage(server, plain=False) as stage:
        a = stage.host(router("a", 1))
        await a.says("alias.example.com", "no TXT record of weft's")
        assert a.ids == []


async def test_over_ipv6_and_past_a_dead_server() -> None:
    with bind("::1") as server:
        async with Stage(server) as stage:
            servers = ["127.0.0.1:9", server.endpoint]
            stage.host(router("a", 1), servers=servers)
            await stage.host(router("b", 2), servers=servers).sees("a")


async def test_a_server_may_be_named(server: Bind) -> None:
    async with Stage(server) as stage:
        stage.host(router("a", 1), servers=[f"localhost:{server.port}"])
        await stage.host(router("b", 2)).sees("a")


async def test_a_zone_above_the_domain(server: Bind) -> None:
    async with Stage(server, domain="prod.eu.example.com") as stage:
        stage.host(router("a", 1))
        await stage.host(router("b", 2)).sees("a")
        assert ("a.prod.eu.example.com.", "A", "192.0.2.1") in server.records()


async def test_without_a_server_it_only_finds_others(server: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.discovery.dns_options import parse_servers

    monkeypatch.setattr("weft.discovery.dns_client.resolvers", lambda: parse_servers(server.endpoint))
    async with Stage(server) as stage:
        stage.host(router("a", 1))
        silent = stage.host(router("b", 2), servers=[])
        await silent.sees("a")
        assert "DNS_SERVER isn't set: b is not registered" in silent.problems
        assert not any(name.startswith("b.") for name in names(server))
        assert not any(one.wrong for one in silent.now.problems)


async def test_nobody_is_there_is_an_answer(server: Bind) -> None:
    async with Stage(server) as stage:
        listener = stage.host(None)
        assert await listener.sees() == Known((), True)


async def test_closing_twice_or_before_the_start_is_nothing(server: Bind) -> None:
    async with Stage(server) as stage:
        a = stage.host(router("a", 1))
        await asyncio.gather(a.close(), a.dns.close())
        await a.dns.close()
