"""Images: built once from their recipes with mmdebstrap, kept by content, shared by all racks of a home."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from provision.errors import LabError
from virtual_lab import pve
from virtual_lab.places import MARKER
from virtual_lab.recipes import HOLD, Recipe

Say = Callable[[str], None]

_LEFT_OUT = ("doc", "man", "locale", "info", "lintian")
_RECORD = "images.json"
TELLING = "telling"
"""The name of what real firmware boots, among the images of a rack."""


def ready(recipe: Recipe, images: Path, say: Say, *, marker: str = "") -> Path:
    """The image's root directory, built first if it is not there, by processes known by `marker`.

    Who comes second while it is being built waits. Raises LabError with the end of mmdebstrap's log.
    """
    image = images / recipe.folder
    if image.is_dir():
        return image
    images.mkdir(parents=True, exist_ok=True)
    with building(
        images / f"{recipe.name}.lock", lambda: say(f"the {recipe.name} image: another rack builds it")
    ):
        if not image.is_dir():
            remove_unused(recipe.name, images)
            _build(recipe, images, say, {**os.environ, MARKER: marker})
    return image


def pve_layer(image: Path) -> Path:
    """The played Proxmox layer that lies on the node image `image`, copied beside it unless it is there."""
    layer = image.with_name(f"pve-{pve.digest()[:12]}")
    if layer.is_dir():
        return layer
    with building(layer.with_name("pve.lock"), lambda: None):
        if not layer.is_dir():
            remove_unused("pve", image.parent)
            remove_partial("pve", image.parent)
            partial = layer.with_name(f".{layer.name}.partial")
            pve.layer(partial, image=image)
            partial.rename(layer)
    return layer


def record(rack: Path, layers: Mapping[str, Sequence[Path]]) -> None:
    """Keep, beside a rack, which layers its machines stand on; `layers` by "node" and "server"."""
    names = {kind: [layer.name for layer in stack] for kind, stack in layers.items()}
    (rack / _RECORD).write_text(json.dumps(names))


def recorded(rack: Path, images: Path) -> dict[str, tuple[Path, ...]]:
    """The layers that a rack stands on, topmost first; nothing for a rack that is not built."""
    listing = rack / _RECORD
    names: dict[str, list[str]] = json.loads(listing.read_text()) if listing.exists() else {}
    return {kind: tuple(images / name for name in stack) for kind, stack in names.items()}


def in_use(racks: Path) -> frozenset[str]:
    """The folder names of the images that racks of this home stand on."""
    used: set[str] = set()
    for listing in racks.glob(f"*/{_RECORD}"):
        used.update(*json.loads(listing.read_text()).values())
    return frozenset(used)


def sweep(images: Path) -> None:
    """Remove what builds that were killed left behind; one that is going on is left alone."""
    for lock in images.glob("*.lock"):
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            remove_partial(lock.stem, images)


def mirror_lines(sources: str, suite: str) -> list[str]:
    """The sources.list lines for an image: the Debian mirror that this machine uses, if it names one.

    `sources` is the text of this machine's own apt sources, in either format. None, as on Ubuntu, leaves
    the choice to mmdebstrap.
    """
    main = _first_mirror(sources, r"/debian/?$")
    security = _first_mirror(sources, r"/debian-security/?$")
    lines = [f"deb {main} {suite} main", f"deb {main} {suite}-updates main"] if main else []
    return [*lines, f"deb {security} {suite}-security main"] if main and security else lines


def _build(recipe: Recipe, images: Path, say: Say, env: Mapping[str, str]) -> None:
    partial = images / f".{recipe.folder}.partial"
    remove_partial(recipe.name, images)
    say(f"building the {recipe.name} image, the first time only: Debian {recipe.suite}, "
        f"{len(recipe.packages)} packages and what they need")  # fmt: skip
    _debootstrap(recipe, partial, images / f"{recipe.folder}.log", env)
    finish(recipe, partial)
    partial.rename(images / recipe.folder)
    (images / f"{recipe.folder}.log").unlink()
    say(f"built the {recipe.name} image")


def _debootstrap(recipe: Recipe, target: Path, log: Path, env: Mapping[str, str]) -> None:
    options = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _LEFT_OUT]
    options += [f"--aptopt={line}" for line in apt_settings()]
    command = [
        "mmdebstrap", "--mode=root", "--variant=minbase", *options, "--dpkgopt=force-unsafe-io",
        f"--include={','.join(recipe.packages)}", recipe.suite, str(target),
        *mirror_lines(own_sources(), recipe.suite),
    ]  # fmt: skip
    # mmdebstrap leaves some of its temporary files when it is stopped: they are to lie where they are swept.
    scratch = target.with_name(f"{target.name}-scratch")
    scratch.mkdir()
    with log.open("w") as file:
        # mmdebstrap cleans up after itself on SIGTERM, so it gets one if this process is killed.
        dying = ["setpriv", "--pdeathsig", "TERM", *command]
        done = subprocess.run(dying, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False,
                              env={**env, "TMPDIR": str(scratch)})  # fmt: skip
    shutil.rmtree(scratch)
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        shutil.rmtree(target, ignore_errors=True)
        failed = f"the {recipe.name} image could not be built: mmdebstrap ended with {done.returncode}"
        raise LabError(f"{failed}; see {log}", last_seen=tail)


def finish(recipe: Recipe, root: Path) -> None:
    """Make of the installed packages what the recipe says: files, what is removed or held back, units."""
    for pattern in recipe.removed:
        for path in root.glob(pattern):
            path.unlink()
    for name, text in recipe.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    for name, (before, after) in recipe.replaced.items():
        path = root / name
        path.write_text(path.read_text().replace(before, after))
    if recipe.held:
        _hold_back(root, recipe.held)
    for verb, units in (("enable", recipe.enabled), ("disable", recipe.disabled), ("mask", recipe.masked)):
        if units:
            _in(root, "systemctl", "--quiet", verb, *units)


def _hold_back(root: Path, paths: Sequence[str]) -> None:
    """Move these files below HOLD, and list them there with their places."""
    for name in paths:
        (root / HOLD / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).rename(root / HOLD / name)
    (root / HOLD / "list").write_text("".join(f"/{name}\n" for name in paths))


def _in(root: Path, *command: str) -> None:
    done = subprocess.run(["chroot", str(root), *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"an image could not be finished: {' '.join(command)}: {done.stderr.strip()}")


def remove_unused(name: str, images: Path) -> None:
    """Remove the images of this name on which no rack stands."""
    used = in_use(images.parent / "racks")
    for image in images.glob(f"{name}-*"):
        if image.is_dir() and image.name not in used:
            shutil.rmtree(image)


def remove_partial(name: str, images: Path) -> None:
    """Remove what a killed build of this image left behind."""
    for partial in images.glob(f".{name}-*.partial*"):
        shutil.rmtree(partial)


@contextmanager
def building(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file at `path`; calls `waiting` first if somebody else holds it."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def own_sources(folder: Path = Path("/etc/apt")) -> str:
    """The text of this machine's apt sources, if it is a Debian: no other's mirror has trixie."""
    if "\nID=debian\n" not in "\n" + Path("/etc/os-release").read_text():
        return ""
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    return "\n".join(
        file.read_text() for file in files if file.suffix in (".list", ".sources") and file.is_file()
    )


def _first_mirror(sources: str, pattern: str) -> str | None:
    for line in sources.splitlines():
        words = line.split()
        if words and words[0] in ("deb", "URIs:"):
            found = [word for word in words if re.match("https?://", word) and re.search(pattern, word)]
            if found:
                return found[0].rstrip("/")
    return None


def apt_settings() -> list[str]:
    """Proxy and certificate settings that this machine's apt was given."""
    command = [
        "apt-config",
        "dump",
        "--no-empty",
        "--format",
        '%F "%v";%n',
        "Acquire::http",
        "Acquire::https",
    ]
    dumped = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line for line in dumped.splitlines() if re.match(r"Acquire::https?::(Proxy|CaInfo|Verify)", line)]
