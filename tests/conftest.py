"""How Hypothesis looks for counterexamples: anew each time by hand, the same way each time in CI (the coverage gate
needs that). No deadline: the machine is shared.

And who runs what where there are two workers: labs one after the other, for each wants the machine; beside them the
other tests, file by file, for those of a file share what was set up for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

LAB = Path(__file__).parent / "lab"

settings.register_profile("hand", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "hand")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group("lab" if item.path.is_relative_to(LAB) else item.path.stem))
