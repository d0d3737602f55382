"""What a process that systemd starts needs: its own unix socket, and a word when it is ready."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path


def listen(path: Path, mode: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A unix socket at `path`, in the place of a dead one; nobody but `mode` allows can connect.

    One of streams listens; one of datagrams can be read.
    """
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, kind)
    before = os.umask(0o777)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    path.chmod(mode)
    if kind == socket.SOCK_STREAM:
        listener.listen(1024)
    return listener


def notify(state: str) -> None:
    """Tell the service manager, if there is one that wants to know (sd_notify(3)) and still listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager, suppress(OSError):
        manager.connect("\0" + address[1:] if address.startswith("@") else address)
        manager.sendall(state.encode())
