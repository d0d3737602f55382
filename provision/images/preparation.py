"""Turns a published ISO into what nodes boot: kernel, initrd, and the ISO as its installer wants it.

Proxmox's own tool does it where it is installed (`prepare-iso --pxe`, since 9.1.7); elsewhere xorriso
appends to the ISO what that tool would. The answer's address and the certificate to trust are no part of it:
DHCP tells them to each node.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from provision.errors import GaveUp, LabError
from provision.images.download import digest
from provision.images.initrd import append_iso, files, for_loaders, kernel_release
from provision.images.iso import CAPABLE, ID_FILE, MODE_FILE, Iso, Unusable, identify, opened
from provision.inventory import InstallMedia
from provision.wait import Deadline

ASSISTANT = "proxmox-auto-install-assistant"
MANIFEST = "manifest.json"
MODE = {"mode": "http", "partition_label": "proxmox-ais", "http": {}}
MOST_KERNEL, MOST_INITRD = 256 << 20, 2 << 30
_HEAD = 64 << 10


def prepare(system: str, published: Path, media: InstallMedia, deadline: Deadline) -> None:
    """Have the `media` made of a published ISO, all of them in one new folder, or nothing.

    Raises Unusable when the ISO is not one of `system`, or when what came of it would not boot.
    """
    folder = media.vmlinuz.parent
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".preparing-") as scratch:
        built = Path(scratch) / "built"
        built.mkdir()
        built.chmod(0o755)
        inside = InstallMedia(**{part: built / path.name for part, path in _parts(media).items()})
        with opened(published) as iso:
            about = identify(iso, system)
            how = _proxmox(iso, inside, deadline) if system.startswith("proxmox") else _ubuntu(iso, inside)
        examine(system, inside)
        _write_manifest(inside, {"system": system, "prepared_by": how, **about})
        built.rename(folder)


def is_prepared(media: InstallMedia) -> bool:
    """Whether all of the `media` were prepared."""
    known = manifest(media.vmlinuz.parent).get("files", {})
    return all(path.name in known for path in _parts(media).values())


def manifest(folder: Path) -> dict[str, Any]:
    """What was prepared in a folder, of what, and how; empty when nothing was."""
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return found


def examine(system: str, media: InstallMedia) -> None:
    """Raise Unusable unless these files show all that the unattended installer of `system` needs."""
    with media.vmlinuz.open("rb") as kernel:
        kernel_release(kernel.read(_HEAD))
    with opened(media.iso) as iso:
        identify(iso, system)
        if system.startswith("proxmox"):
            _fetches_its_answer(iso)
            _of_one_build(iso, media.initrd)


def differing(folder: Path) -> list[str]:
    """The files of a prepared folder that are no longer as they were made."""
    known: Mapping[str, str] = manifest(folder).get("files", {})
    return [name for name, sha256 in known.items()
            if not (folder / name).is_file() or digest(folder / name) != sha256]  # fmt: skip


def checksum(path: Path) -> str:
    """SHA-256 of a file of install media: as it was noted when the file was prepared here, else read anew."""
    return str(manifest(path.parent).get("files", {}).get(path.name) or digest(path))


def _parts(media: InstallMedia) -> dict[str, Path]:
    return {part: path for part, path in media if path is not None}


def _proxmox(iso: Iso, to: InstallMedia, deadline: Deadline) -> str:
    by = _by_assistant if _assistant_knows_pxe(deadline) else _by_xorriso
    how = by(iso, to, deadline)
    if to.combined:
        append_iso(to.initrd, to.iso, to.combined)
    return how


def _assistant_knows_pxe(deadline: Deadline) -> bool:
    there = shutil.which(ASSISTANT) is not None
    return there and "--pxe" in _run([ASSISTANT, "prepare-iso", "--help"], deadline)


def _by_assistant(iso: Iso, to: InstallMedia, deadline: Deadline) -> str:
    folder = to.iso.parent
    _run([ASSISTANT, "prepare-iso", str(iso.path), "--fetch-from", "http", "--pxe", "--output", str(folder),
          "--tmp", str(folder.parent)], deadline)  # fmt: skip
    made = sorted(folder.glob("*.iso"))
    missing = [path.name for path in (to.vmlinuz, to.initrd) if not path.is_file()]
    if len(made) != 1 or missing:
        named = ", ".join(path.name for path in sorted(folder.iterdir())) or "nothing"
        raise LabError(f"{ASSISTANT} did not leave kernel, initrd and one ISO", last_seen=f"it left {named}")
    made[0].rename(to.iso)
    return _run([ASSISTANT, "--version"], deadline).strip()


def _by_xorriso(iso: Iso, to: InstallMedia, deadline: Deadline) -> str:
    _copy(iso, "boot/linux26", to.vmlinuz, MOST_KERNEL)
    with iso.file("boot/initrd.img", MOST_INITRD) as source:
        for_loaders(source, to.initrd, ())
    shutil.copyfile(iso.path, to.iso)
    with tempfile.NamedTemporaryFile("wb", suffix=".toml") as mode:
        mode.write(tomli_w.dumps(MODE).encode())
        mode.flush()
        # A session is appended, so that all that firmware starts stays where it lies: laid out anew, an ISO
        # that Macs can start, too, has partitions that overlap ("replay" fails with it).
        _run(["xorriso", "-no_rc", "-return_with", "SORRY", "32", "-abort_on", "SORRY",
              "-boot_image", "any", "keep", "-dev", str(to.iso),
              "-map", mode.name, f"/{MODE_FILE}", "-chmod", "0444", f"/{MODE_FILE}", "--",
              "-commit"], deadline)  # fmt: skip
    return "xorriso"


def _ubuntu(iso: Iso, to: InstallMedia) -> str:
    _copy(iso, "casper/vmlinuz", to.vmlinuz, MOST_KERNEL)
    _copy(iso, "casper/initrd", to.initrd, MOST_INITRD)
    # The live system fetches the ISO as it was published; it stands twice in the cache and once on the disk.
    to.iso.hardlink_to(iso.path)
    return "copied"


def _copy(iso: Iso, name: str, target: Path, most: int) -> None:
    with iso.file(name, most) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)


def _fetches_its_answer(iso: Iso) -> None:
    if not iso.has(CAPABLE):
        raise iso.wrong(f"it cannot install unattended: it has no /{CAPABLE}")
    try:
        mode = tomllib.loads(iso.text(MODE_FILE) or "").get("mode")
    except tomllib.TOMLDecodeError as error:
        raise iso.wrong(f"its /{MODE_FILE} is no TOML: {error}") from error
    if mode != "http":
        raise iso.wrong(f"it does not ask for its answer by HTTP: the mode in its /{MODE_FILE} is {mode}")


def _of_one_build(iso: Iso, initrd: Path) -> None:
    """The live system mounts no ISO but the one with the id in its own initrd."""
    shown = (iso.text(ID_FILE) or "").strip()
    wanted = files(initrd, {ID_FILE}).get(ID_FILE, b"").decode("utf-8", "replace").strip()
    if not shown or shown != wanted:
        why = f"the ISO's /{ID_FILE} is {shown[:64] or 'missing'}, the initrd's is {wanted[:64] or 'missing'}"
        raise Unusable(f"{iso.path} and {initrd} are not of one build: {why}")


def _write_manifest(made: InstallMedia, about: Mapping[str, str]) -> None:
    noted = {path.name: digest(path) for path in _parts(made).values()}
    (made.iso.parent / MANIFEST).write_text(json.dumps({**about, "files": noted}, indent=1))


def _run(command: Sequence[str], deadline: Deadline) -> str:
    """What a program wrote to its standard output. Raises LabError with the end of what it said."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=deadline.remaining, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        message = f"{command[0]} is not installed, and the installer's ISO is prepared with it"
        raise LabError(message, likely=f"apt install {command[0]}, or ./bootstrap as root") from error
    except subprocess.TimeoutExpired as error:
        raise GaveUp(f"{command[0]}: not done within {deadline.seconds:g} s") from error
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise LabError(f"{command[0]} failed (exit {done.returncode})", last_seen=said)
    return done.stdout
