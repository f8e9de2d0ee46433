"""`weft docker-opts` gives Docker what flannel's mk-docker-opts.sh gave it."""

from __future__ import annotations

import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from weft.cli import main as cli

FOUR = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.10.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
BOTH = FOUR + "FLANNEL_IPV6_NETWORK=fc00:5::/48\nFLANNEL_IPV6_SUBNET=fc00:5:0:42::1/64\n"
INDIVIDUAL = 'DOCKER_OPT_BIP="--bip=10.5.10.1/24"\nDOCKER_OPT_IPMASQ="--ip-masq=false"\nDOCKER_OPT_MTU="--mtu=1450"\n'
COMBINED = 'DOCKER_OPTS=" --bip=10.5.10.1/24 --ip-masq=false --mtu=1450"\n'


class Desk:
    """A folder with a subnet.env in it, and the command to run there."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.source, self.result = folder / "subnet.env", folder / "docker_opts.env"
        self.source.write_text(FOUR)
        self.capture = capture

    def weft(self, *words: str) -> str:
        """What was written or, with --stdout, printed."""
        code, printed, error = self.run(*words)
        assert (code, error) == (0, "")
        return printed if "--stdout" in words else self.result.read_text()

    def run(self, *words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["docker-opts", "-f", str(self.source), "-d", str(self.result), *words])
        out, err = self.capture.readouterr()
        return int(end.value.code or 0), out, err

    def refused(self, *words: str) -> str:
        code, out, err = self.run(*words)
        assert (code, out) == (2, "")
        assert not self.result.exists()
        return err


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.delenv("DOCKER_OPTS", raising=False)
    return Desk(tmp_path, capsys)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], INDIVIDUAL + COMBINED),
        (["-i", "-c"], INDIVIDUAL + COMBINED),
        (["--individual"], INDIVIDUAL),
        (["-i"], INDIVIDUAL),
        (["-c"], COMBINED),
        (["--combined"], COMBINED),
        (["-c", "-k", "OPTS"], COMBINED.replace("DOCKER_OPTS", "OPTS")),
        (["-c", "--combined-key", "OPTS"], COMBINED.replace("DOCKER_OPTS", "OPTS")),
        (["-c", "-m"], 'DOCKER_OPTS=" --bip=10.5.10.1/24 --mtu=1450"\n'),
        (["-ci", "--no-ip-masq"], INDIVIDUAL.replace('DOCKER_OPT_IPMASQ="--ip-masq=false"\n', "")
         + 'DOCKER_OPTS=" --bip=10.5.10.1/24 --mtu=1450"\n'),
    ],
)  # fmt: skip
def test_the_options(desk: Desk, words: list[str], text: str) -> None:
    assert desk.weft(*words) == text
    desk.result.unlink()
    assert desk.weft("--stdout", *words) == text
    assert not desk.result.exists()


def test_docker_masquerades_where_flannel_does_not(desk: Desk) -> None:
    desk.source.write_text(FOUR.replace("true", "false"))
    assert desk.weft("-c") == COMBINED.replace("--ip-masq=false", "--ip-masq=true")


def test_an_older_file_says_nothing_of_masquerading(desk: Desk) -> None:
    desk.source.write_text(FOUR.replace("FLANNEL_IPMASQ=true\n", ""))
    assert desk.weft("-c") == 'DOCKER_OPTS=" --bip=10.5.10.1/24 --mtu=1450"\n'


def test_ipv6_comes_with_ipv6_lines(desk: Desk) -> None:
    desk.source.write_text(BOTH)
    assert desk.weft() == (
        'DOCKER_OPT_BIP="--bip=10.5.10.1/24"\nDOCKER_OPT_FIXED_CIDR_V6="--fixed-cidr-v6=fc00:5:0:42::/64"\n'
        'DOCKER_OPT_IPMASQ="--ip-masq=false"\nDOCKER_OPT_IPV6="--ipv6"\nDOCKER_OPT_MTU="--mtu=1450"\n'
        'DOCKER_OPTS=" --bip=10.5.10.1/24 --fixed-cidr-v6=fc00:5:0:42::/64 --ip-masq=false --ipv6 --mtu=1450"\n'
    )
    desk.source.write_text("".join(line for line in BOTH.splitlines(True) if "10.5" not in line))
    assert desk.weft("-c") == 'DOCKER_OPTS=" --fixed-cidr-v6=fc00:5:0:42::/64 --ip-masq=false --ipv6 --mtu=1450"\n'


def test_what_the_environment_has_is_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_OPTS", "--debug")
    monkeypatch.setenv("DOCKER_OPT_LABEL", '--label=a="$b"')
    monkeypatch.setenv("DOCKER_OPT_MTU", "--mtu=1")
    text = desk.weft("-c")
    assert text == ('DOCKER_OPTS="--debug  --bip=10.5.10.1/24 --ip-masq=false --label=a=\\"\\$b\\" --mtu=1450"\n')
    told = subprocess.run(
        ["sh", "-c", f". {shlex.quote(str(desk.result))}; printf %s \"$DOCKER_OPTS\""], capture_output=True, text=True
    )  # fmt: skip
    assert told.stdout == '--debug  --bip=10.5.10.1/24 --ip-masq=false --label=a="$b" --mtu=1450'


def test_the_file_is_renamed_into_place(desk: Desk) -> None:
    desk.result.write_text("old")
    with desk.result.open() as before:
        desk.weft()
        assert before.read() == "old"
    assert stat.S_IMODE(desk.result.stat().st_mode) == 0o644
    assert sorted(path.name for path in desk.result.parent.iterdir()) == ["docker_opts.env", "subnet.env"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET"),
        ("FLANNEL_MTU=1450\n", "has neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET"),
        ("FLANNEL_SUBNET=10.5.10.1/24\n", "has no FLANNEL_MTU"),
        (FOUR.replace("true", "maybe"), "FLANNEL_IPMASQ=maybe can't be read"),
        (FOUR.replace("1450", "many"), "FLANNEL_MTU=many can't be read"),
        (FOUR.replace("10.5.10.1/24", "10.5.10.1"), "FLANNEL_SUBNET=10.5.10.1 can't be read"),
        (BOTH.replace("::1/64", ""), "FLANNEL_IPV6_SUBNET=fc00:5:0:42 can't be read"),
    ],
)
def test_an_error_says_what_is_missing(desk: Desk, text: str, words: str) -> None:
    desk.source.write_text(text)
    told = desk.refused()
    assert words in told
    assert str(desk.source) in told


def test_a_file_that_is_not_there(desk: Desk) -> None:
    desk.source.unlink()
    assert "subnet.env is not there: flanneld writes it once it has a lease" in desk.refused()
    desk.source.mkdir()
    assert "subnet.env can't be read: Is a directory" in desk.refused()


def test_a_place_that_cannot_be_written(desk: Desk) -> None:
    code, _, err = desk.run("-d", str(desk.source / "x"))
    assert code == 2
    assert "can't be written: Not a directory" in err
    desk.result.mkdir()
    assert "can't be written: Is a directory" in desk.run()[2]
    assert sorted(path.name for path in desk.result.parent.iterdir()) == ["docker_opts.env", "subnet.env"]


@pytest.mark.parametrize("key", ["", "A B", "1A", "A=B", "A\n"])
def test_the_key_must_be_a_name(desk: Desk, key: str) -> None:
    assert "can't be the name of a variable" in desk.refused("-k", key)


def test_the_help_tells_of_ipv6_and_of_the_defaults(desk: Desk) -> None:
    code, out, _ = desk.run("--help")
    assert code == 0
    for words in ("--fixed-cidr-v6", "/run/flannel/subnet.env", "/run/docker_opts.env", "DOCKER_OPTS"):
        assert words in out
