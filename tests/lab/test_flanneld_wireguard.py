"""`weft flanneld` with the WireGuard backend: two segments with a router between, keys, modes, what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.flannel_lab import (
    DUAL,
    FOUR,
    address,
    answers,
    beside,
    counting,
    lease_of,
    log,
    pinged,
    reconfigure,
    status,
)
from tests.lab.harness import AT_ONCE, do, example, failing, ip_json, lab_up, on, settle
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_wireguard
from weft.lab import services
from weft.lab.lab import Lab

pytestmark = [needs_wireguard, needs_etcd]

PSK = "c" * 42 + "c="


def config(**backend: Any) -> dict[str, Any]:
    return DUAL | {"Backend": {"Type": "wireguard", **backend}}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    document = example("flannel-dual-stack")
    document["hosts"]["etcd"]["etcd"]["config"] = config(PSK=PSK, PersistentKeepaliveInterval=20)
    with lab_up(document, "wireguard") as found:
        settle(found)
        yield found


def devices(lab: Lab, host: str) -> list[str]:
    return sorted(link["ifname"] for link in ip_json(lab, host, "link show") if link["ifname"].startswith("flannel"))


def peers(lab: Lab, host: str, device: str) -> dict[str, list[str]]:
    """Public key → preshared key, endpoint, allowed IPs, last handshake, …, as `wg` tells them."""
    lines = [line.split("\t") for line in on(lab, host, f"wg show {device} dump").splitlines()[1:]]
    return {fields[0]: fields[1:] for fields in lines}


def processes(lab: Lab, host: str) -> list[str]:
    """The pids of a host's wireguard-go, as the host itself sees them."""
    return on(lab, host, "pgrep -x wireguard-go", check=False).split()


def test_containers_reach_each_other_and_what_is_between_sees_wireguard_alone(lab: Lab) -> None:
    assert failing(lab) == []
    with counting(lab, "r", "forward", "udp dport { 51820, 51821 }", "udp dport != { 51820, 51821 }") as counters:
        assert answers(lab, "a/a1", address(lab, "c/c1"))
        assert answers(lab, "a/a1", address(lab, "c/c1", 6))
        through, other = counters.read()
    assert through >= 4
    assert other == 0


def test_the_lease_tells_the_key_and_the_peers_have_what_the_config_says(lab: Lab) -> None:
    _, theirs = lease_of(lab, "c")
    assert devices(lab, "a") == ["flannel-wg", "flannel-wg-v6"]
    for device, data, endpoint in (
        ("flannel-wg", "BackendData", "10.0.2.13:51820"),
        ("flannel-wg-v6", "BackendV6Data", "[fd00:2::13]:51821"),
    ):
        found = peers(lab, "a", device)
        assert len(found) == 2
        psk, where, _, handshake, _, _, keepalive = found[theirs[data]["PublicKey"]]
        assert (psk, where, keepalive) == (PSK, endpoint, "20")
        assert int(handshake) > 0
        assert [link["mtu"] for link in ip_json(lab, "a", f"link show {device}")] == [1420]
    assert "FLANNEL_MTU=1420\n" in on(lab, "a", "cat /run/flannel/subnet.env")
    assert PSK not in log(lab, "a") + on(lab, "a", "weft show status") + on(lab, "a", "weft show events")


def test_a_restart_keeps_the_key_and_the_process_and_loses_nothing(lab: Lab) -> None:
    key, before, running = on(lab, "a", "cat /run/flannel/wgkey"), lease_of(lab, "a"), processes(lab, "a")
    assert running
    with pinged(lab, "a/a1", address(lab, "c/c1")) as pings:
        for _ in range(3):
            do(services.restart(lab.host("a"), "flanneld"))
    print(pings)
    assert pings.lost == 0
    assert pings.sent > 100
    assert on(lab, "a", "cat /run/flannel/wgkey") == key
    assert on(lab, "a", "stat -c %a /run/flannel/wgkey") == "600\n"
    assert (lease_of(lab, "a"), processes(lab, "a")) == (before, running)


def test_a_killed_wireguard_go_comes_back_with_its_peers_and_routes(lab: Lab) -> None:
    running = processes(lab, "a")
    on(lab, "a", ["kill", "-9", *running])
    until(lambda: len(set(processes(lab, "a")) - set(running)) == len(running), "as many new ones", timeout=5)
    settle(lab, 5)
    assert devices(lab, "a") == ["flannel-wg", "flannel-wg-v6"]
    assert failing(lab) == []
    until(lambda: status(lab, "a")["health"] == "ok", "nothing to be left undone")


@pytest.mark.parametrize(("mode", "endpoint"), [("auto", "10.0.2.13:51820"), ("ipv6", "[fd00:2::13]:51820")])
def test_one_device_for_both_versions_where_the_mode_says_so(lab: Lab, mode: str, endpoint: str) -> None:
    found = reconfigure(lab, config(Mode=mode))
    settle(found)
    assert failing(found) == []
    until(lambda: devices(found, "a") == ["flannel-wg"], "the second device to go")
    _, theirs = lease_of(found, "c")
    told = peers(found, "a", "flannel-wg")[theirs["BackendData"]["PublicKey"]]
    assert (told[0], told[1]) == ("(none)", endpoint)
    assert len(told[2].split(",")) == 2
    until(lambda: "WEFT-flannel-wg-v6" not in on(found, "a", "ip6tables-save"), "its chains to go")


def test_who_has_a_session_with_a_device_that_is_gone_is_told_of_the_new_one_at_once(lab: Lab) -> None:
    """WireGuard by itself notices after 15 s: c has no reason to doubt its session, and a nothing to send to c."""
    found = reconfigure(lab, config())
    settle(found)
    with pinged(found, "c/c1", address(found, "a/a1")) as pings:
        running = processes(found, "a")
        on(found, "a", ["kill", "-9", *running])
        until(lambda: processes(found, "a") and not set(running) & set(processes(found, "a")), "a new process")
        until(lambda: answers(found, "c/c1", address(found, "a/a1")), "an answer to c")
    print(pings)
    assert 0 < pings.lost * 0.005 < AT_ONCE


def test_another_backend_leaves_nothing_of_wireguards(lab: Lab) -> None:
    found = reconfigure(lab, FOUR | {"Backend": {"Type": "vxlan"}})
    settle(found)
    until(lambda: devices(found, "a") == ["flannel.1"], "WireGuard's device to go")
    until(lambda: not processes(found, "a"), "wireguard-go to end")
    saved = ("iptables-save", "ip6tables-save")
    until(lambda: "flannel-wg" not in "".join(on(found, "a", tool) for tool in saved), "its chains to go")


def test_a_host_without_wireguard_says_what_to_install(lab: Lab, tmp_path: Path) -> None:
    """On the host that runs etcd, which has no flanneld otherwise."""
    expected = {
        (): "wg is not installed; apt-get install wireguard-tools",
        ("wg", "ip"): "this kernel has no WireGuard and wireguard-go is not installed: use Linux 5.6 or newer",
    }
    for number, (tools, said) in enumerate(expected.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for tool in tools:
            (folder / tool).symlink_to(str(shutil.which(tool)))
        network = {"Network": f"10.{number}.0.0/16", "Backend": {"Type": "wireguard"}}
        with beside(lab, "etcd", network, path=folder) as log_of:
            until(lambda log_of=log_of, said=said: said in log_of(), said)  # type: ignore[misc]
            assert "Traceback" not in log_of()
