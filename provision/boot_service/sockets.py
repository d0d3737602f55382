"""What a process that systemd starts needs: its own unix socket, and a word when it is ready."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path


def listen(path: Path, mode: int) -> socket.socket:
    """A listening unix socket at `path`, in the place of a dead one; nobody but `mode` allows can connect."""
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    path.chmod(mode)
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
