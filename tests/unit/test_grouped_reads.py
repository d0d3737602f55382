"""Looks into the store that many want at once: shared, never stale, and an error is everybody's."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from threading import Event

import pytest

from provision.boot_service.grouped import GroupRead


class Shelf:
    """What can be looked up; a look waits until `open` is set."""

    def __init__(self) -> None:
        self.known = {"a": 1, "b": 2}
        self.looks: list[set[str]] = []
        self.open = Event()
        self.open.set()

    def look_up(self, keys: Collection[str]) -> dict[str, int]:
        self.looks.append(set(keys))
        found = {key: self.known[key] for key in keys if key in self.known}
        assert self.open.wait(10)
        if "broken" in keys:
            raise OSError("the disk is gone")
        return found


async def begun(shelf: Shelf, looks: int) -> None:
    while len(shelf.looks) < looks:
        await asyncio.sleep(0)


def test_all_who_wait_share_the_next_look() -> None:
    async def ask() -> list[int | None]:
        shelf.open.clear()
        first = asyncio.create_task(read.get("a"))
        await begun(shelf, 1)
        others = [asyncio.create_task(read.get(key)) for key in ("a", "b", "c", "b")]
        await asyncio.sleep(0)
        # Changed after the first look: who asks after that must be told.
        shelf.known["a"] = 7
        shelf.open.set()
        return [await each for each in (first, *others)]

    shelf = Shelf()
    read = GroupRead(shelf.look_up)
    assert asyncio.run(ask()) == [1, 7, 2, None, 2]
    assert shelf.looks == [{"a"}, {"a", "b", "c"}]


def test_one_who_gives_up_takes_it_from_nobody() -> None:
    async def ask() -> int | None:
        shelf.open.clear()
        impatient, patient = asyncio.create_task(read.get("a")), asyncio.create_task(read.get("a"))
        await begun(shelf, 1)
        impatient.cancel()
        shelf.open.set()
        return await patient

    shelf = Shelf()
    read = GroupRead(shelf.look_up)
    assert asyncio.run(ask()) == 1


def test_an_error_is_told_to_all_of_its_look_and_the_next_look_is_made() -> None:
    async def ask() -> None:
        asked = [asyncio.create_task(read.get(key)) for key in ("a", "broken")]
        for each in asked:
            with pytest.raises(OSError, match="the disk is gone"):
                await each
        assert await read.get("b") == 2

    read = GroupRead(Shelf().look_up)
    asyncio.run(ask())
