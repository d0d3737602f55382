"""Control sockets, with a thread as the answering side."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from provision.errors import LabError, Refused
from virtual_lab.control import ControlSocket, ask


def answer(request: dict[str, Any]) -> dict[str, Any]:
    return {"error": "not this"} if request.get("do") == "refuse" else {"heard": request}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    # Longer than the 107 bytes that a socket address takes.
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    selector = selectors.DefaultSelector()
    control = ControlSocket(folder / "board.sock", selector, answer)
    stop, stopped = socket.socketpair()
    selector.register(stopped, selectors.EVENT_READ, None)

    def serve() -> None:
        while all(key.data is None or key.data() is None for key, _ in selector.select()):
            if any(key.data is None for key, _ in selector.select(0)):
                return

    thread = Thread(target=serve)
    thread.start()
    yield folder / "board.sock"
    stop.send(b"x")
    thread.join(5)
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    selector.close()
    stop.close()
    del control


def test_a_request_is_answered(path: Path) -> None:
    assert ask(path, {"do": "state"}) == {"heard": {"do": "state"}}
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_error_is_refused_in_its_own_words(path: Path) -> None:
    with pytest.raises(Refused, match="not this"):
        ask(path, {"do": "refuse"})


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n"])
def test_a_request_that_is_no_object_is_answered_too(path: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(f"/proc/self/cwd/{path}" if len(str(path)) < 90 else _near(path))
        peer.sendall(line)
        assert b"a request is a JSON object" in peer.recv(4096)


def test_nobody_answering_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"none\.sock does not answer"):
        ask(tmp_path / "none.sock", {"do": "state"})


def _near(path: Path) -> str:
    link = path.parents[1] / "s"
    link.symlink_to(path.parent)
    return str(link / path.name)
