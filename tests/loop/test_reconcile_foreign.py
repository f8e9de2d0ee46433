"""Other people's objects in our way: looking at what was touched alone finds what looking at everything would find."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loop.test_reconcile import EMPTY, VIEW, Rig
from weft.core.plan import plan
from weft.objects import Key

standing = st.sampled_from(sorted({*plan(VIEW).wanted, ("link", "br0"), ("file", "/x")}, key=repr))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(standing, st.sampled_from(["foreign", "gone again", "deleted", "empty"])), max_size=8))
def test_what_stands_in_the_way_is_seen_key_by_key_as_by_looking_at_all(steps: list[tuple[Key, str]]) -> None:
    async def run() -> None:
        rig, foreign = Rig(), set()
        await rig.heal()
        for key, what in steps:
            at = rig.firewall if key[0] in ("chain", "jump") else rig.kernel
            if what == "foreign":
                at.put_foreign(key, "somebody else's")
                foreign.add(key)
            elif what == "gone again" and key in foreign:
                at.remove_foreign(key)
                foreign.remove(key)
            elif what == "deleted" and key in (await at.read()).objects:
                at.tamper_delete(key)
            await rig.cycle(EMPTY if what == "empty" else VIEW)
            await rig.heal(EMPTY if what == "empty" else VIEW, rounds=4)
        await rig.heal(rounds=4)
        before = dict(rig.reconciler.account.statuses)
        assert (await rig.cycle(full=True)).done == (), "looking at all found something to do"
        assert rig.reconciler.account.statuses.keys() == before.keys()
        assert all(status.state == "conflict" for status in before.values())
        for key in foreign:
            (rig.firewall if key[0] in ("chain", "jump") else rig.kernel).remove_foreign(key)
        await rig.heal()
        assert await rig.held() == rig.wanted()
        assert rig.reconciler.account.statuses == {}

    asyncio.run(run())
