"""Keeps permits that were looked up a moment ago, and never one that was changed since."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Generic, Protocol, TypeVar

from provision.boot_service.shared import Marks

MOST = 2048
# Changes by a process that shares the marks are known at once; those by any other after this time.
MOST_AGE = 1.0


class _OfNode(Protocol):
    @property
    def node(self) -> str: ...


P = TypeVar("P", bound=_OfNode)


@dataclass(frozen=True, slots=True)
class _Kept(Generic[P]):
    permit: P
    mark: bytes
    until: float


class PermitCache(Generic[P]):
    """Permits by the SHA-256 of a token; those read longest ago go first."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._kept: OrderedDict[str, _Kept[P]] = OrderedDict()
        self._turn = Lock()

    def get(self, digest: str) -> P | None:
        """The permit, unless it, or another of its node, was changed since it was read."""
        kept = self._kept.get(digest)
        if kept is None or kept.until < time.monotonic() or kept.mark != self._marks.of(kept.permit.node):
            return None
        return kept.permit

    def put(self, digest: str, permit: P, mark: bytes) -> None:
        """Keep a permit that was read after its node's `mark` was taken."""
        with self._turn:
            self._kept[digest] = _Kept(permit, mark, time.monotonic() + MOST_AGE)
            self._kept.move_to_end(digest)
            if len(self._kept) > MOST:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget them all: what they carry must not outlive its erasure for long."""
        with self._turn:
            self._kept.clear()
