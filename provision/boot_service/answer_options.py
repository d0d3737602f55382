"""The DHCP options that tell permitted nodes where their answer is, changed node by node as dnsmasq runs."""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from provision.errors import LabError

HEADER = "# written by rackproof, only for nodes with a permit\n"
RELOAD = ("systemctl", "reload", "dnsmasq")
RELOAD_SECONDS = 30.0
TRIES = 5


class AnswerOptions:
    """dnsmasq's file of options (as boot_templates/dhcp-options.j2), readable by dnsmasq alone.

    The harness writes the same file: lines of nodes that are not named in a change are never lost.
    """

    def __init__(
        self,
        path: Path,
        *,
        url: str,
        fingerprint: str | None = None,
        owner: str = "dnsmasq",
        reload: Sequence[str] = RELOAD,
    ) -> None:
        self._path, self._url, self._fingerprint = path, url, fingerprint
        self._owner, self._reload = owner, reload
        self._lock = threading.Lock()
        self._reload_is_due = False

    def put(self, tokens: Mapping[str, str]) -> bool:
        """Tell each of these nodes its answer token, an empty one: none any more. False: it was so already.

        Names and tokens must be letters, digits, dots, dashes and underscores. Raises LabError when the file
        cannot be written, or dnsmasq does not take it.
        """
        with self._lock:
            try:
                self._reload_is_due |= self._write(tokens)
                changed = self._reload_is_due
                if changed:
                    self._reload_dnsmasq()
            except OSError as error:
                raise LabError(f"the DHCP options cannot be changed: {error.strerror}") from error
            self._reload_is_due = False
            return changed

    def _write(self, tokens: Mapping[str, str]) -> bool:
        new = self._path.with_name(f".{self._path.name}.new")
        for _ in range(TRIES):
            found, content = self._read()
            wanted = self._changed(content, tokens)
            if wanted == content:
                return False
            self._create(new, wanted)
            # Who replaced the file since it was read must not lose what they wrote.
            if self._stamp() == found:
                new.replace(self._path)
                return True
        new.unlink()
        raise LabError("the DHCP options cannot be changed: something else keeps changing them")

    def _read(self) -> tuple[object, str]:
        stamp = self._stamp()
        return stamp, self._path.read_text() if stamp else ""

    def _stamp(self) -> object:
        try:
            about = self._path.stat()
        except FileNotFoundError:
            return None
        return about.st_ino, about.st_mtime_ns, about.st_size

    def _changed(self, content: str, tokens: Mapping[str, str]) -> str:
        named = tuple(f"tag:{node}," for node in tokens)
        kept = [line for line in content.splitlines(keepends=True) if not line.startswith(named)]
        new = list(self._lines(tokens))
        return "".join([*(kept or (HEADER for _ in new[:1])), *new])

    def _lines(self, tokens: Mapping[str, str]) -> Iterator[str]:
        for node, token in tokens.items():
            if token:
                yield f'tag:{node},250,"{self._url}/answer/{token}"\n'
                if self._fingerprint:
                    yield f'tag:{node},251,"{self._fingerprint}"\n'

    def _create(self, path: Path, content: str) -> None:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
            os.fchmod(descriptor, 0o400)
            os.fchown(descriptor, pwd.getpwnam(self._owner).pw_uid, 0)

    def _reload_dnsmasq(self) -> None:
        try:
            done = subprocess.run(self._reload, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=RELOAD_SECONDS, check=False)  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise LabError(f"dnsmasq was not reloaded within {RELOAD_SECONDS:g} s") from error
        if done.returncode:
            raise LabError(f"dnsmasq was not reloaded: {done.stderr.strip()[-300:] or done.returncode}")
