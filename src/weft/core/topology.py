"""How each node is reached: directly, through a relay, through a gateway of the underlay. Pure; called by
`agent/registrar.py`, once per view: `chart(sight, past)`.

In this order: an entry of this host's gateway map; a relay that the node announces; the tunnel itself while it answers;
the next node of a shortest way (`mesh.py`); a gateway that may be on the way (`detours.py`).
"""

from __future__ import annotations

from weft.core.findings import Findings, find
from weft.core.mesh import Mesh
from weft.core.sight import Chart, Course, Past, Place, Sight
from weft.model import Problem


def chart(sight: Sight, past: Past | None = None) -> Chart:
    """A course for each of the sight's places, and what this host is to publish, route and ask for, so that it works.
    `past`: of the chart before, None at the start."""
    past = past or Past()
    found = find(sight, past)
    mesh = Mesh.of(sight.me, sight.places, found.up, found.doubted)
    courses = {place.id: _detected(place, sight, found, mesh) for place in sight.places}
    return Chart(
        courses,
        reaches=frozenset(found.edges) & found.up - found.doubted,
        misses=frozenset(found.edges) - found.up,
        problems=tuple(Problem(name, course.problem) for name, course in courses.items() if course.problem),
        again=found.again,
        past=Past(found.edges, {}),
    )


def _detected(place: Place, sight: Sight, found: Findings, mesh: Mesh) -> Course:
    if place.id in found.up and place.id not in found.doubted:
        return Course("direct", "directly")
    relay = mesh.next(place.id) or mesh.next(place.id, likely=True)
    if relay:
        return Course("relay", f"{relay} reaches it", relay)
    if place.id in found.up or found.state(place.id) == "up":
        return Course("direct", "directly")
    return Course("none", "no node reaches it", problem="no way")
