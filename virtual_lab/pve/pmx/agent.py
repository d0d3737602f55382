"""Talks to a guest's QEMU agent, over the socket that the guest's own qemu-ga listens on."""

from __future__ import annotations

import base64
import json
import secrets
import socket
from collections.abc import Mapping
from typing import Any

from . import drives, guests
from .errors import Failure
from .guest_run import agent_socket

PING_SECONDS = 3.0
MAX_READ = 16 << 20
_COMMAND_SECONDS = 60.0
_CHUNK = 1 << 20


def command(
    vmid: int, name: str, arguments: Mapping[str, Any] | None = None, *, seconds: float = _COMMAND_SECONDS
) -> Any:
    """What the agent returns to `guest-<name>`; Failure with its own words when it refuses."""
    answer = _ask(vmid, {"execute": f"guest-{name}", "arguments": dict(arguments or {})}, seconds)
    if "error" in answer:
        raise Failure(f"Agent error: {answer['error'].get('desc', 'unknown')}")
    return answer.get("return")


def order(vmid: int, name: str) -> None:
    """Have the agent do what ends it: no answer comes."""
    with guests.locked_agent(vmid, PING_SECONDS), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(PING_SECONDS)
        line.connect(str(agent_socket(vmid)))
        line.sendall(json.dumps({"execute": f"guest-{name}"}).encode() + b"\n")


def available(vmid: int) -> bool:
    """Whether the agent answers."""
    try:
        command(vmid, "ping", seconds=PING_SECONDS)
    except (Failure, OSError):
        return False
    return True


def check_available(vmid: int, conf: Mapping[str, str]) -> None:
    """Failure when no agent is configured, the guest does not run, or its agent does not answer."""
    if "agent" not in conf:
        raise Failure("No QEMU guest agent configured")
    if not guests.running(vmid):
        raise Failure(f"VM {vmid} is not running")
    if not drives.has_agent(conf) or not available(vmid):
        raise Failure("QEMU guest agent is not running")


def _ask(vmid: int, order: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    with guests.locked_agent(vmid, seconds), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(seconds)
        try:
            line.connect(str(agent_socket(vmid)))
            stream = line.makefile("rw")
            number = secrets.randbelow(1 << 31)
            _send(stream, {"execute": "guest-sync", "arguments": {"id": number}})
            while _received(stream).get("return") != number:
                pass  # what an earlier caller did not wait for
            _send(stream, order)
            answer = _received(stream)
        except (OSError, ValueError) as gone:
            raise Failure(f"VM {vmid} qga command '{order['execute']}' failed - got timeout") from gone
    return answer


def _send(stream: Any, order: Mapping[str, Any]) -> None:
    stream.write(json.dumps(order) + "\n")
    stream.flush()


def _received(stream: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(stream.readline())  # an empty line, at the end, is no JSON
    return answer


def read_file(
    vmid: int, path: str, *, count: int = MAX_READ, offset: int = 0, decode: bool = True
) -> dict[str, Any]:
    """What GET agent/file-read says of a file in the guest."""
    handle = command(vmid, "file-open", {"path": path})
    if offset:
        command(vmid, "file-seek", {"handle": handle, "offset": offset, "whence": "set"})
    content, done, ended = "", 0, False
    while done < count and not ended:
        chunk = command(vmid, "file-read", {"handle": handle, "count": min(_CHUNK, count - done)})
        text = chunk["buf-b64"]
        content += base64.b64decode(text).decode("latin-1") if decode else text
        done, ended = done + chunk["count"], bool(chunk.get("eof"))
    command(vmid, "file-close", {"handle": handle})
    result = {"content": content, "bytes-read": done}
    return result if ended else {**result, "truncated": 1}


def write_file(vmid: int, path: str, content: str, *, encode: bool = True) -> None:
    """Write a file in the guest."""
    handle = command(vmid, "file-open", {"path": path, "mode": "wb"})
    data = base64.b64encode(content.encode()).decode() if encode else content
    command(vmid, "file-write", {"handle": handle, "buf-b64": data})
    command(vmid, "file-close", {"handle": handle})


def execute(vmid: int, words: list[str], given: str | None = None) -> Any:
    """Start a program in the guest; its pid there."""
    order: dict[str, Any] = {"capture-output": True, "path": words[0], "arg": words[1:]}
    if given is not None:
        order["input-data"] = base64.b64encode(given.encode()).decode()
    return command(vmid, "exec", order)


def execution(vmid: int, pid: int) -> dict[str, Any]:
    """How far a started program is, and what it wrote."""
    found: dict[str, Any] = command(vmid, "exec-status", {"pid": pid})
    for key in ("out-data", "err-data"):
        if key in found:
            found[key] = base64.b64decode(found[key]).decode("utf-8", "replace")
    return {key: int(value) if isinstance(value, bool) else value for key, value in found.items()}
