"""The installers' files on the server: which of them it lacks, and how they are brought there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provision.inventory import InstallMedia, Lab
from provision.remote import Remote, alone, script
from provision.server_plan import HTTP_ROOT, medium

UPLOAD = 1800.0
TAKE = """set -eu
path=$1; mkdir -p "$(dirname "$path")"; new="$path.new"; trap 'rm -f "$new"' EXIT
cat >"$new"; [ "$(sha256sum <"$new")" = "$2  -" ] || { echo "it did not arrive whole" >&2; exit 1; }
chmod 644 "$new"; touch -d "@$3" "$new"; sync "$new"; mv -fT "$new" "$path"
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A file that the server has not, or not with this time; `whole` when its content is there.

    A file of an image is made before it is delivered (provision/images/).
    """

    path: str
    file: Path
    whole: bool

    @property
    def size(self) -> int:
        """Bytes; 0 of what is still to be made of an image."""
        return self.file.stat().st_size if self.file.exists() else 0


def due(lab: Lab, server: Remote) -> dict[str, list[Delivery]]:
    """What is to be delivered, by operating system; nothing is touched."""
    return {name: list(_due(server, name, media)) for name, media in lab.media.items()}


def deliver(server: Remote, delivery: Delivery) -> None:
    """Bring the file to its place, or give the one that is there its time."""
    modified = str(int(delivery.file.stat().st_mtime))
    if delivery.whole:
        server.check(f"touch -d @{modified} {delivery.path}")
        return
    command = script(TAKE, delivery.path, _digest(delivery.file), modified)
    server.check(alone(command), stdin=delivery.file, timeout=UPLOAD)


def sizes(lab: Lab) -> dict[str, dict[str, int]]:
    """Bytes of each file of the install media, by operating system."""
    return {
        system: {name: file.stat().st_size for name, file in files_of(system, media).items()}
        for system, media in lab.media.items()
    }


def checksums(lab: Lab) -> dict[str, dict[str, str]]:
    """SHA-256 of each file of the install media, by operating system."""
    from provision import images  # noqa: PLC0415 (what it stands on takes a while, and checks import this)

    return {
        system: {name: images.checksum(file) for name, file in files_of(system, media).items()}
        for system, media in lab.media.items()
    }


def _due(server: Remote, name: str, media: InstallMedia) -> Iterator[Delivery]:
    folder = f"{HTTP_ROOT}/{name}"
    there = server.run(f"cd {folder} && stat -c '%n %s %Y' -- *").stdout.splitlines()
    names = {line.split()[0] for line in there}
    for to, file in files_of(name, media).items():
        # As rsync does: the same size and time are the same file. A digest of an ISO takes seconds.
        if not file.exists():
            yield Delivery(f"{folder}/{to}", file, whole=False)
        elif _line(to, file) not in there:
            path = f"{folder}/{to}"
            yield Delivery(path, file, to in names and _is_whole(server, path, file))


def _is_whole(server: Remote, path: str, file: Path) -> bool:
    same = f"echo '{_digest(file)}  {path}' | sha256sum --check --status"
    return server.run(same, timeout=UPLOAD).rc == 0


def _line(name: str, file: Path) -> str:
    about = file.stat()
    return f"{name} {about.st_size} {int(about.st_mtime)}"


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def files_of(system: str, media: InstallMedia) -> dict[str, Path]:
    """The files of an installer's media, by their names on the server."""
    names = medium(system)
    files = {names.vmlinuz: media.vmlinuz, names.initrd: media.initrd, names.iso: media.iso}
    return files | ({names.combined: media.combined} if media.combined else {})
