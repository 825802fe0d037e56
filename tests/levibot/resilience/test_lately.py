"""An answer in time, or the last one with its age."""

from __future__ import annotations

import asyncio

import pytest

from levibot.resilience.lately import Lately


async def test_a_quick_look_is_new_and_many_share_one() -> None:
    n_looks = 0

    async def look() -> int:
        nonlocal n_looks
        n_looks += 1
        await asyncio.sleep(0)
        return n_looks

    lately = Lately(look, wait_s=5.0)
    assert await asyncio.gather(*(lately.get() for _ in range(5))) == [(1, 0.0)] * 5
    assert await lately.get() == (2, 0.0)


async def test_a_look_that_hangs_is_not_waited_for_and_not_begun_twice() -> None:
    gate, n_looks = asyncio.Event(), 0
    gate.set()

    async def look() -> str:
        nonlocal n_looks
        n_looks += 1
        await gate.wait()
        return "seen"

    hanging = Lately(look, wait_s=0.01)
    gate.clear()
    assert await hanging.get() == (None, float("inf"))
    assert await hanging.get() == (None, float("inf"))
    assert n_looks == 1
    gate.set()
    assert await Lately(look, wait_s=5.0).get() == ("seen", 0.0)
    await asyncio.sleep(0.01)
    gate.clear()
    value, age_s = await hanging.get()
    assert value == "seen"
    assert 0.0 < age_s < 60.0
    gate.set()


async def test_what_the_look_raises_is_raised() -> None:
    async def look() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await Lately(look, wait_s=5.0).get()
