"""`weft leases` and `weft flannel-config` against a real etcd. Its hosts have addresses of 127.0.0.0/8, which all
answer a ping; in a namespace without a route nobody does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.support.etcd import Etcd, cluster, needs_etcd
from tests.support.namespace import namespace
from tests.support.needs import needs_root
from weft.cli import main as cli

pytestmark = [needs_etcd, needs_root]
CONFIG = '{"Network": "127.5.0.0/16", "SubnetLen": 24, "Backend": {"Type": "vxlan"}}'
ALIVE = '{"PublicIP":"127.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"82:00:00:00:00:01"}}'  # noqa: E501
_numbers = count()


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with cluster() as one:
        yield one


@dataclass
class Shell:
    etcd: Etcd
    prefix: str
    capture: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr of `weft WORDS`."""
        self.capture.readouterr()
        code = 0
        try:
            cli.main(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = self.capture.readouterr()
        return code, out, err

    def put(self, key: str, value: str, seconds: int = 0) -> None:
        options = []
        if seconds:
            options = ["--lease", self.etcd.ctl("lease", "grant", str(seconds)).split()[1]]
        self.etcd.ctl("put", *options, f"{self.prefix}/{key}", value)

    def get(self, key: str) -> str:
        return self.etcd.ctl("get", "--print-value-only", f"{self.prefix}/{key}").strip()


@pytest.fixture
def weft(etcd: Etcd, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in [name for name in os.environ if name.startswith(("WEFT_", "FLANNELD_"))]:
        monkeypatch.delenv(name)
    shell = Shell(etcd, f"/cli-{next(_numbers)}", capsys)
    monkeypatch.setenv("FLANNELD_ETCD_ENDPOINTS", ",".join(etcd.endpoints))
    monkeypatch.setenv("FLANNELD_ETCD_PREFIX", shell.prefix)
    shell.put("config", CONFIG)
    return shell


def test_list(weft: Shell) -> None:
    assert weft("leases") == (0, f"nobody holds a subnet under {weft.prefix}\n", "")
    weft.put("subnets/127.5.7.0-24", ALIVE, 86400)
    weft.put("subnets/127.5.8.0-24", '{"PublicIP":"192.0.2.8"}')
    weft.put("subnets/127.5.9.0-24", '{"PublicIP":null}')
    weft.put("weft/daemons/192.0.2.8", "{}")
    code, out, err = weft("leases")
    assert code == 0
    head, leased, reserved, unread = out.splitlines()
    assert head.split("  ")[0] == "SUBNET"
    assert leased.split()[:5] == ["127.5.7.0/24", "127.0.2.1", "vxlan", "82:00:00:00:00:01", "23"]
    assert leased.endswith("leased, mine")
    assert reserved.split() == ["127.5.8.0/24", "192.0.2.8", "-", "-", "never", "-", "reserved,", "weft"]
    assert "somebody whose value can't be read" in unread
    assert "127.5.9.0-24" in err
    code, out, _ = weft("leases", "list", "--json")
    shown = json.loads(out)["leases"][0]
    assert 86000 < shown.pop("expires_in") <= 86400
    assert 0 <= shown.pop("renewed") < 400
    assert shown == {
        "subnet": "127.5.7.0/24",
        "public_ip": "127.0.2.1",
        "backend": "vxlan",
        "end": "82:00:00:00:00:01",
        "state": "leased, mine",
    }


def test_list_with_a_probe(weft: Shell) -> None:
    weft.put("subnets/127.5.7.0-24", ALIVE, 86400)
    code, out, _ = weft("leases", "--probe")
    assert (code, out.splitlines()[1].endswith("leased, mine, alive")) == (0, True)


def test_release_refuses_what_lives_and_what_is_not_there(weft: Shell) -> None:
    weft.put("subnets/127.5.7.0-24", ALIVE, 86400)
    weft.put("subnets/127.5.8.0-24", '{"PublicIP":"127.0.2.8"}')
    code, _, err = weft("leases", "release", "127.5.7.0/24")
    assert code == 1
    assert "127.0.2.1, who holds 127.5.7.0/24, lives: 127.0.2.1, 127.5.7.0 answers" in err
    assert weft("leases", "release", "127.5.66.0/24")[2].startswith("weft: nobody holds 127.5.66.0/24")
    assert "is a reservation: weft leases unreserve 127.5.8.0/24" in weft("leases", "release", "127.5.8.0/24")[2]
    assert "is a lease: weft leases release 127.5.7.0/24" in weft("leases", "unreserve", "127.5.7.0/24")[2]
    assert "is not a subnet such as" in weft("leases", "release", "nonsense")[2]
    weft.put("weft/daemons/127.0.2.1", "{}")
    assert "its weft daemon was there in the last minute" in weft("leases", "release", "127.5.7.0/24")[2]
    assert weft.get("subnets/127.5.7.0-24") == ALIVE


def test_release_and_unreserve_by_force(weft: Shell) -> None:
    weft.put("subnets/127.5.7.0-24", ALIVE, 86400)
    weft.put("subnets/127.5.8.0-24", '{"PublicIP":"127.0.2.8"}')
    code, out, _ = weft("leases", "release", "127.5.7.0/24", "--force")
    assert (code, out.startswith("127.5.7.0/24 of 127.0.2.1 is free now")) == (0, True)
    assert weft("leases", "unreserve", "127.5.8.0-24", "--force")[0] == 0
    assert weft("leases")[1].startswith("nobody holds")


def test_release_of_a_host_that_does_not_answer() -> None:
    """Inside a namespace without any route: whom nobody reaches is dead."""
    with namespace("leases") as ns, cluster(namespace=ns) as etcd:
        lease = etcd.ctl("lease", "grant", "86400").split()[1]
        etcd.ctl("put", "--lease", lease, "/p/subnets/10.5.7.0-24", ALIVE.replace("127.0.2.1", "192.0.2.7"))
        command = [sys.executable, "-m", "weft.cli.main", "leases"]
        options = ["--etcd-endpoints", etcd.endpoints[0], "--etcd-prefix", "/p"]
        assert "silent" in ns.run(*command, "list", "--probe", *options)
        assert "is free now" in ns.run(*command, "release", "10.5.7.0/24", *options)
        assert etcd.ctl("get", "--prefix", "/p") == ""


def test_reserve(weft: Shell) -> None:
    code, out, _ = weft("leases", "reserve", "127.5.20.0/24", "--public-ip", "192.0.2.20")
    assert (code, out) == (0, "127.5.20.0/24 is reserved for 192.0.2.20\n")
    assert weft.get("subnets/127.5.20.0-24") == '{"PublicIP":"192.0.2.20","PublicIPv6":null}'
    code, out, _ = weft("leases", "reserve", "127.5.21.0/24", "--public-ip", "192.0.2.20")
    assert "that host has 127.5.20.0/24 now. To move it" in out
    for words, reason in (
        (("127.5.20.0/24", "--public-ip", "192.0.2.99"), "127.5.20.0/24 is held by 192.0.2.20"),
        (("127.5.0.0/24", "--public-ip", "192.0.2.99"), "the config would not give that out"),
        (("127.5.20.128/25", "--public-ip", "192.0.2.99", "--force"), "127.5.20.0/24 is held by 192.0.2.20"),
        (("127.5.22.0/24", "127.5.23.0/24", "--public-ip", "192.0.2.99"), "one subnet of each family"),
    ):
        code, _, err = weft("leases", "reserve", *words)
        assert code == 1
        assert reason in err
    assert weft("leases", "reserve", "127.5.22.0/24", "--public-ip", "nobody")[0] == 2
    assert weft("leases", "reserve", "127.6.0.0/24", "--public-ip", "192.0.2.99", "--force")[0] == 0


def test_a_lease_is_made_a_reservation_with_all_that_it_says(weft: Shell) -> None:
    weft.put("subnets/127.5.7.0-24", ALIVE, 86400)
    assert weft("leases", "reserve", "127.5.7.0/24", "--public-ip", "127.0.2.1")[0] == 0
    assert weft.get("subnets/127.5.7.0-24") == ALIVE
    assert "never" in weft("leases")[1]


def test_config_show_check_and_set(weft: Shell, tmp_path: Path) -> None:
    code, out, _ = weft("flannel-config", "show")
    assert (code, json.loads(out)) == (0, json.loads(CONFIG))
    code, out, _ = weft("flannel-config", "show", "--effective")
    assert json.loads(out)["SubnetMax"] == "127.5.255.0"
    good = '{"Network": "10.77.0.0/16", "SubnetMin": "10.77.10.0", "Backend": {"Type": "vxlan", "Port": 8472}}'
    assert weft("flannel-config", "check", good) == (0, "the config is good\n", "")
    file = tmp_path / "config.json"
    file.write_text(good)
    assert weft("flannel-config", "set", f"@{file}")[:2] == (0, f"written: {weft.prefix}/config\n")
    assert weft.get("config") == good
    assert weft("flannel-config", "check")[0] == 0
    code, _, err = weft("flannel-config", "set", '{"Backend": {"Type": "vxlan"}}')
    assert code == 1
    assert "please define a correct Network parameter in the flannel config" in err
    assert weft.get("config") == good
    assert weft("flannel-config", "set", "@/none")[0] == 1


def test_config_that_leases_do_not_fit(weft: Shell) -> None:
    weft.put("subnets/127.5.7.0-24", ALIVE, 86400)
    other = CONFIG.replace("127.5", "10.77")
    code, out, _ = weft("flannel-config", "check", other)
    assert code == 1
    assert "1 leases do not fit the config, and their hosts change subnet at their next start: 127.5.7.0/24" in out
    code, _, err = weft("flannel-config", "set", other)
    assert code == 1
    assert err.startswith("weft: nothing was written")
    assert weft.get("config") == CONFIG
    code, out, err = weft("flannel-config", "set", other, "--force")
    assert code == 0
    assert "do not fit" in err
    assert "restart the daemons of 1 hosts" in out
    assert weft.get("config") == other


def test_without_a_config_or_an_etcd(weft: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLANNELD_ETCD_PREFIX", "/none")
    code, _, err = weft("flannel-config", "show")
    assert (code, err.startswith("weft: there is no config in /none/config")) == (1, True)
    code, _, err = weft("leases", "reserve", "127.5.20.0/24", "--public-ip", "192.0.2.20")
    assert (code, "there is no config in /none/config" in err) == (1, True)
    code, _, err = weft("leases", "--etcd-endpoints", "http://127.0.0.1:1")
    assert code == 1
    assert "127.0.0.1:1" in err
