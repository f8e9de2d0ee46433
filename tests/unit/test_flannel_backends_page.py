"""Every network config on the page docs/flannel-backends.md is one that weft takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from weft.errors import WireError
from weft.wire.flannel import NAMES
from weft.wire.flannel_config import parse_config

PAGE = (Path(__file__).parents[2] / "docs" / "flannel-backends.md").read_text()
CONFIGS = [line for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("text", CONFIGS)
def test_a_config_on_the_page_is_taken(text: str) -> None:
    assert parse_config(text.encode()).backend is not None


def test_the_page_has_a_config_and_a_heading_for_each_backend() -> None:
    assert {NAMES[type(parse_config(text.encode()).backend)] for text in CONFIGS} == set(NAMES.values())
    assert set(NAMES.values()) <= set(re.findall(r"^## (\S+)$", PAGE, re.MULTILINE))


@pytest.mark.parametrize("kind", ["udp", "ipip", "ipsec", "aws-vpc", "gce", "ali-vpc", "tencent-vpc"])
def test_what_the_page_says_is_not_there_is_refused(kind: str) -> None:
    assert f"`{kind}`" in PAGE.rpartition("## What is not there")[2]
    with pytest.raises(WireError, match=f"unknown or unsupported backend: {kind}"):
        parse_config(f'{{"Network": "10.5.0.0/16", "Backend": {{"Type": "{kind}"}}}}'.encode())
