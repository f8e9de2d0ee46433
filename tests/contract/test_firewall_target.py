"""The firewall target on a real kernel, with iptables-nft and with iptables-legacy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.support.eventually import soon
from tests.support.namespace import Namespace, namespace, run
from tests.support.needs import needs_root
from tests.support.rulesets import DOCKER_20, DOCKER_28, FIREWALLD, UFW
from weft.core.firewall import Site, wanted
from weft.core.ruleset import JUMP, parse_save
from weft.errors import FirewallError
from weft.objects import Chain, Jump, Key, Object, Op, Why
from weft.targets.firewall import FirewallTarget
from weft.targets.firewall_watch import Watch

DEV = "vxlan4096"
SUBNETS = (ip_network("172.18.0.0/16"), ip_network("fd00:1::/64"))
WHY = Why("engine", "h1", "the exposed networks of this host")
Plan = dict[Key, Chain | Jump]


class Tables:
    """One implementation of iptables in one namespace, in an administrator's hands."""

    def __init__(self, ns: Namespace, backend: str) -> None:
        self.ns = ns
        self.backend = backend

    def iptables(self, arguments: str, family: int = 4) -> None:
        self.ns.run(f"ip{'6' if family == 6 else ''}tables-{self.backend}", "--wait", *arguments.split())

    def load(self, text: str, family: int = 4) -> None:
        self.ns.run(f"ip{'6' if family == 6 else ''}tables-{self.backend}-restore", "--noflush", "--wait", stdin=text)

    def save(self, family: int = 4) -> str:
        return self.ns.run(f"ip{'6' if family == 6 else ''}tables-{self.backend}-save")

    def rules(self, table: str, chain: str, family: int = 4) -> tuple[str, ...]:
        return parse_save(4, self.save(family)).tables.get(table, {}).get(chain, ())

    def foreign(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """Everything that isn't ours, without built-in chains that are empty."""
        tables = parse_save(4, self.save()).tables
        kept = {
            table: {
                name: tuple(rule for rule in rules if not rule.startswith(JUMP))
                for name, rules in chains.items()
                if not name.startswith("WEFT-") and (rules or not name.isupper() or "-" in name)
            }
            for table, chains in tables.items()
        }
        return {table: chains for table, chains in kept.items() if any(chains.values())}


def _works(backend: str) -> bool:
    """This kernel has all four tables for this implementation."""
    if shutil.which(f"iptables-{backend}") is None:
        return False
    with namespace("probe") as ns:
        tables = [ns.run(f"iptables-{backend}", "-t", t, "-S", check=False) for t in ("filter", "nat", "raw", "mangle")]
    return all(tables)


@pytest.fixture(params=["nft", "legacy"])
def tables(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tables]:
    """A host whose plain `iptables` is this implementation."""
    backend = request.param
    if not _works(backend):
        pytest.skip(f"iptables-{backend} does not work on this kernel")
    plain = shutil.which(f"iptables-{backend}")
    assert plain
    (tmp_path / "iptables").symlink_to(plain)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with namespace("fw") as ns:
        yield Tables(ns, backend)


@pytest.fixture
def open_target(tables: Tables) -> Iterator[Callable[..., FirewallTarget]]:
    """Makes targets in the namespace of `tables`, and closes them."""
    made: list[FirewallTarget] = []

    def make(device: str | None = DEV) -> FirewallTarget:
        netns = str(tables.ns.path)
        target = FirewallTarget(netns) if device is None else FirewallTarget(netns, device.__eq__)
        made.append(target)
        return target

    yield make
    for target in made:
        target.close()


Open = Callable[..., FirewallTarget]


async def converge(target: FirewallTarget, plan: Mapping[Key, Object], full: bool = False) -> list[Op]:
    """One cycle of the reconciler's: read, compare, apply. The ops that were needed, all done."""
    have = (await target.read(full)).objects
    ops = [Op("remove", have[key], WHY) for key in have if key not in plan]
    ops.sort(key=lambda op: -op.object.rank)
    changes = [Op("change" if key in have else "add", plan[key], WHY) for key in plan if have.get(key) != plan[key]]
    ops += sorted(changes, key=lambda op: op.object.rank)
    assert await target.apply(ops) == [None] * len(ops)
    return ops


async def plan_of(target: FirewallTarget, dev: str = DEV) -> Plan:
    await target.read()
    return {thing.key: thing for thing in wanted(Site(dev, SUBNETS, target.chains, target.refused))}


async def install(target: FirewallTarget) -> Plan:
    plan = await plan_of(target)
    await converge(target, plan)
    return plan


def keys(ops: Iterable[Op]) -> set[Key]:
    return {op.object.key for op in ops}


def fake(folder: Path, tool: str, script: str) -> None:
    path = folder / tool
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


pytestmark = needs_root


@pytest.mark.parametrize(
    "text", [DOCKER_20, DOCKER_28, UFW, FIREWALLD, ""], ids=["20", "28", "ufw", "firewalld", "plain"]
)
async def test_what_is_written_is_what_is_read(tables: Tables, open_target: Open, text: str) -> None:
    """By a target without memory, and every rule in the exact words of iptables-save."""
    tables.load(text)
    before = tables.foreign()
    target = open_target()
    plan = await install(target)
    assert (await target.read(full=True)).objects == plan
    assert (await open_target().read()).objects == plan
    assert await converge(target, plan) == []
    assert tables.foreign() == before
    written = {(c.table, c.name): c.rules for c in plan.values() if isinstance(c, Chain) and c.family == 4}
    assert {at: tables.rules(*at) for at in written} == written
    await converge(target, {})
    assert tables.foreign() == before
    assert "WEFT" not in tables.save(4) + tables.save(6)


async def test_the_rule_sets_of_the_tests_are_what_iptables_prints(tables: Tables) -> None:
    for text in (DOCKER_20, UFW):
        tables.load(text)
    rules = [line for line in tables.save().splitlines() if line.startswith("-A")]
    assert sorted(rules) == sorted(line for line in (DOCKER_20 + UFW).splitlines() if line.startswith("-A"))


async def test_two_agents_and_a_cleanup(tables: Tables, open_target: Open) -> None:
    one, two = open_target("vxlan1"), open_target("vxlan2")
    plan_one, plan_two = await plan_of(one, "vxlan1"), await plan_of(two, "vxlan2")
    await converge(one, plan_one)
    await converge(two, plan_two)
    assert await converge(one, plan_one) == []
    assert (await open_target(None).read()).objects == plan_one | plan_two
    await converge(one, {})
    assert await converge(two, plan_two) == []
    await converge(open_target(None), {})
    assert "WEFT" not in tables.save(4) + tables.save(6)


def flush(tables: Tables) -> None:
    tables.iptables(f"-F WEFT-{DEV}-FWD")


def delete_rule(tables: Tables) -> None:
    tables.iptables(f"-t raw -D WEFT-{DEV}-RAW 1")


def delete_jump(tables: Tables) -> None:
    tables.iptables(f"-t nat -D POSTROUTING {JUMP}WEFT-{DEV}-NAT")


def delete_chain(tables: Tables) -> None:
    tables.iptables(f"-t mangle -D FORWARD {JUMP}WEFT-{DEV}-MSS")
    tables.iptables(f"-t mangle -F WEFT-{DEV}-MSS")
    tables.iptables(f"-t mangle -X WEFT-{DEV}-MSS")


def delete_v6(tables: Tables) -> None:
    tables.iptables(f"-t mangle -F WEFT-{DEV}-MSS", 6)


def new_docker_network(tables: Tables) -> None:
    tables.iptables("-t nat -I POSTROUTING -s 172.19.0.0/16 ! -o br-new -j MASQUERADE")


def jump_twice(tables: Tables) -> None:
    tables.iptables(f"-A FORWARD {JUMP}WEFT-{DEV}-FWD")


def reject_before(tables: Tables) -> None:
    tables.iptables("-I FORWARD 1 -j REJECT")


def drop_in_raw(tables: Tables) -> None:
    tables.iptables("-t raw -I PREROUTING -d 172.18.0.9/32 ! -i br-blue -j DROP")


def flush_everything(tables: Tables) -> None:
    tables.iptables("-F")


@pytest.mark.parametrize(
    ("hurt", "broken"),
    [
        (flush, {("chain", 4, "filter", "WEFT-vxlan4096-FWD")}),
        (delete_rule, {("chain", 4, "raw", "WEFT-vxlan4096-RAW")}),
        (delete_jump, {("jump", 4, "nat", "POSTROUTING", "WEFT-vxlan4096-NAT")}),
        (
            delete_chain,
            {("chain", 4, "mangle", "WEFT-vxlan4096-MSS"), ("jump", 4, "mangle", "FORWARD", "WEFT-vxlan4096-MSS")},
        ),
        (delete_v6, {("chain", 6, "mangle", "WEFT-vxlan4096-MSS")}),
        (new_docker_network, {("jump", 4, "nat", "POSTROUTING", "WEFT-vxlan4096-NAT")}),
        (jump_twice, {("jump", 4, "filter", "FORWARD", "WEFT-vxlan4096-FWD")}),
        (reject_before, {("jump", 4, "filter", "FORWARD", "WEFT-vxlan4096-FWD")}),
        (drop_in_raw, {("jump", 4, "raw", "PREROUTING", "WEFT-vxlan4096-RAW")}),
        (
            flush_everything,
            {
                ("chain", 4, "filter", "WEFT-vxlan4096-FWD"),
                ("jump", 4, "filter", "FORWARD", "WEFT-vxlan4096-FWD"),
                ("jump", 4, "filter", "DOCKER-USER", "WEFT-vxlan4096-FWD"),
            },
        ),
    ],
)
async def test_damage_is_seen_and_mended(
    tables: Tables, open_target: Open, hurt: Callable[[Tables], None], broken: set[Key]
) -> None:
    tables.load(DOCKER_28)
    target = open_target()
    woken: list[bool] = []
    target.watch(lambda: woken.append(True))
    plan = await install(target)
    assert (await target.read()).touched == frozenset()
    woken.clear()
    hurt(tables)
    before = tables.foreign()
    if tables.backend == "nft":
        await soon(lambda: woken, "the kernel to tell of the change")
    assert (await target.read()).touched == frozenset(broken)
    assert keys(await converge(target, plan)) == broken
    assert (await target.read(full=True)).objects == plan
    assert tables.foreign() == before


async def test_our_own_changes_wake_nobody(tables: Tables, open_target: Open) -> None:
    """Nor do they make the next readings anything but empty."""
    if tables.backend != "nft":
        pytest.skip("iptables-legacy tells of no change")
    tables.load(DOCKER_28)
    target = open_target()
    await target.read()
    woken: list[bool] = []
    target.watch(lambda: woken.append(True))
    plan = await install(target)
    await converge(target, {})
    await converge(target, plan)
    tables.ns.run("nft", "add", "table", "inet", "somebody")  # a change, but not one of iptables'
    assert woken == []
    tables.iptables("-N SOMEBODY")
    await soon(lambda: woken, "the kernel to tell of somebody else's change")
    assert len(woken) == 1
    assert (await target.read()).touched == frozenset()


async def test_without_news_nothing_is_read(tables: Tables, open_target: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    if tables.backend != "nft":
        pytest.skip("iptables-legacy tells of no change, so it is read every time")
    target = open_target()
    target.watch(lambda: None)
    plan = await install(target)
    await target.read()
    with monkeypatch.context() as context:
        context.setenv("PATH", "/nowhere")
        context.setattr("weft.targets.firewall_tools.SBIN", ())
        assert (await target.read()).objects == plan
        assert (await target.read(full=True)).objects == {}
        assert target.chains == frozenset()


async def test_a_host_without_iptables_says_what_to_install(
    tables: Tables, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = open_target()
    with monkeypatch.context() as context:
        context.setenv("PATH", "/nowhere")
        context.setattr("weft.targets.firewall_tools.SBIN", ())
        await target.read()
        assert target.problem.startswith("neither iptables-nft nor iptables-legacy is installed")
        assert target.problem.endswith("apt-get install iptables")
    await target.read(full=True)
    assert target.problem == ""


async def test_what_happened_before_the_watch_is_seen(tables: Tables, open_target: Open) -> None:
    target = open_target()
    await install(target)
    await target.read()
    flush(tables)
    target.watch(lambda: None)
    assert (await target.read()).touched == frozenset({("chain", 4, "filter", f"WEFT-{DEV}-FWD")})


async def test_lost_news_is_news_of_everything(tables: Tables) -> None:
    """More notifications than the socket's buffer holds: the kernel says ENOBUFS once."""
    if tables.backend != "nft":
        pytest.skip("iptables-legacy tells of no change")
    heard: list[frozenset[int]] = []
    watch = Watch(str(tables.ns.path), (), heard.append)
    rules = "".join(f"-A FORWARD -s 10.{high}.{low}.0/24 -j DROP\n" for high in range(20) for low in range(100))
    tables.load(f"*filter\n{rules}COMMIT\n")
    await soon(lambda: frozenset((4, 6)) in heard, "the loss to be told")
    watch.close()


async def test_what_iptables_says_it_did_but_did_not_is_seen(tables: Tables, open_target: Open, tmp_path: Path) -> None:
    target = open_target()
    target.watch(lambda: None)
    plan = await plan_of(target)
    fake(tmp_path, f"iptables-{tables.backend}-restore", "exec cat >/dev/null")
    await converge(target, plan)
    (tmp_path / f"iptables-{tables.backend}-restore").unlink()
    assert (await target.read()).touched == frozenset(key for key in plan if key[1] == 4)
    await converge(target, plan)
    assert (await target.read(full=True)).objects == plan


async def test_one_family_that_fails_does_not_stop_the_other(tables: Tables, open_target: Open, tmp_path: Path) -> None:
    """Neither its change nor the fresh reading behind that succeed."""
    target = open_target()
    plan = await plan_of(target)
    for verb in ("restore", "save"):
        fake(tmp_path, f"ip6tables-{tables.backend}-{verb}", "echo out of order >&2; exit 1")
    ops = [Op("add", thing, WHY) for thing in sorted(plan.values(), key=lambda thing: thing.rank)]
    answers = await target.apply(ops)
    assert {op.object.key[1] for op, failure in zip(ops, answers, strict=True) if failure is None} == {4}
    failures = [failure.message for failure in answers if failure is not None]
    assert len(failures) == sum(key[1] == 6 for key in plan)
    assert all("out of order" in message for message in failures)
    assert f"WEFT-{DEV}-FWD" in tables.save(4)
    for verb in ("restore", "save"):
        (tmp_path / f"ip6tables-{tables.backend}-{verb}").unlink()
    await converge(target, plan)
    assert (await target.read(full=True)).objects == plan


async def test_a_tool_that_hangs_is_killed(
    tables: Tables, open_target: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    for family in ("", "6"):
        fake(tmp_path, f"ip{family}tables-{tables.backend}-save", f"echo $$ >{pid}; exec tail -f /dev/null")
    monkeypatch.setattr("weft.targets.firewall_tools.TIMEOUT", 0.3)
    with pytest.raises(FirewallError, match="-save did not end within"):
        await open_target().read()
    assert not Path("/proc", pid.read_text().strip()).exists()


async def test_a_namespace_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    target = FirewallTarget("/run/netns/weft-no-such-namespace")
    target.watch(lambda: None)
    assert "can't be heard of" in caplog.text
    with pytest.raises(FirewallError, match="weft-no-such-namespace"):
        await target.read()
    target.close()


async def test_docker_coming_up_changes_the_chains(tables: Tables, open_target: Open) -> None:
    target = open_target()
    await install(target)
    assert (4, "filter", "DOCKER-USER") not in target.chains
    assert (6, "filter", "FORWARD") in target.chains
    tables.load(DOCKER_20)
    await target.read(full=True)
    assert (4, "filter", "DOCKER-USER") in target.chains
    await install(target)
    assert tables.rules("filter", "DOCKER-USER") == (f"{JUMP}WEFT-{DEV}-FWD", "-j RETURN")


async def test_an_administrators_drop_stays_first(tables: Tables, open_target: Open) -> None:
    tables.load(DOCKER_20)
    tables.iptables("-I DOCKER-USER -s 10.9.0.0/16 -j DROP")
    target = open_target()
    plan = await install(target)
    ours = f"{JUMP}WEFT-{DEV}-FWD"
    assert tables.rules("filter", "DOCKER-USER") == ("-s 10.9.0.0/16 -j DROP", ours, "-j RETURN")
    tables.iptables("-I DOCKER-USER 2 -s 10.8.0.0/16 -j DROP")
    assert await converge(target, plan, full=True) == []


async def test_one_bad_rule_does_not_stop_the_rest(tables: Tables, open_target: Open) -> None:
    target = open_target()
    plan = await plan_of(target)
    bad = Chain(4, "filter", "WEFT-vxlan4096-BAD", ("-d 300.0.0.0/8 -j ACCEPT",))
    lost = Jump(4, "filter", "FORWARD", "WEFT-vxlan4096-NONE")
    ops = [Op("add", thing, WHY) for thing in (bad, lost, *plan.values())]
    answers = await target.apply(ops)
    assert answers[2:] == [None] * len(plan)
    assert answers[0] is not None
    assert answers[1] is not None
    assert "300.0.0.0/8" in answers[0].message
    assert f"ables-{tables.backend}-restore refused" in answers[0].message
    assert "table filter" in answers[1].message
    assert "WEFT-vxlan4096-NONE" in answers[1].message
    assert (await target.read()).objects == plan


async def test_a_refusal_that_the_tool_does_not_take_stops_nothing_else(
    tables: Tables, open_target: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Some version prints a rule in words that it can't read: weft's accepts are not to wait for it."""
    tool = f"iptables-{tables.backend}-restore"
    odd = 'n=$(echo "$input" | grep -n -e "-ADM -s 10.66" | cut -d: -f1)'
    refuse = f'input=$(cat); {odd}; [ "$n" ] && echo "line $n failed" >&2 && exit 1'
    fake(tmp_path, tool, f'{refuse}; echo "$input" | {shutil.which(tool)} "$@"')
    tables.ns.run(str(shutil.which(tool)), "--noflush", stdin="*filter\n-A FORWARD -s 10.67.0.0/16 -j DROP\nCOMMIT\n")
    tables.iptables("-A FORWARD -s 10.66.0.0/16 -j DROP")
    target = open_target()
    plan = await plan_of(target)
    answers = await target.apply([Op("add", thing, WHY) for thing in plan.values()])
    assert any(answers)
    assert "can't be repeated" in caplog.text
    assert (await target.read()).objects != plan
    plan = await plan_of(target)
    await converge(target, plan)
    assert tables.rules("filter", f"WEFT-{DEV}-ADM") == ("-s 10.67.0.0/16 -j DROP",)
    assert tables.rules("filter", f"WEFT-{DEV}-FWD")[0] == f"-i {DEV} -j WEFT-{DEV}-ADM"
    assert [record.message.count("can't be repeated") for record in caplog.records].count(1) == 1


async def test_removing_what_is_gone_is_success(tables: Tables, open_target: Open) -> None:
    target = open_target()
    plan = await install(target)
    await target.read()
    delete_chain(tables)
    tables.iptables(f"-D FORWARD {JUMP}WEFT-{DEV}-FWD")
    removals = [Op("remove", thing, WHY) for thing in sorted(plan.values(), key=lambda thing: -thing.rank)]
    assert await target.apply(removals) == [None] * len(removals)
    assert "WEFT" not in tables.save(4) + tables.save(6)


async def test_a_chain_that_somebody_else_uses_says_so(tables: Tables, open_target: Open) -> None:
    target = open_target()
    plan = await install(target)
    tables.iptables(f"-A FORWARD -i wg0 -j WEFT-{DEV}-FWD")
    chain = plan["chain", 4, "filter", f"WEFT-{DEV}-FWD"]
    removals = [Op("remove", thing, WHY) for thing in sorted(plan.values(), key=lambda thing: -thing.rank)]
    answers = await target.apply(removals)
    assert [op.object for op, failure in zip(removals, answers, strict=True) if failure] == [chain]
    assert tables.rules("filter", "FORWARD") == (f"-i wg0 -j WEFT-{DEV}-FWD",)


async def test_a_table_that_the_kernel_lacks_is_wanted_no_more(
    tables: Tables, open_target: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Until a full reading finds that it has come."""
    tables.iptables("-t nat -A POSTROUTING -s fd00:9::/64 -j MASQUERADE", 6)  # or nobody wants anything of it
    tool = f"ip6tables-{tables.backend}"
    real = {verb: shutil.which(f"{tool}{verb}") for verb in ("", "-restore")}
    fake(tmp_path, tool, f'[ "$2" = nat ] && exit 3; exec {real[""]} "$@"')
    refuse = 'case "$input" in *"*nat"*) echo "can\'t initialize table nat" >&2; exit 3;; esac'
    fake(tmp_path, f"{tool}-restore", f'input=$(cat); {refuse}; echo "$input" | {real["-restore"]} "$@"')
    target = open_target()
    plan = await plan_of(target)
    answers = await target.apply([Op("add", thing, WHY) for thing in plan.values()])
    failed = {thing.key for thing, answer in zip(plan.values(), answers, strict=True) if answer is not None}
    assert failed == {key for key in plan if key[1:3] == (6, "nat")} != set()
    assert all("this kernel has no table nat for IPv6" in answer.message for answer in answers if answer)
    plan = await plan_of(target)
    assert not any(key[1:3] == (6, "nat") for key in plan)
    assert await converge(target, plan) == []
    await target.read(full=True)
    assert (6, "nat", "POSTROUTING") not in target.chains
    with caplog.at_level("INFO", "weft"):
        for verb in ("", "-restore"):
            (tmp_path / f"{tool}{verb}").unlink()
        await target.read(full=True)
    assert (6, "nat", "POSTROUTING") in target.chains
    assert [record.message for record in caplog.records] == ["no longer: this kernel has no table nat for IPv6"]


async def test_without_ip6tables_there_is_no_such_family(
    tables: Tables, open_target: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in ("iptables", "iptables-save", "iptables-restore", "nsenter"):
        (tmp_path / tool).unlink(missing_ok=True)
        real = shutil.which(tool.replace("iptables", f"iptables-{tables.backend}"))
        assert real
        (tmp_path / tool).symlink_to(real)
    target = open_target()
    with monkeypatch.context() as context:
        context.setenv("PATH", str(tmp_path))
        context.setattr("weft.targets.firewall_tools.SBIN", ())
        plan = await install(target)
        assert {family for family, _, _ in target.chains} == {4}
        assert target.problem.startswith(
            "ip6tables is not installed, so there are no firewall rules of weft's for IPv6"
        )
        assert (await target.read(full=True)).objects == plan
        answers = await target.apply([Op("add", Chain(6, "filter", "WEFT-vxlan4096-FWD", ()), WHY)])
    assert answers[0] is not None
    assert "install iptables" in answers[0].message


async def test_docker_moving_to_the_other_implementation(
    tables: Tables, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours move after it: drops that stay behind would block networks that are exposed later."""
    other = Tables(tables.ns, "legacy" if tables.backend == "nft" else "nft")
    if not _works(other.backend):
        pytest.skip(f"iptables-{other.backend} does not work on this kernel")
    target = open_target()
    plan = await install(target)
    assert "WEFT" in tables.save()
    other.load(DOCKER_20)
    have = (await target.read(full=True)).objects
    assert set(have) == set(plan)
    assert all(have[key] != plan[key] for key in plan)
    plan = await install(target)
    assert "WEFT" not in tables.save(4) + tables.save(6)
    assert other.rules("filter", "DOCKER-USER") == (f"{JUMP}WEFT-{DEV}-FWD", "-j RETURN")
    assert (await target.read(full=True)).objects == plan


async def test_a_part_that_cannot_be_read_is_said_once(
    tables: Tables, open_target: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake(tmp_path, f"ip6tables-{tables.backend}-save", "echo broken >&2; exit 1")
    target = open_target()
    plan = await install(target)
    await target.read(full=True)
    assert {family for family, _, _ in target.chains} == {4}
    assert await converge(target, plan) == []
    assert [record.message.count("broken") for record in caplog.records if record.name == "weft"] == [1]
    caplog.clear()
    (tmp_path / f"ip6tables-{tables.backend}-save").unlink()
    with caplog.at_level("INFO", "weft"):
        await target.read(full=True)
    assert ["no longer" in record.message for record in caplog.records if "broken" in record.message] == [True]
    assert {family for family, _, _ in target.chains} == {4, 6}
    fake(tmp_path, f"ip6tables-{tables.backend}-save", "echo broken >&2; exit 1")
    caplog.clear()
    await target.read(full=True)
    assert [record.levelname for record in caplog.records if "broken" in record.message] == ["WARNING"]
    fake(tmp_path, f"iptables-{tables.backend}-save", "echo rubbish")
    with pytest.raises(FirewallError, match="rubbish"):
        await target.read()


def test_nothing_of_ours_is_in_the_root_namespace() -> None:
    assert "WEFT" not in run(["iptables-save"])
