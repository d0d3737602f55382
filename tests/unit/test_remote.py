"""Remote against an SSH server of this process's own, and against this machine."""

from __future__ import annotations

import asyncio
import functools
import getpass
import grp
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncssh
import pytest

from provision import spans, ssh
from provision.errors import GaveUp, LabError, Unreachable
from provision.remote import (
    CommandFailed,
    LocalRemote,
    Remote,
    Target,
    alone,
    connect,
    open_count,
    password_refused,
    short,
    shown_host_key,
)

T = TypeVar("T")
OWNER = f"{getpass.getuser()}:{grp.getgrgid(os.getgid()).gr_name}"


class SshServer:
    """An SSH server that runs commands by /bin/sh as this user, on a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key = folder / "identity"
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(self.user_key)
        self.authorized = folder / "authorized_keys"
        self.authorized.write_bytes(key.export_public_key())
        self.password: str | None = None
        self.clients: list[asyncssh.SSHServerConnection] = []
        self.commands: list[str] = []
        self.running = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = self._do(self._listen())

    @property
    def port(self) -> int:
        return int(self._listener.get_port())

    def target(self, **other: object) -> Target:
        fields: dict[str, object] = {
            "name": "node1", "address": "127.0.0.1", "port": self.port, "user": "root",
            "host_keys": (public(self.host_key),), "identity": self.user_key,
        }  # fmt: skip
        return Target(**(fields | other))  # type: ignore[arg-type]

    def cut(self) -> None:
        """Drop every connection, as a machine that loses its power does."""
        for client in self.clients:
            self._loop.call_soon_threadsafe(client.abort)
        self.clients.clear()

    def stop(self) -> None:
        self.cut()
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=lambda: _Client(self), process_factory=self._run, encoding=None,
            server_host_keys=[self.host_key], authorized_client_keys=str(self.authorized),
        )  # fmt: skip

    async def _close(self) -> None:
        self._listener.close()
        await self._listener.wait_closed()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        assert process.command
        self.commands.append(process.command)
        child = await asyncio.create_subprocess_shell(
            process.command, stdin=-1, stdout=-1, stderr=-1, start_new_session=True
        )
        self.running.set()
        await asyncio.gather(
            pump(process.stdin, child.stdin), pump(child.stdout, process.stdout),
            pump(child.stderr, process.stderr), kill_when_closed(process, child),
            exit_with(process, child), return_exceptions=True,
        )  # fmt: skip

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(5)


async def pump(source: Any, sink: Any) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    finally:
        if isinstance(sink, asyncio.StreamWriter):
            sink.close()


async def exit_with(process: asyncssh.SSHServerProcess[bytes], child: asyncio.subprocess.Process) -> None:
    rc = await child.wait()
    await process.stdout.drain()
    process.exit(rc)


async def kill_when_closed(
    process: asyncssh.SSHServerProcess[bytes], child: asyncio.subprocess.Process
) -> None:
    """As sshd does: what runs on a connection that is gone, or is told to stop, ends."""
    await process.channel.wait_closed()
    if child.returncode is None:
        os.killpg(child.pid, signal.SIGKILL)


class _Client(asyncssh.SSHServer):
    def __init__(self, server: SshServer) -> None:
        self._server = server

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._server.clients.append(conn)

    def password_auth_supported(self) -> bool:
        return self._server.password is not None

    def validate_password(self, username: str, password: str) -> bool:
        return password == self._server.password

    def unix_connection_requested(self, dest_path: str) -> bool:
        return True


def public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    server = SshServer(tmp_path_factory.mktemp("ssh"))
    yield server
    server.stop()


@pytest.fixture
def remote(server: SshServer) -> Iterator[Remote]:
    server.password = None
    server.commands.clear()
    server.running.clear()
    remote = connect(server.target())
    yield remote
    remote.close()


@pytest.fixture(params=["ssh", "local"])
def machine(request: pytest.FixtureRequest) -> Remote:
    """Each way to reach a machine: both keep the same promises."""
    return LocalRemote("node1") if request.param == "local" else request.getfixturevalue("remote")


def test_output_return_code_and_time(machine: Remote) -> None:
    result = machine.run("echo out; echo err >&2; exit 3")
    assert (result.rc, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert result.seconds > 0


def test_return_code_255_is_a_result_like_any_other(machine: Remote) -> None:
    assert machine.run("exit 255").rc == 255


def test_check_returns_output_without_its_last_newline(machine: Remote) -> None:
    assert machine.check("printf 'a\\nb\\n'") == "a\nb"


def test_check_names_machine_command_code_and_the_last_words(machine: Remote) -> None:
    with pytest.raises(CommandFailed) as caught:
        machine.check("echo one thing >&2; false")
    assert str(caught.value) == 'node1: "echo one thing >&2; false" ended with 1\n  last seen: one thing'
    assert caught.value.result.stderr == "one thing\n"


@pytest.mark.parametrize("stdin", [b"\x00\xff\x00", "text é", b"x" * 300_000])
def test_stdin_arrives_whole(machine: Remote, stdin: bytes | str, tmp_path: Path) -> None:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    machine.check(f"cat > {tmp_path}/got", stdin=stdin)
    assert (tmp_path / "got").read_bytes() == data
    assert machine.read(f"{tmp_path}/got") == data


def test_stdin_from_a_file(machine: Remote, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"\x00content\xff" * 10_000)
    machine.check(f"cat > {tmp_path}/got", stdin=tmp_path / "source")
    assert (tmp_path / "got").read_bytes() == (tmp_path / "source").read_bytes()


def test_without_stdin_a_command_reads_nothing(machine: Remote) -> None:
    assert machine.check("cat", timeout=2) == ""


def test_a_command_that_hangs_is_given_up_and_named_with_its_last_words(machine: Remote) -> None:
    with pytest.raises(
        GaveUp, match=r'node1: "echo waiting; sleep 60" did not finish within 0.2 s'
    ) as caught:
        machine.run("echo waiting; sleep 60", timeout=0.2)
    assert caught.value.last_seen == "waiting"
    assert machine.check("echo still here") == "still here"


def test_read_tells_absent_from_empty(machine: Remote, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert machine.read(f"{tmp_path}/empty") == b""
    assert machine.read(f"{tmp_path}/absent") is None


def test_read_of_what_is_no_file_is_an_error(machine: Remote, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=f"could not read {tmp_path}"):
        machine.read(str(tmp_path))


def test_write_changes_once_and_says_so(machine: Remote, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "it's a file"
    assert machine.write(str(path), b"\x00data", mode=0o640, owner=OWNER) is True
    inode = path.stat().st_ino
    assert machine.write(str(path), b"\x00data", mode=0o640, owner=OWNER) is False
    assert (path.read_bytes(), path.stat().st_mode & 0o777, path.stat().st_ino) == (b"\x00data", 0o640, inode)


@pytest.mark.parametrize(("data", "mode"), [("other", 0o640), ("data", 0o600)])
def test_write_replaces_other_content_and_other_mode(
    machine: Remote, tmp_path: Path, data: str, mode: int
) -> None:
    path = tmp_path / "file"
    machine.write(str(path), "data", mode=0o640, owner=OWNER)
    with path.open() as reader:
        assert machine.write(str(path), data, mode=mode, owner=OWNER) is True
        assert reader.read() == "data"  # whoever had it open still reads the old file whole
    assert (path.read_text(), path.stat().st_mode & 0o777) == (data, mode)
    assert list(tmp_path.iterdir()) == [path]


def test_write_goes_through_a_link_to_what_it_names(machine: Remote, tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    machine.write(f"{tmp_path}/link", "data", owner=OWNER)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "data"


def test_write_that_cannot_be_done_leaves_nothing(machine: Remote, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=f"could not write {tmp_path}/file"):
        machine.write(f"{tmp_path}/file", "data", owner="no-such-user:no-such-group")
    assert list(tmp_path.iterdir()) == []


def test_work_on_a_machine_is_recorded(machine: Remote) -> None:
    before = len(spans.recorded())
    machine.run("true")
    assert [span.machine for span in spans.recorded()[before:]] == ["node1"]


def test_wrong_host_key_names_both_fingerprints(server: SshServer) -> None:
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    with pytest.raises(Unreachable) as caught:
        connect(server.target(host_keys=(public(other),)))
    found, expected = server.host_key.get_fingerprint(), other.get_fingerprint()
    assert f"its host key is {found} (ssh-ed25519), expected {expected} (ecdsa-" in str(caught.value)
    assert caught.value.node == "node1"


def test_any_of_several_host_keys_will_do(server: SshServer) -> None:
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    connect(server.target(host_keys=(public(other), public(server.host_key)))).close()


def test_the_shown_host_key_is_asked_for_without_trusting_any(server: SshServer) -> None:
    for expected in ((), (public(server.host_key),), None):
        assert shown_host_key(server.target(host_keys=expected)) == " ".join(
            public(server.host_key).split()[:2]
        )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="refused"):
            shown_host_key(Target("node1", "127.0.0.1", unused.getsockname()[1], host_keys=()))


def test_without_host_keys_the_users_known_hosts_decide(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Unreachable, match=r"expected one that known_hosts has for 127\.0\.0\.1"):
        connect(server.target(host_keys=None))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{server.port} {public(server.host_key)}")
    connect(server.target(host_keys=None)).close()


def test_a_key_that_is_not_accepted_is_named(server: SshServer, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(stranger)
    with pytest.raises(Unreachable, match=f"accepts no key of {stranger} for root"):
        connect(server.target(identity=stranger))


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(Unreachable, match=f"node1: ssh root@127.0.0.1:{port}: .*refused"):
            connect(Target("node1", "127.0.0.1", port, host_keys=()))


def test_a_listener_that_never_speaks_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = Target("node1", "127.0.0.1", silent.getsockname()[1], host_keys=())
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
            connect(target, timeout=0.2)


def test_connection_lost_in_the_middle_is_an_error_and_nothing_is_repeated(
    server: SshServer, remote: Remote, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(remote.run, f"echo ran >> {tmp_path}/ran; sleep 60")
        assert server.running.wait(5)
        server.cut()
        with pytest.raises(Unreachable, match=r"connection was lost while .* it may have finished"):
            running.result(5)
    assert len(server.commands) == 1


def test_the_next_command_reconnects(server: SshServer, remote: Remote) -> None:
    remote.run("true")
    before = open_count()
    server.cut()
    assert remote.check("echo back") == "back"
    assert open_count() == before + 1
    assert server.commands == ["true", "echo back"]


def test_many_threads_share_one_connection(remote: Remote) -> None:
    before = open_count()
    with ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(lambda number: remote.check(f"echo {number}"), range(48)))
    assert answers == [str(number) for number in range(48)]
    assert open_count() == before


def test_threads_that_use_ssh_first_at_the_same_time_share_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    both, made = threading.Barrier(2), list[object]()

    def make() -> object:
        made.append(object())
        with suppress(threading.BrokenBarrierError):
            both.wait(0.1)
        return made[-1]

    monkeypatch.setattr(ssh, "_only_loop", functools.cache(make))
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: ssh._loop(), range(2))) == made * 2


def test_forwarded_socket_carries_both_ways_and_survives_a_lost_connection(
    server: SshServer, remote: Remote, tmp_path: Path
) -> None:
    with echo_server(tmp_path / "far"), remote.forward_socket(f"{tmp_path}/far") as near:
        assert ask(near, b"\x00hello") == b"\x00hello"
        assert near.parent.stat().st_mode & 0o777 == 0o700
        server.cut()
        assert ask(near, b"again") == b"again"
    assert not near.exists()


def test_forwarding_to_a_socket_that_is_not_there_closes_the_client(remote: Remote, tmp_path: Path) -> None:
    with remote.forward_socket(f"{tmp_path}/absent") as near:
        assert ask(near, b"hello") == b""


def test_a_local_socket_needs_no_forwarding(tmp_path: Path) -> None:
    with LocalRemote().forward_socket(f"{tmp_path}/far") as near:
        assert near == tmp_path / "far"


@pytest.mark.parametrize(
    ("offered", "tried", "refused"),
    [(None, None, True), (None, "secret", True), ("secret", None, False), ("secret", "secret", False),
     ("secret", "wrong", True)],
)  # fmt: skip
def test_password_refused(server: SshServer, offered: str | None, tried: str | None, refused: bool) -> None:
    server.password = offered
    assert password_refused(server.target(), tried) is refused
    server.password = None


def test_password_is_not_called_refused_when_nobody_answers() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable):
            password_refused(Target("node1", "127.0.0.1", unused.getsockname()[1], host_keys=()))


def test_a_command_is_shown_on_one_short_line() -> None:
    assert short("a\n  b") == "a b"
    assert short("x" * 500) == "x" * 159 + "…"


class echo_server:  # noqa: N801
    """Sends each client's bytes back, on a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                while data := client.recv(4096):
                    client.sendall(data)


def ask(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        answer = b""
        # Whoever closes before reading all resets the connection: that is no answer, too.
        with suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while more := client.recv(4096):
                answer += more
        return answer


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[Path]:
    """A command that runs alone until somebody writes to this pipe."""
    release, began = tmp_path / "release", tmp_path / "began"
    os.mkfifo(release)
    os.mkfifo(began)
    command = alone(f"echo >{began}; read -r _ <{release}; echo first >>{tmp_path}/order")
    with subprocess.Popen(["/bin/sh", "-c", command]) as process:
        began.read_text()
        yield release
        process.terminate()


def test_alone_waits_for_a_command_of_a_run_that_is_gone(at_work: Path, tmp_path: Path) -> None:
    second = LocalRemote()
    with pytest.raises(GaveUp, match="a command of an earlier run is still at work here"):
        second.run(alone("true"), timeout=0.5)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(second.check, alone(f"cat >>{tmp_path}/order"), stdin="second\n")
        at_work.write_text("\n")
        waiting.result()
    assert (tmp_path / "order").read_text() == "first\nsecond\n"


def test_alone_does_nothing_for_a_run_that_is_gone_meanwhile(at_work: Path, tmp_path: Path) -> None:
    waits = f"{alone(f'echo stale >>{tmp_path}/order')}\ntrue"
    with subprocess.Popen(["/bin/sh", "-c", waits], stderr=subprocess.PIPE) as sender:
        assert sender.stderr is not None
        assert b"still at work" in sender.stderr.readline()
        sender.kill()
    at_work.write_text("\n")
    LocalRemote().check(alone(f"echo last >>{tmp_path}/order"))
    assert "stale" not in (tmp_path / "order").read_text()


def test_what_runs_alone_keeps_its_words_and_leaves_the_way_free_for_what_it_starts() -> None:
    machine = LocalRemote()
    left = machine.check(alone("printf '%s ' '$HOME'; sleep 60 >/dev/null 2>&1 & echo $!"))
    word, pid = left.split()
    try:
        assert word == "$HOME"
        assert machine.run(alone("exit 7"), timeout=10).rc == 7
    finally:
        os.kill(int(pid), signal.SIGKILL)
