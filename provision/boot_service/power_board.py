"""What the nodes' consoles last said of power, asked when somebody looks and never waited for by a page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

FRESH_SECONDS = 30.0
PATIENCE_SECONDS = 15.0
AT_ONCE = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Power:
    """`state` is "on", "off", or None when the console did not say; `asked` in seconds since the epoch."""

    state: str | None
    asked: float


class PowerBoard:
    """Remembers each node's answer for half a minute; at most eight consoles are asked at a time."""

    def __init__(
        self, ask: Callable[[str], Awaitable[str | None]] | None, clock: Callable[[], float]
    ) -> None:
        self._ask, self._clock = ask, clock
        self._known: dict[str, Power] = {}
        self._asking: dict[str, asyncio.Task[Power]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    def known(self, node: str) -> Power | None:
        """What is known at this moment, without asking; None when that is nothing, or too old."""
        power = self._known.get(node)
        return power if power and self._clock() - power.asked < FRESH_SECONDS else None

    def refresh(self, nodes: Iterable[str]) -> bool:
        """Begin to ask for all nodes of which nothing is known. Whether answers are still to come."""
        if self._ask is None:
            return False
        begun = [self._task(node) for node in nodes if self.known(node) is None]
        return bool(begun)

    async def state(self, node: str) -> Power:
        """What is known, else what the console says now."""
        if self._ask is None:
            return Power(None, self._clock())
        known = self.known(node)
        return await asyncio.shield(self._task(node)) if known is None else known

    def forget(self, node: str) -> None:
        """Something was done to the node's power: what was known is no longer."""
        self._known.pop(node, None)
        self._asking.pop(node, None)

    def _task(self, node: str) -> asyncio.Task[Power]:
        task = self._asking.get(node)
        if task is None or task.done():
            task = self._asking[node] = asyncio.create_task(self._answer(node), name=f"power {node}")
        return task

    async def _answer(self, node: str) -> Power:
        assert self._ask
        state = None
        try:
            async with self._turns, asyncio.timeout(PATIENCE_SECONDS):
                state = await self._ask(node)
        # Whatever goes wrong with one console: its power is not known, and the page says so.
        except Exception as error:
            log.warning("the power of %s is not known: %s", node, type(error).__name__)
        power = Power(state if state in ("on", "off") else None, self._clock())
        if self._asking.get(node) is asyncio.current_task():
            self._known[node] = power
            del self._asking[node]
        return power
