"""Remote over SSH: one connection per machine, all of them on one background event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from provision import read_only
from provision.errors import LabError, Unreachable
from provision.remote import Output, Remote, Stdin, Target, gave_up, note_connection, short
from provision.spans import at_work

T = TypeVar("T")

# sshd allows ten sessions on a connection by default (MaxSessions); the rest is left to people.
MOST_SESSIONS = 8
# A machine that lost its power says nothing: the connection is given up after this much silence.
KEEPALIVE = {"keepalive_interval": 5, "keepalive_count_max": 3}
# Of two threads that first use SSH at the same time one makes the loop, or there would be two.
_MAKING_IT = threading.Lock()
log = logging.getLogger(__name__)


class NeverStarted(Unreachable):
    """The connection was gone before the command was sent: it is safe to send it again."""


class SshRemote(Remote):
    """A machine over one SSH connection, opened at once and again when it is found gone."""

    def __init__(self, target: Target, *, timeout: float = 10.0) -> None:
        self.name = target.name
        self._target, self._timeout = target, timeout
        self._opening = threading.Lock()
        self._sessions = threading.BoundedSemaphore(MOST_SESSIONS)
        self._connection: asyncssh.SSHClientConnection | None = None
        self._live()

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        """Run `command` once, in a session of its own."""
        read_only.require_reading(command, stdin, node=self.name)
        with self._sessions:
            try:
                return self._execute(command, stdin, timeout)
            except NeverStarted:
                return self._execute(command, stdin, timeout)

    @contextmanager
    def forward_socket(self, remote_socket: str) -> Iterator[Path]:
        """A local socket, readable by this user alone; it outlives a lost connection."""
        read_only.require_no_tunnel(remote_socket, node=self.name)
        folder = tempfile.TemporaryDirectory(prefix="rackproof-")
        # A thread belongs to the network namespace of the thread that started it. This one starts
        # here, so that a later reconnect leaves from where the caller is, not from the loop's thread.
        dialler = ThreadPoolExecutor(1, "dial")
        with folder as name, dialler:
            dialler.submit(self._live).result()
            relay = _Relay(Path(name) / "socket", remote_socket, self._live, dialler)
            _wait(relay.start())
            try:
                yield relay.path
            finally:
                _wait(relay.stop())

    def close(self) -> None:
        """Close the connection."""
        with self._opening:
            if self._connection:
                _wait(_close(self._connection))
            self._connection = None

    def _live(self) -> asyncssh.SSHClientConnection:
        with self._opening:
            if self._connection is None or self._connection.is_closed():
                with at_work(self.name):
                    self._connection = dial(self._target, self._timeout)
            return self._connection

    def _execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        process = self._start(command, stdin)
        try:
            done = _wait(process.wait(), timeout)
        except TimeoutError:
            said = _wait(_abandon(process))
            raise gave_up(self.name, command, timeout, said) from None
        if done.returncode is None:
            message = f'the connection was lost while "{short(command)}" ran; it may have finished'
            raise Unreachable(message, node=self.name)
        return Output(done.returncode, _bytes(done.stdout), _bytes(done.stderr))

    def _start(self, command: str, stdin: Stdin) -> asyncssh.SSHClientProcess[bytes]:
        connection = self._live()
        try:
            return _wait(_begin(connection, command, stdin), self._timeout)
        except asyncssh.ChannelOpenError as error:
            gone = connection.is_closed() and error.code == asyncssh.OPEN_CONNECT_FAILED
            message = f'"{short(command)}" could not be started: {error.reason}'
            raise (NeverStarted if gone else Unreachable)(message, node=self.name) from error
        except (TimeoutError, asyncssh.Error, OSError) as error:
            message = f'"{short(command)}": no session within {self._timeout:g} s ({error or "no answer"})'
            raise Unreachable(message, node=self.name) from error


def dial(target: Target, timeout: float) -> asyncssh.SSHClientConnection:
    """A new, verified connection; raises Unreachable, saying what was wrong."""
    witness = _Witness()
    keys: dict[str, Any] = {"preferred_auth": "publickey"}
    if target.identity:
        keys |= {"client_keys": [str(target.identity)], "agent_path": None, "config": None}
    return _dial(target, timeout, witness, keys)


def password_refused(target: Target, password: str | None, *, timeout: float) -> bool:
    """See provision.remote.password_refused."""
    witness = _Witness(password)
    auth = {"preferred_auth": "password,keyboard-interactive", "client_keys": None, "agent_path": None,
            "config": None}  # fmt: skip
    try:
        connection = _dial(target, timeout, witness, auth)
    except Unreachable as error:
        if not isinstance(error.__cause__, asyncssh.PermissionDenied):
            raise
        return password is not None or not witness.password_offered
    _wait(_close(connection))
    return False


def shown_host_key(target: Target, *, timeout: float) -> str:
    """See provision.remote.shown_host_key."""
    witness = _Witness()
    try:
        # To whoever expects none every key is unexpected.
        _wait(_close(_dial(replace(target, host_keys=()), timeout, witness, {})))
    except Unreachable:
        if witness.found is None:
            raise
    assert witness.found is not None, "a machine whose key nobody knows is not spoken to"
    return " ".join(witness.found.export_public_key("openssh").decode().split()[:2])


class _Witness(asyncssh.SSHClient):
    """Remembers what the machine showed while a connection was opened."""

    def __init__(self, password: str | None = None) -> None:
        self.found: asyncssh.SSHKey | None = None
        self.password_offered = False
        self._password = password

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for a host key that is not among the expected ones: kept for the error, and refused."""
        self.found = key
        return False

    def password_auth_requested(self) -> str | None:
        """Called when the machine offers log-in by password; each password is tried once."""
        self.password_offered = True
        password, self._password = self._password, None
        return password

    def kbdint_auth_requested(self) -> str | None:
        """Called when the machine offers to ask questions: log-in by password in other words."""
        self.password_offered = True
        return "" if self._password else None

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> Sequence[str] | None:
        """Called with the questions: the password is the answer to the one that is not echoed, once."""
        password, self._password = self._password, None
        return ["" if echo else password for _, echo in prompts] if password else None


class _Relay:
    """Listens on a local Unix socket and carries each client to the machine's."""

    def __init__(
        self,
        path: Path,
        far: str,
        live: Callable[[], asyncssh.SSHClientConnection],
        dialler: ThreadPoolExecutor,
    ) -> None:
        self.path, self._far, self._live, self._dialler = path, far, live, dialler
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accepted, self.path)

    async def stop(self) -> None:
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await self._open()
            try:
                await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
            finally:
                far_writer.close()
        except (LabError, asyncssh.Error, OSError) as error:
            log.warning("%s: %s", self._far, error)
        finally:
            writer.close()

    async def _open(
        self, *, again: bool = True
    ) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]:
        connection = await asyncio.get_running_loop().run_in_executor(self._dialler, self._live)
        try:
            return await connection.open_unix_connection(self._far)
        except asyncssh.ChannelOpenError as error:
            # That the connection was lost may come out only now; nothing was sent over it yet. asyncssh
            # has the same code for this and for a socket that is not there, and tells them by the reason.
            if not again or "SSH connection" not in error.reason:
                raise
            await connection.wait_closed()
            return await self._open(again=False)


Reader = asyncio.StreamReader | asyncssh.SSHReader[bytes]
Writer = asyncio.StreamWriter | asyncssh.SSHWriter[bytes]


async def _pump(source: Reader, sink: Writer) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()


def _dial(
    target: Target, timeout: float, witness: _Witness, auth: dict[str, Any]
) -> asyncssh.SSHClientConnection:
    note_connection(target.name)
    try:
        with contextlib.ExitStack() as unless_connected:
            # Here, not in the loop's thread: the socket belongs to the caller's network namespace.
            sock = socket.create_connection((target.address, target.port), timeout)
            unless_connected.callback(sock.close)
            sock.setblocking(False)
            connection = _wait(_connect(target, sock, witness, auth), timeout)
            unless_connected.pop_all()
            return connection
    except (TimeoutError, asyncssh.Error, OSError, ValueError) as error:
        raise Unreachable(_trouble(target, timeout, witness, error), node=target.name) from error


async def _connect(
    target: Target, sock: socket.socket, witness: _Witness, auth: dict[str, Any]
) -> asyncssh.SSHClientConnection:
    options: dict[str, Any] = {**KEEPALIVE, **auth}
    if target.host_keys is not None:
        options |= _expecting(target.host_keys)
    connection: asyncssh.SSHClientConnection = await asyncssh.connect(
        target.address, target.port, sock=sock, username=target.user,
        client_factory=lambda: witness, client_version="rackproof", **options)  # fmt: skip
    return connection


def _expecting(lines: tuple[str, ...]) -> dict[str, Any]:
    """Options that trust these keys alone, and ask for their algorithms before any other.

    The others are asked for too, so that a machine with another kind of key shows it, for the error.
    """
    keys = [asyncssh.import_public_key(line) for line in lines]
    wanted = [algorithm.decode() for key in keys for algorithm in key.sig_algorithms]
    others = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
              "rsa-sha2-256", "rsa-sha2-512"]  # fmt: skip
    return {"known_hosts": (keys, [], []), "server_host_key_algs": list(dict.fromkeys(wanted + others))}


def _trouble(target: Target, timeout: float, witness: _Witness, error: Exception) -> str:
    """What to tell a person about a connection that could not be opened."""
    where = f"ssh {target}"
    if witness.found:
        return f"{where}: its host key is {_fingerprint(witness.found)}, expected {_expected(target)}"
    if isinstance(error, asyncssh.PermissionDenied):
        identity = target.identity or "the SSH agent and default keys of this user"
        return f"{where}: it accepts no key of {identity} for {target.user}"
    if isinstance(error, TimeoutError):
        return f"{where}: no answer within {timeout:g} s"
    return f"{where}: {error}"


def _expected(target: Target) -> str:
    if target.host_keys is None:
        return f"one that known_hosts has for {target.address}; check the machine, then add its key there"
    return " or ".join(_fingerprint(asyncssh.import_public_key(line)) for line in target.host_keys) or "none"


def _fingerprint(key: asyncssh.SSHKey) -> str:
    return f"{key.get_fingerprint()} ({key.get_algorithm()})"


async def _begin(
    connection: asyncssh.SSHClientConnection, command: str, stdin: Stdin
) -> asyncssh.SSHClientProcess[bytes]:
    content = stdin.encode() if isinstance(stdin, str) else stdin
    source = content if isinstance(content, Path) else asyncssh.PIPE if content else asyncssh.DEVNULL
    process = await connection.create_process(command, stdin=source, encoding=None)
    if isinstance(content, bytes) and content:
        process.stdin.write(content)
        process.stdin.write_eof()
    return process


async def _abandon(process: asyncssh.SSHClientProcess[bytes]) -> bytes:
    """Kill what still runs and return the end of what it said."""
    stdout, stderr = process.collect_output()
    with contextlib.suppress(OSError):
        process.kill()
    process.close()
    return _bytes(stderr) or _bytes(stdout)


async def _close(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    await connection.wait_closed()


def _bytes(data: str | bytes | None) -> bytes:
    return data.encode() if isinstance(data, str) else data or b""


def _loop() -> asyncio.AbstractEventLoop:
    with _MAKING_IT:
        return _only_loop()


@functools.cache
def _only_loop() -> asyncio.AbstractEventLoop:
    # asyncssh logs every command; a command line is for errors, not for the report's log section.
    asyncssh.set_log_level("WARNING")
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ssh", daemon=True).start()
    return loop


def _wait(work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Do `work` on the background loop; TimeoutError, and the work is cancelled, after `timeout` seconds."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result(timeout)
    finally:
        future.cancel()
