"""What `weft router` keeps of discovery.json when discovery was started anew and does not know everybody yet."""

from __future__ import annotations

from tests.support.stacks import data, peer, world
from weft.agent.router import RouterWorld

B = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16")
C = peer("stack-c", "10.0.0.3", "192.168.100.3", "172.22.0.0/16")
WIDER_B = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16,172.23.0.0/16")


def destinations(router: RouterWorld) -> list[str]:
    return [str(row.destination) for row in router.routes()]


def test_what_is_not_complete_removes_nobody_and_changes_whom_it_names() -> None:
    """Discovery and router both started anew: an incomplete file is followed by an empty one. Traffic stopped then."""
    router = world()
    assert router.hear(data(B, C, complete=False)) == (B, C)
    assert router.hear(data(complete=False)) == (B, C)
    assert destinations(router) == ["172.21.0.0/16", "172.22.0.0/16"]
    assert router.hear(data(WIDER_B, complete=False)) == (WIDER_B, C)
    assert destinations(router) == ["172.21.0.0/16", "172.22.0.0/16", "172.23.0.0/16"]
    assert router.waiting() == ["discovery"]


def test_what_is_complete_is_all_there_is() -> None:
    router = world()
    router.hear(data(B, C, complete=False))
    assert router.hear(data(WIDER_B)) == (WIDER_B,)
    assert destinations(router) == ["172.21.0.0/16", "172.23.0.0/16"]
    assert router.waiting() == []
