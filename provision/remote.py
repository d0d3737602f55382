"""Runs commands on a machine and keeps files there: over SSH, or on this machine itself."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from provision import read_only
from provision.errors import GaveUp, LabError
from provision.spans import at_work

Stdin = bytes | str | Path | None
"""What a command reads: bytes, text (sent as UTF-8), the content of a local file, or nothing."""

ABSENT = 44
WRITE = """set -eu
path=$(readlink -m -- "$1"); folder=$(dirname -- "$path"); mkdir -p -- "$folder"
umask 077; new=$(mktemp -- "$folder/.rackproof.XXXXXX")
trap 'rm -f -- "$new"' EXIT; trap 'exit 1' HUP INT TERM
cat >"$new"
[ "$(sha256sum <"$new")" = "$2  -" ] || { echo "only $(wc -c <"$new") bytes arrived whole" >&2; exit 1; }
if [ "$(stat -c '%a %U:%G' -- "$path" 2>/dev/null)" = "$3 $4" ] && cmp -s -- "$new" "$path"
then echo same; exit; fi
chown -- "$4" "$new"; chmod -- "$3" "$new"
sync -- "$new"; mv -fT -- "$new" "$path"; sync -- "$folder"; echo changed
"""
# A command outlives the run that was killed over it. Who waited in vain may not act on what it knew then.
ALONE = """set -eu
exec 9>/run/lock/rackproof
flock -n 9 || { echo "a command of an earlier run is still at work here" >&2; flock 9; }
read -r _ _ _ parent _ <"/proc/$$/stat"; [ "$parent" = "$PPID" ] || exit 1
"$@" 9>&-
"""
_opened_to: list[str] = []


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to reach over SSH.

    `host_keys` are OpenSSH public key lines, any of which the machine must prove (None: the user's own
    known_hosts decides). `identity` is a private key file (None: the user's agent and default keys).
    """

    name: str
    address: str
    port: int = 22
    user: str = "root"
    host_keys: tuple[str, ...] | None = None
    identity: Path | None = None

    def __str__(self) -> str:
        return f"{self.user}@{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Output:
    """What a command left, as bytes; `rc` is negative for the signal that killed it."""

    rc: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left, as text; bytes that are not UTF-8 are replaced."""

    command: str
    rc: int
    stdout: str
    stderr: str
    seconds: float


class CommandFailed(LabError):
    """A command ended with another return code than 0; `result` has all of it."""

    def __init__(self, node: str, result: Result) -> None:
        self.result = result
        message = f'"{short(result.command)}" ended with {result.rc}'
        super().__init__(message, node=node, last_seen=tail(result.stderr) or tail(result.stdout) or None)


class Remote(ABC):
    """One machine. Safe to use from many threads at once; commands are read by the user's shell there."""

    name: str

    @abstractmethod
    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        """Run `command` once; raises GaveUp after `timeout` seconds and Unreachable.

        Raises WriteRefused, and sends nothing, where only reading is allowed (provision/read_only).
        """

    @abstractmethod
    def forward_socket(self, remote_socket: str) -> AbstractContextManager[Path]:
        """A local Unix socket that leads to one of the machine, for as long as the context lasts."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the machine; a later command reaches for it again."""

    def run(self, command: str, *, stdin: Stdin = None, timeout: float = 60.0) -> Result:
        """Run `command`, whatever its return code; it must hold no secret (use `stdin`).

        Raises GaveUp when it did not finish within `timeout` seconds, and Unreachable when the machine
        cannot be spoken to. A command that may have run is never repeated.
        """
        start = time.monotonic()
        with at_work(self.name):
            output = self.execute(command, stdin, timeout)
        seconds = time.monotonic() - start
        return Result(command, output.rc, _text(output.stdout), _text(output.stderr), seconds)

    def check(self, command: str, *, stdin: Stdin = None, timeout: float = 60.0) -> str:
        """The command's output without its last newlines; raises CommandFailed when it did not end with 0."""
        result = self.run(command, stdin=stdin, timeout=timeout)
        if result.rc != 0:
            raise CommandFailed(self.name, result)
        return result.stdout.rstrip("\n")

    def read(self, path: str) -> bytes | None:
        """A file's content, None when there is no such file."""
        quoted = shlex.quote(path)
        with at_work(self.name):
            output = self.execute(f"test -e {quoted} || exit {ABSENT}; cat -- {quoted}", None, 60.0)
        if output.rc == ABSENT:
            return None
        self._must(output, f"read {path}")
        return output.stdout

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644, owner: str = "root:root") -> bool:
        """Make `path` hold `data` with that mode and owner ("user:group"); True when something changed.

        Replaced whole and atomically, and on the disk when this returns; missing folders are made.
        """
        content = data.encode() if isinstance(data, str) else data
        digest = hashlib.sha256(content).hexdigest()
        command = shlex.join(["sh", "-c", WRITE, "rackproof-write", path, digest, format(mode, "o"), owner])
        with at_work(self.name):
            output = self.execute(command, content, 60.0)
        self._must(output, f"write {path}")
        return output.stdout.strip() == b"changed"

    def _must(self, output: Output, what: str) -> None:
        if output.rc != 0:
            raise LabError(f"could not {what}", node=self.name, last_seen=tail(_text(output.stderr)))


class LocalRemote(Remote):
    """This machine itself, for a provisioning server on which the harness runs."""

    def __init__(self, name: str = "server") -> None:
        self.name = name

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        """Run `command` by /bin/sh; its whole process group is killed at the time-out."""
        read_only.require_reading(command, stdin, node=self.name)
        with _opened(stdin) as (source, content):
            process = subprocess.Popen(["/bin/sh", "-c", command], stdin=source, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
            with process:
                return self._finish(process, command, content, timeout)

    @contextmanager
    def forward_socket(self, remote_socket: str) -> Iterator[Path]:
        """The socket itself: it is on this machine."""
        read_only.require_no_tunnel(remote_socket, node=self.name)
        yield Path(remote_socket)

    def close(self) -> None:
        """Nothing is held open."""

    def _finish(
        self, process: subprocess.Popen[bytes], command: str, content: bytes | None, timeout: float
    ) -> Output:
        try:
            stdout, stderr = process.communicate(content, timeout)
        except subprocess.TimeoutExpired as expired:
            raise gave_up(self.name, command, timeout, expired.stderr or expired.stdout or b"") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        return Output(process.returncode, stdout, stderr)


def connect(target: Target, *, timeout: float = 10.0) -> Remote:
    """Open the one SSH connection to a machine; raises Unreachable within about `timeout` seconds.

    The machine's host key is verified always. A connection that is found gone later is opened again by
    the next command.
    """
    # Collecting tests needs no SSH, and importing asyncssh costs a quarter of a second.
    from provision.ssh import SshRemote  # noqa: PLC0415

    return SshRemote(target, timeout=timeout)


def password_refused(target: Target, password: str | None = None, *, timeout: float = 10.0) -> bool:
    """Whether the machine refuses log-in by password.

    Without `password`: neither "password" nor "keyboard-interactive" is offered (none is sent). With it:
    the machine was asked to let it in, and did not. Raises Unreachable.
    """
    from provision.ssh import password_refused as refused  # noqa: PLC0415

    return refused(target, password, timeout=timeout)


def shown_host_key(target: Target, *, timeout: float = 10.0) -> str:
    """The host key that a machine shows, as type and key; nobody logs in. Raises Unreachable."""
    from provision.ssh import shown_host_key as shown  # noqa: PLC0415

    return shown(target, timeout=timeout)


def open_count() -> int:
    """SSH connections that this process has opened so far."""
    return len(_opened_to)


def opened_to() -> list[str]:
    """The machines that this process has connected to so far, each as often as it has."""
    return list(_opened_to)


def note_connection(name: str) -> None:
    """Count an SSH connection that was opened to a machine."""
    _opened_to.append(name)


def gave_up(name: str, command: str, timeout: float, output: bytes) -> GaveUp:
    """The error of a command that did not finish in time, with the end of what it said until then."""
    message = f'"{short(command)}" did not finish within {timeout:g} s'
    return GaveUp(message, node=name, last_seen=tail(_text(output)) or "no output")


def script(text: str, *arguments: str) -> str:
    """The command that runs a shell script with these arguments."""
    return shlex.join(["sh", "-c", text, "rackproof", *arguments])


def alone(command: str) -> str:
    """The command that runs this one, by /bin/sh, once no other of its kind is at work on the machine.

    It does not run when whoever sent it is gone by then.
    """
    return script(ALONE, "sh", "-c", command)


def short(command: str, most: int = 160) -> str:
    """A command on one line of at most `most` characters, for people."""
    line = " ".join(command.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def tail(text: str, lines: int = 5) -> str:
    """The last lines of a command's output."""
    return "\n".join(text.strip().splitlines()[-lines:])


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


@contextmanager
def _opened(stdin: Stdin) -> Iterator[tuple[int, bytes | None]]:
    """A file descriptor for Popen, and the content for communicate()."""
    if isinstance(stdin, Path):
        with stdin.open("rb") as file:
            yield file.fileno(), None
    elif stdin is None:
        yield subprocess.DEVNULL, None
    else:
        yield subprocess.PIPE, stdin.encode() if isinstance(stdin, str) else stdin
