"""flannel's extension backend: commands that are run for each lease. Real commands, real processes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.contract.targets import add, by_key, change, done, held, refused, remove
from tests.support.eventually import soon
from tests.support.namespace import run
from weft.errors import SettingsError, TargetError
from weft.objects.outside import File, Hook
from weft.targets.extension import ExtensionTarget
from weft.targets.extension_commands import Command, Variables

HOOK = Hook(ip_network("10.5.20.0/24"), public_ip=ip_address("192.0.2.2"), data="82:3d:cd:46:bc:78")
MOVED = Hook(ip_network("10.5.20.0/24"), public_ip=ip_address("192.0.2.9"), data="82:3d:cd:46:bc:79")
DUAL = Hook(
    ip_network("10.5.30.0/24"), ip_network("fd00:5::/64"), ip_address("192.0.2.3"), ip_address("2001:db8::3"), "x"
)
TELL = """#!/bin/sh
read -r data
echo "$1 SUBNET=$SUBNET IPV6SUBNET=$IPV6SUBNET PUBLIC_IP=$PUBLIC_IP PUBLIC_IPV6=$PUBLIC_IPV6 stdin=$data" >>"$2"
"""


class Scripts:
    """Scripts of an operator's, and what they wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.tell = self.script("tell", TELL)

    def script(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def told(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def target(self) -> ExtensionTarget:
        return ExtensionTarget(Command(f"{self.tell} added {self.log}"), Command(f"{self.tell} removed {self.log}"))


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


async def test_a_lease_that_comes_changes_and_goes_is_told(scripts: Scripts) -> None:
    target = scripts.target()
    await done(target, add(HOOK, DUAL))
    assert await held(target) == by_key(HOOK, DUAL)
    await done(target, [change(HOOK, MOVED)])
    assert await held(target) == by_key(MOVED, DUAL)
    await done(target, remove(MOVED))
    assert await held(target) == by_key(DUAL)
    one = "SUBNET=10.5.20.0/24 IPV6SUBNET= PUBLIC_IP={} PUBLIC_IPV6= stdin={}"
    assert scripts.told() == [
        "added " + one.format("192.0.2.2", HOOK.data),
        "added SUBNET=10.5.30.0/24 IPV6SUBNET=fd00:5::/64 PUBLIC_IP=192.0.2.3 PUBLIC_IPV6=2001:db8::3 stdin=x",
        "added " + one.format("192.0.2.9", MOVED.data),
        "removed " + one.format("192.0.2.9", MOVED.data),
    ]


async def test_without_commands_leases_come_and_go_unheard() -> None:
    target = ExtensionTarget()
    await done(target, add(HOOK))
    assert await held(target) == by_key(HOOK)
    await done(target, remove(HOOK))
    assert await held(target) == {}
    assert target.lines(add(HOOK)) == []


async def test_after_a_restart_every_lease_is_told_again(scripts: Scripts) -> None:
    await done(scripts.target(), add(HOOK))
    restarted = scripts.target()
    assert await held(restarted) == {}
    await done(restarted, add(HOOK))
    assert len(scripts.told()) == 2


async def test_only_the_first_reading_is_of_everything(scripts: Scripts) -> None:
    target = scripts.target()
    assert (await target.read()).touched is None
    await done(target, add(HOOK))
    assert (await target.read()).touched == frozenset()
    assert (await target.read(full=True)).touched == frozenset()


async def test_a_failure_says_the_code_and_the_last_line(scripts: Scripts) -> None:
    text = '#!/bin/sh\n[ $SUBNET = 10.5.20.0/24 ] || exit 0\necho why >&2\necho "not so" >&2\nexit 7\n'
    bad = scripts.script("bad", text)
    target = ExtensionTarget(Command(f"{bad} $SUBNET"))
    first, second = await target.apply(add(HOOK, DUAL))
    assert refused(first) == f"add 10.5.20.0/24: `{bad} 10.5.20.0/24` ended with 7: not so"
    assert second is None
    assert await held(target) == by_key(DUAL)
    bad.write_text("#!/bin/sh\n")
    await done(target, add(HOOK))
    assert await held(target) == by_key(DUAL, HOOK)


async def test_a_removal_that_fails_is_still_to_be_done(scripts: Scripts) -> None:
    target = ExtensionTarget(removed=Command("false"))
    await done(target, add(HOOK))
    (answer,) = await target.apply(remove(HOOK))
    assert refused(answer) == "remove 10.5.20.0/24: `false` ended with 1: it gave no reason"
    assert await held(target) == by_key(HOOK)


async def test_the_dying_word_of_a_killed_command(scripts: Scripts) -> None:
    target = ExtensionTarget(Command(str(scripts.script("dies", "#!/bin/sh\nkill -9 $$\n"))))
    (answer,) = await target.apply(add(HOOK))
    assert "was ended by SIGKILL: it gave no reason" in refused(answer)


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    (answer,) = await ExtensionTarget(Command("export A")).apply(add(HOOK))
    said = "`export` can't be started: No such file or directory; if it is a word of the shell's, set"
    assert said in refused(answer)
    (answer,) = await ExtensionTarget(Command(str(tmp_path))).apply(add(HOOK))
    assert "can't be started: Permission denied" in refused(answer)


async def test_a_command_that_hangs_is_killed_with_what_it_started(scripts: Scripts) -> None:
    pid = scripts.folder / "pid"
    hang = scripts.script("hang", f"#!/bin/sh\n[ $SUBNET = 10.5.20.0/24 ] || exit 0\nsleep 600 & echo $! >{pid}; wait")
    target = ExtensionTarget(Command(str(hang), timeout=0.5))
    first, second = await target.apply(add(HOOK, DUAL))
    assert refused(first) == f"add 10.5.20.0/24: `{hang}` did not end within 0.5 s and was killed"
    assert "add 10.5.30.0/24 and fd00:5::/64: not tried yet, because" in refused(second)
    child = Path("/proc", pid.read_text().strip(), "stat")
    await soon(lambda: not child.exists() or child.read_text().split()[2] == "Z", "the child to be gone")
    first, second = await target.apply(add(HOOK, DUAL))
    assert "did not end" in refused(first)
    assert second is None, "what hung comes last the next time"


async def test_a_child_that_outlives_the_command_counts_as_hanging(scripts: Scripts) -> None:
    pid = scripts.folder / "pid"
    leaves = scripts.script("leaves", f"#!/bin/sh\nsleep 600 & echo $! >{pid}\n")
    (answer,) = await ExtensionTarget(Command(str(leaves), timeout=0.5)).apply(add(HOOK))
    assert "did not end within 0.5 s" in refused(answer)
    child = Path("/proc", pid.read_text().strip(), "stat")
    await soon(lambda: not child.exists() or child.read_text().split()[2] == "Z", "the child to be gone")


async def test_a_command_that_reads_nothing_and_one_that_is_told_much(scripts: Scripts) -> None:
    count = scripts.script("count", f"#!/bin/sh\nwc -c >{scripts.log}")
    await done(ExtensionTarget(Command(str(count))), add(Hook(HOOK.subnet, data="x" * 1_000_000)))
    assert scripts.told() == ["1000001"]
    await done(ExtensionTarget(Command("true")), add(Hook(HOOK.subnet, data="x" * 1_000_000)))


@pytest.mark.parametrize("shell", [False, True])
async def test_nothing_in_a_lease_becomes_a_command(scripts: Scripts, shell: bool) -> None:
    trap = scripts.folder / "trap"
    evil = f"$(touch {trap}); touch {trap} | `touch {trap}` '\" $SUBNET"
    target = ExtensionTarget(Command(f"{scripts.tell} added {scripts.log} $SUBNET", shell))
    await done(target, add(Hook(HOOK.subnet, data=evil)))
    assert scripts.told()[0].endswith(f"stdin={evil}")
    for line in target.lines(add(Hook(HOOK.subnet, data=evil))):
        run(["sh", "-c", line])
    assert scripts.told()[1] == scripts.told()[0]
    assert not trap.exists()


async def test_the_printed_line_is_what_is_run(scripts: Scripts) -> None:
    target = scripts.target()
    (line,) = target.lines(add(HOOK))
    assert line == (
        f"printf '%s\\n' 82:3d:cd:46:bc:78 | SUBNET=10.5.20.0/24 PUBLIC_IP=192.0.2.2 {scripts.tell} added {scripts.log}"
    )
    assert target.lines(remove(HOOK)) == [line.replace(" added ", " removed ")]


async def test_flannels_own_examples_run(scripts: Scripts) -> None:
    """Documentation/extension.md: with variables in the words, and the one that needs a shell."""
    echo = Command(f"cp /dev/stdin {scripts.folder}/${{PUBLIC_IP}}-$IPV6SUBNET.$NOBODY")
    await done(ExtensionTarget(echo), add(HOOK))
    assert (scripts.folder / "192.0.2.2-.$NOBODY").read_text() == f"{HOOK.data}\n"
    shell = f"export A=1; read VTEP; echo $SUBNET via `echo $PUBLIC_IP | cut -d. -f1` $VTEP >{scripts.log}"
    await done(ExtensionTarget(Command(shell, shell=True)), add(HOOK))
    assert scripts.told() == [f"10.5.20.0/24 via 192 {HOOK.data}"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ip route | grep 10.5", "|"),
        ("a && b", "&&"),
        ("a;b", ";"),
        ("ip link del x 2>/dev/null", ">"),
        ("(a)", "("),
        ("sleep 1&", "&"),
        ("A=1 run", "A=1"),
        ("echo `date`", "`date`"),
        ('echo "$(date)"', '"$(date)"'),
    ],
)
def test_what_needs_a_shell_is_refused_and_named(text: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Command(text)
    assert str(caught.value).startswith(f"`{text}` needs a shell ({why}) and is run without one: set extension-shell")
    assert Command(text, shell=True).words(Variables()) == ["sh", "-c", text]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 'b | c' \"d;e\"", ["a", "b | c", "d;e"]),
        ("a '$(x)' b=c # d", ["a", "$(x)", "b=c", "#", "d"]),
        ("a ${SUBNET}x$SUBNET$IPV6SUBNET", ["a", "10.5.20.0/24x10.5.20.0/24"]),
    ],
)
def test_words_are_held_together_by_quotes(text: str, words: list[str]) -> None:
    assert Command(text).words(Variables(HOOK.subnet)) == words


@pytest.mark.parametrize("text", ["", "  ", "a 'b"])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"is empty|can't be read: No closing quotation"):
        Command(text)


async def test_the_commands_of_the_start(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "from outside")
    pre = Command(str(scripts.script("pre", "#!/bin/sh\necho not this >&2\necho '  82:3d '\n")))
    assert await pre.run(Variables()) == "82:3d"
    post = Command("echo $NETWORK $SUBNET $IPV6SUBNET $PUBLIC_IP $PUBLIC_IPV6 $MINE")
    told = Variables(DUAL.subnet, DUAL.subnet6, DUAL.public_ip, DUAL.public_ip6, ip_network("10.5.0.0/16"))
    assert await post.run(told) == "10.5.0.0/16 10.5.30.0/24 fd00:5::/64 192.0.2.3 2001:db8::3 from outside"
    with pytest.raises(TargetError, match="`false` ended with 1"):
        await Command("false").run(Variables())


async def test_a_target_of_hooks_takes_nothing_else() -> None:
    with pytest.raises(TypeError, match="takes hooks, not a File"):
        await ExtensionTarget().apply(add(File("/x", "")))
