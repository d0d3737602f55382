"""The guard of a session that only reads: what would change something is refused before it is sent.

It stands in the clients themselves, at the last place that everything they send goes through, and is on
for the whole of `pytest -m verify`. It is there for mistakes, not against malice: a check is our own code.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from provision.errors import WriteRefused

if TYPE_CHECKING:
    from provision.read_only.programs import Reader

READING = frozenset({"GET", "HEAD"})
"""The methods of HTTP by which nothing is changed."""

_only_reading = False


@contextmanager
def only_reading() -> Iterator[None]:
    """Nothing but reading goes through the clients of this process, whichever thread uses them."""
    global _only_reading  # noqa: PLW0603 (connections, threads and checks share one process)
    before, _only_reading = _only_reading, True
    try:
        yield
    finally:
        _only_reading = before


def require_reading(
    command: str, stdin: bytes | str | Path | None = None, *, node: str | None = None
) -> None:
    """Raise WriteRefused, in a session that only reads, for a command that is not known to only read.

    `stdin` is what the command will be sent, `node` whom it is for.
    """
    if _only_reading and (why := refusal(command, stdin)):
        raise _refused(f'"{" ".join(command.split())[:160]}"', why, node, _ON_COMMANDS)


def require_get(
    method: str, url: str, *, besides: Collection[tuple[str, str]] = (), node: str | None = None
) -> None:
    """Raise WriteRefused, in a session that only reads, for a request that is neither GET nor HEAD.

    `besides` are requests, each by its method and path, that change nothing of the lab.
    """
    path = urlsplit(url).path
    if _only_reading and method not in READING and (method, path) not in besides:
        raise _refused(f"{method} {path}", f"{method} is not GET", node, _ON_REQUESTS)


def require_no_tunnel(place: str, *, node: str | None = None) -> None:
    """Raise WriteRefused in a session that only reads: what goes through a tunnel, nobody judges."""
    if _only_reading:
        raise _refused(f"the way to {place}", "what goes through it, nobody judges", node, _ON_REQUESTS)


def refusal(command: str, stdin: bytes | str | Path | None = None) -> str | None:
    """Why a command is not known to only read; None when it is. Nothing is run, nobody is asked."""
    why, reader = _verdict(command)
    if reader is None:
        return why
    if isinstance(stdin, Path) or stdin is None:
        return f"{reader.program} runs what it is sent, and that is not known"
    script = stdin if isinstance(stdin, str) else stdin.decode(errors="replace")
    return _script_refusal(reader, script)


def _script_refusal(reader: Reader, script: str) -> str | None:
    from provision.read_only import forms, programs  # noqa: PLC0415 (as below)

    try:
        told = programs.told_to(script, reader.arguments) if reader.program == "python3" else [script]
    except forms.NotReading as error:
        return str(error)
    for why, inner in map(_verdict, told):
        if why or inner:
            return why or "a shell runs what comes in"
    return None


@lru_cache(maxsize=4096)
def _verdict(text: str) -> tuple[str | None, Reader | None]:
    """Why shell text is refused, or the program that runs what it is sent."""
    from provision.read_only import forms, programs  # noqa: PLC0415 (a session that acts needs no list)

    try:
        return None, programs.judge_text(text)
    except forms.NotReading as error:
        return str(error), None


def _refused(what: str, why: str, node: str | None, advice: str) -> WriteRefused:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    return WriteRefused(f"not sent: {what}", why, node=node, test=test or None, advice=advice)


_ON_COMMANDS = (
    "ask for it in another way; or, if it only reads, put it on the list, "
    "provision/read_only/programs.py: docs/checks.md says how"
)
_ON_REQUESTS = "ask for it by GET; what changes something belongs into a step"
