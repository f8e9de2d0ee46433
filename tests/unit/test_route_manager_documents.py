"""docs/coming-from-flannel-route-manager.md and docs/cloud-routes.md: what they name is there, all flags are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from weft.settings.go_flags import LOGGING
from weft.settings.route_manager import FLAGS

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "coming-from-flannel-route-manager.md"
CONCEPTS = ROOT / "docs" / "cloud-routes.md"
FLAG = re.compile(r"(?<![\w-])-([a-z][a-z0-9-]+)(?=[`=\s,)…]|$)", re.MULTILINE)
"""In a document's code: `-etcd-prefix`, `-max-delete=all`."""
NOT_OURS = frozenset({"flag"})
"""How a flag is written."""


def flags(path: Path) -> set[str]:
    """Flags that stand in the document's code."""
    text = path.read_text()
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^ {4,}(?:\$ )?(.*route-manager .*)$", text, re.MULTILINE)
    return {name for part in code if "docker" not in part for name in FLAG.findall(part)} - NOT_OURS


def test_the_guide_names_every_flag() -> None:
    assert FLAGS.defaults.keys() - flags(GUIDE) == set()


@pytest.mark.parametrize("path", [GUIDE, CONCEPTS], ids=lambda path: path.stem)
def test_a_document_names_no_flag_that_there_is_not(path: Path) -> None:
    found = flags(path)
    assert found, "it does look"
    assert {name for name in found if not name.endswith("-")} - FLAGS.defaults.keys() - LOGGING == set()


def test_the_metrics_are_those_that_are_told() -> None:
    named = set(re.findall(r"`(weft_[a-z_]+)`", CONCEPTS.read_text()))
    told = "\n".join((ROOT / "src" / "weft" / "web" / name).read_text() for name in ("route_manager.py", "looping.py"))
    assert len(named) > 10
    assert {name for name in named if f'"{name}"' not in told} == set()


def test_links_lead_somewhere() -> None:
    for path in (GUIDE, CONCEPTS, ROOT / "docs" / "lab.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"
