"""How the lab times repairs: what can be known without a lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.lab import repair


@pytest.mark.parametrize(("kernel", "told"), [("nf_tables", True), ("legacy", False)])
async def test_rules_of_iptables_legacy_change_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str, told: bool
) -> None:
    tool = tmp_path / "iptables"
    tool.write_text(f"#!/bin/sh\necho 'iptables v1.8.9 ({kernel})'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {fault.kind: await repair.is_told(fault) for fault in repair.FAULTS} == {
        "route": True,
        "neighbour": True,
        "fdb": True,
        "next hop": True,
        "link": True,
        "rule": told,
    }
