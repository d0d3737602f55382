"""The package mirror on the played internet: what a bare server installs, made once, kept by content.

A flat Debian repository and an index of wheels as PEP 503 has it, from the mirrors that this machine uses.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from provision.errors import LabError
from virtual_lab import images
from virtual_lab.internet import DEBIAN, SIMPLE
from virtual_lab.places import MARKER
from virtual_lab.recipes import SUITE

Say = Callable[[str], None]

PYTHON = "3.13"
"""The server's."""

PACKAGES = (
    "dnsmasq", "nginx-light", "nftables", "chrony", "ipxe", "curl", "python3-pip",
    "prometheus-node-exporter", "shim-signed", "grub-efi-amd64-signed", "bridge-utils",
)  # fmt: skip
"""What the server step installs; it is to be had with all that it needs on top of the server's image."""

NEIGHBOURS = ("systemd-resolved", "systemd-timesyncd")
"""What a server may have of its own, which the step must get along with."""

REQUIREMENTS = Path(__file__).parent.parent / "provision/boot_service/requirements.txt"


def ready(image: Path, say: Say, *, marker: str = "") -> Path:
    """The mirror for the server image `image`, beside it; made first if it is not there.

    Raises LabError with the last words of apt or pip.
    """
    parts = [image.name, *PACKAGES, *NEIGHBOURS, REQUIREMENTS.read_text(), Path(__file__).read_text()]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    made = image.with_name(f"mirror-{digest}")
    if made.is_dir():
        return made
    with images.building(image.with_name("mirror.lock"), lambda: say("the mirror: another rack makes it")):
        if not made.is_dir():
            images.remove_unused("mirror", image.parent)
            images.remove_partial("mirror", image.parent)
            say(f"making the package mirror, the first time only: {len(PACKAGES)} Debian packages and wheels")
            _make(image, made, {**os.environ, MARKER: marker})
    return made


def _make(image: Path, made: Path, env: Mapping[str, str]) -> None:
    partial = made.with_name(f".{made.name}.partial")
    scratch = made.with_name(f".{made.name}.partial-apt")
    (partial / DEBIAN).mkdir(parents=True)
    for folder in ("lists/partial", "archives/partial"):
        (scratch / folder).mkdir(parents=True)
    _fetch_packages(image, scratch, env)
    for package in (scratch / "archives").glob("*.deb"):
        # apt writes the colon of an epoch so, and would ask for it so.
        package.rename(partial / DEBIAN / package.name.replace("%3a", "-"))
    shutil.rmtree(scratch)
    (partial / DEBIAN / "Packages").write_text("\n".join(map(_entry, sorted((partial / DEBIAN).iterdir()))))
    _fetch_wheels(partial / "wheels", env)
    write_index(partial)
    partial.rename(made)


def _fetch_packages(image: Path, scratch: Path, env: Mapping[str, str]) -> None:
    """By this machine's apt, as if it were the image's: with its keys, and on top of what it holds."""
    sources = images.mirror_lines(images.own_sources(), SUITE) or [_source_of_images()]
    (scratch / "sources.list").write_text("\n".join(sources) + "\n")
    shutil.copyfile(image / "var/lib/dpkg/status", scratch / "status")
    settings = {
        "Dir::State": scratch, "Dir::State::status": scratch / "status", "Dir::Cache": scratch,
        "Dir::Etc::sourcelist": scratch / "sources.list", "Dir::Etc::sourceparts": os.devnull,
        "Dir::Etc::main": os.devnull, "Dir::Etc::parts": os.devnull,
        "Dir::Etc::trustedparts": image / "etc/apt/trusted.gpg.d", "APT::Sandbox::User": "root",
    }  # fmt: skip
    lines = [*(f'{name} "{value}";' for name, value in settings.items()), *images.apt_settings()]
    (scratch / "apt.conf").write_text("\n".join(lines) + "\n")
    apt, env = ["apt-get", "-q", "-y"], {**env, "APT_CONFIG": str(scratch / "apt.conf")}
    _run([*apt, "update"], env)
    for wanted in (PACKAGES, NEIGHBOURS):  # apart: chrony takes the place of systemd-timesyncd
        _run([*apt, "install", "--download-only", "--no-install-recommends", *wanted], env)


def _source_of_images() -> str:
    """Where mmdebstrap takes Debian from where this machine names no mirror of it: the program says so."""
    program = shutil.which("mmdebstrap")
    found = re.search(r"https?://deb\.[a-z.]+/debian\b", Path(program).read_text()) if program else None
    if found is None:
        raise LabError("this machine's apt names no mirror of Debian", likely="it is no Debian; use one")
    return f"deb {found[0]} {SUITE} main"


def _entry(package: Path) -> str:
    """The package's paragraph in the repository's index."""
    asked = ["dpkg-deb", "--field", str(package)]
    control = subprocess.run(asked, capture_output=True, text=True, check=True)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    return (
        f"{control.stdout.strip()}\nFilename: ./{package.name}\nSize: {package.stat().st_size}\n"
        f"SHA256: {digest}\n"
    )


def _fetch_wheels(folder: Path, env: Mapping[str, str]) -> None:
    machine = os.uname().machine
    platforms = [f"--platform={tag}_{machine}" for tag in ("manylinux_2_28", "manylinux2014")]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), "--python-version", PYTHON,
        *platforms, "--only-binary=:all:", "--no-deps", "--require-hashes", "-r", str(REQUIREMENTS),
    ]  # fmt: skip
    _run(command, env)


def write_index(mirror: Path) -> None:
    """A page for each project, as PEP 503 names them, with links to its wheels."""
    for project, wheels in _by_project((mirror / "wheels").iterdir()).items():
        page = mirror / SIMPLE / project / "index.html"
        page.parent.mkdir(parents=True)
        links = (f'<a href="../../wheels/{html.escape(name)}">{html.escape(name)}</a><br>' for name in wheels)
        page.write_text("<!DOCTYPE html>\n" + "\n".join(links) + "\n")


def _by_project(wheels: Iterable[Path]) -> dict[str, list[str]]:
    projects: dict[str, list[str]] = {}
    for wheel in sorted(wheels):
        project = re.sub("[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        projects.setdefault(project, []).append(wheel.name)
    return projects


def _run(command: Sequence[str], env: Mapping[str, str]) -> None:
    dying = ["setpriv", "--pdeathsig", "TERM", *command]
    done = subprocess.run(dying, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                          env=dict(env))  # fmt: skip
    if done.returncode != 0:
        raise LabError("the rack's package mirror could not be made", last_seen=done.stderr[-800:])
