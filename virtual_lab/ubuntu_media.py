"""Ubuntu's played install media: kernel and initrd of casper/ in its live server ISO, and that ISO.

They are small, but each carries what the real one is recognised by: the kernel its release, the initrd that
release's modules and the build's id, the ISO the same id and the squashfs that casper looks for.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from pycdlib.pycdlib import PyCdlib
from pycdlib.pycdlibexception import PyCdlibException, PyCdlibInvalidInput

from virtual_lab import media
from virtual_lab.media import Kernel, Media, Unreadable

RELEASE, KERNEL = "24.04.3", "6.8.0-71-generic"
ISO_NAME = f"ubuntu-{RELEASE}-live-server-amd64.iso"
UUID_FILE, UUID_ON_ISO = "conf/uuid.conf", ".disk/casper-uuid-generic"
SQUASHFS = "casper/ubuntu-server-minimal.squashfs"


def prepare(images: Path, kernel: Kernel | None = None) -> Media:
    """The media under `images`, built there unless this very build stands there already."""
    kernel = kernel or Kernel.played(KERNEL)
    modules = b"".join(path.read_bytes() for path in (Path(__file__), Path(media.__file__)))
    recipe = hashlib.sha256(modules + kernel.digest).hexdigest()
    folder = images / f"media-ubuntu-{recipe[:16]}"
    media.once(folder, lambda built: build(built, build_id=recipe, kernel=kernel))
    return Media(folder / "vmlinuz", folder / "initrd", folder / ISO_NAME)


def build(folder: Path, *, build_id: str, kernel: Kernel | None = None) -> None:
    """Write the three files of one build into a new folder."""
    kernel = kernel or Kernel.played(KERNEL)
    folder.mkdir()
    folder.chmod(0o755)
    files = {
        **kernel.program,
        UUID_FILE: f"{build_id}\n".encode(),
        f"lib/modules/{kernel.release}/modules.dep": media.filler("initrd"),
    }
    (folder / "vmlinuz").write_bytes(kernel.image)
    (folder / "initrd").write_bytes(media.initramfs(files))
    _write_iso(folder / ISO_NAME, build_id)


def iso_files(iso: Path, *names: str) -> dict[str, bytes]:
    """Those of the named files, by their paths, that an ISO has. Raises Unreadable."""
    image, files = PyCdlib(), {}
    try:
        image.open(str(iso))
        try:
            for name in names:
                data = io.BytesIO()
                try:
                    image.get_file_from_iso_fp(data, rr_path=f"/{name}")
                except PyCdlibInvalidInput:
                    continue
                files[name] = data.getvalue()
        finally:
            image.close()
    except (PyCdlibException, OSError) as error:
        raise Unreadable(f"no ISO 9660 file system: {error}") from error
    return files


def _write_iso(path: Path, build_id: str) -> None:
    image = PyCdlib()
    image.new(interchange_level=3, rock_ridge="1.09", vol_ident=f"Ubuntu-Server {RELEASE} LTS amd64")
    image.add_directory("/DISK", rr_name=".disk")
    image.add_directory("/CASPER", rr_name="casper")
    label = f'Ubuntu-Server {RELEASE} LTS "Noble Numbat" - Release amd64 (played)\n'.encode()
    files = {
        ".disk/info": label,
        UUID_ON_ISO: f"{build_id}\n".encode(),
        SQUASHFS: media.filler("iso"),
    }
    for number, (name, data) in enumerate(files.items()):
        folder, _, file = name.partition("/")
        place = f"/{folder.lstrip('.').upper()}/FILE{number}.;1"
        image.add_fp(io.BytesIO(data), len(data), place, rr_name=file)
    image.write(str(path))
    image.close()
