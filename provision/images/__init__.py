"""The installers that a lab names by address and checksum: downloaded, prepared, kept for the next run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from provision.errors import LabError
from provision.images.cache import Cache
from provision.images.download import Download, Order, digest, in_words
from provision.images.iso import Unusable
from provision.images.preparation import checksum, differing, examine, is_prepared, manifest, prepare
from provision.inventory import Lab
from provision.wait import Deadline

__all__ = [
    "Cache",
    "Unusable",
    "checksum",
    "differing",
    "examine",
    "in_words",
    "is_prepared",
    "kept_for",
    "manifest",
    "ready",
]

Tell = Callable[[str], None]


def kept_for(lab: Lab) -> Cache:
    """The cache, which removes nothing that this lab needs."""
    return Cache(image.sha256 for image in lab.images.values())


@contextmanager
def ready(lab: Lab, tell: Tell, *, given: Sequence[Path] = ()) -> Iterator[None]:
    """Have the media of all the lab's images ready, and kept by all processes until this ends.

    `given` are ISOs on this machine, of which those with a wanted checksum are taken in place of a download.
    Raises LabError when an image cannot be had, Unusable when it is not what the lab file asks for.
    """
    cache = kept_for(lab)
    with ExitStack() as using:
        for system in lab.images:
            using.enter_context(_Installer(cache, lab, system, tell).ready(given))
        yield


class _Installer:
    """One image on its way from its address to its prepared files."""

    def __init__(self, cache: Cache, lab: Lab, system: str, tell: Tell) -> None:
        self._cache, self._system, self._tell = cache, system, tell
        self._image, self._media = lab.images[system], lab.media[system]
        self._entry = cache.entry(self._image.sha256)
        self._deadline = Deadline(lab.deadlines.images)

    @contextmanager
    def ready(self, given: Sequence[Path]) -> Iterator[None]:
        with self._held():
            # Another process may have made it while this one waited.
            if self._is_missing():
                self._make(given)
        with self._held():
            if self._is_missing():
                raise LabError(f"the image of {self._system} was removed by another process: run this again")
            yield

    def _held(self) -> AbstractContextManager[None]:
        return self._cache.held(self._image.sha256, self._is_missing, self._deadline, self._say)

    def _is_missing(self) -> bool:
        return not is_prepared(self._media)

    def _say(self, line: str) -> None:
        self._tell(f"{self._system}: {line}")

    def _make(self, given: Sequence[Path]) -> None:
        try:
            self._sweep()
            if not self._entry.iso.exists() and not any(self._taken(path) for path in given):
                self._download()
            self._prepare()
        except Unusable:
            # The file has its checksum: another look at it would find the same.
            shutil.rmtree(self._entry.folder)
            raise
        except OSError as error:
            raise LabError(f"the image of {self._system} cannot be written: {error}") from error

    def _sweep(self) -> None:
        """What a process that was killed left, and what was prepared in another way than it is now."""
        for left in (*self._entry.folder.glob(".preparing-*"), *self._entry.folder.glob("prepared-*")):
            shutil.rmtree(left)

    def _taken(self, path: Path) -> bool:
        if self._image.size not in (None, path.stat().st_size) or digest(path) != self._image.sha256:
            return False
        self._say(f"taken from {path}")
        self._room(path.stat().st_size)
        shutil.copyfile(path, self._entry.part)
        order = Order((), self._image.sha256)
        Download(order, self._entry.part, self._deadline).settle(self._entry.iso)
        return True

    def _download(self) -> None:
        image = self._image
        order = Order((image.url, *image.mirrors), image.sha256, image.size)
        download = Download(order, self._entry.part, self._deadline, room=self._room, tell=self._say)
        if image.size:
            self._room(image.size - download.have)
        download.fetch(self._entry.iso)

    def _prepare(self) -> None:
        self._cache.make_room(self._made_of(self._entry.iso.stat().st_size))
        self._say("preparing kernel, initrd and ISO")
        prepare(self._system, self._entry.iso, self._media, self._deadline)
        about = manifest(self._media.vmlinuz.parent)
        self._say(f"{about['product']} {about['release']} is ready, prepared by {about['prepared_by']}")

    def _room(self, more: int) -> None:
        self._cache.make_room(more + self._made_of(self._image.size or more))

    def _made_of(self, size: int) -> int:
        """How many bytes an ISO of this size becomes beside itself, at most."""
        copies = 0 if self._system.startswith("ubuntu") else 2 if self._image.grub else 1
        return size * copies + size // 4
