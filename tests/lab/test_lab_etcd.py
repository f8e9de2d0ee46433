"""etcd on hosts of a lab: one cluster, started, killed and started again with its data, and gone with the lab."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.harness import do, lab_up, on
from tests.lab.test_plain_lab import leftovers, weft_lab
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.errors import LabError
from weft.lab import services, state
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd]

CONFIG = {"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}
THREE = {
    "engine": "none",
    "daemon": "none",
    "segments": {"lan": {"subnets": ["192.168.77.0/24", "fd77::/64"]}},
    "hosts": {"a": {"etcd": {"config": CONFIG, "prefix": "/x"}}, "b": {"etcd": None}, "c": {"etcd": {}}, "d": None},
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(THREE, "etcds") as found:
        yield found


def etcdctl(lab: Lab, host: str, *words: str) -> str:
    return on(lab, host, ["env", "ETCDCTL_API=3", "etcdctl", *words])


def test_hosts_with_etcd_are_one_cluster_that_holds_the_config(lab: Lab) -> None:
    members = json.loads(etcdctl(lab, "b", "member", "list", "-w", "json"))["members"]
    assert {member["name"]: member["clientURLs"] for member in members} == {
        "a": ["http://192.168.77.11:2379"],
        "b": ["http://192.168.77.12:2379"],
        "c": ["http://192.168.77.13:2379"],
    }
    assert json.loads(etcdctl(lab, "c", "get", "--print-value-only", "/x/config")) == CONFIG


def test_a_killed_member_comes_back_with_its_data_and_the_others_go_on_meanwhile(lab: Lab) -> None:
    do(services.kill(lab.host("a"), "etcd"))
    assert weft_lab("status", "--lab", lab.name).returncode == 1

    def written() -> bool:
        words = ["env", "ETCDCTL_API=3", "etcdctl", "put", "/x/meanwhile", "yes"]
        return on(lab, "b", words, check=False) == "OK\n"

    until(written, "a leader among the others", timeout=30)
    do(services.start(lab.host("a"), "etcd"))
    assert etcdctl(lab, "a", "get", "--print-value-only", "/x/meanwhile") == "yes\n"
    done = weft_lab("status", "--lab", lab.name)
    assert done.returncode == 0
    assert done.stdout.count("    etcd runs, pid ") == 3


def test_verbs_know_etcd_and_where_there_is_none(lab: Lab) -> None:
    assert weft_lab("restart", "--lab", lab.name, "c", "etcd").returncode == 0
    assert "ready to serve client requests" in weft_lab("logs", "--lab", lab.name, "c").stdout
    with pytest.raises(LabError, match="host d has no `etcd` in its lab's file"):
        do(services.start(lab.host("d"), "etcd"))
    with pytest.raises(LabError, match=r"host a has `daemon: none`.*there is no flanneld"):
        do(services.start(lab.host("a"), "flanneld"))


def test_an_etcd_that_does_not_come_up_says_why(lab: Lab) -> None:
    do(services.stop(lab.host("b"), "etcd"))
    member = state.data(lab.name) / "b" / "etcd" / "member"
    kept = member.rename(member.with_name("kept"))
    member.write_text("not a directory")
    with pytest.raises(LabError, match=r"(?s)etcd on b does not come up:.*not a directory"):
        do(services.start(lab.host("b"), "etcd"))
    member.unlink()
    kept.rename(member)
    do(services.start(lab.host("b"), "etcd"))


def test_the_data_goes_with_the_lab() -> None:
    with lab_up({**THREE, "hosts": {"a": {"etcd": {}, "segments": {"lan": ["fd77::12"]}}}}, "gone") as lab:
        assert (state.data(lab.name) / "a" / "etcd" / "member").is_dir()
        assert "http://[fd77::12]:2379" in etcdctl(lab, "a", "member", "list")
    assert leftovers(lab.name) == []
