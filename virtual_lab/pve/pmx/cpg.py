"""corosync's closed process groups and quorum, by ctypes on the libraries that corosync comes with."""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable
from typing import Any

OK, TRY_AGAIN = 1, 6
_DISPATCH_ALL = 2
_AGREED = 2  # CPG_TYPE_AGREED: one order for all
_TRACK_CHANGES_AND_CURRENT = 3


class CorosyncError(Exception):
    """corosync is not there, or went away."""


class _Name(c.Structure):
    _fields_ = (("length", c.c_uint32), ("value", c.c_char * 128))


class _Address(c.Structure):
    _fields_ = (("nodeid", c.c_uint32), ("pid", c.c_uint32), ("reason", c.c_uint32))


class _Vector(c.Structure):
    _fields_ = (("base", c.c_char_p), ("length", c.c_size_t))


_Deliver = c.CFUNCTYPE(None, c.c_uint64, c.POINTER(_Name), c.c_uint32, c.c_uint32, c.c_void_p, c.c_size_t)
_Addresses = c.POINTER(_Address)
_Change = c.CFUNCTYPE(
    None, c.c_uint64, c.POINTER(_Name), _Addresses, c.c_size_t, _Addresses, c.c_size_t, _Addresses, c.c_size_t
)
_Notify = c.CFUNCTYPE(None, c.c_uint64, c.c_uint32, c.c_uint64, c.c_uint32, c.POINTER(c.c_uint32))


class _GroupCallbacks(c.Structure):
    _fields_ = (("deliver", _Deliver), ("change", _Change))


class _QuorumCallbacks(c.Structure):
    _fields_ = (("notify", _Notify),)


def _check(code: int, what: str) -> None:
    if code != OK:
        raise CorosyncError(f"{what} failed: {code}")


class _Service:
    """A connection to corosync: a descriptor to poll and a call that runs what has arrived."""

    def __init__(self, library: str, prefix: str) -> None:
        self._lib, self._prefix = c.CDLL(library), prefix
        self._handle = c.c_uint64()

    def _call(self, name: str, *args: Any) -> int:
        return int(getattr(self._lib, f"{self._prefix}_{name}")(*args))

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to dispatch."""
        fd = c.c_int(-1)
        _check(self._call("fd_get", self._handle, c.byref(fd)), f"{self._prefix}_fd_get")
        return fd.value

    def dispatch(self) -> None:
        """Run the callbacks of everything that has arrived."""
        code = self._call("dispatch", self._handle, c.c_int(_DISPATCH_ALL))
        if code != TRY_AGAIN:
            _check(code, f"{self._prefix}_dispatch")

    def close(self) -> None:
        """Let go of the connection."""
        self._call("finalize", self._handle)


class Group(_Service):
    """Membership of one process group."""

    def __init__(
        self,
        name: str,
        deliver: Callable[[tuple[int, int], bytes], None],
        change: Callable[[list[tuple[int, int]]], None],
    ) -> None:
        super().__init__("libcpg.so.4", "cpg")
        self._name = _Name(len(name), name.encode())

        def on_deliver(_handle: int, _name: Any, node: int, pid: int, data: int, length: int) -> None:
            deliver((node, pid), c.string_at(data, length))

        def on_change(_handle: int, _name: Any, members: Any, count: int, *_rest: Any) -> None:
            change([(members[at].nodeid, members[at].pid) for at in range(count)])

        self._callbacks = _GroupCallbacks(_Deliver(on_deliver), _Change(on_change))
        code = self._call("initialize", c.byref(self._handle), c.byref(self._callbacks))
        _check(code, "cpg_initialize")

    def join(self) -> None:
        """Become a member; CorosyncError when corosync is not ready for it yet."""
        _check(self._call("join", self._handle, c.byref(self._name)), "cpg_join")

    def leave(self) -> None:
        """Stop being a member."""
        self._call("leave", self._handle, c.byref(self._name))

    @property
    def node_id(self) -> int:
        """This node's id."""
        node = c.c_uint()
        _check(self._call("local_get", self._handle, c.byref(node)), "cpg_local_get")
        return node.value

    def multicast(self, message: bytes) -> bool:
        """Send to all members, this one included; False when corosync asks to try again."""
        vector = _Vector(message, len(message))
        code = self._call("mcast_joined", self._handle, c.c_int(_AGREED), c.byref(vector), c.c_uint(1))
        if code == TRY_AGAIN:
            return False
        _check(code, "cpg_mcast_joined")
        return True


class Quorum(_Service):
    """Whether this node's part of the cluster may act."""

    def __init__(self, notify: Callable[[bool], None]) -> None:
        super().__init__("libquorum.so.5", "quorum")

        def on_notify(_handle: int, quorate: int, *_rest: Any) -> None:
            notify(bool(quorate))

        self._callbacks = _QuorumCallbacks(_Notify(on_notify))
        kind = c.c_uint32()
        code = self._call("initialize", c.byref(self._handle), c.byref(self._callbacks), c.byref(kind))
        _check(code, "quorum_initialize")
        _check(
            self._call("trackstart", self._handle, c.c_uint(_TRACK_CHANGES_AND_CURRENT)), "quorum_trackstart"
        )
