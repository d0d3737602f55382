"""One action on many nodes at the same time, with every node's own outcome; or on those that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from threading import Event as Flag
from threading import Lock
from typing import Generic, TypeVar

from provision.errors import NodesFailed
from provision.wait import NOTICE, called_off

T = TypeVar("T")
N = TypeVar("N")


def together(nodes: Mapping[str, N], action: Callable[[N], T], *, most: int = 64) -> dict[str, T]:
    """Run `action` for every node at once and return the results by node name.

    All nodes are let finish, also when one fails. Raises the node's own error when one failed
    and NodesFailed, naming every node, when several did. An interruption ends what waits in the
    actions, and goes on only when every action has ended: whoever undoes then undoes it all.
    """
    if not nodes:
        return {}
    stop = called_off.get() or Flag()
    context = copy_context()
    context.run(called_off.set, stop)
    with ThreadPoolExecutor(max_workers=min(most, len(nodes)), thread_name_prefix="node") as pool:
        try:
            futures = {name: pool.submit(context.copy().run, action, node) for name, node in nodes.items()}
            # Over and over: a signal that comes just before a wait without end is noticed only after it.
            while wait(futures.values(), timeout=NOTICE).not_done:
                pass
        except KeyboardInterrupt:
            stop.set()
            raise
    errors = {name: future.exception() for name, future in futures.items()}
    failed = {name: error for name, error in errors.items() if isinstance(error, Exception)}
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        raise NodesFailed(failed)
    return {name: future.result() for name, future in futures.items()}


class Gathered(Generic[N]):
    """An action on several nodes at once, asked for by one thread a node.

    Whoever asks while it is at work is in the next one, with all others that asked meanwhile.
    """

    def __init__(self, action: Callable[[list[N]], None]) -> None:
        self._action = action
        self._asked: list[tuple[N, Future[None]]] = []
        self._asking, self._acting = Lock(), Lock()

    def __call__(self, node: N) -> None:
        """Return once the action was done for this node, or raise what it raised."""
        done: Future[None] = Future()
        with self._asking:
            self._asked.append((node, done))
        with self._acting:
            if not done.done():
                self._act()
        done.result()

    def _act(self) -> None:
        with self._asking:
            asked, self._asked = self._asked, []
        error: BaseException | None = None
        try:
            self._action([node for node, _ in asked])
        except BaseException as raised:  # each who asked is told, an interruption too
            error = raised
        for _, done in asked:
            done.set_exception(error) if error else done.set_result(None)
