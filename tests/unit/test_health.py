"""The verdict: every kind of issue, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from weft.core.health import (
    MOST_ISSUES,
    Container,
    Counters,
    Etcd,
    Flow,
    Health,
    Issue,
    Overlay,
    Undone,
    Vitals,
    flow,
    judge,
)
from weft.model import Path, Problem, Reach

NOW = 1_700_000_000.0


def reach(node: str, state: str = "up", full: bool | None = True, kind: str = "tunnel", mtu: int = 1450) -> Reach:
    path = Path(node, kind, "flannel.1", ip_address("10.5.10.0"), ip_address("10.5.20.0"), mtu)  # type: ignore[arg-type]
    return Reach(path, state, NOW - 10, full, "no packet for 300 ms" if state == "down" else "")  # type: ignore[arg-type]


WELL = Vitals(
    now=NOW,
    interval=60,
    etcd=Etcd(True, NOW - 1000, True),
    overlay=Overlay("flannel.1", beside=True, present=True, leased=True),
    planned=True,
    registered=True,
    peers=frozenset({"babka", "pita"}),
    reaches=(reach("babka"), reach("pita")),
    container=Container("flannel", "running", started=NOW - 500),
    flow=Flow(Counters(NOW, 10, 10), NOW, NOW),
)


def only(vitals: Vitals) -> Issue:
    """The one issue."""
    health = judge(vitals)
    assert len(health.issues) == 1, health
    return health.issues[0]


def test_all_is_well() -> None:
    assert judge(WELL) == Health(
        "healthy", "all is well: 2 other hosts, 2 reached directly, 0 through another host", ()
    )
    alone = replace(WELL, peers=frozenset(), reaches=())
    assert judge(alone).status == "healthy"
    assert judge(replace(WELL, peers=frozenset({"pita"}))).message.startswith("all is well: 1 other host, 1")


def test_before_the_first_plan_it_is_starting() -> None:
    health = judge(replace(WELL, planned=False, waiting=("engine", "etcd")))
    assert health == Health("starting", "waiting for engine, etcd", ())
    assert judge(replace(WELL, planned=False)).message == "waiting for the first plan"


def test_while_etcd_does_not_have_this_hosts_networks_nothing_is_well_yet() -> None:
    """Who waits for `healthy` may rely on what other hosts read."""
    unregistered = replace(WELL, registered=False)
    assert judge(unregistered) == Health("starting", "waiting for etcd to have this host's registrations", ())
    away = replace(unregistered, etcd=Etcd(False, NOW - 5, True, "timed out"))
    assert judge(away).status == "degraded", "what is wrong is told as such"


def test_warnings_while_starting_stay_warnings() -> None:
    health = judge(replace(WELL, planned=False, problems=(Problem("docker", "docker can't be asked"),)))
    assert (health.status, health.issues[0].type) == ("starting", "container")


@pytest.mark.parametrize(
    ("known", "silent", "severity", "words"),
    [
        (False, 100, None, ""),
        (False, 200, "critical", "etcd has not answered for 3 min: refused"),
        (True, 100, "warning", "what was known is kept; check"),
        (True, 200, "warning", "registrations may have run out"),
        (True, 8000, "warning", "since 2 h"),
    ],
)
def test_etcd_that_is_silent(known: bool, silent: float, severity: str | None, words: str) -> None:
    health = judge(replace(WELL, etcd=Etcd(False, NOW - silent, known, "refused")))
    if severity is None:
        assert health.status == "healthy"
        return
    assert (health.issues[0].type, health.issues[0].severity) == ("etcd", severity)
    assert words in health.issues[0].message
    assert health.status == ("critical" if severity == "critical" else "degraded")


def test_etcd_without_a_reason() -> None:
    assert "40 s; what was known" in only(replace(WELL, etcd=Etcd(False, NOW - 40, True))).message


def test_a_missing_device_is_critical() -> None:
    issue = only(replace(WELL, overlay=Overlay("flannel.1", True, False, True)))
    assert (issue.type, issue.severity) == ("interface", "critical")
    assert "start flannel" in issue.message
    issue = only(replace(WELL, overlay=Overlay("vxlan7600", False, False)))
    assert (issue.type, issue.severity) == ("interface", "critical")


def test_a_device_may_be_missing_before_the_first_plan() -> None:
    assert judge(replace(WELL, planned=False, overlay=Overlay("flannel.1", True, False))).status == "starting"
    assert judge(replace(WELL, planned=False, overlay=Overlay("vxlan7600", False, False))).status == "starting"


def test_a_device_without_a_lease() -> None:
    issue = only(replace(WELL, overlay=Overlay("flannel.1", True, True, False)))
    assert (issue.type, issue.severity) == ("interface", "warning")


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (None, ""),
        (Container("flannel", "running", health="healthy"), ""),
        (Container("flannel", "running", health="unhealthy"), "calls itself unhealthy"),
        (Container("flannel", "stopped", seen=True), "has stopped: `docker logs flannel`"),
        (Container("flannel", "absent", seen=True), "was removed"),
        (Container("flannel", "absent"), ""),
        (Container("flannel", "unknown"), ""),
        (Container("flannel", "unknown", error="docker can't be asked"), "is not known: docker can't be asked"),
    ],
)
def test_the_container(container: Container | None, words: str) -> None:
    health = judge(replace(WELL, container=container))
    assert [i.type for i in health.issues] == (["container"] if words else [])
    assert not words or words in health.issues[0].message


def test_a_container_of_another_name() -> None:
    vitals = replace(WELL, container=Container("flannel", "absent"), overlay=Overlay("flannel.1", True, True, False))
    assert any("set FLANNEL_CONTAINER_NAME" in i.message for i in judge(vitals).issues)


def test_one_host_that_is_down_is_a_warning() -> None:
    health = judge(replace(WELL, reaches=(reach("babka"), reach("pita", "down"))))
    assert health.status == "degraded"
    assert health.issues == (Issue("connectivity", "pita is not reachable: no packet for 300 ms"),)


def test_all_hosts_down_is_critical_and_told_once() -> None:
    health = judge(replace(WELL, reaches=(reach("babka", "down"), reach("pita", "down"))))
    assert health.status == "critical"
    assert len(health.issues) == 1
    assert "no other host is reachable through flannel.1 (babka, pita)" in health.message


def test_of_many_hosts_five_are_named() -> None:
    peers = frozenset(f"h{n}" for n in range(8))
    health = judge(replace(WELL, peers=peers, reaches=tuple(reach(p, "down") for p in peers)))
    assert "(h0, h1, h2, h3, h4 and 3 more)" in health.message


def test_what_a_relay_reaches_is_reachable() -> None:
    vitals = replace(WELL, reaches=(reach("babka", "down"), reach("pita", "down")), relayed=frozenset({"pita"}))
    health = judge(vitals)
    assert health.status == "degraded"
    assert [i.message.split()[0] for i in health.issues] == ["babka"]


def test_unknown_is_not_down_and_the_underlay_does_not_count() -> None:
    vitals = replace(WELL, reaches=(reach("babka", "unknown"), reach("pita", "down", kind="underlay")))
    assert judge(vitals).status == "healthy"
    assert judge(replace(WELL, reaches=(reach("gone", "down"),))).status == "healthy"


def test_large_packets_that_get_lost() -> None:
    issue = only(replace(WELL, reaches=(reach("babka", full=False), reach("pita", full=None))))
    assert issue.message.startswith("packets of 1450 octets to babka get lost")
    issue = only(replace(WELL, reaches=(reach("babka", full=False, mtu=0),)))
    assert issue.message.startswith("full-size packets to babka")


def test_a_tunnel_that_only_sends() -> None:
    silent = Flow(Counters(NOW, 10, 99), NOW - 70, NOW - 1)
    issue = only(replace(WELL, flow=silent))
    assert (issue.type, issue.severity) == ("traffic", "warning")
    assert "received none for 70 s" in issue.message
    assert judge(replace(WELL, flow=replace(silent, heard=NOW - 50))).status == "healthy"
    assert judge(replace(WELL, flow=replace(silent, sent=NOW - 90))).status == "healthy"
    assert judge(replace(WELL, flow=silent, peers=frozenset(), reaches=())).status == "healthy"
    assert judge(replace(WELL, flow=None)).status == "healthy"


def test_counters_that_stand_still() -> None:
    first = flow(None, Counters(100, 5, 5))
    assert (first.heard, first.sent) == (100, 100)
    sending = flow(first, Counters(110, 5, 9))
    assert (sending.heard, sending.sent) == (100, 110)
    hearing = flow(sending, Counters(120, 6, 9))
    assert (hearing.heard, hearing.sent) == (120, 110)
    assert flow(hearing, Counters(130, 0, 9)).heard == 130  # another device
    assert flow(hearing, Counters(130, 7, 0)).sent == 130


@pytest.mark.parametrize(
    ("subject", "kind"),
    [
        ("etcd", "etcd"),
        ("docker", "container"),
        ("host", "interface"),
        ("firewall", "traffic"),
        ("network web", "routes"),
    ],
)
def test_problems_are_sorted_by_what_they_are_about(subject: str, kind: str) -> None:
    assert only(replace(WELL, problems=(Problem(subject, "it is broken"),))).type == kind


def test_remarks_are_no_issues_and_nothing_is_said_twice() -> None:
    said = Problem("pita", "10.9.1.0/24 is claimed by babka and pita")
    course = Problem("pita", "no way to pita")
    vitals = replace(
        WELL, problems=(said, course, Problem("x", "fine", wrong=False)), conflicts=(said,), courses=(course,)
    )
    assert [(i.type, i.message) for i in judge(vitals).issues] == [
        ("connectivity", "no way to pita"),
        ("routes", "10.9.1.0/24 is claimed by babka and pita"),
    ]
    fine = Problem("x", "fine", wrong=False)
    assert judge(replace(WELL, conflicts=(fine,), courses=(fine,))).status == "healthy"


def test_objects_that_are_not_done() -> None:
    failing = Undone("route 10.9.1.0/24", "error", "ENETDOWN", NOW - 30, attempts=4)
    assert only(replace(WELL, undone=(failing,))).message == "route 10.9.1.0/24 is not as it must be: ENETDOWN"
    taken = Undone("chain WEFT-FWD", "conflict", "somebody's", NOW, attempts=1)
    issue = only(replace(WELL, undone=(taken,)))
    assert (issue.type, "left alone" in issue.message) == ("traffic", True)


@pytest.mark.parametrize(("since", "attempts"), [(NOW - 1, 4), (NOW - 30, 1)])
def test_what_the_next_attempt_mends_is_no_issue(since: float, attempts: int) -> None:
    vitals = replace(WELL, undone=(Undone("route x", "error", "EBUSY", since, attempts),))
    assert judge(vitals).status == "healthy"


def test_the_worst_comes_first_and_the_rest_is_counted() -> None:
    undone = tuple(Undone(f"route {n:04}", "conflict", "taken", NOW) for n in range(200))
    health = judge(replace(WELL, undone=undone, overlay=Overlay("flannel.1", True, False, True)))
    assert health.issues[0].severity == "critical"
    assert health.message.endswith("(and 200 more)")
    assert len(health.issues) == MOST_ISSUES
    assert health.issues[-1].message == "and 152 more issues; see `weft show status`"
