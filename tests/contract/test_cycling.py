"""A link that goes down and up under traffic: what was on it is on it again before anybody misses it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import until
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root
from weft.errors import TargetError
from weft.lab.icmp import answer, request
from weft.targets.kernel.cycling import cycle

pytestmark = needs_root
VOLATILE = ("expires", "used", "probes", "refcnt", "updated", "valid_life_time", "preferred_life_time", "nodad")
"""What `ip` prints that isn't part of what was configured."""


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """Two hosts as flannel leaves them, with 10.5.1.0 and 10.5.2.0 as the ends of the tunnel."""
    with namespace("a") as a, namespace("b") as b:
        veth(a, "eth0", b, "eth0")
        for ns, me, other in ((a, 1, 2), (b, 2, 1)):
            ns.ip(f"address add 192.0.2.{me}/24 dev eth0")
            ns.ip(
                f"link add flannel.1 address 02:00:00:00:00:0{me} mtu 1450 type vxlan id 1 dstport 8472"
                f" local 192.0.2.{me} nolearning"
            )
            ns.ip(f"address add 10.5.{me}.0/32 dev flannel.1")
            ns.ip("link set flannel.1 up")
            ns.ip(f"neighbour add 10.5.{other}.0 lladdr 02:00:00:00:00:0{other} nud permanent dev flannel.1")
            ns.bridge(f"fdb add 02:00:00:00:00:0{other} dev flannel.1 dst 192.0.2.{other} self permanent")
            ns.ip(f"route add 10.5.{other}.0/24 via 10.5.{other}.0 dev flannel.1 onlink")
        yield a, b


def furnish(ns: Namespace) -> None:
    """Whatever else somebody may have put on the device."""
    for line in (
        "address add 10.66.0.1/24 dev flannel.1 label flannel.1:x",
        "address add fc00:5::1/64 dev flannel.1 nodad",
        "-6 neighbour add fc00:5::9 lladdr 02:00:00:00:00:09 nud permanent dev flannel.1",
        "neighbour add proxy 10.66.0.7 dev flannel.1",
        "nexthop add id 7 via 10.5.2.0 dev flannel.1 onlink proto 76",
        "nexthop add id 8 via 10.66.0.9 dev flannel.1 proto static",
        "nexthop add id 9 group 7/8,3 proto 76",
        "route add 10.9.1.0/24 nhid 7 proto 76 metric 8700 src 10.66.0.1",
        "route add 10.9.2.0/24 nhid 9 proto 76 metric 8700 mtu 1400",
        "route add 10.9.3.0/24 via 10.66.0.9 proto static metric 5",
        "route append 10.9.3.0/24 via 10.66.0.10 proto bird metric 5",
        "route add 10.9.4.0/24 dev flannel.1 scope link table 99 advmss 1200 initcwnd 20",
        "route add 10.9.5.0/24 via 10.9.6.1 dev flannel.1 onlink tos 8",
        "route add 10.9.7.0/24 nexthop via 10.66.0.9 dev flannel.1 weight 2 nexthop via 192.0.2.2 dev eth0",
        "route add 10.9.8.0/24 nexthop via 10.66.0.9 dev flannel.1 weight 2 nexthop via 10.66.0.10 dev flannel.1",
        "route add throw 10.9.9.0/24",
        "-6 route add fc00:9::/64 via fc00:5::9 dev flannel.1 proto 76 metric 8800 src fc00:5::1 mtu 1300",
        "-6 route add fc00:a::/64 dev flannel.1 table 99 metric 3 pref high",
    ):
        ns.ip(line)
    ns.bridge("fdb append 00:00:00:00:00:00 dev flannel.1 dst 192.0.2.7 self permanent")
    ns.bridge("fdb append 00:00:00:00:00:00 dev flannel.1 dst 192.0.2.8 port 4790 vni 9 self permanent")


def state(ns: Namespace) -> dict[str, Any]:
    """All that iproute2 sees, without lifetimes."""
    shown = {
        "links": "link show dev flannel.1",
        "addresses": "address show dev flannel.1",
        "hops": "nexthop show",
        "neighbours": "neighbour show nud permanent dev flannel.1",
        "neighbours6": "-6 neighbour show nud permanent dev flannel.1",
        "proxies": "neighbour show proxy",
        "routes": "route show table all",
        "routes6": "-6 route show table all",
    }
    found = {what: ns.ip_json(command) for what, command in shown.items()}
    found["fdb"] = sorted(ns.bridge_json("fdb show dev flannel.1"), key=str)
    return {what: sorted(bare(value), key=str) for what, value in found.items()}


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    rows = [(what, row) for what in before for row in before[what] + after[what]]
    return "; ".join(f"{what} {row}" for what, row in rows if (row in before[what]) != (row in after[what]))


def bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key not in VOLATILE}
    return [bare(item) for item in value] if isinstance(value, list) else value


def test_everything_on_the_device_is_as_it_was() -> None:
    with two_hosts() as (a, _):
        furnish(a)
        before = state(a)
        done = cycle(str(a.path), "flannel.1")
        assert done.lacking == ()
        assert done.lost == 18
        until(lambda: state(a) == before, f"all to be as it was: {difference(before, state(a))}")
        after = a.ip_json("route show 10.9.3.0/24")
        assert [route["gateway"] for route in after] == ["10.66.0.9", "10.66.0.10"], "of two alike, the same is first"


class Pings:
    """A thousand pings a second, and which were answered."""

    def __init__(self, ns: Namespace, target: str) -> None:
        with ns.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.settimeout(0.2)
        self._target = target
        self._end = threading.Event()
        self.sent: dict[int, float] = {}
        self.answered: dict[int, float] = {}
        self._threads = [threading.Thread(target=run) for run in (self._send, self._receive)]

    def __enter__(self) -> Pings:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _send(self) -> None:
        number = 0
        following = time.monotonic()
        while not self._end.is_set():
            self.sent[number] = time.monotonic()
            with contextlib.suppress(OSError):  # no route: an unanswered one
                self._socket.sendto(request(4, 77, number), (self._target, 0))
            number += 1
            following += 0.001
            threading.Event().wait(max(0.0, following - time.monotonic()))

    def _receive(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                said = answer(4, self._socket.recv(2048))
                if said is not None and said.identifier == 77 and not said.refusal:
                    self.answered[said.sequence] = time.monotonic()

    def lost(self, upto: int) -> int:
        """How many of the first so many had no answer. At one per millisecond, a starved machine sends fewer."""
        return upto - sum(number < upto for number in self.answered)


@pytest.mark.parametrize("routes", [0, 1000])
def test_traffic_hardly_notices(routes: int, tmp_path: Path) -> None:
    with two_hosts() as (a, _):
        batch = tmp_path / "batch"
        line = "route add 10.{}.{}.0/24 via 10.5.2.0 dev flannel.1 onlink proto 76 metric {}\n"
        batch.write_text("".join(line.format(20 + i // 250, i % 250, 8624 + i) for i in range(routes)))
        a.ip(f"-batch {batch}")
        before = state(a)["routes"]
        with Pings(a, "10.5.2.0") as pings:
            until(lambda: len(pings.answered) > 100, "pings to be answered")
            done = cycle(str(a.path), "flannel.1")
            mark = len(pings.sent)
            until(lambda: mark + 100 in pings.answered, "pings to be answered again")
        assert done.lacking == ()
        assert done.lost == routes + 2
        assert state(a)["routes"] == before
        assert pings.lost(mark) < 50


def test_a_link_that_is_down_is_set_up() -> None:
    with two_hosts() as (a, _):
        a.ip("link set flannel.1 down")
        done = cycle(str(a.path), "flannel.1")
        assert done.lacking == ()
        assert "UP" in a.ip_json("link show dev flannel.1")[0]["flags"]


def test_a_link_that_is_not_there_is_an_error_and_nothing_is_done() -> None:
    with two_hosts() as (a, _), pytest.raises(TargetError, match=r"there is no link flannel\.7: "):
        cycle(str(a.path), "flannel.7")


def test_what_cannot_be_put_back_is_named() -> None:
    """The kernel takes no route whose gateway is on no link by now."""
    with two_hosts() as (a, _):
        a.ip("route add 10.77.0.0/24 dev flannel.1")
        a.ip("route add 10.78.0.0/24 via 10.77.0.9")
        a.ip("route del 10.77.0.0/24")
        done = cycle(str(a.path), "flannel.1")
        assert done.lacking == ("route to 10.78.0.0/24: ENETUNREACH Nexthop has invalid gateway",)
        assert a.ip_json("route show 10.5.2.0/24")[0]["dev"] == "flannel.1"
