"""How Hypothesis looks for counterexamples: anew each time by hand, the same way each time in CI (the coverage gate
needs that, so scripts/test has it for all tests together). No deadline, and no word of slowness: the machine is shared.

And where the clouds' own libraries look for the instance that they are on: nowhere. They do so by themselves, at
addresses that no test may send a packet to, and read these variables when they are imported.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("hand", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("hand"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "hand")

NOBODY = "127.0.0.1:1"
for variable in ("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"):
    os.environ.setdefault(variable, NOBODY)
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
