"""Settings: which source wins, and errors that name the key, the value and the nearest right one."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from weft.cli.agent import as_markdown
from weft.errors import SettingsError
from weft.settings import PRIVATE, Settings, describe, load, shared_key


def test_nothing_set_is_the_documents_defaults() -> None:
    settings = load({"PATH": "/bin"})
    assert settings == Settings()
    assert (settings.port, settings.discovery_port, settings.announce_interval, settings.peer_timeout) == (
        4789,
        4790,
        30,
        90,
    )
    assert settings.allowed == PRIVATE


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("vni: 1\nport: 2\nmetric: 3\n")
    settings = load({"WEFT_VNI": "10", "WEFT_PORT": "20", "WEFT_CONFIG": str(file)}, {"vni": "100"})
    assert (settings.vni, settings.port, settings.metric, settings.discovery_port) == (100, 20, 3, 4790)
    assert load({}, {}, file).vni == 1
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert load({}, {}, empty) == Settings()


def test_lists_durations_and_switches() -> None:
    settings = load(
        {
            "WEFT_ENDPOINT": "192.0.2.1, fd00::1",
            "WEFT_ALLOWED": "10.0.0.0/8",
            "WEFT_ANNOUNCE_INTERVAL": "500ms",
            "WEFT_PEER_TIMEOUT": "2m",
            "WEFT_LEARNING": "yes",
            "WEFT_MULTICAST_GROUP": "ff02::9",
            "WEFT_PEERS": "",
        }
    )
    assert settings.endpoint == (ip_address("192.0.2.1"), ip_address("fd00::1"))
    assert settings.allowed == (ip_network("10.0.0.0/8"),)
    assert (settings.announce_interval, settings.peer_timeout, settings.learning) == (0.5, 120.0, True)
    assert settings.multicast_group == ip_address("ff02::9")
    assert settings.peers == ()


def test_networks_from_environment_and_from_yaml_come_to_the_same(tmp_path: Path) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("engine: static\nnetworks:\n  web: [10.1.0.0/24, 'fd00:1::/64']\n  db: 10.2.0.0/24\n")
    text = "web=10.1.0.0/24,db=10.2.0.0/24,web=fd00:1::/64"
    from_environment = load({"WEFT_ENGINE": "static", "WEFT_NETWORKS": text})
    assert load({}, {}, file) == from_environment
    assert [n.name for n in from_environment.networks] == ["db", "web"]
    assert all(n.since == 0 for n in from_environment.networks)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WEFT_VNII": "1"}, r"WEFT_VNII = '1': there is no setting 'vnii'; did you mean vni \(WEFT_VNI\)\?"),
        ({"WEFT_ZZZZZZ": "1"}, "there is no setting 'zzzzzz'; known are node, interface"),
        ({"WEFT_VNI": "0"}, "WEFT_VNI = '0': expected a whole number >= 1"),
        ({"WEFT_PORT": "tcp://172.17.0.2"}, "WEFT_PORT = 'tcp://172.17.0.2': expected a whole number"),
        ({"WEFT_ENGINE": "dokcer"}, r"one of docker, static \(did you mean docker\?\)"),
        ({"WEFT_ENGINE": "17"}, "one of docker, static$"),
        ({"WEFT_ALLOWED": "10.0.0.1/8"}, r"has host bits set; did you mean 10.0.0.0/8\?"),
        ({"WEFT_ALLOWED": "10.0.0.0/99"}, "WEFT_ALLOWED = '10.0.0.0/99': "),
        ({"WEFT_ENDPOINT": "1.2.3"}, "does not appear to be an IPv4 or IPv6 address"),
        ({"WEFT_ENDPOINT": "192.0.2.1,192.0.2.2"}, "names two addresses of one family"),
        ({"WEFT_INTERVAL": "soon"}, "not a duration; e.g. 30, 30s, 500ms or 2m"),
        ({"WEFT_INTERVAL": "0"}, "expected a number > 0"),
        ({"WEFT_LEARNING": "perhaps"}, "expected yes or no"),
        ({"WEFT_PEER_TIMEOUT": "31"}, "less than twice announce_interval = 30 s.*peer_timeout = 90"),
        ({"WEFT_MULTICAST_GROUP": "192.0.2.1"}, "no multicast address; e.g. 239.1.1.1"),
        ({"WEFT_ENGINE": "static"}, "engine = static needs networks"),
        ({"WEFT_NETWORKS": "10.1.0.0/24"}, "'10.1.0.0/24' is not NAME=SUBNET"),
        ({"WEFT_KEY": "a", "WEFT_KEY_FILE": "/b"}, "key and key_file are both set"),
        ({"WEFT_NODE": "a\nb"}, r"node = 'a\\nb' can't be an id"),
        ({"WEFT_NODE": "x" * 201}, "can't be an id: printable text of at most 200 octets"),
        ({"WEFT_METRIC": "8000"}, "metric = 8000: routes get metrics from 8000 to 9023, .* are `weft registrar`'s"),
        ({"WEFT_MTU": "40"}, "mtu = 40 is less than 646"),
        ({"WEFT_ENDPOINT": "127.0.0.1"}, "can't be another host's way to anything"),
        ({"WEFT_PEERS": "ff02::1"}, "can't be another host's way to anything"),
        ({"WEFT_PEERS": "192.0.2.1,fd00::1"}, "mix IPv4 and IPv6 .*HELLOs go over one of them"),
        ({"WEFT_PEERS": "192.0.2.1", "WEFT_UNDERLAY": "ipv6"}, "mix IPv4 and IPv6"),
        ({"WEFT_ENGINE": "static", "WEFT_NETWORKS": "a=10.1.0.0/24,b=10.1.0.0/25"}, "a subnet is one network's"),
        ({"WEFT_CONFIG": "/nonexistent/weft.yaml"}, "the settings file /nonexistent/weft.yaml can't be read"),
    ],
)
def test_bad_input_names_the_key_the_value_and_what_is_right(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(environment)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- a\n", "must be a mapping of settings"),
        ("vnj: 1\n", "weft.yaml: vnj = 1: there is no setting 'vnj'; did you mean vni"),
        ("a: [\n", "can't be read"),
        ("networks: {web: 10.1.0.0/33}\n", "weft.yaml: networks = "),
    ],
)
def test_a_bad_file_names_itself(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=said):
        load({}, {}, file)


def test_the_shared_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(" secret\n")
    assert shared_key(Settings()) is None
    assert shared_key(Settings(key="k")) == b"k"
    assert shared_key(Settings(key_file=str(file))) == b"secret"
    file.write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        shared_key(Settings(key_file=str(file)))
    with pytest.raises(SettingsError, match="can't be read"):
        shared_key(Settings(key_file=str(tmp_path / "none")))


def test_docs_settings_is_what_the_table_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text() == as_markdown(describe()), "make it anew: weft settings --markdown > docs/settings.md"
