"""`-backend=NAME`: weft's own backends, and those of distributions that are really installed (pip leaves a module, and
a dist-info beside it on sys.path). The plug-in of docs/cloud-routes-plugins.md runs here."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.support.cloud import view_of
from weft.agent.reconcile import Reconciler
from weft.errors import SettingsError
from weft.objects import Failure, Op, Why
from weft.objects.cloud import CloudRoute
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud.memory import MemoryRoutes
from weft.targets.cloud.plugins import MEMBERS, names, open_tables
from weft.targets.cloud.stdout import StdoutRoutes
from weft.targets.cloud.target import CloudTarget

PAGE = Path(__file__).parents[2] / "docs" / "cloud-routes-plugins.md"
WHY = Why("etcd", "a", "its lease")
Install = Callable[[str, str, dict[str, str]], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution: its name, the module of the same name, its entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def installing(name: str, source: str, points: dict[str, str]) -> None:
        module = name.replace("-", "_")
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "".join(f"{point} = {value}\n" for point, value in points.items())
        (info / "entry_points.txt").write_text(f"[weft.route_tables]\n{lines}")

    return installing


def of(backend: str) -> RouteManagerSettings:
    return RouteManagerSettings(backend=backend)


def test_wefts_own_are_found_by_name() -> None:
    assert isinstance(open_tables(of("memory")), MemoryRoutes)
    assert isinstance(open_tables(of("stdout")), StdoutRoutes)
    assert {"aws", "google", "memory", "stdout"} <= set(names())


def test_an_unknown_name_says_which_there_are(install: Install) -> None:
    install("weft-other", "def open_tables(settings): ...", {"other": "weft_other:open_tables"})
    with pytest.raises(SettingsError) as caught:
        open_tables(of("gogle"))
    message = str(caught.value)
    assert "-backend=gogle: there is no such backend; there is aws, google, memory, other, stdout" in message
    assert "weft.route_tables" in message


def test_a_plug_in_can_not_take_the_place_of_wefts_own(install: Install) -> None:
    install("weft-evil", "raise AssertionError('loaded')", {"memory": "weft_evil:open_tables"})
    assert isinstance(open_tables(of("memory")), MemoryRoutes)


BROKEN = {
    "it can't be loaded: ZeroDivisionError": "1 / 0",
    "it can't be loaded: AttributeError": "def something_else(settings): ...",
    "it can't be loaded: ModuleNotFoundError(\"No module named 'no_such_module'\")": "import no_such_module",
    "it must be a function": "open_tables = 7",
    "it can't be used: KeyError": "def open_tables(settings): raise KeyError('x')",
    "No module named 'no_such_module'": "def open_tables(settings): import no_such_module",
    "it gave a dict, which lacks name, tables": "def open_tables(settings): return {}",
}


@pytest.mark.parametrize(("says", "source"), BROKEN.items())
def test_a_broken_plug_in_is_told_with_its_distribution(install: Install, says: str, source: str) -> None:
    install("weft-broken", source, {"broken": "weft_broken:open_tables"})
    with pytest.raises(SettingsError) as caught:
        open_tables(of("broken"))
    assert says in str(caught.value)
    assert "weft_broken:open_tables of weft-broken 1.0" in str(caught.value)


def test_what_a_plug_in_says_of_its_settings_is_not_changed(install: Install) -> None:
    source = "from weft.errors import SettingsError\ndef open_tables(settings): raise SettingsError('no region')"
    install("weft-strict", source, {"strict": "weft_strict:open_tables"})
    with pytest.raises(SettingsError, match=r"^no region$"):
        open_tables(of("strict"))


def test_two_of_one_name_are_refused(install: Install) -> None:
    for name in ("weft-one", "weft-two"):
        install(name, "def open_tables(settings): ...", {"same": f"{name.replace('-', '_')}:open_tables"})
    with pytest.raises(SettingsError, match="several packages") as caught:
        open_tables(of("same"))
    assert "weft-one 1.0" in str(caught.value)
    assert "weft-two 1.0" in str(caught.value)


# The page's own plug-in.


def _blocks(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(block)


@pytest.fixture
def routes_file(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plug-in as the page says it is to be installed."""
    project = tomllib.loads(_blocks("toml"))["project"]
    install(project["name"], _blocks("python"), project["entry-points"]["weft.route_tables"])
    path = tmp_path / "routes.txt"
    monkeypatch.setenv("TEXTFILE", str(path))
    return path


async def test_the_pages_plug_in_keeps_a_file_and_leaves_others_lines(routes_file: Path) -> None:
    routes_file.write_text("# the router's own\n10.1.0.0/24 via 192.0.2.99\n10.5.0.0/24 via 192.0.2.5 # weft\n")
    tables = open_tables(of("textfile"))
    target = CloudTarget(tables)
    reconciler = Reconciler((target,))
    wanted = {ip_network(f"10.{n}.0.0/24"): ip_address(f"192.0.2.{n}") for n in (1, 2, 3)}
    for turn in (wanted, {**wanted, ip_network("10.2.0.0/24"): ip_address("192.0.2.77")}):
        await reconciler.read()
        await reconciler.mend(view_of(turn, table="textfile"))
    assert sorted(routes_file.read_text().splitlines()) == [
        "# the router's own",
        "10.1.0.0/24 via 192.0.2.99",
        "10.2.0.0/24 via 192.0.2.77 # weft",
        "10.3.0.0/24 via 192.0.2.3 # weft",
    ]
    (status,) = reconciler.account.statuses.values()
    assert status.state == "conflict"
    assert "the line `10.1.0.0/24 via 192.0.2.99`" in status.message
    target.close()
    await tables.close()


async def test_the_pages_plug_in_does_what_every_backend_does(routes_file: Path) -> None:
    tables = open_tables(of("textfile"))
    one = CloudRoute("textfile", ip_network("fd00:1::/64"), ip_address("2001:db8::1"))
    two = CloudRoute("textfile", ip_network("10.2.0.0/24"), ip_address("192.0.2.2"))
    assert await tables.apply([]) == []
    for _ in range(2):
        assert await tables.apply([Op("add", one, WHY), Op("add", two, WHY)]) == [None, None]
    assert (await tables.read()).routes == {one.key: one, two.key: two}
    for _ in range(2):
        assert await tables.apply([Op("remove", one, WHY)]) == [None]
    routes_file.write_text("10.2.0.0/24 via 192.0.2.9\n")
    assert await tables.apply([Op("add", two, WHY), Op("remove", two, WHY)]) == [
        Failure("the line `10.2.0.0/24 via 192.0.2.9` stands there", conflict=True),
        None,
    ]
    assert routes_file.read_text() == "10.2.0.0/24 via 192.0.2.9\n"
    routes_file.unlink()
    routes_file.mkdir()
    (answer,) = await tables.apply([Op("add", two, WHY)])
    assert answer is not None
    assert "TEXTFILE" in answer.message
    assert all(hasattr(tables, member) for member in MEMBERS)


def test_the_pages_plug_in_says_what_it_lacks(routes_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTFILE")
    with pytest.raises(SettingsError, match="TEXTFILE is to name the file"):
        open_tables(of("textfile"))
