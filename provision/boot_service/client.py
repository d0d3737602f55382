"""How the harness speaks with the boot service: over its operator socket, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any
from urllib.parse import urlencode

from provision import read_only
from provision.boot_service.messages import Grant, PermitState, Rack, RackNode, RunState
from provision.errors import LabError, Refused, Unreachable, WriteRefused
from provision.journal import Event

ANSWER_SECONDS = 30.0
# The service says something every 15 s at the latest.
SILENCE_SECONDS = 40.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
COMPARISONS = frozenset({("POST", "/api/v1/rack/difference"), ("POST", "/api/v1/accounts/difference")})
"""What changes nothing: the service compares what is posted with what it knows."""


@dataclass(frozen=True, slots=True)
class Health:
    """Which ledger the service keeps, and the number of its newest event."""

    ledger: str
    last: int


class BootService:
    """The boot service behind a unix socket; `socket_path` is local, however it comes to be there.

    Every method raises Unreachable when the service does not answer, and Refused when it says no.
    """

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    def health(self) -> Health:
        """Which ledger the service keeps, and how far it is."""
        answer = self._ask("GET", "/healthz")
        return Health(answer["ledger"], answer["last"])

    def healthy(self) -> bool:
        """Whether the service answers."""
        try:
            self.health()
        except LabError:
            return False
        return True

    def put_rack(
        self,
        lab: str,
        nodes: Sequence[RackNode],
        consoles: Sequence[str] = (),
        *,
        iso_tokens_sha256: Sequence[str] = (),
        classic: bool = False,
    ) -> bool:
        """Let the service know these nodes and MACs of consoles, and no others. False: it did already."""
        rack = Rack(lab=lab, nodes=tuple(nodes), consoles=tuple(consoles),
                    iso_tokens_sha256=tuple(iso_tokens_sha256), classic=classic)  # fmt: skip
        return bool(self._ask("PUT", "/api/v1/rack", rack.model_dump_json())["changed"])

    def would_change_rack(self, rack: Rack) -> bool:
        """What `put_rack` would return for this rack; the service is told nothing."""
        return bool(self._ask("POST", "/api/v1/rack/difference", rack.model_dump_json())["changed"])

    def put_run(self, state: RunState) -> None:
        """Say how the run goes, for the dashboard."""
        self._ask("PUT", "/api/v1/run", state.model_dump_json())

    def grant(self, **order: Any) -> int:
        """Let a node be installed once (`order` are the fields of messages.Grant); its older permits end.

        Returns the permit's id.
        """
        return int(self._ask("POST", "/api/v1/permits", Grant(**order).model_dump_json())["id"])

    def put_accounts(self, accounts: Sequence[Mapping[str, str]]) -> bool:
        """Let these people in, each {"name", "role", "password" or "token"}, and nobody else.

        False: it was so already.
        """
        body = json.dumps({"accounts": list(accounts)})
        return bool(self._ask("PUT", "/api/v1/accounts", body)["changed"])

    def would_change_accounts(self, accounts: Sequence[Mapping[str, str]]) -> bool:
        """What `put_accounts` would return for them; the service is told nothing."""
        body = json.dumps({"accounts": list(accounts)})
        return bool(self._ask("POST", "/api/v1/accounts/difference", body)["changed"])

    def revoke(self, run: str) -> int:
        """Revoke the permits of a run. Returns how many it ended."""
        return self._revoke(run=run)

    def revoke_node(self, node: str) -> int:
        """Revoke the permit of a node. Returns how many it ended."""
        return self._revoke(node=node)

    def permits(self) -> list[PermitState]:
        """Every permit and its state, oldest first."""
        return [PermitState.model_validate(each) for each in self._ask("GET", "/api/v1/permits")]

    def follow(self, after: int, take: Callable[[Event], None], *, ledger: str | None = None) -> Following:
        """Give `take` every event after number `after`, each once and in order, in a thread of its own.

        It goes on over restarts of the service until it is stopped. `ledger` is the one that `after`
        was heard from, when that was in an earlier session: of another ledger, everything is news.
        """
        return Following(self._socket_path, after, take, ledger)

    def _revoke(self, **which: str) -> int:
        return int(self._ask("DELETE", f"/api/v1/permits?{urlencode(which)}")["revoked"])

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            with closing(_Connection(self._socket_path, ANSWER_SECONDS)) as connection:
                connection.request(method, path, body.encode() if body else None, headers)
                answer = connection.getresponse()
                content = json.loads(answer.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(self._socket_path, error) from error
        if answer.status >= http.client.BAD_REQUEST:
            raise Refused(f"the boot service refused {method} {path} ({answer.status}): {_detail(content)}")
        return content


class Following:
    """A thread that hands on the service's events until `stop`."""

    def __init__(self, path: Path, after: int, take: Callable[[Event], None], ledger: str | None) -> None:
        self._path, self._after, self._take, self._ledger = path, after, take, ledger
        self._stopped = Flag()
        self._lock = Lock()
        self._connection: _Connection | None = None
        self.failure: Exception | None = None
        self._thread = Thread(target=self._run, name="boot-service-events", daemon=True)
        self._thread.start()

    @property
    def after(self) -> int:
        """The number of the event handed on last."""
        return self._after

    def stop(self) -> None:
        """Hand nothing on any more and wait for the thread. Raises what had ended it before, if anything."""
        with self._lock:
            self._stopped.set()
            if self._connection is not None:
                self._connection.cut()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopped.is_set():
            heard = self._after
            try:
                self._listen()
            except (OSError, http.client.HTTPException):
                pass  # The service or the way to it is gone; it is asked again from where it was left.
            # A thread has no caller to raise to: whoever stops it is told.
            except Exception as error:
                self.failure = error
                return
            pause = FIRST_PAUSE if self._after != heard else min(pause * 1.5, LONGEST_PAUSE)
            self._stopped.wait(pause)

    def _listen(self) -> None:
        with closing(self._connect()) as connection:
            asked = {"after": str(self._after)} | ({"ledger": self._ledger} if self._ledger else {})
            connection.request("GET", f"/api/v1/events?{urlencode(asked)}")
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise Refused(f"the boot service refused to tell its events ({answer.status})")
            self._know(answer.headers["X-Ledger"])
            for event in _events(answer):
                self._hand_on(event)

    def _connect(self) -> _Connection:
        with self._lock:
            if self._stopped.is_set():
                raise ConnectionAbortedError
            self._connection = _Connection(self._path, SILENCE_SECONDS)
            self._connection.connect()
            return self._connection

    def _know(self, ledger: str) -> None:
        # Another ledger counts from 1 again.
        if self._ledger not in (None, ledger):
            self._after = 0
        self._ledger = ledger

    def _hand_on(self, event: Event) -> None:
        if event.seq > self._after and not self._stopped.is_set():
            self._take(event)
            self._after = event.seq


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("boot-service", timeout=timeout)
        self._path = path
        # HTTPConnection forgets its socket once an answer has begun; `cut` must still find it.
        self._raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def putrequest(self, method: str, url: str, *how: Any, **more: Any) -> None:
        """Begin a request that may be sent."""
        try:
            read_only.require_get(method, url, besides=COMPARISONS, node="boot service")
        except WriteRefused:
            self._raw.close()
            raise
        super().putrequest(method, url, *how, **more)

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = self._raw
        self._raw.settimeout(self.timeout)
        try:
            self._raw.connect(str(self._path))
        except OSError:
            self._raw.close()
            raise

    def cut(self) -> None:
        """Break the connection under whoever reads from it."""
        with suppress(OSError):  # It may be broken already.
            self._raw.shutdown(socket.SHUT_RDWR)


def _events(answer: http.client.HTTPResponse) -> Iterator[Event]:
    """The events of a stream of server-sent events, as this service sends them: one line of data each."""
    while line := answer.readline():
        if line.startswith(b"data: ") and line.endswith(b"\n"):
            yield Event(**json.loads(line[len(b"data: ") :]))


def _detail(content: object) -> object:
    return content.get("detail", content) if isinstance(content, dict) else content


def _unreachable(path: Path, error: Exception) -> Unreachable:
    return Unreachable(
        f"the boot service does not answer on {path}: {error or type(error).__name__}",
        likely="it is not running, or the connection to the provisioning server was lost; "
        "on the server: systemctl status rackproof-boot-service",
    )
