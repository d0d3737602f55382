"""Assembles what makes a Debian 13 image a played Proxmox VE 9.2 node: one overlay layer above the image."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
CODE = Path("usr/share/rackproof-pve/pmx")
UNITS = ("pve-cluster.service", "pvedaemon.service", "pveproxy.service")
# Debian's corosync comes with an example configuration; Proxmox' does not: there it means a cluster.
WHITEOUTS = (Path("etc/corosync/corosync.conf"),)
DIRECTORIES = (Path("etc/pve"), Path("var/lib/pve-cluster"), Path("var/log/pve/tasks"))

_COMPILE = """
import importlib._bootstrap_external as b, json, sys
sources = json.load(sys.stdin)
compiled = {p: b._code_to_hash_pyc(compile(s, p, "exec"), bytes(8), False).hex() for p, s in sources.items()}
print(json.dumps([sys.implementation.cache_tag, compiled]))
"""


def packages() -> tuple[str, ...]:
    """Debian packages that the image must have for the layer to work."""
    lines = (HERE / "packages.txt").read_text().splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def digest() -> str:
    """SHA-256 over everything that the layer is made of."""
    total = hashlib.sha256()
    for source, target in _files():
        mode = stat.S_IMODE(source.stat().st_mode) & 0o111
        total.update(f"{target} {mode:o} {hashlib.sha256(source.read_bytes()).hexdigest()}\n".encode())
    total.update(Path(__file__).read_bytes())
    return total.hexdigest()


def layer(target: Path, *, image: Path | None = None) -> str:
    """Write the layer into the empty or missing directory `target`, and return its digest.

    Mount it as an overlay lower directory above the node's image. With `image`, the root of that
    image, the code is compiled by the image's own Python (as root), so that no node has to.
    """
    for source, place in _files():
        there = target / place
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, there)
        there.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    for directory in DIRECTORIES:
        (target / directory).mkdir(parents=True, exist_ok=True)
    _enable_units(target)
    _white_out(target)
    if image is not None:
        _compile(target, image)
    return digest()


def _files() -> Iterator[tuple[Path, Path]]:
    root = HERE / "root"
    yield from ((file, file.relative_to(root)) for file in sorted(root.rglob("*")) if file.is_file())
    code = HERE / "pmx"
    yield from ((file, CODE / file.relative_to(code)) for file in sorted(code.rglob("*.py")))


def _enable_units(target: Path) -> None:
    wants = target / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    for unit in UNITS:
        (wants / unit).symlink_to(f"/usr/lib/systemd/system/{unit}")


def _white_out(target: Path) -> None:
    for path in WHITEOUTS:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(target / path, stat.S_IFCHR, os.makedev(0, 0))


def _compile(target: Path, image: Path) -> None:
    sources = {f"/{file.relative_to(target)}": file.read_text() for file in (target / CODE).rglob("*.py")}
    command = ["chroot", str(image), "python3", "-IS", "-c", _COMPILE]
    done = subprocess.run(command, input=json.dumps(sources), capture_output=True, text=True, check=True)
    tag, compiled = json.loads(done.stdout)
    for path, code in compiled.items():
        source = target / path.lstrip("/")
        cache = source.parent / "__pycache__"
        cache.mkdir(exist_ok=True)
        (cache / f"{source.stem}.{tag}.pyc").write_bytes(bytes.fromhex(code))
