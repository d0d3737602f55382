"""One action on many nodes at the same time, with every node's own outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from threading import Event as Flag
from typing import TypeVar

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
