"""The few Linux calls that Python 3.11 does not offer: namespaces, mounts, and dying with one's parent."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TypeVar

T = TypeVar("T")

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 1
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Give this process namespaces of its own, or (CLONE_NEWPID) its next child."""
    _checked(_libc.unshare(flags), "unshare")


def enter(namespace: Path, kind: int) -> None:
    """Put this thread into a namespace; raises FileNotFoundError when there is none."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(descriptor, kind), f"setns {namespace}")
    finally:
        os.close(descriptor)


def mount(source: str, target: Path, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    given = (source.encode(), bytes(target), kind.encode() if kind else None)
    _checked(_libc.mount(*given, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def unmount(target: Path) -> None:
    """Detach what is mounted at `target`, also while something in it is open."""
    _checked(_libc.umount2(bytes(target), MNT_DETACH), f"umount {target}")


def pivot(root: Path) -> None:
    """Make `root` the root of this process's own mounts, and let go of all others (pivot_root(2))."""
    os.chdir(root)
    _checked(_libc.pivot_root(b".", b"."), f"pivot_root {root}")
    unmount(Path())
    os.chdir("/")


def watchers(wanted: int) -> int:
    """How many of `wanted` inotify instances this user may still have: they are tried, and given back."""
    made: list[int] = []
    while len(made) < wanted and (descriptor := _libc.inotify_init1(os.O_CLOEXEC)) >= 0:
        made.append(descriptor)
    for descriptor in made:
        os.close(descriptor)
    return len(made)


def own_mounts() -> None:
    """A mount namespace of this process's own: nothing mounted here is seen outside.

    Unmounting outside is still seen here, or another rack's namespaces would be kept alive by this one.
    """
    unshare(CLONE_NEWNS)
    mount("none", Path("/"), None, MS_REC | MS_SLAVE)


def fork_into_own_pids() -> int:
    """fork(2) of a child that is the first process of a PID namespace; later children are as before."""
    own = Path("/proc/self/ns/pid")
    descriptor = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
    unshare(CLONE_NEWPID)
    process = os.fork()
    if process:
        _checked(_libc.setns(descriptor, CLONE_NEWPID), f"setns {own}")
    os.close(descriptor)
    return process


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when `parent` ends, however it ends."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def call_myself(name: str) -> None:
    """The name of this process in ps, at most 15 bytes of it."""
    _checked(_libc.prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0), "prctl")


def within(namespace: Path, action: Callable[[], T]) -> T:
    """Run `action` in a thread of its own inside a network namespace; this thread stays where it is."""
    results: list[T] = []
    errors: list[Exception] = []

    def act() -> None:
        try:
            enter(namespace, CLONE_NEWNET)
            results.append(action())
        except Exception as error:
            errors.append(error)

    thread = Thread(target=act, name=f"in {namespace.name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
