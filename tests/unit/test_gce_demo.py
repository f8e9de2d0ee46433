"""deploy/gce-demo, read as Terraform and cloud-init read it: what is opened, what is put where, and from which file.

That the scripts do what they should is tests/lab/test_deploying_flannel.py's business: it runs these very files.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "deploy" / "gce-demo"
SCRIPTS = sorted((DEMO / "scripts").glob("*.sh"))
GIVEN = re.compile(r"(\w+)\s*=\s*")
FILE = re.compile(r"\$\{path\.module\}/([^\"]+)")


def plain(value: Any) -> Any:
    """What hcl2 read, without the quotes that it keeps around strings and without its own marks."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [plain(item) for item in value]
    quoted = isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"'
    return value[1:-1] if quoted else value


def blocks(kind: str) -> Iterator[dict[str, Any]]:
    """Every block of that kind in all files."""
    for path in sorted(DEMO.glob("*.tf")):
        with path.open(encoding="utf-8") as file:
            yield from plain(hcl2.load(file)).get(kind, [])


def resources(kind: str) -> dict[str, dict[str, Any]]:
    """Name → body of every resource of that type."""
    return {name: body for block in blocks("resource") for name, body in block.get(kind, {}).items()}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    (found,) = blocks("locals")
    return found


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "deploying-flannel.yaml").read_text())
    return found


def test_the_addresses_are_those_of_the_document_and_of_the_lab(
    values: dict[str, Any], example: dict[str, Any]
) -> None:
    assert values["etcd"]["address"] == "10.0.1.2"
    assert {name: cell["address"] for name, cell in values["cells"].items()} == {
        "cell-1": "10.0.1.3",
        "cell-2": "10.0.2.3",
    }
    assert values["subnetworks"] == {name: segment["subnet"] for name, segment in example["segments"].items()}
    for name, host in {"etcd": values["etcd"], **values["cells"]}.items():
        assert example["hosts"][name]["segments"] == {host["subnetwork"]: host["address"]}
        assert ip_address(host["address"]) in ip_network(values["subnetworks"][host["subnetwork"]])


def test_the_cells_hold_the_containers_and_etcd_the_config_of_the_lab(
    values: dict[str, Any], example: dict[str, Any]
) -> None:
    assert values["flannel"] == example["hosts"]["etcd"]["etcd"]["config"]
    for name, cell in values["cells"].items():
        assert cell["containers"] == example["hosts"][name]["networks"]["cell"]["containers"]


def test_every_instance_has_its_static_address() -> None:
    assert {name: body["address"] for name, body in resources("google_compute_address").items()} == {
        "etcd": "${local.etcd.address}",
        "cell": "${each.value.address}",
    }
    for body in resources("google_compute_address").values():
        assert body["address_type"] == "INTERNAL"
    wired = {name: body["network_interface"][0] for name, body in resources("google_compute_instance").items()}
    assert {name: body["network_ip"] for name, body in wired.items()} == {
        "etcd": "${google_compute_address.etcd.address}",
        "cell": "${google_compute_address.cell[each.key].address}",
    }


def test_the_firewall_lets_in_what_is_needed_and_no_more() -> None:
    found = {
        name: (
            tuple((allow["protocol"], *allow.get("ports", [])) for allow in body["allow"]),
            body.get("source_tags") or body["source_ranges"],
            body["target_tags"],
        )
        for name, body in resources("google_compute_firewall").items()
    }
    assert found == {
        "ssh": ((("tcp", "22"),), "${var.ssh_from}", ["etcd", "cell"]),
        "etcd": ((("tcp", "2379"),), ["cell"], ["etcd"]),
        "vxlan": ((("udp", "${tostring(local.flannel.Backend.Port)}"),), ["cell"], ["cell"]),
        "icmp": ((("icmp",),), "${values(local.subnetworks)}", ["etcd", "cell"]),
    }
    tags = {name: body["tags"] for name, body in resources("google_compute_instance").items()}
    assert tags == {"etcd": ["etcd"], "cell": ["cell"]}
    (network,) = resources("google_compute_network").values()
    assert network["auto_create_subnetworks"] is False


def test_every_variable_says_what_it_is_and_those_that_matter_are_checked() -> None:
    found = {name: body for block in blocks("variable") for name, body in block.items()}
    assert all(body["description"] and body["type"] for body in found.values())
    assert {name for name, body in found.items() if "default" not in body} == {"project", "ssh_from"}
    assert {name for name, body in found.items() if "validation" in body} >= {"project", "ssh_from", "zones"}
    text = "".join(path.read_text() for path in DEMO.glob("*.tf"))
    assert {name for name in found if f"var.{name}" not in text.replace(f'variable "{name}"', "")} == set()
    said = (DEMO / "terraform.tfvars.example").read_text()
    assert {match[1] for match in re.finditer(r"^(\w+)\s*=", said, re.MULTILINE)} == {"project", "ssh_from"}


def test_nothing_keeps_terraform_destroy_from_removing_everything() -> None:
    text = "".join(path.read_text() for path in DEMO.glob("*.tf"))
    assert "prevent_destroy" not in text
    assert "deletion_protection" not in text


def test_every_file_that_terraform_reads_is_there_and_every_script_and_unit_is_used() -> None:
    named = {DEMO / path for text in (path.read_text() for path in DEMO.glob("*.tf")) for path in FILE.findall(text)}
    assert {path for path in named if not path.is_file()} == set()
    there = {path.resolve() for folder in ("scripts", "units", "cloud-init") for path in (DEMO / folder).iterdir()}
    assert {path.resolve() for path in named} == there | {ROOT / "deploy" / "systemd" / "flanneld.service"}


@pytest.mark.parametrize("instance", ["etcd", "cell"])
def test_a_template_is_given_exactly_the_variables_that_it_uses(instance: str) -> None:
    call = resources("google_compute_instance")[instance]["metadata"]["user-data"]
    template = (DEMO / FILE.findall(call)[0]).read_text()
    looped = set(re.findall(r"%\{ for (\w+) in", template))
    used = set(re.findall(r"\$\{(?:\w+\()?(?:\" \", )?(\w+)", template)) | set(re.findall(r" in (\w+) ~\}", template))
    assert used - looped == set(GIVEN.findall(call[call.index("{", 2) :].replace("${path.module}", "")))


def test_cloud_init_puts_the_very_files_of_this_tree_in_place() -> None:
    cell = cloud_config("cell")
    written = {entry["path"]: entry for entry in cell["write_files"]}
    for path, source in {
        "/usr/local/sbin/bridge.sh": DEMO / "scripts" / "bridge.sh",
        "/usr/local/sbin/install.sh": DEMO / "scripts" / "install.sh",
        "/etc/systemd/system/flanneld.service": ROOT / "deploy" / "systemd" / "flanneld.service",
        "/etc/systemd/system/bridge.service": DEMO / "units" / "bridge.service",
        "/etc/systemd/system/serve@.service": DEMO / "units" / "serve@.service",
    }.items():
        assert written[path]["content"] == source.read_text()
        assert written[path].get("permissions") == ("0755" if path.endswith(".sh") else None)
    assert written["/etc/default/flanneld"]["content"] == "FLANNELD_ETCD_ENDPOINTS=http://10.0.1.2:2379\n"
    assert written["/etc/default/containers"]["content"] == "CONTAINERS=con_a con_b\n"
    assert [line for line in cell["runcmd"] if "serve@" in line[-1]] == [
        ["systemctl", "enable", "--now", f"serve@{name}.service"] for name in ("con_a", "con_b")
    ]


def test_cloud_init_gives_etcd_its_config_and_the_script_that_puts_it(values: dict[str, Any]) -> None:
    written = {entry["path"]: entry for entry in cloud_config("etcd")["write_files"]}
    assert json.loads(written["/etc/flannel/config.json"]["content"]) == values["flannel"]
    assert written["/usr/local/sbin/config.sh"]["content"] == (DEMO / "scripts" / "config.sh").read_text()
    listen = written["/etc/systemd/system/etcd.service.d/listen.conf"]["content"]
    assert "ETCD_LISTEN_CLIENT_URLS=http://10.0.1.2:2379,http://127.0.0.1:2379" in listen


def test_what_the_units_call_is_what_cloud_init_writes_or_installs() -> None:
    units = [*(DEMO / "units").iterdir(), ROOT / "deploy" / "systemd" / "flanneld.service"]
    called = {
        line.split("=", 1)[1].split()[0]
        for unit in units
        for line in unit.read_text().splitlines()
        if "ExecStart=" in line
    }
    written = {entry["path"] for instance in ("etcd", "cell") for entry in cloud_config(instance)["write_files"]}
    assert called - written == {"/opt/weft/bin/weft", "/usr/sbin/ip"}
    assert "/opt/weft" in (DEMO / "scripts" / "install.sh").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_stops_at_the_first_error_and_may_be_run(script: Path) -> None:
    assert "set -eu" in script.read_text()
    assert script.stat().st_mode & 0o111
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


# -- helpers --------------------------------------------------------------------------------------------------------


def cloud_config(instance: str) -> dict[str, Any]:
    """The instance's user-data (cell-1's of the cells), filled in from the locals as Terraform would."""
    (values,) = blocks("locals")
    call = resources("google_compute_instance")[instance]["metadata"]["user-data"]
    template, *_ = FILE.findall(call)
    cell = values["cells"]["cell-1"]
    given: dict[str, Any] = {
        name: (DEMO / path).read_text()
        for name, path in re.findall(r"(\w+) = file\(\"\$\{path\.module\}/([^\"]+)", call)
    }
    given |= {"address": values["etcd"]["address"], "config": json.dumps(values["flannel"])}
    given |= {"containers": cell["containers"], "weft_package": "weft"}
    given |= {"etcd_endpoints": f"http://{values['etcd']['address']}:2379"}
    text = (DEMO / template).read_text()
    text = re.sub(
        r"%\{ for container in containers ~\}\n(.*?)%\{ endfor ~\}\n",
        lambda loop: "".join(loop[1].replace("${container}", name) for name in cell["containers"]),
        text,
        flags=re.DOTALL,
    )
    text = re.sub(r"\$\{jsonencode\((\w+)\)\}", lambda found: json.dumps(given[found[1]]), text)
    text = re.sub(r"\$\{join\(\" \", (\w+)\)\}", lambda found: " ".join(given[found[1]]), text)
    text = re.sub(r"\$\{(\w+)\}", lambda found: str(given[found[1]]), text)
    assert text.startswith("#cloud-config\n")
    config: dict[str, Any] = yaml.safe_load(text)
    return config
