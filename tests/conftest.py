"""How Hypothesis looks for counterexamples: anew each time by hand, the same way each time in CI (the coverage gate
needs that). No deadline: the machine is shared."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("hand", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "hand")
