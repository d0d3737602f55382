"""Control sockets of boards and the supervisor: JSON lines, asked and answered, on a unix socket."""

from __future__ import annotations

import json
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provision.errors import LabError, Refused

Answer = Callable[[dict[str, Any]], dict[str, Any]]
_LONGEST = 64 * 1024


def ask(path: Path, request: dict[str, Any], *, timeout: float = 10.0) -> dict[str, Any]:
    """One request and its answer.

    Raises LabError when nothing answers at `path`, and Refused with the answer's own words for an error.
    """
    try:
        with socket.socket(socket.AF_UNIX) as peer, _short(path) as address:
            peer.settimeout(timeout)
            peer.connect(address)
            peer.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(peer.makefile().readline() or "{}")
    except (OSError, ValueError) as error:
        raise LabError(f"{path} does not answer: {error}") from error
    if "error" in answer:
        raise Refused(str(answer["error"]))
    return answer


class ControlSocket:
    """The answering side; its connections live in the owner's selector."""

    def __init__(self, path: Path, selector: selectors.BaseSelector, answer: Answer) -> None:
        self._selector, self._answer = selector, answer
        self._buffers: dict[socket.socket, bytes] = {}
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        path.unlink(missing_ok=True)
        with _short(path) as address:
            self._listening.bind(address)
        path.chmod(0o600)
        self._listening.listen(64)
        selector.register(self._listening, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        peer, _ = self._listening.accept()
        peer.setblocking(False)
        self._buffers[peer] = b""
        self._selector.register(peer, selectors.EVENT_READ, lambda: self._read(peer))

    def _read(self, peer: socket.socket) -> None:
        try:
            received = peer.recv(_LONGEST)
            self._buffers[peer] += received
            *lines, self._buffers[peer] = self._buffers[peer].split(b"\n")
            for line in lines:
                peer.sendall(json.dumps(self._answer_to(line)).encode() + b"\n")
        except OSError:
            received = b""
        if not received or len(self._buffers[peer]) > _LONGEST:
            self._close(peer)

    def _answer_to(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        return self._answer(request) if isinstance(request, dict) else {"error": "a request is a JSON object"}

    def _close(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)
        del self._buffers[peer]
        peer.close()


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """The same file under a path that fits into a socket address, which takes 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
