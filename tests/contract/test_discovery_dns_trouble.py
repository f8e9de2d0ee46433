"""DNS discovery when something is wrong: the server, the key, the clocks, the zone. On a real BIND."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.support.bind import Bind, bind, needs_bind
from tests.support.dns_hosts import TIMEOUT, DnsHost, Stage, router
from tests.support.eventually import patience, soon
from weft.discovery.dns_client import UDP_WAITS
from weft.errors import SettingsError

pytestmark = needs_bind
SERVICE = "_docker-router._udp.example.com."
HOUR = 3600.0


@pytest.fixture
def server() -> Iterator[Bind]:
    with bind() as running:
        yield running


async def two(stage: Stage) -> tuple[DnsHost, DnsHost]:
    a, b = stage.host(router("a", 1)), stage.host(router("b", 2))
    await a.sees("b")
    await b.sees("a")
    return a, b


async def test_a_server_that_is_gone_changes_nothing_and_is_told(server: Bind) -> None:
    async with Stage(server) as stage:
        a, _ = await two(stage)
        before = len(a.known)
        server.stop()
        await a.sees("b", complete=False)
        await a.says("can't be looked up, and stay as they are", server.endpoint, "can't be registered")
        down = time.monotonic()
        await soon(lambda: time.monotonic() - down > 2 * TIMEOUT, "two timeouts")
        assert a.ids == ["b"]
        server.start()
        await a.sees("b")
        await soon(lambda: a.problems == "", "no problem any more")
        assert all(known.items for known in a.known[before:])


async def test_a_server_that_says_nothing_changes_nothing(server: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.discovery.dns_client.UDP_WAITS", (0.1, 0.1))
    async with Stage(server) as stage:
        a, b = await two(stage)
        server.pause()
        await a.sees("b", complete=False)
        await a.says("no answer within 0.2 s")
        server.resume()
        await a.sees("b")
        await b.sees("a")
    assert sum(UDP_WAITS) > 1


async def test_servfail_is_not_an_empty_answer(server: Bind) -> None:
    async with Stage(server) as stage:
        a, _ = await two(stage)
        server.stop()
        for file in server.folder.glob("zone*"):
            file.unlink()
        server.start(loaded=False)
        assert "status: SERVFAIL" in server.dig(SERVICE, "SRV", "+comments")
        await a.says("SERVFAIL")
        await a.sees("b", complete=False)


async def test_a_zone_that_was_lost_is_filled_again_and_nobody_was_away(server: Bind) -> None:
    # A timeout longer than the server is away; and the hold that there is by default: who has registered again and
    # looks before the other one has sees what a goodbye looks like.
    async with Stage(server, peer_timeout=60.0, goodbye_hold=30.0) as stage:
        a, b = await two(stage)
        before = len(a.known), len(b.known)
        server.stop()
        server.write()
        server.start()
        await soon(lambda: len([r for r in server.records() if r[1] == "SRV"]) == 2, "both to be registered again")
        await a.looked(3)
        await b.looked(3)
        assert all([one.id for one in known.items] == ["b"] for known in a.known[before[0] :])
        assert all([one.id for one in known.items] == ["a"] for known in b.known[before[1] :])
        await a.sees("b")
        await b.sees("a")


async def test_who_crashed_is_gone_after_the_timeout_and_its_records_stay(server: Bind) -> None:
    async with Stage(server) as stage:
        a, b = await two(stage)
        await b.crash()
        crashed = time.monotonic()
        await a.sees()
        assert time.monotonic() - crashed < patience(TIMEOUT + 1.0)
        await a.says("b (192.0.2.2) was last refreshed at", "by its own clock: it is gone, and its records stay")
        assert "b" not in a.dns.departed()
        assert not any(one.wrong for one in a.now.problems)
        assert ("b.example.com.", "A", "192.0.2.2") in server.records()
        stage.host(router("b", 2))
        await a.sees("b")
        assert a.problems == ""


async def test_an_old_record_is_no_peer_and_the_set_is_complete_only_after_a_while(server: Bind) -> None:
    async with Stage(server) as stage:
        old = stage.host(router("b", 2), wall=lambda: time.time() - 72 * HOUR)
        await soon(server.records, "its records")
        await old.crash()
        fresh = stage.host(router("c", 3))
        await soon(lambda: len([r for r in server.records() if r[1] == "SRV"]) == 2, "the other's records")
        began = time.monotonic()
        a = stage.host(router("a", 1))
        await a.says("b (192.0.2.2)", "long ago", "not believed before it is refreshed")
        await a.sees("c", complete=True)
        assert any(known.items and not known.complete for known in a.known)
        assert time.monotonic() - began > TIMEOUT / 2
        assert all("b" not in [one.id for one in known.items] for known in a.known)
        assert fresh.ids == ["a"]


@pytest.mark.parametrize("off", [-HOUR, HOUR])
async def test_clocks_an_hour_apart_dont_matter(server: Bind, off: float) -> None:
    async with Stage(server) as stage:
        wrong = stage.host(router("b", 2), wall=lambda: time.time() + off)
        await soon(server.records, "its records")
        a = stage.host(router("a", 1))
        await a.sees("b")
        await wrong.sees("a")
        seen = len(a.known)
        await a.looked(5)
        assert all(known.complete and known.items for known in a.known[seen:])
        assert a.dns.last_seen()["b"] == pytest.approx(time.time(), abs=5)


def key(name: str, secret: str, algorithm: str = "hmac-sha256") -> str:
    return f"{algorithm}:{name}:{secret}"


@pytest.mark.parametrize(
    ("name", "algorithm", "secret", "words"),
    [
        ("nobody", "hmac-sha256", "", ("BADKEY", "no key nobody", "DNS_KEY")),
        ("weft", "hmac-sha512", "", ("BADKEY", "no key weft of this algorithm")),
        ("weft", "hmac-sha256", "c2VjcmV0", ("BADSIG", "another secret than DNS_KEY")),
        ("stranger", "hmac-sha256", "", ("REFUSED", "allow key stranger to update example.com", "allow-update")),
    ],
)
async def test_a_wrong_key_is_told_and_still_finds(
    server: Bind, name: str, algorithm: str, secret: str, words: tuple[str, ...]
) -> None:
    async with Stage(server) as stage:
        stage.host(router("a", 1))
        b = stage.host(router("b", 2), key=key(name, secret or server.secret, algorithm))
        text = await b.says("b can't be registered", *words)
        assert server.secret not in text
        await b.sees("a")
        assert not any(record[0].startswith("b.") for record in server.records())


async def test_no_key_is_told(server: Bind) -> None:
    async with Stage(server) as stage:
        await stage.host(router("b", 2), key="").says("REFUSED", "hosts without a DNS_KEY")


async def test_clocks_too_far_apart_for_a_signature_are_told(server: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dns.message.time", SimpleNamespace(time=lambda: time.time() + HOUR))
    async with Stage(server) as stage:
        await stage.host(router("b", 2)).says("BADTIME", "300 s apart", "set the time on both")


async def test_a_server_that_does_not_have_the_zone_is_told(server: Bind) -> None:
    async with Stage(server, domain="example.org") as stage:
        b = stage.host(router("b", 2))
        await b.says("can't be looked up", "REFUSED")
        await b.sees(complete=False)


async def test_a_zone_that_cant_be_written_is_told() -> None:
    with bind(policy="") as server:
        async with Stage(server) as stage:
            await stage.host(router("b", 2)).says("REFUSED")


async def test_a_key_may_be_bound_to_a_host_by_the_zones_policy() -> None:
    policy = "update-policy { grant weft subdomain example.com. ANY; };"
    with bind(policy=policy) as server:
        async with Stage(server) as stage:
            await two(stage)


async def test_records_that_cant_be_read_are_told_and_lose_nothing(server: Bind) -> None:
    async with Stage(server) as stage:
        a, b = await two(stage)
        seen = len(a.known)
        await b.crash()
        broken = f'update add b.{SERVICE} 60 TXT "id=b" "instance=x" "vni=-7"'
        server.update(f"update delete b.{SERVICE} TXT", broken)
        await a.says("the TXT record of b can't be read", "vni")
        await soon(lambda: a.ids == [], "b to be silent", 5)
        unread = [known for known in a.known[seen:] if "can't be read" in str(known.problems)]
        assert [one.id for one in unread[0].items] == ["b"], "it stays for as long as it would without any record"


def test_what_is_set_wrong_is_refused_at_the_start() -> None:
    from weft.discovery.dns import Dns
    from weft.discovery.dns_options import DnsSettings

    with pytest.raises(SettingsError, match="DNS_DOMAIN"):
        Dns(DnsSettings("a", "i", "a..b"))
